//! What hosts report of themselves between calls: one stream per connected host, `OpenRcaService.StreamCoreMetrics` (gRFCs A51
//! and A58), where the cluster's balancing asks for it.
//!
//! It rides on a connection that calls made and makes none itself: a host that is not called need not be weighed. It lets go of
//! one that takes no more calls, so that it keeps no connection from ending. A host that has no such service is not asked
//! again. It ends with the host, or when nobody asks any more.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderValue, Request, StatusCode};
use mesh_core::Entropy;
use mesh_core::balance::{Load as _, LoadReport};
use mesh_core::config::{Carrier, ClientWeights};
use mesh_core::report::orca;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::Host;
use crate::body::grpc_status;
use crate::connect::{Http2Permit, Permit};

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
/// How long until it is tried again where there is a connection and each place on it is taken.
const FULL: Duration = Duration::from_secs(1);
/// How often it is looked whether the peer takes its leave. Calls notice that by themselves, but there may be none.
const LOOK: Duration = Duration::from_secs(5);
/// The pause after a stream that ended, its growth and its bound: as gRPC has them for connections.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: f64 = 1.6;
const MAX_PAUSE: Duration = Duration::from_secs(120);
/// The longest report: as one that comes in a header.
const MAX_REPORT: usize = 4 * 1024;
/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `UNIMPLEMENTED`
const UNIMPLEMENTED: u8 = 12;

/// A host that is asked, by what rules. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Asking {
    settings: ClientWeights,
    task: AbortHandle,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asking {
    /// Asks `host` from now on as `settings` say; in the place of what was asked `before`, unless that is the same.
    pub(super) fn of(
        host: &Arc<Host>,
        settings: &ClientWeights,
        entropy: &Entropy,
        before: Option<Self>,
    ) -> Option<Self> {
        let period = settings.out_of_band?;
        if let Some(before) = before.filter(|before| before.settings == *settings) {
            return Some(before);
        }
        let asked = ask(Arc::downgrade(host), settings.clone(), period, entropy.clone());
        Some(Self {
            settings: settings.clone(),
            task: tokio::spawn(asked).abort_handle(),
        })
    }
}

/// How a stream ended.
enum End {
    /// The host has no such service.
    Unimplemented,
    /// It reported something before.
    Heard,
    Silent,
}

async fn ask(host: Weak<Host>, settings: ClientWeights, period: Duration, entropy: Entropy) {
    let Some(bell) = host.upgrade().map(|host| host.pool().bell()) else {
        return;
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let permit = loop {
            let mut arrival = pin!(bell.notified());
            // From here on no connection comes unnoticed.
            arrival.as_mut().enable();
            let Some(host) = host.upgrade() else { return };
            if let Some(Permit::Http2(permit)) = host.pool().try_permit(Carrier::Http2) {
                break permit;
            }
            let is_full = host.is_connected();
            drop(host);
            tokio::select! {
                () = arrival => {}
                () = sleep(FULL), if is_full => {}
            }
        };
        match listen(&host, &permit, &settings, period).await {
            End::Unimplemented => return,
            End::Heard => pause = FIRST_PAUSE,
            End::Silent => {}
        }
        drop(permit);
        let jitter = 0.8 + 0.4 * (entropy.draw().below(1_000) as f64 / 1_000.0);
        sleep(pause.mul_f64(jitter)).await;
        pause = pause.mul_f64(PAUSE_FACTOR).min(MAX_PAUSE);
    }
}

/// Listens on one stream for as long as its connection takes calls.
async fn listen(host: &Weak<Host>, permit: &Http2Permit, settings: &ClientWeights, period: Duration) -> End {
    let Some(mut stream) = open(host, permit, period) else {
        return End::Silent;
    };
    let mut heard = false;
    let mut answer = None;
    let mut buffer = BytesMut::new();
    loop {
        let next = async {
            match &mut answer {
                None => Next::Head((&mut stream).await),
                Some(body) => Next::Data(RecvStream::data(body).await),
            }
        };
        let next = tokio::select! {
            next = next => next,
            () = permit.closed() => break,
            () = sleep(LOOK) => match permit.is_going() {
                true => break,
                false => continue,
            },
        };
        match next {
            Next::Head(Ok(response)) => {
                let (head, body) = response.into_parts();
                if head.status == StatusCode::NOT_FOUND || grpc_status(&head.headers) == Some(UNIMPLEMENTED) {
                    return End::Unimplemented;
                }
                if head.status != StatusCode::OK {
                    break;
                }
                answer = Some(body);
            }
            Next::Data(Some(Ok(data))) => {
                let body = answer.as_mut().expect("what comes after the head");
                // What was read is room for more.
                let _ = body.flow_control().release_capacity(data.len());
                buffer.extend_from_slice(&data);
                let Some(host) = host.upgrade() else { break };
                match take(&mut buffer, &host, settings) {
                    Some(reports) => heard |= reports > 0,
                    None => break,
                }
            }
            Next::Data(None) => {
                let body = answer.as_mut().expect("what comes after the head");
                let trailers = body.trailers().await.ok().flatten();
                if trailers.as_ref().and_then(grpc_status) == Some(UNIMPLEMENTED) {
                    return End::Unimplemented;
                }
                break;
            }
            Next::Head(Err(_)) | Next::Data(Some(Err(_))) => break,
        }
    }
    match heard {
        true => End::Heard,
        false => End::Silent,
    }
}

enum Next {
    Head(Result<http::Response<RecvStream>, h2::Error>),
    Data(Option<Result<Bytes, h2::Error>>),
}

fn open(host: &Weak<Host>, permit: &Http2Permit, period: Duration) -> Option<h2::client::ResponseFuture> {
    let host = host.upgrade()?;
    let scheme = if host.tls().is_some() { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{}{METHOD}", host.address()))
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(())
        .ok()?;
    let (response, mut body) = permit.open(request, false).ok()?;
    body.send_data(wanted(period), true).ok()?;
    Some(response)
}

/// An `OrcaLoadReportRequest`, as a gRPC message: a `report_interval` (1) of seconds (1) and nanoseconds (2).
fn wanted(period: Duration) -> Bytes {
    let mut time = Vec::new();
    for (tag, number) in [(1 << 3, period.as_secs()), (2 << 3, period.subsec_nanos().into())] {
        if number > 0 {
            time.push(tag);
            varint(number, &mut time);
        }
    }
    let mut message = vec![1 << 3 | 2, time.len() as u8];
    message.extend(time);
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    framed.into()
}

fn varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes over the whole reports that are in `buffer`, and says how many there were; `None`: what is there is none.
fn take(buffer: &mut BytesMut, host: &Host, settings: &ClientWeights) -> Option<u32> {
    let mut reports = 0;
    while buffer.len() >= PREFIX {
        let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
        // Nobody said that it may be compressed.
        if buffer[0] != 0 || length > MAX_REPORT {
            return None;
        }
        if buffer.len() < PREFIX + length {
            break;
        }
        buffer.advance(PREFIX);
        let message = buffer.split_to(length);
        let mut report = LoadReport::default();
        orca::parse(&message, |metric, value| report.add(metric, value, settings))?;
        if let Some(reported) = host.reported() {
            reported.told(&report, settings, Instant::now().into_std());
        }
        reports += 1;
    }
    Some(reports)
}
