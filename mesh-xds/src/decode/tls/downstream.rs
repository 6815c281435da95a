//! `DownstreamTlsContext`: what a server asks of its clients (gRFCs A29 and A36).

use mesh_core::config::{ChainIdentity, Clients, InboundSecurity};

use super::{common, peers, refuse, tls_config};
use crate::decode::common::unpack_whole;
use crate::decode::{Context, Fault, Notes};
use crate::proto::core::TransportSocket;
use crate::proto::tls::{DownstreamTlsContext, downstream_tls_context::OcspStaplePolicy};

/// What is asked of the clients of a filter chain with this socket, and by which identity.
pub(in crate::decode) fn downstream(
    socket: &TransportSocket,
    context: &Context,
    notes: &mut Notes,
) -> Result<(InboundSecurity, ChainIdentity), Fault> {
    let Some(any) = tls_config(socket)? else {
        return Ok((InboundSecurity::Plaintext, ChainIdentity::default()));
    };
    let downstream = unpack_whole::<DownstreamTlsContext>("typed_config", any)?;
    read(&downstream, context, notes).map_err(|fault| fault.within("typed_config"))
}

fn read(
    downstream: &DownstreamTlsContext,
    context: &Context,
    notes: &mut Notes,
) -> Result<(InboundSecurity, ChainIdentity), Fault> {
    let refused = [
        ("require_sni", downstream.require_sni.is_some_and(|flag| flag.value)),
        (
            "ocsp_staple_policy",
            downstream.ocsp_staple_policy != OcspStaplePolicy::LenientStapling as i32,
        ),
        // Keys from the control plane.
        ("session_ticket_keys", downstream.session_ticket_keys_type.is_some()),
    ];
    refuse(&refused)?;
    let inner = |fault: Fault| fault.within("common_tls_context");
    let common = downstream
        .common_tls_context
        .as_ref()
        .ok_or_else(|| Fault::new("common_tls_context", "is missing"))?;
    let asked = common::read(common, context, notes).map_err(inner)?;
    let Some(certificate) = asked.certificate else {
        let reason = "is missing: a server needs a certificate of its own";
        return Err(inner(Fault::new("tls_certificate_provider_instance", reason)));
    };
    // Nobody is judged where nobody is asked, so the certificate's own roots do.
    let alone = ChainIdentity {
        roots: certificate.clone(),
        certificate: certificate.clone(),
    };
    let required = downstream.require_client_certificate.is_some_and(|flag| flag.value);
    match asked.checks {
        None if required => Err(inner(Fault::new(
            "validation_context",
            "is missing, and client certificates are required (gRFC A29)",
        ))),
        Some(checks) if required => {
            let at = |fault: Fault| inner(fault.within(checks.at));
            let expected = peers::expected(&checks.validation, notes).map_err(at)?;
            // A list of nothing but names that no client here can show is still a list.
            let named = peers::are_named(&checks.validation);
            let clients = match named {
                true => Clients::Named(expected),
                false => Clients::Trusted,
            };
            let roots = checks.roots;
            Ok((InboundSecurity::Mutual(clients), ChainIdentity { certificate, roots }))
        }
        Some(_) => {
            notes.add("client certificates are asked for and not required: clients without one are let in");
            Ok((InboundSecurity::OneSided, alone))
        }
        None => Ok((InboundSecurity::OneSided, alone)),
    }
}
