//! What servers ask of their callers.

use mesh_core::config::{
    AskedAbout, Authorization, ChainMatch, CheckBody, CheckReplaced, CheckService, CheckSettings, ClaimHeader,
    ExtAuthz, FilterChain, FilterRules, GrpcCheck, HostRules, HttpCheck, Inbound, JwtPlaces, JwtProvider, JwtRule,
    JwtRules, LogFilter, OnFailure, Rbac, RbacFilter, RbacPolicy, Replaced, RouteRules, SentHeaders, Telemetry,
};

use super::Seen;

impl Seen {
    pub(super) fn inbound(&mut self, inbound: &Inbound) {
        note!(self, inbound => Inbound { name, address, chains, default });
        for chain in chains.iter().chain(default) {
            note!(self, chain => FilterChain {
                name, matches, security, identity, traffic, authorization, limits, telemetry,
            });
            self.telemetry(telemetry);
            note!(self, matches => ChainMatch {
                port, destinations, server_names, transport, protocols, direct_sources, source_type, sources,
                source_ports,
            });
            self.authorization(authorization);
            self.rate_limits(limits);
        }
    }

    fn telemetry(&mut self, telemetry: &Telemetry) {
        note!(self, telemetry => Telemetry { access_log });
        if let Some(filter) = access_log {
            self.log_filter(filter);
        }
    }

    fn log_filter(&mut self, filter: &LogFilter) {
        match filter {
            LogFilter::All => {}
            LogFilter::Status(comparison, than) => {
                self.note("LogFilter.Status comparison", comparison);
                self.note("LogFilter.Status than", than);
            }
            LogFilter::Share(fraction) => self.note("LogFilter.Share", fraction),
            LogFilter::Each(filters) => filters.iter().for_each(|filter| self.log_filter(filter)),
            LogFilter::Any(filters) => filters.iter().for_each(|filter| self.log_filter(filter)),
        }
    }

    fn authorization(&mut self, authorization: &Authorization) {
        for filter in authorization.request() {
            note!(self, filter => RbacFilter { name, rules });
            self.filter_rules(rules);
        }
        for check in authorization.checks() {
            self.check(check);
        }
        for host in authorization.hosts() {
            note!(self, host => HostRules { domains, replaced, checks, routes });
            self.replaced(replaced, checks);
            for route in routes {
                note!(self, route => RouteRules { matches, replaced, checks });
                self.route_match(matches);
                self.replaced(replaced, checks);
            }
        }
        if let Some(tokens) = authorization.tokens() {
            self.tokens(tokens);
        }
    }

    fn replaced(&mut self, replaced: &[Replaced], checks: &[CheckReplaced]) {
        for one in replaced {
            note!(self, one => Replaced { filter, with });
            self.filter_rules(with);
        }
        for one in checks {
            note!(self, one => CheckReplaced { filter, with });
            note!(self, with => CheckSettings { disabled, context, body });
            if let Some(Some(body)) = body {
                self.body(body);
            }
        }
    }

    fn filter_rules(&mut self, rules: &FilterRules) {
        note!(self, rules => FilterRules { enforced, shadow });
        for rbac in enforced.iter().chain(shadow) {
            note!(self, rbac => Rbac { action, policies });
            policies.iter().for_each(|policy| self.policy(policy));
        }
    }

    fn policy(&mut self, policy: &RbacPolicy) {
        note!(self, policy => RbacPolicy { name, permissions, principals });
    }

    fn check(&mut self, check: &ExtAuthz) {
        note!(self, check => ExtAuthz {
            name, after, disabled, about, cluster, service, timeout, on_failure, body, headers, server_name, claims,
            max_denied_body,
        });
        if let AskedAbout::Matched(policies) = about {
            policies.iter().for_each(|policy| self.policy(policy));
        }
        match service {
            CheckService::Grpc(grpc) => {
                note!(self, grpc => GrpcCheck { authority, metadata });
            }
            CheckService::Http(http) => {
                note!(self, &**http => HttpCheck {
                    path_prefix, path_override, add, upstream, upstream_append, client_on_deny, client_on_allow,
                });
            }
        }
        note!(self, on_failure => OnFailure { allow, tell, status });
        body.iter().for_each(|body| self.body(body));
        note!(self, headers => SentHeaders { allowed, disallowed, raw });
    }

    fn body(&mut self, body: &CheckBody) {
        note!(self, body => CheckBody { max_bytes, allow_partial, as_bytes });
    }

    fn tokens(&mut self, tokens: &JwtRules) {
        note!(self, tokens => JwtRules { providers, rules });
        for provider in providers {
            note!(self, provider => JwtProvider {
                name, issuer, audiences, keys, places, forward, payload_header, claim_headers, space_delimited,
            });
            note!(self, places => JwtPlaces { headers, params, cookies });
            for one in claim_headers {
                note!(self, one => ClaimHeader { header, claim });
            }
        }
        for rule in rules {
            note!(self, rule => JwtRule { matches, requires });
        }
    }
}
