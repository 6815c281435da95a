//! What clusters are held to, and what servers hold their callers to.

use mesh_core::config::{
    CircuitBreakers, Consecutive, DescribeBy, Describing, DescriptorEntry, FailurePercentage, GlobalFilter,
    GlobalRateLimit, Instead, LimitFilter, LimitHost, LimitRoute, LocalDescriptor, LocalRateLimit, OutlierDetection,
    RateLimits, RetryBudget, RetryLimits, SuccessRate, Thresholds,
};

use super::Seen;

impl Seen {
    pub(super) fn breakers(&mut self, breakers: &CircuitBreakers) {
        note!(self, breakers => CircuitBreakers { default, high });
        for of in [default, high] {
            note!(self, of => Thresholds {
                max_connections, max_connections_per_host, max_pending_requests, max_requests, retries, track_remaining,
            });
            note!(self, retries => RetryLimits { budget, max });
            if let Some(budget) = budget {
                note!(self, budget => RetryBudget { share, min_retry_concurrency });
            }
        }
    }

    pub(super) fn outlier(&mut self, outlier: &OutlierDetection) {
        note!(self, outlier => OutlierDetection {
            rules, interval, base_ejection_time, max_ejection_time, max_ejection_time_jitter, max_ejection_percent,
            always_eject_one_host, split_external_local_origin_errors, consecutive_5xx, consecutive_gateway_failure,
            consecutive_local_origin_failure, success_rate, failure_percentage,
        });
        for run in [
            consecutive_5xx,
            consecutive_gateway_failure,
            consecutive_local_origin_failure,
        ] {
            note!(self, run => Consecutive { count, enforcing });
        }
        note!(self, success_rate => SuccessRate {
            minimum_hosts, request_volume, stdev_factor, enforcing, enforcing_local_origin,
        });
        note!(self, failure_percentage => FailurePercentage {
            threshold, minimum_hosts, request_volume, enforcing, enforcing_local_origin,
        });
    }

    pub(super) fn rate_limits(&mut self, limits: &RateLimits) {
        for filter in limits.filters() {
            note!(self, filter => LimitFilter { name, limit, after_guards });
            limit.iter().for_each(|limit| self.local_limit(limit));
        }
        for filter in limits.global() {
            note!(self, filter => GlobalFilter { name, limit, after_guards });
            limit.iter().for_each(|limit| self.global_limit(limit));
        }
        for host in limits.hosts() {
            note!(self, host => LimitHost { domains, describing, instead, routes });
            self.describing(describing);
            self.instead(instead);
            for route in routes {
                note!(self, route => LimitRoute { matches, cluster, describing, includes_host, instead });
                self.describing(describing);
                self.instead(instead);
            }
        }
    }

    fn instead(&mut self, instead: &[Instead]) {
        for one in instead {
            note!(self, one => Instead { filter, limit });
        }
    }

    fn local_limit(&mut self, limit: &LocalRateLimit) {
        note!(self, limit => LocalRateLimit {
            bucket, descriptors, enabled, enforced, status, resource_exhausted, response_headers, request_headers,
            stage, per_connection, quota_headers, host, always_consume_default, describing, max_dynamic,
        });
        for one in descriptors {
            note!(self, one => LocalDescriptor { entries, bucket, shadow });
            for entry in entries {
                note!(self, entry => DescriptorEntry { key, value });
            }
            self.note("TokenBucket.max", &bucket.max());
            self.note("TokenBucket.per_fill", &bucket.per_fill());
            self.note("TokenBucket.interval", &bucket.interval());
        }
        self.describing(describing);
    }

    fn global_limit(&mut self, limit: &GlobalRateLimit) {
        note!(self, limit => GlobalRateLimit {
            domain, service, stage, describing, timeout, deny_on_failure, status, status_on_error, resource_exhausted,
            quota_headers, tells, response_headers,
        });
        self.describing(describing);
    }

    fn describing(&mut self, all: &[Describing]) {
        for one in all {
            note!(self, one => Describing { stage, by });
            for by in by {
                self.describe_by(by);
            }
        }
    }

    fn describe_by(&mut self, by: &DescribeBy) {
        match by {
            DescribeBy::Header {
                subject,
                key,
                skip_if_absent,
            } => {
                self.note("DescribeBy::Header.subject", subject);
                self.note("DescribeBy::Header.key", key);
                self.note("DescribeBy::Header.skip_if_absent", skip_if_absent);
            }
            DescribeBy::Query {
                name,
                key,
                skip_if_absent,
            } => {
                self.note("DescribeBy::Query.name", name);
                self.note("DescribeBy::Query.key", key);
                self.note("DescribeBy::Query.skip_if_absent", skip_if_absent);
            }
            DescribeBy::MaskedRemoteAddress { v4, v6 } => {
                self.note("DescribeBy::MaskedRemoteAddress.v4", v4);
                self.note("DescribeBy::MaskedRemoteAddress.v6", v6);
            }
            DescribeBy::HeaderValueMatch { entry, headers, expect } => {
                self.note("DescribeBy::HeaderValueMatch.entry", entry);
                self.note("DescribeBy::HeaderValueMatch.headers", headers);
                self.note("DescribeBy::HeaderValueMatch.expect", expect);
            }
            DescribeBy::Generic(_) | DescribeBy::RemoteAddress | DescribeBy::DestinationCluster => {}
        }
    }
}
