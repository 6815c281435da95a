//! The access log of requests: a line for each that the configuration wants written, by Envoy's names, as an event of the target
//! [`TARGET`].
//!
//! What is written is the connection's to know, by the rules that its server goes by now ([`ConnectionInfo::access_log`]): where nothing
//! is, a request looks once and goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Request, Response};
use mesh_core::Entropy;
use mesh_core::config::LogFilter;
use mesh_core::report::access::{AccessHead, TARGET, millis, text};
use mesh_core::report::standard::{Amounts, End};
use mesh_core::route::RequestHead;
use tokio::time::Instant;

use crate::accept::ConnectionInfo;
use crate::refusal::NotServed;

/// What Envoy says of an answer that the application gave.
const VIA_UPSTREAM: &str = "via_upstream";
const CALLER_GONE: &str = "downstream_remote_disconnect";
const BROKE_OFF: &str = "upstream_reset_after_response_started{remote_reset}";
const FAILED: &str = "upstream_reset_before_response_started{remote_reset}";

/// A request that may be written when its answer has ended.
#[derive(Debug)]
pub(super) struct Logged {
    filter: Arc<LogFilter>,
    entropy: Entropy,
    head: AccessHead,
    connection: ConnectionInfo,
    began: Instant,
    details: &'static str,
    /// How long the service took to the head of its answer.
    service_time: Option<Duration>,
}

impl Logged {
    /// A request that comes now by a connection whose requests may be written.
    #[cold]
    pub(super) fn begin<B>(
        filter: Arc<LogFilter>,
        entropy: &Entropy,
        request: &Request<B>,
        connection: &ConnectionInfo,
    ) -> Box<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Box::new(Self {
            filter,
            entropy: entropy.clone(),
            head: AccessHead::of(&RequestHead::of(request, ""), request.version(), now),
            connection: connection.clone(),
            began: Instant::now(),
            details: CALLER_GONE,
            service_time: None,
        })
    }

    /// The service answers, or a room before it does.
    pub(super) fn answered<R>(&mut self, response: &Response<R>) {
        match response.extensions().get::<NotServed>() {
            Some(NotServed(why)) => self.details = why,
            None => {
                self.details = VIA_UPSTREAM;
                self.service_time = Some(self.began.elapsed());
            }
        }
    }

    /// The service did not survive it, or its answer broke off.
    pub(super) fn failed(&mut self) {
        self.details = match self.service_time {
            Some(_) => BROKE_OFF,
            None => FAILED,
        };
    }

    /// The answer has ended, or nobody waits for it.
    pub(super) fn write(self, end: &End, amounts: &Amounts) {
        let lot = if self.filter.draws() {
            self.entropy.draw().next()
        } else {
            0
        };
        if !self.filter.passes(end.code, lot) {
            return;
        }
        let head = &self.head;
        let flags = end.flags.to_string();
        let known = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        let local = known(self.connection.known_destination());
        let remote = known(Some(self.connection.source()));
        let server_name = self.connection.server_name().map(|name| text(name.as_bytes()));
        let service_time = self.service_time.map(|took| millis(took).to_string());
        tracing::info!(
            target: TARGET,
            start_time = &*head.start_time,
            method = &*head.method,
            path = &*head.path,
            protocol = head.protocol,
            response_code = end.code,
            response_flags = &*flags,
            response_code_details = self.details,
            grpc_status = end.grpc,
            bytes_received = amounts.request_bytes,
            bytes_sent = amounts.response_bytes,
            duration = millis(amounts.duration),
            upstream_service_time = service_time.as_deref(),
            x_forwarded_for = head.x_forwarded_for.as_deref(),
            user_agent = head.user_agent.as_deref(),
            request_id = head.request_id.as_deref(),
            authority = &*head.authority,
            downstream_local_address = local.as_deref(),
            downstream_remote_address = remote.as_deref(),
            requested_server_name = server_name.as_deref(),
        );
    }
}
