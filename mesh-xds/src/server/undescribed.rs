//! Listeners that are written when a server asks for one: those of servers that no document describes.
//!
//! Nobody knows their addresses beforehand. A name that has an address where the snapshot's
//! [`any_inbound`](mesh_core::Snapshot::any_inbound) has `%s` is answered with that listener at that address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::config::Inbound;

use crate::bootstrap::Profile;
use crate::encode;

/// The most addresses that one stream is answered for without a document about them. A process listens on a handful.
pub(super) const MAX_SERVERS: usize = 64;

/// Where the address stands in a name (gRFC A36).
const ADDRESS: &str = "%s";

/// What servers at any address go by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Undescribed {
    before: Box<str>,
    after: Box<str>,
    inbound: Arc<Inbound>,
}

impl Undescribed {
    /// `None` when the name has no place for an address: nobody can ask for it then.
    pub(super) fn new(inbound: &Arc<Inbound>) -> Option<Self> {
        let (before, after) = inbound.name.split_once(ADDRESS)?;
        Some(Self {
            before: before.into(),
            after: after.into(),
            inbound: Arc::clone(inbound),
        })
    }

    /// A listener for each name that asks for one.
    pub(super) fn listeners<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) -> BTreeMap<Arc<str>, Arc<[u8]>> {
        let one = |name: &Arc<str>| Some((Arc::clone(name), self.listener(name)?));
        names.filter_map(one).take(MAX_SERVERS).collect()
    }

    fn listener(&self, name: &str) -> Option<Arc<[u8]>> {
        let text = name.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        let address: SocketAddr = text.parse().ok()?;
        // One spelling, so that what is asked for is what the server compares its own address with.
        if address.port() == 0 || address.to_string() != text {
            return None;
        }
        let inbound = Inbound {
            name: name.into(),
            address,
            ..(*self.inbound).clone()
        };
        Some(encode::inbound(&inbound, Profile::Grpc).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_written_for_whoever_names_an_address_and_for_no_more_than_a_process_has() {
        let inbound = |name: &str| {
            Arc::new(Inbound {
                name: name.into(),
                address: ([0, 0, 0, 0], 0).into(),
                chains: Vec::new(),
                default: None,
            })
        };
        assert_eq!(Undescribed::new(&inbound("one")), None);
        let any = Undescribed::new(&inbound("at/%s/end")).unwrap();
        let asked = |names: &[&str]| {
            let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
            let found = any.listeners(names.iter());
            found.into_keys().map(|name| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(asked(&["at/10.0.0.1:80/end"]), ["at/10.0.0.1:80/end"]);
        assert_eq!(asked(&["at/[::1]:80/end"]), ["at/[::1]:80/end"]);
        let others = [
            "at/10.0.0.1/end",
            "at/[0::1]:80/end",
            "at/10.0.0.1:080/end",
            "at/10.0.0.1:0/end",
            "at/host:80/end",
            "at//end",
            "at/10.0.0.1:80",
            "payment",
        ];
        assert_eq!(asked(&others), Vec::<String>::new());
        let many: Vec<String> = (1..=100).map(|port| format!("at/10.0.0.1:{port}/end")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(asked(&many).len(), MAX_SERVERS);
    }
}
