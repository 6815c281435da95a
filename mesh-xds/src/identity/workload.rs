//! `spiffe_workload_api`: the SPIFFE Workload API, which SPIRE's agent serves on a Unix socket (`SPIFFE_Workload_API.md`,
//! `SPIFFE_Workload_Endpoint.md`).
//!
//! One stream, on which the agent tells everything anew whenever anything changes: certificate, key, roots, the roots of
//! federated domains. The agent knows the caller by the socket and makes the key; here it is turned into a signing handle and
//! its bytes are wiped. What gRPC itself had buffered of the message is freed as it is, so this source gives one copy more of a
//! key to whoever can read the process's memory than a CA does, whose keys are made here.
//!
//! The protocol is three messages, written by hand in `proto.rs`. The `spiffe` crate speaks it too, but dials, waits and
//! draws by itself: here dialling, pauses and chance are injected, and the roots of each domain go to our own verifier.
//!
//! Proven against a stand-in that was written from the protocol (`tests/workload.rs`), not against SPIRE.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;
use mesh_core::Entropy;
use mesh_core::identity::{Identity, InvalidBundle, InvalidSpiffeId, InvalidSvid, Svid, TrustBundle, TrustDomain};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Outlet, term};
use crate::bootstrap::{Credentials, WorkloadApi};
use crate::client::Backoff;
use crate::connect::{Chain, ConnectError, connect};
use crate::connector::Connector;
use crate::proto::spiffe::{FETCH_X509_SVID, X509Svid, X509SvidRequest, X509SvidResponse};

/// What every call says, so that no request that was forged through some other program is one (Workload Endpoint 5).
const HEADER: &str = "workload.spiffe.io";
/// The longest until the agent has answered at all: it tells the first message without delay (4.3).
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes of one message: chains, keys and the roots of a hundred domains.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// The most certificates in one field.
const MAX_CERTIFICATES: usize = 256;

pub(super) async fn supply(api: &WorkloadApi, connector: &Connector, outlet: &Outlet, entropy: &Entropy) -> Infallible {
    let mut backoff = Backoff::new(entropy.clone());
    loop {
        let end = listen(api, connector, outlet, &mut backoff).await;
        match &end {
            // All that was told before is taken back (5.2.1).
            WorkloadError::Ended(status) if status.code() == Code::PermissionDenied => outlet.revoked(&end),
            _ => outlet.failed(&end),
        }
        let life = outlet.newest().map(|(_, life)| life);
        tokio::time::sleep(term::retry(backoff.next(), life, entropy)).await;
    }
}

/// Takes what the agent tells, until it tells no more: why.
async fn listen(api: &WorkloadApi, connector: &Connector, outlet: &Outlet, backoff: &mut Backoff) -> WorkloadError {
    let opened = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, open(api, connector, outlet)).await;
    let mut stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return error,
        Err(_) => return WorkloadError::TimedOut,
    };
    loop {
        match stream.message().await {
            Ok(Some(response)) => match identity(api, response) {
                Ok(identity) => {
                    backoff.heard();
                    let begin = identity.svid().not_before();
                    outlet.issued(identity, begin);
                }
                // Reported and discarded (4.5); the next may be better.
                Err(error) => outlet.failed(&error),
            },
            Ok(None) => return WorkloadError::Closed,
            Err(status) => return WorkloadError::Ended(status),
        }
    }
}

async fn open(
    api: &WorkloadApi,
    connector: &Connector,
    outlet: &Outlet,
) -> Result<Streaming<X509SvidResponse>, WorkloadError> {
    let channel = connect(connector, &api.endpoint, &Credentials::Insecure, None, &outlet.clock);
    let channel = channel.await.map_err(WorkloadError::Connect)?;
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let unready = |error: tonic::transport::Error| WorkloadError::Ended(Status::unavailable(error.to_string()));
    grpc.ready().await.map_err(unready)?;
    let mut request = tonic::Request::new(X509SvidRequest {});
    request
        .metadata_mut()
        .insert(HEADER, MetadataValue::from_static("true"));
    let path = PathAndQuery::from_static(FETCH_X509_SVID);
    let codec = ProstCodec::<X509SvidRequest, X509SvidResponse>::default();
    let answer = grpc.server_streaming(request, path, codec).await;
    Ok(answer.map_err(WorkloadError::Ended)?.into_inner())
}

/// What a message makes of the workload.
fn identity(api: &WorkloadApi, mut response: X509SvidResponse) -> Result<Identity, WorkloadError> {
    let wanted = |svid: &X509Svid| match &api.hint {
        Some(hint) => svid.hint == **hint,
        None => true,
    };
    let position = response.svids.iter().position(wanted).ok_or(WorkloadError::None)?;
    let mut told = response.svids.swap_remove(position);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::mem::take(&mut told.x509_svid_key)));
    let chain = certificates("x509_svid", &told.x509_svid)?;
    let svid = Svid::new(chain, key).map_err(WorkloadError::Svid)?;
    if svid.id().as_str() != told.spiffe_id {
        return Err(WorkloadError::OtherName);
    }
    let own = svid.id().trust_domain().clone();
    let roots = certificates("bundle", &told.bundle)?;
    let mut bundle = TrustBundle::new(own.clone(), roots).map_err(WorkloadError::Bundle)?;
    for (name, roots) in &response.federated_bundles {
        let domain =
            TrustDomain::parse(name.strip_prefix("spiffe://").unwrap_or(name)).map_err(WorkloadError::Domain)?;
        // Its own roots are beside the certificate, and nobody else's word for them counts.
        if domain != own {
            let roots = certificates("federated_bundles", roots)?;
            bundle = bundle.with_domain(domain, roots).map_err(WorkloadError::Bundle)?;
        }
    }
    Ok(Identity::new(svid, bundle))
}

/// Certificates in DER, one after the other. An empty field is none: a domain that is trusted for nothing.
fn certificates(field: &'static str, mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, WorkloadError> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let length = sequence(der).filter(|length| *length <= der.len());
        let (one, rest) = der.split_at(length.ok_or(WorkloadError::Der(field))?);
        if all.len() == MAX_CERTIFICATES {
            return Err(WorkloadError::Der(field));
        }
        all.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(all)
}

/// How many bytes the sequence has that begins here, its tag and length included (X.690 8.1.3).
fn sequence(der: &[u8]) -> Option<usize> {
    let [0x30, first, rest @ ..] = der else { return None };
    let count = match first {
        0..=0x7f => return Some(2 + usize::from(*first)),
        // Four bytes of length are more than a message has.
        0x81..=0x84 => usize::from(first - 0x80),
        _ => return None,
    };
    let length = rest
        .get(..count)?
        .iter()
        .fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    length.checked_add(2 + count)
}

/// Why there is no identity, or no newer one.
enum WorkloadError {
    Connect(ConnectError),
    TimedOut,
    Ended(Status),
    Closed,
    None,
    Der(&'static str),
    Svid(InvalidSvid),
    OtherName,
    Domain(InvalidSpiffeId),
    Bundle(InvalidBundle),
}

impl fmt::Display for WorkloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connecting to the Workload API: {error}"),
            Self::TimedOut => f.write_str("the Workload API did not answer in time"),
            Self::Ended(status) => write!(f, "the Workload API answered {:?}: {}", status.code(), status.message()),
            Self::Closed => f.write_str("the Workload API closed the stream"),
            Self::None => f.write_str("the Workload API tells no identity, or none with the wanted hint"),
            Self::Der(field) => write!(f, "the Workload API's {field} is not a series of certificates"),
            Self::Svid(error) => write!(f, "the Workload API's certificate: {}", Chain(error)),
            Self::OtherName => f.write_str("the Workload API's certificate names another than the message"),
            Self::Domain(error) => write!(f, "the Workload API's federated bundles: {error}"),
            Self::Bundle(error) => write!(f, "the Workload API's roots: {}", Chain(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::testing::TestCa;

    use super::*;

    #[test]
    fn certificates_follow_one_another() {
        let ca = TestCa::new("d");
        let (one, two) = (ca.root(), TestCa::new("e").root());
        let both = [&one[..], &two[..]].concat();
        assert_eq!(certificates("bundle", &both).ok().unwrap(), [one.clone(), two]);
        assert!(certificates("bundle", &[]).ok().unwrap().is_empty());
        let cases: [&[u8]; 6] = [
            &both[..both.len() - 1],
            &[0x30],
            &[0x30, 0x80],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x31, 0],
        ];
        for case in cases {
            assert!(certificates("bundle", case).is_err(), "{case:?}");
        }
        let crowd = [0x30, 0].repeat(MAX_CERTIFICATES + 1);
        assert!(certificates("bundle", &crowd).is_err());
    }

    #[test]
    fn a_message_shows_no_key() {
        let svid = X509Svid {
            spiffe_id: "spiffe://d/a".into(),
            x509_svid: Vec::new(),
            x509_svid_key: b"secret".to_vec(),
            bundle: Vec::new(),
            hint: String::new(),
        };
        let response = X509SvidResponse {
            svids: vec![svid],
            ..X509SvidResponse::default()
        };
        let shown = format!("{response:?}");
        assert!(!shown.contains("115") && !shown.contains("secret"), "{shown}");
    }
}
