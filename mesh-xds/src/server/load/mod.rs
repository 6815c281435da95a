//! The sink for load reports (LRS): asks every client for all its clusters, and keeps what it tells on a [`LoadBoard`].
//!
//! A client is judged as on an ADS stream, by the same [`Grouping`]: what it claims of itself must agree with its
//! certificate, or its reports would be somebody else's. Reports are asked for with `send_all_clusters`; a client that does
//! not announce that it understands this reports nothing. Only what it then tells is believed, and only of itself: whoever
//! acts on reports should remember that any one client can lie.

mod board;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use tower::Service;

use super::peer::{Line, Peer};
use super::room::Room;
use super::service::{Caller, Grouping};
use super::stream::{enter, unentered};
use crate::wire::load::{self, LoadResponse, LoadServer, Reports, Responses, TakeLoad};

pub use board::{ClientLoad, LoadBoard, ReportedLoad};

/// What is counted of streams, by reason: those that did not begin, and those that were ended here.
const REFUSED: &str = "lrs_stream_refused";
const DROPPED: &str = "lrs_stream_dropped";

/// How long a client may keep a stream open without saying who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The `LoadReportingService` of a control plane, for tonic's router.
///
/// Served over [`Io`](super::Io), it knows its callers' certificates.
#[derive(Clone, Debug)]
pub struct LoadService {
    inner: LoadServer<Sink>,
}

impl LoadService {
    /// Puts the reports of every caller that `grouping` admits on `board`.
    pub fn new(board: LoadBoard, grouping: impl Grouping) -> Self {
        Self::of(board, grouping, false)
    }

    /// The same of callers alone whose connection shows a verified certificate, as
    /// [`DiscoveryServices::authenticated`](super::DiscoveryServices::authenticated).
    pub fn authenticated(board: LoadBoard, grouping: impl Grouping) -> Self {
        Self::of(board, grouping, true)
    }

    fn of(board: LoadBoard, grouping: impl Grouping, authenticated: bool) -> Self {
        let sink = Sink {
            room: Room::default(),
            authenticated,
            board,
            grouping: Arc::new(grouping),
        };
        Self {
            inner: load::service(sink),
        }
    }
}

impl NamedService for LoadService {
    const NAME: &'static str = <LoadServer<Sink> as NamedService>::NAME;
}

impl Service<Request<Body>> for LoadService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}

struct Sink {
    /// As much as there is for streams of xDS.
    room: Room,
    authenticated: bool,
    board: LoadBoard,
    grouping: Arc<dyn Grouping>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink")
            .field("board", &self.board)
            .finish_non_exhaustive()
    }
}

impl TakeLoad for Sink {
    fn begin(&self, extensions: &Extensions, reports: Reports) -> Result<Responses, Status> {
        let line = extensions.get::<Line>().cloned().unwrap_or_default();
        let place = enter(&self.room, &line, self.authenticated).inspect_err(|refusal| {
            self.board.tally().count(REFUSED, unentered(refusal));
        })?;
        let peer = line.peer().clone();
        let (sender, receiver) = mpsc::channel(1);
        let (board, grouping) = (self.board.clone(), Arc::clone(&self.grouping));
        // Ends with the client's half of the stream, or when the board is closed.
        tokio::spawn(async move {
            if let Err(End { event, reason, status }) = take(&board, &*grouping, peer, reports, &sender).await {
                board.tally().count(event, reason);
                drop(sender.send(Err(status)).await);
            }
            drop(place);
        });
        Ok(receiver)
    }
}

/// Why a stream was ended from this side, and as what that is counted.
struct End {
    event: &'static str,
    reason: &'static str,
    status: Status,
}

impl End {
    fn refused(reason: &'static str, status: Status) -> Self {
        Self {
            event: REFUSED,
            reason,
            status,
        }
    }

    fn dropped(reason: &'static str, status: Status) -> Self {
        Self {
            event: DROPPED,
            reason,
            status,
        }
    }

    /// A message that cannot be read, or would take too much room if it were.
    fn unreadable(status: Status) -> Self {
        Self::dropped("unreadable", status)
    }
}

async fn take(
    board: &LoadBoard,
    grouping: &dyn Grouping,
    peer: Peer,
    mut reports: Reports,
    sender: &mpsc::Sender<Result<LoadResponse, Status>>,
) -> Result<(), End> {
    let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, reports.next()).await;
    let late = |_| End::refused("late", Status::deadline_exceeded("the first request did not come"));
    let Some(first) = first.map_err(late)?.map_err(End::unreadable)? else {
        return Ok(());
    };
    let node = first.node.clone().unwrap_or_default();
    let caller = Caller { node, peer };
    let group = grouping
        .group(&caller)
        .map_err(|refusal| End::refused("refused", Status::permission_denied(refusal.to_string())))?;
    let registered = board.add(caller, group);
    let asks = LoadResponse {
        clusters: Vec::new(),
        all: true,
        interval: Some(board.interval()),
    };
    if sender.send(Ok(asks)).await.is_err() {
        return Ok(());
    }
    if !first.clusters.is_empty() {
        registered.take(first);
    }
    let mut closing = board.closing();
    loop {
        tokio::select! {
            report = reports.next() => match report.map_err(End::unreadable)? {
                Some(report) => registered.take(report),
                None => return Ok(()),
            },
            _ = closing.wait_for(|closing| *closing) => {
                let status = Status::unavailable("the control plane is shutting down");
                return Err(End::dropped("closed", status));
            }
        }
    }
}

/// What the board shows of a client that said this, for fuzzers.
#[cfg(feature = "fuzzing")]
pub(super) fn shown(board: &LoadBoard, caller: Caller, reports: Vec<load::LoadRequest>) -> ClientLoad {
    let registered = board.add(caller, "g".into());
    for report in reports {
        registered.take(report);
    }
    board.snapshot().remove(0)
}
