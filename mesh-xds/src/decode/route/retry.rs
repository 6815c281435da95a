//! `RetryPolicy`, by gRFC A44, with Envoy's and Istio's fields that gRPC leaves out.

use mesh_core::config::{Backoff, RetryOn, RetryPolicy};

use crate::convention::RETRY_IS_DEFAULT;
use crate::decode::Fault;
use crate::decode::common::{duration, limit};
use crate::proto::core::Metadata;
use crate::proto::protobuf::value::Kind;
use crate::proto::route::{RetryPolicy as Proto, retry_policy::RetryBackOff};

/// The retries of a policy that does not say (Envoy, gRFC A44).
const DEFAULT_RETRIES: u32 = 1;

/// Reads a policy. `num_retries: 0` is no retry, where gRFC A44 refuses it: that is how a user says so.
pub(super) fn policy(proto: &Proto, metadata: Option<&Metadata>) -> Result<RetryPolicy, Fault> {
    read(proto, metadata).map_err(|fault| fault.within("retry_policy"))
}

fn read(proto: &Proto, metadata: Option<&Metadata>) -> Result<RetryPolicy, Fault> {
    let retries = proto.num_retries.as_ref().map_or(DEFAULT_RETRIES, |count| count.value);
    let backoff = proto.retry_back_off.as_ref().map(backoff).transpose()?;
    let per_try_timeout = limit("per_try_timeout", proto.per_try_timeout.as_ref())?;
    if retries == 0 {
        return Ok(RetryPolicy::never());
    }
    Ok(RetryPolicy {
        retries,
        on: RetryOn::parse(&proto.retry_on),
        per_try_timeout,
        backoff: backoff.unwrap_or(Backoff::DEFAULT),
        explicit: !is_default(metadata),
    })
}

fn backoff(proto: &RetryBackOff) -> Result<Backoff, Fault> {
    let outer = |fault: Fault| fault.within("retry_back_off");
    let Some(base) = &proto.base_interval else {
        return Err(outer(Fault::new("base_interval", "is missing")));
    };
    let base = duration("base_interval", base).map_err(outer)?;
    let max = proto.max_interval.as_ref().map(|max| duration("max_interval", max));
    Backoff::new(base, max.transpose().map_err(outer)?).map_err(|error| Fault::new("retry_back_off", error))
}

/// Whether our own control plane marked the policy as one that nobody wrote (`encode::route`).
fn is_default(metadata: Option<&Metadata>) -> bool {
    let (filter, key) = RETRY_IS_DEFAULT;
    let value = metadata
        .and_then(|metadata| metadata.filter_metadata.get(filter))
        .and_then(|fields| fields.fields.get(key));
    matches!(value.and_then(|value| value.kind.as_ref()), Some(Kind::BoolValue(true)))
}
