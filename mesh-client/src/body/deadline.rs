//! A running limit. It is set when the call begins and moves into the response body, since a call ends with its last frame.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::error::{Error, Kind};

/// A running limit, which moves from the future into the response body.
#[derive(Debug)]
pub(crate) struct Deadline {
    limit: Duration,
    // Boxed, since a timer that runs cannot be moved, and this one outlives the future.
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// The longest limit that is kept exactly; a greater one stands for it. tokio's timers reach about two years.
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// A limit of which `spent` has passed already.
    pub(crate) fn after(limit: Duration, spent: Duration) -> Self {
        Self {
            limit,
            sleep: Box::pin(tokio::time::sleep_until(
                Instant::now() + limit.min(Self::MAX).saturating_sub(spent),
            )),
        }
    }

    /// When time is up.
    pub(crate) fn at(&self) -> Instant {
        self.sleep.deadline()
    }

    /// The error to report, if the timer has gone off. Cheap: for who has more to hand out and must not go on for ever.
    pub(crate) fn expired(&self) -> Option<Error> {
        self.sleep.is_elapsed().then(|| Error::new(Kind::Deadline(self.limit)))
    }

    /// Ready, with the error to report, once time is up.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.sleep
            .as_mut()
            .poll(cx)
            .map(|()| Error::new(Kind::Deadline(self.limit)))
    }
}
