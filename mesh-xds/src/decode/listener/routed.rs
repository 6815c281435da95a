//! What a server's chain asks of requests, once its routes are known: with the listener, where they are in it, or later, where they
//! are a resource of their own (gRFC A36).
//!
//! What a route says means something only beside the filters that it speaks of, so those are kept until the routes come. Of the
//! same routes two chains may ask different things.

use std::collections::HashSet;
use std::sync::Arc;

use mesh_core::config::{
    Authorization, ExtAuthz, GlobalFilter, HostRules, JwtRules, LimitFilter, RateLimits, RbacFilter, Routing,
};
use prost::Message as _;

use super::guarded::{self, Spoken};
use crate::bootstrap::Profile;
use crate::convention::JWT_FILTER;
use crate::decode::{Context, Fault, limit};
use crate::proto::route::RouteConfiguration;

/// What the filters of a chain ask, before its routes are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guarding {
    /// Whose rules the routes are read by.
    pub(super) profile: Profile,
    /// Of connections, which no route has a say in.
    pub(super) connection: Vec<RbacFilter>,
    pub(super) tokens: Option<Arc<JwtRules>>,
    pub(super) checks: Vec<ExtAuthz>,
    /// Each with whether it asks only where a route says so.
    pub(super) guards: Vec<(RbacFilter, bool)>,
    /// Filters of which no route may say anything.
    pub(super) fixed: HashSet<Box<str>>,
    pub(super) limits: Vec<LimitFilter>,
    pub(super) global: Vec<GlobalFilter>,
}

/// What routes say of them.
pub(super) struct Said {
    hosts: Vec<HostRules>,
    limits: RateLimits,
    routing: Routing,
}

impl Guarding {
    /// What a chain asks whose routes are these, as they came: a resource of their own. What they ask and cannot be kept here is an
    /// error, and nobody may be served by them then.
    pub(crate) fn routed(&self, config: &[u8]) -> Result<(Authorization, RateLimits), Fault> {
        let config = RouteConfiguration::decode(config).map_err(|error| Fault::new("", error))?;
        let said = self.said(&config)?;
        let routing = guarded::routing(&config, self.profile)?;
        self.with(Said { routing, ..said })
    }

    /// The same of routes that the listener holds. What they keep out of a proxy and would not be kept out here is an error, and the
    /// listener's own.
    pub(super) fn inline(&self, config: &RouteConfiguration) -> Result<Said, Fault> {
        let said = self.said(config)?;
        let routing = match self.profile {
            Profile::Grpc => guarded::routing(config, self.profile)?,
            Profile::Envoy => {
                guarded::keeps_nobody_out(config)?;
                Routing::Everything
            }
        };
        Ok(Said { routing, ..said })
    }

    /// What a chain asks while nobody is served by it.
    pub(crate) fn closed(&self, routing: Routing) -> Result<Authorization, Fault> {
        let said = Said {
            hosts: Vec::new(),
            limits: RateLimits::default(),
            routing,
        };
        self.with(said).map(|(authorization, _)| authorization)
    }

    fn said(&self, config: &RouteConfiguration) -> Result<Said, Fault> {
        let context = Context {
            profile: self.profile,
            ..Context::default()
        };
        let spoken = Spoken {
            filters: &self.guards,
            checks: &self.checks,
            fixed: &self.fixed,
        };
        if self.tokens.is_some() {
            guarded::says_nothing_of(JWT_FILTER, config)?;
        }
        Ok(Said {
            hosts: guarded::hosts(config, &spoken, &context)?,
            limits: limit::limits(self.limits.clone(), self.global.clone(), config, &context)?,
            routing: Routing::Everything,
        })
    }

    pub(super) fn with(&self, said: Said) -> Result<(Authorization, RateLimits), Fault> {
        let too_many = |error| Fault::new("filters", error);
        let request = guarded::general(self.guards.clone());
        let authorization = Authorization::new(self.connection.clone(), request, said.hosts).map_err(too_many)?;
        let authorization = authorization.with_tokens(self.tokens.clone());
        let authorization = authorization.with_checks(self.checks.clone()).map_err(too_many)?;
        Ok((authorization.with_routing(said.routing), said.limits))
    }
}
