//! What a fault filter does.

use mesh_core::config::{Abort, Delay, Fault, FaultAbort, FaultDelay};

use super::common::{duration, fraction};
use super::matcher::header_matches;
use crate::proto::fault::{
    FaultAbort as AbortProto, HttpFault,
    fault_abort::{ErrorType, HeaderAbort},
};
use crate::proto::fault_common::{
    FaultDelay as DelayProto,
    fault_delay::{FaultDelaySecifier, HeaderDelay},
};
use crate::proto::protobuf::UInt32Value;

pub(super) fn fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.as_ref().map(delay),
        abort: fault.abort.as_ref().map(abort),
        headers: header_matches(&fault.headers),
        upstream_cluster: fault
            .upstream_cluster
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        downstream_nodes: fault.downstream_nodes.iter().map(|node| node.clone().into()).collect(),
        max_active_faults: fault.max_active.map(|value| UInt32Value { value }),
        ..HttpFault::default()
    }
}

fn delay(value: &FaultDelay) -> DelayProto {
    let kind = match value.delay {
        Delay::Fixed(fixed) => FaultDelaySecifier::FixedDelay(duration(fixed)),
        Delay::Header => FaultDelaySecifier::HeaderDelay(HeaderDelay {}),
    };
    DelayProto {
        percentage: Some(fraction(value.fraction)),
        fault_delay_secifier: Some(kind),
    }
}

fn abort(value: &FaultAbort) -> AbortProto {
    let kind = match value.abort {
        Abort::Http(status) => ErrorType::HttpStatus(status.as_u16().into()),
        Abort::Grpc(code) => ErrorType::GrpcStatus(code.into()),
        Abort::Header => ErrorType::HeaderAbort(HeaderAbort {}),
    };
    AbortProto {
        percentage: Some(fraction(value.fraction)),
        response_body: value.body.clone().into(),
        error_type: Some(kind),
    }
}
