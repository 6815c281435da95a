//! A request that was let in, for as long as it is open.
//!
//! A stream may be open for days, and the rule that let it in may be withdrawn a moment after. So each request that still waits, for its
//! answer or for more of it, hears of every change of its server's rules, and is judged again: one that would not be let in now ends. A
//! request that is over when the rules change costs nothing but a look at a counter.
//!
//! Only toward less: nobody who was refused is let in by this. Of the request there are its method, its URI, its token's claims and its
//! connection left; its headers went to the handler, and to keep a copy of each request's would cost every call what few need. Where the
//! answer turns on a header the stream ends too, and whoever comes again is judged by all there is. An authorizer outside of the process is
//! not asked again about what it has allowed; where it is asked about what it never saw, the stream ends.
//!
//! What ends is what waits. An answer that is there when the rules change, and has its end in the next few frames, is told whole: its handler
//! has run, and a change of rules is to cost no call. It ends as `serve` and tonic's loop can tell: an answer that has not begun is the refusal of any other request; one that has is reset
//! with INADEQUATE_SECURITY, which gRPC reads as PERMISSION_DENIED, and over HTTP/1.1 cut off with its connection. Where it is the connection
//! that would not be let in, that is drained besides, and what waits for its answer may still have it. Counted as `request_withdrawn`.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use mesh_core::authorize::{Facts, GoesOn, Matched, Outcome};
use mesh_core::jwt::JwtClaims;
use mesh_core::route::RequestHead;
use pin_project_lite::pin_project;
use tokio::sync::futures::OwnedNotified;

use super::{AuthorizeLayer, DENIED};
use crate::accept::{ConnectionInfo, Guard};
use crate::refusal::Refusal;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Frames that an answer may still have after the rule was withdrawn, if they need no wait: those of one message, so that a call whose
/// handler has run gets what it did, and not those of a body that always has more.
const MAX_FRAMES_AFTER: u8 = 4;

/// What is left of a request.
pub(super) struct Open {
    rules: Arc<AuthorizeLayer>,
    info: ConnectionInfo,
    /// How often the rules had changed when it was judged.
    seen: u64,
    method: Method,
    uri: Uri,
    claims: Option<Arc<JwtClaims>>,
    /// Whether somebody was asked about it.
    asked: bool,
    /// Whether its answer has begun.
    answered: bool,
    refusal: Refusal,
}

impl Open {
    /// `seen`: from before it was judged.
    pub(super) fn new<B>(
        rules: &Arc<AuthorizeLayer>,
        (info, seen): (ConnectionInfo, u64),
        request: &Request<B>,
        claims: Option<Arc<JwtClaims>>,
        asked: bool,
    ) -> Self {
        Self {
            rules: Arc::clone(rules),
            info,
            seen,
            method: request.method().clone(),
            uri: request.uri().clone(),
            claims,
            asked,
            answered: false,
            refusal: Refusal::forbidden(request, DENIED),
        }
    }

    /// Why it may not go on, if the rules have changed since it was judged.
    fn look(&mut self) -> Option<&'static str> {
        let changes = self.info.changes();
        if changes == self.seen {
            return None;
        }
        self.seen = changes;
        let reason = self.judge();
        if let Some(reason) = reason {
            self.rules.tally.count("request_withdrawn", reason);
        }
        reason
    }

    fn judge(&self) -> Option<&'static str> {
        // The connection is drained. What has no answer yet has as long for it as any other on a connection that ends.
        if self.info.is_unfit() {
            return self.answered.then_some("connection");
        }
        let authorization = match self.info.guard() {
            Guard::Free => return None,
            Guard::Closed => return Some("not_serving"),
            Guard::By(authorization) => authorization,
        };
        let headers = HeaderMap::new();
        let facts = Facts {
            head: Some(RequestHead {
                method: &self.method,
                uri: &self.uri,
                headers: &headers,
                target: "",
            }),
            ..self.info.facts_of(self.claims.as_deref())
        };
        let (reason, matched) = match authorization.goes_on(&facts) {
            GoesOn::Yes { asks: true } if !self.asked => ("ext_authz", None),
            GoesOn::Yes { .. } => return None,
            GoesOn::Unclear => ("headers", None),
            GoesOn::No(matched) => ("rbac", Some(matched)),
        };
        let unclear = Matched {
            filter: reason,
            policy: None,
        };
        let claims = self.claims.as_deref();
        self.rules
            .tell(&self.info, claims, Outcome::Denied, matched.unwrap_or(unclear));
        Some(reason)
    }
}

pin_project! {
    /// [`Open`], and what tells of a change, once somebody waits for one.
    struct Followed {
        open: Open,
        #[pin]
        bell: Option<OwnedNotified>,
    }
}

/// What is followed of a request. In a box: the future and the body that it stands in are moved through every room.
pub(super) struct Watch {
    /// `None`: nothing may change, or it has ended.
    followed: Option<Pin<Box<Followed>>>,
}

impl Watch {
    pub(super) fn new(open: Option<Open>) -> Self {
        let followed = open.map(|open| Box::pin(Followed { open, bell: None }));
        Self { followed }
    }

    /// Moves what is watched to where the answer is, which has begun. What it listens by stays behind.
    pub(super) fn take(&mut self) -> Self {
        let mut followed = self.followed.take();
        if let Some(followed) = &mut followed {
            let mut this = followed.as_mut().project();
            this.open.answered = true;
            this.bell.set(None);
        }
        Self { followed }
    }

    /// What its sender is told, if it may not go on. Without a wait: for whoever has something to do.
    pub(super) fn look(&mut self) -> Option<Refusal> {
        let followed = self.followed.as_mut()?.as_mut().project();
        followed.open.look()?;
        let refusal = followed.open.refusal;
        self.followed = None;
        Some(refusal)
    }

    /// The same, for whoever waits: it is woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        // Each turn is a change that it may stay under.
        loop {
            let Some(followed) = &mut self.followed else {
                return Poll::Pending;
            };
            let mut this = followed.as_mut().project();
            if this.bell.is_none() {
                this.bell.set(Some(Arc::clone(this.open.info.bell()).notified_owned()));
            }
            let bell = this.bell.as_mut().as_pin_mut().expect("it was set a line ago");
            let rang = bell.poll(cx).is_ready();
            if rang {
                this.bell.set(None);
            }
            // Registered first and looked at second, so that no change is lost.
            if let Some(refusal) = self.look() {
                return Poll::Ready(refusal);
            }
            if !rang {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("followed", &self.followed.is_some())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of an answer, for as long as its request may go on.
    #[derive(Debug)]
    pub struct OpenBody<B> {
        // `None`: it was ended.
        #[pin]
        body: Option<B>,
        watch: Watch,
        // Once it may not go on: the frames that it still may have.
        left: Option<u8>,
    }
}

impl<B: Body> OpenBody<B> {
    pub(super) fn new(body: B, watch: Watch) -> Self {
        let watch = if body.is_end_stream() { Watch::new(None) } else { watch };
        Self {
            body: Some(body),
            watch,
            left: None,
        }
    }
}

impl<B> Body for OpenBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // Of a body that always has more nobody ever waits.
        if this.watch.look().is_some() {
            *this.left = Some(MAX_FRAMES_AFTER);
        }
        if *this.left != Some(0)
            && let Poll::Ready(frame) = body.poll_frame(cx)
        {
            *this.left = this.left.map(|left| left - 1);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.left.is_none() && this.watch.poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.body.set(None);
        Poll::Ready(Some(Err(h2::Error::from(h2::Reason::INADEQUATE_SECURITY).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
