//! Names on which both ends of this crate agree, beyond what the protocol says.

/// The instance name that TLS contexts ask for keys and roots, and that our bootstraps define. gRPC and istiod use it too.
pub(crate) const PROVIDER: &str = "default";

/// The secret that is the workload's own key and certificate (Istio).
pub(crate) const SDS_IDENTITY: &str = "default";

/// The secret that is the roots the workload trusts (Istio).
pub(crate) const SDS_ROOTS: &str = "ROOTCA";

/// An identity that nobody can have: its trust domain is nobody's (RFC 2606), and no SPIFFE id ends with a slash. Clients and
/// servers of another make take an empty list of names for "anybody", so this is how they are told of nobody.
pub(crate) const NOBODY: &str = "spiffe://nobody.invalid/";

/// The listener that Istio's sidecars have all that is sent to their workload come to.
pub(crate) const VIRTUAL_INBOUND: &str = "virtualInbound";

/// The filter that looks at tokens, and under whose name its metadata go (Istio); and the one that stood beside it until 1.21, with what it
/// said of whom a token is about.
pub(crate) const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";
pub(crate) const ISTIO_AUTHN_FILTER: &str = "istio_authn";
pub(crate) const REQUEST_PRINCIPAL: &str = "request.auth.principal";

/// What an RBAC filter calls the policy that its dry run matched, behind a prefix of its own (Envoy); and the prefix by which Istio has an
/// authorizer asked about that.
pub(crate) const SHADOW_POLICY: &str = "shadow_effective_policy_id";
/// See [`SHADOW_POLICY`].
#[cfg(feature = "server")]
pub(crate) const EXT_AUTHZ_SHADOW: &str = "istio_ext_authz_";

/// How the names of secrets begin that are files of the client (istiod): a certificate and its key, and roots.
pub(crate) const SDS_CERTIFICATE_FILES: &str = "file-cert:";
pub(crate) const SDS_ROOTS_FILE: &str = "file-root:";

/// The instance names by which our control plane says that a certificate or roots are in files of the client, or that the
/// application has them by a name. No bootstrap defines them, and only our clients are told of them.
pub(crate) const PROVIDED_FILES: &str = "mesh:file";
pub(crate) const PROVIDED: &str = "mesh:named";

/// The endpoints of clusters that gRPC's other clients cannot call: there are none. They are told a cluster without endpoints, whose calls fail
/// at once, where one with certificates that they cannot have would be refused by them for ever, and one that is not there waited for.
#[cfg(feature = "server")]
pub(crate) const UNSERVED: &str = "mesh:unserved";

/// Where a route says that its retry policy is the house's default and not what somebody wrote: filter metadata and a key
/// in it, which clients that do not know them ignore.
pub(crate) const RETRY_IS_DEFAULT: (&str, &str) = ("mesh", "retry_is_default");

/// Where a route says that its longest stream is its timeout said once more, for clients that go by that one, and no limit beside it.
pub(crate) const STREAM_IS_TIMEOUT: (&str, &str) = ("mesh", "stream_is_timeout");

/// The key of the filter state by which gRPC hashes requests "by their channel" (gRFC A42).
pub(crate) const HASH_BY_CHANNEL: &str = "io.grpc.channel_id";

/// The `user_agent_name` of our client.
pub(crate) const OUR_USER_AGENT: &str = "mesh-xds";

/// The abilities (`client_features`) by which our client says what it is to be told where its bootstrap decides that (`x_mesh.profile`)
/// and not its node.
pub(crate) const TELL_AS_GRPC: &str = "mesh.profile.grpc";
/// See [`TELL_AS_GRPC`].
pub(crate) const TELL_AS_SIDECAR: &str = "mesh.profile.envoy";

/// The trailer by which a server says after how many milliseconds to come again (gRFC A6).
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The scope in which a client's configuration is used, in CSDS and in metrics. gRPC names the target there, or `#server`;
/// one client of ours serves all targets and servers of its process.
pub(crate) const SCOPE: &str = "#mesh";

/// The key in a node's metadata under which our control plane tells readers of CSDS what it knows of a client itself.
pub(crate) const SEEN: &str = "x_mesh";

/// A type's name, which its URL ends with.
pub(crate) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}
