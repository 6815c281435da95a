//! Which snapshot a caller is told: that of its namespace, which over TLS its certificate names. And who is told of others.

use std::sync::Arc;

use mesh_core::identity::SpiffeId;
use mesh_xds::csds::Reader;
use mesh_xds::server::{Caller, Refusal};

use crate::publish::Publisher;
use crate::translate::ClientPlace;

/// The namespace of a plaintext client that names none, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// The group of a caller of the TLS port.
pub(super) fn authenticated(publisher: &Publisher, caller: &Caller) -> Result<Arc<str>, Refusal> {
    Ok(publisher.group(authenticated_namespace(caller)?, &place(caller)).into())
}

/// The group of a caller of the plaintext port: what it says.
pub(super) fn claimed(publisher: &Publisher, caller: &Caller) -> Arc<str> {
    publisher
        .group(claimed_namespace(caller).unwrap_or(DEFAULT_NAMESPACE), &place(caller))
        .into()
}

/// Where it says that it is, which nobody else is harmed by.
fn place(caller: &Caller) -> ClientPlace {
    let locality = &caller.node.locality;
    ClientPlace::new([&*locality.region, &*locality.zone, &*locality.sub_zone])
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

/// The namespace of the caller's certificate. What the caller claims of itself must not contradict it: by the metadata that
/// Istio's agents write, and by an id of Istio's form. An id of another form claims nothing, and nothing is taken from it.
fn authenticated_namespace(caller: &Caller) -> Result<&str, Refusal> {
    let identity = caller.peer.identity.as_ref();
    let identity = identity.ok_or_else(|| Refusal::new("show the certificate of a workload"))?;
    let (namespace, account) = namespace_and_account(identity)
        .ok_or_else(|| Refusal::new("the certificate does not name a namespace and a service account"))?;
    // What is there and is no text is no claim that could be true.
    let contradicts = |key: &str, known: &str| {
        let claimed = caller.node.metadata.get(key);
        claimed.is_some_and(|claimed| claimed.as_str() != Some(known))
    };
    let refused = |what: String| {
        Refusal::new(format!(
            "the node claims to be somebody else than its certificate names: {what}"
        ))
    };
    for (key, known) in [("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)] {
        if contradicts(key, known) {
            return Err(refused(format!("node.metadata.{key}")));
        }
    }
    match namespaces_of_id(&caller.node.id)
        .iter()
        .all(|claimed| *claimed == namespace)
    {
        true => Ok(namespace),
        false => Err(refused("node.id".into())),
    }
}

/// The namespaces that an id of Istio's form claims, `sidecar~10.0.0.1~pod.shop~shop.svc.cluster.local`: after the last dot of
/// the workload, and before the first of the domain. Whichever is there counts.
fn namespaces_of_id(id: &str) -> Vec<&str> {
    let mut parts = id.split('~').skip(2);
    let workload = parts.next().and_then(|workload| workload.rsplit_once('.'));
    let domain = parts.next().and_then(|domain| domain.split('.').next());
    let claimed = workload.map(|(_, namespace)| namespace).into_iter().chain(domain);
    claimed.filter(|namespace| !namespace.is_empty()).collect()
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
    use mesh_xds::Node;
    use mesh_xds::server::Peer;

    use super::*;

    #[test]
    fn whoever_claims_to_be_somebody_else_than_the_certificate_names_is_refused() {
        // The certificate is of checkout in shop.
        let table = [
            (r#"{}"#, true),
            (r#"{"id": "anything"}"#, true),
            (r#"{"id": "sidecar~10.0.0.1~pod-0.shop~shop.svc.cluster.local"}"#, true),
            (r#"{"id": "sidecar~10.0.0.1~~"}"#, true),
            (r#"{"id": "sidecar~10.0.0.1~pod.other~other.svc.cluster.local"}"#, false),
            (r#"{"id": "sidecar~10.0.0.1~pod.shop~other.svc.cluster.local"}"#, false),
            (r#"{"id": "sidecar~10.0.0.1~pod.other~shop.svc.cluster.local"}"#, false),
            (
                r#"{"id": "sidecar~10.0.0.1~pod.shop.other~shop.svc.cluster.local"}"#,
                false,
            ),
            (r#"{"id": "router~~x.other"}"#, false),
            (
                r#"{"metadata": {"NAMESPACE": "shop", "SERVICE_ACCOUNT": "checkout"}}"#,
                true,
            ),
            (r#"{"metadata": {"NAMESPACE": "other"}}"#, false),
            (r#"{"metadata": {"SERVICE_ACCOUNT": "payment"}}"#, false),
            (r#"{"metadata": {"NAMESPACE": ""}}"#, false),
            (r#"{"metadata": {"NAMESPACE": ["shop"]}}"#, false),
            (r#"{"metadata": {"NAMESPACE": null}}"#, false),
            (r#"{"metadata": {"SERVICE_ACCOUNT": {"name": "checkout"}}}"#, false),
            (r#"{"metadata": {"SERVICE_ACCOUNT": 1}}"#, false),
        ];
        for (node, is_served) in table {
            let caller = Caller {
                node: Arc::new(serde_json::from_str::<Node>(node).unwrap()),
                peer: Peer {
                    identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/checkout").unwrap()),
                    ..Peer::default()
                },
            };
            let told = authenticated_namespace(&caller);
            assert_eq!(told.is_ok(), is_served, "{node}: {told:?}");
        }
    }

    #[test]
    fn only_the_root_namespace_administers() {
        let reader = |identity: Option<&str>| Reader {
            peer: Peer {
                identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
                ..Peer::default()
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
