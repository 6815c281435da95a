//! Why a call failed before, or instead of, a whole answer.
//!
//! One opaque type with questions. The kind decides three outward forms: the HTTP status, the gRPC status, and Envoy's
//! response flag, so that what is in a log here means what it means in an Istio mesh. It also knows whether the peer may
//! have processed the request, which is what a retry must ask.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use mesh_core::config::{Reason, ReasonKind};
use mesh_core::deadline::{Limit, Of};
use mesh_core::outlier::Observation;
use mesh_core::retry::TryEnd;
use mesh_core::route::Aborted;

use crate::body::code_of_http;
use crate::connect::{ConnectError, StreamError};
use crate::flags::{ResponseFlags, RetriesEnd};

const DEADLINE_EXCEEDED: u8 = 4;
const UNAVAILABLE: u8 = 14;

/// A failed call. Cheap to clone.
///
/// A gRPC caller does not meet it as an error: it gets an ordinary response with the matching `grpc-status`, and finds this
/// in the response's extensions.
#[derive(Clone, Debug)]
pub struct Error {
    inner: Arc<Inner>,
    /// Why it was not tried again, where that is worth a flag of its own.
    retries: Option<RetriesEnd>,
    /// A try before this one may have been processed, whatever this one was.
    earlier: bool,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    peer: Option<SocketAddr>,
}

/// What happened, for the rooms of this crate.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Configuration says that it cannot be called.
    Unavailable(Reason),
    /// No connection could be made.
    Connect(ConnectError),
    /// The peer provably did not process the request.
    NotProcessed(StreamError),
    /// The stream or connection broke.
    Reset(StreamError),
    /// The call's time was up.
    Deadline(Limit),
    /// The call's time was up before it was begun.
    Late(Duration),
    /// The stream lasted as long as a stream may.
    MaxStream(Duration),
    /// Nothing moved for as long as a stream may be idle.
    Idle(Duration),
    /// One try's time was up.
    PerTryTimeout(Duration),
    /// Nothing moved for as long as a try may be idle.
    PerTryIdle(Duration),
    /// A limit of this process was reached; the word says which.
    Overflow(&'static str),
    /// The control plane wants a share of the cluster's calls dropped, and this was one; the category it gave.
    Dropped(Box<str>),
    /// A fault was injected.
    Fault(Abort),
    /// The route answers by itself with this status, which a caller of this protocol cannot be given.
    Answered(StatusCode),
    /// The request cannot be sent as it is.
    InvalidRequest(&'static str),
}

/// The end that an injected fault gave a call.
#[derive(Debug)]
pub(crate) struct Abort {
    pub(crate) status: Aborted,
    /// The body of the answer.
    pub(crate) body: Box<str>,
    /// Whether it was held up first.
    pub(crate) delayed: bool,
}

impl Error {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            inner: Arc::new(Inner { kind, peer: None }),
            retries: None,
            earlier: false,
        }
    }

    pub(crate) fn at(kind: Kind, peer: SocketAddr) -> Self {
        Self {
            inner: Arc::new(Inner { kind, peer: Some(peer) }),
            retries: None,
            earlier: false,
        }
    }

    /// After it there was no other try, for this reason; whether one before it may have been processed.
    pub(crate) fn not_tried_again(&mut self, retries: Option<RetriesEnd>, earlier: bool) {
        self.retries = retries;
        self.earlier = earlier;
    }

    pub(crate) fn unavailable(kind: ReasonKind, text: impl Into<Arc<str>>) -> Self {
        Self::new(Kind::Unavailable(Reason::new(kind, text)))
    }

    /// Sorts an error of an exchange by whether the peer can have processed the request.
    pub(crate) fn broken(error: impl Into<StreamError>, peer: SocketAddr) -> Self {
        let error = error.into();
        if error.is_unprocessed() {
            return Self::at(Kind::NotProcessed(error), peer);
        }
        Self::at(Kind::Reset(error), peer)
    }

    /// The call or a try ran out of time, or was idle for too long.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            Kind::Deadline(_)
                | Kind::Late(_)
                | Kind::MaxStream(_)
                | Kind::Idle(_)
                | Kind::PerTryTimeout(_)
                | Kind::PerTryIdle(_)
        )
    }

    /// Every try that the policy gives was made, and this is what the last one came to.
    pub fn is_retries_exhausted(&self) -> bool {
        self.retries == Some(RetriesEnd::Exhausted)
    }

    /// No route takes the request, or the target has none.
    pub fn is_no_route(&self) -> bool {
        matches!(self.reason_kind(), Some(ReasonKind::NoRoute | ReasonKind::NoListener))
    }

    /// The destination cannot be reached or called now; another time it might.
    pub fn is_unavailable(&self) -> bool {
        !matches!(self.inner.kind, Kind::InvalidRequest(_)) && !self.is_timeout()
    }

    /// No connection could be made: TCP, TLS or the peer's identity.
    pub fn is_connect(&self) -> bool {
        matches!(self.inner.kind, Kind::Connect(_))
    }

    /// A limit of this process refused the call; nothing was sent.
    pub fn is_overflow(&self) -> bool {
        matches!(self.inner.kind, Kind::Overflow(_))
    }

    /// Which limit refused the call, by Envoy's name where it has one: `max_requests`, `max_pending_requests`,
    /// `max_connections`, ...
    pub fn limit(&self) -> Option<&'static str> {
        match self.inner.kind {
            Kind::Overflow(limit) => Some(limit),
            _ => None,
        }
    }

    /// The control plane wants a share of the cluster's calls dropped, and this was one; nothing was sent.
    pub fn is_dropped(&self) -> bool {
        matches!(self.inner.kind, Kind::Dropped(_))
    }

    /// A fault was injected on purpose; nothing was sent.
    pub fn is_fault(&self) -> bool {
        matches!(self.inner.kind, Kind::Fault(_))
    }

    pub(crate) fn fault(&self) -> Option<&Abort> {
        match &self.inner.kind {
            Kind::Fault(abort) => Some(abort),
            _ => None,
        }
    }

    /// Whether a peer may have processed the request, in any of its tries. `false` is a proof that none did.
    pub fn may_have_been_processed(&self) -> bool {
        self.earlier
            || matches!(self.inner.kind, Kind::Reset(_))
            || (self.is_timeout() && !matches!(self.inner.kind, Kind::Late(_)))
    }

    /// Whether the peer processed the request: `Some(false)` is a proof that it did not, `None` is not known. What failed is
    /// never proof that it did.
    pub fn was_processed(&self) -> Option<bool> {
        (!self.may_have_been_processed()).then_some(false)
    }

    /// Why the destination cannot be called, when the configuration says so.
    pub fn reason_kind(&self) -> Option<ReasonKind> {
        match &self.inner.kind {
            Kind::Unavailable(reason) => Some(reason.kind()),
            _ => None,
        }
    }

    /// The endpoint that the failing try was made to, if one was chosen.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.inner.peer
    }

    /// The HTTP status that a proxy would answer with (Envoy's choice for each flag).
    pub fn status(&self) -> StatusCode {
        match &self.inner.kind {
            Kind::InvalidRequest(_) => StatusCode::BAD_REQUEST,
            Kind::Fault(abort) => abort.status.http,
            Kind::Answered(status) => *status,
            Kind::Reset(error) if error.is_protocol_error() => StatusCode::BAD_GATEWAY,
            _ if self.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            _ if self.is_no_route() => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The body that Envoy would answer with: what other people's log searches and dashboards know. [`Display`](fmt::Display)
    /// says more.
    pub fn body(&self) -> Cow<'static, str> {
        const BEFORE_HEADERS: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";
        let reset = |reason: &str| Cow::Owned(format!("{BEFORE_HEADERS}{reason}"));
        match &self.inner.kind {
            Kind::Unavailable(reason) => match reason.kind() {
                ReasonKind::NoEndpoints => "no healthy upstream".into(),
                // Envoy has nothing to say about a route or cluster that is not there.
                _ => "".into(),
            },
            Kind::Connect(_) => reset("connection failure"),
            Kind::NotProcessed(error) | Kind::Reset(error) => reset(match self.response_flag() {
                "UPE" => "protocol error",
                "LR" => "local reset",
                _ if error.is_reset() => "remote reset",
                _ => "connection termination",
            }),
            Kind::Deadline(_) | Kind::Late(_) | Kind::PerTryTimeout(_) => "upstream request timeout".into(),
            Kind::MaxStream(_) => "upstream max stream duration reached".into(),
            Kind::Idle(_) | Kind::PerTryIdle(_) => "stream timeout".into(),
            Kind::Overflow(_) => reset("overflow"),
            Kind::Dropped(_) => "drop overload".into(),
            Kind::Fault(abort) => Cow::Owned(abort.body.to_string()),
            Kind::Answered(_) => "".into(),
            Kind::InvalidRequest(why) => Cow::Borrowed(why),
        }
    }

    /// What Envoy's access log says of the answer that a proxy gives (`response_code_details`); `began`: a part of the peer's was there.
    pub(crate) fn details(&self, began: bool) -> Cow<'static, str> {
        let reset = |reason: &str| match began {
            true => Cow::Owned(format!("upstream_reset_after_response_started{{{reason}}}")),
            false => Cow::Owned(format!("upstream_reset_before_response_started{{{reason}}}")),
        };
        match &self.inner.kind {
            Kind::Unavailable(_) => match self.response_flag() {
                "NR" => "route_not_found".into(),
                "NC" => "cluster_not_found".into(),
                "UH" => "no_healthy_upstream".into(),
                _ => reset("connection_failure"),
            },
            Kind::Connect(error) => reset(&format!("connection_failure,{}", error.as_str())),
            Kind::NotProcessed(_) | Kind::Reset(_) => reset(match self.response_flag() {
                "UPE" => "protocol_error",
                "LR" => "local_reset",
                "UR" => "remote_reset",
                _ => "connection_termination",
            }),
            Kind::Deadline(_) | Kind::Late(_) => "upstream_response_timeout".into(),
            Kind::MaxStream(_) => "upstream_max_stream_duration_reached".into(),
            Kind::Idle(_) => "stream_idle_timeout".into(),
            Kind::PerTryTimeout(_) => "upstream_per_try_timeout".into(),
            Kind::PerTryIdle(_) => "upstream_per_try_idle_timeout".into(),
            Kind::Overflow(_) => reset("overflow"),
            Kind::Dropped(_) => "drop_overload".into(),
            Kind::Fault(_) => "fault_filter_abort".into(),
            Kind::Answered(_) => "direct_response".into(),
            Kind::InvalidRequest(_) => "request_cannot_be_sent".into(),
        }
    }

    /// The gRPC status code that a gRPC caller is given who got no answer. What the caller's own time ended, or that of the stream, is
    /// DEADLINE_EXCEEDED (gRFC A31). All else is what Envoy makes of its [`status`](Self::status): a call without a route is
    /// UNIMPLEMENTED, and one that the mesh failed at, or whose route's time was up, is UNAVAILABLE.
    pub fn grpc_code(&self) -> u8 {
        match &self.inner.kind {
            Kind::Fault(abort) => abort.status.grpc,
            // A target that nobody knows is not called wrongly (gRFC A27).
            Kind::Unavailable(reason) if reason.kind() != ReasonKind::NoRoute => UNAVAILABLE,
            _ if self.is_of_grpcs_time() => DEADLINE_EXCEEDED,
            _ => code_of_http(self.status()),
        }
    }

    /// The same of an answer that broke off, where an Envoy has no more to say and resets: whose time was up is DEADLINE_EXCEEDED, and a reset
    /// is translated as the gRPC-over-HTTP/2 specification says.
    pub(crate) fn grpc_code_of_stream(&self) -> u8 {
        const CANCELLED: u8 = 1;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const INTERNAL: u8 = 13;
        match &self.inner.kind {
            Kind::Reset(error) if error.is_reset() => match error.reason() {
                Some(h2::Reason::CANCEL) => CANCELLED,
                Some(h2::Reason::ENHANCE_YOUR_CALM) => RESOURCE_EXHAUSTED,
                Some(h2::Reason::INADEQUATE_SECURITY) => PERMISSION_DENIED,
                Some(h2::Reason::REFUSED_STREAM) => UNAVAILABLE,
                _ => INTERNAL,
            },
            _ if self.is_timeout() => DEADLINE_EXCEEDED,
            _ => self.grpc_code(),
        }
    }

    /// Whether a limit ended it that gRPC's own clients keep.
    fn is_of_grpcs_time(&self) -> bool {
        match &self.inner.kind {
            Kind::Deadline(limit) => limit.of != Of::Route,
            Kind::Late(_) | Kind::MaxStream(_) => true,
            _ => false,
        }
    }

    /// Envoy's response flag for what happened: `NR`, `NC`, `UH`, `UF`, `UR`, `LR`, `UPE`, `UC`, `UT`, `UMSDR`, `SI`, `UO`, `DO`,
    /// `FI`, `DI,FI`, or `-`.
    pub fn response_flag(&self) -> &'static str {
        match &self.inner.kind {
            Kind::Unavailable(reason) => match reason.kind() {
                ReasonKind::NoRoute | ReasonKind::NoListener | ReasonKind::Waiting => "NR",
                ReasonKind::NoCluster | ReasonKind::Refused => "NC",
                ReasonKind::NoEndpoints => "UH",
                _ => "UF",
            },
            Kind::Connect(_) => "UF",
            Kind::Reset(error) if error.is_protocol_error() => "UPE",
            Kind::Reset(error) if error.is_local_reset() => "LR",
            Kind::Reset(error) | Kind::NotProcessed(error) if error.is_reset() => "UR",
            Kind::Reset(_) | Kind::NotProcessed(_) => "UC",
            Kind::Deadline(_) | Kind::Late(_) | Kind::PerTryTimeout(_) => "UT",
            Kind::MaxStream(_) => "UMSDR",
            Kind::Idle(_) | Kind::PerTryIdle(_) => "SI",
            Kind::Overflow(_) => "UO",
            Kind::Dropped(_) => "DO",
            Kind::Fault(Abort { delayed: true, .. }) => "DI,FI",
            Kind::Fault(_) => "FI",
            Kind::Answered(_) | Kind::InvalidRequest(_) => "-",
        }
    }

    /// All of Envoy's flags, as its access log joins them: `URX,UF` for a call whose last try found no connection.
    pub fn response_flags(&self) -> ResponseFlags {
        ResponseFlags {
            retries: self.retries,
            last: Some(self.response_flag()).filter(|flag| *flag != "-"),
        }
    }

    /// The endpoint was removed, or is called by other rules, before anything was sent.
    pub(crate) fn is_retired(&self) -> bool {
        matches!(&self.inner.kind, Kind::Connect(error) if error.is_retired())
    }

    /// What it tells of the host that the try went to, if anything; see [`mesh_core::outlier`].
    pub(crate) fn observation(&self) -> Option<Observation> {
        let is_the_hosts = match &self.inner.kind {
            Kind::Connect(error) => error.is_the_peers(),
            // A GOAWAY is how a host drains.
            Kind::NotProcessed(error) => error.is_reset(),
            // What this side ended says nothing, unless it was for what the peer sent.
            Kind::Reset(error) => !error.is_local_reset() || error.is_protocol_error(),
            Kind::PerTryTimeout(_) | Kind::PerTryIdle(_) => true,
            // Before an answer it is told by whoever is dropped for it; after that it may be a long answer's end.
            Kind::Deadline(_) | Kind::Late(_) | Kind::MaxStream(_) | Kind::Idle(_) => false,
            Kind::Unavailable(_) | Kind::Overflow(_) | Kind::Dropped(_) | Kind::InvalidRequest(_) => false,
            // No host was asked.
            Kind::Fault(_) | Kind::Answered(_) => false,
        };
        is_the_hosts.then_some(Observation::LocalOriginFailure)
    }

    /// Whether the try ended since its connection did, with whatever else was on it.
    pub(crate) fn lost_its_connection(&self) -> bool {
        matches!(&self.inner.kind, Kind::Reset(error) if error.is_connection_lost())
    }

    /// How the try ended; `None` when no try was made, and so none is worth repeating.
    pub(crate) fn try_end(&self) -> Option<TryEnd> {
        match &self.inner.kind {
            Kind::Connect(_) => Some(TryEnd::ConnectFailed),
            Kind::NotProcessed(_) => Some(TryEnd::NotProcessed),
            Kind::Reset(error) if error.is_lost() => Some(TryEnd::Lost),
            Kind::Reset(_) => Some(TryEnd::Reset),
            Kind::PerTryTimeout(_) | Kind::PerTryIdle(_) => Some(TryEnd::PerTryTimeout),
            Kind::Unavailable(_)
            | Kind::Deadline(_)
            | Kind::Late(_)
            | Kind::MaxStream(_)
            | Kind::Idle(_)
            | Kind::Overflow(_)
            | Kind::Dropped(_)
            | Kind::Fault(_)
            | Kind::Answered(_)
            | Kind::InvalidRequest(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.kind {
            Kind::Unavailable(reason) => write!(f, "{reason}")?,
            Kind::Connect(_) => f.write_str("no connection could be made")?,
            Kind::NotProcessed(_) => f.write_str("the peer did not process the request")?,
            Kind::Reset(_) => f.write_str("the stream ended before the answer did")?,
            Kind::Deadline(limit) => write!(f, "the call took longer than {:?}", limit.total)?,
            Kind::Late(limit) => write!(f, "nothing was left of the call's {limit:?} when it began")?,
            Kind::MaxStream(limit) => write!(f, "the stream lasted longer than {limit:?}")?,
            Kind::Idle(limit) => write!(f, "nothing moved for {limit:?}")?,
            Kind::PerTryTimeout(limit) => write!(f, "the try took longer than {limit:?}")?,
            Kind::PerTryIdle(limit) => write!(f, "nothing moved in the try for {limit:?}")?,
            Kind::Overflow(limit) => write!(f, "over the limit: {limit}")?,
            Kind::Dropped(category) => write!(f, "dropped, as the control plane asks ({category})")?,
            Kind::Fault(abort) => f.write_str(&abort.body)?,
            Kind::Answered(status) => write!(f, "the route answers {} by itself", status.as_u16())?,
            Kind::InvalidRequest(why) => write!(f, "the request cannot be sent: {why}")?,
        }
        match self.inner.peer {
            Some(peer) => write!(f, " (endpoint {peer})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.inner.kind {
            Kind::Connect(error) => Some(error),
            Kind::NotProcessed(error) | Kind::Reset(error) => Some(error),
            _ => None,
        }
    }
}
