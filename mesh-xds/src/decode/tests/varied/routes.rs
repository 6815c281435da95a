//! What routes are made of.

use mesh_core::config::{
    Action, DirectResponse, Fault, FaultAbort, FaultDelay, FilterKind, FilterOverride, Forward, Fraction, HashBy,
    HashCookie, HashPolicy, HeaderEdits, HeaderMatch, HeaderRules, HeaderTest, Mirror, Override, QueryMatch, Redirect,
    Rewrite, RouteMatch, Session, SessionCookie, SessionState, WeightedCluster,
};

use super::Seen;

impl Seen {
    pub(super) fn route_match(&mut self, matches: &RouteMatch) {
        note!(self, matches => RouteMatch { path, ignore_case, headers, query, grpc, fraction });
        headers.iter().for_each(|one| self.header_match(one));
        for one in query {
            note!(self, one => QueryMatch { name, test });
        }
        fraction.iter().for_each(|one| self.fraction(one));
    }

    pub(super) fn header_match(&mut self, one: &HeaderMatch) {
        note!(self, one => HeaderMatch { subject, test, invert, missing_is_empty });
        if let HeaderTest::Range { start, end } = test {
            self.note("HeaderTest.start", start);
            self.note("HeaderTest.end", end);
        }
    }

    pub(super) fn fraction(&mut self, one: &Fraction) {
        note!(self, one => Fraction { of, per });
    }

    pub(super) fn headers(&mut self, rules: Option<&HeaderRules>) {
        let Some(rules) = rules else { return };
        note!(self, rules => HeaderRules { request, response });
        self.edits(request);
        self.edits(response);
    }

    pub(super) fn edits(&mut self, edits: &HeaderEdits) {
        note!(self, edits => HeaderEdits { remove, add });
        for edit in add {
            // Not all of it is anybody's to take apart.
            self.note("HeaderEdit.name", edit.name());
            self.note("HeaderEdit.value", edit.value());
            self.note("HeaderEdit.action", &edit.action);
            self.note("HeaderEdit.keep_empty", &edit.keep_empty);
        }
    }

    pub(super) fn overrides(&mut self, overrides: &[FilterOverride]) {
        for one in overrides {
            note!(self, one => FilterOverride { filter, what });
            if let Override::With(kind) = what {
                self.filter(kind);
            }
        }
    }

    fn filter(&mut self, kind: &FilterKind) {
        match kind {
            FilterKind::Fault(fault) => {
                note!(self, &**fault => Fault {
                    delay, abort, headers, upstream_cluster, downstream_nodes, max_active,
                });
                if let Some(delay) = delay {
                    note!(self, delay => FaultDelay { fraction, delay });
                }
                if let Some(abort) = abort {
                    note!(self, abort => FaultAbort { fraction, abort, body });
                }
            }
            FilterKind::Session(session) => {
                note!(self, &**session => Session { state, strict });
                if let Some(SessionState::Cookie(cookie)) = state {
                    note!(self, cookie => SessionCookie { name, ttl, path, attributes });
                }
            }
        }
    }

    pub(super) fn action(&mut self, action: &Action) {
        match action {
            Action::Forward(forward) => self.forward(forward),
            Action::Redirect(redirect) => {
                note!(self, &**redirect => Redirect { status, scheme, host, port, path, strip_query });
            }
            Action::Respond(response) => {
                note!(self, response => DirectResponse { status, body });
            }
            Action::Unserved(_) => {}
        }
    }

    fn forward(&mut self, forward: &Forward) {
        note!(self, forward => Forward { split, rewrite, mirrors, hash });
        for share in split.clusters() {
            note!(self, share => WeightedCluster { cluster, weight, headers, host, filter_overrides });
            self.headers(headers.as_deref());
            self.overrides(filter_overrides);
        }
        if let Some(rewrite) = rewrite {
            note!(self, &**rewrite => Rewrite { host, append_forwarded_host, path });
        }
        for mirror in mirrors {
            note!(self, mirror => Mirror { cluster, fraction, shadow_suffix });
        }
        for policy in &**hash {
            note!(self, policy => HashPolicy { by, terminal });
            match by {
                HashBy::Header { subject, rewrite } => {
                    self.note("HashBy.subject", subject);
                    self.note("HashBy.rewrite", rewrite);
                }
                HashBy::Cookie(cookie) => {
                    note!(self, &**cookie => HashCookie { name, ttl, path, attributes });
                }
                HashBy::Query(name) => self.note("HashBy.query", name),
                HashBy::SourceIp | HashBy::Channel => {}
            }
        }
    }
}
