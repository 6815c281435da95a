//! What a channel's target says: by which name its configuration is asked for, and which authority its calls have that name none.
//!
//! A target is a bare name, `xds:name`, `xds:///name` or `xds://AUTHORITY/name` (gRFC A47). The authority in it says whom to ask; calls
//! know nothing of it, and have the path alone (gRPC: the target's path without its leading slash). gRPC escapes what no authority may
//! hold, a slash above all; `http::uri::Authority` takes none with escapes, so such a target is good for requests that name one themselves, and
//! the others are refused.

use http::uri::Authority;

/// The name by which a target is asked for, the same of all forms that say the same.
pub(crate) fn name(target: &str) -> &str {
    let Some(rest) = target.strip_prefix("xds:") else {
        return target;
    };
    match rest.strip_prefix("//") {
        // Nobody's authority is the one of bare names.
        Some(named) => named.strip_prefix('/').unwrap_or(target),
        None => rest.strip_prefix('/').unwrap_or(rest),
    }
}

/// The authority of its calls, as it is sent; `None`: its name can be none.
pub(crate) fn sent(target: &str) -> Option<Authority> {
    let authority = Authority::try_from(authority(target)).ok();
    if authority.is_none() {
        tracing::warn!(
            name = target,
            "a target whose name cannot be an authority: calls that name none themselves are refused"
        );
    }
    authority
}

/// The authority of its calls, by which routes are chosen.
pub(crate) fn authority(target: &str) -> &str {
    let name = name(target);
    match name.strip_prefix("xds://") {
        Some(named) => named.split_once('/').map_or("", |(_, path)| path),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_targets() {
        for (target, asked, of_calls) in [
            ("payment", "payment", "payment"),
            ("payment:80", "payment:80", "payment:80"),
            ("xds:payment", "payment", "payment"),
            ("xds:/payment", "payment", "payment"),
            ("xds:///payment:80", "payment:80", "payment:80"),
            ("xds://a.example/payment", "xds://a.example/payment", "payment"),
            ("xds://a.example/[::1]:80", "xds://a.example/[::1]:80", "[::1]:80"),
            ("xds://a.example", "xds://a.example", ""),
        ] {
            assert_eq!((name(target), authority(target)), (asked, of_calls), "{target}");
        }
    }
}
