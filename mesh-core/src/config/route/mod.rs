//! Which requests go where, as configured (Envoy RDS). [`crate::route`] decides by it.

use std::sync::Arc;
use std::time::Duration;

use super::{ClusterName, RetryPolicy, RoutingPriority, Telemetry, TimeLimits};

mod action;
mod domain;
mod fault;
mod filter;
mod format;
mod hash;
mod headers;
mod matches;
mod session;
mod split;
mod substitution;
mod template;

pub use action::{Action, DirectResponse, Forward, HostRewrite, Mirror, PathRewrite, Redirect, RedirectPath, Rewrite};
pub use domain::{Domain, InvalidDomain};
pub use fault::{Abort, Delay, Fault, FaultAbort, FaultDelay};
pub use filter::{CallFilter, FilterKind, FilterOverride, Override};
pub use format::{HeaderFormat, InvalidFormat};
pub(crate) use format::{Operator, Piece};
pub use hash::{HashBy, HashCookie, HashPolicy};
pub use headers::{AppendAction, HeaderEdit, HeaderEdits, HeaderRules, InvalidEdit};
pub use matches::{HeaderMatch, HeaderTest, PathMatch, QueryMatch, QueryTest, RouteMatch, Subject};
pub use session::{Session, SessionCookie, SessionState};
pub use split::{InvalidSplit, Split, WeightedCluster};
pub use substitution::{InvalidSubstitution, Substitution};
pub use template::{InvalidTemplate, PathTemplate, TemplateRewrite};

/// All routes of one target: what its listener's route configuration holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTree {
    /// The name of the route configuration.
    pub name: Arc<str>,
    /// Chosen among by the request's authority.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Whether the authority's port is cut off before a host is chosen by it (Envoy `ignore_port_in_host_matching`, which
    /// istiod sets for sidecars). Without it the authority is compared with its port and without it.
    pub ignore_port: bool,
    /// What is done to the headers of every call.
    pub headers: Option<Arc<HeaderRules>>,
    /// Whether the rules for headers that stand closer to a call are applied after those that stand farther, so that theirs is
    /// the last word (Envoy `most_specific_header_mutations_wins`).
    pub closest_rules_last: bool,
    /// The filters of the listener that these routes are for, in order.
    pub filters: Vec<CallFilter>,
    /// What is said of them here.
    pub filter_overrides: Vec<FilterOverride>,
    /// What the listener has told of calls.
    pub telemetry: Telemetry,
}

impl RouteTree {
    /// Routes by host, with ports looked at.
    pub fn new(name: impl Into<Arc<str>>, virtual_hosts: Vec<VirtualHost>) -> Self {
        Self {
            name: name.into(),
            virtual_hosts,
            ignore_port: false,
            headers: None,
            closest_rules_last: false,
            filters: Vec::new(),
            filter_overrides: Vec::new(),
            telemetry: Telemetry::default(),
        }
    }

    /// The names of all clusters that calls or their copies may go to, with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.filter_map(|route| route.forward()).flat_map(|forward| {
            let shares = forward.split.clusters().iter().map(|share| &share.cluster);
            shares.chain(forward.mirrors.iter().map(|mirror| &mirror.cluster))
        })
    }
}

/// Routes that serve a set of domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// Its name, for logs.
    pub name: Box<str>,
    /// The authorities it serves.
    pub domains: Vec<Domain>,
    /// Tried in order; the first match wins. Shared, since a request in flight keeps its route.
    pub routes: Vec<Arc<Route>>,
    /// What is done to the headers of its calls.
    pub headers: Option<Arc<HeaderRules>>,
    /// What is said of the filters here.
    pub filter_overrides: Vec<FilterOverride>,
}

impl VirtualHost {
    /// These routes for these domains.
    pub fn new(name: impl Into<Box<str>>, domains: Vec<Domain>, routes: Vec<Arc<Route>>) -> Self {
        Self {
            name: name.into(),
            domains,
            routes,
            headers: None,
            filter_overrides: Vec::new(),
        }
    }
}

/// One rule: what it takes, where that goes, and how it is treated on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Its name, for logs; may be empty.
    pub name: Box<str>,
    /// What it takes.
    pub matches: RouteMatch,
    /// What becomes of it.
    pub action: Action,
    /// The longest the call may take, retries and all, until the response body has ended; `None`: no limit.
    pub timeout: Option<Duration>,
    /// How long its streams may last and be quiet otherwise.
    pub limits: TimeLimits,
    /// Whether to try again.
    pub retry: RetryPolicy,
    /// Whose limits hold for its calls (Envoy `RouteAction.priority`).
    pub priority: RoutingPriority,
    /// What is done to the headers of its calls.
    pub headers: Option<Arc<HeaderRules>>,
    /// What is said of the filters here.
    pub filter_overrides: Vec<FilterOverride>,
}

impl Route {
    /// Takes every request to `split`, without a timeout, with the default retries.
    pub fn to(split: Split) -> Self {
        Self::doing(Action::Forward(split.into()))
    }

    /// Does `action` with every request: without a timeout, and with the default retries if it forwards.
    pub fn doing(action: Action) -> Self {
        let retry = match action {
            Action::Forward(_) => RetryPolicy::default(),
            Action::Redirect(_) | Action::Respond(_) | Action::Unserved(_) => RetryPolicy::never(),
        };
        Self {
            name: "".into(),
            matches: RouteMatch::any(),
            action,
            timeout: None,
            limits: TimeLimits::default(),
            retry,
            priority: RoutingPriority::Default,
            headers: None,
            filter_overrides: Vec::new(),
        }
    }

    /// Where its calls go, if it sends them anywhere.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) | Action::Unserved(_) => None,
        }
    }

    /// The clusters that its calls are divided among, if it sends them anywhere.
    pub fn split(&self) -> Option<&Split> {
        self.forward().map(|forward| &forward.split)
    }
}
