//! The status of this process's own clients, resource by resource (gRFC A40).

use tonic::{Extensions, Status};

use super::service::Tell;
use super::view::{ClientView, Failure, ResourceView, Sync};
use crate::client::{ConfigStatus, Phase, RawBytes, ResourceStatus};
use crate::convention::SCOPE;
use crate::pem::shows_key;
use crate::wire::csds::Question;

/// Windows on the clients of this process.
#[derive(Debug)]
pub(super) struct Local(Vec<ConfigStatus>);

impl Local {
    pub(super) fn new(clients: Vec<ConfigStatus>) -> Self {
        Self(clients)
    }
}

impl Tell for Local {
    fn tell(&self, question: &Question, _: &Extensions) -> Result<Vec<ClientView>, Status> {
        if question.has_matchers {
            return Err(Status::invalid_argument(
                "node_matchers: a client tells of itself and takes none (gRFC A40)",
            ));
        }
        Ok(self.0.iter().filter_map(client).collect())
    }
}

fn client(status: &ConfigStatus) -> Option<ClientView> {
    let report = status.report();
    if report.connection.phase == Phase::Stopped {
        return None;
    }
    let mut resources: Vec<&ResourceStatus> = report.resources.values().map(|resource| &**resource).collect();
    resources.sort_unstable_by_key(|resource| (resource.kind, &resource.name));
    Some(ClientView {
        node: status.node().clone(),
        scope: SCOPE.into(),
        resources: resources.into_iter().map(resource).collect(),
    })
}

/// What is told of a resource that no control plane told.
const FROM_DISK: &str = "served from the copy on disk: no control plane has told it since the start";

fn tellable(bytes: Option<&RawBytes>) -> Option<RawBytes> {
    bytes.filter(|bytes| !shows_key(bytes.as_ref())).cloned()
}

/// The version, the contents and their time are those of the value in use, whatever came since (C-core does the same).
pub(super) fn resource(status: &ResourceStatus) -> ResourceView {
    let rejected = status.rejected.as_ref().map(ToString::to_string);
    let other = status.absent.as_deref().or(status.unavailable.as_deref());
    // CSDS has no field for it, and a reader must not take it for a control plane's word.
    let from_disk = status.is_from_disk.then(|| FROM_DISK.to_owned());
    let details = rejected.or_else(|| other.map(str::to_owned)).or(from_disk);
    let failure = details.map(|details| Failure {
        details,
        // A version is refused; what is absent has none.
        version: match status.rejected {
            Some(_) => String::from(&*status.received),
            None => String::new(),
        },
        at: status.failed,
        configuration: tellable(status.rejected_bytes.as_ref()),
    });
    ResourceView {
        type_url: status.kind.type_url().into(),
        name: String::from(&*status.name),
        version: status.accepted.as_deref().unwrap_or_default().into(),
        contents: tellable(status.bytes.as_ref()),
        updated: status.updated,
        sync: Sync::Unknown,
        state: Some(status.state),
        failure,
    }
}
