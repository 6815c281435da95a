//! The whole client over in-memory pipes, against a bare `h2` server that does what a test wants at the level of frames.
//!
//! Time is paused where a test is about time. The production assembly is used throughout; only the connector is a test's.

mod calls;
mod config;
mod connections;
mod faults;
mod load;
mod mirrors;
mod net;
mod own;
mod retries;
mod security;
