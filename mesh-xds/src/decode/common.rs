//! Readers of what several resources hold: durations, packed messages, configuration sources.

use std::time::Duration;

use prost::{Message, Name};

use mesh_core::config::{Fraction, Per};

use super::Fault;
use crate::proto::core::{ConfigSource, RuntimeFractionalPercent, config_source::ConfigSourceSpecifier};
use crate::proto::percent::{FractionalPercent, fractional_percent::DenominatorType};
use crate::proto::protobuf;

/// The longest duration protobuf allows: about 10,000 years.
const MAX_SECONDS: i64 = 315_576_000_000;

/// Reads a duration that must not be negative.
pub(super) fn duration(field: &str, value: &protobuf::Duration) -> Result<Duration, Fault> {
    let valid = (0..=MAX_SECONDS).contains(&value.seconds) && (0..1_000_000_000).contains(&value.nanos);
    if !valid {
        let reason = format!(
            "is not a duration of zero or more: {} s {} ns",
            value.seconds, value.nanos
        );
        return Err(Fault::new(field, reason));
    }
    Ok(Duration::new(value.seconds as u64, value.nanos as u32))
}

/// Reads a limit of time, where zero and absence both mean that there is none.
pub(super) fn limit(field: &str, value: Option<&protobuf::Duration>) -> Result<Option<Duration>, Fault> {
    let duration = value.map(|value| duration(field, value)).transpose()?;
    Ok(duration.filter(|duration| !duration.is_zero()))
}

/// Reads a part of all calls.
pub(super) fn fraction(proto: &FractionalPercent) -> Result<Fraction, Fault> {
    let per = match DenominatorType::try_from(proto.denominator) {
        Ok(DenominatorType::Hundred) => Per::Hundred,
        Ok(DenominatorType::TenThousand) => Per::TenThousand,
        Ok(DenominatorType::Million) => Per::Million,
        Err(_) => {
            let reason = format!("is not a denominator: {}", proto.denominator);
            return Err(Fault::new("denominator", reason));
        }
    };
    Ok(Fraction {
        of: proto.numerator,
        per,
    })
}

/// Reads a part of all calls that a runtime could change: there is none here, so the default holds.
pub(super) fn runtime_fraction(proto: &RuntimeFractionalPercent) -> Result<Fraction, Fault> {
    let default = proto.default_value.as_ref();
    let default = default.ok_or_else(|| Fault::new("default_value", "is missing"))?;
    fraction(default).map_err(|fault| fault.within("default_value"))
}

/// Unpacks a message of type `M`.
pub(super) fn unpack<M: Message + Name + Default>(field: &str, any: &protobuf::Any) -> Result<M, Fault> {
    if any.type_url != M::type_url() {
        let reason = format!("expected {}, not {:?}", M::type_url(), any.type_url);
        return Err(Fault::new(field, reason));
    }
    M::decode(&*any.value).map_err(|error| Fault::new(field, error))
}

/// Refuses a message of which not every field is known here, for what is unknown may be a check.
///
/// What is unknown is lost in decoding, at whatever depth, and shows in the length: every encoder of the protocol writes a value in
/// the same number of bytes. (An entry of a map whose value is the empty message may be written longer; no guard needs one.)
pub(super) fn whole<M: Message>(field: &str, message: M, bytes: &[u8]) -> Result<M, Fault> {
    match message.encoded_len() < bytes.len() {
        true => Err(Fault::new(
            field,
            "holds a field that is not known here, and could be a check",
        )),
        false => Ok(message),
    }
}

/// Decodes a message of which every field is known.
pub(super) fn decode_whole<M: Message + Default>(bytes: &[u8]) -> Result<M, Fault> {
    let message = M::decode(bytes).map_err(|error| Fault::new("", error))?;
    whole("", message, bytes)
}

/// Unpacks a message of type `M` of which every field is known.
pub(super) fn unpack_whole<M: Message + Name + Default>(field: &str, any: &protobuf::Any) -> Result<M, Fault> {
    whole(field, unpack(field, any)?, &any.value)
}

/// Checks that a resource is to be had from the stream that named it (gRFC A27: `ads`; `self` as grpc-go takes it).
pub(super) fn from_this_stream(field: &str, source: Option<&ConfigSource>) -> Result<(), Fault> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => Ok(()),
        Some(_) => Err(Fault::new(field, "must be ads or self")),
        None => Err(Fault::new(field, "is missing")),
    }
}
