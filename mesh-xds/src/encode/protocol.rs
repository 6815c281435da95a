//! How connections are made and kept: `HttpProtocolOptions` and `upstream_connection_options`. gRPC's clients ignore both.

use std::collections::HashMap;

use mesh_core::config::{Connections, Http2Settings, KeepAlive, Protocol, TcpKeepAlive};
use prost::Name;

use super::common::{duration, uint};
use crate::proto::cluster::UpstreamConnectionOptions;
use crate::proto::core::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings, TcpKeepalive,
};
use crate::proto::pack;
use crate::proto::protobuf::Any;
use crate::proto::upstream_http::{
    HttpProtocolOptions,
    http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    },
};

/// Always there: Envoy speaks HTTP/1.1 to a cluster that does not say otherwise.
pub(super) fn options(connections: &Connections) -> HashMap<String, Any> {
    let common = Common {
        idle_timeout: connections.idle_timeout.map(duration),
        max_connection_duration: connections.max_age.map(duration),
        max_requests_per_connection: connections.max_requests.and_then(|max| uint(max.get())),
        ..Common::default()
    };
    let http2 = http2(&connections.http2);
    let protocol = match connections.protocol {
        Protocol::Http2 => explicit(ProtocolConfig::Http2ProtocolOptions(http2)),
        Protocol::Http1 => explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())),
        Protocol::Request => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2),
            ..UseDownstreamHttpConfig::default()
        }),
        Protocol::Negotiated => UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2),
            ..AutoHttpConfig::default()
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: (common != Common::default()).then_some(common),
        upstream_protocol_options: Some(protocol),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), pack(&options))])
}

fn explicit(protocol: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(protocol),
    })
}

fn http2(settings: &Http2Settings) -> Http2ProtocolOptions {
    let keep_alive = |KeepAlive { interval, timeout }| KeepaliveSettings {
        interval: Some(duration(interval)),
        timeout: Some(duration(timeout)),
        ..KeepaliveSettings::default()
    };
    Http2ProtocolOptions {
        max_concurrent_streams: settings.max_streams.and_then(|max| uint(max.get())),
        initial_stream_window_size: settings.stream_window.and_then(uint),
        initial_connection_window_size: settings.connection_window.and_then(uint),
        connection_keepalive: settings.keep_alive.map(keep_alive),
        ..Http2ProtocolOptions::default()
    }
}

pub(super) fn tcp(keep_alive: TcpKeepAlive) -> UpstreamConnectionOptions {
    let seconds = |value: std::time::Duration| uint(u32::try_from(value.as_secs()).unwrap_or(u32::MAX));
    UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: keep_alive.probes.and_then(uint),
            keepalive_time: keep_alive.time.and_then(seconds),
            keepalive_interval: keep_alive.interval.and_then(seconds),
        }),
        ..UpstreamConnectionOptions::default()
    }
}
