//! Which requests of a filter chain its routes have served at all (gRFC A36; Envoy's route table of an inbound listener).
//!
//! Routes choose nothing at a server, but they keep out: what no route takes, and what one takes that is not for the application.
//! Where the routes are a resource of their own, they also may not be there yet; then nobody is served, since what they would say
//! of a request (`RBACPerRoute`) is not known either. Connections are taken all the same: a call is told why, and the next is
//! served as soon as the routes have come.

use std::fmt;

use super::super::{Domain, Reason, RouteMatch};
use super::Authorization;
use crate::route::{self, RequestHead};

/// Which requests are served at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Routing {
    /// All.
    #[default]
    Everything,
    /// None: the routes are not known, or say what cannot be kept here.
    Nothing(Reason),
    /// Those that a route takes which serves.
    Table(Vec<RoutedHost>),
}

/// The routes of some authorities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoutedHost {
    /// The authorities.
    pub domains: Vec<Domain>,
    /// The first that takes a request counts.
    pub routes: Vec<RoutedRoute>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoutedRoute {
    /// What it takes is the application's.
    Serves(RouteMatch),
    /// What it takes is refused, for this reason.
    Refuses(RouteMatch, Box<str>),
    /// What it takes cannot be told here, so all that comes to it is refused.
    Obscure(Box<str>),
}

/// Why a request is not served, whoever makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved<'a> {
    /// The routes are not known.
    Unknown(&'a Reason),
    /// No route takes it.
    NoRoute,
    /// One takes it that is not for the application.
    Refused(&'a str),
}

impl Unserved<'_> {
    /// A stable lower-case word, fit for a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown(_) => "routes_unknown",
            Self::NoRoute => "no_route",
            Self::Refused(_) => "route_refused",
        }
    }
}

impl fmt::Display for Unserved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(reason) => write!(f, "the server's routes are not known: {reason}"),
            Self::NoRoute => f.write_str("no route of the server takes the request"),
            Self::Refused(why) => write!(f, "the server's route does not serve the request: {why}"),
        }
    }
}

impl Authorization {
    /// With a say of the routes in which requests are served at all. Default: all.
    #[must_use]
    pub fn with_routing(self, routing: Routing) -> Self {
        Self { routing, ..self }
    }

    /// Which requests are served at all.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Whether a request is served at all, whoever makes it. [`judge`](Self::judge) refuses what is not, as if a policy were against it;
    /// who asks here first can say why.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn serves(&self, head: &RequestHead<'_>) -> Result<(), Unserved<'_>> {
        let hosts = match &self.routing {
            Routing::Everything => return Ok(()),
            Routing::Nothing(reason) => return Err(Unserved::Unknown(reason)),
            Routing::Table(hosts) => hosts,
        };
        let host = route::best_host(hosts.iter().map(|host| (&*host.domains, host)), head.authority());
        let takes = |route: &&RoutedRoute| match route {
            RoutedRoute::Serves(matches) | RoutedRoute::Refuses(matches, _) => route::takes(matches, head),
            RoutedRoute::Obscure(_) => true,
        };
        match host.and_then(|host| host.routes.iter().find(takes)) {
            Some(RoutedRoute::Serves(_)) => Ok(()),
            Some(RoutedRoute::Refuses(_, why) | RoutedRoute::Obscure(why)) => Err(Unserved::Refused(why)),
            None => Err(Unserved::NoRoute),
        }
    }
}
