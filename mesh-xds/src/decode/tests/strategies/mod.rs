//! Generators of the values that cross the wire, for the properties of both ends.

mod actions;
mod clusters;
mod endpoints;
mod telemetry;
mod trees;

use mesh_core::config::{Metadata, Pattern, StringMatch};
use proptest::prelude::*;

pub(super) use actions::kinds;
pub(crate) use clusters::{aggregates, clusters};
pub(super) use endpoints::{endpoint_lists, localities_of};
pub(super) use telemetry::telemetries;
pub(super) use trees::trees;

pub(crate) fn text() -> impl Strategy<Value = Box<str>> {
    "[a-z/.{}*\u{e9}-]{1,12}".prop_map(Box::from)
}

pub(crate) fn string_tests() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        text().prop_map(StringMatch::Contains),
        "[a-z]{1,4}[+*?]".prop_map(|source| StringMatch::Regex(Pattern::new(&source).unwrap())),
    ]
}

/// Up to four values under these filters.
pub(crate) fn metadata(filters: &'static [&'static str]) -> impl Strategy<Value = Metadata> {
    let value = (prop::sample::select(filters), "[a-z]{1,3}", "[a-z0-9]{0,5}");
    prop::collection::vec(value, 0..4).prop_map(|values| {
        let values = values
            .iter()
            .map(|(filter, key, value)| (*filter, key.as_str(), value.as_str()));
        Metadata::new(values).unwrap()
    })
}
