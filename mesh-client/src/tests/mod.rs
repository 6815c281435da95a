//! The whole client over in-memory pipes, against a bare `h2` server that does what a test wants at the level of frames.
//!
//! Time is paused where a test is about time. The production assembly is used throughout; only the connector is a test's.

mod access_log;
mod breakers;
mod calls;
mod config;
mod connections;
mod cut;
mod faults;
mod flags;
mod hedges;
mod hostile;
mod http1;
mod identities;
mod levels;
mod lifecycle;
mod load;
mod matrix;
mod mirrors;
mod names;
mod net;
mod out_of_band;
mod outliers;
mod outside;
mod own;
mod pickers;
mod readiness;
mod retries;
mod security;
mod sessions;
mod storms;
mod streams;
mod swaps;
mod telemetry;
mod time;
mod uploads;
