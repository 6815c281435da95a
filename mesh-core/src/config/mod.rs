//! What is wanted: plain values, built only valid, compared by value.
//!
//! Configuration is separate from what lives by it: an [`Endpoint`] is an address somebody wants called, a connection to it
//! belongs to the data plane and outlives the value. Nothing here is live and nothing is secret, so a [`Snapshot`] may be
//! printed and dumped. Sources (xDS, YAML, literals) build these types; the decisions read them.

mod adaptive;
mod aggregate;
mod authorization;
mod breakers;
mod cluster;
mod common_lb;
mod endpoint;
mod ext_authz;
mod inbound;
mod jwt;
mod lb;
mod limit;
mod load;
mod matcher;
mod metadata;
mod origination;
mod outlier;
mod protocol;
mod re2;
mod reason;
mod retry;
mod route;
pub(crate) mod service;
mod snapshot;
mod telemetry;
mod time;
mod units;

pub use adaptive::AdaptiveConcurrency;
pub(crate) use authorization::{Asked, Quick};
pub use authorization::{
    Authorization, ClaimShape, FilterRules, HostRules, Permission, PermissionTest, Principal, PrincipalTest, Rbac,
    RbacAction, RbacFilter, RbacPolicy, Replaced, RouteRules, RoutedHost, RoutedRoute, Routing, Rule, TokenTest,
    TooManyRules, Unserved,
};
pub use breakers::{CircuitBreakers, RoutingPriority, Thresholds};
pub use cluster::{Cluster, ClusterName, ExpectedPeers, MutualTls, TlsMatch, TlsMode};
pub use common_lb::{CommonLb, Failover, Localities, LocalityWeight, SlowStart};
pub use endpoint::{DropOverload, Endpoint, Health, HealthSet, Locality, alike};
pub use ext_authz::{
    AskedAbout, CheckBody, CheckReplaced, CheckService, CheckSettings, ExtAuthz, GrpcCheck, HttpCheck, OnFailure,
    SentHeaders,
};
pub use inbound::{
    ChainIdentity, ChainMatch, Clients, ConnectionFacts, Entered, FilterChain, Inbound, InboundSecurity, InvalidPrefix,
    IpPrefix, MtlsMode, NotTaken, ServerRules, SourceType, Traffic, Transport,
};
pub use jwt::{
    ClaimHeader, InvalidJwks, Jwk, JwkMaterial, Jwks, JwtPlaces, JwtProvider, JwtRequirement, JwtRule, JwtRules,
};
pub use lb::{BalanceFactor, ClientWeights, LbPolicy, LeastRequest, Maglev, RingFunction, RingHash};
pub use limit::{
    DescribeBy, Describing, DescriptorEntry, GlobalFilter, GlobalRateLimit, Instead, InvalidBucket, LimitFilter,
    LimitHost, LimitRoute, LocalDescriptor, LocalRateLimit, RateLimits, TokenBucket, TooManyLimits, VirtualHostLimits,
};
pub use load::{LoadReporting, ReportedMetric};
pub use matcher::{InvalidPattern, Pattern, StringMatch};
pub use metadata::{Metadata, TRANSPORT_SOCKET_MATCH, TooManyValues};
pub use origination::{Credential, NameKind, NameMatch, Roots, TlsOrigination};
pub use outlier::{Consecutive, FailurePercentage, OutlierDetection, OutlierRules, Percent, SuccessRate};
pub use protocol::{Carrier, Connections, Http2Settings, KeepAlive, Protocol, TcpKeepAlive};
pub use reason::{Reason, ReasonKind};
pub use retry::{
    Backoff, HostSelection, InvalidBackoff, RateLimitedBackoff, ResetFormat, ResetHeader, RetryBudget, RetryLimits,
    RetryOn, RetryPolicy,
};
pub use route::{
    Abort, Action, AppendAction, CallFilter, Delay, DirectResponse, Domain, Fault, FaultAbort, FaultDelay, FilterKind,
    FilterOverride, Forward, HashBy, HashCookie, HashPolicy, HeaderEdit, HeaderEdits, HeaderFormat, HeaderMatch,
    HeaderRules, HeaderTest, HostRewrite, InvalidDomain, InvalidEdit, InvalidFormat, InvalidSplit, InvalidSubstitution,
    InvalidTemplate, Mirror, Override, PathMatch, PathRewrite, PathTemplate, QueryMatch, QueryTest, Redirect,
    RedirectPath, Rewrite, Route, RouteMatch, RouteTree, Session, SessionCookie, SessionState, Split, Subject,
    Substitution, TemplateRewrite, VirtualHost, WeightedCluster,
};
pub(crate) use route::{Operator, Piece};
pub use service::{Service, UNKNOWN};
pub use snapshot::{Inconsistent, Resolved, Snapshot, SnapshotBuilder};
pub use telemetry::{Comparison, LogFilter, NotAFilter, Telemetry};
pub use time::TimeLimits;
pub use units::{Fraction, Per, Version, Weight};
