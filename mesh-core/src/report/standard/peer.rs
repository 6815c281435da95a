//! What workloads tell each other of themselves: Istio's exchange of metadata in headers, as far as labels need it.
//!
//! A certificate names a service account and not a workload, so the called could not name its caller without it, and Kiali draws
//! nobody whom it cannot name. Two headers, as sidecars send and read them: `x-envoy-peer-metadata`, a `google.protobuf.Struct` in
//! base64, and `x-envoy-peer-metadata-id`, which Envoy only asks for its presence. The Struct is read by hand here, and bounded: it
//! comes from a peer, and three levels of two of its kinds are all that matters.
//!
//! It is the word of a peer about itself. Nothing but labels goes by it, and what a certificate says counts for more.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Service, UNKNOWN, Workload};

/// Who a peer is, as a `google.protobuf.Struct` in base64.
pub const PEER_METADATA: &str = "x-envoy-peer-metadata";
/// A peer's id as a node of the mesh.
pub const PEER_METADATA_ID: &str = "x-envoy-peer-metadata-id";

/// What the value of [`PEER_METADATA`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMetadata {
    /// Who the peer is.
    pub workload: Workload,
    /// What its calls on the connection are for, as its configuration names it: by this both ends count them under one name, whatever
    /// name a request has for it. Not Istio's, whose sidecars pass it over.
    pub service: Option<Service>,
}

/// The keys of a Struct.
const CLUSTER_ID: &str = "CLUSTER_ID";
const LABELS: &str = "LABELS";
const NAMESPACE: &str = "NAMESPACE";
const SERVICE: &str = "DESTINATION_SERVICE";
const WORKLOAD_NAME: &str = "WORKLOAD_NAME";

/// The longest value that is read, in base64: sidecars send some 400 to 900 bytes.
const MAX_BYTES: usize = 8 * 1024;
/// The most labels that are read.
const MAX_LABELS: usize = 64;

/// Numbers of fields: `Struct.fields`, the key and the value of a map's entry, and `Value.string_value` and `.struct_value`.
const FIELDS: u8 = 1;
const KEY: u8 = 1;
const VALUE: u8 = 2;
const STRING: u8 = 3;
const STRUCT: u8 = 5;
/// Length-delimited.
const WIRE_TYPE: u8 = 2;

impl PeerMetadata {
    /// What `workload` tells of itself, and of what it calls; `None` where nothing is known.
    pub fn encode(workload: &Workload, service: Option<&Service>) -> Option<String> {
        let mut told = Vec::new();
        if workload.is_known() {
            told.extend(Self::of_workload(workload));
        }
        if let Some(service) = service {
            let text = [service.host(), service.name(), service.namespace()].join(";");
            told.push((SERVICE, string(&text)));
        }
        told.sort_by_key(|(key, _)| *key);
        (!told.is_empty()).then(|| STANDARD.encode(structure(told)))
    }

    fn of_workload(workload: &Workload) -> [(&'static str, Vec<u8>); 4] {
        let canonical_name = Some(workload.canonical_name());
        let labels = [
            ("app", Some(workload.app())),
            ("service.istio.io/canonical-name", canonical_name),
            (
                "service.istio.io/canonical-revision",
                Some(workload.canonical_revision()),
            ),
            ("version", Some(workload.version())),
        ];
        let labels = labels.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let labels = labels.filter(|(_, value)| *value != UNKNOWN);
        let labels = structure(labels.map(|(key, value)| (key, string(value))));
        [
            (CLUSTER_ID, string(workload.cluster())),
            (LABELS, field(STRUCT, &labels)),
            (NAMESPACE, string(workload.namespace())),
            (WORKLOAD_NAME, string(workload.name())),
        ]
    }

    /// What a peer says; `None` when it is nothing that can be read.
    pub fn decode(value: &[u8]) -> Option<Self> {
        if value.len() > MAX_BYTES {
            return None;
        }
        let bytes = STANDARD.decode(value).ok()?;
        let mut labels = Vec::new();
        let (mut name, mut namespace, mut cluster, mut service) = ("", "", "", None);
        for (key, value) in entries(&bytes) {
            match (key, value) {
                (WORKLOAD_NAME, Value::String(text)) => name = text,
                (NAMESPACE, Value::String(text)) => namespace = text,
                (CLUSTER_ID, Value::String(text)) => cluster = text,
                (SERVICE, Value::String(text)) => service = service_of(text),
                (LABELS, Value::Struct(all)) => {
                    let texts = entries(all).filter_map(|(key, value)| match value {
                        Value::String(text) => Some((key, text)),
                        Value::Struct(_) => None,
                    });
                    labels.extend(texts.take(MAX_LABELS));
                }
                _ => {}
            }
        }
        let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, text)| *text);
        let workload = match name {
            "" => Workload::unknown(),
            name => Workload::labelled(name, namespace, label).in_cluster(cluster),
        };
        (workload.is_known() || service.is_some()).then_some(Self { workload, service })
    }
}

/// `host;name;namespace`.
fn service_of(text: &str) -> Option<Service> {
    let mut parts = text.splitn(3, ';');
    let mut next = || parts.next().unwrap_or_default();
    let (host, name, namespace) = (next(), next(), next());
    (!host.is_empty()).then(|| Service::new(host, name, namespace))
}

enum Value<'a> {
    String(&'a str),
    Struct(&'a [u8]),
}

/// The entries of a Struct that are texts or Structs.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (&str, Value<'_>)> {
    fields(bytes)
        .filter(|(number, _)| *number == FIELDS)
        .filter_map(|(_, entry)| {
            let (mut key, mut value) = (None, None);
            for (number, part) in fields(entry) {
                match number {
                    KEY => key = std::str::from_utf8(part).ok(),
                    VALUE => value = Some(part),
                    _ => {}
                }
            }
            let value = fields(value?).find_map(|(number, part)| match number {
                STRING => std::str::from_utf8(part).ok().map(Value::String),
                STRUCT => Some(Value::Struct(part)),
                _ => None,
            });
            Some((key?, value?))
        })
}

/// The length-delimited fields of a message, up to the first thing that is none: numbers and lists matter to nobody here, and whoever
/// sends a message of another make is not understood.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, rest) = bytes.split_first()?;
        let (length, rest) = varint(rest)?;
        if tag & 7 != WIRE_TYPE {
            return None;
        }
        let (field, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some((tag >> 3, field))
    })
}

/// A length, of as many bytes as the longest value here may have.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(3) {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

fn structure<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let entry = |(key, value): (&str, Vec<u8>)| {
        let entry = [field(KEY, key.as_bytes()), field(VALUE, &value)].concat();
        field(FIELDS, &entry)
    };
    entries.into_iter().flat_map(entry).collect()
}

fn string(text: &str) -> Vec<u8> {
    field(STRING, text.as_bytes())
}

/// One length-delimited field. Every text here is bounded, so that three bytes of length are enough.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | WIRE_TYPE];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_tells_the_other_reads() {
        let long = "x".repeat(253);
        let labels = [
            ("app", "payment"),
            ("version", "v2"),
            ("app.kubernetes.io/name", &*long),
        ];
        let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        for workload in [
            Workload::labelled("payment-v2", "shop", label).in_cluster("east"),
            Workload::named("payment", "shop"),
        ] {
            for service in [None, Some(Service::of_authority("payment.shop.svc.cluster.local"))] {
                let told = PeerMetadata::encode(&workload, service.as_ref()).unwrap();
                let workload = workload.clone();
                assert_eq!(
                    PeerMetadata::decode(told.as_bytes()),
                    Some(PeerMetadata { workload, service })
                );
            }
        }
        assert_eq!(PeerMetadata::encode(&Workload::unknown(), None), None);
    }

    /// As a sidecar of Istio's writes it: more keys, texts and Structs alike, and a number among them.
    #[test]
    fn a_sidecar_is_understood() {
        let number = vec![2 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let told = structure([
            ("APP_CONTAINERS", string("reviews")),
            ("CLUSTER_ID", string("Kubernetes")),
            (
                "LABELS",
                field(
                    STRUCT,
                    &structure([("app", string("reviews")), ("odd", number.clone())]),
                ),
            ),
            ("NUMBER", number),
            ("NAMESPACE", string("default")),
            (
                "OWNER",
                string("kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1"),
            ),
            ("WORKLOAD_NAME", string("reviews-v1")),
        ]);
        let told = PeerMetadata::decode(STANDARD.encode(told).as_bytes()).unwrap();
        assert_eq!(told.service, None);
        let workload = told.workload;
        assert_eq!((workload.name(), workload.canonical_name()), ("reviews-v1", "reviews"));
        assert_eq!(
            (workload.namespace(), workload.canonical_revision()),
            ("default", "latest")
        );
    }

    #[test]
    fn nonsense_is_nothing() {
        let good = PeerMetadata::encode(&Workload::named("a", "b"), None).unwrap();
        let bytes = STANDARD.decode(&good).unwrap();
        for end in 0..bytes.len() {
            // Cut anywhere: never a panic, and never a name that is not whole.
            let cut = PeerMetadata::decode(STANDARD.encode(&bytes[..end]).as_bytes());
            assert!(cut.is_none_or(|told| told.workload.name() == "a"), "{end}");
        }
        for nonsense in [&b"!"[..], b"", b"////", &vec![b'A'; MAX_BYTES + 1]] {
            assert_eq!(PeerMetadata::decode(nonsense), None);
        }
    }
}
