//! The connector that applications run with.

use std::io;
use std::net::SocketAddr;

use mesh_core::config::{Connections, TcpKeepAlive};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::{Connect, Connecting, Io};

/// Plain TCP, with Nagle's algorithm off: a call is one small write whose answer is waited for.
///
/// The system's keep-alive is off unless the cluster's settings ask for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect(&self, address: SocketAddr) -> Connecting {
        Box::pin(open(address, None))
    }

    fn connect_with(&self, address: SocketAddr, settings: &Connections) -> Connecting {
        Box::pin(open(address, settings.tcp_keep_alive))
    }
}

async fn open(address: SocketAddr, keep_alive: Option<TcpKeepAlive>) -> io::Result<Box<dyn Io>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if let Some(settings) = keep_alive {
        SockRef::from(&stream).set_tcp_keepalive(&of(settings))?;
    }
    Ok(Box::new(stream))
}

/// What is not said is left as the system has it. Zero is no time that a system knows.
fn of(settings: TcpKeepAlive) -> TcpKeepalive {
    let mut all = TcpKeepalive::new();
    if let Some(time) = settings.time.filter(|time| !time.is_zero()) {
        all = all.with_time(time);
    }
    if let Some(interval) = settings.interval.filter(|interval| !interval.is_zero()) {
        all = all.with_interval(interval);
    }
    if let Some(probes) = settings.probes.filter(|probes| *probes > 0) {
        all = all.with_retries(probes);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_systems_keep_alive_is_as_the_cluster_says() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        let settings = TcpKeepAlive {
            probes: Some(3),
            time: Some(Duration::from_secs(77)),
            interval: Some(Duration::ZERO),
        };
        socket.set_tcp_keepalive(&of(settings)).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            (
                socket.tcp_keepalive_retries().unwrap(),
                socket.tcp_keepalive_time().unwrap()
            ),
            (3, Duration::from_secs(77))
        );
        let settings = Connections {
            tcp_keep_alive: Some(settings),
            ..Connections::default()
        };
        assert!(Tcp.connect_with(address, &settings).await.is_ok());
    }
}
