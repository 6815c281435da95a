//! What clients report, kept for whoever wants to look: the newest window of each cluster, and its totals since the client's
//! stream began.
//!
//! Nothing outlives the stream it came by. What a client can make the control plane keep is bounded, by itself and together
//! with all others: each cluster, locality, figure and category of drops takes a place, and what finds none is counted as
//! left out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::config::{ClusterName, Locality};
use mesh_core::identity::SpiffeId;
use mesh_core::report::{ClusterLoad, Counts, Figure, LocalityLoad, Tally};
use tokio::sync::watch;

use crate::node::Node;
use crate::server::service::Caller;
use crate::wire::load::LoadRequest;

/// The most places that one client takes: a thousand clusters in a handful of localities each.
const MAX_OF_CLIENT: usize = 20_000;
/// The most places taken in all. Each costs one to two hundred bytes.
const MAX_IN_ALL: usize = 1_000_000;
/// The longest name kept, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// One client's reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientLoad {
    /// Numbers streams of reports in the order in which they came.
    pub stream: u64,
    /// Who it says it is.
    pub node: Arc<Node>,
    /// Who its certificate says it is.
    pub peer: Option<SpiffeId>,
    /// Where it is.
    pub address: Option<SocketAddr>,
    /// The group it belongs to.
    pub group: Arc<str>,
    /// How many reports it sent.
    pub reports: u64,
    /// What was not kept, for want of room or because of its name.
    pub left_out: u64,
    /// The clusters it told of, by name.
    pub clusters: Vec<ReportedLoad>,
}

/// What a client told of a cluster.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReportedLoad {
    /// How long the newest window was, by the client's clock.
    pub span: Duration,
    /// The newest window.
    pub window: ClusterLoad,
    /// All windows since its stream began.
    pub total: ClusterLoad,
}

/// The newest load reports of every connected client. Clones are one board.
#[derive(Clone)]
pub struct LoadBoard {
    shared: Arc<Shared>,
}

struct Shared {
    interval: Duration,
    tally: Tally,
    board: Mutex<Board>,
    changes: watch::Sender<u64>,
    closing: watch::Sender<bool>,
}

impl LoadBoard {
    /// How often clients report when nothing else is said. Short enough for a person who watches a canary, and for a thousand
    /// clients a hundred small messages a second.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

    /// A board whose clients report every `interval`. Clients keep to at least 100 ms.
    pub fn new(interval: Duration) -> Self {
        Self::counting(interval, Tally::default())
    }

    /// The same, whose streams are counted in `tally`: `lrs_stream_refused` when one did not begin, `lrs_stream_dropped` when one was
    /// ended from this side.
    pub fn counting(interval: Duration, tally: Tally) -> Self {
        let shared = Shared {
            interval,
            tally,
            board: Mutex::default(),
            changes: watch::Sender::default(),
            closing: watch::Sender::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What every connected client told, in the order in which their streams began.
    pub fn snapshot(&self) -> Vec<ClientLoad> {
        self.lock().clients.values().map(Client::show).collect()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Waits for a change: a client came, went, or reported.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Ends every stream of reports, now and from now on: a server that shuts down gracefully would wait for them for ever.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    /// How often clients are asked to report.
    pub fn interval(&self) -> Duration {
        self.shared.interval
    }

    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.shared.closing.subscribe()
    }

    /// Adds a client until the guard is dropped.
    pub(super) fn add(&self, caller: Caller, group: Arc<str>) -> Registered {
        let mut board = self.lock();
        board.last_stream += 1;
        let stream = board.last_stream;
        let client = Client {
            shown: ClientLoad {
                stream,
                node: caller.node,
                peer: caller.peer.identity,
                address: caller.peer.address,
                group,
                reports: 0,
                left_out: 0,
                clusters: Vec::new(),
            },
            clusters: BTreeMap::new(),
            places: 0,
        };
        board.clients.insert(stream, client);
        drop(board);
        self.rang();
        Registered {
            board: self.clone(),
            stream,
        }
    }

    fn rang(&self) {
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for LoadBoard {
    fn default() -> Self {
        Self::new(Self::DEFAULT_INTERVAL)
    }
}

/// A client's place on the board.
#[derive(Debug)]
pub(super) struct Registered {
    board: LoadBoard,
    stream: u64,
}

impl Registered {
    /// Takes a report in.
    pub(super) fn take(&self, report: LoadRequest) {
        self.board.lock().take(self.stream, report);
        self.board.rang();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.board.lock().remove(self.stream);
        self.board.rang();
    }
}

#[derive(Default)]
struct Board {
    clients: BTreeMap<u64, Client>,
    last_stream: u64,
    places: usize,
}

struct Client {
    /// All but the clusters.
    shown: ClientLoad,
    clusters: BTreeMap<(ClusterName, Arc<str>), Row>,
    places: usize,
}

#[derive(Default)]
struct Row {
    span: Duration,
    window: Sums,
    total: Sums,
}

/// The numbers of a cluster. Its localities can be found, as there may be thousands.
#[derive(Clone, Default)]
struct Sums {
    localities: HashMap<Arc<Locality>, Place>,
    drops: BTreeMap<Box<str>, u64>,
    uncategorised_drops: u64,
}

/// The numbers of a locality.
#[derive(Clone, Default)]
struct Place {
    counts: Counts,
    figures: BTreeMap<Box<str>, Figure>,
}

impl Board {
    fn take(&mut self, stream: u64, report: LoadRequest) {
        let Some(client) = self.clients.get_mut(&stream) else {
            return;
        };
        client.shown.reports = client.shown.reports.saturating_add(1);
        let mut room = Room {
            client: &mut client.places,
            all: &mut self.places,
            left_out: &mut client.shown.left_out,
        };
        for load in report.clusters {
            let key = (load.cluster.clone(), Arc::clone(&load.service));
            let names = [load.cluster.as_str(), &load.service];
            if client.clusters.contains_key(&key) || room.has_place_for(&names) {
                client
                    .clusters
                    .entry(key)
                    .or_default()
                    .take(load, report.span, &mut room);
            }
        }
    }

    fn remove(&mut self, stream: u64) {
        if let Some(client) = self.clients.remove(&stream) {
            self.places -= client.places;
        }
    }
}

/// Where what is new asks for a place.
struct Room<'a> {
    client: &'a mut usize,
    all: &'a mut usize,
    left_out: &'a mut u64,
}

impl Room<'_> {
    fn has_place_for(&mut self, names: &[&str]) -> bool {
        let short = names.iter().all(|name| name.len() <= MAX_NAME_BYTES);
        if short && *self.client < MAX_OF_CLIENT && *self.all < MAX_IN_ALL {
            *self.client += 1;
            *self.all += 1;
            return true;
        }
        *self.left_out = self.left_out.saturating_add(1);
        false
    }
}

impl Row {
    /// A later window takes the place of the one before, and is added to the total. It holds only what the total has a place
    /// for.
    fn take(&mut self, load: ClusterLoad, span: Duration, room: &mut Room<'_>) {
        self.span = span;
        self.window = Sums::default();
        for place in self.total.localities.values_mut() {
            place.counts.in_progress = 0;
        }
        for LocalityLoad {
            locality,
            counts,
            figures,
        } in load.localities
        {
            let names = [&*locality.region, &*locality.zone, &*locality.sub_zone];
            if !self.total.localities.contains_key(&locality) && !room.has_place_for(&names) {
                continue;
            }
            let known = self.total.localities.entry(Arc::clone(&locality)).or_default();
            let figures = figures.into_iter();
            let figures = figures
                .filter(|(name, _)| known.figures.contains_key(name) || room.has_place_for(&[name]))
                .collect::<BTreeMap<_, _>>();
            // Envoy tells of a locality once for each priority, so a window may have it several times.
            for sum in [known, self.window.localities.entry(locality).or_default()] {
                let in_progress = sum.counts.in_progress.saturating_add(counts.in_progress);
                sum.counts.add(&counts);
                sum.counts.in_progress = in_progress;
                for (name, figure) in &figures {
                    sum.figures.entry(name.clone()).or_default().add(figure);
                }
            }
        }
        for (category, count) in load.drops {
            if self.total.drops.contains_key(&category) || room.has_place_for(&[&category]) {
                let total = self.total.drops.entry(category.clone()).or_default();
                *total = total.saturating_add(count);
                self.window.drops.insert(category, count);
            }
        }
        self.window.uncategorised_drops = load.uncategorised_drops;
        let total = &mut self.total.uncategorised_drops;
        *total = total.saturating_add(load.uncategorised_drops);
    }
}

impl Client {
    fn show(&self) -> ClientLoad {
        let clusters = self.clusters.iter().map(|((cluster, service), row)| ReportedLoad {
            span: row.span,
            window: row.window.show(cluster, service),
            total: row.total.show(cluster, service),
        });
        ClientLoad {
            clusters: clusters.collect(),
            ..self.shown.clone()
        }
    }
}

impl Sums {
    fn show(&self, cluster: &ClusterName, service: &Arc<str>) -> ClusterLoad {
        let localities = self.localities.iter();
        let mut localities: Vec<_> = localities
            .map(|(locality, place)| LocalityLoad {
                locality: Arc::clone(locality),
                counts: place.counts,
                figures: place.figures.clone(),
            })
            .collect();
        let name = |load: &LocalityLoad| {
            let Locality { region, zone, sub_zone } = &*load.locality;
            [region.clone(), zone.clone(), sub_zone.clone()]
        };
        localities.sort_by_cached_key(name);
        ClusterLoad {
            localities,
            drops: self.drops.clone(),
            uncategorised_drops: self.uncategorised_drops,
            ..ClusterLoad::new(cluster.clone(), Arc::clone(service))
        }
    }
}

impl fmt::Debug for LoadBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let board = self.lock();
        f.debug_struct("LoadBoard")
            .field("interval", &self.shared.interval)
            .field("clients", &board.clients.len())
            .field("places", &board.places)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Peer;

    fn board() -> (LoadBoard, Registered) {
        let board = LoadBoard::default();
        let registered = join(&board);
        (board, registered)
    }

    fn join(board: &LoadBoard) -> Registered {
        let caller = Caller {
            node: Arc::default(),
            peer: Peer::default(),
        };
        board.add(caller, "g".into())
    }

    fn zone(name: &str, issued: u64, in_progress: u64) -> LocalityLoad {
        LocalityLoad {
            locality: Arc::new(Locality {
                zone: name.into(),
                ..Locality::default()
            }),
            counts: Counts {
                issued,
                succeeded: issued,
                errored: 0,
                in_progress,
            },
            figures: BTreeMap::from([("named_metrics.q".into(), Figure { calls: 1, sum: 2.0 })]),
        }
    }

    fn report(localities: Vec<LocalityLoad>, drops: &[(&str, u64)]) -> LoadRequest {
        LoadRequest {
            span: Duration::from_secs(1),
            clusters: vec![ClusterLoad {
                localities,
                drops: drops.iter().map(|(name, count)| ((*name).into(), *count)).collect(),
                uncategorised_drops: 1,
                ..ClusterLoad::new("c".into(), "eds".into())
            }],
            ..LoadRequest::default()
        }
    }

    fn only(board: &LoadBoard) -> ReportedLoad {
        let [client] = &board.snapshot()[..] else {
            panic!("not one client")
        };
        let [cluster] = &client.clusters[..] else {
            panic!("not one cluster")
        };
        cluster.clone()
    }

    #[test]
    fn the_newest_window_is_kept_beside_the_totals() {
        let (board, client) = board();
        client.take(report(vec![zone("a", 5, 2), zone("b", 1, 0)], &[("lb", 3)]));
        // Envoy's way: the same place twice, once for each priority.
        client.take(report(vec![zone("a", 1, 1), zone("a", 2, 3)], &[("lb", 4), ("x", 1)]));
        let seen = only(&board);
        assert_eq!(board.snapshot()[0].reports, 2);
        assert_eq!((seen.window.localities.len(), seen.total.localities.len()), (1, 2));
        let counts = |issued, in_progress| zone("", issued, in_progress).counts;
        assert_eq!(seen.window.localities[0].counts, counts(3, 4));
        assert_eq!(seen.total.localities[0].counts, counts(8, 4));
        assert_eq!(seen.total.localities[1].counts, counts(1, 0));
        let figure = Figure { calls: 3, sum: 6.0 };
        assert_eq!(seen.total.localities[0].figures["named_metrics.q"], figure);
        assert_eq!((seen.window.dropped(), seen.total.dropped()), (6, 10));
        assert_eq!(seen.total.drops, [("lb".into(), 7), ("x".into(), 1)].into());
    }

    #[test]
    fn nothing_outlives_its_stream() {
        let (board, first) = board();
        let second = join(&board);
        for client in [&first, &second] {
            client.take(report(vec![zone("a", 1, 0)], &[]));
        }
        assert_eq!(board.snapshot().len(), 2);
        drop(first);
        assert_eq!(board.snapshot()[0].stream, 2);
        drop(second);
        assert_eq!((board.snapshot().len(), board.lock().places), (0, 0));
    }

    #[test]
    fn a_client_can_fill_its_share_and_no_more() {
        let (board, client) = board();
        for n in 0..50 {
            let localities = (0..1_000).map(|m| zone(&format!("{n}-{m}"), 1, 0)).collect();
            client.take(report(localities, &[("lb", 1)]));
        }
        let seen = &board.snapshot()[0];
        assert_eq!(board.lock().places, MAX_OF_CLIENT);
        assert!(seen.left_out > 0);
        // What is known is still kept up to date.
        client.take(report(vec![zone("0-0", 4, 0)], &[("lb", 1)]));
        assert_eq!(only(&board).window.localities[0].counts.issued, 4);
        let other = join(&board);
        other.take(report(vec![zone("a", 1, 0)], &[]));
        assert_eq!(board.snapshot()[1].clusters.len(), 1, "another has room of its own");
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        other.take(report(vec![zone(&long, 1, 0)], &[(&long, 1)]));
        assert_eq!(board.snapshot()[1].left_out, 2);
    }

    #[test]
    fn sums_that_lie_do_not_overflow() {
        let (board, client) = board();
        for _ in 0..3 {
            client.take(report(vec![zone("a", u64::MAX, u64::MAX)], &[("lb", u64::MAX)]));
        }
        let total = only(&board).total;
        assert_eq!((total.counts().issued, total.dropped()), (u64::MAX, u64::MAX));
    }
}
