//! A certificate authority for one run: the profile of a SPIFFE mesh, made with rcgen.

use mesh_core::identity::{Identity, Svid, TrustBundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::Failure;

pub(crate) const SERVER_ID: &str = "spiffe://cluster.local/ns/default/sa/payment";
pub(crate) const CLIENT_ID: &str = "spiffe://cluster.local/ns/default/sa/checkout";

/// A certificate with its key and root, as bytes that a pipe can carry.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Pair {
    pub(crate) leaf: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) root: Vec<u8>,
}

impl Pair {
    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let svid = Svid::new(vec![CertificateDer::from(self.leaf.clone())], key)?;
        let root = CertificateDer::from(self.root.clone());
        Ok(Identity::new(
            svid,
            TrustBundle::new(TrustDomain::parse("cluster.local")?, vec![root])?,
        ))
    }
}

/// Certificates for the server and for the client, of one root.
pub(crate) fn issue() -> Result<(Pair, Pair), Failure> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into()?)];
    let root_der = root.self_signed(&root_key)?.der().to_vec();
    let issuer = Issuer::new(root, root_key);
    // A client that does not know SPIFFE goes by the name.
    let leaf = |id: &str, name: &str| -> Result<Pair, Failure> {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(name.try_into()?)];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = leaf.signed_by(&key, &issuer)?;
        Ok(Pair {
            leaf: signed.der().to_vec(),
            key: key.serialize_der(),
            root: root_der.clone(),
        })
    };
    Ok((leaf(SERVER_ID, "payment")?, leaf(CLIENT_ID, "checkout")?))
}
