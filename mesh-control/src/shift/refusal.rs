//! Why weights are not shifted.

use std::fmt;

use crate::diagnostic::Diagnostic;

/// Why weights are not shifted; nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShiftRefusal {
    /// The weights sum to something else than 100.
    Sum(u64),
    /// A destination was named twice.
    Twice(String),
    /// No `VirtualService` of the mesh has this host.
    NoRule(String),
    /// Several have; they are not merged, and a shift of one that does not count would do nothing.
    SeveralRules(Vec<String>),
    /// No route is meant; these there are.
    NoRoute(Vec<String>),
    /// Several routes have the destinations; these.
    SeveralRoutes(Vec<String>),
    /// A route has no such destination.
    NoDestination {
        /// The destination.
        wanted: String,
        /// Where the route stands.
        line: u32,
    },
    /// A route has a destination that was not named.
    LeftOut {
        /// The destination.
        destination: String,
        /// Where it stands.
        line: u32,
    },
    /// A weight cannot be replaced where it stands.
    Unplain {
        /// Where.
        place: String,
        /// Why not.
        why: &'static str,
    },
    /// The documents have errors, before the shift or after it.
    Analysis(Vec<Diagnostic>),
}

impl fmt::Display for ShiftRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sum(sum) => write!(f, "the weights sum to {sum}, not to 100"),
            Self::Twice(name) => write!(f, "{name} is named twice"),
            Self::NoRule(host) => write!(
                f,
                "no VirtualService of the mesh has host {host:?}: write one with the destinations first"
            ),
            Self::SeveralRules(rules) => write!(f, "several documents have rules for that host: {}", rules.join(", ")),
            Self::NoRoute(routes) => write!(f, "no route has these destinations; there are: {}", routes.join(", ")),
            Self::SeveralRoutes(routes) => {
                write!(
                    f,
                    "several routes have these destinations: say which by --route: {}",
                    routes.join(", ")
                )
            }
            Self::NoDestination { wanted, line } => {
                write!(
                    f,
                    "the route on line {line} has no destination {wanted:?}: add it there first, with weight 0"
                )
            }
            Self::LeftOut { destination, line } => {
                write!(
                    f,
                    "destination {destination:?} on line {line} has a share too: name it, be it with 0"
                )
            }
            Self::Unplain { place, why } => write!(f, "{place}: {why}"),
            Self::Analysis(errors) => {
                write!(f, "the documents have errors, and nothing was written")?;
                errors.iter().try_for_each(|error| write!(f, "\n{error}"))
            }
        }
    }
}

impl std::error::Error for ShiftRefusal {}
