//! Letting a workload in: a join token and the bootstrap file around it.
//!
//! The control plane does it for the process it runs in; `meshctl bootstrap` does it beside one that runs, through the state
//! directory that both know. The bootstrap holds all a workload needs: where the control plane is, its root to be judged by,
//! the workload's name, and the token.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_xds::{Bootstrap, Node};
use rustls::time_provider::TimeProvider;
use serde::{Deserialize, Serialize};

use crate::ca::{
    Authority, CaError, DEFAULT_LEAF_LIFETIME, IssuedCertificate, JoinToken, Lifetime, MAX_LEAF_LIFETIME,
    MIN_LEAF_LIFETIME, write_file,
};

/// What a running control plane leaves in its state directory for `meshctl bootstrap`, `meshctl status` and
/// `meshctl dashboard`.
const FILE: &str = "control-plane.json";

/// Makes join tokens and bootstraps. Clones are the same authority.
#[derive(Clone, Debug)]
pub struct Enrolment {
    authority: Arc<Authority>,
    server: Arc<str>,
}

#[derive(Serialize, Deserialize)]
struct Note {
    server: String,
    trust_domain: String,
    /// Where ADS and the status of clients are served in the clear, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plaintext: Option<String>,
    /// Where the page is served, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
}

impl Note {
    fn read(state: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(state.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// The plaintext port of the control plane that ran last with this state directory, if it had one.
pub fn noted_plaintext(state: &Path) -> Option<String> {
    Note::read(state)?.plaintext
}

/// The admin port, with its page, of the control plane that ran last with this state directory, if it had one.
pub fn noted_admin(state: &Path) -> Option<String> {
    Note::read(state)?.admin
}

impl Enrolment {
    pub(crate) fn new(authority: Arc<Authority>, server: String) -> Self {
        Self {
            authority,
            server: server.into(),
        }
    }

    /// Opens the state directory of a control plane that may run in another process.
    ///
    /// `server` and `trust_domain` are what the control plane noted there unless given; before one ever ran they are
    /// `127.0.0.1:15012` and `cluster.local`. The root is made if there is none yet.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, the key in it may be read by others, or it is of another trust domain.
    pub fn open(
        state: &Path,
        server: Option<String>,
        trust_domain: Option<String>,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, EnrolError> {
        let (noted_server, noted_domain) = Note::read(state).map(|note| (note.server, note.trust_domain)).unzip();
        let server = server.or(noted_server).unwrap_or_else(|| "127.0.0.1:15012".into());
        let domain = trust_domain.or(noted_domain).unwrap_or_else(|| "cluster.local".into());
        let domain = TrustDomain::parse(&domain).map_err(|_| Kind::Name(domain))?;
        let authority = Authority::open(Some(state), domain, clock, DEFAULT_LEAF_LIFETIME)?;
        Ok(Self::new(Arc::new(authority), server))
    }

    /// Notes in `state` what [`open`](Self::open), [`noted_plaintext`] and [`noted_admin`] will want to know.
    pub(crate) fn note(
        &self,
        state: &Path,
        plaintext: Option<SocketAddr>,
        admin: Option<SocketAddr>,
    ) -> Result<PathBuf, EnrolError> {
        let note = Note {
            server: self.server.to_string(),
            trust_domain: self.authority.trust_domain().as_str().to_owned(),
            plaintext: plaintext.map(|address| address.to_string()),
            admin: admin.map(|address| address.to_string()),
        };
        let json = serde_json::to_vec_pretty(&note).expect("a struct of texts is JSON");
        let path = state.join(FILE);
        write_file(&path, &json)?;
        Ok(path)
    }

    /// Where workloads reach the control plane.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The root certificate of the mesh, in PEM; both of them while it is being replaced.
    pub fn root_pem(&self) -> String {
        self.authority.root_pem()
    }

    /// The SPIFFE id of a service account, in Istio's form.
    ///
    /// # Errors
    ///
    /// When the names do not make one.
    pub fn identity(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, EnrolError> {
        let name = |part: &str| part.is_empty() || part.contains('/');
        let text = format!(
            "spiffe://{}/ns/{namespace}/sa/{service_account}",
            self.authority.trust_domain()
        );
        if name(namespace) || name(service_account) {
            return Err(Kind::Name(text).into());
        }
        SpiffeId::parse(&text).map_err(|_| Kind::Name(text).into())
    }

    /// Makes a join token.
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id, or the token cannot be kept.
    pub fn issue_token(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Lifetime,
    ) -> Result<JoinToken, EnrolError> {
        let identity = self.identity(namespace, service_account)?;
        Ok(self.authority.issue_token(&identity, lifetime)?)
    }

    /// Believes no certificate and no join token of a service account any more that there is now: none renews, and none joins. How many
    /// join tokens were taken away. A control plane that runs with this state directory goes by it from its next request on.
    ///
    /// Who holds the last certificate is believed by others until that ends, a day at most: keep them out at once by an
    /// `AuthorizationPolicy` of `DENY`. The workload joins again with a token that is made afterwards, in the next second or later.
    /// Tokens of somebody else, which the CA has reviewed, are that system's to take away.
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id, or it cannot be written down.
    pub fn deny(&self, namespace: &str, service_account: &str) -> Result<usize, EnrolError> {
        let identity = self.identity(namespace, service_account)?;
        Ok(self.authority.deny(&identity)?)
    }

    /// The same of a workload that registers itself in a `WorkloadGroup` of its namespace, at `address` or else where its connection comes
    /// from. It is one of the group's while its stream is there, if the group is of this service account.
    ///
    /// # Errors
    ///
    /// As [`issue_token`](Self::issue_token).
    pub fn registering(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Lifetime,
        (group, address): (&str, Option<IpAddr>),
    ) -> Result<Bootstrap, EnrolError> {
        let node = registering_node(namespace, service_account, group, address);
        self.bootstrap_of(node, namespace, service_account, lifetime)
    }

    /// A bootstrap without a token: the workload proves who it is by the one that `token_file` holds on its machine, such as the projected
    /// token of a Kubernetes service account, which the control plane has to believe
    /// ([`ControlPlaneBuilder::service_account_tokens`](crate::ControlPlaneBuilder::service_account_tokens)). It holds no secret, so all
    /// workloads of the account may share it. `group`: as in [`registering`](Self::registering).
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id.
    pub fn by_token_file(
        &self,
        namespace: &str,
        service_account: &str,
        token_file: &str,
        group: Option<(&str, Option<IpAddr>)>,
    ) -> Result<Bootstrap, EnrolError> {
        self.identity(namespace, service_account)?;
        let node = match group {
            Some((group, address)) => registering_node(namespace, service_account, group, address),
            None => node(namespace, service_account),
        };
        let (server, roots) = (self.server(), self.root_pem());
        let domain = self.authority.trust_domain().as_str();
        Bootstrap::builder(node)
            .tls(server, &roots)
            .server_listener_template(crate::SERVER_LISTENERS)
            .mesh_ca_by_token_file(server, &roots, domain, namespace, service_account, token_file)
            .build()
            .map_err(|error| Kind::Bootstrap(error).into())
    }

    /// Makes a key and a certificate of a service account, for what is no workload of this library and cannot ask for one itself. It lives
    /// `lifetime`, between [`MIN_LEAF_LIFETIME`](crate::MIN_LEAF_LIFETIME) and [`MAX_LEAF_LIFETIME`](crate::MAX_LEAF_LIFETIME); zero is a day.
    /// The audit log of the state directory says so.
    ///
    /// # Errors
    ///
    /// When the names do not make a SPIFFE id, the lifetime is none of these, or it cannot be signed or written down.
    pub fn issue(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, EnrolError> {
        let identity = self.identity(namespace, service_account)?;
        if !lifetime.is_zero() && !(MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(&lifetime) {
            return Err(Kind::Lifetime(lifetime).into());
        }
        Ok(self.authority.issue(&identity, lifetime)?)
    }

    /// Makes a join token and the bootstrap that holds it.
    ///
    /// # Errors
    ///
    /// As [`issue_token`](Self::issue_token).
    pub fn bootstrap(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Lifetime,
    ) -> Result<Bootstrap, EnrolError> {
        self.bootstrap_of(node(namespace, service_account), namespace, service_account, lifetime)
    }

    fn bootstrap_of(
        &self,
        node: Node,
        namespace: &str,
        service_account: &str,
        lifetime: Lifetime,
    ) -> Result<Bootstrap, EnrolError> {
        let token = self.issue_token(namespace, service_account, lifetime)?;
        let (server, roots) = (self.server(), self.root_pem());
        let domain = self.authority.trust_domain().as_str();
        Bootstrap::builder(node)
            .tls(server, &roots)
            .server_listener_template(crate::SERVER_LISTENERS)
            .mesh_ca(server, &roots, domain, namespace, service_account, token.expose())
            .build()
            .map_err(|error| Kind::Bootstrap(error).into())
    }
}

/// The node of a workload: what it claims must agree with its certificate. An Istio node is told what a sidecar is told
/// unless it asks for gRPC's shape (istiod's `GENERATOR`), which is the one that our clients are written here.
pub(crate) fn node(namespace: &str, service_account: &str) -> Node {
    Node {
        id: format!("sidecar~127.0.0.1~{service_account}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: format!("{service_account}.{namespace}"),
        metadata: [
            ("GENERATOR", "grpc"),
            ("NAMESPACE", namespace),
            ("SERVICE_ACCOUNT", service_account),
        ]
        .map(|(key, value)| (key.to_owned(), value.into()))
        .into(),
        ..Node::default()
    }
}

/// The same of one that registers itself in a group of its namespace.
fn registering_node(namespace: &str, service_account: &str, group: &str, address: Option<IpAddr>) -> Node {
    let mut node = node(namespace, service_account);
    // A workload and another of its account are two nodes.
    let address = address.map(|address| address.to_string());
    node.id = format!(
        "sidecar~{}~{service_account}.{namespace}~{namespace}.svc.cluster.local",
        address.as_deref().unwrap_or("127.0.0.1")
    );
    node.metadata.insert("AUTO_REGISTER_GROUP".to_owned(), group.into());
    if let Some(address) = address {
        node.metadata.insert("INSTANCE_IPS".to_owned(), address.into());
    }
    node
}

/// A workload cannot be let in.
#[derive(Debug)]
pub struct EnrolError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Name(String),
    Ca(CaError),
    Bootstrap(mesh_xds::BootstrapError),
    Lifetime(Duration),
}

impl EnrolError {
    /// Whether a name was not one.
    pub fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Name(_))
    }
}

impl From<Kind> for EnrolError {
    fn from(kind: Kind) -> Self {
        Self { kind }
    }
}

impl From<CaError> for EnrolError {
    fn from(error: CaError) -> Self {
        Kind::Ca(error).into()
    }
}

impl fmt::Display for EnrolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Name(text) => write!(f, "{text:?} is not a name that a certificate could hold"),
            Kind::Ca(error) => write!(f, "{error}"),
            Kind::Bootstrap(_) => f.write_str("the bootstrap would not be usable"),
            Kind::Lifetime(asked) => write!(
                f,
                "a certificate lives between {MIN_LEAF_LIFETIME:?} and {MAX_LEAF_LIFETIME:?}, and not {asked:?}"
            ),
        }
    }
}

impl std::error::Error for EnrolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Name(_) | Kind::Lifetime(_) => None,
            Kind::Ca(error) => error.source(),
            Kind::Bootstrap(error) => Some(error),
        }
    }
}
