//! What a control plane's features say about errors and silence (gRFCs A53 and A88).
//!
//! The default is to serve on: a resource that was good once stays in use when it is refused or deleted, which is also what
//! `ignore_resource_deletion` asks for. `fail_on_data_errors` wins over that.

use std::time::Duration;

use mesh_core::patience::{DOES_NOT_EXIST_AFTER, TIMED_OUT_AFTER};

use crate::bootstrap::{ServerFeature, ServerFeatures};
use crate::client::cache::Trouble;
use crate::resource::ResourceKind;

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

    /// What it means that it did not come in that time. A stream on which nothing came at all tells of no resource: whoever is at its other
    /// end is ill (`is_mute`).
    pub(crate) fn silence(self, kind: ResourceKind, name: &str, is_mute: bool) -> Trouble {
        let seconds = self.patience().as_secs();
        match self.silence_is_transient {
            _ if is_mute => Trouble::TimedOut(
                format!("{kind} {name:?}: timed out, nothing was heard of the control plane in {seconds} s").into(),
            ),
            true => {
                Trouble::TimedOut(format!("{kind} {name:?}: the control plane did not send it in {seconds} s").into())
            }
            false => Trouble::Absent(
                format!("{kind} {name:?} does not exist: the control plane did not send it in {seconds} s").into(),
            ),
        }
    }
}
