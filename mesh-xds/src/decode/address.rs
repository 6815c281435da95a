//! Addresses of sockets, wherever they stand.

use std::net::{IpAddr, SocketAddr};

use super::Fault;
use crate::proto::core::{Address, SocketAddress, address, socket_address::PortSpecifier};

/// The host and the port of an address, the host still as text.
pub(super) fn host_and_port(proto: Option<&Address>) -> Result<(&SocketAddress, u16), Fault> {
    let Some(address::Address::SocketAddress(socket)) = proto.and_then(|address| address.address.as_ref()) else {
        return Err(Fault::new("socket_address", "is missing"));
    };
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        Some(PortSpecifier::NamedPort(_)) | None => None,
    };
    let port = port.ok_or_else(|| Fault::new("socket_address.port_value", "is not a port between 1 and 65535"))?;
    Ok((socket, port))
}

/// The IP address and the port.
pub(super) fn socket_address(proto: Option<&Address>) -> Result<SocketAddr, Fault> {
    let (socket, port) = host_and_port(proto)?;
    let ip: IpAddr = socket.address.parse().map_err(|_| {
        let reason = format!("is not an IP address: {:?}", socket.address);
        Fault::new("socket_address.address", reason)
    })?;
    Ok(SocketAddr::new(ip, port))
}

/// Whether it is a pipe, or a listener inside Envoy.
pub(super) fn is_at_no_port(proto: Option<&Address>) -> bool {
    use address::Address::{EnvoyInternalAddress, Pipe};
    matches!(
        proto.and_then(|address| address.address.as_ref()),
        Some(Pipe(_) | EnvoyInternalAddress(_))
    )
}

/// Whether it is an address that only a proxy can use: a pipe, a listener inside Envoy, or a name where an IP address is
/// asked for.
pub(super) fn is_for_proxies(proto: Option<&Address>) -> bool {
    match proto.and_then(|address| address.address.as_ref()) {
        Some(address::Address::SocketAddress(socket)) => socket.address.parse::<IpAddr>().is_err(),
        Some(address::Address::Pipe(_) | address::Address::EnvoyInternalAddress(_)) => true,
        None => false,
    }
}
