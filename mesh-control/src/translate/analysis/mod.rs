//! What no client's view is needed for: rules that can never do what their author seems to have meant.
//!
//! Apart from the translation, which is made for each namespace and place, since this is the same for all of them and so is looked for
//! once a reading. It only warns: whatever is found here is served as it was written.

mod destinations;
mod entries;
mod policies;
mod routes;

use super::{Findings, Mesh};
use crate::istio::Documents;

/// The most earlier things that one is compared with: real documents have a few dozen, and nobody may make the control plane compare
/// each of a hundred thousand with every other.
const MAX_COMPARED: usize = 256;

pub(super) fn find(documents: &Documents, mesh: &Mesh, findings: &mut Findings) {
    routes::find(documents, findings);
    destinations::find(documents, mesh, findings);
    entries::find(documents, mesh, findings);
    policies::find(documents, mesh, findings);
}
