//! Load reports to the control plane (LRS, gRFC A27): one stream beside the ADS stream, on the same connection.
//!
//! ```text
//! data plane - Loads (counters) - LoadReader - LoadState (pure) - wire::load
//! ```
//!
//! There is a stream only while some cluster is to be reported on (its `lrs_server` says `self`). It is of no account to the
//! configuration: when it ends it is opened again after a pause, and a control plane that has no such service is not asked
//! again on that connection. What was counted while there was no stream is in the first report of the next; a report that
//! was on its way when a stream ended is lost, as everywhere (LRS acknowledges nothing).

pub(crate) mod state;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_core::config::ClusterName;
use mesh_core::report::{LoadReader, Loads};
use mesh_core::{Entropy, Link};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use self::state::LoadState;
use super::Backoff;
use crate::credentials::Credentialed;
use crate::node::Node;
use crate::wire::load::{Ended, IncomingLoad, LoadRequest};

/// Announces that the answer "all clusters" is understood (LRS, `send_all_clusters`).
const SUPPORTS_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// Stands in for "no deadline" in a timer that must have one.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes the reporters of a process.
#[derive(Debug)]
pub(super) struct Reporters {
    loads: Loads,
    node: Arc<Node>,
    entropy: Entropy,
    since: std::time::Instant,
}

/// Reports what a process counts to one control plane, for as long as that has a connection. Clones are one reporter: what
/// one has told, another does not tell again.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    loads: Loads,
    /// The control plane's.
    authorities: Arc<[String]>,
    /// From when the control plane was first spoken to. One that stands by for others and never is must not keep what is
    /// counted no more from being let go of.
    reader: Arc<OnceLock<LoadReader>>,
    since: std::time::Instant,
    node: Arc<Node>,
    entropy: Entropy,
}

impl Reporters {
    /// For what is counted at `link`, reported as `node`. It does not keep the link alive.
    pub(super) fn new(link: &Link, node: &Node) -> Self {
        let mut node = node.clone();
        node.features.push(SUPPORTS_ALL.into());
        Self {
            loads: link.loads().clone(),
            node: Arc::new(node),
            entropy: link.entropy().clone(),
            since: now(),
        }
    }

    /// The reporter for one control plane, which serves `authorities`. It is told of the clusters that come from there
    /// (`lrs_server` can say nothing else, gRFC A47). Each has windows of its own: two that stand in for one another are each
    /// told every count, also while both are connected, as a fallback and the one that takes over from it are (gRFC A71).
    pub(super) fn of(&self, authorities: Vec<String>) -> Reporter {
        Reporter {
            loads: self.loads.clone(),
            authorities: authorities.into(),
            reader: Arc::default(),
            since: self.since,
            node: Arc::clone(&self.node),
            entropy: self.entropy.clone(),
        }
    }
}

/// The authority of a cluster's name; that of plain names has no name itself.
fn authority(name: &str) -> &str {
    let rest = name.strip_prefix("xdstp://").unwrap_or("/");
    rest.split_once('/').map_or(rest, |(authority, _)| authority)
}

impl Reporter {
    /// What it was told last, and so what is new. The first window begins with the process.
    fn reader(&self) -> &LoadReader {
        self.reader.get_or_init(|| {
            let served = Arc::clone(&self.authorities);
            let is_served = move |cluster: &ClusterName| {
                let authority = authority(cluster.as_str());
                served.iter().any(|served| served == authority)
            };
            self.loads.reader_of(self.since, is_served)
        })
    }

    /// Reports over `channel`, for ever: whoever drives it drops it when the connection breaks.
    pub(super) async fn run(&self, channel: Credentialed) -> Infallible {
        let mut backoff = Backoff::new(self.entropy.clone());
        loop {
            until_counted(self.reader()).await;
            match self.report(channel.clone(), &mut backoff).await {
                // The next cluster that is counted opens it again.
                None => {}
                Some(Ended::Unimplemented) => {
                    tracing::debug!("the control plane takes no load reports");
                    return std::future::pending().await;
                }
                Some(Ended::Because(why)) => {
                    tracing::debug!(why, "the stream of load reports ended");
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// One stream, to its end; `None` when there is nothing left to report.
    async fn report(&self, channel: Credentialed, backoff: &mut Backoff) -> Option<Ended> {
        let (requests, outgoing) = mpsc::channel::<LoadRequest>(1);
        let mut incoming = IncomingLoad::open(channel, outgoing);
        let mut state = LoadState::new(self.reader(), Arc::clone(&self.node));
        loop {
            let wake = state.due().map_or_else(|| Instant::now() + FAR, Instant::from_std);
            tokio::select! {
                room = requests.reserve(), if state.has_request(now()) => {
                    let Ok(room) = room else { return Some(Ended::Because("closed by the control plane".into())) };
                    if let Some(request) = state.next_request(now()) {
                        room.send(request);
                    }
                    if state.is_over() {
                        return None;
                    }
                }
                response = incoming.next() => match response {
                    Ok(response) => {
                        if let Err(why) = state.receive(response, now()) {
                            return Some(Ended::Because(why.into()));
                        }
                        backoff.heard();
                    }
                    Err(ended) => return Some(ended),
                },
                () = sleep_until(wake) => {}
            }
        }
    }
}

/// Waits until some cluster is to be reported on.
async fn until_counted(reader: &LoadReader) {
    let bell = Arc::new(Notify::new());
    let ring = Arc::clone(&bell);
    // First the subscription, then the look, or a change between them would be missed.
    let _subscription = reader.loads().on_change(move || ring.notify_one());
    while reader.is_idle() {
        bell.notified().await;
    }
}

/// tokio's time, which a test may pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use mesh_core::config::{LoadReporting, Snapshot};

    use super::*;

    #[test]
    fn each_control_plane_is_told_every_count_of_its_own_clusters() {
        let link = Link::fixed(Snapshot::empty(), None);
        let reporters = Reporters::new(&link, &Node::default());
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let first = reporters.of(list(&[""]));
        let fallback = reporters.of(list(&[""]));
        let other = reporters.of(list(&["other", "third"]));
        let named = "xdstp://other/envoy.config.cluster.v3.Cluster/c";
        let _counted = ["c", named].map(|name| {
            let drops = link.loads().drops(&name.into(), &LoadReporting::of("eds"));
            drops.count_uncategorised();
            drops
        });
        let told = |reporter: &Reporter| {
            let clusters = reporter.reader().take(now()).clusters.into_iter();
            let told = clusters
                .filter(|one| !one.is_quiet())
                .map(|one| one.cluster.to_string());
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(&first), ["c"]);
        assert_eq!(told(&first), [""; 0], "it was told");
        assert_eq!(told(&fallback), ["c"]);
        assert_eq!(told(&other), [named]);
    }

    #[test]
    fn the_authority_of_a_name() {
        for (name, expected) in [
            ("c", ""),
            ("outbound|80||a/b", ""),
            ("xdstp:///envoy.config.cluster.v3.Cluster/c", ""),
            ("xdstp://a.b/envoy.config.cluster.v3.Cluster/c", "a.b"),
            ("xdstp://a", "a"),
        ] {
            assert_eq!(authority(name), expected, "{name}");
        }
    }
}
