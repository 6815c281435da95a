//! How connections are made and kept: `HttpProtocolOptions` (Envoy), the older fields of a cluster that say the same, and
//! `upstream_connection_options`.
//!
//! gRPC's clients read none of it and speak HTTP/2. Here it is read in both profiles, since our own control plane says it to
//! whoever asks; what differs is what a cluster means that says nothing.

use std::num::NonZeroU32;
use std::time::Duration;

use mesh_core::config::{Connections, Http2Settings, KeepAlive, Protocol, TcpKeepAlive};
use prost::Name;

use crate::bootstrap::Profile;
use crate::decode::common::{duration, limit, unpack};
use crate::decode::{Fault, Notes};
use crate::proto::cluster::{Cluster as Proto, cluster::ClusterProtocolSelection};
use crate::proto::core::{Http2ProtocolOptions, HttpProtocolOptions as Common, KeepaliveSettings, TcpKeepalive};
use crate::proto::protobuf::UInt32Value;
use crate::proto::upstream_http::{
    HttpProtocolOptions,
    http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
};

/// Between two pings when only their timeout is given.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two pings: peers end a connection that pings without end.
const MIN_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// The upstream filter that only marks where the codec stands.
const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";

const OPTIONS: &str = "typed_extension_protocol_options";

pub(super) fn connections(proto: &Proto, profile: Profile, notes: &mut Notes) -> Result<Connections, Fault> {
    let mut connections = match proto
        .typed_extension_protocol_options
        .get(&HttpProtocolOptions::full_name())
    {
        Some(any) => {
            let field = format!("{OPTIONS}[{}]", HttpProtocolOptions::full_name());
            let options = unpack::<HttpProtocolOptions>("", any).map_err(|fault| fault.within(&field))?;
            read(&options, notes).map_err(|fault| fault.within(&field))?
        }
        None => older(proto, profile, notes)?,
    };
    let options = proto.upstream_connection_options.as_ref();
    connections.tcp_keep_alive = options.and_then(|options| options.tcp_keepalive.as_ref()).map(tcp);
    Ok(connections)
}

fn read(options: &HttpProtocolOptions, notes: &mut Notes) -> Result<Connections, Fault> {
    // A filter that is left out may be the one that guards.
    let guard = options.http_filters.iter().position(|filter| {
        use crate::proto::hcm::http_filter::ConfigType;
        !matches!(&filter.config_type, Some(ConfigType::TypedConfig(any)) if any.type_url.ends_with(CODEC))
    });
    if let Some(index) = guard {
        return Err(Fault::new(format!("http_filters[{index}]"), "is not supported"));
    }
    let mut connections = common(
        options.common_http_protocol_options.as_ref(),
        "common_http_protocol_options",
        notes,
    )?;
    let at = |field: &'static str| move |fault: Fault| fault.within(field);
    let (protocol, http2) = match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
            const AT: &str = "explicit_http_config";
            match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(_)) => (Protocol::Http1, Http2Settings::default()),
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    let settings = http2(options).map_err(at("http2_protocol_options")).map_err(at(AT))?;
                    (Protocol::Http2, settings)
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    return Err(at(AT)(Fault::new("http3_protocol_options", "is not supported")));
                }
                None => return Err(at(AT)(Fault::new("protocol_config", "is missing"))),
            }
        }
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => (
            Protocol::Request,
            maybe_http2(config.http2_protocol_options.as_ref()).map_err(at("use_downstream_protocol_config"))?,
        ),
        Some(UpstreamProtocolOptions::AutoConfig(config)) => {
            if config.http3_protocol_options.is_some() {
                notes.add("HTTP/3 is not spoken: HTTP/2 and HTTP/1.1 are negotiated");
            }
            let settings = maybe_http2(config.http2_protocol_options.as_ref()).map_err(at("auto_config"))?;
            (Protocol::Negotiated, settings)
        }
        None => return Err(Fault::new("upstream_protocol_options", "is missing")),
    };
    (connections.protocol, connections.http2) = (protocol, http2);
    Ok(connections)
}

/// What is said in a cluster's own fields; nothing, mostly.
#[allow(deprecated, reason = "what older control planes write")]
fn older(proto: &Proto, profile: Profile, notes: &mut Notes) -> Result<Connections, Fault> {
    let mut connections = common(
        proto.common_http_protocol_options.as_ref(),
        "common_http_protocol_options",
        notes,
    )?;
    if let Some(max) = &proto.max_requests_per_connection {
        connections.max_requests = NonZeroU32::new(max.value);
    }
    if let Some(options) = &proto.http2_protocol_options {
        connections.http2 = http2(options).map_err(|fault| fault.within("http2_protocol_options"))?;
    }
    let of_request = proto.protocol_selection == ClusterProtocolSelection::UseDownstreamProtocol as i32;
    connections.protocol = match profile {
        _ if of_request => Protocol::Request,
        Profile::Envoy if proto.http2_protocol_options.is_none() => Protocol::Http1,
        Profile::Envoy | Profile::Grpc => Protocol::Http2,
    };
    Ok(connections)
}

fn common(common: Option<&Common>, field: &'static str, notes: &mut Notes) -> Result<Connections, Fault> {
    let Some(common) = common else {
        return Ok(Connections::default());
    };
    let at = |fault: Fault| fault.within(field);
    if common.max_headers_count.is_some() {
        notes.add(format_args!("{field}.max_headers_count is not applied"));
    }
    let idle = common.idle_timeout.as_ref();
    Ok(Connections {
        idle_timeout: idle
            .map(|idle| duration("idle_timeout", idle))
            .transpose()
            .map_err(at)?,
        max_age: limit("max_connection_duration", common.max_connection_duration.as_ref()).map_err(at)?,
        max_requests: common
            .max_requests_per_connection
            .as_ref()
            .and_then(|max| NonZeroU32::new(max.value)),
        ..Connections::default()
    })
}

fn maybe_http2(options: Option<&Http2ProtocolOptions>) -> Result<Http2Settings, Fault> {
    let settings = options.map(http2).transpose();
    Ok(settings
        .map_err(|fault| fault.within("http2_protocol_options"))?
        .unwrap_or_default())
}

fn http2(options: &Http2ProtocolOptions) -> Result<Http2Settings, Fault> {
    let max_streams = match &options.max_concurrent_streams {
        None => None,
        Some(max) => match NonZeroU32::new(max.value) {
            Some(value) if value.get() <= Http2Settings::MAX_WINDOW => Some(value),
            _ => {
                return Err(Fault::new(
                    "max_concurrent_streams",
                    format!("{} is not in [1, 2^31)", max.value),
                ));
            }
        },
    };
    Ok(Http2Settings {
        max_streams,
        stream_window: window(
            "initial_stream_window_size",
            options.initial_stream_window_size.as_ref(),
        )?,
        connection_window: window(
            "initial_connection_window_size",
            options.initial_connection_window_size.as_ref(),
        )?,
        keep_alive: options
            .connection_keepalive
            .as_ref()
            .map(|settings| keep_alive(settings).map_err(|fault| fault.within("connection_keepalive")))
            .transpose()?,
    })
}

fn window(field: &str, value: Option<&UInt32Value>) -> Result<Option<u32>, Fault> {
    let known = Http2Settings::MIN_WINDOW..=Http2Settings::MAX_WINDOW;
    match value {
        Some(value) if !known.contains(&value.value) => {
            Err(Fault::new(field, format!("{} is not in [65535, 2^31)", value.value)))
        }
        value => Ok(value.map(|value| value.value)),
    }
}

fn keep_alive(settings: &KeepaliveSettings) -> Result<KeepAlive, Fault> {
    let interval = limit("interval", settings.interval.as_ref())?.unwrap_or(KEEP_ALIVE_INTERVAL);
    let timeout = limit("timeout", settings.timeout.as_ref())?;
    Ok(KeepAlive {
        interval: interval.max(MIN_KEEP_ALIVE_INTERVAL),
        timeout: timeout.ok_or_else(|| Fault::new("timeout", "must be more than 0"))?,
    })
}

fn tcp(settings: &TcpKeepalive) -> TcpKeepAlive {
    let seconds = |value: &UInt32Value| Duration::from_secs(value.value.into());
    TcpKeepAlive {
        probes: settings.keepalive_probes.as_ref().map(|probes| probes.value),
        time: settings.keepalive_time.as_ref().map(seconds),
        interval: settings.keepalive_interval.as_ref().map(seconds),
    }
}
