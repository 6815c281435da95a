//! One root after another, in three phases, so that nobody meets a certificate of a root it does not know.
//!
//! ```text
//!                begin                 switch                 finish
//! stable (A) ─────────▶ announced (A signs, A+B known) ─────────▶ switched (B signs, A+B known) ─────────▶ stable (B)
//!            ◀───────── cancel                         ◀───────── back
//! ```
//!
//! A workload learns of roots with its certificate, so one whose certificate is younger than a phase knows what that phase says, and shows
//! it when it connects: that is its acknowledgement, and it is one of a process and not of a name that several have. `switch` waits until
//! each that is connected knows B, `finish` until each has a certificate of B and none of A can be valid any more, also of those that are
//! not connected now. Both can be forced, which locks out whom they would have waited for.
//!
//! Who has a bootstrap with A alone goes on to reach the control plane: that shows, besides its own certificate of B, one of B by A. This is
//! kept when A is gone. So a bootstrap lasts for one rotation, and is to be made anew before the next.
//!
//! State is a pointer file, replaced at once; keys are in files of their own. What is judged here is pure: counts and the time come in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_core::identity::TrustDomain;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use super::common::{BACKDATED, hex, random_serial};
use super::error::Kind;
use super::issue::MAX_LEAF_LIFETIME;
use super::root::{self, Root};
use super::{CaError, files};

/// The pointer file.
const FILE: &str = "roots.json";

/// How far the replacement of a root has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationPhase {
    /// There is one root.
    #[default]
    Stable,
    /// There is a second one, which signs nothing: workloads come to know it.
    Announced,
    /// The second one signs; the first is still known.
    Switched,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationStep {
    /// Makes a second root and tells workloads of it.
    Begin,
    /// Lets it sign.
    Switch,
    /// Lets the first sign again.
    Back,
    /// Forgets the first.
    Finish,
    /// Forgets the second, which signs nothing.
    Cancel,
}

/// How many of the connected workloads know of the phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Connections of workloads.
    pub connected: usize,
    /// Those of them that were made with a certificate that is younger than the phase.
    pub acknowledged: usize,
    /// Whose the others are, a few of them.
    pub waiting: Vec<String>,
}

/// How the replacement of the root stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RotationStatus {
    /// How far it has come.
    pub phase: RotationPhase,
    /// When that phase began, in seconds since 1970; 0: it never did.
    pub since: u64,
    /// Until when certificates of the root that signs no more may be valid; 0: there are none.
    pub old_until: u64,
    /// The SHA-256 of the certificates: the root that signs, and the other.
    pub roots: Vec<String>,
    /// Who knows of it.
    #[serde(flatten)]
    pub counts: Acknowledged,
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RotationRefusal {
    /// It does not follow on this phase.
    Phase(RotationPhase),
    /// So many of so many connected workloads do not know of the phase.
    Unacknowledged {
        /// Those that do not.
        waiting: usize,
        /// All.
        connected: usize,
    },
    /// Certificates of the root that would be forgotten may be valid until then.
    Valid(u64),
    /// The files or the keys cannot be had.
    Ca(String),
}

impl fmt::Display for RotationRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => write!(f, "not in this phase: {}", phase.as_str()),
            Self::Unacknowledged { waiting, connected } => write!(
                f,
                "{waiting} of {connected} connected workloads have not acknowledged this phase: they would be locked out"
            ),
            Self::Valid(until) => write!(
                f,
                "certificates of the root to be forgotten may be valid until {until} (seconds since 1970): they would be locked out"
            ),
            Self::Ca(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for RotationRefusal {}

impl RotationPhase {
    /// As a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Announced => "announced",
            Self::Switched => "switched",
        }
    }
}

/// The phase that follows, if the step may be taken.
fn judge(
    status: &Pointer,
    step: RotationStep,
    counts: &Acknowledged,
    now: u64,
    force: bool,
) -> Result<RotationPhase, RotationRefusal> {
    use RotationPhase::{Announced, Stable, Switched};
    let acknowledged = || match counts.connected - counts.acknowledged {
        0 => Ok(()),
        _ if force => Ok(()),
        waiting => Err(RotationRefusal::Unacknowledged {
            waiting,
            connected: counts.connected,
        }),
    };
    let ended = || match now <= status.old_until && !force {
        true => Err(RotationRefusal::Valid(status.old_until)),
        false => Ok(()),
    };
    match (status.phase, step) {
        (Stable, RotationStep::Begin) => Ok(Announced),
        (Announced, RotationStep::Switch) => acknowledged().map(|()| Switched),
        (Announced, RotationStep::Cancel) => ended().map(|()| Stable),
        // Both roots are known to all by then, so it need not wait.
        (Switched, RotationStep::Back) => Ok(Announced),
        (Switched, RotationStep::Finish) => acknowledged().and_then(|()| ended()).map(|()| Stable),
        (phase, _) => Err(RotationRefusal::Phase(phase)),
    }
}

/// What the pointer file says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pointer {
    #[serde(default)]
    phase: RotationPhase,
    #[serde(default)]
    since: u64,
    #[serde(default)]
    old_until: u64,
    /// The file of the root that signs; empty: the first.
    #[serde(default)]
    signing: String,
    /// The file of the other, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    /// The root that signs, as the one before it vouches for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vouched: Option<String>,
    /// The other, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other_vouched: Option<String>,
}

/// The roots there are.
pub(super) struct Roots {
    pointer: Pointer,
    pub(super) signing: Arc<Root>,
    pub(super) other: Option<Arc<Root>>,
    /// A certificate of the signing root by the one before it.
    pub(super) vouched: Option<CertificateDer<'static>>,
}

impl Roots {
    /// New ones, in memory.
    pub(super) fn create(domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        Ok(Self {
            pointer: Pointer::default(),
            signing: Arc::new(Root::create(domain, now)?),
            other: None,
            vouched: None,
        })
    }

    /// Those of a state directory, made if there are none.
    pub(super) fn open(state: &Path, domain: &TrustDomain, now: UnixTime) -> Result<Self, CaError> {
        files::make_directory(state)?;
        let path = state.join(FILE);
        let malformed = |why| Kind::Malformed {
            path: path.clone(),
            why,
        };
        let pointer: Pointer = match files::read(&path)? {
            None => Pointer::default(),
            Some(text) => serde_json::from_str(&text).map_err(|_| malformed("does not say which root signs"))?,
        };
        let signing = Arc::new(Root::open(&pointer.signing_file(state), domain, now)?);
        let other = pointer
            .other
            .as_ref()
            .map(|name| Root::open(&state.join(name), domain, now));
        Ok(Self {
            signing,
            other: other.transpose()?.map(Arc::new),
            vouched: pointer.shown().map_err(|_| malformed("holds no certificate"))?,
            pointer,
        })
    }

    /// Every root that workloads are told of, the one that signs first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Root>> {
        std::iter::once(&self.signing).chain(&self.other)
    }

    /// When the phase began.
    pub(super) fn since(&self) -> u64 {
        self.pointer.since
    }

    pub(super) fn phase(&self) -> RotationPhase {
        self.pointer.phase
    }

    pub(super) fn status(&self, counts: Acknowledged) -> RotationStatus {
        let fingerprint = |root: &Arc<Root>| {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &root.certificate);
            hex(digest.as_ref())
        };
        RotationStatus {
            phase: self.pointer.phase,
            since: self.pointer.since,
            old_until: self.pointer.old_until,
            roots: self.all().map(fingerprint).collect(),
            counts,
        }
    }

    /// The roots after `step`, written down if there is a state directory.
    pub(super) fn after(
        &self,
        step: RotationStep,
        counts: &Acknowledged,
        force: bool,
        (state, domain, now): (Option<&Path>, &TrustDomain, UnixTime),
    ) -> Result<Self, RotationRefusal> {
        let broken = |error: CaError| RotationRefusal::Ca(with_cause(&error));
        let phase = judge(&self.pointer, step, counts, now.as_secs(), force)?;
        // What the root that stops signing has signed may be valid for so long, by a clock that is behind.
        let leaves_until = now.as_secs() + (MAX_LEAF_LIFETIME + BACKDATED).as_secs();
        let mut pointer = Pointer {
            phase,
            since: now.as_secs(),
            ..self.pointer.clone()
        };
        let (mut signing, mut other) = (Arc::clone(&self.signing), self.other.clone());
        let mut forgotten = None;
        match step {
            RotationStep::Begin => {
                let name = format!("root-{}.pem", hex(&random_serial().map_err(broken)?.to_bytes()[..8]));
                let made = match state {
                    Some(state) => Root::open(&state.join(&name), domain, now),
                    None => Root::create(domain, now),
                };
                (other, pointer.other, pointer.old_until) = (Some(Arc::new(made.map_err(broken)?)), Some(name), 0);
            }
            RotationStep::Switch | RotationStep::Back => {
                let next = other.take().ok_or(RotationRefusal::Phase(self.pointer.phase))?;
                // Back at the first, what vouched for it does so again.
                if step == RotationStep::Switch && pointer.other_vouched.is_none() {
                    pointer.other_vouched = Some(signing.vouch_for(&next, domain, now).map_err(broken)?);
                }
                std::mem::swap(&mut pointer.vouched, &mut pointer.other_vouched);
                other = Some(std::mem::replace(&mut signing, next));
                let file = self.pointer.signing_name().to_owned();
                pointer.signing = pointer.other.replace(file).unwrap_or_default();
                pointer.old_until = leaves_until;
            }
            RotationStep::Finish | RotationStep::Cancel => {
                (other, forgotten, pointer.old_until) = (None, pointer.other.take(), 0);
                pointer.other_vouched = None;
            }
        }
        let vouched = pointer
            .shown()
            .map_err(|error| RotationRefusal::Ca(error.to_string()))?;
        if let Some(state) = state {
            let json = serde_json::to_vec_pretty(&pointer).expect("a pointer of texts and numbers is JSON");
            files::write(&state.join(FILE), &json).map_err(broken)?;
            // Its key is gone only after nothing points to it any more.
            if let Some(name) = forgotten {
                drop(std::fs::remove_file(state.join(name)));
            }
        }
        Ok(Self {
            pointer,
            signing,
            other,
            vouched,
        })
    }
}

impl Pointer {
    fn signing_name(&self) -> &str {
        match &*self.signing {
            "" => root::FILE,
            name => name,
        }
    }

    /// What the control plane shows behind its own certificate.
    fn shown(&self) -> Result<Option<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
        let pem = self.vouched.as_ref();
        pem.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()))
            .transpose()
    }

    fn signing_file(&self, state: &Path) -> PathBuf {
        state.join(self.signing_name())
    }
}

fn with_cause(error: &CaError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_2_no_step_is_taken_that_would_lock_somebody_out() {
        use RotationPhase::{Announced, Stable, Switched};
        use RotationStep::{Back, Begin, Cancel, Finish, Switch};
        let counts = |connected, acknowledged| Acknowledged {
            connected,
            acknowledged,
            waiting: Vec::new(),
        };
        let (all, none, nobody) = (counts(3, 3), counts(3, 1), counts(0, 0));
        let waiting = Err(RotationRefusal::Unacknowledged {
            waiting: 2,
            connected: 3,
        });
        let valid = Err(RotationRefusal::Valid(100));
        for (phase, step, counts, now, force, expected) in [
            (Stable, Begin, &none, 0, false, Ok(Announced)),
            (Announced, Switch, &all, 0, false, Ok(Switched)),
            (Announced, Switch, &nobody, 0, false, Ok(Switched)),
            (Announced, Switch, &none, 0, false, waiting.clone()),
            (Announced, Switch, &none, 0, true, Ok(Switched)),
            (Announced, Cancel, &none, 101, false, Ok(Stable)),
            (Announced, Cancel, &none, 100, false, valid.clone()),
            (Announced, Cancel, &none, 100, true, Ok(Stable)),
            (Switched, Back, &none, 0, false, Ok(Announced)),
            (Switched, Finish, &none, 101, false, waiting),
            (Switched, Finish, &all, 100, false, valid),
            (Switched, Finish, &all, 101, false, Ok(Stable)),
            (Switched, Finish, &none, 100, true, Ok(Stable)),
        ] {
            let pointer = Pointer {
                phase,
                old_until: 100,
                ..Pointer::default()
            };
            assert_eq!(
                judge(&pointer, step, counts, now, force),
                expected,
                "{phase:?} {step:?} {now}"
            );
        }
        for (phase, steps) in [
            (Stable, &[Switch, Back, Finish, Cancel][..]),
            (Announced, &[Begin, Back, Finish]),
            (Switched, &[Begin, Switch, Cancel]),
        ] {
            for step in steps {
                let pointer = Pointer {
                    phase,
                    ..Pointer::default()
                };
                let refused = judge(&pointer, *step, &all, 0, true);
                assert_eq!(refused, Err(RotationRefusal::Phase(phase)), "{step:?}");
            }
        }
    }
}
