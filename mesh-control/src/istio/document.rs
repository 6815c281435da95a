//! The frame that all documents share: `apiVersion`, `kind`, `metadata`, and a body whose schema the kind decides.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::fields::Fields;
use super::value::{Place, Sink, Value};
use super::yaml::NodeKind;
use super::{Documents, yaml};
use crate::diagnostic::{Code, Diagnostic, Severity};

/// A typed document.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// What it is called and where it stands.
    pub meta: Meta,
    /// Its body.
    pub spec: T,
}

/// What a document is called and where it stands.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The file.
    pub file: Arc<str>,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: Box<str>,
    /// Its namespace, as written.
    pub namespace: Option<Box<str>>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where its body begins.
    pub place: Place,
}

impl Meta {
    /// The namespace it is in: `default` when none is written, as `kubectl` has it.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// A finding about a value of this document.
    pub fn diagnose(&self, severity: Severity, code: Code, place: &Place, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            file: (*self.file).into(),
            line: place.line,
            column: place.column,
            severity,
            code,
            document: Some(self.to_string().into()),
            field: (!place.field.is_empty()).then(|| (*place.field).into()),
            message: message.into(),
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace(), self.name)
    }
}

/// What is done with a kind.
#[derive(Clone, Copy)]
enum Treatment {
    Serve(&'static str),
    /// It has no effect.
    Warn,
    /// It restricts access.
    Refuse,
    /// It would, but for its group.
    Misnamed,
    /// It is none of our business.
    Skip,
}

const NETWORKING: (&str, [&str; 3]) = ("networking.istio.io", ["v1", "v1beta1", "v1alpha3"]);
const GATEWAY: [&str; 3] = ["v1", "v1beta1", "v1alpha2"];
/// Kubernetes' own.
const CORE: [&str; 3] = ["v1", "v1", "v1"];
const TELEMETRY: (&str, [&str; 3]) = ("telemetry.istio.io", ["v1", "v1alpha1", "v1alpha1"]);
const SECURITY: (&str, [&str; 3]) = ("security.istio.io", ["v1", "v1beta1", "v1beta1"]);

pub(super) fn read_file(documents: &mut Documents, file: &str, text: &str, diagnostics: &mut Vec<Diagnostic>) {
    if text.len() > Documents::MAX_FILE_BYTES {
        let message = format!("larger than {} bytes", Documents::MAX_FILE_BYTES);
        diagnostics.push(Diagnostic::of_file(file, Severity::Error, Code::Unreadable, message));
        return;
    }
    let nodes = match yaml::parse(text) {
        Ok(nodes) => nodes,
        Err(error) => {
            let mut finding = Diagnostic::of_file(file, Severity::Error, Code::Schema, error.message);
            (finding.line, finding.column) = (error.line, error.column);
            diagnostics.push(finding);
            return;
        }
    };
    let name: Arc<str> = file.into();
    for node in nodes {
        let mut sink = Sink {
            file,
            document: None,
            diagnostics,
        };
        read_document(documents, &name, Value::root(node), &mut sink);
    }
}

fn read_document(documents: &mut Documents, file: &Arc<str>, value: Value, sink: &mut Sink<'_>) {
    let Some(mut frame) = value.object(sink) else { return };
    let api_version = frame.string("apiVersion", sink);
    let Some(kind) = frame.string("kind", sink) else {
        sink.schema(&frame.place, "kind is required");
        return frame.ignore_rest();
    };
    let (group, version) = match &api_version {
        Some(text) => text.split_once('/').unwrap_or(("", text)),
        None => ("", ""),
    };
    if kind.value == "List" && group.is_empty() {
        // Items may be lists again; the depth of the text bounds the recursion.
        let items = frame.list("items", sink, |item, _| Some(item));
        frame.ignore_rest();
        return items
            .into_iter()
            .for_each(|item| read_document(documents, file, item, sink));
    }
    let names = read_names(&mut frame, file, sink);
    let label = names.name.as_deref().unwrap_or("?");
    sink.document = Some(format!("{} {}/{label}", *kind, names.namespace.as_deref().unwrap_or("default")).into());
    match treatment(group, &kind) {
        Treatment::Skip if group.is_empty() && *kind == "ConfigMap" && names.name.as_deref() == Some("istio") => {
            read_mesh_config(documents, frame, names, sink);
        }
        Treatment::Serve(served) => {
            let version = if group.is_empty() {
                api_version.as_ref().map_or("", |text| text.as_str())
            } else {
                version
            };
            if let Some(place) = api_version.as_ref().filter(|_| !versions(group).contains(&version)) {
                sink.schema(&place.place, format!("{} is not a version of {served}", **place));
            }
            match served {
                "EndpointSlice" | "Pod" => read_flat(documents, frame, (served, names), sink),
                _ => read_body(documents, frame, (served, names), sink),
            }
        }
        other => {
            pass_over(other, &kind.place, sink);
            frame.ignore_rest();
        }
    }
    sink.document = None;
}

/// What stands around a body.
struct Names {
    file: Arc<str>,
    name: Option<Box<str>>,
    namespace: Option<Box<str>>,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

impl Names {
    /// What a document is called, if it has a name.
    fn meta(self, kind: &'static str, place: Place) -> Option<Meta> {
        Some(Meta {
            file: self.file,
            kind,
            name: self.name?,
            namespace: self.namespace,
            annotations: self.annotations,
            place,
        })
    }
}

/// Of the kinds whose fields stand beside the metadata.
fn read_flat(documents: &mut Documents, mut frame: Fields, (kind, names): (&'static str, Names), sink: &mut Sink<'_>) {
    let place = frame.place.clone();
    let labels = names.labels.clone();
    let Some(meta) = names.meta(kind, place.clone()) else {
        frame.ignore_rest();
        return sink.schema(&place, "metadata.name is required");
    };
    if kind == "Pod" {
        let spec = super::Pod::read(frame, labels, sink);
        return documents.pods.push(Document { meta, spec });
    }
    let slice = super::EndpointSlice::read(&mut frame, &labels, sink);
    frame.finish(sink);
    documents
        .endpoint_slices
        .extend(slice.map(|spec| Document { meta, spec }));
}

fn read_body(documents: &mut Documents, mut frame: Fields, (kind, names): (&'static str, Names), sink: &mut Sink<'_>) {
    let place = frame.place.clone();
    let spec = frame.take("spec");
    // Written by a control plane, not by a user: nothing in it is configuration.
    if let Some(status) = frame.take("status") {
        tell_status(status, sink);
    }
    frame.finish(sink);
    let body = spec.as_ref().map_or_else(|| place.clone(), |spec| spec.place.clone());
    let Some(meta) = names.meta(kind, body) else {
        return sink.schema(&place, "metadata.name is required");
    };
    let Some(spec) = spec else {
        return sink.schema(&place, "spec is required");
    };
    if let Some(spec) = spec.object(sink) {
        read_spec(documents, meta, spec, sink);
    }
}

/// Says which conditions of a status are False; whatever else stands in one is whoever wrote it's own.
fn tell_status(status: Value, sink: &mut Sink<'_>) {
    let text = |item: &Value, name: &str| match item.get(name) {
        Some(NodeKind::Text(text)) => Some(text.clone()),
        _ => None,
    };
    for item in status.items_of("conditions") {
        if text(&item, "status").as_deref() != Some("False") {
            continue;
        }
        let kind = text(&item, "type").unwrap_or_default();
        let why = text(&item, "message").or_else(|| text(&item, "reason"));
        let message = format!("condition {kind:?} is False: {}", why.unwrap_or_default());
        sink.say(Severity::Warning, Code::NegativeStatus, &item.place, message);
    }
}

/// What else such a map holds is other programs' own.
fn read_mesh_config(documents: &mut Documents, mut frame: Fields, names: Names, sink: &mut Sink<'_>) {
    let mut data = frame.take("data").and_then(|value| value.object(sink));
    frame.ignore_rest();
    let text = data.as_mut().and_then(|data| data.string("mesh", sink));
    if let Some(data) = data {
        data.ignore_rest();
    }
    let Some(text) = text else { return };
    let Some(meta) = names.meta("ConfigMap", text.place.clone()) else {
        return;
    };
    let config = super::MeshConfig::read(&text, sink);
    documents
        .mesh_configs
        .extend(config.map(|spec| Document { meta, spec }));
}

fn read_spec(documents: &mut Documents, meta: Meta, spec: Fields, sink: &mut Sink<'_>) {
    fn keep<T>(all: &mut Vec<Document<T>>, meta: Meta, spec: Option<T>) {
        all.extend(spec.map(|spec| Document { meta, spec }));
    }
    /// Two of one name are one of which the other half is lost, and that half may be what keeps somebody out. Kubernetes holds no two.
    fn keep_only<T>(all: &mut Vec<Document<T>>, meta: Meta, spec: Option<T>, sink: &mut Sink<'_>) {
        let same = |other: &&Document<T>| (other.meta.namespace(), &other.meta.name) == (meta.namespace(), &meta.name);
        if let Some(other) = all.iter().find(same) {
            let message = format!(
                "{meta} is there twice, first at {}:{}: give one of them another name",
                other.meta.file, other.meta.place.line
            );
            sink.say(Severity::Error, Code::Duplicate, &meta.place, message);
        }
        keep(all, meta, spec);
    }
    match meta.kind {
        "VirtualService" => keep(
            &mut documents.virtual_services,
            meta,
            super::VirtualService::read(spec, sink),
        ),
        "DestinationRule" => keep(
            &mut documents.destination_rules,
            meta,
            super::DestinationRule::read(spec, sink),
        ),
        "PeerAuthentication" => {
            keep_only(
                &mut documents.peer_authentications,
                meta,
                super::PeerAuthentication::read(spec, sink),
                sink,
            );
        }
        "RequestAuthentication" => {
            keep_only(
                &mut documents.request_authentications,
                meta,
                super::RequestAuthentication::read(spec, sink),
                sink,
            );
        }
        "AuthorizationPolicy" => {
            keep_only(
                &mut documents.authorization_policies,
                meta,
                super::AuthorizationPolicy::read(spec, sink),
                sink,
            );
        }
        "Service" => {
            let spec = super::KubernetesService::read(spec, &meta.annotations, sink);
            keep(&mut documents.services, meta, spec);
        }
        kind @ ("HTTPRoute" | "GRPCRoute") => {
            let spec = super::GatewayRoute::read(spec, kind, sink);
            keep(&mut documents.gateway_routes, meta, spec);
        }
        "ReferenceGrant" => keep(
            &mut documents.reference_grants,
            meta,
            super::ReferenceGrant::read(spec, sink),
        ),
        "Sidecar" => keep(&mut documents.sidecars, meta, super::Sidecar::read(spec, sink)),
        "Telemetry" => keep(&mut documents.telemetries, meta, super::Telemetry::read(spec, sink)),
        "WorkloadGroup" => keep(
            &mut documents.workload_groups,
            meta,
            super::WorkloadGroup::read(spec, sink),
        ),
        "EnvoyFilter" => keep(&mut documents.envoy_filters, meta, super::EnvoyFilter::read(spec, sink)),
        "ServiceEntry" => keep(
            &mut documents.service_entries,
            meta,
            super::ServiceEntry::read(spec, sink),
        ),
        _ => keep(
            &mut documents.workload_entries,
            meta,
            super::WorkloadEntry::read(spec, sink),
        ),
    }
}

/// `metadata.name`, `metadata.namespace`, `metadata.annotations` and `metadata.labels`; the rest of the metadata is Kubernetes' own.
fn read_names(frame: &mut Fields, file: &Arc<str>, sink: &mut Sink<'_>) -> Names {
    let mut names = Names {
        file: Arc::clone(file),
        name: None,
        namespace: None,
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    let Some(mut metadata) = frame.take("metadata").and_then(|value| value.object(sink)) else {
        return names;
    };
    let mut text = |field: &str| {
        let text = metadata.string(field, sink).filter(|text| !text.is_empty());
        text.map(|text| Box::<str>::from(text.value))
    };
    (names.name, names.namespace) = (text("name"), text("namespace"));
    names.annotations = metadata.labels("annotations", sink);
    names.labels = metadata.labels("labels", sink);
    metadata.ignore_rest();
    names
}

fn treatment(group: &str, kind: &str) -> Treatment {
    match (group, kind) {
        ("gateway.networking.k8s.io", "HTTPRoute") => Treatment::Serve("HTTPRoute"),
        ("gateway.networking.k8s.io", "GRPCRoute") => Treatment::Serve("GRPCRoute"),
        ("gateway.networking.k8s.io", "ReferenceGrant") => Treatment::Serve("ReferenceGrant"),
        ("", "Service") => Treatment::Serve("Service"),
        ("", "Pod") => Treatment::Serve("Pod"),
        ("discovery.k8s.io", "EndpointSlice") => Treatment::Serve("EndpointSlice"),
        ("networking.istio.io", "VirtualService") => Treatment::Serve("VirtualService"),
        ("networking.istio.io", "DestinationRule") => Treatment::Serve("DestinationRule"),
        ("networking.istio.io", "Sidecar") => Treatment::Serve("Sidecar"),
        ("telemetry.istio.io", "Telemetry") => Treatment::Serve("Telemetry"),
        ("networking.istio.io", "WorkloadGroup") => Treatment::Serve("WorkloadGroup"),
        ("networking.istio.io", "EnvoyFilter") => Treatment::Serve("EnvoyFilter"),
        ("networking.istio.io", "ServiceEntry") => Treatment::Serve("ServiceEntry"),
        ("networking.istio.io", "WorkloadEntry") => Treatment::Serve("WorkloadEntry"),
        ("security.istio.io", "PeerAuthentication") => Treatment::Serve("PeerAuthentication"),
        ("security.istio.io", "RequestAuthentication") => Treatment::Serve("RequestAuthentication"),
        ("security.istio.io", "AuthorizationPolicy") => Treatment::Serve("AuthorizationPolicy"),
        ("security.istio.io", _) => Treatment::Refuse,
        // Linkerd has kinds of these names.
        (group, "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication")
            if !group.ends_with("linkerd.io") =>
        {
            Treatment::Misnamed
        }
        (group, _) if group.ends_with(".istio.io") => Treatment::Warn,
        _ => Treatment::Skip,
    }
}

fn versions(group: &str) -> [&'static str; 3] {
    match group {
        "" | "discovery.k8s.io" => CORE,
        "gateway.networking.k8s.io" => GATEWAY,
        group if group == SECURITY.0 => SECURITY.1,
        group if group == TELEMETRY.0 => TELEMETRY.1,
        _ => NETWORKING.1,
    }
}

fn pass_over(treatment: Treatment, place: &Place, sink: &mut Sink<'_>) {
    let (severity, code, message) = match treatment {
        Treatment::Refuse => (
            Severity::Error,
            Code::Refused,
            "known Istio kind, not served by this version, and unsafe to leave unenforced",
        ),
        Treatment::Misnamed => (
            Severity::Error,
            Code::Schema,
            "a kind of security.istio.io with another apiVersion, or none: it would not be enforced",
        ),
        Treatment::Warn => (
            Severity::Warning,
            Code::NotServed,
            "known Istio kind, not served by this version: it has no effect",
        ),
        _ => (Severity::Info, Code::Skipped, "not a kind of the mesh: passed over"),
    };
    sink.say(severity, code, place, message);
}
