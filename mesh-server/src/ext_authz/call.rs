//! One question to one authorizer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use mesh_core::authorize::Matched;
use mesh_core::config::{Authorization, CheckService, ExtAuthz, GrpcCheck, HttpCheck};
use mesh_core::ext_authz::{Caller, CheckFailure, Denied, MAX_ANSWER_BYTES, ReadBody, Verdict};
use mesh_core::jwt::JwtClaims;
use mesh_core::route::RequestHead;
use tokio::time::{Instant, timeout};
use tower::{Service, ServiceExt};

use super::{Authorizer, Authorizers, CheckBody, MAX_CHECKS, proto};
use crate::accept::ConnectionInfo;
use crate::outside::{BoxCaller, OutsideBody};

/// Where gRPC says what became of a call.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The flag and the length before a message.
const PREFIX: usize = 5;

/// What is asked about.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The rules that the request is judged by.
    pub(crate) authorization: Arc<Authorization>,
    /// Which of those who are asked.
    pub(crate) index: usize,
    /// The policy that wants it asked; `None`: everything is.
    pub(crate) policy: Option<Box<str>>,
    /// The connection that it came by.
    pub(crate) info: ConnectionInfo,
    /// What its token says.
    pub(crate) claims: Option<Arc<JwtClaims>>,
    /// Who this is, if that is known.
    pub(crate) own: Option<Box<str>>,
    /// When it came, in seconds since the Unix epoch.
    pub(crate) now: Option<u64>,
}

impl Asked {
    pub(crate) fn check(&self) -> &ExtAuthz {
        &self.authorization.checks()[self.index]
    }

    /// Who was asked, for the log.
    pub(crate) fn matched(&self) -> Matched<'_> {
        Matched {
            filter: &self.check().name,
            policy: self.policy.as_deref(),
        }
    }
}

/// Asks about `request`. Nothing waits before the future is polled, and dropping it takes the question back.
pub(crate) fn check<B>(
    authorizers: &Authorizers,
    asked: &Asked,
    request: &Request<B>,
) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
    match begin(authorizers, asked, request) {
        Ok((authorizer, question)) => {
            let (authorization, index) = (Arc::clone(&asked.authorization), asked.index);
            let caller = Caller::of(asked.info.peer_id(), asked.info.source().ip());
            Box::pin(async move {
                let check = &authorization.checks()[index];
                authorizer
                    .ask(check, question, caller)
                    .await
                    .unwrap_or_else(Verdict::Failed)
            })
        }
        Err(verdict) => Box::pin(std::future::ready(verdict)),
    }
}

type Question = (Arc<Authorizer>, Request<CheckBody>);

fn begin<B>(authorizers: &Authorizers, asked: &Asked, request: &Request<B>) -> Result<Question, Verdict> {
    let check = asked.check();
    let target = check.target();
    let authorizer = authorizers.find(&target);
    let authorizer = authorizer.ok_or(Verdict::Failed(CheckFailure::NoAuthorizer))?;
    let head = RequestHead::of(request, "");
    let settings = asked.authorization.settings(asked.index, &head);
    let wanted = check.body_of(settings);
    let read = wanted.map(|wanted| {
        let read = request.extensions().get::<ReadBody>();
        let mut read = read.cloned().ok_or(Verdict::Failed(CheckFailure::BodyNotRead))?;
        // Another authorizer of the chain may be shown more.
        let most = wanted.max_bytes.min(ExtAuthz::MAX_BODY_BYTES) as usize;
        read.partial |= read.bytes.len() > most;
        read.bytes.truncate(most);
        match read.partial && !wanted.allow_partial {
            // Whatever the configuration says of failures: it is none (Envoy).
            true => Err(Verdict::Denied(Denied {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                headers: Vec::new(),
                body: Bytes::new(),
            })),
            false => Ok(read),
        }
    });
    let read = read.transpose()?;
    let question = match &check.service {
        CheckService::Http(http) => check
            .http_request(http, &target, &head, read.as_ref())
            .map_err(Verdict::Failed)?
            .map(Full::new),
        CheckService::Grpc(grpc) => {
            let context = settings.map_or(&[][..], |settings| &settings.context);
            let size = request.headers().get(http::header::CONTENT_LENGTH);
            let message = proto::request(&proto::Subject {
                asked,
                head: &head,
                version: request.version(),
                size: size.and_then(|size| size.to_str().ok()?.parse().ok()),
                body: read.as_ref().zip(wanted),
                context,
            });
            grpc_request(check, grpc, &target, &message).map_err(Verdict::Failed)?
        }
    };
    Ok((authorizer, question))
}

/// Called by the target's name, whatever authority the configuration has for a proxy: by that a channel finds its routes.
fn grpc_request(
    check: &ExtAuthz,
    grpc: &GrpcCheck,
    target: &str,
    message: &[u8],
) -> Result<Request<CheckBody>, CheckFailure> {
    let mut framed = Vec::with_capacity(PREFIX + message.len());
    framed.push(0);
    let length = u32::try_from(message.len()).map_err(|_| CheckFailure::Malformed)?;
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    let request = Request::post(format!("http://{target}{}", proto::CHECK))
        .version(http::Version::HTTP_2)
        .body(Full::new(Bytes::from(framed)));
    let mut request = request.map_err(|_| CheckFailure::Malformed)?;
    let headers = request.headers_mut();
    for (name, value) in &grpc.metadata {
        headers.append(name, value.clone());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let millis = check.timeout.as_millis().max(1);
    if let Ok(value) = HeaderValue::from_str(&format!("{millis}m")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
    Ok(request)
}

/// A place among those that are asked about, given back when the question is over.
struct Place<'a>(&'a Authorizer);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.give_back();
    }
}

impl Authorizer {
    async fn ask(&self, check: &ExtAuthz, question: Request<CheckBody>, who: Caller) -> Result<Verdict, CheckFailure> {
        if !self.circuit(|circuit| circuit.lets(who, Instant::now().into_std())) {
            return Err(CheckFailure::CircuitOpen);
        }
        if !self.in_flight.take(MAX_CHECKS) {
            return Err(CheckFailure::Busy);
        }
        let _place = Place(self);
        let called = timeout(
            check.timeout.min(ExtAuthz::MAX_TIMEOUT),
            call(self.caller(), check, question),
        )
        .await;
        let verdict = called.unwrap_or(Err(CheckFailure::TimedOut));
        let failed = match &verdict {
            Err(why) | Ok(Verdict::Failed(why)) => why.is_its_own(),
            Ok(_) => false,
        };
        self.circuit(|circuit| circuit.saw(!failed, who, Instant::now().into_std()));
        verdict
    }
}

async fn call(mut caller: BoxCaller, check: &ExtAuthz, question: Request<CheckBody>) -> Result<Verdict, CheckFailure> {
    let ready = caller.ready().await.map_err(|error| unreachable(&error))?;
    let response = ready.call(question).await.map_err(|error| unreachable(&error))?;
    match &check.service {
        CheckService::Http(http) => of_http(check, http, response).await,
        CheckService::Grpc(_) => of_grpc(check, response).await,
    }
}

fn unreachable(error: &dyn std::error::Error) -> CheckFailure {
    tracing::debug!("an authorizer could not be called: {error}");
    CheckFailure::Unreachable
}

async fn of_http(check: &ExtAuthz, http: &HttpCheck, response: Response<OutsideBody>) -> Result<Verdict, CheckFailure> {
    let (head, body) = response.into_parts();
    let (body, _) = whole(body).await?;
    Ok(check.http_verdict(http, head.status, &head.headers, body))
}

async fn of_grpc(check: &ExtAuthz, response: Response<OutsideBody>) -> Result<Verdict, CheckFailure> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(CheckFailure::Failed);
    }
    // A call that failed may have its status where others have headers.
    if head.headers.get(&GRPC_STATUS).is_some_and(|status| status != "0") {
        return Err(CheckFailure::Failed);
    }
    let (body, trailers) = whole(body).await?;
    let status = trailers.as_ref().and_then(|trailers| trailers.get(&GRPC_STATUS));
    match status.or_else(|| head.headers.get(&GRPC_STATUS)) {
        Some(status) if status == "0" => {}
        Some(_) => return Err(CheckFailure::Failed),
        None => return Err(CheckFailure::Malformed),
    }
    let message = one_message(&body).ok_or(CheckFailure::Malformed)?;
    let answer = proto::answer(message).ok_or(CheckFailure::Malformed)?;
    Ok(check.grpc_verdict(answer))
}

/// The only message of an answer. Compression was not asked for.
fn one_message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    (prefix[0] == 0 && usize::try_from(length).ok()? == message.len()).then_some(message)
}

async fn whole(body: OutsideBody) -> Result<(Bytes, Option<HeaderMap>), CheckFailure> {
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let collected = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => CheckFailure::Malformed,
        false => unreachable(&*error),
    })?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}
