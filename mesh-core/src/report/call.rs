//! One call under the count, and what its end is counted as.
//!
//! A guard, so that every call that began ends once, whoever drops it: issued is always succeeded, errored and in progress
//! together. A gRPC call succeeded when its status is OK (gRFC A27); any other when an answer came that is not a 5xx
//! (Envoy). What ended without an answer is an error, also when it was the caller who would not wait: from here a timeout
//! and a cancellation look alike, and gRPC counts both.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::Load;

/// A call that is counted. Dropping it counts its end.
#[derive(Debug)]
pub struct Counted {
    load: Arc<Load>,
    grpc: bool,
    good: bool,
    heard: bool,
}

/// gRPC's OK.
const OK: u8 = 0;

impl Counted {
    /// A call begins.
    pub fn begin(load: Arc<Load>, grpc: bool) -> Self {
        load.begin();
        Self {
            load,
            grpc,
            good: false,
            heard: false,
        }
    }

    /// Response headers came; `status` is their gRPC status, if they have one.
    pub fn saw_headers(&mut self, http: StatusCode, status: Option<u8>, headers: &HeaderMap) {
        self.good = match self.grpc {
            true => status == Some(OK),
            false => !http.is_server_error(),
        };
        self.hear(headers);
    }

    /// Trailers came; `status` is their gRPC status, if they have one.
    pub fn saw_trailers(&mut self, status: Option<u8>, trailers: &HeaderMap) {
        if self.grpc {
            self.good = status == Some(OK);
        }
        self.hear(trailers);
    }

    /// The answer failed to come, or broke off.
    pub fn failed(&mut self) {
        self.good = false;
    }

    /// An endpoint reports on itself once per call (gRFC A51).
    fn hear(&mut self, headers: &HeaderMap) {
        self.heard = self.heard || self.load.hear(headers);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.end(self.good);
    }
}
