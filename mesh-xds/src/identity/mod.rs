//! Where the workload's identity comes from, and how it stays fresh.
//!
//! A provider of the bootstrap is run by one task that publishes to the link: [`files`] reads what somebody else renews,
//! [`join`] asks a CA. What is published is always usable: a failure is told only while there is no valid identity, and
//! otherwise tried again while the old one lasts. Sessions that are open go on; the next handshake takes the new one.

pub(crate) mod bundle_map;
mod files;
mod issue;
mod join;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{Reason, ReasonKind};
use mesh_core::identity::Identity;
use mesh_core::link::Standing;
use mesh_core::report::Tally;
use mesh_core::{Entropy, Link, live};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::bootstrap::Provider;
use crate::connector::Connector;

/// The longest nap between looks at the wall clock, which may jump while monotonic time does not (a laptop that slept).
const MAX_NAP: Duration = Duration::from_secs(60);

/// The event that providers count, by outcome.
const EVENT: &str = "identity";

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
}

impl Supply {
    pub(crate) fn new(provider: Provider, connector: Connector, link: &Link, writer: live::Writer<Standing>) -> Self {
        Self {
            provider,
            connector,
            outlet: Outlet {
                writer,
                clock: Arc::clone(link.wall_clock()),
                tally: link.tally().clone(),
            },
            entropy: link.entropy().clone(),
        }
    }

    /// Runs until `stop` completes.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        self.outlet
            .lacking(ReasonKind::Waiting, "the workload is being given its identity");
        let supplying = async {
            match &self.provider {
                Provider::FileWatcher(files) => files::supply(files, &self.outlet).await,
                // No identity comes of it, and nobody makes one of it.
                Provider::Half(_) => std::future::pending().await,
                Provider::MeshCa(ca) => join::supply(ca, &self.connector, &self.outlet, &self.entropy).await,
            }
        };
        tokio::select! {
            () = stop => {}
            never = supplying => {
                let never: Infallible = never;
                match never {}
            }
        }
    }
}

impl Outlet {
    /// Publishes a new identity.
    fn issued(&self, identity: Identity) {
        tracing::info!(id = %identity.id(), not_after = identity.svid().not_after().as_secs(), "the workload has an identity");
        self.tally.count(EVENT, "issued");
        self.writer.publish(Ok(identity));
    }

    /// Tells a failure, unless there is an identity that still holds.
    fn failed(&self, why: &impl fmt::Display) {
        tracing::warn!(reason = %why, "the workload's identity could not be renewed");
        self.tally.count(EVENT, "failed");
        if self.valid().is_none() {
            self.lacking(ReasonKind::NoIdentity, format!("the workload has no identity: {why}"));
        }
    }

    /// Tells that there is no identity: not yet, which calls wait for, or for a reason.
    fn lacking(&self, kind: ReasonKind, text: impl Into<Arc<str>>) {
        self.writer.publish(Err(Reason::new(kind, text)));
    }

    /// The current identity, if its dates allow.
    fn valid(&self) -> Option<Identity> {
        let standing = self.writer.reader().load_full();
        let identity = standing.as_ref().as_ref().ok()?;
        (!remaining(identity, self.now()).is_zero()).then(|| identity.clone())
    }

    fn now(&self) -> UnixTime {
        // A clock that cannot tell the time makes everything look expired: then nothing is trusted.
        self.clock
            .current_time()
            .unwrap_or(UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX)))
    }

    /// Sleeps until the wall clock shows `until`.
    async fn sleep_until(&self, until: UnixTime) {
        loop {
            let left = until.as_secs().saturating_sub(self.now().as_secs());
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_secs(left).min(MAX_NAP)).await;
        }
    }
}

/// How long an identity is still valid.
fn remaining(identity: &Identity, now: UnixTime) -> Duration {
    let end = identity.svid().not_after().as_secs();
    Duration::from_secs(end.saturating_sub(now.as_secs()))
}
