//! Asking a rate limit service, within a time and a number.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use mesh_core::config::GlobalRateLimit;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::service::{Answer, MAX_ANSWER_BYTES, answer, question};
use crate::outside::{BoxCaller, OutsideCaller};

/// The body of a question to a rate limit service.
pub type QuestionBody = Full<Bytes>;

type Make = dyn Fn(&str) -> BoxCaller + Send + Sync;

/// The most questions at once. What comes beyond is as if it had no answer: a service that is slow must not hold up more than that.
const MAX_QUESTIONS: usize = 1024;

/// How services are reached, by the name that a configuration gives them.
#[derive(Clone)]
pub(super) struct Services {
    make: Arc<Make>,
    made: Arc<Mutex<HashMap<Box<str>, BoxCaller>>>,
    places: Arc<Semaphore>,
}

/// The most services that are remembered.
const MAX_SERVICES: usize = 64;

impl Services {
    pub(super) fn new<S: OutsideCaller>(make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(move |target: &str| make(target).boxed()),
            made: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        }
    }

    /// What the service of `limit` says of a request that is described so; `None`: nothing, in time.
    pub(super) async fn ask(&self, limit: &GlobalRateLimit, descriptors: &[Vec<(String, String)>]) -> Option<Answer> {
        let Ok(_place) = self.places.try_acquire() else {
            return None;
        };
        let question = question(&limit.domain, descriptors).map(Full::new);
        let service = self.service(&limit.service);
        let asked = async {
            let response = service.oneshot(question).await.ok()?;
            let (head, mut body) = response.into_parts();
            let (mut message, mut trailers) = (BytesMut::new(), None);
            while let Some(frame) = body.frame().await {
                match frame.ok()?.into_data() {
                    Ok(data) if message.len() + data.len() > MAX_ANSWER_BYTES => return None,
                    Ok(data) => message.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
            let status = status.or_else(|| head.headers.get("grpc-status"))?;
            if !head.status.is_success() || status != "0" {
                return None;
            }
            answer(&message)
        };
        timeout(limit.timeout, asked).await.ok().flatten()
    }

    fn service(&self, target: &str) -> BoxCaller {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = made.get(target) {
            return service.clone();
        }
        if made.len() == MAX_SERVICES {
            made.clear();
        }
        let service = (self.make)(target);
        made.insert(target.into(), service.clone());
        service
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}
