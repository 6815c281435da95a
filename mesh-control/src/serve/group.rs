//! Which snapshot a caller is told: that of its namespace, which over TLS its certificate names. And who is told of others.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_xds::csds::Reader;
use mesh_xds::server::{Caller, Refusal};

use crate::publish::Publisher;

/// The namespace of a plaintext client that names none, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// The group of a caller of the TLS port.
pub(super) fn authenticated(publisher: &Publisher, caller: &Caller) -> Result<Arc<str>, Refusal> {
    Ok(publisher.group(authenticated_namespace(caller)?).into())
}

/// The group of a caller of the plaintext port: what it says.
pub(super) fn claimed(publisher: &Publisher, caller: &Caller) -> Arc<str> {
    publisher
        .group(claimed_namespace(caller).unwrap_or(DEFAULT_NAMESPACE))
        .into()
}

/// Whether a reader of the TLS port is told of all clients: a workload of the root namespace is, which is where the mesh is
/// administered from (Istio); a certificate of any other, or none, is not enough.
pub(super) fn administers(root_namespace: &str, reader: &Reader) -> Result<(), Refusal> {
    let namespace = reader.peer.identity.as_ref().and_then(namespace_and_account);
    match namespace {
        Some((namespace, _)) if namespace == root_namespace => Ok(()),
        _ => Err(Refusal::new(format!(
            "the status of all clients is for workloads of namespace {root_namespace:?}, or for the plaintext port on loopback"
        ))),
    }
}

/// The namespace of the caller's certificate. What the caller claims of itself must not contradict it.
fn authenticated_namespace(caller: &Caller) -> Result<&str, Refusal> {
    let identity = caller.peer.identity.as_ref();
    let identity = identity.ok_or_else(|| Refusal::new("show the certificate of a workload"))?;
    let (namespace, account) = namespace_and_account(identity)
        .ok_or_else(|| Refusal::new("the certificate does not name a namespace and a service account"))?;
    let contradicts = |key, known: &str| caller.node.metadata_text(key).is_some_and(|claimed| claimed != known);
    if contradicts("NAMESPACE", namespace) || contradicts("SERVICE_ACCOUNT", account) {
        return Err(Refusal::new(
            "the node claims to be somebody else than its certificate names",
        ));
    }
    Ok(namespace)
}

/// The parts of `/ns/NAMESPACE/sa/ACCOUNT` (Istio's form of a SPIFFE id).
fn namespace_and_account(identity: &SpiffeId) -> Option<(&str, &str)> {
    let (namespace, account) = identity.path().strip_prefix("/ns/")?.split_once("/sa/")?;
    (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
}

/// The namespace that a node says it is in: `NAMESPACE` of its metadata, or the last part of an id such as
/// `sidecar~10.0.0.1~pod.shop~shop.svc.cluster.local` (Istio).
fn claimed_namespace(caller: &Caller) -> Option<&str> {
    let named = caller.node.metadata_text("NAMESPACE").filter(|name| !name.is_empty());
    named.or_else(|| {
        let domain = caller.node.id.split('~').nth(3)?;
        domain.split('.').next().filter(|name| !name.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use mesh_xds::server::Peer;

    use super::*;

    #[test]
    fn only_the_root_namespace_administers() {
        let reader = |identity: Option<&str>| Reader {
            peer: Peer {
                identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
                address: None,
            },
        };
        let table = [
            (Some("spiffe://cluster.local/ns/istio-system/sa/operator"), true),
            (Some("spiffe://cluster.local/ns/default/sa/checkout"), false),
            (Some("spiffe://cluster.local/ns/istio-system-2/sa/operator"), false),
            (Some("spiffe://cluster.local/ns/istio-system/x/sa/operator"), false),
            (Some("spiffe://cluster.local/istio-system"), false),
            (None, false),
        ];
        for (identity, may) in table {
            assert_eq!(
                administers("istio-system", &reader(identity)).is_ok(),
                may,
                "{identity:?}"
            );
        }
    }
}
