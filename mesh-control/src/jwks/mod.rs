//! The keys of whoever signs tokens, where a document names an address and not the keys (Istio `jwksUri`, OpenID discovery).
//!
//! The control plane fetches them, and nobody else: what is published has the keys themselves, so that no workload calls an address
//! for a document's author, and none waits for an issuer. What is fetched is a value of the control plane and outlives readings of
//! the folder, and where there is a state directory of the process too (`records`): a source is asked again every [`REFRESH_INTERVAL`], the
//! last good keys stay while it cannot be asked, and each change is published like a saved document. Until there are any, tokens of that issuer are refused: its provider has no key.
//!
//! `keeper` decides when what is asked, `fetch` asks, `dial` says where connections may lead. Whoever may write a document chooses
//! addresses that this process then calls (the class of Istio's CVE-2026-41413): so only `https`, but on loopback; never a link-local
//! address, where clouds keep their credentials; no redirect; a bounded answer, of which nothing but public keys is ever shown.

mod dial;
mod fetch;
mod keeper;
mod records;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::Entropy;
use mesh_core::report::Tally;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use dial::JwksConnector;
pub(crate) use fetch::Fetcher;
pub(crate) use records::Records;
pub use source::{JwksSource, JwksUri};

use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::Documents;
use keeper::Keeper;

/// How often keys are asked for again when nothing is said (Istio: 20 minutes).
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(20 * 60);
/// The shortest that can be said.
pub(crate) const MIN_REFRESH_INTERVAL: Duration = Duration::from_millis(100);
/// How long a source may take when its rule does not say (Istio `timeout`: 5 s): its name, the connection, and the whole answer.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a rule may say.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// The most sources that are asked at once.
const MAX_FETCHES: usize = 8;
/// The most sources of one folder.
pub(crate) const MAX_KEY_SOURCES: usize = 64;
/// How long a control plane that starts waits for keys before it opens its ports: who had keys from one before is not told at once that
/// there are none.
const FIRST_KEYS_TIMEOUT: Duration = Duration::from_secs(6);

/// What was fetched, and of whom it is wanted. One for a control plane.
#[derive(Debug)]
pub(crate) struct JwksStore {
    keeper: Mutex<Keeper>,
    /// Rings when other sources are wanted.
    wanted: Notify,
    /// Rings when a fetch has ended.
    ended: watch::Sender<()>,
    /// Where the last good ones outlive this process; `None`: nowhere.
    records: Option<Arc<Records>>,
}

impl JwksStore {
    pub(crate) fn new(interval: Duration, records: Option<Records>) -> Self {
        Self {
            keeper: Mutex::new(Keeper::new(interval.max(MIN_REFRESH_INTERVAL))),
            wanted: Notify::new(),
            ended: watch::Sender::new(()),
            records: records.map(Arc::new),
        }
    }

    /// Asks from now on for what `documents` name, and for nothing else.
    pub(crate) fn want(&self, documents: &Documents) {
        let mut sources: BTreeMap<JwksSource, Duration> = BTreeMap::new();
        for document in &documents.request_authentications {
            for fetched in document.spec.rules.iter().filter_map(|rule| rule.fetched.as_ref()) {
                let timeout = sources.entry(fetched.source.value.clone()).or_default();
                *timeout = fetched.timeout.max(*timeout);
            }
        }
        if let Some(records) = &self.records {
            records.keep_only(sources.keys());
        }
        let restore = |source: &JwksSource| self.records.as_ref()?.load(source);
        self.keeper().want(sources, Instant::now(), restore);
        self.wanted.notify_one();
    }

    /// Puts the keys that there are in their places; none where there are none yet. Whether any are others than before.
    pub(crate) fn fill(&self, documents: &mut Documents) -> bool {
        let keeper = self.keeper();
        let mut changed = false;
        for document in &mut documents.request_authentications {
            for rule in &mut document.spec.rules {
                let Some(fetched) = &rule.fetched else { continue };
                let keys = keeper.keys(&fetched.source).cloned().unwrap_or_default();
                if rule.provider.keys != keys {
                    rule.provider.keys = keys;
                    changed = true;
                }
            }
        }
        changed
    }

    /// What is to be said of the sources of `documents`.
    pub(crate) fn findings(&self, documents: &Documents) -> Vec<Diagnostic> {
        let keeper = self.keeper();
        let mut findings = Vec::new();
        for document in &documents.request_authentications {
            for rule in &document.spec.rules {
                let Some(fetched) = &rule.fetched else { continue };
                if let Some(message) = keeper.complaint(&fetched.source, &rule.provider.issuer) {
                    let (code, place) = (Code::KeysUnavailable, &fetched.source.place);
                    findings.push(document.meta.diagnose(Severity::Warning, code, place, message));
                }
            }
        }
        findings
    }

    /// Waits until each source was asked once, whatever came of it, but no longer than [`FIRST_KEYS_TIMEOUT`].
    pub(crate) async fn asked_once(&self) {
        let mut ended = self.ended.subscribe();
        let asked = ended.wait_for(|()| self.keeper().asked_all_once());
        // Late keys are published when they come.
        drop(tokio::time::timeout(FIRST_KEYS_TIMEOUT, asked).await);
    }

    /// Asks, as long as somebody waits for this. `told` is called, on a thread that may block, when there is something new to publish or to say.
    pub(crate) async fn keep(
        self: Arc<Self>,
        fetcher: Fetcher,
        entropy: Entropy,
        tally: Tally,
        told: impl Fn() + Send + Sync + 'static,
    ) {
        let (fetcher, told) = (Arc::new(fetcher), Arc::new(told));
        let (mut fetches, mut asked) = (JoinSet::new(), HashMap::new());
        loop {
            let (due, next) = self.keeper().due(Instant::now(), MAX_FETCHES - fetches.len());
            for (source, timeout) in due {
                let (fetcher, again) = (Arc::clone(&fetcher), source.clone());
                let task = fetches.spawn(async move { fetcher.fetch(&again, timeout).await });
                asked.insert(task.id(), source);
            }
            let next = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let (id, outcome) = tokio::select! {
                Some(done) = fetches.join_next_with_id() => match done {
                    Ok(done) => done,
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    // The runtime is shutting down.
                    Err(_) => return,
                },
                () = self.wanted.notified() => continue,
                () = next => continue,
            };
            let Some(source) = asked.remove(&id) else { continue };
            match &outcome {
                Ok(_) => tally.count("jwks_fetched", "ok"),
                Err(why) => {
                    tally.count("jwks_failed", why.as_str());
                    tracing::warn!(%source, reason = why.as_str(), "keys cannot be fetched: {why}");
                }
            }
            let outcome = outcome.map_err(|why| why.to_string());
            if let (Some(records), Ok(keys)) = (&self.records, &outcome) {
                let (records, source, keys) = (Arc::clone(records), source.clone(), keys.clone());
                let saved = tokio::task::spawn_blocking(move || records.save(&source, &keys));
                if saved.await.is_err_and(|error| error.is_cancelled()) {
                    return;
                }
            }
            let news = self
                .keeper()
                .took(&source, outcome, Instant::now(), &mut entropy.draw());
            if news {
                let told = Arc::clone(&told);
                if tokio::task::spawn_blocking(move || told())
                    .await
                    .is_err_and(|error| error.is_cancelled())
                {
                    return;
                }
            }
            // After it is published, so that who waits for the first keys finds them published.
            self.ended.send_replace(());
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
