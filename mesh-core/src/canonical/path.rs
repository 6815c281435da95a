//! The canonical form of a path.

use super::{NotCanonical, PathNormalization};

/// The new form of `path`, which has no query; `None` where it is canonical as it is.
pub(super) fn canonical(path: &str, paths: PathNormalization) -> Result<Option<String>, NotCanonical> {
    if !path.starts_with('/') {
        return Err(NotCanonical::PathForm);
    }
    if is_plain(path) {
        return Ok(None);
    }
    let text = unescaped(path.as_bytes(), paths == PathNormalization::DecodeAndMergeSlashes)?;
    let resolved = resolved(&text, paths != PathNormalization::Base)?;
    Ok((resolved != path).then_some(resolved))
}

/// Whether there is nothing to look at closely: what nearly every path is.
fn is_plain(path: &str) -> bool {
    let mut last = 0;
    path.bytes().all(|byte| {
        let plain = match byte {
            b'/' | b'.' => last != b'/',
            byte => may_stand(byte),
        };
        last = byte;
        plain
    })
}

/// Escapes: those of characters that may stand in a path as they are decoded, the others in upper case, and what should be one made one:
/// handlers decode what they take out of a path, so a character has one spelling only. `\` is a slash, as browsers have it, and so are the
/// two escaped where `slashes` says so.
fn unescaped(path: &[u8], slashes: bool) -> Result<String, NotCanonical> {
    let mut text = String::with_capacity(path.len() + 8);
    let mut rest = path.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(NotCanonical::PathEscape);
                };
                match u8::try_from(high * 16 + low).map_err(|_| NotCanonical::PathEscape)? {
                    0 => return Err(NotCanonical::PathNul),
                    b'/' | b'\\' if slashes => text.push('/'),
                    byte if may_stand(byte) => text.push(char::from(byte)),
                    byte => escape(byte, &mut text),
                }
            }
            b'\\' => text.push('/'),
            byte if byte == b'/' || may_stand(byte) => text.push(char::from(byte)),
            // A path has no such bytes; who sends them means them escaped.
            byte => escape(byte, &mut text),
        }
    }
    Ok(text)
}

/// What a segment may have in it as it is (RFC 3986 section 3.3, `pchar`).
fn may_stand(byte: u8) -> bool {
    MAY_STAND[usize::from(byte)]
}

/// Worked out once: every byte of every request's path is looked up.
const MAY_STAND: [bool; 256] = {
    let others = b"-._~!$&'()*+,;=:@";
    let mut may = [false; 256];
    let mut byte = 0;
    while byte < may.len() {
        may[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        may[others[at] as usize] = true;
        at += 1;
    }
    may
};

fn escape(byte: u8, text: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// Dot segments resolved (RFC 3986 section 5.2.4), and then runs of slashes made one.
fn resolved(path: &str, merge: bool) -> Result<String, NotCanonical> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // What a dot segment at the end names is a folder.
                if is_last {
                    kept.push("");
                }
            }
            _ if is_dot_with_parameters(segment) => return Err(NotCanonical::PathParameters),
            _ => kept.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    let last = kept.len().saturating_sub(1);
    for (index, segment) in kept.into_iter().enumerate() {
        if merge && segment.is_empty() && index != last {
            continue;
        }
        resolved.push('/');
        resolved.push_str(segment);
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    Ok(resolved)
}

/// Whether a server that knows parameters of segments (RFC 3986 section 3.3) would take it for a dot segment.
fn is_dot_with_parameters(segment: &str) -> bool {
    let dots = segment.trim_start_matches('.');
    (1..=2).contains(&(segment.len() - dots.len())) && dots.starts_with(';')
}
