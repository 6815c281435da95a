//! `meshctl shift --watch`: what the control plane's page tells, until the traffic follows or the patience ends.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mesh_control::noted_admin;
use mesh_control::shift::{Target, Traffic};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer: ten times what the page's own limits let it have.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// How often the page is asked at most, and at least.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The page of a control plane that runs on this machine.
pub(crate) struct Page {
    admin: String,
}

/// How it ended.
pub(crate) struct Watched {
    /// Whether the newest calls were divided as they should be; `None`: there were too few.
    pub(crate) follows: Option<bool>,
    /// All that were seen.
    pub(crate) calls: u64,
    pub(crate) failed: u64,
}

impl Page {
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            admin: noted_admin(state).unwrap_or_else(|| crate::DEFAULT_ADMIN.to_owned()),
        }
    }

    /// Looks until the traffic follows, and no longer than `patience`. A line for each time that something came.
    pub(crate) async fn watch(&self, targets: &[Target], patience: Duration) -> Result<Watched, Box<dyn Error>> {
        let begin = Instant::now();
        let answer = self.answer().await?;
        let first = Traffic::of(&answer, targets);
        // Twice as often as clients report, so that none of their windows is missed by much.
        let pace = Duration::from_millis(answer["interval_ms"].as_u64().unwrap_or(0) / 2).clamp(PACE.0, PACE.1);
        let mut looks = tokio::time::interval(pace);
        let (mut base, mut newest, mut follows) = (first.clone(), first.clone(), None);
        while begin.elapsed() < patience && follows != Some(true) {
            looks.tick().await;
            newest = Traffic::of(&self.answer().await?, targets);
            let came = newest.since(&base);
            if came.follows().is_none() {
                continue;
            }
            follows = came.follows();
            crate::print(&format_args!("{:6.1} s  {came}", begin.elapsed().as_secs_f64()))?;
            base = newest.clone();
        }
        let all = newest.since(&first);
        Ok(Watched {
            follows,
            calls: all.calls(),
            failed: all.failed(),
        })
    }

    async fn answer(&self) -> Result<Value, Box<dyn Error>> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.get()).await;
        let at = |why: &dyn std::fmt::Display| format!("the page of the control plane at {}: {why}", self.admin);
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(at(&error).into()),
            Err(_) => Err(at(&"does not answer").into()),
        }
    }

    async fn get(&self) -> Result<Value, Box<dyn Error>> {
        let io = TcpStream::connect(&self.admin).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let request = Request::get("/api/v1/mesh")
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if response.status() != StatusCode::OK {
                return Err(format!("answers {}", response.status()).into());
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| error.to_string())?;
            Ok(serde_json::from_slice(&body.to_bytes())?)
        };
        // The exchange is told of the connection's end; only it says what came.
        let connection = async {
            drop(connection.await);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answer = exchange => answer,
            never = connection => never,
        }
    }
}
