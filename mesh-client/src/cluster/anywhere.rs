//! Hosts that no configuration names: the destinations of a cluster that goes wherever a request says (Istio's `ALLOW_ANY`,
//! Envoy's `PassthroughCluster`).
//!
//! A sidecar takes the address that the application's connection was going to. In the process there is none yet, so the
//! request's authority is resolved here, and its scheme says whether TLS is spoken: with the system's roots, and the host's
//! name checked, for `https`. What is allowed of it is the channel's to say, as for every call that leaves the mesh.
//!
//! A name is looked up once for all calls that want it, in a task of its own. Its addresses are used while they are asked for anew, and
//! when that fails: an address that was good is better than none (Envoy's dynamic forward proxy). Of several, the first that can be
//! called is.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Uri};
use mesh_core::balance::Load as _;
use mesh_core::config::{Roots, TlsMode, TlsOrigination};
use tokio::sync::watch;
use tokio::time::Instant;

use super::handle::Parts;
use super::{ClusterManager, Host};
use crate::connect::{ConnectError, ConnectKind, Resolving};
use crate::error::{Error, Kind};

/// The most destinations that one cluster remembers: each holds connections.
const MAX_KNOWN: usize = 1024;
/// The most addresses of a name that are used.
const MAX_ADDRESSES: usize = 8;
/// The most calls that wait for lookups, as many as may wait for connections to one endpoint.
const MAX_WAITING: u32 = 1024;
/// How long the addresses of a name are used before they are asked for anew: as long as Envoy uses those of whose life DNS says
/// nothing (`dns_refresh_rate` of a dynamic forward proxy).
const REFRESH: Duration = Duration::from_secs(60);
/// The same after a lookup that failed.
const REFRESH_FAILED: Duration = Duration::from_secs(5);
/// How long a destination is remembered that nobody calls (Envoy `host_ttl`).
const FORGET: Duration = Duration::from_secs(300);

/// Where one request wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    pub(crate) secure: bool,
}

impl Wish {
    /// Reads it off a request; `otherwise` is for one that names nobody.
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap, otherwise: Option<&Authority>) -> Option<Self> {
        let by_header = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
        let authority = uri.authority().cloned().or_else(by_header);
        let authority = authority.as_ref().or(otherwise)?;
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Some(Self {
            host: host.into(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
        })
    }

    /// How it is called.
    pub(crate) fn tls(&self) -> Option<TlsMode> {
        self.secure.then(|| {
            TlsMode::Origination(Box::new(TlsOrigination {
                roots: Roots::System,
                sni: Some(self.host.clone()),
                names: Box::default(),
                shown: None,
                unverified: false,
            }))
        })
    }
}

/// The destinations that were called lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anywhere {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Wish, Known>,
    waiting: u32,
}

#[derive(Debug)]
struct Known {
    /// In the order of their addresses; none until the first lookup is over.
    hosts: Vec<Arc<Host>>,
    refresh_at: Instant,
    used: Instant,
    looking: Option<watch::Receiver<Looked>>,
}

/// What came of a lookup; `None` while it runs.
type Looked = Option<Result<(), ConnectError>>;

/// Where a wish leads.
pub(crate) struct Found {
    pub(crate) host: Arc<Host>,
    /// There is another address that can be called.
    pub(crate) elsewhere: bool,
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            hosts: Vec::new(),
            refresh_at: now,
            used: now,
            looking: None,
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        !self.hosts.is_empty() && now < self.used + FORGET
    }

    /// The first that can be called; the first of all when none can, so that the call fails with what is wrong there.
    fn choose(&self) -> Option<Found> {
        let mut callable = self.hosts.iter().filter(|host| host.is_available());
        let host = callable.next().or_else(|| self.hosts.first())?;
        Some(Found {
            host: Arc::clone(host),
            elsewhere: callable.next().is_some(),
        })
    }

    /// Hosts whose address is still there keep their connections. Those of others end with their last call.
    fn take_over(&mut self, wish: &Wish, addresses: &[SocketAddr], parts: &Parts) {
        let mut hosts: Vec<Arc<Host>> = Vec::new();
        for address in addresses {
            if hosts.len() == MAX_ADDRESSES || hosts.iter().any(|host| host.address() == *address) {
                continue;
            }
            let same = self.hosts.iter().find(|host| host.address() == *address);
            hosts.push(match same {
                Some(host) => Arc::clone(host),
                None => Arc::new(Host::new(*address, 1, wish.tls().map(Arc::new), parts)),
            });
        }
        self.hosts = hosts;
    }
}

impl Anywhere {
    /// Where a wish leads, if that is known. What was known for a while is asked for anew meanwhile, within `limit`.
    pub(crate) fn find(&self, wish: &Wish, manager: &Arc<ClusterManager>, limit: Duration) -> Option<Found> {
        let now = Instant::now();
        let mut state = self.lock();
        let known = state.known.get_mut(wish).filter(|known| known.is_fresh(now))?;
        known.used = now;
        if now >= known.refresh_at && known.looking.is_none() {
            known.looking = Some(self.look(wish, manager, limit));
        }
        known.choose()
    }

    /// Where a wish leads that is not known: a lookup is begun, or the one that runs is waited for.
    ///
    /// Cancel safe: the lookup goes on for the others.
    pub(crate) fn wait(
        &self,
        wish: Wish,
        manager: &Arc<ClusterManager>,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<Found, Error>> + Send + use<>, Error> {
        let full = |what| Error::new(Kind::Overflow(what));
        let now = Instant::now();
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        if state.waiting >= MAX_WAITING {
            return Err(full("calls waiting for a name"));
        }
        if !state.known.contains_key(&wish) {
            if state.known.len() >= MAX_KNOWN {
                let old = |known: &Known| known.looking.is_none() && !known.is_fresh(now);
                forgotten.extend(state.known.extract_if(|_, known| old(known)));
            }
            if state.known.len() >= MAX_KNOWN {
                return Err(full("destinations outside of the mesh"));
            }
        }
        let known = state.known.entry(wish.clone()).or_insert_with(|| Known::new(now));
        let looking = known.looking.get_or_insert_with(|| self.look(&wish, manager, limit));
        let mut looked = looking.clone();
        state.waiting += 1;
        drop(state);
        drop(forgotten);
        let waits = Waits(self.clone());
        Ok(async move {
            let result = match looked.wait_for(Option::is_some).await {
                Ok(looked) => (*looked).clone(),
                // Its task ended without a word: the runtime is shutting down.
                Err(_closed) => None,
            };
            if let Some(Err(error)) = result {
                return Err(Error::new(Kind::Connect(error)));
            }
            let found = waits.0.lock().known.get(&wish).and_then(Known::choose);
            found.ok_or_else(|| Error::new(Kind::Connect(no_address(&wish))))
        })
    }

    /// Begins a lookup. Called under the lock, which its task takes when it is over.
    fn look(&self, wish: &Wish, manager: &Arc<ClusterManager>, limit: Duration) -> watch::Receiver<Looked> {
        let (done, looked) = watch::channel(None);
        let looking = manager.parts().means.connector.resolve(&wish.host, wish.port);
        let (this, wish, manager) = (self.clone(), wish.clone(), Arc::clone(manager));
        tokio::spawn(async move {
            let addresses = resolve(&wish, looking, limit).await;
            let outcome = this.looked(&wish, addresses, manager.parts());
            // Nobody may be waiting any more.
            let _ = done.send(Some(outcome));
        });
        looked
    }

    fn looked(
        &self,
        wish: &Wish,
        addresses: Result<Vec<SocketAddr>, ConnectError>,
        parts: &Parts,
    ) -> Result<(), ConnectError> {
        let now = Instant::now();
        let mut state = self.lock();
        let Some(known) = state.known.get_mut(wish) else {
            return addresses.map(drop);
        };
        known.looking = None;
        match addresses {
            Ok(addresses) => {
                known.take_over(wish, &addresses, parts);
                known.refresh_at = now + REFRESH;
                Ok(())
            }
            Err(error) => {
                tracing::debug!(host = %wish.host, %error, "no address was found");
                known.refresh_at = now + REFRESH_FAILED;
                if !known.is_fresh(now) {
                    state.known.remove(wish);
                }
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a waiting call for as long as it waits.
struct Waits(Anywhere);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

async fn resolve(wish: &Wish, looking: Resolving, limit: Duration) -> Result<Vec<SocketAddr>, ConnectError> {
    match tokio::time::timeout(limit, looking).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(no_address(wish)),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(ConnectError::new(ConnectKind::Resolve(wish.host.clone(), error))),
        Err(_elapsed) => Err(ConnectError::new(ConnectKind::Timeout(limit))),
    }
}

fn no_address(wish: &Wish) -> ConnectError {
    let error = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    ConnectError::new(ConnectKind::Resolve(wish.host.clone(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_request_wants_to_go() {
        let of = |uri: &'static str, host: Option<&'static str>| {
            let headers = HeaderMap::from_iter(host.map(|host| (HOST, http::HeaderValue::from_static(host))));
            let otherwise = Authority::from_static("target:8080");
            let wish = Wish::of(&Uri::from_static(uri), &headers, Some(&otherwise)).unwrap();
            (wish.host.into_string(), wish.port, wish.secure)
        };
        assert_eq!(of("/a", None), ("target".into(), 8080, false));
        assert_eq!(of("/a", Some("named")), ("named".into(), 80, false));
        assert_eq!(
            of("https://a.example/x", Some("named")),
            ("a.example".into(), 443, true)
        );
        assert_eq!(of("http://[::1]:99/x", None), ("::1".into(), 99, false));
        assert!(Wish::of(&Uri::from_static("/a"), &HeaderMap::new(), None).is_none());
    }
}
