//! A connection of the control plane, and what it holds: a place, and the right to be there until a certain moment.
//!
//! Who is at the other end was asked once, at the handshake. So a connection ends with the certificate that was shown then, by
//! the wall clock and not by a timer that stands still while a machine sleeps: nobody renews a certificate, or is told anything,
//! on the strength of one that has ended. Clients keep what they have, and come again with the certificate that they have by
//! then.
//!
//! A stranger costs its peer nothing, and one who opens connections and says nothing could have all places of those who join. So
//! nobody is turned away for want of such a place: the stranger that has been there longest goes, which one that means to join never is,
//! since joining takes one request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

use super::connected::Counted;

/// Connections of a port at once.
const MAX_CONNECTIONS: usize = 10_000;
/// Those of one identity: the replicas of a workload, and no more than a part of all.
const MAX_OF_IDENTITY: usize = 2_500;
/// Those without a certificate: workloads that are joining. Whoever has a certificate is never short of a place because of them. One more
/// ends the oldest.
const MAX_ANONYMOUS: usize = 1_024;
/// Those without a certificate from one address (IPv6: one network of 64 bits, which is one host's). One more ends the oldest of them.
const MAX_ANONYMOUS_OF_SOURCE: usize = 256;
/// How long a connection without a certificate may be there. Joining takes one request.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(30);
/// How long a connection stays that is to be made again with a newer certificate: what it is being answered may end, the newer certificate
/// itself for one.
const COME_AGAIN: Duration = Duration::from_secs(2);
/// The longest nap between looks at the wall clock.
const MAX_NAP: Duration = Duration::from_secs(30);

/// The places of a port. Clones are the same places.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    anonymous: usize,
    of: HashMap<Whose, usize>,
    /// Those without a certificate that were not told to go, the oldest first.
    strangers: VecDeque<Stranger>,
    next: u64,
}

#[derive(Debug)]
struct Stranger {
    number: u64,
    source: IpAddr,
    go: Arc<Notify>,
}

/// By whom places are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Identity(SpiffeId),
    Source(IpAddr),
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    whose: Option<Whose>,
    /// Of a stranger: its number, and what rings when it has to go.
    stranger: Option<(u64, Arc<Notify>)>,
}

impl Places {
    /// A place on the port without TLS, which only this machine reaches.
    pub(super) fn take(&self) -> Option<Place> {
        self.take_for(None, usize::MAX)
    }

    /// A place for who has shown a certificate.
    pub(super) fn take_known(&self, identity: &SpiffeId) -> Option<Place> {
        self.take_for(Some(Whose::Identity(identity.clone())), MAX_OF_IDENTITY)
    }

    /// A place for who has not. There is always one; whoever of them has been there longest may have to go for it.
    pub(super) fn take_anonymous(&self, source: IpAddr) -> Place {
        let source = host_of(source);
        let mut taken = self.taken();
        let of_source = taken.of.get(&Whose::Source(source)).copied().unwrap_or_default();
        let oldest = if of_source >= MAX_ANONYMOUS_OF_SOURCE {
            taken.strangers.iter().position(|one| one.source == source)
        } else if taken.anonymous >= MAX_ANONYMOUS {
            (!taken.strangers.is_empty()).then_some(0)
        } else {
            None
        };
        if let Some(stranger) = oldest.and_then(|at| taken.strangers.remove(at)) {
            stranger.go.notify_one();
        }
        let (number, go) = (taken.next, Arc::<Notify>::default());
        taken.next += 1;
        taken.strangers.push_back(Stranger {
            number,
            source,
            go: Arc::clone(&go),
        });
        taken.all += 1;
        taken.anonymous += 1;
        *taken.of.entry(Whose::Source(source)).or_default() += 1;
        Place {
            places: self.clone(),
            whose: Some(Whose::Source(source)),
            stranger: Some((number, go)),
        }
    }

    fn take_for(&self, whose: Option<Whose>, most: usize) -> Option<Place> {
        let mut taken = self.taken();
        // A stranger takes none of the places of those who are known.
        let room = taken.all - taken.anonymous < MAX_CONNECTIONS;
        let held = whose.as_ref().and_then(|whose| taken.of.get(whose)).copied();
        if !room || held.unwrap_or_default() >= most {
            return None;
        }
        taken.all += 1;
        if let Some(whose) = &whose {
            *taken.of.entry(whose.clone()).or_default() += 1;
        }
        Some(Place {
            places: self.clone(),
            whose,
            stranger: None,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some((number, _)) = self.stranger {
            taken.strangers.retain(|one| one.number != number);
        }
        let Some(whose) = &self.whose else { return };
        taken.anonymous -= usize::from(matches!(whose, Whose::Source(_)));
        if let Some(count) = taken.of.get_mut(whose) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(whose);
            }
        }
    }
}

/// By what an address is counted: of IPv6 a host has a whole network.
fn host_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

/// Until when a connection may be there.
pub(super) enum End {
    /// Nothing ends it: there is no certificate, and nobody is asked for one.
    Never,
    /// This moment.
    At(Instant),
    /// The last second of a certificate.
    Certificate(UnixTime, Arc<dyn TimeProvider>),
}

impl End {
    /// That of a connection without a certificate which begins now.
    pub(super) fn anonymous() -> Self {
        Self::At(Instant::now() + ANONYMOUS_LIFETIME)
    }

    fn left(&self) -> Duration {
        match self {
            Self::Never => Duration::MAX,
            Self::At(moment) => moment.saturating_duration_since(Instant::now()),
            // A clock that cannot be read proves nothing valid.
            Self::Certificate(end, clock) => clock.current_time().map_or(Duration::ZERO, |now| {
                Duration::from_secs((end.as_secs() + 1).saturating_sub(now.as_secs()))
            }),
        }
    }
}

/// A connection with its place and its end.
pub(super) struct Held<S> {
    inner: S,
    end: End,
    nap: Pin<Box<Sleep>>,
    /// Rings when it is to be made again.
    again: Option<Pin<Box<OwnedNotified>>>,
    /// Rings when others need its place.
    go: Option<Pin<Box<OwnedNotified>>>,
    _counted: Option<Counted>,
    _place: Place,
}

impl<S> Held<S> {
    pub(super) fn new(inner: S, place: Place, end: End) -> Self {
        Self {
            inner,
            end,
            // The first look is at once.
            nap: Box::pin(tokio::time::sleep(Duration::ZERO)),
            again: None,
            go: place
                .stranger
                .as_ref()
                .map(|(_, go)| Box::pin(Arc::clone(go).notified_owned())),
            _counted: None,
            _place: place,
        }
    }

    /// Counts it among those of workloads, and ends it when it is to be made again.
    pub(super) fn counted(self, counted: Counted) -> Self {
        let again = Arc::clone(&counted.come_again).notified_owned();
        Self {
            again: Some(Box::pin(again)),
            _counted: Some(counted),
            ..self
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // HTTP/2 reads whenever it does not write, so this is looked at without a request too.
        if self
            .again
            .as_mut()
            .is_some_and(|again| again.as_mut().poll(cx).is_ready())
        {
            self.again = None;
            let soon = Instant::now() + COME_AGAIN;
            if self.end.left() > COME_AGAIN {
                self.end = End::At(soon);
            }
            self.nap.as_mut().reset(soon);
        }
        if self.go.as_mut().is_some_and(|go| go.as_mut().poll(cx).is_ready()) {
            self.go = None;
            self.end = End::At(Instant::now());
            self.nap.as_mut().reset(Instant::now());
        }
        while self.nap.as_mut().poll(cx).is_ready() {
            let left = self.end.left();
            if left.is_zero() {
                let over = "the certificate that was shown has ended or been replaced, or there was none for too long";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, over)));
            }
            let look = Instant::now() + left.min(MAX_NAP);
            self.nap.as_mut().reset(look);
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::testing::SettableClock;
    use tokio::io::{AsyncReadExt as _, DuplexStream};

    use super::*;

    fn held(end: End) -> (Held<DuplexStream>, DuplexStream) {
        let (near, far) = tokio::io::duplex(64);
        (Held::new(near, Places::default().take().unwrap(), end), far)
    }

    #[tokio::test(start_paused = true)]
    async fn who_shows_no_certificate_is_there_for_half_a_minute() {
        let (mut connection, _far) = held(End::anonymous());
        let begin = Instant::now();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), ANONYMOUS_LIFETIME.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn id_11_a_connection_ends_with_its_certificate_also_when_the_machine_slept() {
        let clock = SettableClock::at(1_000);
        let end = UnixTime::since_unix_epoch(Duration::from_secs(5_000));
        let (mut connection, _far) = held(End::Certificate(end, Arc::new(clock.clone())));
        let begin = Instant::now();
        let waiting = tokio::spawn(async move { connection.read_u8().await.unwrap_err().kind() });
        // Its last second is not over.
        clock.set(5_000);
        tokio::time::sleep(MAX_NAP * 3).await;
        assert!(!waiting.is_finished());
        clock.set(5_001);
        assert_eq!(waiting.await.unwrap(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() <= MAX_NAP * 4);
    }

    /// Who comes for a certificate is let in however many strangers there are; who has been there longest goes, of the same host where that has
    /// too many.
    #[tokio::test(start_paused = true)]
    async fn a_stranger_keeps_no_other_out() {
        let places = Places::default();
        let stranger = |source: IpAddr| {
            let (near, far) = tokio::io::duplex(64);
            (Held::new(near, places.take_anonymous(source), End::anonymous()), far)
        };
        let v4 = |n: u32| IpAddr::from(n.to_be_bytes());
        let network = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let mut all = vec![stranger(v4(1))];
        all.extend((0..MAX_ANONYMOUS_OF_SOURCE as u16).map(|n| stranger(network(n))));
        let one_more = stranger(network(60_000));
        let begin = Instant::now();
        // The oldest of the network, though another is older.
        assert_eq!(all[1].0.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let joined = tokio::time::timeout(Duration::from_secs(1), all[0].0.read_u8()).await;
        assert!(joined.is_err(), "it may stay");
        let others: Vec<_> = (2..MAX_ANONYMOUS as u32).map(|n| stranger(v4(n))).collect();
        assert_eq!(all[0].0.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), Duration::from_secs(1));
        drop((all, one_more, others));
        let taken = places.taken();
        assert_eq!(
            (taken.all, taken.anonymous, taken.of.len(), taken.strangers.len()),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn strangers_take_no_place_of_those_who_are_known_and_one_not_all() {
        let places = Places::default();
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut strangers = Vec::new();
        strangers.extend((0..MAX_ANONYMOUS_OF_SOURCE).map(|_| places.take_anonymous(source(1))));
        strangers.extend((2..2_000).map(|n| places.take_anonymous(source(n))));
        // Those that were told to go have not gone, and count as what they are.
        assert_eq!(places.taken().strangers.len(), MAX_ANONYMOUS);
        let id = |n: usize| SpiffeId::parse(&format!("spiffe://d/ns/n/sa/{n}")).unwrap();
        let mut known: Vec<_> = (0..5_000).map_while(|_| places.take_known(&id(0))).collect();
        assert_eq!(known.len(), MAX_OF_IDENTITY);
        known.extend((1..20_000).map_while(|n| places.take_known(&id(n))));
        assert_eq!(known.len(), MAX_CONNECTIONS);
        // What is given back can be had again, and nothing is remembered of who had it.
        strangers.clear();
        known.pop();
        assert!(places.take_known(&id(1)).is_some());
        drop(known);
        let taken = places.taken();
        assert_eq!((taken.all, taken.anonymous, taken.of.len()), (0, 0, 0));
    }
}
