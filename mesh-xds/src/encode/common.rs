//! Writers of what several resources hold.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::config::{Fraction, Per};

use crate::proto::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, RuntimeFractionalPercent, SelfConfigSource,
    SocketAddress, address, config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use crate::proto::percent::{FractionalPercent, fractional_percent::DenominatorType};
use crate::proto::protobuf;

/// The longest duration protobuf allows; what is longer is as good as endless.
const MAX_SECONDS: u64 = 315_576_000_000;

pub(super) fn duration(value: Duration) -> protobuf::Duration {
    match value.as_secs() {
        seconds if seconds > MAX_SECONDS => protobuf::Duration {
            seconds: MAX_SECONDS as i64,
            nanos: 0,
        },
        seconds => protobuf::Duration {
            seconds: seconds as i64,
            nanos: value.subsec_nanos() as i32,
        },
    }
}

/// An IP address and a port.
pub(super) fn address(of: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: of.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(of.port().into())),
            ..SocketAddress::default()
        })),
    }
}

pub(super) fn uint(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

/// "From the stream that you have this from."
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

/// A struct of text values.
pub(super) fn texts<'a>(values: impl IntoIterator<Item = (&'a str, &'a str)>) -> protobuf::Struct {
    let text = |(key, value): (&str, &str)| {
        let kind = Some(protobuf::value::Kind::StringValue(value.to_owned()));
        (key.to_owned(), protobuf::Value { kind })
    };
    protobuf::Struct {
        fields: values.into_iter().map(text).collect(),
    }
}

/// "Over the connection that you have this by": `lrs_server` may be nothing else (gRFC A27).
pub(super) fn this_stream() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Self_(SelfConfigSource {
            transport_api_version: ApiVersion::V3 as i32,
        })),
        ..ConfigSource::default()
    }
}

pub(super) fn fraction(value: Fraction) -> FractionalPercent {
    let denominator = match value.per {
        Per::Hundred => DenominatorType::Hundred,
        Per::TenThousand => DenominatorType::TenThousand,
        Per::Million => DenominatorType::Million,
    };
    FractionalPercent {
        numerator: value.of,
        denominator: denominator as i32,
    }
}

pub(super) fn runtime_fraction(value: Fraction) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(fraction(value)),
        runtime_key: String::new(),
    }
}
