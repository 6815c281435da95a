//! Connections to issuers, and where they may not lead.
//!
//! A name is looked up here and each of its addresses judged, right before it is connected to: a check of the name alone would be passed
//! by a name that leads inside.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::source::JwksUri;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

type Dialling = Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;
type Dial = dyn Fn(String, u16) -> Dialling + Send + Sync;

/// A connection.
pub(super) type Io = Box<dyn Duplex>;

/// Both directions of a byte stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How connections to issuers are made. Default: TCP, but not to addresses that no issuer has.
#[derive(Clone, Default)]
pub struct JwksConnector(Option<Arc<Dial>>);

impl JwksConnector {
    /// TCP to what a name is looked up as. Link-local, multicast and unspecified addresses are refused, and without TLS all but loopback.
    pub fn tcp() -> Self {
        Self(None)
    }

    /// Makes connections to a host and a port with `dial`, such as through a proxy. Where they may lead is its own business then.
    pub fn new<F, R, S>(dial: F) -> Self
    where
        F: Fn(String, u16) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Some(Arc::new(move |host, port| {
            let dialling = dial(host, port);
            Box::pin(async move { Ok(Box::new(dialling.await?) as Io) })
        })))
    }

    /// `anywhere`: plaintext may leave this host.
    pub(super) async fn dial(&self, uri: &JwksUri, anywhere: bool) -> io::Result<Io> {
        if let Some(dial) = &self.0 {
            return dial(uri.host().to_owned(), uri.port()).await;
        }
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host((uri.host(), uri.port())).await?.take(MAX_ADDRESSES) {
            match connect(address, uri.is_secure() || anywhere).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl fmt::Debug for JwksConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksConnector").finish_non_exhaustive()
    }
}

async fn connect(address: SocketAddr, may_leave: bool) -> io::Result<TcpStream> {
    let ip = address.ip().to_canonical();
    if is_nobodys(ip) {
        return Err(io::Error::other(format!("{ip} is no address of an issuer")));
    }
    if !may_leave && !ip.is_loopback() {
        return Err(io::Error::other(format!(
            "{ip} is not loopback, and http is for loopback alone"
        )));
    }
    TcpStream::connect(address).await
}

/// What is no host's own address, and where clouds answer for the machine itself (169.254.169.254 and its like).
fn is_nobodys(ip: IpAddr) -> bool {
    /// AWS answers for the machine here, within the range of private addresses.
    const CREDENTIALS: u128 = 0xfd00_0ec2_0000_0000_0000_0000_0000_0254;
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.to_bits() == CREDENTIALS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_that_no_issuer_has_are_refused_before_they_are_called() {
        for (address, may_leave) in [
            ("169.254.169.254:80", true),
            ("[fe80::1]:443", true),
            ("[::ffff:169.254.169.254]:443", true),
            ("[fd00:ec2::254]:443", true),
            ("0.0.0.0:443", true),
            ("[::]:443", true),
            ("224.0.0.1:443", true),
            ("255.255.255.255:443", true),
            ("192.0.2.1:80", false),
            ("[::ffff:10.0.0.1]:80", false),
        ] {
            let error = connect(address.parse().unwrap(), may_leave).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Other, "{address}: {error}");
        }
    }
}
