//! `trafficPolicy` of a `DestinationRule`: how a service, a subset, or a port of either is called (Istio).
//!
//! It is four blocks. What holds for a port or a subset replaces a block as a whole, never a field of it, so a block is kept as
//! it was written and defaults come later, in `translate`.

use std::time::Duration;

use super::fields::Fields;
use super::load_balancer::{LoadBalancer, LocalitySetting};
use super::value::{At, Place, Sink, Value};
use super::values::duration;
use crate::diagnostic::{Code, Severity};

/// A policy, and what it says of single ports.
#[derive(Clone, Debug, Default)]
pub struct TrafficPolicy {
    /// What holds for every port.
    pub blocks: Blocks,
    /// What holds for one, in the place of all of that.
    pub ports: Vec<(At<u32>, Blocks)>,
}

/// The blocks of a policy; what is not there is Istio's default, or what the policy above says.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// Which endpoint.
    pub load_balancer: Option<LoadBalancer>,
    /// How connections are made, and how many of what there may be.
    pub connection_pool: Option<ConnectionPool>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<OutlierDetection>,
    /// How the peer is authenticated.
    pub tls: Option<ClientTls>,
}

impl TrafficPolicy {
    /// What holds for a port: its own blocks, all four of them, or those for every port; and whether they are its own.
    pub fn at(&self, port: u32) -> (&Blocks, bool) {
        match self.ports.iter().find(|(number, _)| number.value == port) {
            Some((_, blocks)) => (blocks, true),
            None => (&self.blocks, false),
        }
    }

    /// Whether anything in it turns on where a client is.
    pub fn speaks_of_localities(&self) -> bool {
        self.localities().next().is_some() || self.all().any(|blocks| blocks.outlier_detection.is_some())
    }

    /// What it says of localities, for whichever port.
    pub fn localities(&self) -> impl Iterator<Item = &LocalitySetting> {
        let balancers = self.all().filter_map(|blocks| blocks.load_balancer.as_ref());
        balancers.filter_map(|balancer| balancer.locality.as_ref())
    }

    fn all(&self) -> impl Iterator<Item = &Blocks> {
        std::iter::once(&self.blocks).chain(self.ports.iter().map(|(_, blocks)| blocks))
    }

    pub(super) fn read(fields: &mut Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let mut policy = fields.take("trafficPolicy")?.object(sink)?;
        let blocks = Blocks::read(&mut policy, sink);
        let ports = policy.list("portLevelSettings", sink, |value, sink| {
            let mut fields = value.object(sink)?;
            let place = fields.place.clone();
            let mut port = fields.take("port").and_then(|value| value.object(sink));
            let number = port.as_mut().and_then(|port| port.take("number"));
            let number = number.and_then(|value| value.number(65_535, sink));
            if let Some(port) = port {
                port.finish(sink);
            }
            let blocks = Blocks::read(&mut fields, sink);
            fields.finish(sink);
            match number {
                Some(number) => Some((number, blocks)),
                None => {
                    sink.schema(&place, "port.number is required");
                    None
                }
            }
        });
        policy.unserved(&["tunnel", "proxyProtocol"], sink);
        policy.finish(sink);
        Some(Self { blocks, ports })
    }
}

impl Blocks {
    fn read(fields: &mut Fields, sink: &mut Sink<'_>) -> Self {
        let load_balancer = fields
            .take("loadBalancer")
            .and_then(|value| LoadBalancer::read(value, sink));
        let connection_pool = fields
            .take("connectionPool")
            .and_then(|value| ConnectionPool::read(value, sink));
        let outlier = fields
            .take("outlierDetection")
            .and_then(|value| OutlierDetection::read(value, sink));
        let tls = fields.take("tls").and_then(|value| ClientTls::read(value, sink));
        fields.unserved(&["retryBudget"], sink);
        Self {
            load_balancer,
            connection_pool,
            outlier_detection: outlier,
            tls,
        }
    }
}

/// `connectionPool`. What is not there is Istio's default: no limit, or Envoy's time.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`
    pub connect_timeout: Option<Duration>,
    /// `tcp.maxConnectionDuration`
    pub max_connection_duration: Option<Duration>,
    /// `tcp.tcpKeepalive`: probes, time, interval.
    pub tcp_keep_alive: Option<(Option<u32>, Option<Duration>, Option<Duration>)>,
    /// `http.http1MaxPendingRequests`
    pub max_pending: Option<u32>,
    /// `http.http2MaxRequests`
    pub max_requests: Option<u32>,
    /// `http.maxRequestsPerConnection`
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxRetries`
    pub max_retries: Option<u32>,
    /// `http.idleTimeout`
    pub idle_timeout: Option<Duration>,
    /// `http.maxConcurrentStreams`
    pub max_concurrent_streams: Option<u32>,
    /// `http.http2KeepAlive`: interval and timeout.
    pub http2_keep_alive: Option<(Duration, Duration)>,
}

/// Protobuf's word for nothing written, where Istio has no use for the number.
fn positive(value: Option<At<u32>>) -> Option<u32> {
    value.map(|at| at.value).filter(|value| *value > 0)
}

fn number(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Option<At<u32>> {
    fields.take(name)?.number(i32::MAX as u32, sink)
}

fn time(fields: &mut Fields, name: &str, sink: &mut Sink<'_>) -> Option<Duration> {
    duration(fields.take(name)?, sink).map(|at| at.value)
}

impl ConnectionPool {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let mut pool = Self::default();
        if let Some(mut tcp) = fields.take("tcp").and_then(|value| value.object(sink)) {
            pool.max_connections = positive(number(&mut tcp, "maxConnections", sink));
            pool.connect_timeout = time(&mut tcp, "connectTimeout", sink).filter(|time| !time.is_zero());
            pool.max_connection_duration = time(&mut tcp, "maxConnectionDuration", sink);
            tcp.unserved(&["idleTimeout"], sink);
            if let Some(mut alive) = tcp.take("tcpKeepalive").and_then(|value| value.object(sink)) {
                let probes = positive(number(&mut alive, "probes", sink));
                let times = [time(&mut alive, "time", sink), time(&mut alive, "interval", sink)];
                pool.tcp_keep_alive = Some((probes, times[0], times[1]));
                alive.finish(sink);
            }
            tcp.finish(sink);
        }
        if let Some(mut http) = fields.take("http").and_then(|value| value.object(sink)) {
            pool.max_pending = positive(number(&mut http, "http1MaxPendingRequests", sink));
            pool.max_requests = positive(number(&mut http, "http2MaxRequests", sink));
            pool.max_requests_per_connection = positive(number(&mut http, "maxRequestsPerConnection", sink));
            pool.max_retries = positive(number(&mut http, "maxRetries", sink));
            pool.idle_timeout = time(&mut http, "idleTimeout", sink);
            pool.max_concurrent_streams = positive(number(&mut http, "maxConcurrentStreams", sink));
            if let Some(mut alive) = http.take("http2KeepAlive").and_then(|value| value.object(sink)) {
                let interval = time(&mut alive, "interval", sink);
                let timeout = time(&mut alive, "timeout", sink);
                pool.http2_keep_alive = interval.map(|interval| (interval, timeout.unwrap_or(interval)));
                alive.finish(sink);
            }
            // What this data plane speaks is agreed with the peer.
            http.unserved(&["h2UpgradePolicy", "useClientProtocol"], sink);
            http.finish(sink);
        }
        fields.finish(sink);
        Some(pool)
    }
}

/// `outlierDetection`. Its defaults count once the block is there.
#[derive(Clone, Debug, Default)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`; 0: never.
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors`, and the older `consecutiveErrors`.
    pub consecutive_gateway: Option<u32>,
    /// `splitExternalLocalOriginErrors`
    pub split: bool,
    /// `consecutiveLocalOriginFailures`
    pub consecutive_local: Option<u32>,
    /// `interval`
    pub interval: Option<Duration>,
    /// `baseEjectionTime`
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent`
    pub max_ejection_percent: Option<u32>,
    /// `minHealthPercent`
    pub min_health_percent: u32,
}

impl OutlierDetection {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let number =
            |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| number(fields, name, sink).map(|at| at.value);
        let percent = |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| {
            let value = fields.take(name)?.number(100, sink);
            value.map(|at| at.value)
        };
        let split = fields.take("splitExternalLocalOriginErrors");
        let [newer, older] =
            ["consecutiveGatewayErrors", "consecutiveErrors"].map(|name| number(&mut fields, name, sink));
        let outlier = Self {
            consecutive_5xx: number(&mut fields, "consecutive5xxErrors", sink),
            consecutive_gateway: newer.or(older),
            split: split.and_then(|value| value.boolean(sink)).is_some_and(|at| at.value),
            consecutive_local: number(&mut fields, "consecutiveLocalOriginFailures", sink),
            interval: time(&mut fields, "interval", sink).filter(|time| !time.is_zero()),
            base_ejection_time: time(&mut fields, "baseEjectionTime", sink).filter(|time| !time.is_zero()),
            // 0 is protobuf's word for nothing written.
            max_ejection_percent: percent(&mut fields, "maxEjectionPercent", sink).filter(|percent| *percent > 0),
            min_health_percent: percent(&mut fields, "minHealthPercent", sink).unwrap_or_default(),
        };
        fields.unserved(&["outlierDetectionHttpErrorCodes"], sink);
        fields.finish(sink);
        Some(outlier)
    }
}

/// `tls`.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// `mode`
    pub mode: TlsMode,
    /// Where the mode stands, or else the block.
    pub place: Place,
    /// `clientCertificate`: a file.
    pub certificate: Option<String>,
    /// `privateKey`: a file.
    pub key: Option<String>,
    /// `caCertificates`: a file; none: the system's roots.
    pub roots: Option<String>,
    /// `credentialName`
    pub credential: Option<String>,
    /// `subjectAltNames`
    pub names: Vec<String>,
    /// `sni`
    pub sni: Option<String>,
    /// `insecureSkipVerify`
    pub unverified: bool,
}

/// How TLS is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Not at all.
    Disable,
    /// As a browser does.
    Simple,
    /// With a certificate of one's own that is not the mesh's.
    Mutual,
    /// As the mesh does.
    IstioMutual,
}

impl ClientTls {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let mode = fields.string("mode", sink);
        let place = mode
            .as_ref()
            .map_or_else(|| fields.place.clone(), |mode| mode.place.clone());
        let mode = match mode.as_ref().map_or("DISABLE", |mode| mode.as_str()) {
            "DISABLE" => TlsMode::Disable,
            "SIMPLE" => TlsMode::Simple,
            "MUTUAL" => TlsMode::Mutual,
            "ISTIO_MUTUAL" => TlsMode::IstioMutual,
            other => {
                sink.schema(
                    &place,
                    format!("{other:?} is not one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
                );
                fields.ignore_rest();
                return None;
            }
        };
        let text = |fields: &mut Fields, name: &str, sink: &mut Sink<'_>| {
            let text = fields.string(name, sink).map(|at| at.value);
            text.filter(|text| !text.is_empty())
        };
        let names = fields.strings("subjectAltNames", sink);
        let skip = fields.take("insecureSkipVerify");
        let tls = Self {
            mode,
            place,
            certificate: text(&mut fields, "clientCertificate", sink),
            key: text(&mut fields, "privateKey", sink),
            roots: text(&mut fields, "caCertificates", sink),
            credential: text(&mut fields, "credentialName", sink),
            names: names.into_iter().map(|at| at.value).collect(),
            sni: text(&mut fields, "sni", sink),
            unverified: skip.and_then(|value| value.boolean(sink)).is_some_and(|at| at.value),
        };
        fields.refused(&["caCrl"], "peers would be verified differently than it says", sink);
        fields.finish(sink);
        tls.check(sink);
        Some(tls)
    }

    /// What Istio's own validation refuses.
    fn check(&self, sink: &mut Sink<'_>) {
        let refuse = |why: &str, sink: &mut Sink<'_>| sink.say(Severity::Error, Code::Schema, &self.place, why);
        let own = self.certificate.is_some() || self.key.is_some();
        match self.mode {
            TlsMode::IstioMutual if own || self.roots.is_some() || self.credential.is_some() => {
                refuse("with ISTIO_MUTUAL certificates are the mesh's: none may be named", sink);
            }
            TlsMode::Mutual if self.credential.is_some() && (own || self.roots.is_some()) => {
                refuse("credentialName and files cannot both be given", sink);
            }
            TlsMode::Mutual if self.credential.is_none() && (self.certificate.is_none() || self.key.is_none()) => {
                refuse(
                    "MUTUAL asks for clientCertificate and privateKey, or for credentialName",
                    sink,
                );
            }
            _ => {}
        }
    }
}
