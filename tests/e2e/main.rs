//! The promises of the mesh to its user, a file for each, over real sockets and through the production assembly.
//!
//! One binary, because linking is what costs.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]
#![allow(
    clippy::print_stdout,
    reason = "the figures of a promise are shown with `--nocapture`"
)]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

mod access_log;
mod adoption;
mod affinity;
mod aggregate;
mod authorize;
mod bad_yaml;
mod clocks;
mod clusters_by_provider;
mod discovered;
mod drain;
mod ext_authz;
mod federation;
mod foreign;
mod from_disk;
mod guides;
mod hops;
mod hot_swap;
mod identities;
mod leaks;
mod limits;
mod load;
mod lying;
mod modes;
mod mtls;
mod orca;
mod outlier;
mod page;
mod policies;
mod pools;
mod providers;
mod rotation;
mod routing;
mod see;
mod sessions;
mod soak;
mod split;
mod static_stability;
mod story;
mod swap;
mod tls_rules;
mod tokens;
mod traffic;
mod undescribed;
mod waiting;

/// What is allocated in this process, to the byte: a few atomic additions each, for all tests alike.
#[global_allocator]
static LIVE: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
