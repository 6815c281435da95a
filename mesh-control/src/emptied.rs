//! Whether what a reading of the folder leaves out was left out on purpose.
//!
//! A mount that failed, a checkout that is half done or a `rm` in the wrong place look like an empty folder, and an empty folder is a
//! configuration: one that lets everybody in. So what vanishes all at once is not believed. A reading is refused, and what was published
//! stays, when
//!
//! - it has no document, where there was one; or
//! - it has no document of security (`AuthorizationPolicy`, `PeerAuthentication`, `RequestAuthentication`), where there were two or more
//!   within the last [`WINDOW`].
//!
//! Whoever means it takes the last of them away by itself, that much later, or says so to the control plane
//! (`meshctl run --allow-empty`). With a state directory a control plane that starts remembers what the one before it served of the same
//! folder, for a machine that restarts is when mounts fail.
//!
//! Pure but for the file: readings and times come in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ca::{CaError, read_file, write_file};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::istio::Documents;

/// How long what was taken away is remembered. Who removes many files at once does it in several steps too, as the system sees it.
const WINDOW: Duration = Duration::from_secs(5);
/// The file in a state directory.
const FILE: &str = "published.json";
/// The most bytes of it: two numbers and a path.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// How many documents there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    documents: usize,
    security: usize,
}

impl Counts {
    fn of(documents: &Documents) -> Self {
        let security = documents.authorization_policies.len()
            + documents.peer_authentications.len()
            + documents.request_authentications.len();
        let others = documents.virtual_services.len()
            + documents.destination_rules.len()
            + documents.envoy_filters.len()
            + documents.service_entries.len()
            + documents.workload_entries.len()
            + documents.workload_groups.len()
            + documents.services.len()
            + documents.endpoint_slices.len()
            + documents.pods.len()
            + documents.gateway_routes.len()
            + documents.reference_grants.len()
            + documents.sidecars.len()
            + documents.telemetries.len()
            + documents.mesh_configs.len();
        Self {
            documents: security + others,
            security,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    folder: PathBuf,
    #[serde(flatten)]
    counts: Counts,
}

/// What was published, as far as that matters here.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    /// Whether everything is believed.
    allowed: bool,
    now: Counts,
    /// The most documents of security there were lately, and since when there are fewer.
    most: usize,
    fewer_since: Option<Instant>,
    /// Where it is remembered, and of which folder.
    kept: Option<(PathBuf, PathBuf)>,
}

impl Emptied {
    /// Remembers nothing but what this process published of `folder`, or in `state` what others before it did. Where it is `allowed`,
    /// whatever vanishes is believed.
    pub(crate) fn open(folder: &Path, state: Option<&Path>, allowed: bool) -> Result<Self, CaError> {
        let mut new = Self {
            allowed,
            ..Self::default()
        };
        if let Some(state) = state {
            // By one name, however it is spelt; of a folder that is not there now, as it is spelt.
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
            let path = state.join(FILE);
            let record = read_file(&path, MAX_FILE_BYTES)?;
            // What cannot be read is of a version that nobody knows, and says nothing.
            let record = record.and_then(|text| serde_json::from_str::<Record>(&text).ok());
            if let Some(record) = record.filter(|record| record.folder == folder) {
                (new.now, new.most) = (record.counts, record.counts.security);
            }
            new.kept = Some((path, folder));
        }
        Ok(new)
    }

    /// Why the documents are not published: the folder was emptied. `folder` is what the finding calls it.
    pub(crate) fn judge(&self, documents: &Documents, now: Instant) -> Option<Diagnostic> {
        if self.allowed {
            return None;
        }
        let new = Counts::of(documents);
        let lately = match self.fewer_since {
            Some(since) if now.saturating_duration_since(since) >= WINDOW => self.now.security,
            _ => self.most,
        };
        let what = match new {
            Counts { documents: 0, .. } if self.now.documents > 0 => {
                format!("no document is left of {}", self.now.documents)
            }
            Counts { security: 0, .. } if lately > 1 => {
                format!(
                    "no document of security is left of {lately}: AuthorizationPolicy, PeerAuthentication, RequestAuthentication"
                )
            }
            _ => return None,
        };
        let message = format!(
            "{what}: not believed, for a folder that was lost looks like this; take the last one away by itself, at least {} s after the \
             others, or restart with --allow-empty",
            WINDOW.as_secs()
        );
        Some(Diagnostic::of_file(
            "the folder",
            Severity::Error,
            Code::Emptied,
            message,
        ))
    }

    /// The documents were published.
    pub(crate) fn published(&mut self, documents: &Documents, now: Instant) {
        let new = Counts::of(documents);
        if new.security >= self.most {
            (self.most, self.fewer_since) = (new.security, None);
        } else if self
            .fewer_since
            .is_none_or(|since| now.saturating_duration_since(since) >= WINDOW)
        {
            (self.most, self.fewer_since) = (self.now.security.max(new.security), Some(now));
        }
        if new != self.now {
            self.now = new;
            self.keep();
        }
    }

    fn keep(&self) {
        let Some((path, folder)) = &self.kept else { return };
        let record = Record {
            folder: folder.clone(),
            counts: self.now,
        };
        let json = serde_json::to_vec(&record).map_err(std::io::Error::other);
        let written = json.map(|json| write_file(path, &json));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "a control plane that starts later will not know what was published"
                );
            }
            // The path of a folder that is no text.
            Err(error) => tracing::warn!(%error, "a control plane that starts later will not know what was published"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many policies, and so many services.
    fn documents(policies: usize, services: usize) -> Documents {
        let policy = |number| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}}}\nspec: {{}}\n---\n"
            )
        };
        let service = |number| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w{number}}}\nspec: {{address: 127.0.0.1}}\n---\n"
            )
        };
        let text: String = (0..policies).map(policy).chain((0..services).map(service)).collect();
        let mut documents = Documents::default();
        assert_eq!(documents.read("a.yaml", &text), []);
        documents
    }

    #[test]
    fn cp_what_vanishes_all_at_once_is_not_believed() {
        let start = Instant::now();
        // What was published and when, what comes when, and whether it is refused.
        type Step = (usize, usize, u64);
        let cases: &[(&[Step], Step, bool)] = &[
            (&[], (0, 0, 0), false),
            (&[(0, 0, 0)], (0, 0, 9), false),
            (&[(0, 1, 0)], (0, 0, 99), true),
            (&[(1, 0, 0)], (0, 0, 99), true),
            (&[(1, 1, 0)], (0, 1, 1), false),
            (&[(2, 1, 0)], (0, 1, 99), true),
            (&[(2, 1, 0)], (1, 1, 99), false),
            // One after another, but in one breath.
            (&[(3, 1, 0), (2, 1, 10), (1, 1, 11)], (0, 1, 12), true),
            (&[(3, 1, 0), (1, 1, 10)], (0, 1, 14), true),
            (&[(3, 1, 0), (1, 1, 10)], (0, 1, 15), false),
            (&[(3, 1, 0), (2, 1, 10), (1, 1, 30)], (0, 1, 34), true),
            (&[(3, 1, 0), (2, 1, 10), (1, 1, 30)], (0, 1, 35), false),
            // What came back counts again.
            (&[(3, 1, 0), (1, 1, 10), (3, 1, 11)], (0, 1, 99), true),
        ];
        for (published, (policies, services, at), refused) in cases {
            let after = |seconds: &u64| start + Duration::from_secs(*seconds);
            let mut emptied = Emptied::default();
            for (policies, services, at) in *published {
                emptied.published(&documents(*policies, *services), after(at));
            }
            let new = documents(*policies, *services);
            let found = emptied.judge(&new, after(at));
            assert_eq!(found.is_some(), *refused, "{published:?} {found:?}");
            emptied.allowed = true;
            assert_eq!(emptied.judge(&new, after(at)), None);
        }
    }

    #[test]
    fn cp_what_was_published_of_a_folder_outlives_the_process() {
        let (state, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let open = |folder: &str, allowed| Emptied::open(Path::new(folder), Some(state.path()), allowed).unwrap();
        open("served", false).published(&documents(2, 1), now);
        let refused =
            |emptied: Emptied, policies, services| emptied.judge(&documents(policies, services), now).is_some();
        assert!(refused(open("served", false), 0, 0));
        assert!(refused(open("served", false), 0, 1));
        assert!(!refused(open("served", false), 1, 1));
        assert!(!refused(open("served", true), 0, 0));
        assert!(!refused(open("another", false), 0, 0));
    }
}
