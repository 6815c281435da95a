//! The decisions of an in-process service mesh, and nothing that does them.
//!
//! This crate holds the configuration model, workload identity with its TLS verification, and the pure decisions of
//! routing, splitting, balancing and retrying. It refuses to do IO: no tokio and no tonic stand in its manifest, it reads
//! no clock, environment or file and has no global randomness. A decision takes the time and a source of randomness and
//! returns a value; the caller acts. That is what lets every crate around it be simulated on virtual time.
//!
//! # Map
//!
//! | module | question it answers |
//! |---|---|
//! | [`config`] | what is wanted: routes, clusters, endpoints, policies, and the consistent [`config::Snapshot`] of them |
//! | [`identity`] | who: SPIFFE ids, certificates, trust, and the rustls verifiers around them |
//! | [`canonical`] | which one form a request has, whoever looks at it |
//! | [`authorize`] | whether a request may pass |
//! | [`adaptive`] | how many requests at once are good for a server |
//! | [`crowd`] | who gives way at a door that has room for so many |
//! | [`limit`] | whether there is a token for one more |
//! | [`ext_authz`] | what an authorizer outside of the process is asked, and what its answer does |
//! | [`route`] | which cluster |
//! | [`balance`] | which endpoint |
//! | [`retry`] | again or not |
//! | [`deadline`] | how long a call may take |
//! | [`inherit`] | what a request passes on to the calls made for it |
//! | [`trace`] | which trace a request is part of |
//! | [`outlier`] | which endpoint is taken out, and when it returns |
//! | [`breaker`] | whether there is room for one more |
//! | [`SharedMap`] | what changed between two snapshots |
//! | [`live`] | how a value is swapped under its readers |
//! | [`link`] | where the data plane meets the source of its configuration |
//! | [`entropy`] | randomness that is shared by clones and can be seeded |
//! | [`hash`] | what endpoints and requests hash to |
//! | [`race`] | in which order the addresses of a name are tried, and how soon after one another |
//! | [`report`] | what is counted |

pub mod adaptive;
pub mod authorize;
pub mod balance;
pub mod breaker;
pub mod canonical;
pub mod config;
pub mod crowd;
pub mod deadline;
pub mod entropy;
mod escaped;
pub mod ext_authz;
pub mod hash;
pub mod identity;
pub mod inherit;
pub mod jwt;
pub mod limit;
pub mod link;
pub mod live;
pub mod outlier;
pub mod patience;
pub mod race;
pub mod report;
pub mod retry;
pub mod route;
mod shared_map;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;

pub use config::Snapshot;
pub use entropy::Entropy;
pub use link::Link;
pub use shared_map::SharedMap;

/// Whether this build carries the feature `testing`. Measurements refuse to run on one.
pub const TESTING: bool = cfg!(feature = "testing");
