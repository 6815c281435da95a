//! Names of workloads: SPIFFE ids, parsed once and compared byte for byte.
//!
//! The grammar is SPIFFE-ID section 2, taken literally: no normalisation, no percent-encoding, no lower-casing. Two ids are
//! the same workload only when they are the same bytes, so a policy that names one cannot be passed by a spelling of it. A
//! URI library would be the wrong tool here: it accepts, and sometimes repairs, what the standard refuses.

use std::fmt;
use std::sync::Arc;

use super::hashed::Hashed;

/// What every id begins with.
const SCHEME: &str = "spiffe://";

/// The longest id in bytes (SPIFFE-ID 2.3: implementations support at least this, and issuers never exceed it).
const MAX_ID_BYTES: usize = 2048;

/// The longest trust domain in bytes (SPIFFE-ID 2.3).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The name of a workload, or of a trust domain when its path is empty. Cheap to clone.
///
/// ```
/// use mesh_core::identity::SpiffeId;
/// let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/payment")?;
/// assert_eq!((id.trust_domain().as_str(), id.path()), ("cluster.local", "/ns/shop/sa/payment"));
/// # Ok::<(), mesh_core::identity::InvalidSpiffeId>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    /// Of the text, and so as equal as that.
    hashed: Hashed,
}

impl SpiffeId {
    /// Reads an id.
    ///
    /// # Errors
    ///
    /// The first rule of SPIFFE-ID section 2 that `text` breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > MAX_ID_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        if rest.contains(['?', '#']) {
            return Err(InvalidSpiffeId::QueryOrFragment);
        }
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::parse(domain)?;
        check_path(path)?;
        Ok(Self {
            text: text.into(),
            trust_domain,
            hashed: Hashed::of(text),
        })
    }

    /// What policies find it by.
    pub(crate) fn hashed(&self) -> Hashed {
        self.hashed
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part that says whose roots vouch for it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What follows the trust domain: empty, or from its leading `/` on.
    pub fn path(&self) -> &str {
        &self.text[SCHEME.len() + self.trust_domain.as_str().len()..]
    }
}

/// The name of a trust domain: whoever holds its roots names its workloads. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a trust domain's bare name, such as `cluster.local`.
    ///
    /// # Errors
    ///
    /// When it is empty, longer than 255 bytes, or has a character other than `a-z`, `0-9`, `.`, `-`, `_`: that leaves no
    /// room for user information, a port or percent-encoding.
    pub fn parse(name: &str) -> Result<Self, InvalidSpiffeId> {
        if name.is_empty() {
            return Err(InvalidSpiffeId::EmptyTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(InvalidSpiffeId::TooLong);
        }
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if !name.bytes().all(allowed) {
            return Err(InvalidSpiffeId::TrustDomainCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    let Some(segments) = path.strip_prefix('/') else {
        return Ok(());
    };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(InvalidSpiffeId::EmptySegment),
            "." | ".." => return Err(InvalidSpiffeId::DotSegment),
            _ => {}
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !segment.bytes().all(allowed) {
            return Err(InvalidSpiffeId::PathCharacter);
        }
    }
    Ok(())
}

/// Which rule of SPIFFE-ID section 2 a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidSpiffeId {
    /// The id is over 2048 bytes, or its trust domain over 255.
    TooLong,
    /// It does not begin with `spiffe://`.
    Scheme,
    /// It has a query or a fragment.
    QueryOrFragment,
    /// There is no trust domain.
    EmptyTrustDomain,
    /// The trust domain has a character outside `a-z0-9.-_`: upper case, user information, a port, an escape.
    TrustDomainCharacter,
    /// The path has an empty segment: `//` or a trailing `/`.
    EmptySegment,
    /// The path has a segment `.` or `..`.
    DotSegment,
    /// The path has a character outside `a-zA-Z0-9.-_`: an escape, a space, a control character.
    PathCharacter,
}

impl InvalidSpiffeId {
    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "id_too_long",
            Self::Scheme => "id_scheme",
            Self::QueryOrFragment => "id_query_or_fragment",
            Self::EmptyTrustDomain => "id_empty_trust_domain",
            Self::TrustDomainCharacter => "id_trust_domain_character",
            Self::EmptySegment => "id_empty_segment",
            Self::DotSegment => "id_dot_segment",
            Self::PathCharacter => "id_path_character",
        }
    }
}

impl fmt::Display for InvalidSpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the SPIFFE id is longer than 2048 bytes, or its trust domain than 255",
            Self::Scheme => "the id does not begin with spiffe://",
            Self::QueryOrFragment => "the SPIFFE id has a query or a fragment",
            Self::EmptyTrustDomain => "the SPIFFE id has no trust domain",
            Self::TrustDomainCharacter => "the trust domain has a character outside a-z, 0-9, '.', '-', '_'",
            Self::EmptySegment => "the SPIFFE id's path has an empty segment",
            Self::DotSegment => "the SPIFFE id's path has a '.' or '..' segment",
            Self::PathCharacter => "the SPIFFE id's path has a character outside a-z, A-Z, 0-9, '.', '-', '_'",
        })
    }
}

impl std::error::Error for InvalidSpiffeId {}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), InvalidSpiffeId>) {
        let parsed = SpiffeId::parse(text);
        let parts = parsed.as_ref().map(|id| (id.trust_domain().as_str(), id.path()));
        assert_eq!(parts.map_err(|e| *e), expected, "{text:?}");
    }

    #[test]
    fn id_4_what_the_grammar_allows() {
        check("spiffe://td", Ok(("td", "")));
        check("spiffe://td/a", Ok(("td", "/a")));
        check(
            "spiffe://t_d.ex-ample.1/ns/A/sa/b..c",
            Ok(("t_d.ex-ample.1", "/ns/A/sa/b..c")),
        );
        let longest = format!("spiffe://td/{}", "a".repeat(MAX_ID_BYTES - 12));
        assert!(SpiffeId::parse(&longest).is_ok());
    }

    #[test]
    fn id_4_what_the_grammar_refuses() {
        use InvalidSpiffeId::*;
        for (text, rule) in [
            ("", Scheme),
            ("td/a", Scheme),
            ("http://td/a", Scheme),
            ("SPIFFE://td/a", Scheme),
            ("spiffe:/td/a", Scheme),
            ("spiffe://", EmptyTrustDomain),
            ("spiffe:///a", EmptyTrustDomain),
            ("spiffe://TD/a", TrustDomainCharacter),
            ("spiffe://user@td/a", TrustDomainCharacter),
            ("spiffe://td:443/a", TrustDomainCharacter),
            ("spiffe://t%64/a", TrustDomainCharacter),
            ("spiffe://t\u{e9}/a", TrustDomainCharacter),
            ("spiffe://td/", EmptySegment),
            ("spiffe://td/a/", EmptySegment),
            ("spiffe://td//a", EmptySegment),
            ("spiffe://td/a/../b", DotSegment),
            ("spiffe://td/./b", DotSegment),
            ("spiffe://td/%61", PathCharacter),
            ("spiffe://td/a b", PathCharacter),
            ("spiffe://td/a\0", PathCharacter),
            ("spiffe://td/\u{e9}", PathCharacter),
            ("spiffe://td/a?b", QueryOrFragment),
            ("spiffe://td/a#b", QueryOrFragment),
        ] {
            check(text, Err(rule));
        }
        check(&format!("spiffe://td/{}", "a".repeat(MAX_ID_BYTES - 11)), Err(TooLong));
        check(&format!("spiffe://{}/a", "a".repeat(256)), Err(TooLong));
    }
}
