//! A certificate beside the control plane: for what is no workload of this library (a script, another mesh's client, a test with `openssl`),
//! signed by whoever may read the key of the state directory anyway.
//!
//! It is of the same profile and of the same short life as any other, and is written down in the same audit log before it is handed out.
//! The key is made here and leaves as text that is wiped when it is dropped: nobody else has it, and the CA keeps no copy.

use std::time::Duration;

use mesh_core::identity::SpiffeId;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use zeroize::{Zeroize as _, Zeroizing};

use super::audit::Record;
use super::error::Kind;
use super::{Authority, CaError};

/// A certificate and its key, as files have them.
pub struct IssuedCertificate {
    /// Whom it names.
    pub id: SpiffeId,
    /// The certificate, in PEM.
    pub certificate_pem: String,
    /// The private key, in PEM (PKCS #8).
    pub key_pem: Zeroizing<String>,
    /// The roots that its peers are judged by, in PEM.
    pub roots_pem: String,
    /// The leaf's serial number, in hexadecimal digits.
    pub serial: String,
    /// The last second that it is valid, since 1970.
    pub not_after: u64,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What the audit log says in the place of an address and of a proof.
const CALLER: &str = "state directory";

impl Authority {
    /// Makes a key, and signs it.
    pub(crate) fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Result<IssuedCertificate, CaError> {
        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Kind::Sign)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let issued = self.sign(id, &key, lifetime);
        key.zeroize();
        let issued = issued?;
        self.audit.write(&Record {
            time: self.now()?.as_secs(),
            caller: CALLER.to_owned(),
            method: CALLER,
            id: id.as_str(),
            serial: &issued.serial,
            key_sha256: &issued.key_hash,
            not_after: issued.not_after,
        })?;
        tracing::info!(target: "audit", event = "certificate_issued", caller = CALLER, %id, serial = issued.serial, "certificate issued");
        Ok(IssuedCertificate {
            id: id.clone(),
            certificate_pem: issued.pem,
            key_pem,
            roots_pem: issued.roots,
            serial: issued.serial,
            not_after: issued.not_after,
        })
    }
}
