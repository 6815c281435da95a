//! What an id is found by among those that policies name: worked out once, when the id is read, and not for each of its requests.

use crate::hash::xxh64;

/// Makes hashes of namespaces others than those of ids.
const NAMESPACE_SEED: u64 = 1;

/// Around the namespace in an id of a mesh (Istio).
const BEFORE: &str = "/ns/";
const AFTER: &str = "/sa/";

/// The hashes of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hashed {
    Of {
        id: u64,
        namespace: u64,
    },
    /// It has room for two namespaces.
    Odd,
}

impl Hashed {
    pub(crate) fn of(id: &str) -> Self {
        let begins = (0..id.len()).filter(|at| id.as_bytes()[*at..].starts_with(BEFORE.as_bytes()));
        if begins.count() > 1 {
            return Self::Odd;
        }
        Self::Of {
            id: xxh64(id.as_bytes(), 0),
            namespace: of_namespace(namespace(id).unwrap_or_default()),
        }
    }
}

/// The hash of a namespace alone.
pub(crate) fn of_namespace(namespace: &str) -> u64 {
    xxh64(namespace.as_bytes(), NAMESPACE_SEED)
}

/// The namespace that an id, or a part of one, says.
pub(crate) fn namespace(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(BEFORE)?;
    rest.split_once(AFTER).map(|(namespace, _)| namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_with_room_for_two_namespaces_is_odd() {
        for odd in ["spiffe://a/ns/x/sa/ns/y/sa/z", "spiffe://a/ns/ns/x/sa/z"] {
            assert_eq!(Hashed::of(odd), Hashed::Odd, "{odd}");
        }
        assert_eq!(namespace("spiffe://a/ns/shop/sa/pay"), Some("shop"));
        assert_eq!(namespace("spiffe://a/pay"), None);
    }
}
