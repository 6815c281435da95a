//! Looking for one header among the few of a call.
//!
//! A `HeaderMap` hashes the name that is looked for, and reads it into a `HeaderName` first where it is given as text: some
//! hundred instructions, several times a call. Comparing with each of five names is a tenth of that.

use http::{HeaderMap, HeaderName, HeaderValue};

/// More headers than this are looked up by hash.
const FEW: usize = 16;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The first value of `name`.
pub(crate) fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if headers.len() > FEW {
        return headers.get(name);
    }
    let found = headers.iter().find(|(candidate, _)| *candidate == name);
    found.map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use mesh_core::deadline::GRPC_TIMEOUT;

    use super::*;

    #[test]
    fn few_and_many() {
        let mut headers = HeaderMap::new();
        for n in 0..2 * FEW {
            headers.append(HeaderName::try_from(format!("x-{n}")).unwrap(), HeaderValue::from(n));
            headers.append(GRPC_STATUS, HeaderValue::from(n));
            assert_eq!(find(&headers, &GRPC_STATUS), Some(&HeaderValue::from(0)));
            assert_eq!(
                find(&headers, &HeaderName::try_from(format!("x-{n}")).unwrap()),
                Some(&HeaderValue::from(n))
            );
            assert_eq!(find(&headers, &GRPC_TIMEOUT), None);
        }
    }
}
