//! Leaves, described one difference at a time.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::encoding::{
    ShortRsa, WeakSignature, alternative_names, blank_params, date, digital_signature_not_critical, relabelled,
    unknown_critical_extension, uri_constraint, version_1,
};
use super::{NOT_AFTER_SECONDS, NOT_BEFORE_SECONDS, SignatureAlgorithm, TestCa};
use crate::identity::Svid;

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
    short_rsa: bool,
    version_1: bool,
    constrained: bool,
    weak_signature: Option<WeakSignature>,
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

impl<'a> Leaf<'a> {
    pub(super) fn good(ca: &'a TestCa, id: &str) -> Self {
        Self {
            ca,
            names: vec![(Name::Uri, id.as_bytes().to_vec())],
            common_name: None,
            validity: (NOT_BEFORE_SECONDS, NOT_AFTER_SECONDS),
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            key_usage_critical: true,
            extended_key_usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: false,
            unknown_critical_extension: false,
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
            short_rsa: false,
            version_1: false,
            constrained: false,
            weak_signature: None,
        }
    }

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

    /// Gives it an RSA key of 1024 bits. Its holder has no such key: none of today's libraries makes one, and whoever judges
    /// the certificate must have refused it before a signature of it matters.
    pub fn short_rsa(mut self) -> Self {
        self.short_rsa = true;
        self
    }

    /// Issues it as X.509 version 1, which has no extensions and so no names.
    pub fn version_1(mut self) -> Self {
        self.version_1 = true;
        self
    }

    /// Adds a critical name constraint, which belongs on signers.
    pub fn name_constraint(mut self) -> Self {
        self.constrained = true;
        self
    }

    /// Issues it with a signature that says that it is of this algorithm.
    pub fn weak_signature(mut self, signature: WeakSignature) -> Self {
        self.weak_signature = Some(signature);
        self
    }

    /// Issues it, with a new key.
    ///
    /// # Panics
    ///
    /// When the description cannot be encoded.
    pub fn issue(self) -> Issued {
        let key = KeyPair::generate_for(self.algorithm).expect("a key can be generated");
        let issuer = self.ca.issuer();
        let leaf = match self.short_rsa {
            true => self.params().signed_by(&ShortRsa::new(), issuer),
            false => self.params().signed_by(&key, issuer),
        };
        let mut leaf = leaf.expect("the leaf's parameters can be encoded").der().clone();
        if let Some(signature) = self.weak_signature {
            leaf = relabelled(&leaf, signature, issuer.key()).into();
        }
        if self.version_1 {
            leaf = version_1(&leaf, issuer.key()).into();
        }
        let mut chain = vec![leaf];
        chain.extend(self.ca.intermediates().iter().cloned());
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
            params.custom_extensions.push(digital_signature_not_critical());
        }
        params.custom_extensions.extend(alternative_names(&self.names));
        if self.constrained {
            params.custom_extensions.push(uri_constraint("mesh.test"));
        }
        if self.unknown_critical_extension {
            params.custom_extensions.push(unknown_critical_extension());
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
