//! Transport sockets, by gRFC A29 and, in Envoy's profile, as istiod writes them for a sidecar.
//!
//! Keys and roots are the workload's own: A29 names a certificate provider of the bootstrap, Istio the secrets `default` and
//! `ROOTCA`. A cluster and a filter chain may name other providers of the bootstrap, each for its half. For servers outside of the
//! mesh they may be others, which are named and never sent ([`origination`]). What cannot be honoured is refused, since leaving out a
//! check would leave out security.

use mesh_core::config::{ChainIdentity, MutualTls, TlsMode};
use prost::Name;

use super::{Context, Fault, Notes};
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::protobuf::Any;
use crate::proto::raw_buffer::RawBuffer;
use crate::proto::tls::UpstreamTlsContext;

mod common;
mod downstream;
mod origination;
mod peers;

pub(super) use downstream::downstream;

/// The longest server name DNS allows, and more than gRFC A101 does.
const MAX_SNI_BYTES: usize = 255;
/// The name that says "in the clear" by itself (istiod leaves out the configuration).
const RAW_BUFFER: &str = "envoy.transport_sockets.raw_buffer";

/// How a cluster's endpoints are called.
pub(super) fn upstream(socket: &TransportSocket, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    let Some(any) = tls_config(socket)? else {
        return Ok(TlsMode::Plaintext);
    };
    let upstream = super::common::unpack_whole::<UpstreamTlsContext>("typed_config", any)?;
    read(&upstream, context, notes).map_err(|fault| fault.within("typed_config"))
}

fn read(upstream: &UpstreamTlsContext, context: &Context, notes: &mut Notes) -> Result<TlsMode, Fault> {
    if upstream.sni.len() > MAX_SNI_BYTES {
        return Err(Fault::new("sni", "is longer than 255 bytes"));
    }
    let common = upstream
        .common_tls_context
        .as_ref()
        .ok_or_else(|| Fault::new("common_tls_context", "is missing"))?;
    let inner = |fault: Fault| fault.within("common_tls_context");
    if let Some(outside) = origination::read(upstream, common, context, notes).map_err(inner)? {
        return Ok(TlsMode::Origination(Box::new(outside)));
    }
    let asked = common::read(common, context, notes).map_err(inner)?;
    let checks = asked
        .checks
        .ok_or_else(|| inner(Fault::new("validation_context", "is missing (gRFC A29)")))?;
    let expected = peers::expected(&checks.validation, notes).map_err(|fault| inner(fault.within(checks.at)))?;
    let sni = (!upstream.sni.is_empty()).then(|| upstream.sni.as_str().into());
    // Who shows nothing to a peer of another provider's roots.
    let anonymous = asked.certificate.is_none() && checks.roots.is_some();
    let certificate = match (asked.certificate, &checks.roots) {
        (Some(certificate), _) => certificate,
        // What has a certificate too needs none of the workload's beside its roots.
        (None, Some(roots)) if context.others.get(roots).is_some_and(|other| other.shows) => Some(roots.clone()),
        (None, _) => None,
    };
    let roots = checks.roots;
    Ok(TlsMode::Mutual(MutualTls {
        expected,
        sni,
        identity: ChainIdentity { certificate, roots },
        anonymous,
    }))
}

/// The configuration of a TLS socket; `None` for one in the clear.
fn tls_config(socket: &TransportSocket) -> Result<Option<&Any>, Fault> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) if any.type_url == RawBuffer::type_url() => Ok(None),
        Some(ConfigType::TypedConfig(any)) => Ok(Some(any)),
        None if socket.name == RAW_BUFFER => Ok(None),
        None => Err(Fault::new("typed_config", "is missing")),
    }
}

fn refuse(fields: &[(&str, bool)]) -> Result<(), Fault> {
    match fields.iter().find(|(_, present)| *present) {
        Some((field, _)) => Err(Fault::new(*field, "is not supported (gRFC A29)")),
        None => Ok(()),
    }
}
