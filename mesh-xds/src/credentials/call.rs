//! Tokens from files, and the channel that puts them on every call (gRFC A97).
//!
//! A layer below the generated stubs, so that no kind of call can be made without them. A call waits while a file is read:
//! it is local and small. While there is no token and the last reading failed, calls fail at once with its reason.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use mesh_core::Entropy;
use rustls::time_provider::TimeProvider;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use super::token::{Cache, Failure, InvalidToken, Plan, Token};
use crate::bootstrap::CallCredentials;
use crate::client::Backoff;
use crate::pem;

/// The longest that reading a file may take: one on a share that has gone would otherwise hold calls for ever.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The tokens for one server's calls. They outlive its connections.
pub(crate) struct CallTokens {
    sources: Vec<Source>,
    clock: Arc<dyn TimeProvider>,
}

struct Source {
    credentials: CallCredentials,
    /// Held while the file is read, so that calls that need it wait for one reading.
    state: Mutex<State>,
    /// Whoever it was shown to did not believe it, so that it is not to be shown again unread, however long it is good for: the issuer's key
    /// may have been replaced, or the token taken back.
    doubted: AtomicBool,
}

struct State {
    cache: Cache,
    backoff: Backoff,
}

impl CallTokens {
    pub(crate) fn new(credentials: &[CallCredentials], clock: Arc<dyn TimeProvider>, entropy: &Entropy) -> Self {
        let source = |credentials: &CallCredentials| Source {
            credentials: credentials.clone(),
            state: Mutex::new(State {
                cache: Cache::default(),
                backoff: Backoff::new(entropy.clone()),
            }),
            doubted: AtomicBool::new(false),
        };
        Self {
            sources: credentials.iter().map(source).collect(),
            clock,
        }
    }

    /// Has each file read again before the next call; a token goes on being shown where its file has nothing better.
    pub(crate) fn doubt(&self) {
        for source in &self.sources {
            source.doubted.store(true, Ordering::Relaxed);
        }
    }

    /// A value of `authorization` for each of the credentials.
    pub(super) async fn headers(&self) -> Result<Vec<HeaderValue>, Status> {
        let mut headers = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let header = source.header(&*self.clock).await;
            headers.push(header.map_err(|failure| failure.status(&source.credentials))?);
        }
        Ok(headers)
    }
}

impl Source {
    async fn header(&self, clock: &dyn TimeProvider) -> Result<HeaderValue, Failure> {
        let CallCredentials::JwtTokenFile(path) = &self.credentials;
        let wall = || {
            clock
                .current_time()
                .ok_or_else(|| Failure::unreadable("the clock cannot tell the time"))
        };
        let mut state = self.state.lock().await;
        let is_doubted = self.doubted.swap(false, Ordering::Relaxed);
        match state.cache.plan(wall()?, Instant::now().into_std()) {
            Plan::Use(_) if is_doubted => {}
            Plan::Use(header) => return Ok(header),
            Plan::Fail(failure) => return Err(failure),
            Plan::Read => {}
        }
        let read = match tokio::time::timeout(READ_TIMEOUT, pem::read(path)).await {
            Ok(Ok(bytes)) => Token::read(&bytes).map_err(Failure::invalid),
            Ok(Err(error)) => Err(Failure::unreadable(error)),
            Err(_) => Err(Failure::unreadable("reading it took longer than 5 s")),
        };
        let State { cache, backoff } = &mut *state;
        let recorded = cache.record(read, wall()?);
        match &recorded {
            Ok(()) => backoff.reset(),
            Err(failure) => {
                tracing::warn!(credentials = %self.credentials, reason = %failure, "there is no new token");
                cache.rest(failure.clone(), (Instant::now() + backoff.next()).into_std());
            }
        }
        match cache.current(wall()?) {
            Some(header) => Ok(header),
            None => Err(recorded.err().unwrap_or_else(|| Failure::invalid(InvalidToken::Ended))),
        }
    }
}

impl fmt::Debug for CallTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = self.sources.iter().map(|source| &source.credentials);
        f.debug_list().entries(credentials).finish()
    }
}

/// A channel whose every call carries the tokens.
#[derive(Clone, Debug)]
pub(crate) struct Credentialed {
    channel: Channel,
    tokens: Arc<CallTokens>,
}

impl Credentialed {
    pub(crate) fn new(channel: Channel, tokens: Arc<CallTokens>) -> Self {
        Self { channel, tokens }
    }
}

impl Service<http::Request<Body>> for Credentialed {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(cx).map_err(status)
    }

    /// Dropping the future before the tokens are there makes no call.
    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The channel that was asked whether it is ready makes the call.
        let next = self.channel.clone();
        let mut channel = std::mem::replace(&mut self.channel, next);
        let tokens = Arc::clone(&self.tokens);
        Box::pin(async move {
            for header in tokens.headers().await? {
                request.headers_mut().append(AUTHORIZATION, header);
            }
            channel.call(request).await.map_err(status)
        })
    }
}

fn status(error: tonic::transport::Error) -> Status {
    Status::from_error(Box::new(error))
}
