//! Why a host, or a destination that nobody knows, is not called in the way that was asked for.

use mesh_core::config::{ReasonKind, TlsMode};

use crate::cluster::{Host, HostSet, Wish};
use crate::error::Error;

/// Why a host is not called in the way that its cluster says.
pub(super) fn refused(set: &HostSet, host: &Host) -> Error {
    let (cluster, address) = (&set.cluster.name, host.address());
    match host.tls().map(|mode| &**mode) {
        Some(TlsMode::Origination(outside)) if outside.unverified => {
            let text = format!(
                "cluster {cluster:?} does not ask who {address} is, and this channel was not built with dangerous().unverified()"
            );
            Error::unavailable(ReasonKind::OutsideRefused, text)
        }
        Some(TlsMode::Origination(_)) => {
            let text = format!(
                "cluster {cluster:?} is outside of the mesh, and this process is pinned to peers in it: {address} is called only \
                 by a channel built with dangerous().outside()"
            );
            Error::unavailable(ReasonKind::OutsideRefused, text)
        }
        _ => {
            let text = format!(
                "cluster {cluster:?} does not ask for mutual TLS with {address}, and this channel was not built with \
                 dangerous().plaintext()"
            );
            Error::unavailable(ReasonKind::PlaintextRefused, text)
        }
    }
}

/// Why a destination that no configuration knows is not called.
pub(super) fn stays_in_the_mesh(wish: &Wish) -> Error {
    let Wish { host, port, secure } = wish;
    let (kind, word) = match secure {
        true => (ReasonKind::OutsideRefused, "outside"),
        false => (ReasonKind::PlaintextRefused, "plaintext"),
    };
    let text = format!(
        "no configuration knows {host}:{port}, and to leave the mesh for it the channel has to be built with dangerous().{word}()"
    );
    Error::unavailable(kind, text)
}
