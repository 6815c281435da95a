//! What a listener's filters do to the calls that a route gives to a share: of each what is said closest to it.

use crate::config::{CallFilter, FilterKind, FilterOverride, Override, Route, RouteTree, VirtualHost, WeightedCluster};

/// The filters that do something to such calls, in order.
pub(super) fn in_force<'a>(
    tree: &'a RouteTree,
    host: &'a VirtualHost,
    route: &'a Route,
    share: &'a WeightedCluster,
) -> impl Iterator<Item = &'a FilterKind> {
    let said = [
        &share.filter_overrides,
        &route.filter_overrides,
        &host.filter_overrides,
        &tree.filter_overrides,
    ];
    let kind = move |filter: &'a CallFilter| {
        let of = |said: &'a Vec<FilterOverride>| said.iter().find(|one| speaks_of(one, filter));
        match said.into_iter().find_map(of).map(|one| &one.what) {
            Some(Override::With(kind)) => Some(kind),
            Some(Override::Enabled) => Some(&filter.what),
            Some(Override::Disabled) => None,
            None => Some(&filter.what).filter(|_| !filter.disabled),
        }
    };
    tree.filters.iter().filter_map(kind).filter(|kind| !kind.is_empty())
}

fn speaks_of(one: &FilterOverride, filter: &CallFilter) -> bool {
    let is_like = match &one.what {
        Override::With(kind) => kind.is_like(&filter.what),
        Override::Disabled | Override::Enabled => true,
    };
    is_like && one.filter == filter.name
}
