//! The client's side of a stream of load reports, as a state machine: responses in, reports pulled out. No IO, no clock.
//!
//! The first request says who reports and nothing else. The server's answer says on which clusters, and how often; from then
//! on there is a report each interval, also when it is empty, which is how the control plane knows that it is alive. An
//! answer that changes nothing does not move the next report (as gRPC C-core has it).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::report::{ClusterLoad, LoadReader};

use crate::node::Node;
use crate::wire::load::{LoadRequest, LoadResponse};

/// The shortest interval kept, whatever the control plane asks: shorter ones cost more than the calls they tell of.
pub(crate) const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The longest, so that timers can hold it.
pub(crate) const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// How much one request holds: clusters, localities, figures and drops, each counted as one. That many take about 1 MiB, and
/// gRPC servers refuse messages of more than 4 MiB. A larger report is sent in several requests.
const MAX_PARTS: usize = 10_000;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct LoadState<'a> {
    reader: &'a LoadReader,
    /// Until it was said.
    node: Option<Arc<Node>>,
    asked: Option<Asked>,
    /// When the next report is taken.
    due: Option<Instant>,
    /// Reports that were taken and not sent; the next is not taken before they are.
    pending: VecDeque<LoadRequest>,
    over: bool,
}

/// What the control plane asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// `None` is all.
    clusters: Option<BTreeSet<Arc<str>>>,
    interval: Duration,
}

impl<'a> LoadState<'a> {
    pub(crate) fn new(reader: &'a LoadReader, node: Arc<Node>) -> Self {
        Self {
            reader,
            node: Some(node),
            asked: None,
            due: None,
            pending: VecDeque::new(),
            over: false,
        }
    }

    /// Takes an answer in.
    ///
    /// # Errors
    ///
    /// When it cannot be obeyed; the stream is of no use then.
    pub(crate) fn receive(&mut self, response: LoadResponse, now: Instant) -> Result<(), &'static str> {
        let interval = response.interval.filter(|interval| !interval.is_zero());
        let interval = interval.ok_or("load_reporting_interval: must be more than 0")?;
        let asked = Asked {
            clusters: (!response.all).then(|| response.clusters.into_iter().collect()),
            interval: interval.clamp(MIN_INTERVAL, MAX_INTERVAL),
        };
        let known = self.asked.as_ref();
        if known.is_none_or(|known| known.interval != asked.interval) {
            self.due = Some(now + asked.interval);
        }
        self.asked = Some(asked);
        Ok(())
    }

    /// When [`has_request`](Self::has_request) should be asked again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether there is something to send.
    pub(crate) fn has_request(&self, now: Instant) -> bool {
        self.node.is_some() || !self.pending.is_empty() || self.due.is_some_and(|due| due <= now)
    }

    /// What to send next.
    pub(crate) fn next_request(&mut self, now: Instant) -> Option<LoadRequest> {
        if let Some(node) = self.node.take() {
            return Some(LoadRequest {
                node: Some(node),
                ..LoadRequest::default()
            });
        }
        if self.pending.is_empty() && self.due.is_some_and(|due| due <= now) {
            self.take(now);
        }
        self.pending.pop_front()
    }

    /// Whether all was told and no cluster is counted any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over && self.pending.is_empty()
    }

    fn take(&mut self, now: Instant) {
        let Some(asked) = &self.asked else { return };
        // The others' windows end here too: one that is asked for later is told of from then on.
        let window = self.reader.take(now);
        let wanted = |load: &ClusterLoad| match &asked.clusters {
            None => true,
            Some(names) => names.contains(load.cluster.as_str()),
        };
        let clusters = window.clusters.into_iter().filter(wanted);
        self.pending = requests(window.span, clusters);
        self.due = Some(now + asked.interval);
        self.over = self.reader.is_idle();
    }
}

/// One request, or several where one would be too large; never none.
fn requests(span: Duration, clusters: impl Iterator<Item = ClusterLoad>) -> VecDeque<LoadRequest> {
    let empty = || LoadRequest {
        span,
        ..LoadRequest::default()
    };
    let (mut requests, mut last, mut parts) = (VecDeque::new(), empty(), 0);
    for load in clusters {
        let more = parts_of(&load);
        if parts > 0 && parts + more > MAX_PARTS {
            requests.push_back(std::mem::replace(&mut last, empty()));
            parts = 0;
        }
        parts += more;
        last.clusters.push(load);
    }
    requests.push_back(last);
    requests
}

fn parts_of(load: &ClusterLoad) -> usize {
    let localities = load.localities.iter();
    1 + load.drops.len() + localities.map(|locality| 1 + locality.figures.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use mesh_core::config::{LoadReporting, Locality};
    use mesh_core::report::{Counted, Load, Loads};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asks(clusters: &[&str], all: bool, interval: Duration) -> LoadResponse {
        LoadResponse {
            clusters: clusters.iter().map(|name| Arc::from(*name)).collect(),
            all,
            interval: Some(interval),
        }
    }

    fn load_of(loads: &Loads, cluster: &str) -> Arc<Load> {
        loads.load(
            &cluster.into(),
            &LoadReporting::of(cluster),
            &Arc::new(Locality::default()),
        )
    }

    fn call(load: &Arc<Load>) {
        let mut call = Counted::begin(Arc::clone(load), true);
        call.saw_headers(StatusCode::OK, Some(0), &HeaderMap::new());
    }

    fn names(request: &LoadRequest) -> Vec<&str> {
        request.clusters.iter().map(|load| load.cluster.as_str()).collect()
    }

    /// A reader of fresh counters, and a moment.
    fn fresh() -> (Loads, LoadReader, Instant) {
        let (loads, now) = (Loads::default(), Instant::now());
        let reader = loads.reader(now);
        (loads, reader, now)
    }

    #[test]
    fn it_says_who_reports_and_then_nothing_until_it_is_asked() {
        let (loads, reader, now) = fresh();
        call(&load_of(&loads, "a"));
        let node = Arc::new(Node::default());
        let mut state = LoadState::new(&reader, Arc::clone(&node));
        assert!(state.has_request(now));
        let first = state.next_request(now).unwrap();
        assert_eq!((first.node, first.clusters.len()), (Some(node), 0));
        assert!(!state.has_request(now + 1_000 * SECOND) && state.due().is_none());
        assert_eq!(state.next_request(now + 1_000 * SECOND), None);
    }

    #[test]
    fn a_report_is_taken_each_interval_with_what_was_counted_in_it() {
        let (loads, reader, now) = fresh();
        let (a, b) = (load_of(&loads, "a"), load_of(&loads, "b"));
        let mut state = LoadState::new(&reader, Arc::default());
        state.next_request(now);
        state.receive(asks(&[], true, 2 * SECOND), now).unwrap();
        assert_eq!(state.due(), Some(now + 2 * SECOND));
        call(&a);
        call(&b);
        assert!(!state.has_request(now + SECOND));
        // Late, and the report says so.
        let late = now + 3 * SECOND;
        let report = state.next_request(late).unwrap();
        assert_eq!(
            (names(&report), report.span, &report.node),
            (vec!["a", "b"], 3 * SECOND, &None)
        );
        assert_eq!(report.clusters[0].counts().issued, 1);
        assert_eq!(state.due(), Some(late + 2 * SECOND), "no report is made up for");
        call(&b);
        let report = state.next_request(now + 5 * SECOND).unwrap();
        assert_eq!((names(&report), report.span), (vec!["a", "b"], 2 * SECOND));
        assert_eq!(report.clusters[0].counts().issued, 0, "told once that it went quiet");
        let names_then = state.next_request(now + 7 * SECOND).map(|report| report.clusters.len());
        assert_eq!(names_then, Some(1), "b went quiet");
        assert_eq!(
            state.next_request(now + 9 * SECOND).unwrap().clusters,
            [],
            "an empty report is a report"
        );
        assert!(!state.is_over());
    }

    #[test]
    fn only_the_clusters_that_are_asked_for_are_told() {
        let (loads, reader, now) = fresh();
        let (a, b) = (load_of(&loads, "a"), load_of(&loads, "b"));
        let mut state = LoadState::new(&reader, Arc::default());
        state.next_request(now);
        state.receive(asks(&["b", "unknown"], false, SECOND), now).unwrap();
        call(&a);
        call(&b);
        assert_eq!(names(&state.next_request(now + SECOND).unwrap()), ["b"]);
        // One that is asked for later is told of from its last window's end.
        state.receive(asks(&["a"], false, SECOND), now + SECOND).unwrap();
        assert_eq!(state.due(), Some(now + 2 * SECOND), "the same interval goes on");
        call(&a);
        let report = state.next_request(now + 2 * SECOND).unwrap();
        assert_eq!((names(&report), report.clusters[0].counts().issued), (vec!["a"], 1));
    }

    #[test]
    fn intervals_are_bounded_and_none_is_refused() {
        for (interval, kept) in [
            (Duration::from_nanos(1), MIN_INTERVAL),
            (SECOND, SECOND),
            (Duration::MAX, MAX_INTERVAL),
        ] {
            let (_loads, reader, now) = fresh();
            let mut state = LoadState::new(&reader, Arc::default());
            state.receive(asks(&[], true, interval), now).unwrap();
            assert_eq!(state.due(), Some(now + kept), "{interval:?}");
        }
        for interval in [None, Some(Duration::ZERO)] {
            let (_loads, reader, now) = fresh();
            let mut state = LoadState::new(&reader, Arc::default());
            let response = LoadResponse {
                interval,
                ..LoadResponse::default()
            };
            assert!(state.receive(response, now).is_err(), "{interval:?}");
            assert_eq!(state.due(), None);
        }
        let (_loads, reader, now) = fresh();
        let mut state = LoadState::new(&reader, Arc::default());
        state.receive(asks(&[], true, 10 * SECOND), now).unwrap();
        state.receive(asks(&[], true, SECOND), now + SECOND).unwrap();
        assert_eq!(state.due(), Some(now + 2 * SECOND), "another interval begins at once");
    }

    #[test]
    fn a_large_report_goes_in_several_requests_and_nothing_is_lost() {
        let (loads, reader, now) = fresh();
        let all: Vec<_> = (0..12_000).map(|n| load_of(&loads, &format!("{n:05}"))).collect();
        all.iter().for_each(call);
        let mut state = LoadState::new(&reader, Arc::default());
        state.next_request(now);
        state.receive(asks(&[], true, SECOND), now).unwrap();
        let (mut told, mut sent) = (Vec::new(), 0);
        while let Some(request) = state.next_request(now + SECOND) {
            told.extend(request.clusters.iter().map(|load| load.cluster.to_string()));
            assert!(request.clusters.iter().map(parts_of).sum::<usize>() <= MAX_PARTS);
            sent += 1;
        }
        assert_eq!(sent, 3);
        assert_eq!(told, (0..12_000).map(|n| format!("{n:05}")).collect::<Vec<_>>());
    }

    #[test]
    fn it_is_over_when_no_cluster_is_counted_any_more_and_all_was_told() {
        let (loads, reader, now) = fresh();
        call(&load_of(&loads, "a"));
        let mut state = LoadState::new(&reader, Arc::default());
        state.next_request(now);
        state.receive(asks(&[], true, SECOND), now).unwrap();
        assert_eq!(names(&state.next_request(now + SECOND).unwrap()), ["a"]);
        assert!(!state.is_over(), "it has not been told that a went quiet");
        assert_eq!(names(&state.next_request(now + 2 * SECOND).unwrap()), ["a"]);
        assert!(state.is_over());
    }
}
