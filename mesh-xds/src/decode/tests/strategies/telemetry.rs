//! What is told of calls.

use mesh_core::config::{Comparison, Fraction, LogFilter, Per, Telemetry};
use proptest::prelude::*;

/// That all are written is said alone, or not at all.
fn tests() -> impl Strategy<Value = LogFilter> {
    use Comparison::{AtLeast, AtMost, Different, Equal};
    let comparison = prop::sample::select(vec![Equal, Different, AtLeast, AtMost]);
    let per = prop::sample::select(vec![Per::Hundred, Per::TenThousand, Per::Million]);
    let leaf = prop_oneof![
        (comparison, any::<u16>()).prop_map(|(comparison, than)| LogFilter::Status(comparison, than)),
        (0u32..200, per).prop_map(|(of, per)| LogFilter::Share(Fraction { of, per })),
    ];
    leaf.prop_recursive(3, 20, 3, |inner| {
        let several = prop::collection::vec(inner, 1..3);
        (several, any::<bool>()).prop_map(|(several, each)| match each {
            true => LogFilter::Each(several.into()),
            false => LogFilter::Any(several.into()),
        })
    })
}

pub(crate) fn telemetries() -> impl Strategy<Value = Telemetry> {
    let filters = prop_oneof![1 => Just(LogFilter::All), 3 => tests()];
    prop::option::of(filters).prop_map(|filter| Telemetry {
        access_log: filter.map(Into::into),
    })
}
