//! SPIFFE bundles, as JSON: one of a trust domain, or those of several in one file (gRFC A87):
//!
//! ```json
//! {"trust_domains": {"shop.example": {"spiffe_sequence": 7, "keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["..."]}]}}}
//! ```
//!
//! Of a bundle only the keys for X.509 SVIDs count, and of those the certificate; keys of other uses are for others. One bad
//! entry refuses the whole file, since a domain with half of its roots would refuse half of its workloads.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_core::identity::{InvalidSpiffeId, TrustDomain};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The use of the keys that sign X.509 SVIDs (X509-SVID 6.1).
const X509_SVID: &str = "x509-svid";

#[derive(Deserialize)]
struct File {
    trust_domains: BTreeMap<String, Bundle>,
}

#[derive(Deserialize)]
struct Bundle {
    /// None is a bundle that trusts nothing (SPIFFE Trust Domain and Bundle 4.2.3).
    #[serde(default)]
    keys: Vec<Key>,
    /// Grows with each change (SPIFFE Trust Domain and Bundle 4.1.1).
    #[serde(default)]
    spiffe_sequence: Option<u64>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default, rename = "use")]
    purpose: String,
    #[serde(default)]
    x5c: Vec<String>,
}

/// The roots of one trust domain, from its bundle alone, and the bundle's sequence if it tells one.
pub(crate) fn bundle(json: &[u8]) -> Result<(Option<u64>, Vec<CertificateDer<'static>>), InvalidBundleMap> {
    let bundle: Bundle = read(json)?;
    Ok((bundle.spiffe_sequence, roots("", &bundle)?))
}

/// The roots of each trust domain. An empty map is a valid one, which trusts nobody.
pub(crate) fn parse(json: &[u8]) -> Result<BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>, InvalidBundleMap> {
    let file: File = read(json)?;
    let mut domains = BTreeMap::new();
    for (name, bundle) in file.trust_domains {
        let at = format!("trust_domains.{name}");
        let domain = TrustDomain::parse(&name).map_err(|error| InvalidBundleMap::new(&at, Why::Domain(error)))?;
        domains.insert(domain, roots(&format!("{at}."), &bundle)?);
    }
    Ok(domains)
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, InvalidBundleMap> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        InvalidBundleMap::new(path, Why::Shape(error.into_inner()))
    })?;
    // Whatever stands behind it may be what was meant.
    reader
        .end()
        .map_err(|error| InvalidBundleMap::new(".", Why::Shape(error)))?;
    Ok(value)
}

fn roots(at: &str, bundle: &Bundle) -> Result<Vec<CertificateDer<'static>>, InvalidBundleMap> {
    let mut roots = Vec::new();
    for (index, key) in bundle
        .keys
        .iter()
        .enumerate()
        .filter(|(_, key)| key.purpose == X509_SVID)
    {
        let invalid = |why| InvalidBundleMap::new(format_args!("{at}keys[{index}].x5c"), why);
        let [certificate] = key.x5c.as_slice() else {
            return Err(invalid(Why::Count(key.x5c.len())));
        };
        let der = STANDARD.decode(certificate).map_err(|_| invalid(Why::Base64))?;
        roots.push(CertificateDer::from(der));
    }
    Ok(roots)
}

/// What is wrong with a map, and where.
#[derive(Debug)]
pub(crate) struct InvalidBundleMap {
    path: Box<str>,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Shape(serde_json::Error),
    Domain(InvalidSpiffeId),
    Count(usize),
    Base64,
}

impl InvalidBundleMap {
    fn new(path: impl fmt::Display, why: Why) -> Self {
        Self {
            path: path.to_string().into(),
            why,
        }
    }
}

impl fmt::Display for InvalidBundleMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.why {
            Why::Shape(error) => write!(f, "{error}"),
            Why::Domain(error) => write!(f, "{error}"),
            Why::Count(count) => write!(f, "there are {count} certificates where there must be one"),
            Why::Base64 => f.write_str("the certificate is not base64"),
        }
    }
}
