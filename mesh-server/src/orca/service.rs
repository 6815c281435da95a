//! Load between calls: `xds.service.orca.v3.OpenRcaService`, of one method, which reports until its caller has heard enough.
//!
//! Spoken by hand and not through tonic, so that whoever serves no gRPC tells its load as well.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::future::Answer;
use super::{MIN_REPORT_INTERVAL, ServerLoad};

/// The one method there is.
pub(super) const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// Reporting more often is not had, whatever the application allows.
const FASTEST: Duration = Duration::from_millis(100);
/// The longest wait between two reports: what is longer than any connection lasts.
const SLOWEST: Duration = Duration::from_secs(24 * 3600);
/// The longest request: a time, and the names of costs, of which there are none between calls.
const MAX_REQUEST: usize = 4 * 1024;
/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

const INVALID_ARGUMENT: HeaderValue = HeaderValue::from_static("3");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The service: reports of a [`ServerLoad`] to whoever asks for them. [`LoadReports`](super::LoadReports) has it already; by itself it
/// is for those who put services side by side, as tonic's `Routes` do (feature `tonic`).
///
/// The first report comes at once, further ones as often as the caller asks for, but at most as often as the server allows.
#[derive(Clone, Debug)]
pub struct OpenRcaService {
    load: ServerLoad,
    min_interval: Duration,
}

impl OpenRcaService {
    /// Reports what `load` says.
    pub fn new(load: &ServerLoad) -> Self {
        Self {
            load: load.clone(),
            min_interval: MIN_REPORT_INTERVAL,
        }
    }

    /// How often it reports at most. Default: [`MIN_REPORT_INTERVAL`]. No less than a tenth of a second.
    #[must_use]
    pub fn min_interval(self, min_interval: Duration) -> Self {
        Self {
            min_interval: min_interval.max(FASTEST),
            ..self
        }
    }

    pub(super) fn answer<B>(&self, asked: B) -> Response<ReportsBody<B>> {
        grpc(ReportsBody {
            asked: Some(asked),
            buffer: BytesMut::new(),
            load: self.load.clone(),
            min_interval: self.min_interval,
            interval: Duration::ZERO,
            next: None,
            end: None,
        })
    }
}

fn grpc<B>(body: ReportsBody<B>) -> Response<ReportsBody<B>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

impl<B: Body<Data = Bytes>> Service<Request<B>> for OpenRcaService {
    type Response = Response<ReportsBody<B>>;
    type Error = Infallible;
    type Future = Answer<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_known = request.uri().path() == METHOD;
        let mut response = self.answer(request.into_body());
        if !is_known {
            response.body_mut().refuse(UNIMPLEMENTED);
        }
        ready(Ok(response))
    }
}

#[cfg(feature = "tonic")]
impl tonic::server::NamedService for OpenRcaService {
    const NAME: &'static str = "xds.service.orca.v3.OpenRcaService";
}

pin_project! {
    /// A stream of reports, begun when what was asked is read.
    #[derive(Debug)]
    pub struct ReportsBody<B> {
        // `None` once it was read.
        #[pin]
        asked: Option<B>,
        buffer: BytesMut,
        load: ServerLoad,
        min_interval: Duration,
        interval: Duration,
        next: Option<Pin<Box<Sleep>>>,
        // The status it ends with; empty once that was said.
        end: Option<HeaderMap>,
    }
}

impl<B> ReportsBody<B> {
    fn refuse(&mut self, status: HeaderValue) {
        self.end = Some(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            status,
        )]));
    }
}

impl<B: Body<Data = Bytes>> Body for ReportsBody<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut this = self.project();
        loop {
            if let Some(end) = this.end.as_mut() {
                let end = std::mem::take(end);
                return Poll::Ready((!end.is_empty()).then(|| Ok(Frame::trailers(end))));
            }
            if let Some(next) = this.next.as_mut() {
                if next.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                next.as_mut().reset(now + *this.interval);
                let report = this.load.report(None, now.into_std());
                return Poll::Ready(Some(Ok(Frame::data(message(&report.0)))));
            }
            let Some(asked) = this.asked.as_mut().as_pin_mut() else {
                return Poll::Ready(None);
            };
            let refusal = match asked.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if this.buffer.len() + data.len() <= PREFIX + MAX_REQUEST => {
                        this.buffer.extend_from_slice(&data);
                        match asked_for(this.buffer) {
                            None => continue,
                            Some(Ok(interval)) => {
                                *this.interval = interval.clamp(*this.min_interval, SLOWEST.max(*this.min_interval));
                                *this.next = Some(Box::pin(sleep_until(Instant::now())));
                                this.asked.set(None);
                                continue;
                            }
                            Some(Err(Malformed)) => INVALID_ARGUMENT,
                        }
                    }
                    Ok(_) => INVALID_ARGUMENT,
                    // Trailers of a request: it is over, and said nothing.
                    Err(_) => INVALID_ARGUMENT,
                },
                Poll::Ready(Some(Err(_)) | None) => INVALID_ARGUMENT,
            };
            this.asked.set(None);
            let name = http::HeaderName::from_static("grpc-status");
            *this.end = Some(HeaderMap::from_iter([(name, refusal)]));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end.as_ref().is_some_and(HeaderMap::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A message of gRPC.
fn message(report: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + report.len());
    framed.put_u8(0);
    framed.put_u32(report.len() as u32);
    framed.put_slice(report);
    framed.freeze()
}

/// What was sent is no request.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// How often is asked for by an `OrcaLoadReportRequest`: its `report_interval` (1), of seconds (1) and nanoseconds (2); nothing said:
/// as often as is allowed. `None`: it is not all there yet.
fn asked_for(buffer: &[u8]) -> Option<Result<Duration, Malformed>> {
    let (prefix, message) = buffer.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    // Nobody said that it may be compressed.
    if prefix[0] != 0 || length > MAX_REQUEST {
        return Some(Err(Malformed));
    }
    let message = message.get(..length)?;
    let mut interval = Duration::ZERO;
    let read = fields(message, |number, value| {
        if let (1, Field::Bytes(time)) = (number, value) {
            let (mut seconds, mut nanos) = (0, 0);
            fields(time, |number, value| {
                match (number, value) {
                    (1, Field::Number(number)) => seconds = number,
                    (2, Field::Number(number)) => nanos = number,
                    _ => {}
                }
                Some(())
            })?;
            // Less than nothing is asked for with the highest bit, which no time has that is meant.
            interval = match (i64::try_from(seconds), u32::try_from(nanos)) {
                (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Duration::new(seconds as u64, nanos),
                _ => return None,
            };
        }
        Some(())
    });
    Some(read.map(|()| interval).ok_or(Malformed))
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Hands the fields of a message to `each`; `None`: it is malformed, or `each` says so.
fn fields<'a>(mut message: &'a [u8], mut each: impl FnMut(u64, Field<'a>) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut message)?),
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(length)?;
                message = rest;
                Field::Bytes(bytes)
            }
            kind @ (1 | 5) => {
                let (_, rest) = message.split_at_checked(if kind == 1 { 8 } else { 4 })?;
                message = rest;
                Field::Other
            }
            _ => return None,
        };
        each(tag >> 3, field)?;
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_is_read_as_protobuf_writes_it() {
        let asked = |message: &[u8]| {
            let mut framed = vec![0, 0, 0, 0, message.len() as u8];
            framed.extend(message);
            asked_for(&framed)
        };
        let seconds = |seconds| Some(Ok(Duration::from_secs(seconds)));
        assert_eq!(asked(&[]), seconds(0));
        assert_eq!(asked(&[0x0a, 2, 0x08, 10]), seconds(10));
        assert_eq!(asked(&[0x12, 1, b'q', 0x0a, 3, 0x08, 0xac, 0x02]), seconds(300));
        assert_eq!(asked(&[0x0a, 2, 0x10, 100]), Some(Ok(Duration::from_nanos(100))));
        for malformed in [
            &[0x0a, 2, 0x08][..],
            &[0x0a, 5, 0x08, 10],
            &[0x0b],
            &[0x0a, 11, 0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(asked(malformed), Some(Err(Malformed)), "{malformed:?}");
        }
        assert_eq!(asked_for(&[0, 0, 0, 0, 4, 0x0a, 2, 0x08]), None);
        assert_eq!(asked_for(&[0, 0, 0]), None);
        assert_eq!(asked_for(&[1, 0, 0, 0, 0]), Some(Err(Malformed)));
        assert_eq!(asked_for(&[0, 0, 1, 0, 0]), Some(Err(Malformed)));
    }
}
