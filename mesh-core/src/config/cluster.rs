//! A set of interchangeable endpoints and how to reach them. A subset of a service *is* a cluster: Istio names it
//! `outbound|port|subset|host`, and nothing here looks into the name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ChainIdentity, CircuitBreakers, CommonLb, Connections, Credential, DropOverload, Endpoint, LbPolicy, LoadReporting,
    Localities, Metadata, OutlierDetection, Roots, Service, StringMatch, TlsOrigination,
};

/// The name of a cluster, opaque. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for ClusterName {
    fn from(name: T) -> Self {
        Self(name.into())
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cluster as configured (Envoy CDS and EDS together).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// How an endpoint is chosen.
    pub lb: LbPolicy,
    /// Among which endpoints: of which priorities and localities.
    pub common_lb: CommonLb,
    /// How the peer is authenticated, where none of `tls_matches` says otherwise.
    pub tls: TlsMode,
    /// What endpoints of certain metadata are called with instead, in order ([`tls_for`](Self::tls_for)).
    pub tls_matches: Arc<[TlsMatch]>,
    /// The longest a TCP connect and TLS handshake may take together. Envoy's default is 5 s, Istio's 10 s.
    pub connect_timeout: Duration,
    /// How its connections are made, used and let go. Shared: most clusters of a mesh say the same.
    pub connections: Arc<Connections>,
    /// How much of it may be in use by this process at once (Envoy `circuit_breakers`, gRFC A32).
    pub breakers: CircuitBreakers,
    /// When a host is taken out for how it behaves; `None`: never.
    pub outlier: Option<OutlierDetection>,
    /// Set when the control plane asks to be told about its load.
    pub load_reporting: Option<LoadReporting>,
    /// The shares of its calls that are dropped before they are made, each drawn for in turn (Envoy `drop_overloads`).
    pub drops: Arc<[DropOverload]>,
    /// Its calls go wherever each request says, by its authority and scheme (Envoy `ORIGINAL_DST`, Istio `PassthroughCluster`).
    /// It has no endpoints then.
    pub by_authority: bool,
    /// What its localities weigh, and how their health is counted.
    pub localities: Localities,
    /// Where it can be called. Shared, so that an update that leaves them alone costs nothing.
    pub endpoints: Arc<[Endpoint]>,
    /// What its calls are for, as metrics name it, where the control plane says (Istio's metadata `istio`, `services`).
    pub service: Option<Arc<Service>>,
    /// The clusters that it stands for, in order, where it is made of others ([`aggregate`](Self::aggregate)); none in most.
    pub leaves: Arc<[Arc<Self>]>,
}

impl Cluster {
    /// The connect timeout when nothing is said (Envoy).
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

    /// A least-request cluster with the defaults above.
    pub fn new(name: impl Into<ClusterName>, tls: TlsMode, endpoints: Vec<Endpoint>) -> Self {
        Self {
            name: name.into(),
            lb: LbPolicy::LEAST_REQUEST,
            common_lb: CommonLb::default(),
            tls,
            tls_matches: Arc::default(),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            connections: Arc::default(),
            breakers: CircuitBreakers::default(),
            outlier: None,
            load_reporting: None,
            drops: Arc::default(),
            by_authority: false,
            localities: Localities::default(),
            endpoints: endpoints.into(),
            service: None,
            leaves: Arc::default(),
        }
    }

    /// Whether all that is said but for its endpoints is the same.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        // All by name: what is added must be asked for here.
        let Self {
            name,
            lb,
            common_lb,
            tls,
            tls_matches,
            connect_timeout,
            connections,
            breakers,
            outlier,
            load_reporting,
            drops,
            by_authority,
            localities,
            endpoints: _,
            service,
            leaves,
        } = self;
        (name, lb, common_lb, tls, tls_matches)
            == (&other.name, &other.lb, &other.common_lb, &other.tls, &other.tls_matches)
            && (connect_timeout, connections) == (&other.connect_timeout, &other.connections)
            && (breakers, outlier) == (&other.breakers, &other.outlier)
            && (load_reporting, drops, by_authority) == (&other.load_reporting, &other.drops, &other.by_authority)
            && (localities, service, leaves) == (&other.localities, &other.service, &other.leaves)
    }

    /// How `endpoint` is authenticated: by the first match whose values are all in its metadata (Envoy
    /// `transport_socket_matches`, Istio auto-mTLS), and by the cluster's own mode when there is none.
    pub fn tls_for(&self, endpoint: &Endpoint) -> &TlsMode {
        let found = self
            .tls_matches
            .iter()
            .find(|candidate| endpoint.metadata.holds(&candidate.when));
        found.map_or(&self.tls, |found| &found.mode)
    }
}

/// How endpoints of certain metadata are called (one of Envoy's `transport_socket_matches`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsMatch {
    /// Its name, for the status page.
    pub name: Box<str>,
    /// What an endpoint's metadata must hold, under [`TRANSPORT_SOCKET_MATCH`](super::TRANSPORT_SOCKET_MATCH): no other filter can
    /// be said over xDS. Nothing: every endpoint is meant.
    pub when: Metadata,
    /// How such an endpoint is authenticated.
    pub mode: TlsMode,
}

/// How the peer is authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TlsMode {
    /// Not at all. The data plane refuses it unless plaintext was allowed in code.
    Plaintext,
    /// Mutual TLS with a SPIFFE identity: the workload's, or one of another certificate provider.
    Mutual(MutualTls),
    /// TLS with a server outside of the mesh.
    Origination(Box<TlsOrigination>),
}

impl TlsMode {
    /// The identity that a handshake needs, by the certificate providers that it comes from; `None`: it needs none.
    pub fn identity(&self) -> Option<ChainIdentity> {
        match self {
            Self::Plaintext => None,
            Self::Mutual(mutual) => Some(mutual.identity.clone()),
            Self::Origination(outside) => match (&outside.shown, &outside.roots) {
                (Some(Credential::Provider(name)), roots) => Some(ChainIdentity {
                    certificate: Some(name.clone()),
                    // The workload's roots beside it, where it is those that judge; else whatever comes with it.
                    roots: (*roots != Roots::Workload).then(|| name.clone()),
                }),
                (Some(Credential::Workload), _) | (_, Roots::Workload) => Some(ChainIdentity::default()),
                _ => None,
            },
        }
    }
}

/// What is asked of the peer under mutual TLS. Default: nobody is expected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MutualTls {
    /// Who the peer may be.
    pub expected: ExpectedPeers,
    /// The server name to send, if any (Istio: `outbound_.port_.subset_.host`).
    pub sni: Option<Box<str>>,
    /// Whose certificate is shown, and by whose roots the peer is judged. Default: the workload's own.
    pub identity: ChainIdentity,
    /// Whether no certificate is shown, so that the peer is judged and not told who calls (gRFC A29: roots without a
    /// certificate). Default: no.
    pub anonymous: bool,
}

/// The identities a destination may show: its SPIFFE id must pass one of these tests.
///
/// An empty list refuses every peer. gRPC and Envoy accept any certificate of the trusted roots then, which makes a missing
/// list a silent hole; here it is an error that the first call reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExpectedPeers(Vec<StringMatch>);

impl ExpectedPeers {
    /// Peers that pass any of `tests`.
    pub fn new(tests: Vec<StringMatch>) -> Self {
        Self(tests)
    }

    /// Exactly these ids.
    pub fn exactly<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        Self(ids.into_iter().map(|id| StringMatch::Exact(id.into())).collect())
    }

    /// The tests, in order.
    pub fn tests(&self) -> &[StringMatch] {
        &self.0
    }

    /// Whether `id` may be the peer.
    pub fn admits(&self, id: &str) -> bool {
        self.0.iter().any(|test| test.is_match(id.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TRANSPORT_SOCKET_MATCH;

    fn when(values: &[(&'static str, &'static str)]) -> Metadata {
        let values = values.iter().map(|(key, value)| (TRANSPORT_SOCKET_MATCH, *key, *value));
        Metadata::new(values).unwrap()
    }

    #[test]
    fn the_first_match_whose_values_all_stand_decides() {
        let mode = |name: &str| {
            TlsMode::Mutual(MutualTls {
                expected: ExpectedPeers::exactly([name]),
                sni: None,
                ..MutualTls::default()
            })
        };
        let one = |name: &str, values| TlsMatch {
            name: name.into(),
            when: when(values),
            mode: mode(name),
        };
        let endpoint = |values| Endpoint {
            metadata: Arc::new(when(values)),
            ..Endpoint::new(([127, 0, 0, 1], 1).into())
        };
        let mut cluster = Cluster::new("c", TlsMode::Plaintext, Vec::new());
        cluster.tls_matches = [
            one("both", &[("tlsMode", "istio"), ("v", "2")]),
            one("istio", &[("tlsMode", "istio")]),
        ]
        .into();
        let cases: [(&[(&str, &str)], TlsMode); 4] = [
            (&[("tlsMode", "istio"), ("v", "2")], mode("both")),
            (&[("tlsMode", "istio"), ("v", "1")], mode("istio")),
            (&[("tlsMode", "disabled")], TlsMode::Plaintext),
            (&[], TlsMode::Plaintext),
        ];
        for (values, expected) in cases {
            assert_eq!(*cluster.tls_for(&endpoint(values)), expected, "{values:?}");
        }
        // A match that asks for nothing takes every endpoint that comes so far.
        cluster.tls_matches = [one("istio", &[("tlsMode", "istio")]), one("rest", &[])].into();
        assert_eq!(*cluster.tls_for(&endpoint(&[])), mode("rest"));
        assert_eq!(*cluster.tls_for(&endpoint(&[("tlsMode", "istio")])), mode("istio"));
    }
}
