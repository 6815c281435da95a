//! Both ends of xDS and of what supplies identities, over real sockets, a file for each subject.
//!
//! One binary, because linking is what costs. Where memory is counted is another, whose allocator counts for the whole process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod ads;
mod corpus;
mod csds;
mod istio;
mod join;
mod load;
mod metrics;
mod reach;
mod served;
mod workload;
