//! What another try of a call needs, and the decision whether there is one.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::LocalKey;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use mesh_core::config::{RetryPolicy, RoutingPriority};
use mesh_core::inherit;
use mesh_core::outlier::Observation;
use mesh_core::retry::{Again, RetryState, TryEnd, Verdict, Why, World};
use mesh_core::route::RequestHead;

use super::Shared;
use super::fates::Fate;
use super::head::Head;
use super::turn::Turn;
use crate::body::ResponseBody;
use crate::cluster::ClusterHandle;
use crate::error::Error;
use crate::flags::{ResponseFlags, RetriesEnd};
use crate::request::{Attempt, Call, Payload, Tried, Visited};
use crate::reuse::{self, Reuse, Reused};
use crate::telemetry::Sent;

/// gRFC A6: how often this call was tried before.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

pub(super) type Answer = Result<Response<ResponseBody>, Error>;

/// What another try would need.
#[derive(Debug)]
pub(crate) struct Kept<B> {
    pub(super) aside: Reused<Aside>,
    pub(super) payload: Payload<B>,
}

/// All of it but the body. In a box that is used again: every room above moves the future that this belongs to.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) head: Head,
    /// There from the first try to the last.
    pub(super) call: Option<Call>,
    pub(super) retries: RetryState,
    pub(super) tried: Tried,
    pub(super) gone_to: Option<Arc<Mutex<Visited>>>,
    /// Slow tries are raced.
    pub(super) hedged: bool,
    /// A try before the last may have been processed.
    may_have_run: bool,
}

impl Reuse for Aside {
    fn kept() -> &'static LocalKey<reuse::Kept<Self>> {
        thread_local! {
            static KEPT: reuse::Kept<Aside> = const { reuse::Kept::new(Vec::new()) };
        }
        &KEPT
    }

    fn clear(&mut self) {
        self.head.clear();
        self.call = None;
        self.retries = RetryState::default();
        self.tried.clear();
        self.gone_to = None;
        self.hedged = false;
        self.may_have_run = false;
    }
}

impl Aside {
    pub(super) fn call(&self) -> &Call {
        self.call.as_ref().expect(CALL)
    }

    /// Further tries go elsewhere than those that run, where the policy says so: Envoy counts a host as tried once a try to it began.
    fn leave_running(&mut self) {
        if !self.call().route.retry.hosts.other_hosts {
            return;
        }
        let Some(gone_to) = &self.gone_to else { return };
        let visited = gone_to.lock().unwrap_or_else(PoisonError::into_inner);
        for host in &visited.hosts {
            if !self.tried.contains(host) {
                self.tried.push(*host);
            }
        }
    }
}

/// The invariant of [`Aside::call`].
const CALL: &str = "there from the first try to the last";

/// What a retry took out of its cluster's budget. Dropping it gives back the place in flight, and what was paid if the try was
/// not begun: a call that is cancelled while it waits costs nobody anything.
pub(crate) struct Place {
    cluster: Arc<ClusterHandle>,
    /// Where it counts as in flight.
    counted: Arc<ClusterHandle>,
    priority: RoutingPriority,
    again: Again,
    begun: bool,
}

impl Place {
    pub(super) fn pause(&self) -> std::time::Duration {
        self.again.pause
    }

    pub(super) fn begin(&mut self) {
        self.cluster.fates().count(Fate::Begun);
        self.begun = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.again.placed {
            self.counted.budget().end_retry(self.priority);
        }
        if self.again.paid && !self.begun {
            self.cluster.budget().refund();
        }
    }
}

impl<B> Kept<B> {
    /// What a call keeps, and its first try.
    #[inline]
    pub(crate) fn begin(parts: &Parts, payload: Payload<B>, call: Call, hedged: bool) -> (Self, Attempt<B>) {
        let mut aside = Reused::<Aside>::take();
        aside.head.keep(parts);
        call.cluster.budget().deposit();
        let limit = call.try_limit(hedged);
        let head = RequestHead {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            // One that names nobody is listed by no authority.
            target: "",
        };
        aside.retries = RetryState::begin(&call.route.retry, &head, call.time.is_retry);
        aside.hedged = hedged;
        aside.call = Some(call.clone());
        let first = Attempt::first(payload.clone(), call, limit, hedged);
        aside.gone_to = first.gone_to.clone();
        (Self { aside, payload }, first)
    }
}

impl<B: Send + 'static> Kept<B> {
    /// What was sent of the request, for whoever counts calls.
    #[inline]
    pub(crate) fn tell_sent(&self, answer: &mut Answer) {
        if let Ok(response) = answer {
            response.body_mut().answers(match &self.payload {
                Payload::Whole(bytes) => Sent::whole(bytes, self.aside.call().grpc),
                Payload::Streaming(replay) => Sent::Streaming(Arc::clone(replay) as _),
            });
        }
    }
}

impl<B> Kept<B> {
    /// Whether there is another try after `answer`; if there is none, the answer is made what the caller is to have.
    pub(crate) fn judge(&mut self, answer: &mut Answer, shared: &Shared) -> Option<Place> {
        let (end, peer) = match &*answer {
            Ok(response) => (Some(answered(response)), response.body().peer()),
            Err(error) => (error.try_end(), error.peer()),
        };
        let call = self.aside.call();
        match &*answer {
            Ok(_) => {
                if self.aside.retries.retried() > 0 && end.is_some_and(TryEnd::is_good) {
                    call.cluster.fates().count(Fate::Helped);
                }
            }
            Err(error) => {
                if let Some(limit) = error.limit() {
                    call.cluster.fates().refused(limit);
                }
            }
        }
        // The common end: neither policy nor budget is looked at.
        let plain = end.is_none_or(TryEnd::is_good) && call.asked.is_none() && !call.route.retry.minds_good_answers();
        if plain && answer.is_ok() {
            self.commit();
            return None;
        }
        let Some(end) = end.filter(|end| !plain && self.can_be_sent_again(*end)) else {
            self.give_up(answer, Why::NotNamed);
            return None;
        };
        // A policy that looks at good answers has mostly nothing to say about them either.
        if end.is_good()
            && let Some(why) = call.rules().settle(end, answer.as_ref().ok().map(Response::headers))
        {
            self.give_up(answer, why);
            return None;
        }
        let counted = call.cluster.that_called(peer);
        let verdict = self.with_world(shared, &counted, |retries, call, method, world| {
            let headers = answer.as_ref().ok().map(Response::headers);
            retries.judge(&call.rules(), method, end, headers, world)
        });
        match verdict {
            Verdict::GiveUp(why) => {
                self.give_up(answer, why);
                None
            }
            Verdict::Again(again) => {
                // A host that provably did nothing is not asked again, whatever the policy says of hosts.
                let aside = &mut *self.aside;
                aside.may_have_run |= !end.is_untouched();
                if end.is_untouched() || aside.call().route.retry.hosts.other_hosts {
                    let new = peer.filter(|peer| !aside.tried.contains(peer));
                    aside.tried.extend(new);
                }
                Some(self.place(again, counted))
            }
        }
    }

    /// The newest try has reached its own time. It goes on, and may never tell what came of it: whoever watches its host is told now, as
    /// of a try that has ended at its time (Envoy).
    pub(super) fn note_slow(&self) {
        let Some(gone_to) = &self.aside.gone_to else { return };
        let newest = gone_to
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hosts
            .last()
            .copied();
        if let Some(peer) = newest {
            let cluster = self.aside.call().cluster.that_called(Some(peer));
            cluster.observe_at(peer, Observation::LocalOriginFailure);
        }
    }

    /// Whether there is another try beside one that is slow.
    pub(super) fn hedge(&mut self, shared: &Shared) -> Option<Place> {
        let counted = Arc::clone(&self.aside.call().cluster);
        let verdict = self.with_world(shared, &counted, |retries, call, method, world| {
            retries.hedge(&call.rules(), method, world)
        });
        match verdict {
            Verdict::GiveUp(_) => None,
            Verdict::Again(again) => {
                self.aside.leave_running();
                self.aside.may_have_run = true;
                Some(self.place(again, counted))
            }
        }
    }

    /// Whether an answer is worth another try by what it says, whatever is left to pay it with.
    pub(super) fn is_worth_another(&self, answer: &Answer) -> bool {
        let (end, headers) = match answer {
            Ok(response) => (Some(answered(response)), Some(response.headers())),
            Err(error) => (error.try_end(), None),
        };
        end.is_some_and(|end| self.aside.call().rules().names(end, headers))
    }

    /// The request of another try, which had its turn.
    pub(super) fn again(&self, turn: &Turn) -> Request<Attempt<B>> {
        let (aside, call) = (&*self.aside, self.aside.call());
        let attempt = Attempt {
            payload: self.payload.clone(),
            call: call.clone(),
            number: aside.retries.retried() + 1,
            tried: aside.tried.clone(),
            gone_to: aside.gone_to.clone(),
            limit: turn.limit(),
        };
        let mut request = aside.head.rebuild(attempt);
        let previous = HeaderValue::from(aside.retries.retried());
        request.headers_mut().insert(PREVIOUS_ATTEMPTS, previous);
        request
    }

    /// The answer is the caller's. A failing one says why there is none, and the request
    /// that the call is made for learns that trying again further up would only multiply.
    fn give_up(&self, answer: &mut Answer, why: Why) {
        self.commit();
        self.aside.call().cluster.fates().gave_up(why);
        let end = RetriesEnd::of(why);
        // A limit of this process that is reached is not to be stormed from above either (Envoy answers `x-envoy-overloaded`).
        let full = answer.as_ref().is_err_and(Error::is_overflow);
        if end.is_some() || why == Why::Told || full {
            inherit::note_exhausted();
        }
        match answer {
            Ok(response) if end.is_some() => {
                let flags = ResponseFlags {
                    retries: end,
                    last: None,
                };
                response.extensions_mut().insert(flags);
            }
            Ok(_) => {}
            Err(error) => error.not_tried_again(end, self.aside.may_have_run),
        }
    }

    /// No other try will need the body.
    fn commit(&self) {
        if let Payload::Streaming(replay) = &self.payload {
            replay.commit();
        }
    }

    /// A body that is whole is here either way; one that is longer than what may be replayed is sent again only if nothing was done with
    /// it, so that no server is made to take it twice.
    fn can_be_sent_again(&self, end: TryEnd) -> bool {
        match &self.payload {
            Payload::Whole(body) => end.is_untouched() || is_within(body, &self.aside.call().route.retry),
            Payload::Streaming(replay) => replay.can_be_sent_again(),
        }
    }

    fn place(&self, again: Again, counted: Arc<ClusterHandle>) -> Place {
        let call = self.aside.call();
        Place {
            cluster: Arc::clone(&call.cluster),
            counted,
            priority: call.route.priority,
            again,
            begun: false,
        }
    }

    fn with_world<R>(
        &mut self,
        shared: &Shared,
        counted: &ClusterHandle,
        decide: impl FnOnce(&mut RetryState, &Call, &http::Method, &mut World<'_>) -> R,
    ) -> R {
        let Aside {
            head, call, retries, ..
        } = &mut *self.aside;
        let call = call.as_ref().expect(CALL);
        let priority = call.route.priority;
        let mut world = World {
            budget: call.cluster.budget(),
            places: counted.budget(),
            priority,
            limits: counted.hosts().load().cluster.breakers.of(priority).retries,
            calls: counted.breakers().of(priority).requests.used(),
            draw: &mut shared.entropy.draw(),
            unix_seconds: shared.clock.current_time().map(|time| time.as_secs()),
        };
        decide(retries, call, head.method(), &mut world)
    }
}

/// Whether a body may be sent more than once.
pub(super) fn is_within(body: &Bytes, policy: &RetryPolicy) -> bool {
    body.len() as u64 <= policy.whole_replay_limit()
}

fn answered(response: &Response<ResponseBody>) -> TryEnd {
    TryEnd::Answered {
        status: response.status(),
        grpc: response.body().head_status(),
    }
}
