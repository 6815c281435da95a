//! What each server would do with the request: the chain of its listener that takes the connection, and that chain's policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::uri::Authority;
use http::{Request, Uri};
use mesh_core::authorize::{Facts, Next};
use mesh_core::canonical::{PathNormalization, Rewrite};
use mesh_core::config::{Cluster, ConnectionFacts, Endpoint, InboundSecurity, Snapshot, TlsMode, Transport};
use mesh_core::identity::SpiffeId;
use mesh_core::route::RequestHead;
use serde::Serialize;

use super::{Server, Written, scope};
use crate::istio::{Documents, PolicyAction};
use crate::translate::{self, Mesh, Origin};

/// What a server does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// It is served.
    Served,
    /// It is refused: by this policy, or for this reason.
    Refused(String),
    /// An authorizer outside of the process is asked about it.
    Asked(String),
    /// Nobody knows: the server is no part of the mesh.
    Unknown,
}

/// The servers' side of the documents.
pub(super) struct Servers<'a> {
    documents: &'a Documents,
    mesh: &'a Mesh,
    caller: &'a SpiffeId,
    target: &'a str,
    /// What servers of a namespace are told.
    told: BTreeMap<Box<str>, Option<Snapshot>>,
}

impl<'a> Servers<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &'a Mesh, caller: &'a SpiffeId, target: &'a str) -> Self {
        Self {
            target,
            documents,
            mesh,
            caller,
            told: BTreeMap::new(),
        }
    }

    /// What the servers of a cluster do.
    pub(super) fn of(
        &mut self,
        cluster: &Cluster,
        written: &Written,
        sent: &Result<Request<()>, String>,
    ) -> Vec<Server> {
        let (host, namespace) = cluster
            .service
            .as_ref()
            .map_or(("", ""), |service| (service.host(), service.namespace()));
        let endpoints = cluster.endpoints.iter();
        let each = endpoints.map(|endpoint| {
            let (verdict, decided_by) = self.judge(cluster, endpoint, namespace, sent);
            Server {
                address: endpoint.address.to_string(),
                weight: endpoint.weight.0,
                origin: written.get(&(host.into(), endpoint.address)).cloned(),
                verdict,
                decided_by,
            }
        });
        each.collect()
    }

    fn judge(
        &mut self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        namespace: &str,
        sent: &Result<Request<()>, String>,
    ) -> (Verdict, Vec<Origin>) {
        let sent = match sent {
            Ok(sent) => sent,
            Err(why) => return (Verdict::Refused(format!("before it is sent: {why}")), Vec::new()),
        };
        let tls = cluster.tls_for(endpoint);
        let (documents, mesh) = (self.documents, self.mesh);
        let told = self.told.entry(namespace.into()).or_insert_with(|| {
            let scope = scope(documents, mesh, namespace);
            translate::translate(documents, mesh, &scope).snapshot
        });
        let inbound = told
            .as_ref()
            .and_then(|snapshot| snapshot.inbound(&endpoint.address.to_string()));
        let Some(Ok(inbound)) = inbound else {
            return (Verdict::Unknown, Vec::new());
        };
        let (transport, server_name) = match tls {
            TlsMode::Plaintext => (Transport::RawBuffer, None),
            TlsMode::Mutual(mutual) => (Transport::Tls, mutual.sni.as_deref()),
            TlsMode::Origination(outside) => (Transport::Tls, outside.sni.as_deref()),
        };
        let connection = ConnectionFacts {
            destination: endpoint.address,
            // Which address the caller has is not said.
            source: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            transport,
            server_name,
            protocols: &["h2"],
        };
        let written = translate::server_origins(documents, mesh, namespace, endpoint.address);
        let mut decided_by: Vec<Origin> = written.mode.into_iter().collect();
        let Some(chain) = inbound.chain_for(&connection) else {
            return (Verdict::Refused("no chain takes the connection".into()), decided_by);
        };
        let peer = match (&chain.security, tls) {
            (InboundSecurity::Mutual(_), TlsMode::Mutual(_)) => Some(self.caller),
            (InboundSecurity::Mutual(_), _) => {
                let why = "the server takes mutual TLS alone, and is not called so";
                return (Verdict::Refused(why.into()), decided_by);
            }
            (_, TlsMode::Mutual(_)) => {
                let why = "the server takes plaintext alone, and is called by mutual TLS";
                return (Verdict::Refused(why.into()), decided_by);
            }
            _ => None,
        };
        let request = match arrived(sent, self.target) {
            Ok(request) => request,
            Err(why) => return (Verdict::Refused(why), decided_by),
        };
        let facts = Facts {
            source: None,
            destination: Some(endpoint.address),
            server_name,
            peer,
            claims: None,
            head: Some(RequestHead::of(&request, self.target)),
        };
        let verdict = chain.authorization.judge(&facts, None, &mut |_| {});
        let (verdict, decisive) = match verdict {
            Ok(Next::Passes) => (Verdict::Served, None),
            Ok(Next::Asks { index, policy }) => {
                let name = chain.authorization.checks()[index].name.to_string();
                (Verdict::Asked(name), policy)
            }
            Err(matched) => {
                let why = matched
                    .policy
                    .map_or_else(|| "no policy allows it".to_owned(), |policy| format!("by {policy}"));
                (Verdict::Refused(why), matched.policy)
            }
        };
        decided_by.extend(decisive.and_then(|name| policy(documents, name)));
        if matches!(&verdict, Verdict::Refused(_)) && decisive.is_none() {
            let allowing = written
                .policies
                .into_iter()
                .filter(|(action, _)| *action == PolicyAction::Allow);
            decided_by.extend(allowing.map(|(_, origin)| origin));
        }
        (verdict, decided_by)
    }
}

/// The request as a server gets it, in its canonical form.
fn arrived(request: &Request<()>, target: &str) -> Result<Request<()>, String> {
    let mut parts = request.uri().clone().into_parts();
    let mut request = request.clone();
    *request.version_mut() = http::Version::HTTP_2;
    let authority: Authority = target.parse().map_err(|_| format!("{target:?} is no authority"))?;
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority.get_or_insert(authority);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|error| error.to_string())?;
    let rewrite = Rewrite::of(&request, PathNormalization::DecodeAndMergeSlashes);
    let rewrite = rewrite.map_err(|why| format!("with 400, for it has no canonical form: {}", why.message()))?;
    rewrite.apply(&mut request);
    Ok(request)
}

/// Where a policy of such a name was written (Istio: `ns[...]-policy[...]-rule[...]`).
fn policy(documents: &Documents, name: &str) -> Option<Origin> {
    let between = |from: &str, to: &str| name.split_once(from)?.1.split_once(to).map(|(text, _)| text);
    let (namespace, policy) = (between("ns[", "]-policy[")?, between("-policy[", "]-rule[")?);
    let rule = name.rsplit_once("-rule[")?.1;
    let rule: usize = rule.split(']').next()?.parse().ok()?;
    let mut all = documents.authorization_policies.iter();
    let found = all.find(|one| one.meta.namespace() == namespace && *one.meta.name == *policy)?;
    let rule = found.spec.rules.get(rule);
    let place = rule.and_then(|rule| {
        let tested = rule
            .from
            .iter()
            .flatten()
            .chain(rule.to.iter().flatten())
            .chain(&rule.when);
        tested.flat_map(|one| one.values.iter().chain(&one.not_values)).next()
    });
    Some(Origin::new(
        &found.meta,
        place.map_or(&found.meta.place, |value| &value.place),
    ))
}
