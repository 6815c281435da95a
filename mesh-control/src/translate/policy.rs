//! `trafficPolicy` to how a cluster is called (Istio's `MergeTrafficPolicy` and what it makes of each block).
//!
//! A block that a port or a subset has replaces the one above as a whole. What holds for one port replaces all four: what it does
//! not say is Istio's default then, and not what stands above. Of the rules of one host the oldest with a policy counts.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::config::{
    CircuitBreakers, Cluster, Connections, Consecutive, Credential, ExpectedPeers, HashBy, HashCookie, HashPolicy,
    Http2Settings, KeepAlive, LbPolicy, Maglev, MutualTls, NameKind, NameMatch, OutlierDetection as Outlier,
    OutlierRules, Percent, RetryLimits, RingHash, Roots, SlowStart, StringMatch, Subject, TcpKeepAlive, Thresholds,
    TlsMode, TlsOrigination,
};

use super::Findings;
use crate::diagnostic::{Code, Severity};
use crate::istio::{
    Blocks, ClientTls, ConnectionPool, ConsistentHash, DestinationRule, Document, HashKey, LbChoice, LoadBalancer,
    Meta, OutlierDetection, Subset, TlsWord,
};

/// What holds for one cluster, and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Resolved<'a> {
    meta: &'a Meta,
    pub(super) load_balancer: Option<&'a LoadBalancer>,
    connection_pool: Option<&'a ConnectionPool>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTls>,
}

/// What `rules`, oldest first, say of a port of a service or of a subset of it; `None`: nothing.
pub(super) fn resolve<'a>(
    rules: &[&'a Document<DestinationRule>],
    subset: Option<&'a Subset>,
    port: u32,
) -> Option<Resolved<'a>> {
    let with_policy = rules.iter().find(|rule| rule.spec.policy.is_some());
    let rule = with_policy.or_else(|| rules.first())?;
    let mut resolved = Resolved {
        meta: &rule.meta,
        load_balancer: None,
        connection_pool: None,
        outlier_detection: None,
        tls: None,
    };
    let own = subset.and_then(|subset| subset.policy.as_ref());
    if with_policy.is_none() && own.is_none() {
        return None;
    }
    if let Some(policy) = &rule.spec.policy {
        resolved.replace(policy.at(port).0, true);
    }
    if let Some(policy) = own {
        let (blocks, all) = policy.at(port);
        resolved.replace(blocks, all);
        // The rule that has the subset may be another than the one with the policy.
        let is_this = |one: &Subset| subset.is_some_and(|subset| std::ptr::eq(one, subset));
        let of_subset = |rule: &&&'a Document<DestinationRule>| rule.spec.subsets.iter().any(is_this);
        resolved.meta = rules.iter().find(of_subset).map_or(resolved.meta, |rule| &rule.meta);
    }
    Some(resolved)
}

impl<'a> Resolved<'a> {
    fn replace(&mut self, blocks: &'a Blocks, all: bool) {
        fn one<'a, T>(here: &mut Option<&'a T>, block: &'a Option<T>, all: bool) {
            if all || block.is_some() {
                *here = block.as_ref();
            }
        }
        one(&mut self.load_balancer, &blocks.load_balancer, all);
        one(&mut self.connection_pool, &blocks.connection_pool, all);
        one(&mut self.outlier_detection, &blocks.outlier_detection, all);
        one(&mut self.tls, &blocks.tls, all);
    }

    /// Has a cluster called so. What its calls are to be hashed by, if they are.
    pub(super) fn apply(&self, cluster: &mut Cluster, findings: &mut Findings) -> Option<HashPolicy> {
        let hash = self
            .load_balancer
            .and_then(|balancer| self.balance(balancer, cluster, findings));
        if let Some(pool) = self.connection_pool {
            connect(pool, cluster);
        }
        if let Some(outlier) = self.outlier_detection {
            cluster.outlier = Some(detection(outlier));
            // Istio switches panic off where it has endpoints taken out, unless a share is said.
            let least = Percent::new(outlier.min_health_percent);
            cluster.common_lb.panic_threshold = least.unwrap_or(Percent::ZERO);
        }
        if let Some(tls) = self.tls {
            secure(tls, cluster);
        }
        hash
    }

    /// The rule that says it.
    pub(super) fn meta(&self) -> &'a Meta {
        self.meta
    }

    /// Whether endpoints may be taken out: only then another locality takes over (Istio).
    pub(super) fn fails_over(&self) -> bool {
        self.outlier_detection.is_some()
    }

    fn balance(&self, balancer: &LoadBalancer, cluster: &mut Cluster, findings: &mut Findings) -> Option<HashPolicy> {
        if let Some(warmup) = &balancer.warmup {
            cluster.common_lb.slow_start = Some(SlowStart {
                window: warmup.duration,
                aggression_per_mille: warmup.aggression_per_mille,
                min_weight: Percent::new(warmup.minimum_percent).unwrap_or(Percent::ALL),
            });
        }
        let hash = match balancer.policy.as_ref()? {
            LbChoice::LeastRequest => {
                cluster.lb = LbPolicy::LEAST_REQUEST;
                return None;
            }
            LbChoice::RoundRobin => {
                cluster.lb = LbPolicy::RoundRobin;
                return None;
            }
            LbChoice::Random => {
                cluster.lb = LbPolicy::Random;
                return None;
            }
            LbChoice::Hash(hash) => hash,
        };
        cluster.lb = match &hash.table_size {
            None => {
                let min_size = hash.ring_size.unwrap_or(RingHash::DEFAULT.min_size);
                LbPolicy::RingHash(RingHash {
                    min_size,
                    ..RingHash::DEFAULT
                })
            }
            Some(size) => match Maglev::new(size.value.into()) {
                Some(table) => LbPolicy::Maglev(table),
                None => {
                    let message = format!("{} is no prime of at most {}", size.value, Maglev::MAX_SIZE);
                    findings.say(self.meta, Severity::Error, Code::Schema, &size.place, message);
                    return None;
                }
            },
        };
        self.key(hash, findings)
    }

    fn key(&self, hash: &ConsistentHash, findings: &mut Findings) -> Option<HashPolicy> {
        let by = match &hash.key {
            HashKey::Header(name) => match Subject::parse(name) {
                Some(subject) => HashBy::Header { subject, rewrite: None },
                None => {
                    let message = format!("{:?} is no header's name", name.value);
                    findings.say(self.meta, Severity::Error, Code::Schema, &name.place, message);
                    return None;
                }
            },
            HashKey::SourceIp => HashBy::SourceIp,
            HashKey::Query(name) => HashBy::Query(name.as_str().into()),
            HashKey::Cookie {
                name,
                path,
                ttl,
                attributes,
            } => {
                let attributes = attributes.iter();
                let attributes: Box<[_]> = attributes
                    .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                    .collect();
                if mesh_core::route::set_cookie(name, "", 0, path, &attributes).is_none() {
                    let message = "the cookie cannot stand in a header";
                    findings.say(self.meta, Severity::Error, Code::Schema, &name.place, message);
                    return None;
                }
                HashBy::Cookie(Box::new(HashCookie {
                    name: name.as_str().into(),
                    ttl: *ttl,
                    path: path.as_str().into(),
                    attributes,
                }))
            }
        };
        Some(HashPolicy::new(by))
    }
}

/// What is not said has no limit (Istio).
fn connect(pool: &ConnectionPool, cluster: &mut Cluster) {
    let limits = Thresholds::UNLIMITED;
    cluster.breakers = CircuitBreakers::same(Thresholds {
        max_connections: pool.max_connections.unwrap_or(limits.max_connections),
        max_pending_requests: pool.max_pending.unwrap_or(limits.max_pending_requests),
        max_requests: pool.max_requests.unwrap_or(limits.max_requests),
        retries: RetryLimits {
            max: pool.max_retries,
            ..limits.retries
        },
        ..limits
    });
    cluster.connect_timeout = pool.connect_timeout.unwrap_or(cluster.connect_timeout);
    let before = &cluster.connections;
    cluster.connections = Arc::new(Connections {
        protocol: before.protocol,
        http2: Http2Settings {
            max_streams: pool.max_concurrent_streams.and_then(NonZeroU32::new),
            keep_alive: pool
                .http2_keep_alive
                .map(|(interval, timeout)| KeepAlive { interval, timeout }),
            ..before.http2.clone()
        },
        idle_timeout: pool.idle_timeout,
        max_age: pool.max_connection_duration.filter(|age| !age.is_zero()),
        max_requests: pool.max_requests_per_connection.and_then(NonZeroU32::new),
        tcp_keep_alive: pool
            .tcp_keep_alive
            .map(|(probes, time, interval)| TcpKeepAlive { probes, time, interval }),
    });
}

/// Istio's defaults once the block is there: five errors of 5xx in a row, and nothing by success rates. One host may always go.
fn detection(outlier: &OutlierDetection) -> Outlier {
    let mut detection = Outlier::new(OutlierRules::Envoy);
    let in_a_row = |count: u32| Consecutive {
        count,
        enforcing: if count > 0 { Percent::ALL } else { Percent::ZERO },
    };
    detection.success_rate.enforcing = Percent::ZERO;
    detection.success_rate.enforcing_local_origin = Percent::ZERO;
    detection.always_eject_one_host = true;
    if let Some(count) = outlier.consecutive_5xx {
        detection.consecutive_5xx = in_a_row(count);
    }
    if let Some(count) = outlier.consecutive_gateway {
        detection.consecutive_gateway_failure = in_a_row(count);
    }
    detection.split_external_local_origin_errors = outlier.split;
    if let Some(count) = outlier.consecutive_local.filter(|count| outlier.split && *count > 0) {
        detection.consecutive_local_origin_failure = in_a_row(count);
    }
    // Shorter ones are not had (Envoy's is a millisecond).
    let interval = outlier.interval.map(|interval| interval.max(Outlier::MIN_INTERVAL));
    detection.interval = interval.unwrap_or(detection.interval);
    detection.base_ejection_time = outlier.base_ejection_time.unwrap_or(detection.base_ejection_time);
    let longest: Duration = detection.max_ejection_time.max(detection.base_ejection_time);
    detection.max_ejection_time = longest;
    if let Some(percent) = outlier.max_ejection_percent.and_then(Percent::new) {
        detection.max_ejection_percent = percent;
    }
    detection
}

fn secure(tls: &ClientTls, cluster: &mut Cluster) {
    let names = |tls: &ClientTls| tls.names.iter().map(|name| name_match(name)).collect::<Box<[_]>>();
    let file = |path: &String| -> Box<Path> { Path::new(path).into() };
    let sni = tls.sni.as_deref().map(Box::from);
    // What single endpoints say of themselves counts only where nobody said how all are called.
    cluster.tls_matches = Arc::default();
    cluster.tls = match tls.mode {
        TlsWord::Disable => TlsMode::Plaintext,
        TlsWord::IstioMutual => {
            let (known, auto) = match &cluster.tls {
                TlsMode::Mutual(mutual) => (mutual.expected.clone(), mutual.sni.clone()),
                TlsMode::Plaintext | TlsMode::Origination(_) => Default::default(),
            };
            let expected = match tls.names.is_empty() {
                true => known,
                false => ExpectedPeers::exactly(tls.names.iter().map(String::as_str)),
            };
            TlsMode::Mutual(MutualTls {
                expected,
                sni: sni.or(auto),
                ..MutualTls::default()
            })
        }
        TlsWord::Simple | TlsWord::Mutual => {
            let roots = match (&tls.credential, &tls.roots) {
                (Some(name), _) => Roots::Named(name.as_str().into()),
                (None, Some(path)) => Roots::File(file(path)),
                (None, None) => Roots::System,
            };
            let shown = match (tls.mode, &tls.credential, &tls.certificate, &tls.key) {
                (TlsWord::Mutual, Some(name), ..) => Some(Credential::Named(name.as_str().into())),
                (TlsWord::Mutual, None, Some(certificate), Some(key)) => Some(Credential::Files {
                    certificate: file(certificate),
                    key: file(key),
                }),
                _ => None,
            };
            TlsMode::Origination(Box::new(TlsOrigination {
                roots,
                sni,
                names: names(tls),
                shown,
                unverified: tls.unverified,
            }))
        }
    };
}

/// Istio's `subjectAltNames` do not say of which kind they are.
fn name_match(name: &str) -> NameMatch {
    let kind = match name {
        uri if uri.contains("://") => NameKind::Uri,
        ip if ip.parse::<IpAddr>().is_ok() => NameKind::Ip,
        _ => NameKind::Dns,
    };
    NameMatch {
        kind,
        test: StringMatch::Exact(name.into()),
    }
}
