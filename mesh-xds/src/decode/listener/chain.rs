//! `FilterChainMatch`: which connections a chain takes.

use std::net::IpAddr;

use mesh_core::config::{ChainMatch, Domain, IpPrefix, SourceType, Transport};

use crate::bootstrap::Profile;
use crate::decode::{Context, Fault};
use crate::proto::core::CidrRange;
use crate::proto::listener::{FilterChainMatch as Proto, filter_chain_match::ConnectionSourceType};

/// The most rules of all chains of a listener together: those of each two chains are held against each other.
const MAX_RULES: usize = 4096;

/// Counts the rules of a listener.
#[derive(Default)]
pub(super) struct Rules(usize);

/// Reads a match. The inner error is why the chain takes no connection at all: it asks for something that nobody here
/// offers (gRFC A36).
pub(super) fn matches(
    proto: Option<&Proto>,
    rules: &mut Rules,
    context: &Context,
) -> Result<Result<ChainMatch, String>, Fault> {
    let Some(proto) = proto else {
        return Ok(Ok(ChainMatch::default()));
    };
    bounded(proto, rules)?;
    if !proto.address_suffix.is_empty() || proto.suffix_len.is_some() {
        return Err(Fault::new("address_suffix", "is not supported"));
    }
    let matches = ChainMatch {
        port: port(proto)?,
        destinations: ranges("prefix_ranges", &proto.prefix_ranges)?,
        server_names: server_names(&proto.server_names)?,
        transport: match proto.transport_protocol.as_str() {
            "" => None,
            "raw_buffer" => Some(Transport::RawBuffer),
            "tls" => Some(Transport::Tls),
            other => return Ok(Err(format!("transport_protocol {other:?} is not spoken here"))),
        },
        protocols: proto
            .application_protocols
            .iter()
            .map(|one| one.as_str().into())
            .collect(),
        direct_sources: ranges("direct_source_prefix_ranges", &proto.direct_source_prefix_ranges)?,
        source_type: match ConnectionSourceType::try_from(proto.source_type) {
            Ok(ConnectionSourceType::Any) => SourceType::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
            Ok(ConnectionSourceType::External) => SourceType::External,
            Err(_) => {
                return Err(Fault::new(
                    "source_type",
                    format!("{} is not a kind of source", proto.source_type),
                ));
            }
        },
        sources: ranges("source_prefix_ranges", &proto.source_prefix_ranges)?,
        source_ports: source_ports(&proto.source_ports)?,
    };
    Ok(match context.profile {
        Profile::Grpc => by_grpc(matches),
        Profile::Envoy => Ok(matches),
    })
}

/// What a gRPC server never sees of a connection matches none (gRFC A36).
fn by_grpc(matches: ChainMatch) -> Result<ChainMatch, String> {
    let asks = [
        ("destination_port", matches.port.is_some()),
        ("server_names", !matches.server_names.is_empty()),
        ("transport_protocol tls", matches.transport == Some(Transport::Tls)),
        ("application_protocols", !matches.protocols.is_empty()),
    ];
    match asks.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(format!("it asks for {field} (gRFC A36)")),
        None => Ok(matches),
    }
}

fn bounded(proto: &Proto, rules: &mut Rules) -> Result<(), Fault> {
    let lists = [
        proto.prefix_ranges.len(),
        proto.server_names.len(),
        proto.application_protocols.len(),
        proto.direct_source_prefix_ranges.len(),
        proto.source_prefix_ranges.len(),
        proto.source_ports.len(),
    ];
    rules.0 += lists.iter().sum::<usize>();
    match rules.0 <= MAX_RULES {
        true => Ok(()),
        false => Err(Fault::new(
            "",
            format!("the listener's chains hold more than {MAX_RULES} rules together"),
        )),
    }
}

fn port(proto: &Proto) -> Result<Option<u16>, Fault> {
    let Some(port) = &proto.destination_port else {
        return Ok(None);
    };
    number(port.value)
        .map(Some)
        .ok_or_else(|| Fault::new("destination_port", "is not a port between 1 and 65535"))
}

fn source_ports(ports: &[u32]) -> Result<Vec<u16>, Fault> {
    let port = |(index, port): (usize, &u32)| {
        let field = format!("source_ports[{index}]");
        number(*port).ok_or_else(|| Fault::new(field, "is not a port between 1 and 65535"))
    };
    ports.iter().enumerate().map(port).collect()
}

fn number(port: u32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Exact names, or `*.` before one (Envoy).
fn server_names(names: &[String]) -> Result<Vec<Domain>, Fault> {
    let name = |(index, name): (usize, &String)| {
        let wrong = || {
            Fault::new(
                format!("server_names[{index}]"),
                format!("is not a server name: {name:?}"),
            )
        };
        match Domain::parse(name) {
            Ok(exact @ Domain::Exact(_)) => Ok(exact),
            Ok(suffix @ Domain::Suffix(_)) if name.starts_with("*.") => Ok(suffix),
            _ => Err(wrong()),
        }
    };
    names.iter().enumerate().map(name).collect()
}

fn ranges(field: &str, ranges: &[CidrRange]) -> Result<Vec<IpPrefix>, Fault> {
    let range = |(index, range): (usize, &CidrRange)| {
        let at = |fault: Fault| fault.within(format_args!("{field}[{index}]"));
        let address: IpAddr = range.address_prefix.parse().map_err(|_| {
            let reason = format!("is not an IP address: {:?}", range.address_prefix);
            at(Fault::new("address_prefix", reason))
        })?;
        let bits = range.prefix_len.as_ref().map_or(0, |bits| bits.value);
        IpPrefix::new(address, bits).map_err(|error| at(Fault::new("prefix_len", error)))
    };
    ranges.iter().enumerate().map(range).collect()
}
