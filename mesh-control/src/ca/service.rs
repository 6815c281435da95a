//! `IstioCertificateService` over gRPC: who is calling, may it, and what does the audit log say.
//!
//! A caller proves itself with the certificate of its connection (renewal: the same name again) or, having none, with a join
//! token in `authorization: Bearer`, or a token of somebody else that the CA was told how to review. The certificate comes first: a workload that has one need not show a secret. A refusal
//! tells the caller what it did wrong with its request, but of a token only that it is not good.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::report::Tally;
use mesh_xds::server::{Line, Peer, Shown};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::audit::Record;
use super::common::BACKDATED;
use super::issue::{Authority, Issued, MAX_LEAF_LIFETIME, MIN_LEAF_LIFETIME};
use super::limit::Limiter;
use super::proto::{CREATE_CERTIFICATE, CreateCertificateRequest, CreateCertificateResponse, SERVICE};
use super::proven::Renewal;
use super::review::Reviewer;
use super::token::{Grant, Refusal};

/// The largest request in bytes: a signing request of 8 KiB and some room.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// The service. Clones share the authority and the limits.
#[derive(Clone, Debug)]
pub(crate) struct CertificateService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    authority: Arc<Authority>,
    limiter: Limiter,
    tally: Tally,
    /// Told whom a certificate was given.
    told: Told,
}

/// Somebody who is told whom a certificate was given.
struct Told(Box<dyn Fn(&SpiffeId) + Send + Sync>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

/// How a caller proved who it is.
enum Proof {
    Certificate(SpiffeId, Shown),
    Token(Grant),
    Reviewed(SpiffeId),
}

impl Proof {
    fn identity(&self) -> &SpiffeId {
        match self {
            Self::Certificate(id, _) | Self::Reviewed(id) => id,
            Self::Token(grant) => &grant.identity,
        }
    }

    fn method(&self) -> &'static str {
        match self {
            Self::Certificate(..) => "certificate",
            Self::Token(_) => "join_token",
            Self::Reviewed(_) => "reviewed_token",
        }
    }
}

impl CertificateService {
    pub(crate) fn new(authority: Arc<Authority>, tally: Tally) -> Self {
        let limiter = Limiter::new(now());
        Self {
            inner: Arc::new(Inner {
                authority,
                limiter,
                tally,
                told: Told(Box::new(|_| {})),
            }),
        }
    }

    /// Tells `told` whom a certificate was given. Before it is cloned.
    pub(crate) fn telling(self, told: impl Fn(&SpiffeId) + Send + Sync + 'static) -> Self {
        let inner = Arc::into_inner(self.inner).map(|inner| Inner {
            told: Told(Box::new(told)),
            ..inner
        });
        Self {
            inner: Arc::new(inner.expect("a service that was just made is nobody else's")),
        }
    }

    pub(super) async fn create(
        &self,
        request: &Request<CreateCertificateRequest>,
    ) -> Result<CreateCertificateResponse, Status> {
        let peer = request
            .extensions()
            .get::<Line>()
            .map(Line::peer)
            .cloned()
            .unwrap_or_default();
        let source = peer
            .address
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let inner = &*self.inner;
        let proof = inner.authenticate(&peer, source, request.metadata()).await?;
        let admitted = match proof {
            Proof::Certificate(..) => inner.limiter.admits_renewal(now()),
            Proof::Token(_) | Proof::Reviewed(_) => inner.limiter.admits_join(now()),
        };
        if !admitted {
            return Err(inner.too_many(source));
        }
        let issued = inner.issue(&proof, source, request.get_ref())?;
        inner.tally.count("certificate_issued", proof.method());
        (inner.told.0)(proof.identity());
        Ok(CreateCertificateResponse {
            cert_chain: vec![issued.pem, issued.roots],
        })
    }
}

impl Inner {
    /// Who is calling. The certificate was verified by the handshake, so its owner has nothing to guess and is never counted
    /// among those who fail, even behind an address where others do.
    async fn authenticate(&self, peer: &Peer, source: IpAddr, metadata: &MetadataMap) -> Result<Proof, Status> {
        if let (Some(id), Some(shown)) = (&peer.identity, peer.certificate) {
            if !self.authority.owns(id) {
                self.refuse(source, "foreign_trust_domain", "a certificate of another trust domain");
                return Err(Status::permission_denied("the caller is of another trust domain"));
            }
            let issued = shown.not_before + BACKDATED.as_secs();
            let denied = self.authority.denied.is_denied(id, issued);
            if denied.map_err(|error| internal(&error))? {
                self.refuse(
                    source,
                    "denied",
                    &format!("{id}: a certificate of before it was denied"),
                );
                return Err(Status::permission_denied(
                    "this certificate is believed no more; join anew",
                ));
            }
            self.renews(id, source)?;
            return Ok(Proof::Certificate(id.clone(), shown));
        }
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|text| text.strip_prefix("Bearer ")) else {
            let show = "show a join token or a certificate";
            return Err(self.unproven(source, "no_proof", "neither certificate nor token", show));
        };
        let now = self.authority.now().map_err(|error| internal(&error))?.as_secs();
        match self.authority.tokens.check(token, now) {
            Ok(grant) if self.authority.owns(&grant.identity) => Ok(Proof::Token(grant)),
            Ok(_) => Err(self.bad_token(source, "of another trust domain")),
            Err(Refusal::Malformed) => match &self.authority.reviewer {
                Some(reviewer) => self.reviewed(source, reviewer, token).await,
                None => Err(self.bad_token_refused(source, &Refusal::Malformed)),
            },
            Err(refusal) => Err(self.bad_token_refused(source, &refusal)),
        }
    }

    /// Whether certificates of `id` are proof enough still, so long after its last token.
    fn renews(&self, id: &SpiffeId, source: IpAddr) -> Result<(), Status> {
        let now_s = self.authority.now().map_err(|error| internal(&error))?.as_secs();
        match self
            .authority
            .proven
            .renewal(id, now_s)
            .map_err(|error| internal(&error))?
        {
            Renewal::Granted => {}
            Renewal::Ending(left) => {
                self.tally.count("certificate_renewal_ending", "");
                if self.limiter.admits_line(now()) {
                    tracing::warn!(
                        target: "audit",
                        event = "certificate_renewal_ending",
                        caller = %source,
                        %id,
                        left_s = left,
                        "renewed by its certificate, and not for much longer: it has to join by a token again"
                    );
                }
            }
            Renewal::Ended => {
                self.refuse(source, "renewed_for_too_long", &format!("{id}: no token for too long"));
                // The code of who has to prove itself by something else: our client shows its token then.
                return Err(Status::unauthenticated(
                    "this identity was renewed for too long without a token; show one",
                ));
            }
        }
        Ok(())
    }

    /// Whose a token is that is none of ours. Another system may be asked, so who failed too often does not get that far.
    async fn reviewed(&self, source: IpAddr, reviewer: &Reviewer, token: &str) -> Result<Proof, Status> {
        if self.limiter.has_failed_too_often(source, now()) {
            return Err(self.too_many(source));
        }
        match reviewer.review(token).await {
            None => Err(self.too_many(source)),
            Some(Ok(id)) if self.authority.owns(&id) => Ok(Proof::Reviewed(id)),
            Some(Ok(_)) => Err(self.bad_token(source, "of another trust domain")),
            Some(Err(refusal)) => Err(self.bad_token(source, &refusal.to_string())),
        }
    }

    fn issue(&self, proof: &Proof, source: IpAddr, request: &CreateCertificateRequest) -> Result<Issued, Status> {
        let id = proof.identity();
        let refuse = |refusal: super::csr::Refusal| {
            self.refuse(source, "bad_request", &format!("{id}: {refusal}"));
            Status::invalid_argument(refusal.to_string())
        };
        let csr = self.authority.read_request(&request.csr).map_err(refuse)?;
        csr.check_name(id).map_err(refuse)?;
        let now = self.authority.now().map_err(|error| internal(&error))?.as_secs();
        let key_hash = Authority::key_hash(&csr.key);
        if !self.authority.keys.admits(&key_hash, id, now) {
            return Err(refuse(super::csr::Refusal::OtherOwner));
        }
        let requested = u64::try_from(request.validity_duration).map(Duration::from_secs);
        let is_allowed =
            |requested: &Duration| requested.is_zero() || (MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(requested);
        let Some(requested) = requested.ok().filter(is_allowed) else {
            self.refuse(
                source,
                "bad_lifetime",
                &format!("{id}: {} s", request.validity_duration),
            );
            let (least, most) = (MIN_LEAF_LIFETIME.as_secs(), MAX_LEAF_LIFETIME.as_secs());
            return Err(Status::invalid_argument(format!(
                "the lifetime must be between {least} and {most} seconds, or 0 for what the CA chooses"
            )));
        };
        let issued = self.authority.sign(id, &csr.key, requested);
        let issued = issued.map_err(|error| internal(&error))?;
        // Before the token is used up. Of one that somebody else uses at this moment the log then has a certificate too many, and never
        // one too few.
        self.record(proof, source, &issued, now)?;
        if let Proof::Token(_) | Proof::Reviewed(_) = proof {
            let proven = self.authority.proven.prove(id, now);
            proven.map_err(|error| internal(&error))?;
        }
        // Last, so that neither a mistake in the request nor one of ours costs the token. Of several who come at once with
        // one token each gets here, and one leaves with a certificate.
        if let Proof::Token(grant) = proof {
            let redeemed = self.authority.tokens.redeem(grant);
            redeemed.map_err(|refusal| self.bad_token_refused(source, &refusal))?;
        }
        self.authority.keys.remember(&key_hash, id, issued.not_after, now);
        if let Proof::Certificate(_, shown) = proof
            && self.authority.renewals.is_second(shown.sha256, &key_hash, now)
        {
            self.tell_of_two(id, source, &key_hash);
        }
        Ok(issued)
    }

    /// One line for each certificate, with what is needed to find or to mistrust it later. None is given that is not written down.
    fn record(&self, proof: &Proof, source: IpAddr, issued: &Issued, now: u64) -> Result<(), Status> {
        let record = Record {
            time: now,
            caller: source.to_string(),
            method: proof.method(),
            id: proof.identity().as_str(),
            serial: &issued.serial,
            key_sha256: &issued.key_hash,
            not_after: issued.not_after,
        };
        self.authority.audit.write(&record).map_err(|error| internal(&error))?;
        tracing::info!(
            target: "audit",
            event = "certificate_issued",
            caller = %source,
            method = record.method,
            id = record.id,
            serial = record.serial,
            key_sha256 = record.key_sha256,
            not_after = record.not_after,
            "certificate issued"
        );
        Ok(())
    }

    /// A certificate was renewed with a second key.
    fn tell_of_two(&self, id: &SpiffeId, source: IpAddr, key_sha256: &str) {
        self.tally.count("certificate_renewed_twice", "");
        tracing::warn!(
            target: "audit",
            event = "certificate_renewed_twice",
            caller = %source,
            %id,
            key_sha256,
            "one certificate was renewed with two keys: there is a copy of it, or its workload restarted just then"
        );
    }

    fn bad_token_refused(&self, source: IpAddr, refusal: &Refusal) -> Status {
        if let Refusal::Broken(error) = refusal {
            tracing::error!(%error, "a join token's record cannot be read");
        }
        self.bad_token(source, refusal.as_str())
    }

    fn bad_token(&self, source: IpAddr, why: &str) -> Status {
        self.unproven(source, "bad_token", why, "the join token is not valid")
    }

    /// Refuses a caller that did not prove who it is, and tells it `told`, unless its address failed too often.
    fn unproven(&self, source: IpAddr, reason: &'static str, why: &str, told: &'static str) -> Status {
        if !self.limiter.admits_failure(source, now()) {
            return self.too_many(source);
        }
        self.refuse(source, reason, why);
        Status::unauthenticated(told)
    }

    fn too_many(&self, source: IpAddr) -> Status {
        self.refuse(source, "too_many_requests", "too many requests");
        Status::resource_exhausted("too many requests; try again in a minute")
    }

    fn refuse(&self, source: IpAddr, reason: &'static str, why: &str) {
        self.tally.count("certificate_refused", reason);
        // Whoever is refused chooses how often, and must not bury what others are refused for.
        if !self.limiter.admits_line(now()) {
            self.tally.count("log_suppressed", "certificate_refused");
            return;
        }
        tracing::warn!(target: "audit", event = "certificate_refused", %source, reason, why, "certificate refused");
    }
}

fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the certificate authority cannot work"
    );
    Status::unavailable("the certificate authority cannot work now")
}

/// tokio's time, which a test may pause.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

impl NamedService for CertificateService {
    const NAME: &'static str = SERVICE;
}

impl UnaryService<CreateCertificateRequest> for CertificateService {
    type Response = CreateCertificateResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CreateCertificateResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<CreateCertificateRequest>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.create(&request).await.map(Response::new) })
    }
}

impl Service<http::Request<Body>> for CertificateService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let codec = ProstCodec::<CreateCertificateResponse, CreateCertificateRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok(grpc.unary(service, request).await)
        })
    }
}
