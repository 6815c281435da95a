//! What is to be told of calls besides counting them, as configured: at either end, of all calls of a listener.
//!
//! Counting is always done and so is nobody's to configure. What this asks for costs something for each call that it takes, and nothing
//! where it is not there.

mod log_filter;

pub use log_filter::{Comparison, LogFilter, NotAFilter};

use std::sync::Arc;

/// What is told of the calls of a listener. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Telemetry {
    /// Which of them are written to the access log (Envoy `HttpConnectionManager.access_log`); `None`: none of them.
    pub access_log: Option<Arc<LogFilter>>,
}

impl Telemetry {
    /// Whether nothing is told.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }
}
