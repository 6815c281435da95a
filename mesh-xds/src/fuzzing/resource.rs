//! One resource: refused with a bounded text that names it, or taken, and then encoded and decoded to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_core::config::{Action, Cluster, Endpoint, LoadReporting, RouteTree};

use crate::bootstrap::Profile;
use crate::convention::PROVIDER;
use crate::decode::{self, Context, Rejected, Resource};
use crate::encode;
use crate::resource::Endpoints;
use crate::wire::Raw;

/// The most bytes of a refusal's or a note's text, whatever the input: what a log line and a status page can take.
const MAX_TEXT_BYTES: usize = 2048;

/// A process with an identity and one without, as gRPC's clients and as sidecars are told.
pub(super) fn contexts() -> [Context; 4] {
    let without = |profile| Context {
        profile,
        ..Context::default()
    };
    let [grpc, envoy] = [context(Profile::Grpc), context(Profile::Envoy)];
    [grpc, envoy, without(Profile::Grpc), without(Profile::Envoy)]
}

/// A process with an identity.
pub(super) fn context(profile: Profile) -> Context {
    Context {
        provider: Some(PROVIDER.into()),
        profile,
        trusted: true,
        ..Context::default()
    }
}

/// Decodes, and holds what is said of it to its promises. The name and the value, if there is one.
pub(super) fn check<R: Resource + fmt::Debug>(bytes: &[u8], context: &Context) -> Option<(Arc<str>, R)> {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes: bytes.into(),
    };
    let decoded = match decode::decode::<R>(&raw, context) {
        Err(nameless) => {
            assert_eq!((nameless.kind(), nameless.resource()), (R::KIND, ""));
            bounded(&nameless);
            return None;
        }
        Ok(decoded) => decoded,
    };
    assert!(!decoded.name.is_empty());
    for note in &decoded.notes {
        assert!(note.len() <= MAX_TEXT_BYTES, "a note of {} bytes", note.len());
    }
    match decoded.value {
        Err(rejected) => {
            assert_eq!((rejected.kind(), rejected.resource()), (R::KIND, &*decoded.name));
            bounded(&rejected);
            None
        }
        Ok(value) => {
            assert!(!format!("{value:?}").is_empty());
            Some((decoded.name, value))
        }
    }
}

/// A refusal's text is there, and short.
pub(super) fn bounded(rejected: &Rejected) {
    let text = rejected.to_string();
    assert!(!rejected.reason().is_empty());
    assert!(text.starts_with(&rejected.kind().to_string()));
    assert!(text.len() <= MAX_TEXT_BYTES, "a refusal of {} bytes", text.len());
}

/// Reads what the serving end wrote for a process with an identity, which is always taken.
pub(super) fn read<R: Resource + fmt::Debug>(bytes: Vec<u8>) -> R {
    read_by(bytes, &context(Profile::Grpc))
}

/// The same, by these rules.
pub(super) fn read_by<R: Resource + fmt::Debug>(bytes: Vec<u8>, context: &Context) -> R {
    let raw = Raw {
        type_url: R::KIND.type_url().into(),
        bytes,
    };
    let decoded = decode::decode::<R>(&raw, context).expect("what was encoded has a name");
    decoded
        .value
        .unwrap_or_else(|why| panic!("what was decoded and encoded again is refused: {why}"))
}

/// Routes are the same after a round over the wire, but for why one of them is not served. A tree without a name cannot travel
/// by itself.
pub(super) fn same_routes(tree: &RouteTree, context: &Context) {
    if !tree.name.is_empty() {
        let again = read_by::<RouteTree>(encode::routes(tree), context);
        assert_eq!(without_reasons(again), without_reasons(tree.clone()));
    }
}

fn without_reasons(mut tree: RouteTree) -> RouteTree {
    for route in tree.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
        if let Action::Unserved(_) = route.action {
            Arc::make_mut(route).action = Action::Unserved("".into());
        }
    }
    tree
}

/// A cluster as our serving end can say it: its endpoints go by its own name, and so does what is reported of them.
pub(super) fn as_served(mut cluster: Cluster) -> Cluster {
    if let Some(reporting) = &mut cluster.load_reporting {
        let own = LoadReporting::of(cluster.name.as_str());
        *reporting = LoadReporting {
            metrics: reporting.metrics.clone(),
            ..own
        };
    }
    cluster
}

/// Endpoints are the same after a round over the wire, but for their order: they travel by priority and locality. A priority
/// that nobody is in is not said. By the rules that they were read by: a locality that weighs nothing is in nobody's list by
/// gRPC's.
pub(super) fn same_endpoints(name: &Arc<str>, list: &Endpoints, context: &Context) {
    let by_address = |list: &Endpoints| -> BTreeMap<SocketAddr, Endpoint> {
        list.endpoints.iter().map(|one| (one.address, one.clone())).collect()
    };
    let priorities: BTreeSet<u32> = list.endpoints.iter().map(|one| one.priority).collect();
    if priorities.iter().copied().eq(0..priorities.len() as u32) {
        let told = encode::endpoints(&(&**name).into(), &list.endpoints, &list.drops, &list.localities);
        let again = read_by::<Endpoints>(told, context);
        assert_eq!((by_address(&again), &again.drops), (by_address(list), &list.drops));
    }
}
