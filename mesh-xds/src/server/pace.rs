//! How many streams begin: so many a second, and whoever comes too early is told when to come.
//!
//! After a restart every client returns within a second or two. A stream that begins costs far more than one that goes on:
//! a handshake, a first answer of everything, its acknowledgements. Unbounded, a thousand of them starve each other until
//! their keep-alives fail and they return again (Istio: `PILOT_MAX_REQUESTS_PER_SECOND`). So beginning is paced, and those
//! who are sent away get an appointment each, one after the other, as gRPC's `grpc-retry-pushback-ms` (gRFC A6). Our client
//! keeps it ([`Backoff`](crate::client::Backoff)); others come again after a backoff of their own, which spreads too.
//!
//! Pure: it takes the time and says yes or when.

use std::time::Duration;

use tokio::time::Instant;

/// Streams that may begin a second, at each port. Istio's measure is 25 on two cores for answers of megabytes; ours is for
/// the same machine and answers that are encoded once per group.
pub(super) const BEGINS_PER_SECOND: u32 = 75;
/// Streams that may begin at once when it was quiet. With those of the second after it they are a tenth of a thousand.
const BURST: u32 = 25;
/// Appointments per second: fewer than may begin, so that who keeps one finds room although others come without.
const APPOINTMENTS_PER_SECOND: u32 = 60;
/// The earliest appointment. Before that those who were let in are busy being answered.
const FIRST_APPOINTMENT: Duration = Duration::from_secs(1);
/// The latest: a client that asks a thousand times moves nobody's farther than this.
const LAST_APPOINTMENT: Duration = Duration::from_secs(60);

/// See the module's documentation. It counts in time and holds no list: when the next stream may begin (the generic cell
/// rate algorithm, ITU-T I.371), and when the last appointment is.
#[derive(Debug, Default)]
pub(super) struct Pace {
    next: Option<Instant>,
    last_appointment: Option<Instant>,
}

impl Pace {
    /// Whether a stream may begin.
    ///
    /// # Errors
    ///
    /// When it may not: how long its client should wait.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), Duration> {
        let gap = Duration::from_secs(1) / BEGINS_PER_SECOND;
        let next = self.next.map_or(now, |next| next.max(now));
        if next + gap <= now + gap * BURST {
            self.next = Some(next + gap);
            return Ok(());
        }
        let earliest = now + FIRST_APPOINTMENT;
        let after_the_last = self
            .last_appointment
            .map(|last| last + Duration::from_secs(1) / APPOINTMENTS_PER_SECOND);
        let appointment = after_the_last
            .map_or(earliest, |after| after.max(earliest))
            .min(now + LAST_APPOINTMENT);
        self.last_appointment = Some(appointment);
        Err(appointment - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_begins_and_the_others_get_appointments_that_they_find_kept() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let waits: Vec<Duration> = (0..1_000).filter_map(|_| pace.begin(start).err()).collect();
        assert_eq!(waits.len(), 1_000 - BURST as usize);
        assert!(waits.is_sorted() && waits[0] == FIRST_APPOINTMENT);
        let last = waits[waits.len() - 1];
        assert!(last < Duration::from_secs(18), "{last:?}");
        for wait in waits {
            assert_eq!(pace.begin(start + wait), Ok(()));
        }
    }

    #[test]
    fn no_appointment_is_later_than_the_last() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let last = (0..100_000).map(|_| pace.begin(now)).last().unwrap();
        assert_eq!(last, Err(LAST_APPOINTMENT));
        // And none is kept for those who went: a second later the pace is as it was.
        assert_eq!(pace.begin(now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn cp_11_no_second_sees_more_than_a_tenth_of_a_thousand_begin() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let tries = (0..60_000).map(|n| start + Duration::from_millis(n) / 10);
        let begun: Vec<Instant> = tries.filter(|at| pace.begin(*at).is_ok()).collect();
        let most = begun.iter().map(|from| {
            let until = *from + Duration::from_secs(1);
            begun.iter().filter(|at| (*from..until).contains(at)).count()
        });
        let most = most.max().unwrap();
        assert!((90..=100).contains(&most), "{most}");
    }

    #[test]
    fn a_quiet_control_plane_turns_nobody_away() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let gap = Duration::from_secs(1) / BEGINS_PER_SECOND;
        assert!((0..10_000).all(|n| pace.begin(start + gap * n).is_ok()));
    }
}
