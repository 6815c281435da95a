//! The access log of calls: a line for each that the configuration wants written, by Envoy's names, as an event of the target
//! [`TARGET`].
//!
//! What is logged hangs on the call as everything that its route asks for besides: where nothing is, a call looks once and goes on. Where
//! something is, the request's head is kept until the call has ended, since which calls are written is mostly asked of their status.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response};
use mesh_core::config::{LogFilter, Route};
use mesh_core::report::access::{AccessHead, TARGET, header_text, millis, service_time, text};
use mesh_core::report::standard::{Amounts, End};
use mesh_core::route::RequestHead;
use mesh_core::{Entropy, inherit};

use crate::body::ResponseBody;
use crate::error::Error;

/// What Envoy says of an answer that a peer gave.
const VIA_UPSTREAM: &str = "via_upstream";
const DIRECT_RESPONSE: &str = "direct_response";
const CALLER_GONE: &str = "downstream_remote_disconnect";

/// Which calls of a target are written.
#[derive(Debug)]
pub(crate) struct Log {
    filter: Arc<LogFilter>,
    entropy: Entropy,
}

impl Log {
    pub(crate) fn new(filter: Arc<LogFilter>, entropy: &Entropy) -> Self {
        Self {
            filter,
            entropy: entropy.clone(),
        }
    }

    fn takes(&self, end: &End) -> bool {
        let lot = if self.filter.draws() {
            self.entropy.draw().next()
        } else {
            0
        };
        self.filter.passes(end.code, lot)
    }
}

/// A call that may be written when it has ended.
#[derive(Debug)]
pub(crate) struct Logged {
    log: Arc<Log>,
    head: AccessHead,
    /// `None`: nothing took it.
    route: Option<Arc<Route>>,
    details: Cow<'static, str>,
    peer: Option<SocketAddr>,
    service_time: Option<Box<str>>,
}

impl Logged {
    /// A call that begins now.
    #[cold]
    pub(crate) fn begin<B>(
        log: &Arc<Log>,
        request: &Request<B>,
        target: &str,
        route: Option<&Arc<Route>>,
    ) -> Box<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut head = AccessHead::of(&RequestHead::of(request, target), request.version(), now);
        if head.request_id.is_none() {
            // It will be sent with that of the request that it is made for.
            let above = inherit::with(|above| above.trace()?.request_id().map(header_text));
            head.request_id = above.flatten();
        }
        Box::new(Self {
            log: Arc::clone(log),
            head,
            route: route.cloned(),
            details: CALLER_GONE.into(),
            peer: None,
            service_time: None,
        })
    }

    /// The head of an answer came.
    pub(super) fn answered(&mut self, response: &Response<ResponseBody>) {
        self.peer = response.body().peer();
        self.details = match self.peer {
            Some(_) => VIA_UPSTREAM.into(),
            None => DIRECT_RESPONSE.into(),
        };
        self.service_time = service_time(response.headers());
    }

    /// There is no answer, or it broke off.
    pub(super) fn failed(&mut self, error: &Error) {
        let began = self.peer.is_some();
        self.peer = error.peer().or(self.peer);
        self.details = error.details(began);
    }

    /// The call has ended. It went to such a cluster, if to any.
    pub(super) fn write(self, end: &End, amounts: &Amounts, cluster: Option<&str>) {
        if !self.log.takes(end) {
            return;
        }
        let head = &self.head;
        let flags = end.flags.to_string();
        let peer = self.peer.map(|peer| peer.to_string());
        let cluster = cluster.map(|name| text(name.as_bytes()));
        let route = self.route.as_ref().map(|route| text(route.name.as_bytes()));
        tracing::info!(
            target: TARGET,
            start_time = &*head.start_time,
            method = &*head.method,
            path = &*head.path,
            protocol = head.protocol,
            response_code = end.code,
            response_flags = &*flags,
            response_code_details = &*self.details,
            grpc_status = end.grpc,
            bytes_received = amounts.request_bytes,
            bytes_sent = amounts.response_bytes,
            duration = millis(amounts.duration),
            upstream_service_time = self.service_time.as_deref(),
            x_forwarded_for = head.x_forwarded_for.as_deref(),
            user_agent = head.user_agent.as_deref(),
            request_id = head.request_id.as_deref(),
            authority = &*head.authority,
            upstream_host = peer.as_deref(),
            upstream_cluster = cluster.as_deref(),
            route_name = route.as_deref().filter(|name| !name.is_empty()),
        );
    }
}
