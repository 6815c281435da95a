//! A certificate authority for tests, which makes good leaves and every kind of bad one, and a wall clock that is set by hand.
//!
//! Behind the feature `testing`, so that the tests of every crate share it. Not the mesh's CA, which is in mesh-control and
//! refuses to make most of what this one makes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use time::OffsetDateTime;

pub use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
pub use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};

use crate::identity::{Identity, Svid, TrustBundle, TrustDomain};

/// 2020-01-01, when what is made here becomes valid unless told otherwise.
pub const NOT_BEFORE_SECONDS: u64 = 1_577_836_800;
/// 2100-01-01, when it expires.
pub const NOT_AFTER_SECONDS: u64 = 4_102_444_800;

const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
/// An arc nobody understands.
const UNKNOWN_EXTENSION: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

/// A certificate authority: a root, or a signer below one.
pub struct TestCa {
    trust_domain: TrustDomain,
    root: CertificateDer<'static>,
    /// What a leaf's holder sends besides the leaf.
    intermediates: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    /// A root of `trust_domain`. Two of the same name are two authorities, with different keys.
    pub fn new(trust_domain: &str) -> Self {
        Self::with_params(trust_domain, signer_params(&format!("spiffe://{trust_domain}")))
    }

    /// A root that constrains the URI names below it to `host`, as the SPIFFE standard allows and webpki does not.
    pub fn with_uri_constraint(trust_domain: &str, host: &str) -> Self {
        let mut params = signer_params(&format!("spiffe://{trust_domain}"));
        // rcgen has no URI subtree: NameConstraints { permittedSubtrees [0] { GeneralSubtree { [6] host } } }.
        let subtree = tlv(0x30, &tlv(0x86, host.as_bytes()));
        let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], tlv(0x30, &tlv(0xa0, &subtree)));
        constraints.set_criticality(true);
        params.custom_extensions.push(constraints);
        Self::with_params(trust_domain, params)
    }

    fn with_params(trust_domain: &str, params: CertificateParams) -> Self {
        let key = KeyPair::generate().expect("a key can be generated");
        let root = params.self_signed(&key).expect("the root's parameters are valid");
        Self {
            trust_domain: TrustDomain::parse(trust_domain).expect("a test names a valid trust domain"),
            root: root.der().clone(),
            intermediates: Vec::new(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A signer below this one, whose leaves come with its certificate.
    pub fn intermediate(&self) -> Self {
        self.intermediate_with(&format!("spiffe://{}", self.trust_domain), |_| {})
    }

    /// A signer below this one with the id `uri` and whatever else `edit` makes of it.
    pub fn intermediate_with(&self, uri: &str, edit: impl FnOnce(&mut SignerForm)) -> Self {
        let mut form = SignerForm::default();
        edit(&mut form);
        let mut params = signer_params(uri);
        // Two authorities of one domain share their name on purpose; what stands below them does not.
        let depth = self.intermediates.len() + 1;
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, format!("level {depth}"));
        params.is_ca = match (form.ca, form.path_length) {
            (false, _) => IsCa::ExplicitNoCa,
            (true, None) => IsCa::Ca(BasicConstraints::Unconstrained),
            (true, Some(length)) => IsCa::Ca(BasicConstraints::Constrained(length)),
        };
        params.key_usages = form.key_usages;
        let key = KeyPair::generate().expect("a key can be generated");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("the signer's parameters are valid");
        let mut intermediates = vec![certificate.der().clone()];
        intermediates.extend(self.intermediates.iter().cloned());
        Self {
            trust_domain: self.trust_domain.clone(),
            root: self.root.clone(),
            intermediates,
            issuer: Issuer::new(params, key),
        }
    }

    /// The root certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.root.clone()
    }

    /// The root, as the roots of its trust domain.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), vec![self.root()]).expect("the root is a certificate")
    }

    /// A good certificate for `id`.
    pub fn svid(&self, id: &str) -> Svid {
        self.leaf(id).svid()
    }

    /// A good certificate for `id`, and this root to judge others by.
    pub fn identity(&self, id: &str) -> Identity {
        Identity::new(self.svid(id), self.bundle())
    }

    /// A leaf for `id`, good until it is made otherwise.
    pub fn leaf(&self, id: &str) -> Leaf<'_> {
        Leaf {
            ca: self,
            names: vec![(Name::Uri, id.as_bytes().to_vec())],
            common_name: None,
            validity: (NOT_BEFORE_SECONDS, NOT_AFTER_SECONDS),
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            key_usage_critical: true,
            extended_key_usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: false,
            unknown_critical_extension: false,
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }

    /// A certificate for an ordinary server name, such as a control plane shows: no SPIFFE id in it.
    pub fn web_server(&self, name: &str) -> Issued {
        let mut leaf = self.leaf("");
        leaf.names = vec![(Name::Dns, name.as_bytes().to_vec())];
        leaf.issue()
    }
}

impl fmt::Debug for TestCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCa")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a signer, if anything.
#[derive(Clone, Debug)]
pub struct SignerForm {
    /// Whether it is a CA at all.
    pub ca: bool,
    /// How many signers may stand below it.
    pub path_length: Option<u8>,
    /// What its key may be used for.
    pub key_usages: Vec<KeyUsagePurpose>,
}

impl Default for SignerForm {
    fn default() -> Self {
        Self {
            ca: true,
            path_length: None,
            key_usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
        }
    }
}

/// A leaf that is being described. Each method makes it differ from a good one.
#[derive(Debug)]
#[must_use = "nothing is issued until `issue` or `svid`"]
pub struct Leaf<'a> {
    ca: &'a TestCa,
    names: Vec<(Name, Vec<u8>)>,
    common_name: Option<String>,
    validity: (u64, u64),
    key_usages: Vec<KeyUsagePurpose>,
    key_usage_critical: bool,
    extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
    is_ca: bool,
    unknown_critical_extension: bool,
    algorithm: &'static SignatureAlgorithm,
}

/// The kind of an alternative name (RFC 5280 4.2.1.6).
#[derive(Clone, Copy, Debug)]
pub enum Name {
    /// `rfc822Name`
    Email = 0x81,
    /// `dNSName`
    Dns = 0x82,
    /// `uniformResourceIdentifier`
    Uri = 0x86,
}

impl Leaf<'_> {
    /// Removes every alternative name, the id's too.
    pub fn nameless(mut self) -> Self {
        self.names.clear();
        self
    }

    /// Adds an alternative name, byte for byte: it may be anything, also what no text may be.
    pub fn name(mut self, kind: Name, value: impl AsRef<[u8]>) -> Self {
        self.names.push((kind, value.as_ref().to_vec()));
        self
    }

    /// Gives the subject a common name.
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Valid from and until, in seconds since 1970.
    pub fn valid(mut self, not_before: u64, not_after: u64) -> Self {
        self.validity = (not_before, not_after);
        self
    }

    /// The key usages; none leaves the extension out.
    pub fn key_usages(mut self, usages: &[KeyUsagePurpose]) -> Self {
        self.key_usages = usages.to_vec();
        self
    }

    /// Marks a key usage of only digitalSignature as not critical.
    pub fn key_usage_not_critical(mut self) -> Self {
        self.key_usage_critical = false;
        self
    }

    /// The extended key usages; none leaves the extension out.
    pub fn extended_key_usages(mut self, usages: &[ExtendedKeyUsagePurpose]) -> Self {
        self.extended_key_usages = usages.to_vec();
        self
    }

    /// Makes it a CA.
    pub fn ca(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Adds a critical extension that nobody understands.
    pub fn unknown_critical_extension(mut self) -> Self {
        self.unknown_critical_extension = true;
        self
    }

    /// The kind of its key; P-256 unless told otherwise.
    pub fn key(mut self, algorithm: &'static SignatureAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Issues it, with a new key.
    ///
    /// # Panics
    ///
    /// When the description cannot be encoded.
    pub fn issue(self) -> Issued {
        let key = KeyPair::generate_for(self.algorithm).expect("a key can be generated");
        let leaf = self
            .params()
            .signed_by(&key, &self.ca.issuer)
            .expect("the leaf's parameters can be encoded");
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.ca.intermediates.iter().cloned());
        Issued {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// Issues it, signed by its own key.
    ///
    /// # Panics
    ///
    /// When the description cannot be encoded.
    pub fn issue_self_signed(self) -> Issued {
        let key = KeyPair::generate_for(self.algorithm).expect("a key can be generated");
        let leaf = self
            .params()
            .self_signed(&key)
            .expect("the leaf's parameters can be encoded");
        Issued {
            chain: vec![leaf.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// Issues it as an [`Svid`].
    ///
    /// # Panics
    ///
    /// When it is not a good one.
    pub fn svid(self) -> Svid {
        let Issued { chain, key } = self.issue();
        Svid::new(chain, key).expect("the leaf is a good one")
    }

    fn params(&self) -> CertificateParams {
        let mut params = blank_params();
        if let Some(name) = &self.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.not_before = date(self.validity.0);
        params.not_after = date(self.validity.1);
        params.is_ca = if self.is_ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        params.extended_key_usages.clone_from(&self.extended_key_usages);
        if self.key_usage_critical {
            params.key_usages.clone_from(&self.key_usages);
        } else {
            // BIT STRING with digitalSignature, its first bit, and seven unused ones.
            let usage = CustomExtension::from_oid_content(KEY_USAGE, vec![0x03, 0x02, 0x07, 0x80]);
            params.custom_extensions.push(usage);
        }
        params.custom_extensions.extend(alternative_names(&self.names));
        if self.unknown_critical_extension {
            let mut extension = CustomExtension::from_oid_content(UNKNOWN_EXTENSION, vec![0x05, 0x00]);
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }
        params
    }
}

/// A certificate chain, leaf first, and the leaf's key: what a peer of any quality holds.
#[derive(Debug)]
pub struct Issued {
    /// The certificates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
}

/// A wall clock that stands where it was set. Clones are one clock.
#[derive(Clone, Debug)]
pub struct SettableClock(Arc<AtomicU64>);

impl SettableClock {
    /// Stands at `seconds` since 1970.
    pub fn at(seconds: u64) -> Self {
        Self(Arc::new(AtomicU64::new(seconds)))
    }

    /// Moves it, in either direction.
    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for SettableClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn signer_params(uri: &str) -> CertificateParams {
    let mut params = blank_params();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("test CA of {uri}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .custom_extensions
        .extend(alternative_names(&[(Name::Uri, uri.as_bytes().to_vec())]));
    params
}

fn blank_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date(NOT_BEFORE_SECONDS);
    params.not_after = date(NOT_AFTER_SECONDS);
    params.use_authority_key_identifier_extension = true;
    params
}

/// The extension, encoded by hand: rcgen would refuse the names that a verifier must refuse.
fn alternative_names(names: &[(Name, Vec<u8>)]) -> Option<CustomExtension> {
    if names.is_empty() {
        return None;
    }
    let body: Vec<u8> = names.iter().flat_map(|(kind, value)| tlv(*kind as u8, value)).collect();
    Some(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, tlv(0x30, &body)))
}

/// One DER value: tag, length, bytes.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(value);
    out
}

fn date(seconds: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds as i64).expect("a test's date is in range")
}
