//! `mesh_ca`: asks an `IstioCertificateService` for a certificate, and again before it ends.
//!
//! The first time a token proves who asks; after that the certificate itself does, over mutual TLS, so that a token may be
//! good for one use. Istio's agent shows its token each time, which Kubernetes renews in its file, and so does [`Proof::TokenAlways`]
//! here: istiod finds out from it whether the workload still exists. Until a request is answered it is repeated unchanged, key and all. This mesh's CA does not recognise a
//! repetition: when its answer is lost after it took a single-use token, the workload needs a new one.

use std::convert::Infallible;
use std::time::Duration;

use http::uri::PathAndQuery;
use mesh_core::Entropy;
use mesh_core::identity::Identity;
use rustls::pki_types::CertificateDer;
use tonic::Code;
use tonic::metadata::AsciiMetadataValue;
use tonic_prost::ProstCodec;

use super::issue::{Applicant, IssueError};
use super::{Outlet, term};
use crate::bootstrap::{Credentials, MeshCa, Proof, Token};
use crate::client::Backoff;
use crate::connect::connect_to;
use crate::connector::Connector;
use crate::pem;
use crate::proto::istio::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse};

/// How long a certificate is asked for, in seconds: as long as the CA is told to give, which is what its operator shortens
/// lifetimes by. istiod takes it the same way.
const VALIDITY: i64 = 0;
/// Which of several clusters the caller is in: whose tokens istiod has to ask about.
const CLUSTER_ID: &str = "clusterid";
/// The longest one call may take once connected.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn supply(ca: &MeshCa, connector: &Connector, outlet: &Outlet, entropy: &Entropy) -> Infallible {
    let mut backoff = Backoff::new(entropy.clone());
    let mut trusted = Vec::new();
    let mut applicant = None;
    let mut by_token = false;
    loop {
        let asked = attempt(ca, connector, outlet, &mut applicant, (&trusted, by_token)).await;
        // A CA that renews by certificates for so long and no longer: once by the token, and if that is not good any more, the certificate
        // may be again.
        by_token =
            !by_token && matches!(&asked, Err(IssueError::Refused(status)) if status.code() == Code::Unauthenticated);
        let failure = match asked {
            Ok((identity, roots)) => {
                applicant = None;
                let now = outlet.now();
                match term::renewal(&identity, now, entropy) {
                    Some(term) => {
                        backoff.reset();
                        trusted = roots;
                        // A clock that is set back to before it makes it one of the future, which nobody believes. One that came as that
                        // is of an authority that is ahead, and the next would be the same.
                        let begin = identity.svid().not_before();
                        let begun = (begin.as_secs() <= now.as_secs()).then_some(begin);
                        outlet.issued(identity, now);
                        outlet.rest(term, begun).await;
                        continue;
                    }
                    // Our clock or the CA's is wrong, and asking more often makes neither right.
                    None => IssueError::Ended,
                }
            }
            Err(error) => error,
        };
        outlet.failed(&failure);
        let life = outlet.newest().map(|(_, life)| life);
        tokio::time::sleep(term::retry(backoff.next(), life, entropy)).await;
    }
}

async fn attempt(
    ca: &MeshCa,
    connector: &Connector,
    outlet: &Outlet,
    applicant: &mut Option<Applicant>,
    (trusted, by_token): (&[CertificateDer<'static>], bool),
) -> Result<(Identity, Vec<CertificateDer<'static>>), IssueError> {
    let applicant = match applicant {
        Some(applicant) => applicant,
        none => none.insert(Applicant::new(&ca.id)?),
    };
    let current = match ca.proof {
        // Nobody believes a certificate of the future, the CA included.
        Proof::TokenOnce if by_token => None,
        Proof::TokenOnce => outlet
            .valid()
            .filter(|current| current.svid().not_before() <= outlet.now()),
        Proof::TokenAlways => None,
    };
    let mut request = tonic::Request::new(CreateCertificateRequest {
        csr: applicant.csr().into(),
        validity_duration: VALIDITY,
    });
    if current.is_none() {
        request.metadata_mut().insert("authorization", bearer(&ca.token).await?);
    }
    if let Some(cluster) = &ca.cluster_id {
        let value = AsciiMetadataValue::try_from(&**cluster).map_err(|_| IssueError::ClusterText)?;
        request.metadata_mut().insert(CLUSTER_ID, value);
    }
    let credentials = Credentials::Tls(ca.roots.clone().into());
    let name = ca.server_name.as_deref().unwrap_or_else(|| ca.uri.host());
    let channel = connect_to(connector, &ca.uri, name, &credentials, current.as_ref(), &outlet.clock)
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
