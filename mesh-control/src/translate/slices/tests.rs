//! Services of a cluster: what of them is who, where, and how it is called.

use mesh_core::config::{Cluster, Protocol, Snapshot, TlsMode};

use crate::diagnostic::Diagnostic;
use crate::istio::Documents;
use crate::translate::{ClientScope, Mesh, translate};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop, labels: {app: pay}}
spec:
  selector: {app: pay}
  ports:
  - {name: grpc-api, port: 80, targetPort: api}
  - {name: http, port: 81, targetPort: 8081, protocol: TCP}
  - {name: any, port: 82, appProtocol: kubernetes.io/h2c}
  - {name: unsaid, port: 83}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pay-1, namespace: shop, labels: {kubernetes.io/service-name: pay}}
addressType: IPv4
ports:
- {name: grpc-api, port: 8080, protocol: TCP}
- {name: http, port: 8081, protocol: TCP}
- {name: any, port: 8082, protocol: TCP}
endpoints:
- addresses: [10.0.0.1]
  conditions: {ready: true, serving: true, terminating: false}
  targetRef: {kind: Pod, name: pay-a, namespace: shop}
  zone: eu-a
- addresses: [10.0.0.2]
  conditions: {ready: false, serving: true, terminating: true}
  targetRef: {kind: Pod, name: pay-b, namespace: shop}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: pay-2, namespace: shop, labels: {kubernetes.io/service-name: pay}}
addressType: IPv6
ports: [{name: grpc-api, port: 8080}]
endpoints:
- addresses: ['fd00::1']
  targetRef: {kind: Pod, name: pay-a, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: pay-a, namespace: shop, labels: {app: pay, version: v1}}
spec: {serviceAccountName: payer, containers: [{name: app, image: x}]}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: pay-b, namespace: shop, labels: {app: pay, version: v2, istio-locality: eu.b.1}}
spec: {}
";

fn read(text: &str) -> (Documents, Vec<Diagnostic>) {
    let mut documents = Documents::default();
    let found = documents.read("f.yaml", text);
    (documents, found)
}

fn translated(text: &str, namespace: &str) -> (Snapshot, Vec<String>) {
    let (documents, mut found) = read(text);
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace(namespace));
    found.extend(translation.diagnostics);
    let found = found.iter().map(ToString::to_string).collect();
    (translation.snapshot.unwrap_or_else(|| panic!("{found:?}")), found)
}

fn cluster(snapshot: &Snapshot, port: u32, subset: &str) -> Cluster {
    let name = format!("outbound|{port}|{subset}|pay.shop.svc.cluster.local");
    let cluster = snapshot.cluster(&name.as_str().into());
    Cluster::clone(cluster.expect("it is there").as_ref().unwrap())
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.endpoints.iter().map(|one| one.address.to_string()).collect()
}

#[test]
fn a_service_is_its_slices_and_its_pods_say_who_they_are() {
    let (snapshot, found) = translated(SERVICE, "shop");
    assert_eq!(found, Vec::<String>::new());
    assert!(snapshot.target("pay").is_some() && snapshot.target("pay.shop:81").is_some());
    // The named port is what the slice says, and who is not ready or of the other family is left out.
    let grpc = cluster(&snapshot, 80, "");
    assert_eq!(addresses(&grpc), ["10.0.0.1:8080"]);
    assert_eq!(&*grpc.endpoints[0].locality.zone, "eu-a");
    let TlsMode::Mutual(mutual) = &grpc.tls else {
        panic!("{grpc:?}")
    };
    assert!(mutual.expected.admits("spiffe://cluster.local/ns/shop/sa/payer"));
    assert!(!mutual.expected.admits("spiffe://cluster.local/ns/shop/sa/default"));
    let speaks = |port| cluster(&snapshot, port, "").connections.protocol;
    assert_eq!(speaks(80), Protocol::Http2, "by its name");
    assert_eq!(speaks(81), Protocol::Negotiated, "of whichever version");
    assert_eq!(speaks(82), Protocol::Http2, "as it says");
    assert_eq!(speaks(83), Protocol::Request, "what its callers speak");
}

#[test]
fn who_is_not_ready_is_there_where_the_service_says_so() {
    let text = SERVICE.replacen("spec:\n", "spec:\n  publishNotReadyAddresses: true\n", 1);
    let (snapshot, _) = translated(&text, "shop");
    let grpc = cluster(&snapshot, 80, "");
    assert_eq!(addresses(&grpc), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let place = &grpc.endpoints[1].locality;
    assert_eq!((&*place.region, &*place.zone, &*place.sub_zone), ("eu", "b", "1"));
}

#[test]
fn the_family_is_the_one_that_the_service_names_first() {
    let text = SERVICE.replacen("spec:\n", "spec:\n  ipFamilies: [IPv6, IPv4]\n", 1);
    let (snapshot, _) = translated(&text, "shop");
    assert_eq!(addresses(&cluster(&snapshot, 80, "")), ["[fd00::1]:8080"]);
}

#[test]
fn subsets_and_policies_go_by_the_labels_of_pods() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: shop}
spec: {host: pay, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";
    let (snapshot, _) = translated(&format!("{SERVICE}{rule}"), "shop");
    assert_eq!(addresses(&cluster(&snapshot, 80, "v1")), ["10.0.0.1:8080"]);
    assert_eq!(addresses(&cluster(&snapshot, 80, "v2")), Vec::<String>::new());
    assert!(
        snapshot.inbound("10.0.0.1:8080").is_some(),
        "its server goes by documents"
    );
}

#[test]
fn workload_entries_are_selected_too_and_an_entry_of_the_same_host_gives_way() {
    let more = "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 192.0.2.1, labels: {app: pay}, ports: {http: 9000}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other, namespace: web}
spec:
  hosts: [pay.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 81, name: http, protocol: HTTP}]
  endpoints: [{address: 198.51.100.1}]
";
    let (snapshot, found) = translated(&format!("{SERVICE}{more}"), "web");
    assert_eq!(
        addresses(&cluster(&snapshot, 81, "")),
        ["10.0.0.1:8081", "192.0.2.1:9000"]
    );
    assert!(
        found
            .iter()
            .any(|one| one.contains("is defined by Service shop/pay already")),
        "{found:?}"
    );
}

#[test]
fn it_is_seen_as_its_annotation_says() {
    let text = SERVICE.replacen(
        "labels: {app: pay}}",
        "annotations: {networking.istio.io/exportTo: \"., web\"}}",
        1,
    );
    assert!(translated(&text, "web").0.target("pay.shop").is_some());
    assert!(translated(&text, "other").0.target("pay.shop").is_none());
}

/// Each field means something, or is named.
#[test]
fn every_field_of_the_three_kinds_is_read_or_named() {
    let service = |field: &str| SERVICE.replacen("spec:\n", &format!("spec:\n  {field}\n"), 1);
    let slice = |field: &str| SERVICE.replacen("  zone: eu-a", &format!("  {field}"), 1);
    let port = |field: &str| SERVICE.replacen("targetPort: api}", &format!("{field}}}"), 1);
    for (text, said) in [
        (
            service("clusterIP: 10.1.1.1"),
            "info[MSH0002]: Service shop/pay: spec: means nothing in process: clusterIP",
        ),
        (service("type: NodePort"), ""),
        (
            service("type: ExternalName"),
            "spec.type: a service of type ExternalName",
        ),
        (service("sessionAffinity: ClientIP"), "spec.sessionAffinity: not served"),
        (service("sessionAffinity: None"), ""),
        (
            service("trafficDistribution: PreferClose"),
            "means nothing in process: trafficDistribution",
        ),
        (service("portss: []"), "spec.portss: unknown field"),
        (port("nodePort: 30000"), "means nothing in process: nodePort"),
        (port("protocol: UDP"), "protocol: UDP is not served"),
        (port("appProtocol: grpc"), ""),
        (port("target: 1"), "unknown field \"target\""),
        (slice("nodeName: n"), "means nothing in process: nodeName"),
        (
            slice("hints: {forZones: [{name: eu-a}]}"),
            "means nothing in process: hints",
        ),
        (slice("address: x"), "unknown field \"address\""),
        (
            SERVICE.replace("addressType: IPv4", "addressType: FQDN"),
            "addresses of type \"FQDN\" are not served",
        ),
        (
            SERVICE.replace("addressType: IPv4", "addressType: IPv4\nkinds: []"),
            "unknown field \"kinds\"",
        ),
        (
            SERVICE.replacen("kubernetes.io/service-name", "x", 1),
            "has no label kubernetes.io/service-name",
        ),
        (
            SERVICE.replacen("apiVersion: v1\n", "apiVersion: v2\n", 1),
            "v2 is not a version of Service",
        ),
        (
            SERVICE.replacen("discovery.k8s.io/v1", "discovery.k8s.io/v2", 1),
            "is not a version of EndpointSlice",
        ),
    ] {
        let (_, found) = read(&text);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        match said {
            "" => assert_eq!(found, Vec::<String>::new()),
            said => assert!(found.iter().any(|one| one.contains(said)), "{said}: {found:?}"),
        }
    }
    let (_, found) = translated(
        &SERVICE.replacen("name: pay-a, namespace: shop}", "name: gone}", 1),
        "shop",
    );
    assert!(
        found.iter().any(|one| one.contains("no Pod document is there")),
        "{found:?}"
    );
}
