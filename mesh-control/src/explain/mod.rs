//! `meshctl explain`: what would become of a request, and which line of which document says so.
//!
//! Nothing is decided here. The documents are translated as the control plane does it, for the caller and for each server; the virtual host
//! and the route are found by `mesh_core::route`, the chain of a server by its listener, and what it thinks of the request by
//! `mesh_core::authorize`: the functions that clients and servers call. So this cannot say anything else than what they do. What is added is
//! where it was written ([`crate::translate::Origins`]).

mod describe;
mod request;
mod server;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use http::Request;
use mesh_core::config::{
    Abort, Action, Cluster, ClusterName, Delay, FilterKind, Fraction, Override, Route, TlsMode, WeightedCluster,
};
use mesh_core::entropy::Entropy;
use mesh_core::identity::SpiffeId;
use mesh_core::route::{Edits, RequestHead, first_match, location, virtual_host};
use serde::Serialize;

use crate::diagnostic::Diagnostic;
use crate::istio::Documents;
use crate::source::Reading;
use crate::translate::{self, ClientScope, Mesh, Origin, Origins};
pub use describe::{Described, Description, describe};
pub use request::Asked;
use server::Servers;
pub use server::Verdict;

/// What would become of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Who calls.
    pub from: String,
    /// What is called.
    pub target: String,
    /// The virtual host that takes the request.
    pub virtual_host: String,
    /// The route that does; `None`: none takes it, and it is answered 404 (UNIMPLEMENTED).
    pub route: Option<RouteTaken>,
}

/// The route that takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteTaken {
    /// Its index in the virtual host, from 0.
    pub index: usize,
    /// Its name; may be empty.
    pub name: String,
    /// The longest the call may take, in milliseconds; `None`: there is no limit.
    pub timeout_ms: Option<u128>,
    /// How often it is tried again at most.
    pub retries: u32,
    /// When, in Envoy's words.
    pub retry_on: String,
    /// The longest one try may take, in milliseconds.
    pub per_try_timeout_ms: Option<u128>,
    /// Where it was written.
    pub origins: Vec<Origin>,
    /// What it is answered without any server; `None`: it is sent on.
    pub answer: Option<String>,
    /// How often a fault that is put in on purpose strikes, and how.
    pub faults: Vec<String>,
    /// Where copies go.
    pub mirrors: Vec<String>,
    /// Where the request goes, and with which share.
    pub shares: Vec<Share>,
}

/// A share of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The cluster.
    pub cluster: String,
    /// Its weight,
    pub weight: u32,
    /// of so much.
    pub total: u64,
    /// How its servers are called: `mutual TLS`, `TLS` or `plaintext`; or why there is no such cluster.
    pub called_by: String,
    /// How a server is chosen.
    pub balancing: String,
    /// Where it was written, in the order in which it counts.
    pub origins: Vec<Origin>,
    /// Its servers.
    pub endpoints: Vec<Server>,
}

/// A server, and what it would do with the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    /// Its address.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// Where it was written.
    pub origin: Option<Origin>,
    /// What it does.
    pub verdict: Verdict,
    /// The policy that decided, and what says how it takes connections.
    pub decided_by: Vec<Origin>,
}

/// Why nothing can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExplainRefusal {
    /// The documents have errors: nothing of them is served.
    Analysis(Vec<Diagnostic>),
    /// What is asked is no request.
    Request(String),
    /// The caller sees nothing of that name; what it may call is this.
    NoTarget {
        /// What it asked for.
        target: String,
        /// Names that it may call, at most twenty.
        known: Vec<String>,
    },
}

impl fmt::Display for ExplainRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Analysis(errors) => {
                f.write_str("the documents have errors, and nothing of them is served")?;
                errors.iter().try_for_each(|error| write!(f, "\n{error}"))
            }
            Self::Request(why) => f.write_str(why),
            Self::NoTarget { target, known } => {
                write!(
                    f,
                    "the caller knows nothing called {target:?}; it may call {}",
                    known.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for ExplainRefusal {}

/// The most names that are proposed.
const MAX_PROPOSED: usize = 20;

/// Explains a request by what a folder holds. Pure.
///
/// # Errors
///
/// When the documents have errors, the caller knows no such target, or what is asked is no request.
pub fn explain(reading: &Reading, mesh: &Mesh, asked: &Asked) -> Result<Explanation, ExplainRefusal> {
    let errors: Vec<_> = crate::analyze(reading, mesh)
        .into_iter()
        .filter(Diagnostic::is_error)
        .collect();
    if !errors.is_empty() {
        return Err(ExplainRefusal::Analysis(errors));
    }
    let documents = &reading.documents;
    let (namespace, identity) = asked.caller(mesh).map_err(ExplainRefusal::Request)?;
    let request = asked.request().map_err(ExplainRefusal::Request)?;
    let translation = translate::trace(documents, mesh, &scope(documents, mesh, &namespace));
    // A translation without errors has both.
    let (Some(snapshot), Some(origins)) = (&translation.snapshot, &translation.origins) else {
        return Err(ExplainRefusal::Analysis(translation.diagnostics));
    };
    let target = asked.target();
    let Some(Ok(tree)) = snapshot.target(target) else {
        let mut known: Vec<String> = snapshot.targets().iter().map(|(name, _)| name.to_string()).collect();
        // The shortest names are those that callers use.
        known.sort_by_key(|name| (name.len(), name.clone()));
        known.truncate(MAX_PROPOSED);
        return Err(ExplainRefusal::NoTarget {
            target: target.to_owned(),
            known,
        });
    };
    let head = RequestHead::of(&request, target);
    let host = virtual_host(tree, head.authority());
    let entropy = Entropy::seeded(0);
    // No route of a document is for a part of its calls, so nothing is drawn.
    let found = host.and_then(|host| {
        let index = first_match(&host.routes, &head, &mut entropy.draw())?;
        Some((index, &host.routes[index]))
    });
    let mut servers = Servers::new(documents, mesh, &identity, target);
    let route = host.zip(found).map(|(host, (index, route))| {
        let written = origins.routes.get(&*tree.name).and_then(|routes| routes.get(index));
        let find = |name: &ClusterName| snapshot.cluster(name).cloned();
        let sent = |share: &WeightedCluster| sent(&request, target, Edits::of(tree, host, route, Some(share)));
        let shares = shares(route, origins, (&find, &sent), &mut servers);
        RouteTaken {
            answer: answer(route, &head),
            ..taken(index, route, written.cloned().unwrap_or_default(), shares)
        }
    });
    Ok(Explanation {
        from: identity.to_string(),
        target: target.to_owned(),
        virtual_host: host.map_or_else(String::new, |host| host.name.to_string()),
        route,
    })
}

/// Clients of the namespace, as the control plane groups them.
fn scope(documents: &Documents, mesh: &Mesh, namespace: &str) -> ClientScope {
    match translate::namespaces(documents, mesh).contains(namespace) {
        true => ClientScope::namespace(namespace),
        false => ClientScope::unnamed(),
    }
}

fn taken(index: usize, route: &Route, origins: Vec<Origin>, shares: Vec<Share>) -> RouteTaken {
    RouteTaken {
        index,
        name: route.name.to_string(),
        timeout_ms: route.timeout.map(|timeout| timeout.as_millis()),
        retries: route.retry.retries,
        retry_on: route.retry.on.to_string(),
        per_try_timeout_ms: route.retry.per_try_timeout.map(|timeout| timeout.as_millis()),
        origins,
        answer: None,
        faults: faults(route),
        mirrors: mirrors(route),
        shares,
    }
}

/// The request as it leaves the client for a share of the route.
fn sent(request: &Request<()>, target: &str, edits: Option<Edits>) -> Result<Request<()>, String> {
    let mut sent = request.clone();
    if let Some(edits) = edits {
        let (mut uri, mut headers) = (sent.uri().clone(), sent.headers().clone());
        let edited = Arc::new(edits).apply(sent.method(), &mut uri, &mut headers, target);
        edited.map_err(|error| error.to_string())?;
        (*sent.uri_mut(), *sent.headers_mut()) = (uri, headers);
    }
    Ok(sent)
}

/// What a route that sends nothing on answers.
fn answer(route: &Route, head: &RequestHead<'_>) -> Option<String> {
    match &route.action {
        Action::Forward(_) => None,
        Action::Redirect(redirect) => {
            let place = location(redirect, &route.matches, head);
            Some(format!("{}, to {place}", redirect.status.as_u16()))
        }
        Action::Respond(response) => Some(format!(
            "{}, with a body of {} bytes",
            response.status.as_u16(),
            response.body.len()
        )),
        Action::Unserved(why) => Some(format!("an error, since {why} is not served")),
    }
}

fn faults(route: &Route) -> Vec<String> {
    let said = route.filter_overrides.iter().filter_map(|one| match &one.what {
        Override::With(FilterKind::Fault(fault)) => Some(fault),
        _ => None,
    });
    let each = said.flat_map(|fault| {
        let delay = fault.delay.as_ref().map(|delay| match delay.delay {
            Delay::Fixed(time) => format!("{} are held up for {time:?}", part(delay.fraction)),
            Delay::Header => format!("{} are held up as they ask", part(delay.fraction)),
        });
        let abort = fault.abort.as_ref().map(|abort| match abort.abort {
            Abort::Http(status) => format!("{} are answered {}", part(abort.fraction), status.as_u16()),
            Abort::Grpc(code) => format!("{} are answered gRPC status {code}", part(abort.fraction)),
            Abort::Header => format!("{} are answered as they ask", part(abort.fraction)),
        });
        delay.into_iter().chain(abort)
    });
    each.collect()
}

fn mirrors(route: &Route) -> Vec<String> {
    let mirrors = route.forward().map_or(&[][..], |forward| &forward.mirrors);
    let each = mirrors.iter().map(|mirror| {
        let share = mirror.fraction.map_or_else(|| "all".to_owned(), part);
        format!("{share} to {}", mirror.cluster)
    });
    each.collect()
}

fn part(fraction: Fraction) -> String {
    format!("{} of {}", fraction.of, fraction.per.count())
}

type FoundCluster = mesh_core::config::Resolved<Cluster>;

/// What is behind a name, and what is sent there.
type Lookups<'a> = (
    &'a dyn Fn(&ClusterName) -> Option<FoundCluster>,
    &'a dyn Fn(&WeightedCluster) -> Result<Request<()>, String>,
);

fn shares(route: &Route, origins: &Origins, (find, sent): Lookups<'_>, servers: &mut Servers<'_>) -> Vec<Share> {
    let Action::Forward(forward) = &route.action else {
        return Vec::new();
    };
    let total = u64::from(forward.split.total());
    let each = forward.split.clusters().iter().map(|share| {
        let mut explained = Share {
            cluster: share.cluster.to_string(),
            weight: share.weight.0,
            total,
            called_by: "nobody: there is no such cluster".to_owned(),
            balancing: String::new(),
            origins: origins.clusters.get(&share.cluster).cloned().unwrap_or_default(),
            endpoints: Vec::new(),
        };
        match find(&share.cluster) {
            Some(Ok(cluster)) => {
                explained.called_by = called_by(&cluster.tls).to_owned();
                explained.balancing = word(&format!("{:?}", cluster.lb));
                explained.endpoints = servers.of(&cluster, &origins.endpoints, &sent(share));
            }
            Some(Err(why)) => explained.called_by = format!("nobody: {why}"),
            None => {}
        }
        explained
    });
    each.collect()
}

fn called_by(tls: &TlsMode) -> &'static str {
    match tls {
        TlsMode::Mutual(_) => "mutual TLS",
        TlsMode::Origination(_) => "TLS",
        TlsMode::Plaintext => "plaintext",
    }
}

/// The name of a variant, without what is in it.
fn word(debug: &str) -> String {
    debug.chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

/// Endpoints by host and address.
type Written = BTreeMap<(Box<str>, std::net::SocketAddr), Origin>;

/// An identity, as it is called for.
fn spiffe(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::parse(text).map_err(|error| format!("{text:?} is no identity: {error}"))
}

#[cfg(test)]
mod tests;
