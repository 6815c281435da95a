//! Workloads to endpoints, and to the identities that a caller expects there.
//!
//! Secure naming (Istio): the peers that a cluster expects are the service accounts of *its* endpoints. A subset's cluster
//! therefore expects only the accounts of that subset, and a workload that is in no service can impersonate none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_core::config::{Endpoint, Locality, Metadata, TRANSPORT_SOCKET_MATCH, TlsMatch, TlsMode, Weight};
use mesh_core::identity::SpiffeId;
use mesh_core::report::standard::Workload;

use super::authentication::Authentication;
use super::service::Service;
use super::{Findings, Mesh};
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Document, Documents, Meta, Mode, Place, Port, ServiceEntry, WorkloadEntry, has_all};

/// The service account of a workload that names none, as in Kubernetes.
pub(crate) const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// A workload that belongs to a service.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) meta: &'a Meta,
    /// Its name, where it is a document of its own.
    pub(super) name: Option<&'a str>,
    pub(super) place: &'a Place,
    pub(super) address: IpAddr,
    pub(super) ports: &'a BTreeMap<String, At<u32>>,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) identities: Vec<String>,
    pub(super) weight: u32,
    pub(super) locality: Arc<Locality>,
}

/// The members of a service: those it writes out, or the workload entries of its namespace that it selects.
pub(super) fn members<'a>(
    service: &'a Document<ServiceEntry>,
    documents: &'a Documents,
    mesh: &Mesh,
    findings: &mut Findings,
) -> Vec<Member<'a>> {
    let namespace = service.meta.namespace();
    if let Some(selector) = &service.spec.workload_selector {
        let selected = documents.workload_entries.iter();
        return selected
            .filter(|entry| entry.meta.namespace() == namespace && selector.selects(&entry.spec.labels))
            .filter_map(|entry| {
                let name = Some(&*entry.meta.name);
                member((&entry.meta, name, &entry.meta.place), &entry.spec, mesh, findings)
            })
            .collect();
    }
    let written = service.spec.endpoints.iter();
    written
        .filter_map(|entry| member((&service.meta, None, &entry.place), &entry.value, mesh, findings))
        .collect()
}

/// The labels of workloads of a namespace that are not there yet: those that register themselves in a group of it.
pub(super) fn to_come<'a>(
    documents: &'a Documents,
    namespace: &'a str,
) -> impl Iterator<Item = &'a BTreeMap<String, String>> {
    let groups = documents.workload_groups.iter();
    let own = groups.filter(move |group| group.meta.namespace() == namespace);
    own.map(|group| group.spec.labels())
}

/// Whom a caller expects of a service account, by each name of the trust domain.
pub(super) fn identities(namespace: &str, account: &str, mesh: &Mesh) -> Result<Vec<String>, String> {
    let of_domain = |domain: &str| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
    let identities: Vec<String> = mesh.trust_domains().map(of_domain).collect();
    for identity in &identities {
        SpiffeId::parse(identity).map_err(|error| format!("{identity:?} is not a SPIFFE id: {error}"))?;
    }
    Ok(identities)
}

pub(super) fn member<'a>(
    (meta, name, place): (&'a Meta, Option<&'a str>, &'a Place),
    entry: &'a WorkloadEntry,
    mesh: &Mesh,
    findings: &mut Findings,
) -> Option<Member<'a>> {
    let Ok(address) = entry.address.parse() else {
        let message = format!("{:?} is not an IP address, as resolution STATIC needs", *entry.address);
        findings.say(meta, Severity::Error, Code::Schema, &entry.address.place, message);
        return None;
    };
    let account = entry
        .service_account
        .as_ref()
        .map_or(DEFAULT_SERVICE_ACCOUNT, |name| name.as_str());
    let identities = match identities(meta.namespace(), account, mesh) {
        Ok(identities) => identities,
        Err(message) => {
            let place = entry.service_account.as_ref().map_or(place, |name| &name.place);
            findings.say(meta, Severity::Error, Code::Schema, place, message);
            return None;
        }
    };
    Some(Member {
        meta,
        name,
        place,
        address,
        ports: &entry.ports,
        labels: &entry.labels,
        identities,
        // 0 is protobuf's word for nothing written.
        weight: entry.weight.as_ref().map_or(1, |weight| weight.value.max(1)),
        locality: locality(entry.locality.as_ref().map_or("", |text| text.as_str())),
    })
}

/// `region/zone/sub-zone`, each possibly absent.
pub(super) fn locality(text: &str) -> Arc<Locality> {
    let mut parts = text.splitn(3, '/');
    let mut part = || Box::<str>::from(parts.next().unwrap_or_default());
    Arc::new(Locality {
        region: part(),
        zone: part(),
        sub_zone: part(),
    })
}

/// The endpoints of one port and the identities that may answer there.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) list: Vec<Endpoint>,
    pub(super) identities: BTreeSet<String>,
    /// How many of them speak plaintext.
    pub(super) plaintext: usize,
}

/// The endpoints of `port` whose labels include `labels`.
pub(super) fn endpoints(
    service: &Service<'_>,
    port: &Port,
    labels: &BTreeMap<String, String>,
    authentication: &Authentication<'_>,
    findings: &mut Findings,
) -> Endpoints {
    let mut found = Endpoints {
        list: Vec::new(),
        identities: BTreeSet::new(),
        plaintext: 0,
    };
    let (mut seen, mut weights) = (HashSet::new(), 0u32);
    // Most endpoints of a service say the same.
    let mut said: HashMap<(bool, String), Arc<Metadata>> = HashMap::new();
    for member in service.members.iter().filter(|member| has_all(member.labels, labels)) {
        let Some(address) = member.address_for(port, findings) else {
            continue;
        };
        found.identities.extend(member.identities.iter().cloned());
        // A client must refuse a cluster that names one address twice (gRPC: NACK).
        if !seen.insert(address) {
            let message = format!(
                "{address} is an endpoint of {:?} already; the older entry counts",
                service.host
            );
            findings.say(member.meta, Severity::Warning, Code::Duplicate, member.place, message);
            continue;
        }
        // And one whose weights do not fit 32 bits.
        let Some(sum) = weights.checked_add(member.weight) else {
            let message = format!("the weights of {:?} sum to more than {}", service.host, u32::MAX);
            findings.say(member.meta, Severity::Error, Code::Schema, member.place, message);
            continue;
        };
        weights = sum;
        let mode = authentication.mode(member.namespace(), member.labels, address.port());
        let is_plaintext = mode == Mode::Disable && service.internal;
        found.plaintext += usize::from(is_plaintext);
        let workload = member.workload(service);
        let metadata = said
            .entry((is_plaintext, workload))
            .or_insert_with_key(|(is_plaintext, workload)| Arc::new(says(*is_plaintext, workload)));
        found.list.push(Endpoint {
            metadata: Arc::clone(metadata),
            weight: Weight(member.weight),
            locality: Arc::clone(&member.locality),
            ..Endpoint::new(address)
        });
    }
    found
}

/// What an endpoint says of itself, in Istio's words: whether it speaks plaintext, and whose it is, for metrics.
fn says(is_plaintext: bool, workload: &str) -> Metadata {
    let plaintext = is_plaintext.then_some((TRANSPORT_SOCKET_MATCH, "tlsMode", "disabled"));
    let workload = ("istio", "workload", workload);
    Metadata::new(plaintext.into_iter().chain([workload])).expect("two values are not too many")
}

/// What an endpoint says of itself that speaks plaintext.
fn plaintext_says() -> Metadata {
    Metadata::new([(TRANSPORT_SOCKET_MATCH, "tlsMode", "disabled")]).expect("one value is not too many")
}

/// How endpoints are called that say so.
pub(super) fn plaintext_match() -> TlsMatch {
    TlsMatch {
        name: "tlsMode-disabled".into(),
        when: plaintext_says(),
        mode: TlsMode::Plaintext,
    }
}

impl Member<'_> {
    /// Where it belongs to.
    pub(super) fn namespace(&self) -> &str {
        self.meta.namespace()
    }

    /// Whose it is, as the metadata of its endpoints say it: its own name, or that by which its labels know it, or that of its service.
    fn workload(&self, service: &Service<'_>) -> String {
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        let of_service = service.host.split('.').next().unwrap_or_default();
        let named = self.name.or_else(|| label("service.istio.io/workload-name"));
        let unnamed = Workload::labelled(of_service, self.namespace(), label);
        let workload = match named {
            Some(name) => Workload::labelled(name, self.namespace(), label),
            None => Workload::labelled(unnamed.canonical_name(), self.namespace(), label),
        };
        workload.endpoint_metadata()
    }

    fn address_for(&self, port: &Port, findings: &mut Findings) -> Option<SocketAddr> {
        let address = self.address_at(port);
        if address.is_none() {
            let message = format!("port {:?} of this workload is not between 1 and 65535", *port.name);
            findings.say(self.meta, Severity::Error, Code::Schema, self.place, message);
        }
        address
    }

    /// Its address.
    /// Where it was written.
    pub(super) fn origin(&self) -> super::Origin {
        super::Origin::new(self.meta, self.place)
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address
    }

    /// Where it answers on a port of its service; `None`: nowhere. Istio: the workload's own number for the port's name, else the
    /// target port, else the port itself.
    pub(super) fn address_at(&self, port: &Port) -> Option<SocketAddr> {
        let own = self.ports.get(&port.name.value);
        let number = own.or(port.target_port.as_ref()).unwrap_or(&port.number);
        let number = u16::try_from(number.value).ok().filter(|number| *number > 0)?;
        Some(SocketAddr::new(self.address, number))
    }
}
