//! The leaves: X509-SVIDs exactly as the standard's profile has them, and the control plane's own certificate.
//!
//! One URI name, critical because the subject is empty; key usage critical and only `digitalSignature`; both extended usages,
//! since a workload calls and is called; not a CA; both key identifiers. Valid from three minutes ago (peers' clocks differ) and
//! never longer than the root. Serials are random and never derived from the key.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::digest;
use mesh_core::identity::verify::Leaf;
use mesh_core::identity::{Identity, SpiffeId, Svid, TrustBundle, TrustDomain};
use mesh_xds::server::Shown;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use zeroize::Zeroize as _;

use super::audit::AuditLog;
use super::common::{BACKDATED, date, hex, random_serial};
use super::denied::Denied;
use super::error::Kind;
use super::keys::Keys;
use super::proven::Proven;
use super::renewals::Renewals;
use super::review::Reviewer;
use super::rotation::{Acknowledged, Roots, RotationPhase, RotationRefusal, RotationStatus, RotationStep};
use super::token::{JoinToken, Lifetime, TokenStore};
use super::{CaError, csr};

/// How long a workload's certificate is valid when it does not ask (Istio `SECRET_TTL`).
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The longest it may ask for; more is refused. There is no revocation but the end of the lifetime.
pub const MAX_LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The shortest it may ask for: one that asks for less would do little else than ask.
pub const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(60);

/// The authority of one trust domain. There is no `Debug` that shows the key.
pub(crate) struct Authority {
    /// Replaced as one when a root is.
    roots: RwLock<Arc<Roots>>,
    state: Option<PathBuf>,
    domain: TrustDomain,
    clock: Arc<dyn TimeProvider>,
    lifetime: Duration,
    pub(super) tokens: TokenStore,
    pub(super) audit: AuditLog,
    pub(super) keys: Keys,
    pub(super) denied: Denied,
    pub(super) proven: Proven,
    pub(super) renewals: Renewals,
    pub(super) reviewer: Option<Reviewer>,
    accepts_rsa: bool,
    /// The control plane's own identity, renewed at half its life.
    own: Mutex<Option<Identity>>,
    names: Vec<SanType>,
}

/// A certificate that was just signed, and what the audit log says of it.
pub(super) struct Issued {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
    /// The roots that whoever gets it is told of.
    pub(super) roots: String,
    pub(super) serial: String,
    pub(super) key_hash: String,
    pub(super) not_after: u64,
}

impl Authority {
    /// Opens the authority of a state directory, or makes one in memory.
    pub(crate) fn open(
        state: Option<&Path>,
        domain: TrustDomain,
        clock: Arc<dyn TimeProvider>,
        lifetime: Duration,
    ) -> Result<Self, CaError> {
        let now = clock.current_time().ok_or(Kind::Clock)?;
        let (roots, tokens, audit, denied, proven) = match state {
            Some(directory) => (
                Roots::open(directory, &domain, now)?,
                TokenStore::open(directory)?,
                AuditLog::open(directory)?,
                Denied::open(directory)?,
                Proven::open(directory)?,
            ),
            None => (
                Roots::create(&domain, now)?,
                TokenStore::in_memory(),
                AuditLog::default(),
                Denied::in_memory(),
                Proven::in_memory(),
            ),
        };
        Ok(Self {
            roots: RwLock::new(Arc::new(roots)),
            state: state.map(Path::to_owned),
            domain,
            clock,
            lifetime: lifetime.clamp(MIN_LEAF_LIFETIME, MAX_LEAF_LIFETIME),
            tokens,
            audit,
            keys: Keys::default(),
            denied,
            proven,
            renewals: Renewals::default(),
            reviewer: None,
            accepts_rsa: false,
            own: Mutex::default(),
            names: Vec::new(),
        })
    }

    /// Has tokens that are none of its own reviewed.
    pub(crate) fn review_by(&mut self, reviewer: Reviewer) {
        self.reviewer = Some(reviewer);
    }

    /// Signs RSA keys of 2048 bits and more too.
    pub(crate) fn accept_rsa(&mut self) {
        self.accepts_rsa = true;
    }

    /// For how long after a token certificates are renewed; for ever, if that is zero.
    pub(crate) fn limit_renewal(&mut self, most: Duration) {
        self.proven.limit(most);
    }

    /// Adds names that the control plane's own certificate is valid for.
    pub(crate) fn serve_as(&mut self, names: impl IntoIterator<Item = String>) -> Result<(), CaError> {
        for name in names {
            self.names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into().map_err(Kind::Sign)?),
            });
        }
        Ok(())
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The certificates of the root that signs and, while it is replaced, of the other; everybody may know them.
    pub(crate) fn root_pem(&self) -> String {
        self.roots().all().map(|root| &*root.pem).collect()
    }

    pub(super) fn roots(&self) -> Arc<Roots> {
        Arc::clone(&self.roots.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the phase of a rotation began that workloads have to hear of; `None`: there is nothing to hear of.
    pub(crate) fn rotating_since(&self) -> Option<u64> {
        let roots = self.roots();
        (roots.phase() != RotationPhase::Stable).then(|| roots.since())
    }

    /// When the phase of a rotation began; 0: there never was one.
    pub(crate) fn phase_since(&self) -> u64 {
        self.roots().since()
    }

    /// How the replacement of the root stands.
    pub(crate) fn rotation(&self, counts: Acknowledged) -> RotationStatus {
        self.roots().status(counts)
    }

    /// Takes a step of it. The control plane shows a certificate by the new state from the next connection on.
    pub(crate) fn rotate(&self, step: RotationStep, counts: &Acknowledged, force: bool) -> Result<(), RotationRefusal> {
        let now = self.now().map_err(|error| RotationRefusal::Ca(error.to_string()))?;
        let mut roots = self.roots.write().unwrap_or_else(PoisonError::into_inner);
        let place = (self.state.as_deref(), &self.domain, now);
        *roots = Arc::new(roots.after(step, counts, force, place)?);
        let phase = roots.phase();
        drop(roots);
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::warn!(target: "audit", event = "root_rotation", step = ?step, force, phase = phase.as_str(), "the root is being replaced");
        Ok(())
    }

    pub(super) fn now(&self) -> Result<UnixTime, CaError> {
        Ok(self.clock.current_time().ok_or(Kind::Clock)?)
    }

    /// Makes a join token.
    pub(crate) fn issue_token(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<JoinToken, CaError> {
        self.tokens.issue(id, lifetime, self.now()?.as_secs())
    }

    /// Believes no certificate and no join token of `id` any more that there is now. How many tokens it had.
    pub(crate) fn deny(&self, id: &SpiffeId) -> Result<usize, CaError> {
        // The tokens first: whoever still joins by one has a certificate of before the moment that is written down.
        let tokens = self.tokens.forget(id)?;
        self.denied.deny(id, self.now()?.as_secs())?;
        tracing::warn!(target: "audit", event = "denied", %id, tokens, "certificates and join tokens of before are believed no more");
        Ok(tokens)
    }

    /// Signs a workload's key. `requested` is what the workload asked for; zero is "you choose".
    pub(super) fn sign(&self, id: &SpiffeId, key: &impl PublicKeyData, requested: Duration) -> Result<Issued, CaError> {
        let lifetime = if requested.is_zero() { self.lifetime } else { requested };
        // The time before the roots: a certificate is younger than a phase only where its owner is told what that says.
        let now = self.now()?.as_secs();
        let roots = self.roots();
        let mut issued = self.leaf_of((&roots, now), id, key, lifetime, &[])?;
        issued.roots = roots.all().map(|root| &*root.pem).collect();
        Ok(issued)
    }

    /// Whom the control plane is to its callers. Made anew at half its life, and at most as often as it is asked for.
    pub(crate) fn own_identity(&self) -> Result<Identity, CaError> {
        let now = self.now()?.as_secs();
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = own.as_ref() {
            let (begin, end) = (
                identity.svid().not_before().as_secs(),
                identity.svid().not_after().as_secs(),
            );
            if now < begin + (end - begin) / 2 {
                return Ok(identity.clone());
            }
        }
        let identity = self.make_own_identity()?;
        *own = Some(identity.clone());
        Ok(identity)
    }

    fn make_own_identity(&self) -> Result<Identity, CaError> {
        // istiod's name in its default installation.
        let id = SpiffeId::parse(&format!("spiffe://{}/ns/istio-system/sa/istiod", self.domain))
            .expect("a trust domain with this path is a SPIFFE id");
        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Kind::Sign)?;
        let (now, roots) = (self.now()?.as_secs(), self.roots());
        let issued = self.leaf_of((&roots, now), &id, &key, self.lifetime, &self.names);
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        key.zeroize();
        let issued = issued?;
        let svid = Svid::new(
            [issued.certificate].into_iter().chain(roots.vouched.clone()).collect(),
            private,
        )
        .expect("the leaf follows the profile, with its own key");
        let known = roots.all().map(|root| root.certificate.clone()).collect();
        let bundle = TrustBundle::new(self.domain.clone(), known).expect("the roots were parsed when they were opened");
        Ok(Identity::new(svid, bundle))
    }

    fn leaf_of(
        &self,
        (roots, now): (&Roots, u64),
        id: &SpiffeId,
        key: &impl PublicKeyData,
        lifetime: Duration,
        names: &[SanType],
    ) -> Result<Issued, CaError> {
        let root = &roots.signing;
        // A clock that is before the root was made is as wrong as one that is after its end.
        if !(root.not_before..root.not_after).contains(&now) {
            return Err(Kind::Expired.into());
        }
        let not_after = (now + lifetime.as_secs()).min(root.not_after);
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.not_before = date(now.saturating_sub(BACKDATED.as_secs()))?;
        params.not_after = date(not_after)?;
        params.serial_number = Some(serial.clone());
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(Kind::Sign)?)];
        params.subject_alt_names.extend_from_slice(names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &root.issuer).map_err(Kind::Sign)?;
        Ok(Issued {
            pem: certificate.pem(),
            roots: String::new(),
            certificate: certificate.der().clone(),
            serial: hex(&serial.to_bytes()),
            key_hash: Self::key_hash(key),
            not_after,
        })
    }

    /// Whether a workload may be called so here.
    pub(super) fn owns(&self, id: &SpiffeId) -> bool {
        *id.trust_domain() == self.domain
    }

    /// Reads a signing request; here so that `service.rs` needs no second path to the rules.
    pub(super) fn read_request(&self, pem: &str) -> Result<csr::Request, csr::Refusal> {
        csr::Request::read(pem, self.accepts_rsa)
    }

    /// What the public key is known by.
    pub(super) fn key_hash(key: &impl PublicKeyData) -> String {
        hex(digest::digest(&digest::SHA256, &key.subject_public_key_info()).as_ref())
    }
}

/// What tells a leaf from others of its name.
pub(crate) fn shown(leaf: &Leaf, der: &CertificateDer<'_>) -> Shown {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    Shown {
        not_before: leaf.not_before().as_secs(),
        sha256,
    }
}

/// When this CA issued a leaf of its own, in seconds since 1970.
pub(crate) fn issued_at(leaf: &Leaf) -> u64 {
    leaf.not_before().as_secs() + BACKDATED.as_secs()
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}
