//! `ServiceEntry`: a service, its ports, and where its endpoints come from (Istio `networking.istio.io`).

use super::fields::Fields;
use super::value::{At, Place, Sink, Value};
use super::values::Selector;
use super::virtual_service::MAX_PORT;
use super::workload_entry::WorkloadEntry;

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// The names it is called by.
    pub hosts: Vec<At<String>>,
    /// The ports it is called on.
    pub ports: Vec<Port>,
    /// Whether it is part of the mesh.
    pub location: Option<At<Location>>,
    /// How its endpoints' addresses are found.
    pub resolution: Option<At<Resolution>>,
    /// Its endpoints, written out.
    pub endpoints: Vec<At<WorkloadEntry>>,
    /// Its endpoints, by the labels of workload entries in its namespace.
    pub workload_selector: Option<Selector>,
    /// The namespaces that see it; empty means all.
    pub export_to: Vec<At<String>>,
    /// Where the body stands.
    pub place: Place,
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct Port {
    /// The number callers use.
    pub number: At<u32>,
    /// Its name, which endpoints map to their own port.
    pub name: At<String>,
    /// The endpoints' port, when it is not the same number.
    pub target_port: Option<At<u32>>,
    /// What is spoken, as it is written, in capitals.
    pub protocol: Option<At<&'static str>>,
    /// `HTTP`: of whichever version, and HTTP/1.1 where that is not agreed upon.
    pub is_http: bool,
}

/// Whether a service is part of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// No: it is called without mutual TLS.
    MeshExternal,
    /// Yes.
    MeshInternal,
}

/// How the addresses of a service are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Where the caller says.
    None,
    /// They are written out.
    Static,
    /// By DNS, in one of Istio's ways.
    Dns,
}

impl ServiceEntry {
    pub(super) fn read(mut spec: Fields, sink: &mut Sink<'_>) -> Option<Self> {
        let service = Self {
            hosts: spec.strings("hosts", sink),
            ports: spec.list("ports", sink, Port::read),
            location: read_word(&mut spec, "location", &LOCATIONS, sink),
            resolution: read_word(&mut spec, "resolution", &RESOLUTIONS, sink),
            endpoints: spec.list("endpoints", sink, read_endpoint),
            workload_selector: Selector::read(&mut spec, "workloadSelector", "labels", sink),
            export_to: spec.strings("exportTo", sink),
            place: spec.place.clone(),
        };
        spec.unserved(&["addresses"], sink);
        let looser = "peers would be verified differently than it says";
        spec.refused(&["subjectAltNames"], looser, sink);
        spec.finish(sink);
        for (name, empty) in [("hosts", service.hosts.is_empty()), ("ports", service.ports.is_empty())] {
            if empty {
                sink.schema(&service.place, format!("{name} is required"));
            }
        }
        if service.workload_selector.is_some() && !service.endpoints.is_empty() {
            sink.schema(
                &service.place,
                "only one of endpoints and workloadSelector can be given",
            );
        }
        Some(service)
    }
}

impl Port {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let number = fields.take("number").and_then(|value| value.number(MAX_PORT, sink));
        if number.is_none() {
            sink.schema(&fields.place, "number is required");
        }
        let name = fields.required_string("name", sink);
        let target_port = fields.take("targetPort").and_then(|value| value.number(MAX_PORT, sink));
        let protocol = read_word(&mut fields, "protocol", &PROTOCOLS, sink);
        fields.finish(sink);
        Some(Self {
            number: number?,
            name: name?,
            target_port,
            is_http: protocol.as_ref().is_some_and(|protocol| protocol.value == HTTP),
            protocol,
        })
    }
}

fn read_endpoint(value: Value, sink: &mut Sink<'_>) -> Option<At<WorkloadEntry>> {
    let fields = value.object(sink)?;
    let place = fields.place.clone();
    let value = WorkloadEntry::read(fields, sink)?;
    Some(At { value, place })
}

const LOCATIONS: [(&str, Location); 2] = [
    ("MESH_EXTERNAL", Location::MeshExternal),
    ("MESH_INTERNAL", Location::MeshInternal),
];

const RESOLUTIONS: [(&str, Resolution); 5] = [
    ("NONE", Resolution::None),
    ("STATIC", Resolution::Static),
    ("DNS", Resolution::Dns),
    ("DNS_ROUND_ROBIN", Resolution::Dns),
    ("DYNAMIC_DNS", Resolution::Dns),
];

/// Of whichever version.
pub(super) const HTTP: &str = "HTTP";

// Beside HTTP they are told apart for whoever compares two documents alone: what is not HTTP is nothing that is called here.
pub(super) const PROTOCOLS: [(&str, &str); 8] = [
    (HTTP, HTTP),
    ("HTTPS", "HTTPS"),
    ("GRPC", "GRPC"),
    ("GRPC-WEB", "GRPC-WEB"),
    ("HTTP2", "HTTP2"),
    ("MONGO", "MONGO"),
    ("TCP", "TCP"),
    ("TLS", "TLS"),
];

/// Reads one of a set of words.
fn read_word<T: Copy>(fields: &mut Fields, name: &str, words: &[(&str, T)], sink: &mut Sink<'_>) -> Option<At<T>> {
    let text = fields.string(name, sink)?;
    let Some((_, value)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)) else {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        sink.schema(&text.place, format!("{:?} is not one of {}", *text, known.join(", ")));
        return None;
    };
    Some(At {
        value: *value,
        place: text.place,
    })
}
