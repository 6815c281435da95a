//! The canonical form of an authority: a host in lower case without its final dot, and a port, where one is named.

use std::net::Ipv6Addr;

use super::NotCanonical;

/// The longest host in bytes (RFC 1035 section 2.3.4, and the final dot).
const MAX_HOST_BYTES: usize = 254;

/// The new form of `authority`; `None` where it is canonical as it is.
///
/// A port that is the scheme's own stays: a server here does not know by which port it was reached from outside.
pub(super) fn canonical(authority: &str) -> Result<Option<String>, NotCanonical> {
    if authority.is_empty() {
        return Err(NotCanonical::AuthorityMissing);
    }
    if authority.contains('@') {
        return Err(NotCanonical::AuthorityUserinfo);
    }
    let (host, port) = split(authority)?;
    let host = if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(NotCanonical::AuthorityForm)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| NotCanonical::AuthorityForm)?;
        let mut room = V6 { text: [0; 48], len: 0 };
        if room.is_written(address, inner) {
            None
        } else {
            Some(format!("[{address}]"))
        }
    } else {
        name(host)?
    };
    let number = port.map(number).transpose()?.flatten();
    let is_same_port = match (port, number) {
        (None, _) => true,
        (Some(text), Some(number)) => !text.starts_with('0') && number != 0,
        (Some(_), None) => false,
    };
    if host.is_none() && is_same_port {
        return Ok(None);
    }
    let given = split(authority)?.0;
    let host = host.as_deref().unwrap_or(given);
    Ok(Some(match number {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }))
}

/// The host and what stands behind the colon, if there is one.
fn split(authority: &str) -> Result<(&str, Option<&str>), NotCanonical> {
    let end = if authority.starts_with('[') {
        authority.find(']').ok_or(NotCanonical::AuthorityForm)? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, rest) = authority.split_at(end);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(NotCanonical::AuthorityForm),
    }
}

/// A name or an IPv4 address. Punycode is what names of other alphabets come in, and has no second spelling but by case.
fn name(host: &str) -> Result<Option<String>, NotCanonical> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if bare.is_empty() || host.len() > MAX_HOST_BYTES || bare.ends_with('.') || !bare.bytes().all(allowed) {
        return Err(NotCanonical::AuthorityForm);
    }
    let changed = bare.len() != host.len() || bare.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(changed.then(|| bare.to_ascii_lowercase()))
}

/// A port; `None` for an empty one, which RFC 3986 lets stand for none.
fn number(port: &str) -> Result<Option<u16>, NotCanonical> {
    if port.is_empty() {
        return Ok(None);
    }
    match port.parse::<u16>() {
        Ok(number) if number != 0 && !port.starts_with('+') => Ok(Some(number)),
        _ => Err(NotCanonical::AuthorityForm),
    }
}

/// Room for an IPv6 address as it is written, so that comparing takes nothing from the heap.
struct V6 {
    text: [u8; 48],
    len: usize,
}

impl V6 {
    fn is_written(&mut self, address: Ipv6Addr, as_text: &str) -> bool {
        use std::fmt::Write as _;
        write!(self, "{address}").is_ok() && &self.text[..self.len] == as_text.as_bytes()
    }
}

impl std::fmt::Write for V6 {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        let room = self.text.get_mut(self.len..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
