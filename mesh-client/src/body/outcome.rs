//! What one try tells back, when it is over: the only thing that returns besides the response.
//!
//! A guard: whoever drops it last (the answered body, the failed or cancelled future) gives back the places that the try
//! held. So nothing leaks whatever the caller does, and no other room has to remember. It writes to atomics only: no channel,
//! no lock, no second look at configuration.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use mesh_core::config::RoutingPriority;
use mesh_core::identity::SpiffeId;
use mesh_core::outlier::Observation;
use mesh_core::report::Counted;
use mesh_core::report::standard::Edge;
use mesh_core::retry::TryEnd;

use crate::cluster::{ClusterHandle, Host};
use crate::connect::Http2Permit;
use crate::error::Error;
use crate::telemetry::Party;

/// The places one try holds, and what became of it.
pub(crate) struct Outcome {
    host: Arc<Host>,
    /// Where it stood among the hosts when it was found.
    place: u32,
    cluster: Arc<ClusterHandle>,
    /// The cluster whose host it is, where `cluster` stands for others.
    leaf: Option<Arc<ClusterHandle>>,
    permit: Option<Http2Permit>,
    /// Who is at the other end of an HTTP/1.1 connection.
    party: Option<Arc<Party>>,
    priority: RoutingPriority,
    verdict: Verdict,
    /// What it tells of the host, once that is known.
    seen: Option<Observation>,
    /// Set where the control plane asks for load reports.
    counted: Option<Counted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing is known: cancelled, for all that can be said; or nothing that others did not say already.
    Open,
    Succeeded,
    Failed,
}

impl Outcome {
    /// Takes a place on `host`; those in `cluster` and in its `leaf` were taken already.
    pub(crate) fn begin(
        (host, place): (Arc<Host>, u32),
        cluster: Arc<ClusterHandle>,
        leaf: Option<Arc<ClusterHandle>>,
        priority: RoutingPriority,
        counted: Option<Counted>,
    ) -> Self {
        host.begin_call();
        Self {
            host,
            place,
            cluster,
            leaf,
            permit: None,
            party: None,
            priority,
            verdict: Verdict::Open,
            seen: None,
            counted,
        }
    }

    /// The stream counts against its connection until the try is over.
    pub(crate) fn holds(&mut self, permit: Http2Permit) -> &Http2Permit {
        self.permit.insert(permit)
    }

    /// It goes over an HTTP/1.1 connection to `party`.
    pub(crate) fn meets(&mut self, party: &Arc<Party>) {
        self.party = Some(Arc::clone(party));
    }

    /// Where its call is counted, if it is the call's last try.
    #[inline]
    pub(crate) fn edge(&self) -> Arc<Edge> {
        let party = self.permit.as_ref().map(Http2Permit::party);
        match party.or(self.party.as_deref()) {
            Some(party) => Arc::clone(party.edge(|id| self.pair(id))),
            None => self.pair(None),
        }
    }

    #[cold]
    fn pair(&self, id: Option<&SpiffeId>) -> Arc<Edge> {
        let set = self.cluster().hosts().load();
        let place = set.position(&self.host, self.place);
        self.cluster.pairs().pair(&set, place, id)
    }

    pub(crate) fn permit(&self) -> Option<&Http2Permit> {
        self.permit.as_ref()
    }

    /// The cluster whose host it is: where the call's stands for others, the one of those.
    pub(crate) fn cluster(&self) -> &ClusterHandle {
        self.leaf.as_ref().unwrap_or(&self.cluster)
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The endpoint of the try.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.host.address()
    }

    /// A part of the answer came.
    #[inline]
    pub(crate) fn heard(&self) {
        if let Some(permit) = &self.permit {
            permit.heard();
        }
    }

    /// Response headers came.
    pub(crate) fn saw_headers(&mut self, status: StatusCode, grpc: Option<u8>, headers: &HeaderMap) {
        self.judge(status, grpc);
        if let Some(counted) = &mut self.counted {
            counted.saw_headers(status, grpc, headers);
        }
        self.cluster().hear(&self.host, headers);
    }

    /// Trailers came, and with them the end.
    pub(crate) fn saw_trailers(&mut self, grpc: Option<u8>, trailers: &HeaderMap) {
        self.judge(StatusCode::OK, grpc);
        if let Some(counted) = &mut self.counted {
            counted.saw_trailers(grpc, trailers);
        }
        self.cluster().hear(&self.host, trailers);
        self.ended();
    }

    fn judge(&mut self, status: StatusCode, grpc: Option<u8>) {
        if (TryEnd::Answered { status, grpc }).is_failure() {
            self.verdict = Verdict::Failed;
        }
        let told = Observation::of_answer(status, grpc);
        if told != Observation::Success {
            self.seen = Some(told);
        }
    }

    /// The answer came to its end.
    pub(crate) fn ended(&mut self) {
        if self.verdict == Verdict::Open {
            self.verdict = Verdict::Succeeded;
        }
        self.seen.get_or_insert(Observation::Success);
    }

    /// The try failed before an answer; whether that is held against the destination is the error's to say.
    pub(crate) fn failed_with(&mut self, error: &Error) {
        if error.try_end().is_some_and(TryEnd::is_failure) {
            self.failed();
        }
        // However many calls a connection takes along when it ends, it ended once: said for each, its loss would close the
        // budget to the last of them. One that never served says of its destination what each of its calls does.
        if error.lost_its_connection() && self.permit.as_ref().is_some_and(Http2Permit::is_lost_again) {
            self.verdict = Verdict::Open;
        }
        self.seen = self.seen.or_else(|| error.observation());
    }

    /// The answer broke off, or took too long.
    pub(crate) fn broke_off(&mut self, error: &Error) {
        self.failed();
        self.seen = self.seen.or_else(|| error.observation());
    }

    /// The try was dropped because its time was up: no answer had come.
    pub(crate) fn timed_out(&mut self) {
        self.seen = Some(Observation::LocalOriginFailure);
    }

    fn failed(&mut self) {
        self.verdict = Verdict::Failed;
        if let Some(counted) = &mut self.counted {
            counted.failed();
        }
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.host.end_call();
        self.cluster.end_call(self.priority);
        if let Some(leaf) = &self.leaf {
            leaf.end_call(self.priority);
        }
        if let Some(seen) = self.seen {
            self.cluster().observe(&self.host, seen);
        }
        match self.verdict {
            Verdict::Succeeded => self.cluster.budget().succeeded(),
            Verdict::Failed => self.cluster.budget().failed(),
            Verdict::Open => {}
        }
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outcome")
            .field("peer", &self.peer())
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}
