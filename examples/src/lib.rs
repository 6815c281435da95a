//! Payment v1 and v2, their caller, and what the three example programs share.

pub mod load;
pub mod proto;
pub mod service;
