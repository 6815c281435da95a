//! `HTTPFault` (gRFC A33).

use http::StatusCode;
use mesh_core::config::{Abort, Delay, Fault as Value, FaultAbort, FaultDelay, Fraction};
use prost::Message;

use super::common::{duration, fraction};
use super::{Context, Fault, Notes, matcher};
use crate::proto::fault::{FaultAbort as AbortProto, HttpFault, fault_abort::ErrorType};
use crate::proto::fault_common::{FaultDelay as DelayProto, fault_delay::FaultDelaySecifier};
use crate::proto::percent::FractionalPercent;

/// Reads a fault.
pub(super) fn read(bytes: &[u8], context: &Context, notes: &mut Notes) -> Result<Value, Fault> {
    let proto = HttpFault::decode(bytes).map_err(|error| Fault::new("", error))?;
    let headers = match matcher::header_matches(&proto.headers, context.profile)? {
        Ok(headers) => headers,
        Err(why) => return Err(Fault::new("headers", why)),
    };
    if proto.response_rate_limit.is_some() {
        notes.add("a fault's response_rate_limit is not applied");
    }
    let delay = proto
        .delay
        .as_ref()
        .map(delay)
        .transpose()
        .map_err(|fault| fault.within("delay"))?;
    let abort = proto
        .abort
        .as_ref()
        .map(abort)
        .transpose()
        .map_err(|fault| fault.within("abort"))?;
    Ok(Value {
        delay,
        abort,
        headers,
        upstream_cluster: (!proto.upstream_cluster.is_empty()).then(|| proto.upstream_cluster.as_str().into()),
        downstream_nodes: proto.downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        max_active: proto.max_active_faults.as_ref().map(|max| max.value),
    })
}

fn delay(proto: &DelayProto) -> Result<FaultDelay, Fault> {
    let delay = match &proto.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => match duration("fixed_delay", fixed)? {
            fixed if fixed.is_zero() => return Err(Fault::new("fixed_delay", "must be more than 0")),
            fixed => Delay::Fixed(fixed),
        },
        Some(FaultDelaySecifier::HeaderDelay(_)) => Delay::Header,
        None => return Err(Fault::new("fault_delay_secifier", "is missing")),
    };
    Ok(FaultDelay {
        fraction: percentage(proto.percentage.as_ref())?,
        delay,
    })
}

fn abort(proto: &AbortProto) -> Result<FaultAbort, Fault> {
    let abort = match &proto.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let known = u16::try_from(*status).ok().filter(|status| (200..600).contains(status));
            let known = known.and_then(|status| StatusCode::from_u16(status).ok());
            Abort::Http(known.ok_or_else(|| Fault::new("http_status", format!("is not from 200 to 599: {status}")))?)
        }
        Some(ErrorType::GrpcStatus(code)) => {
            let known = u8::try_from(*code);
            Abort::Grpc(known.map_err(|_| Fault::new("grpc_status", format!("is not a gRPC status: {code}")))?)
        }
        Some(ErrorType::HeaderAbort(_)) => Abort::Header,
        None => return Err(Fault::new("error_type", "is missing")),
    };
    Ok(FaultAbort {
        fraction: percentage(proto.percentage.as_ref())?,
        abort,
        body: proto.response_body.as_str().into(),
    })
}

/// What is not said is none.
fn percentage(proto: Option<&FractionalPercent>) -> Result<Fraction, Fault> {
    let read = proto.map(fraction).transpose();
    Ok(read.map_err(|fault| fault.within("percentage"))?.unwrap_or_default())
}
