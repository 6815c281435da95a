//! `mesh_ca`: asks an `IstioCertificateService` for a certificate, and again before it ends.
//!
//! The first time a token proves who asks; after that the certificate itself does, over mutual TLS, so that a token may be
//! good for one use. Until a request is answered it is repeated unchanged, key and all. This mesh's CA does not recognise a
//! repetition: when its answer is lost after it took a single-use token, the workload needs a new one.

use std::convert::Infallible;
use std::time::Duration;

use http::uri::PathAndQuery;
use mesh_core::Entropy;
use mesh_core::identity::Identity;
use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::metadata::AsciiMetadataValue;
use tonic_prost::ProstCodec;

use super::issue::{Applicant, IssueError};
use super::{Outlet, remaining};
use crate::bootstrap::{Credentials, MeshCa, Token};
use crate::client::Backoff;
use crate::connect::connect;
use crate::connector::Connector;
use crate::pem;
use crate::proto::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};

/// How long a certificate is asked for: a day, as Istio does. The CA may give less.
const VALIDITY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest one call may take once connected.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Renewal begins at half of what is left of a certificate, a tenth earlier or later, so that workloads that started
/// together do not renew together.
const JITTER_DIVISOR: u64 = 10;
/// The least time between two certificates, however short they live.
const MIN_TERM: Duration = Duration::from_secs(1);

pub(super) async fn supply(ca: &MeshCa, connector: &Connector, outlet: &Outlet, entropy: &Entropy) -> Infallible {
    let mut backoff = Backoff::new(entropy.clone());
    let mut trusted = Vec::new();
    let mut applicant = None;
    loop {
        match attempt(ca, connector, outlet, &mut applicant, &trusted).await {
            Ok((identity, roots)) => {
                backoff.reset();
                (applicant, trusted) = (None, roots);
                let until = renewal(&identity, outlet.now(), entropy);
                outlet.issued(identity);
                outlet.sleep_until(until).await;
            }
            Err(error) => {
                outlet.failed(&error);
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// When to begin renewing.
pub(super) fn renewal(identity: &Identity, now: UnixTime, entropy: &Entropy) -> UnixTime {
    let half = remaining(identity, now).as_secs() / 2;
    let spread = half / JITTER_DIVISOR;
    let term = half - spread + entropy.draw().below(2 * spread + 1);
    let term = Duration::from_secs(term).max(MIN_TERM);
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + term)
}

async fn attempt(
    ca: &MeshCa,
    connector: &Connector,
    outlet: &Outlet,
    applicant: &mut Option<Applicant>,
    trusted: &[CertificateDer<'static>],
) -> Result<(Identity, Vec<CertificateDer<'static>>), IssueError> {
    let applicant = match applicant {
        Some(applicant) => applicant,
        none => none.insert(Applicant::new(&ca.id)?),
    };
    let current = outlet.valid();
    let mut request = tonic::Request::new(CreateCertificateRequest {
        csr: applicant.csr().into(),
        validity_duration: VALIDITY.as_secs() as i64,
    });
    if current.is_none() {
        request.metadata_mut().insert("authorization", bearer(&ca.token).await?);
    }
    let credentials = Credentials::Tls(ca.roots.clone().into());
    let channel = connect(connector, &ca.uri, &credentials, current.as_ref(), &outlet.clock)
        .await
        .map_err(IssueError::Connect)?;
    let answer = tokio::time::timeout(CALL_TIMEOUT, call(channel, request)).await;
    let answer = answer.map_err(|_| IssueError::TimedOut)?.map_err(IssueError::Refused)?;
    applicant.accept(&ca.id, &answer.cert_chain, trusted)
}

async fn call(
    channel: tonic::transport::Channel,
    request: tonic::Request<CreateCertificateRequest>,
) -> Result<CreateCertificateResponse, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    let unready = |error: tonic::transport::Error| tonic::Status::unavailable(error.to_string());
    grpc.ready().await.map_err(unready)?;
    let path = PathAndQuery::from_static(CREATE_CERTIFICATE);
    let codec = ProstCodec::<CreateCertificateRequest, CreateCertificateResponse>::default();
    Ok(grpc.unary(request, path, codec).await?.into_inner())
}

async fn bearer(token: &Token) -> Result<AsciiMetadataValue, IssueError> {
    let token = match token {
        Token::Inline(token) => token.clone(),
        Token::File(path) => {
            let bytes = pem::read(path).await.map_err(IssueError::Token)?;
            String::from_utf8(bytes).map_err(|_| IssueError::TokenText)?
        }
    };
    let value = AsciiMetadataValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| IssueError::TokenText)?;
    value.set_sensitive(true);
    Ok(value)
}
