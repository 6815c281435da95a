//! How host names are resolved, so that tests and simulations can do it their way.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Resolve = dyn Fn(Arc<str>) -> Boxed<io::Result<Vec<IpAddr>>> + Send + Sync;

/// How the host names of clusters are resolved (`STRICT_DNS`, `LOGICAL_DNS`). Default: the system's resolver.
#[derive(Clone)]
pub struct Resolver(Arc<Resolve>);

impl Resolver {
    /// The system's: the hosts file, name servers, whatever the machine is set up with.
    pub fn system() -> Self {
        Self::new(|host: Arc<str>| async move {
            let found = tokio::net::lookup_host((&*host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// Resolves with `resolve`.
    pub fn new<F, R>(resolve: F) -> Self
    where
        F: Fn(Arc<str>) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |host| Box::pin(resolve(host))))
    }

    pub(crate) async fn resolve(&self, host: Arc<str>) -> io::Result<Vec<IpAddr>> {
        (self.0)(host).await
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}
