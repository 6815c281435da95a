//! Hosts that no configuration names: the destinations of a cluster that goes wherever a request says (Istio's `ALLOW_ANY`,
//! Envoy's `PassthroughCluster`).
//!
//! A sidecar takes the address that the application's connection was going to. In the process there is none yet, so the
//! request's authority is resolved here, and its scheme says whether TLS is spoken: with the system's roots, and the host's
//! name checked, for `https`. What is allowed of it is the channel's to say, as for every call that leaves the mesh.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Uri};
use mesh_core::config::{Roots, TlsMode, TlsOrigination};
use tokio::time::Instant;

use super::Host;
use super::handle::Parts;

/// The most destinations that one cluster remembers: each holds connections.
const MAX_KNOWN: usize = 1024;
/// How long the address of a name is used: as long as Envoy uses one of whose life DNS says nothing (`dns_refresh_rate` of a
/// dynamic forward proxy).
const REFRESH: Duration = Duration::from_secs(60);

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
#[derive(Debug, Default)]
pub(crate) struct Anywhere {
    known: Mutex<HashMap<Wish, Known>>,
}

#[derive(Debug)]
struct Known {
    host: Arc<Host>,
    until: Instant,
}

impl Anywhere {
    /// The host of a wish, while its address is fresh.
    pub(crate) fn find(&self, wish: &Wish, now: Instant) -> Option<Arc<Host>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(wish).filter(|known| now < known.until)?;
        Some(Arc::clone(&found.host))
    }

    /// Remembers where a wish leads to; `None` when there are too many.
    pub(crate) fn found(&self, wish: &Wish, address: std::net::SocketAddr, parts: &Parts) -> Option<Arc<Host>> {
        let now = Instant::now();
        let mut left = Vec::new();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The same address again keeps its connections.
        let same = known
            .get(wish)
            .map(|known| &known.host)
            .filter(|host| host.address() == address);
        let host = match same {
            Some(host) => Arc::clone(host),
            None => {
                if known.len() >= MAX_KNOWN && !known.contains_key(wish) {
                    known.retain(|_, known| {
                        let fresh = now < known.until;
                        if !fresh {
                            left.push(Arc::clone(&known.host));
                        }
                        fresh
                    });
                    if known.len() >= MAX_KNOWN {
                        return None;
                    }
                }
                Arc::new(Host::new(address, 1, wish.tls().map(Arc::new), parts))
            }
        };
        let until = now + REFRESH;
        let entry = Known {
            host: Arc::clone(&host),
            until,
        };
        left.extend(known.insert(wish.clone(), entry).map(|before| before.host));
        drop(known);
        for before in left.iter().filter(|before| !Arc::ptr_eq(before, &host)) {
            before.pool().retire();
        }
        Some(host)
    }
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
