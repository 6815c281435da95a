//! The authorities that a virtual host serves, as patterns.

use std::fmt;

/// An authority pattern (Envoy `VirtualHost.domains`), case-insensitive: kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `payment.default`
    Exact(Box<str>),
    /// `*.default`: held without the star.
    Suffix(Box<str>),
    /// `payment.*`: held without the star.
    Prefix(Box<str>),
    /// `*`
    Any,
}

impl Domain {
    /// Reads a domain as Envoy writes it.
    ///
    /// # Errors
    ///
    /// When it is empty, or a star stands anywhere but at one end.
    pub fn parse(text: &str) -> Result<Self, InvalidDomain> {
        let lower = text.to_ascii_lowercase();
        let domain = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            (Some(""), _) => return Ok(Self::Any),
            (Some(rest), _) => Self::Suffix(rest.into()),
            (None, Some(rest)) => Self::Prefix(rest.into()),
            (None, None) => Self::Exact(lower.as_str().into()),
        };
        let (Self::Exact(body) | Self::Suffix(body) | Self::Prefix(body)) = &domain else {
            return Ok(domain);
        };
        if body.is_empty() || body.contains('*') {
            return Err(InvalidDomain(text.into()));
        }
        Ok(domain)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(body) => f.write_str(body),
            Self::Suffix(body) => write!(f, "*{body}"),
            Self::Prefix(body) => write!(f, "{body}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A domain that no authority could match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDomain(Box<str>);

impl fmt::Display for InvalidDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a domain pattern: {:?}", self.0)
    }
}

impl std::error::Error for InvalidDomain {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        let ok = |text: &str| Domain::parse(text).unwrap();
        assert_eq!(ok("A.b"), Domain::Exact("a.b".into()));
        assert_eq!(ok("*.b"), Domain::Suffix(".b".into()));
        assert_eq!(ok("a.*"), Domain::Prefix("a.".into()));
        assert_eq!(ok("*"), Domain::Any);
        for text in ["a.b", "*.b", "a.*", "*"] {
            assert_eq!(ok(text).to_string(), text);
        }
        for bad in ["", "a*b", "*a*", "**"] {
            assert!(Domain::parse(bad).is_err(), "{bad}");
        }
    }
}
