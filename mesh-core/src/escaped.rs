//! Names and values of a query or of cookies, as a handler reads them.
//!
//! A name can be spelt with escapes, and every handler takes them away before it compares. So does whoever looks for a name here, or
//! what it did not find would be found behind it.

use std::borrow::Cow;

/// What a `+` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plus {
    /// A blank: in a query (`application/x-www-form-urlencoded`).
    Blank,
    /// Itself: in a cookie.
    Plus,
}

/// The bytes that `text` stands for. An escape that is none stands for itself, as parsers of forms have it.
pub(crate) fn unescaped(text: &[u8], plus: Plus) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, others) = rest.split_first()?;
        let digit = |at: usize| others.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let byte = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        rest = if byte.is_some() { &others[2..] } else { others };
        let plain = if first == b'+' && plus == Plus::Blank {
            b' '
        } else {
            first
        };
        Some(byte.unwrap_or(plain))
    })
}

/// Whether `own` reads as `name`.
pub(crate) fn reads_as(own: &[u8], name: &str, plus: Plus) -> bool {
    unescaped(own, plus).eq(name.bytes())
}

/// The text that `text` stands for; what is no text in it is replaced.
pub(crate) fn readable(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let bytes: Vec<u8> = unescaped(text.as_bytes(), Plus::Blank).collect();
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_is_however_it_is_spelt() {
        for own in ["tok en", "tok+en", "t%6fk%20en", "%74%6F%6B+e%6e"] {
            assert!(reads_as(own.as_bytes(), "tok en", Plus::Blank), "{own}");
        }
        for own in ["tok", "tok+en+", "t%6", "t%256fk en", "T%6Fk en", "t%+fk en"] {
            assert!(!reads_as(own.as_bytes(), "tok en", Plus::Blank), "{own}");
        }
        assert!(reads_as(b"a+b", "a+b", Plus::Plus) && !reads_as(b"a+b", "a b", Plus::Plus));
        // What is no escape stands as it is.
        assert_eq!(readable("a%zz%4%+1%"), "a%zz%4% 1%");
        assert_eq!(readable("%ff."), "\u{fffd}.");
    }
}
