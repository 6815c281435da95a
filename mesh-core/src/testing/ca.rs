//! Authorities: roots and the signers below them.

use std::fmt;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;

use super::encoding::{signer_params, uri_constraint};
use super::{Issued, Leaf, Name};
use crate::identity::{Identity, Svid, TrustBundle, TrustDomain};

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
        params.custom_extensions.push(uri_constraint(host));
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
        Leaf::good(self, id)
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    /// A certificate for an ordinary server name, such as a control plane shows: no SPIFFE id in it.
    pub fn web_server(&self, name: &str) -> Issued {
        self.leaf("").nameless().name(Name::Dns, name).issue()
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
