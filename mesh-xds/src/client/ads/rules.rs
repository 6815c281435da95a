//! What a control plane's features say about errors and silence (gRFCs A53 and A88).
//!
//! The default is to serve on: a resource that was good once stays in use when it is refused or deleted, which is also what
//! `ignore_resource_deletion` asks for. `fail_on_data_errors` wins over that.

use std::time::Duration;

use crate::bootstrap::{ServerFeature, ServerFeatures};
use crate::client::cache::Trouble;
use crate::resource::ResourceKind;

/// How long a subscribed resource may stay unheard of before it counts as not existing (gRFC A57).
const DOES_NOT_EXIST_AFTER: Duration = Duration::from_secs(15);
/// The same where silence is the control plane's trouble and no answer (gRFC A88).
const TIMED_OUT_AFTER: Duration = Duration::from_secs(30);

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// What is refused or deleted goes out of use.
    pub(crate) fail_on_data_errors: bool,
    /// Silence says nothing about whether a resource exists.
    pub(crate) silence_is_transient: bool,
}

impl From<&ServerFeatures> for Rules {
    fn from(features: &ServerFeatures) -> Self {
        Self {
            fail_on_data_errors: features.contains(ServerFeature::FailOnDataErrors),
            silence_is_transient: features.contains(ServerFeature::ResourceTimerIsTransientError),
        }
    }
}

impl Rules {
    /// How long a subscribed resource is waited for.
    pub(crate) fn patience(self) -> Duration {
        match self.silence_is_transient {
            true => TIMED_OUT_AFTER,
            false => DOES_NOT_EXIST_AFTER,
        }
    }

    /// What it means that it did not come in that time.
    pub(crate) fn silence(self, kind: ResourceKind, name: &str) -> Trouble {
        let seconds = self.patience().as_secs();
        match self.silence_is_transient {
            true => {
                Trouble::TimedOut(format!("{kind} {name:?}: the control plane did not send it in {seconds} s").into())
            }
            false => Trouble::Absent(
                format!("{kind} {name:?} does not exist: the control plane did not send it in {seconds} s").into(),
            ),
        }
    }
}
