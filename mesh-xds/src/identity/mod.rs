//! Where the workload's identity comes from, and how it stays fresh.
//!
//! A provider of the bootstrap is run by one task that publishes to the link: [`files`] reads what somebody else renews,
//! [`join`] asks a CA, `workload` listens to SPIRE's agent. What is published is always usable: a failure is told only while there is no valid identity, and
//! otherwise tried again while the old one lasts. Sessions that are open go on; the next handshake takes the new one.
//!
//! Other providers of the bootstrap run when a filter chain names them ([`others`]).
//!
//! Beside the provider, [`age`] watches what was published last: a certificate that grows old without a successor is counted
//! while there is still time, and one that has ended is taken away, whatever its provider waits for.

mod age;
pub(crate) mod bundle_map;
mod federation;
mod files;
mod issue;
mod join;
mod others;
mod term;
#[cfg(feature = "workload-api")]
mod workload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::config::{Reason, ReasonKind};
use mesh_core::identity::{Identity, TrustDomain};
use mesh_core::link::Standing;
use mesh_core::report::Tally;
use mesh_core::{Entropy, Link, live};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

use crate::bootstrap::{Half, Provider};
use crate::connector::Connector;
use federation::Federation;
pub(crate) use others::{Maker, Others};
use term::{Life, remaining};

/// The longest nap between looks at the wall clock, which may jump while monotonic time does not (a laptop that slept).
const MAX_NAP: Duration = Duration::from_secs(60);

/// The event that providers count, by outcome: `issued`, `failed`, and the marks of [`age`].
const EVENT: &str = "identity";
/// The same of those beside the workload's own.
const OTHER_EVENT: &str = "other_identity";

/// A provider and what it feeds.
pub(crate) struct Supply {
    provider: Provider,
    connector: Connector,
    outlet: Outlet,
    entropy: Entropy,
}

/// The publishing end, with the clock that says what is valid.
struct Outlet {
    writer: live::Writer<Standing>,
    clock: Arc<dyn TimeProvider>,
    tally: Tally,
    event: &'static str,
    federation: Federation,
    held: Mutex<Held>,
}

/// What is remembered of the past.
#[derive(Default)]
struct Held {
    /// The newest identity and its life. It stays here when it has ended, since the clock that says so may be set right.
    newest: Option<(Identity, Life)>,
    /// Why there is no newer one: the last failure since then.
    failure: Option<String>,
}

/// What supplies have in common.
struct Parts {
    connector: Connector,
    clock: Arc<dyn TimeProvider>,
    tally: Tally,
    event: &'static str,
    entropy: Entropy,
}

impl Parts {
    fn of(connector: Connector, link: &Link, event: &'static str) -> Self {
        Self {
            connector,
            clock: Arc::clone(link.wall_clock()),
            tally: link.tally().clone(),
            event,
            entropy: link.entropy().clone(),
        }
    }

    fn supply(&self, provider: Provider, writer: live::Writer<Standing>) -> Supply {
        Supply {
            provider,
            connector: self.connector.clone(),
            outlet: Outlet {
                writer,
                clock: Arc::clone(&self.clock),
                tally: self.tally.clone(),
                event: self.event,
                federation: Federation::new(BTreeMap::new()),
                held: Mutex::default(),
            },
            entropy: self.entropy.clone(),
        }
    }
}

impl Supply {
    /// The workload's own.
    pub(crate) fn new(provider: Provider, connector: Connector, link: &Link, writer: live::Writer<Standing>) -> Self {
        Parts::of(connector, link, EVENT).supply(provider, writer)
    }

    /// Trusts other domains, too: by the roots in these files.
    pub(crate) fn federated(mut self, files: BTreeMap<TrustDomain, PathBuf>) -> Self {
        self.outlet.federation = Federation::new(files);
        self
    }

    /// Runs until `stop` completes.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        self.outlet
            .lacking(ReasonKind::Waiting, "the workload is being given its identity");
        let supplying = async {
            self.outlet.federation.read(&self.outlet).await;
            match &self.provider {
                Provider::FileWatcher(files) => files::supply(files.into(), &self.outlet).await,
                Provider::Half(half) => match &half.half {
                    Half::Certificate(identity) => {
                        let files = files::Files::half(identity, half.refresh_interval);
                        files::supply(files, &self.outlet).await
                    }
                    // No identity comes of it, and nobody makes one of it.
                    Half::Trust(_) => std::future::pending().await,
                },
                Provider::MeshCa(ca) => join::supply(ca, &self.connector, &self.outlet, &self.entropy).await,
                Provider::IstioAgent(agent) => match files::are_there(&agent.files).await {
                    true => files::supply((&agent.files).into(), &self.outlet).await,
                    false => join::supply(&agent.ca, &self.connector, &self.outlet, &self.entropy).await,
                },
                #[cfg(feature = "workload-api")]
                Provider::WorkloadApi(api) => workload::supply(api, &self.connector, &self.outlet, &self.entropy).await,
            }
        };
        tokio::select! {
            () = stop => {}
            never = supplying => match never {},
            never = age::watch(&self.outlet) => match never {},
            never = federation::watch(&self.outlet) => match never {},
        }
    }
}

impl Outlet {
    /// Publishes a new identity whose life begins at `begin`.
    fn issued(&self, identity: Identity, begin: UnixTime) {
        tracing::info!(id = %identity.id(), not_after = identity.svid().not_after().as_secs(), "the workload has an identity");
        self.tally.count(self.event, "issued");
        let life = Life::new(begin, &identity);
        *self.held() = Held {
            newest: Some((identity.clone(), life)),
            failure: None,
        };
        self.writer.publish(Ok(self.federation.extend(identity)));
    }

    /// Publishes the newest identity again, with other roots, if there is one.
    fn republish(&self) {
        if let (Some((identity, _)), true) = (self.newest(), self.standing().is_ok()) {
            self.writer.publish(Ok(self.federation.extend(identity)));
        }
    }

    /// Tells a failure, unless there is an identity that still holds.
    fn failed(&self, why: &impl fmt::Display) {
        tracing::warn!(reason = %why, "the workload's identity could not be renewed");
        self.tally.count(self.event, "failed");
        let why = why.to_string();
        match self.valid() {
            None => self.lacking(ReasonKind::NoIdentity, format!("the workload has no identity: {why}")),
            // It had ended by a clock that was set right meanwhile.
            Some(identity) if self.standing().is_err() => {
                self.writer.publish(Ok(self.federation.extend(identity)));
            }
            Some(_) => {}
        }
        self.held().failure = Some(why);
    }

    /// Takes the newest identity away, because whoever gave it says so.
    #[cfg(feature = "workload-api")]
    fn revoked(&self, why: &impl fmt::Display) {
        self.held().newest = None;
        self.failed(why);
    }

    /// Takes the newest identity away, because it has ended.
    fn ended(&self) {
        let why = match &self.held().failure {
            Some(failure) => format!("the workload's certificate has ended and was not renewed: {failure}"),
            None => "the workload's certificate has ended and was not renewed".to_owned(),
        };
        self.lacking(ReasonKind::NoIdentity, why);
    }

    /// Tells that there is no identity: not yet, which calls wait for, or for a reason.
    fn lacking(&self, kind: ReasonKind, text: impl Into<Arc<str>>) {
        self.writer.publish(Err(Reason::new(kind, text)));
    }

    /// The newest identity, if its dates allow.
    fn valid(&self) -> Option<Identity> {
        let (identity, _) = self.newest()?;
        (!remaining(&identity, self.now()).is_zero()).then_some(identity)
    }

    /// The newest identity, ended or not.
    fn newest(&self) -> Option<(Identity, Life)> {
        self.held().newest.clone()
    }

    fn standing(&self) -> Standing {
        self.writer.reader().load_full().as_ref().clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> UnixTime {
        // A clock that cannot tell the time makes everything look expired: then nothing is trusted.
        self.clock
            .current_time()
            .unwrap_or(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)))
    }

    /// Sleeps for `term` by whichever clock is first: the wall clock goes on while a machine sleeps, and the other one when
    /// the wall clock is set back. No longer than until it was set back to before `begun`, if that is something.
    async fn rest(&self, term: Duration, begun: Option<UnixTime>) {
        let (wake, end) = (term::after(self.now(), term), Instant::now() + term);
        loop {
            let by_wall = Duration::from_secs(wake.as_secs().saturating_sub(self.now().as_secs()));
            let left = by_wall.min(end.saturating_duration_since(Instant::now()));
            let is_set_back = begun.is_some_and(|begun| self.now().as_secs() < begun.as_secs());
            if left.is_zero() || is_set_back {
                return;
            }
            tokio::time::sleep(left.min(MAX_NAP)).await;
        }
    }
}
