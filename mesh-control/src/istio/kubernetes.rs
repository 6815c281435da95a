//! Kubernetes' own documents of services: `Service`, `EndpointSlice`, and of a `Pod` what makes an endpoint somebody.
//!
//! They are what Istio makes services of where there is a cluster, so that a folder that was written by `kubectl get -o yaml`, or is applied
//! to a cluster too, means here what it means there. No traffic is captured here, so what Kubernetes says of addresses that
//! stand for a service, and of how nodes get there, means nothing: one note for each document names such fields.

use std::collections::BTreeMap;

use super::fields::Fields;
use super::service_entry::{HTTP, PROTOCOLS, Port};
use super::value::{At, Place, Sink, Value};
use super::virtual_service::MAX_PORT;
use crate::diagnostic::{Code, Severity};
use crate::istio::yaml::NodeKind;

/// A service of a cluster: its host is `name.namespace.svc` and the mesh's domain.
#[derive(Clone, Debug)]
pub struct KubernetesService {
    /// Its ports.
    pub ports: Vec<Port>,
    /// Which workloads are in it, beside those of its slices; empty: none.
    pub selector: BTreeMap<String, String>,
    /// Whether endpoints that are not ready are in it.
    pub not_ready: bool,
    /// The family of addresses that is used, where its slices have both.
    pub family: Option<Family>,
    /// Why it cannot be called here.
    pub unserved: Option<&'static str>,
    /// The namespaces that see it (Istio's annotation `networking.istio.io/exportTo`); empty means all.
    pub export_to: Vec<At<String>>,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

/// A part of a service's endpoints.
#[derive(Clone, Debug)]
pub struct EndpointSlice {
    /// The service, of the slice's namespace.
    pub service: Box<str>,
    /// The family of its addresses; `None`: they are names.
    pub family: Option<Family>,
    /// Its ports, by the names of the service's.
    pub ports: BTreeMap<String, At<u32>>,
    /// Its endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug)]
pub struct SliceEndpoint {
    /// Its address. Of several the first alone is used, as Kubernetes does.
    pub address: At<String>,
    /// Whether it takes requests.
    pub ready: bool,
    /// The name of its pod.
    pub pod: Option<Box<str>>,
    /// Its zone.
    pub zone: Option<Box<str>>,
    /// Where it stands.
    pub place: Place,
}

/// What is looked at of a pod, beside its labels.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account.
    pub service_account: Option<At<String>>,
    /// Its address, once it has one.
    pub ip: Option<Box<str>>,
}

/// By which label a slice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Istio's `exportTo` of a service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// What is somebody else's business in a `Service`.
const OF_SERVICE: [&str; 18] = [
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
    "ipFamily",
    "deprecatedPublicService",
    "publicIPs",
];

impl KubernetesService {
    pub(super) fn read(mut spec: Fields, annotations: &BTreeMap<String, String>, sink: &mut Sink<'_>) -> Option<Self> {
        let place = spec.place.clone();
        let kind = spec.string("type", sink);
        let external = kind.as_ref().is_some_and(|kind| kind.as_str() == "ExternalName");
        let unserved = external.then_some("a service of type ExternalName is a name of DNS, which is not served");
        if let (Some(why), Some(kind)) = (unserved, &kind) {
            sink.say(
                Severity::Warning,
                Code::NotServed,
                &kind.place,
                format!("{why}: it cannot be called"),
            );
        }
        let affinity = spec.string("sessionAffinity", sink);
        if let Some(affinity) = affinity.filter(|affinity| affinity.as_str() != "None") {
            let message = "not served by this version: sessions are kept by a DestinationRule's consistentHash";
            sink.say(Severity::Warning, Code::NotServed, &affinity.place, message);
        }
        let families = spec.strings("ipFamilies", sink);
        let service = Self {
            ports: spec.list("ports", sink, read_port),
            selector: spec.labels("selector", sink),
            not_ready: spec
                .take("publishNotReadyAddresses")
                .and_then(|value| value.boolean(sink))
                .is_some_and(|value| value.value),
            family: families.first().and_then(|family| Family::read(family)),
            unserved,
            export_to: export_to(annotations, &place),
        };
        elsewhere(&mut spec, &OF_SERVICE, sink);
        spec.finish(sink);
        Some(service)
    }
}

impl Family {
    fn read(word: &str) -> Option<Self> {
        match word {
            "IPv4" => Some(Self::V4),
            "IPv6" => Some(Self::V6),
            _ => None,
        }
    }
}

impl EndpointSlice {
    /// Its fields stand beside its metadata.
    pub(super) fn read(frame: &mut Fields, labels: &BTreeMap<String, String>, sink: &mut Sink<'_>) -> Option<Self> {
        let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty());
        let kind = frame.string("addressType", sink);
        let family = kind.as_ref().and_then(|kind| Family::read(kind));
        match &kind {
            Some(kind) if family.is_none() => {
                let message = format!("addresses of type {:?} are not served: they cannot be called", **kind);
                sink.say(Severity::Warning, Code::NotServed, &kind.place, message);
            }
            Some(_) => {}
            None => sink.schema(&frame.place, "addressType is required"),
        }
        let ports = frame.list("ports", sink, read_slice_port);
        let endpoints = frame.list("endpoints", sink, SliceEndpoint::read);
        let Some(service) = service else {
            let message = format!("has no label {SERVICE_NAME}, and so is of no service");
            sink.say(Severity::Warning, Code::NoEffect, &frame.place, message);
            return None;
        };
        Some(Self {
            service: service.as_str().into(),
            family,
            ports: ports.into_iter().collect(),
            endpoints,
        })
    }
}

impl SliceEndpoint {
    fn read(value: Value, sink: &mut Sink<'_>) -> Option<Self> {
        let mut fields = value.object(sink)?;
        let place = fields.place.clone();
        let addresses = fields.strings("addresses", sink);
        let conditions = fields.take("conditions").and_then(|value| value.object(sink));
        // Nothing said means ready (Kubernetes); who is on its way out is not.
        let ready = conditions.is_none_or(|mut conditions| {
            let ready = conditions.take("ready").and_then(|value| value.boolean(sink));
            conditions.ignore_rest();
            ready.is_none_or(|ready| ready.value)
        });
        let target = fields.take("targetRef").and_then(|value| value.object(sink));
        let pod = target.and_then(|mut target| {
            let kind = target.string("kind", sink);
            let name = target.string("name", sink);
            target.ignore_rest();
            name.filter(|_| kind.is_some_and(|kind| kind.as_str() == "Pod"))
        });
        let zone = fields.string("zone", sink);
        elsewhere(
            &mut fields,
            &["hints", "hostname", "nodeName", "deprecatedTopology"],
            sink,
        );
        fields.finish(sink);
        let Some(address) = addresses.into_iter().next() else {
            sink.schema(&place, "addresses is required: at least one");
            return None;
        };
        Some(Self {
            address,
            ready,
            pod: pod.map(|name| name.value.into()),
            zone: zone.map(|zone| zone.value.into()),
            place,
        })
    }
}

impl Pod {
    /// All else that stands in a pod is Kubernetes' own.
    pub(super) fn read(mut frame: Fields, labels: BTreeMap<String, String>, sink: &mut Sink<'_>) -> Self {
        let spec = frame.take("spec").and_then(|value| value.object(sink));
        let service_account = spec.and_then(|mut spec| {
            let name = spec.string("serviceAccountName", sink);
            spec.ignore_rest();
            name.filter(|name| !name.is_empty())
        });
        let ip = frame.take("status").and_then(|status| match status.get("podIP") {
            Some(NodeKind::Text(ip)) => Some(ip.as_str().into()),
            _ => None,
        });
        frame.ignore_rest();
        Self {
            labels,
            service_account,
            ip,
        }
    }
}

fn read_port(value: Value, sink: &mut Sink<'_>) -> Option<Port> {
    let mut fields = value.object(sink)?;
    let place = fields.place.clone();
    let number = fields.take("port").and_then(|value| value.number(MAX_PORT, sink));
    let name = fields.string("name", sink);
    let app_protocol = fields.string("appProtocol", sink);
    let transport = fields.string("protocol", sink);
    // A name is looked up by each pod; slices say what came of it.
    let target_port = fields
        .take("targetPort")
        .filter(|value| !matches!(value.kind, NodeKind::Text(_)));
    let target_port = target_port.and_then(|value| value.number(MAX_PORT, sink));
    elsewhere(&mut fields, &["nodePort"], sink);
    fields.finish(sink);
    let Some(number) = number else {
        sink.schema(&place, "port is required");
        return None;
    };
    if let Some(transport) = transport.filter(|word| word.as_str() != "TCP") {
        let message = format!("{} is not served: the port cannot be called", *transport);
        sink.say(Severity::Warning, Code::NotServed, &transport.place, message);
        return None;
    }
    let name = name.unwrap_or_else(|| unnamed(place));
    let protocol = protocol(&name, app_protocol.as_ref());
    Some(Port {
        number,
        // What nobody said is what its callers speak, as Istio finds out by looking.
        is_http: protocol.as_ref().is_none_or(|protocol| protocol.value == HTTP),
        name,
        target_port,
        protocol,
    })
}

/// The name of a service's only port, where it has none.
fn unnamed(place: Place) -> At<String> {
    At {
        value: String::new(),
        place,
    }
}

/// What is spoken at a port: what it says, or else what its name begins with (Istio).
fn protocol(name: &At<String>, said: Option<&At<String>>) -> Option<At<&'static str>> {
    let known = |word: &str| {
        let word = match word {
            "kubernetes.io/h2c" | "h2c" => "HTTP2",
            "kubernetes.io/ws" | "kubernetes.io/wss" => HTTP,
            word => word,
        };
        let found = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word));
        found.map(|(_, word)| *word)
    };
    let of = |at: &At<String>, word: &str| {
        known(word).map(|value| At {
            value,
            place: at.place.clone(),
        })
    };
    if let Some(said) = said {
        return of(said, said);
    }
    // `grpc-web` and `grpc-web-x` before `grpc`.
    let web = "grpc-web";
    if name.as_str() == web || name.starts_with("grpc-web-") {
        return of(name, web);
    }
    of(name, name.split('-').next().unwrap_or_default())
}

fn read_slice_port(value: Value, sink: &mut Sink<'_>) -> Option<(String, At<u32>)> {
    let mut fields = value.object(sink)?;
    let name = fields.string("name", sink);
    let number = fields.take("port").and_then(|value| value.number(MAX_PORT, sink));
    let transport = fields.string("protocol", sink);
    // The service's own word counts.
    fields.take("appProtocol");
    fields.finish(sink);
    let number = number.filter(|_| transport.is_none_or(|word| word.as_str() == "TCP"))?;
    Some((name.map_or_else(String::new, |name| name.value), number))
}

/// Names, at once, the fields that mean nothing where no traffic is captured.
fn elsewhere(fields: &mut Fields, names: &[&str], sink: &mut Sink<'_>) {
    let found: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| fields.take(name).is_some())
        .collect();
    if !found.is_empty() {
        let message = format!("means nothing in process: {}", found.join(", "));
        sink.say(Severity::Info, Code::NotServed, &fields.place, message);
    }
}

fn export_to(annotations: &BTreeMap<String, String>, place: &Place) -> Vec<At<String>> {
    let names = annotations
        .get(EXPORT_TO)
        .map_or("", String::as_str)
        .split(',')
        .map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| At {
            value: name.to_owned(),
            place: place.clone(),
        })
        .collect()
}
