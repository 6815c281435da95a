//! The certificates of a state directory's roots, for whoever only looks.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{CaError, files, root};

/// The certificate of a state directory's first root; none before there is one. Nothing is made, and the key is not looked at.
///
/// # Errors
///
/// When others may read the file, or it cannot be read.
pub fn mesh_roots(state: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let text = files::read(&state.join(root::FILE))?;
    let text = text.as_deref().map_or("", |text| text.as_str());
    Ok(CertificateDer::pem_slice_iter(text.as_bytes())
        .filter_map(Result::ok)
        .collect())
}
