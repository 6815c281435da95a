//! `Metadata` of endpoints, and the criteria that are compared with it; and which service a cluster is for.

use std::collections::BTreeMap;

use mesh_core::config::{Metadata, Service, TRANSPORT_SOCKET_MATCH};

use super::{Fault, Notes};
use crate::proto::core::Metadata as Proto;
use crate::proto::protobuf::{Struct, value::Kind};

/// Reads the text values of an endpoint; those of its locality stand behind its own.
///
/// What TLS is chosen by comes first, and too much of that is refused: to lose such a value would choose other security. Of
/// the rest what is too much is left out.
pub(super) fn of_endpoint(own: Option<&Proto>, locality: Option<&Proto>, notes: &mut Notes) -> Result<Metadata, Fault> {
    let both = || [own, locality].into_iter().flatten();
    let first = both().filter_map(|proto| proto.filter_metadata.get(TRANSPORT_SOCKET_MATCH));
    let mut values: Vec<(&str, &str, &str)> = first
        .flat_map(texts)
        .map(|(key, value)| (TRANSPORT_SOCKET_MATCH, key, value))
        .collect();
    if values.len() > Metadata::MAX_VALUES {
        // Keys that the endpoint repeats of its locality are one; whether the rest is too much, the value itself says.
        return Metadata::new(values).map_err(|error| Fault::new("metadata", error));
    }
    for proto in both() {
        let sorted: BTreeMap<&String, &Struct> = proto.filter_metadata.iter().collect();
        for (filter, fields) in sorted
            .into_iter()
            .filter(|(filter, _)| *filter != TRANSPORT_SOCKET_MATCH)
        {
            values.extend(texts(fields).map(|(key, value)| (filter.as_str(), key, value)));
        }
    }
    if values.len() > Metadata::MAX_VALUES {
        values.truncate(Metadata::MAX_VALUES);
        notes.add("metadata of an endpoint was left out: there is too much of it");
    }
    Metadata::new(values).map_err(|error| Fault::new("metadata", error))
}

/// Reads which service a cluster is for, as Istio says it for metrics: the first of the list `services` under the filter `istio`. What is
/// written otherwise says nothing.
pub(super) fn service(proto: Option<&Proto>) -> Option<Service> {
    let istio = proto?.filter_metadata.get("istio")?;
    let Kind::ListValue(services) = istio.fields.get("services")?.kind.as_ref()? else {
        return None;
    };
    let Kind::StructValue(first) = services.values.first()?.kind.as_ref()? else {
        return None;
    };
    let text = |wanted: &str| {
        let found = texts(first).find(|(key, _)| *key == wanted);
        found.map_or("", |(_, text)| text)
    };
    let host = text("host");
    (!host.is_empty()).then(|| Service::new(host, text("name"), text("namespace")))
}

/// Reads what an endpoint's metadata must hold. A criterion that is not text cannot be compared, and leaving it out would
/// match more endpoints than were meant.
pub(super) fn criteria(proto: Option<&Struct>) -> Result<Metadata, Fault> {
    let Some(proto) = proto else {
        return Ok(Metadata::default());
    };
    let texts: Vec<_> = texts(proto).collect();
    if texts.len() < proto.fields.len() {
        return Err(Fault::new("match", "compares with something that is not text"));
    }
    let values = texts
        .into_iter()
        .map(|(key, value)| (TRANSPORT_SOCKET_MATCH, key, value));
    Metadata::new(values).map_err(|error| Fault::new("match", error))
}

/// The text values of a struct, sorted by key.
fn texts(fields: &Struct) -> impl Iterator<Item = (&str, &str)> {
    let sorted: BTreeMap<_, _> = fields.fields.iter().collect();
    sorted.into_iter().filter_map(|(key, value)| match &value.kind {
        Some(Kind::StringValue(text)) => Some((key.as_str(), text.as_str())),
        _ => None,
    })
}
