//! How many streams begin: so many a second, and whoever comes too early is told when to come.
//!
//! After a restart every client returns within a second or two. A stream that begins costs far more than one that goes on:
//! a handshake, a first answer of everything, its acknowledgements. Unbounded, a thousand of them starve each other until
//! their keep-alives fail and they return again (Istio: `PILOT_MAX_REQUESTS_PER_SECOND`). So beginning is paced, and those
//! who are sent away get an appointment each, one after the other, as gRPC's `grpc-retry-pushback-ms` (gRFC A6). Our client
//! keeps it ([`Backoff`](crate::client::Backoff)); others come again after a backoff of their own, which spreads too.
//!
//! Asked is who is known, when it has said who it is: a stranger spends nobody's pace. And nobody spends all of it: a connection has
//! a pace of its own, and so has an identity (or an address, where connections show none), with appointments of its own, so that
//! whoever begins without end waits for himself alone.
//!
//! Pure: it takes the time and says yes or when.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::room::Whose;

/// Streams that may begin a second, at each port. Istio's measure is 25 on two cores for answers of megabytes; ours is for
/// the same machine and answers that are encoded once per group.
pub(super) const BEGINS_PER_SECOND: u32 = 75;
/// Streams that may begin at once when it was quiet. With those of the second after it they are a tenth of a thousand.
const BURST: u32 = 25;
/// The same of one peer: others have room beside it. A thousand processes of one identity are all there in half a minute.
const BEGINS_OF_ONE_PER_SECOND: u32 = 50;
const BURST_OF_ONE: u32 = 20;
/// The same of one connection, on which gRPC has a stream for each target of its process.
const BEGINS_OF_CONNECTION_PER_SECOND: u32 = 5;
const BURST_OF_CONNECTION: u32 = 20;
/// The earliest appointment. Before that those who were let in are busy being answered.
const FIRST_APPOINTMENT: Duration = Duration::from_secs(1);
/// The latest: a client that asks a thousand times moves nobody's farther than this.
const LAST_APPOINTMENT: Duration = Duration::from_secs(60);
/// From how many peers on those are forgotten that have begun nothing lately.
const MANY_PEERS: usize = 1_000;

/// So many a second, and so many at once.
#[derive(Clone, Copy)]
struct Limit {
    per_second: u32,
    burst: u32,
}

const ALL: Limit = Limit {
    per_second: BEGINS_PER_SECOND,
    burst: BURST,
};
const OF_ONE: Limit = Limit {
    per_second: BEGINS_OF_ONE_PER_SECOND,
    burst: BURST_OF_ONE,
};
const OF_CONNECTION: Limit = Limit {
    per_second: BEGINS_OF_CONNECTION_PER_SECOND,
    burst: BURST_OF_CONNECTION,
};

/// How fast something begins. It counts in time and holds no list: when the next may begin (the generic cell rate algorithm,
/// ITU-T I.371), and when the last appointment is.
#[derive(Debug, Default)]
pub(super) struct Rate {
    next: Option<Instant>,
    last_appointment: Option<Instant>,
}

impl Rate {
    /// Whether another may begin, which it then does.
    fn begin(&mut self, limit: Limit, now: Instant) -> bool {
        let gap = Duration::from_secs(1) / limit.per_second;
        let next = self.next.map_or(now, |next| next.max(now));
        let may = next + gap <= now + gap * limit.burst;
        if may {
            self.next = Some(next + gap);
        }
        may
    }

    /// When one that may not is to come again. Fewer are told to than may begin, so that who keeps an appointment finds room
    /// although others come without.
    fn appoint(&mut self, limit: Limit, now: Instant) -> Duration {
        let gap = Duration::from_secs(1) / (limit.per_second * 4 / 5);
        let earliest = now + FIRST_APPOINTMENT;
        let after_the_last = self.last_appointment.map(|last| last + gap);
        let appointment = after_the_last
            .map_or(earliest, |after| after.max(earliest))
            .min(now + LAST_APPOINTMENT);
        self.last_appointment = Some(appointment);
        appointment - now
    }

    fn is_idle(&self, now: Instant) -> bool {
        let is_past = |at: Option<Instant>| at.is_none_or(|at| at <= now);
        is_past(self.next) && is_past(self.last_appointment)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Pace {
    all: Rate,
    by: HashMap<Whose, Rate>,
}

impl Pace {
    /// Whether a stream may begin, of this peer and on a connection of this rate.
    ///
    /// # Errors
    ///
    /// When it may not: how long its client should wait.
    pub(super) fn begin(&mut self, whose: Option<Whose>, connection: &mut Rate, now: Instant) -> Result<(), Duration> {
        if !connection.begin(OF_CONNECTION, now) {
            return Err(connection.appoint(OF_CONNECTION, now));
        }
        if self.by.len() >= MANY_PEERS {
            self.by.retain(|_, rate| !rate.is_idle(now));
        }
        if let Some(whose) = whose {
            let rate = self.by.entry(whose).or_default();
            if !rate.begin(OF_ONE, now) {
                return Err(rate.appoint(OF_ONE, now));
            }
        }
        match self.all.begin(ALL, now) {
            true => Ok(()),
            false => Err(self.all.appoint(ALL, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A stream of somebody unknown on a connection of its own.
    fn begin(pace: &mut Pace, now: Instant) -> Result<(), Duration> {
        pace.begin(None, &mut Rate::default(), now)
    }

    fn host(host: u32) -> Option<Whose> {
        Some(Whose::Address(Ipv4Addr::from_bits(host).into()))
    }

    #[test]
    fn cp_11_whoever_begins_without_end_waits_for_itself_alone() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut connection = Rate::default();
        // Two thousand a second on one connection; a thousand a second of one peer, each on its own.
        let mut worst = Duration::ZERO;
        for n in 0..20_000u32 {
            let now = start + Duration::from_millis(u64::from(n)) / 2;
            let _ = pace.begin(host(1), &mut connection, now);
            if n % 2 == 0 {
                let _ = pace.begin(host(2), &mut Rate::default(), now);
            }
            // An honest one now and then.
            if n % 400 == 0 {
                let waits = pace.begin(host(100 + n), &mut Rate::default(), now);
                worst = worst.max(waits.err().unwrap_or_default());
            }
        }
        assert!(worst <= 2 * FIRST_APPOINTMENT, "{worst:?}");
        // One connection alone has its appointments, and the pace of all is not spent.
        let (mut pace, mut connection) = (Pace::default(), Rate::default());
        let refused = (0..100_000).filter(|_| pace.begin(host(1), &mut connection, start).is_err());
        assert_eq!(refused.count(), 100_000 - BURST_OF_CONNECTION as usize);
        assert_eq!(begin(&mut pace, start), Ok(()));
    }

    #[test]
    fn peers_that_are_gone_are_forgotten() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for n in 0..100_000u32 {
            let now = start + Duration::from_millis(u64::from(n)) * 20;
            let _ = pace.begin(host(n), &mut Rate::default(), now);
            assert!(pace.by.len() <= MANY_PEERS);
        }
    }

    #[test]
    fn a_burst_begins_and_the_others_get_appointments_that_they_find_kept() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let waits: Vec<Duration> = (0..1_000).filter_map(|_| begin(&mut pace, start).err()).collect();
        assert_eq!(waits.len(), 1_000 - BURST as usize);
        assert!(waits.is_sorted() && waits[0] == FIRST_APPOINTMENT);
        let last = waits[waits.len() - 1];
        assert!(last < Duration::from_secs(18), "{last:?}");
        for wait in waits {
            assert_eq!(begin(&mut pace, start + wait), Ok(()));
        }
    }

    #[test]
    fn no_appointment_is_later_than_the_last() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let last = (0..100_000).map(|_| begin(&mut pace, now)).last().unwrap();
        assert_eq!(last, Err(LAST_APPOINTMENT));
        // And none is kept for those who went: a second later the pace is as it was.
        assert_eq!(begin(&mut pace, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn cp_11_no_second_sees_more_than_a_tenth_of_a_thousand_begin() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let tries = (0..60_000).map(|n| start + Duration::from_millis(n) / 10);
        let begun: Vec<Instant> = tries.filter(|at| begin(&mut pace, *at).is_ok()).collect();
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
        assert!((0..10_000).all(|n| begin(&mut pace, start + gap * n).is_ok()));
    }
}
