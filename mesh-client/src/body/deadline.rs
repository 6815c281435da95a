//! A running limit. It is set when the call begins and moves into the response body, since a call ends with its last frame.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::alarm::{Alarm, Alarms};
use crate::error::{Error, Kind};

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    limit: Duration,
    alarm: Alarm,
}

impl Deadline {
    /// A limit of which `spent` has passed already.
    pub(crate) fn after(alarms: &Arc<Alarms>, limit: Duration, spent: Duration) -> Self {
        Self {
            limit,
            alarm: alarms.after(limit.saturating_sub(spent)),
        }
    }

    /// The error to report, if the alarm has gone off. Cheap: for who has more to hand out and must not go on for ever.
    pub(crate) fn expired(&self) -> Option<Error> {
        self.alarm
            .has_gone_off()
            .then(|| Error::new(Kind::Deadline(self.limit)))
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.alarm.poll(cx).map(|()| Error::new(Kind::Deadline(self.limit)))
    }
}
