//! The connector that applications run with.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Connect, Connecting, Io};

/// Plain TCP, with Nagle's algorithm off: a call is one small write whose answer is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connect for Tcp {
    fn connect(&self, address: SocketAddr) -> Connecting {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}
