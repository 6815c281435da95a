//! Goldens: each `testdata/<case>.yaml` and what becomes of it for a client in namespace `default`, in `<case>.expected`.
//! Run with `UPDATE_GOLDENS=1` to rewrite them, then read the difference.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use mesh_core::config::{
    Action, ConnectionFacts, FilterChain, Forward, Inbound, InboundSecurity, Route, TlsMode, Transport,
};
use proptest::prelude::*;

use super::*;

fn read(file: &str, text: &str) -> (Documents, Vec<Diagnostic>) {
    let mut documents = Documents::default();
    let diagnostics = documents.read(file, text);
    (documents, diagnostics)
}

fn outcome(file: &str, text: &str, namespace: &str) -> String {
    let (documents, mut diagnostics) = read(file, text);
    let mut snapshot = None;
    if !diagnostics.iter().any(Diagnostic::is_error) {
        let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace(namespace));
        diagnostics.extend(translation.diagnostics);
        snapshot = translation.snapshot;
    }
    let mut out = String::new();
    for diagnostic in &diagnostics {
        writeln!(out, "{diagnostic}").unwrap();
    }
    match snapshot {
        Some(snapshot) => describe(&snapshot, &mut out),
        None => out.push_str("refused\n"),
    }
    out
}

fn describe(snapshot: &Snapshot, out: &mut String) {
    let targets: BTreeMap<_, _> = snapshot.targets().iter().collect();
    let mut trees = BTreeMap::new();
    for (target, tree) in targets {
        let tree = tree.as_ref().unwrap();
        writeln!(out, "target {target} -> {}", tree.name).unwrap();
        trees.insert(&tree.name, tree);
    }
    for tree in trees.values() {
        for filter in &tree.filters {
            writeln!(out, "filter {}", filter.name).unwrap();
        }
        for host in &tree.virtual_hosts {
            let domains: Vec<_> = host.domains.iter().map(ToString::to_string).collect();
            writeln!(out, "routes {} for {}", tree.name, domains.join(" ")).unwrap();
            host.routes.iter().for_each(|route| describe_route(route, out));
        }
    }
    let clusters: BTreeMap<_, _> = snapshot.clusters().iter().collect();
    for (name, cluster) in clusters {
        let Ok(cluster) = cluster else {
            writeln!(out, "cluster {name}: {}", cluster.as_ref().unwrap_err()).unwrap();
            continue;
        };
        writeln!(out, "cluster {name}").unwrap();
        match &cluster.tls {
            TlsMode::Origination(outside) => writeln!(out, "  outside {:?}", outside.sni).unwrap(),
            TlsMode::Plaintext => writeln!(out, "  plaintext").unwrap(),
            TlsMode::Mutual(mutual) => {
                writeln!(
                    out,
                    "  mutual, sni {:?}, expects {:?}",
                    mutual.sni,
                    mutual.expected.tests()
                )
                .unwrap();
            }
        }
        for endpoint in cluster.endpoints.iter() {
            let locality = &endpoint.locality;
            let locality = [&locality.region, &locality.zone, &locality.sub_zone]
                .map(|part| part.to_string())
                .join("/");
            let mode = match cluster.tls_for(endpoint) == &cluster.tls {
                true => "",
                false => ", plaintext",
            };
            let (address, weight) = (endpoint.address, endpoint.weight.0);
            writeln!(out, "  {address} weight {weight} at {locality}{mode}").unwrap();
        }
    }
    let inbounds: BTreeMap<_, _> = snapshot.inbounds().iter().collect();
    let chains = |inbound: &Inbound| {
        let chain = |chain: &FilterChain| {
            let places = chain.matches.destinations.iter().map(|place| format!(" to {place}"));
            format!("{}{}", chain.name, places.collect::<String>())
        };
        let chains: Vec<_> = inbound.chains.iter().map(chain).collect();
        chains.join(", ")
    };
    for (address, inbound) in inbounds {
        let inbound = inbound.as_ref().unwrap();
        assert_eq!(address.parse(), Ok(inbound.address));
        writeln!(out, "server {address}: {}", chains(inbound)).unwrap();
    }
    let any = snapshot.any_inbound().unwrap();
    writeln!(out, "server of no document: {}", chains(any)).unwrap();
}

fn describe_route(route: &Route, out: &mut String) {
    writeln!(
        out,
        "  {:?} {:?} {:?}",
        route.name, route.matches.path, route.matches.headers
    )
    .unwrap();
    let extras = (&route.matches.query, route.matches.ignore_case);
    if extras != (&Vec::new(), false) {
        writeln!(out, "    query {:?}, ignores case {}", extras.0, extras.1).unwrap();
    }
    match &route.action {
        Action::Forward(forward) => describe_forward(forward, out),
        other => writeln!(out, "    {other:?}").unwrap(),
    }
    if let Some(headers) = &route.headers {
        writeln!(out, "    {headers:?}").unwrap();
    }
    for said in &route.filter_overrides {
        writeln!(out, "    {} {:?}", said.filter, said.what).unwrap();
    }
    let retry = &route.retry;
    let origin = if retry.explicit { "written" } else { "default" };
    writeln!(
        out,
        "    timeout {:?}, {} {origin} retries on {:?}, each {:?}, pause {:?}",
        route.timeout, retry.retries, retry.on, retry.per_try_timeout, retry.backoff
    )
    .unwrap();
}

fn describe_forward(forward: &Forward, out: &mut String) {
    let split = &forward.split;
    for share in split.clusters() {
        writeln!(out, "    {} of {} to {}", share.weight.0, split.total(), share.cluster).unwrap();
        if share.headers.is_some() || share.host.is_some() {
            writeln!(out, "      host {:?}, {:?}", share.host, share.headers).unwrap();
        }
    }
    if let Some(rewrite) = &forward.rewrite {
        writeln!(out, "    {rewrite:?}").unwrap();
    }
    for mirror in &forward.mirrors {
        writeln!(out, "    {mirror:?}").unwrap();
    }
}

#[test]
fn goldens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    assert!(cases.len() > 5, "{folder:?}");
    let mut wrong = Vec::new();
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let name = case.file_name().unwrap().to_str().unwrap();
        let found = outcome(name, &text, "default");
        let golden = case.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&golden, &found).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "not as expected:\n{}", wrong.join("\n"));
}

/// The addresses of a cluster, or why it is none.
fn addresses(snapshot: &Snapshot, name: &str) -> Result<Vec<String>, String> {
    let cluster = snapshot.cluster(&name.into()).expect("the cluster is named");
    let cluster = cluster.as_ref().map_err(ToString::to_string)?;
    Ok(cluster
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect())
}

fn translated(text: &str, scope: &ClientScope) -> (Snapshot, Vec<String>) {
    let (documents, findings) = read("f.yaml", text);
    assert_eq!(findings, []);
    let translation = translate(&documents, &Mesh::default(), scope);
    let findings = translation.diagnostics.iter().map(ToString::to_string).collect();
    (translation.snapshot.expect("no finding is an error"), findings)
}

#[test]
fn a_private_destination_rule_is_a_matter_of_those_who_do_not_see_it() {
    let text = include_str!("../../testdata/private_subset.yaml");
    let subset = "outbound|80|v1|pay.default.svc.cluster.local";
    let (own, findings) = translated(text, &ClientScope::namespace("default"));
    assert_eq!(
        (addresses(&own, subset), findings),
        (Ok(vec!["192.0.2.1:80".into()]), vec![])
    );
    // One is not shown it, another has a rule of its own that shadows it.
    for scope in [ClientScope::unnamed(), ClientScope::namespace("shadow")] {
        let (other, findings) = translated(text, &scope);
        let why = addresses(&other, subset).unwrap_err();
        assert!(
            why.contains(&format!("that {scope} goes by defines subset \"v1\"")),
            "{why}"
        );
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(
            findings[0].contains("warning[IST0101]") && findings[0].contains(&scope.to_string()),
            "{findings:?}"
        );
        let whole = addresses(&other, "outbound|80||pay.default.svc.cluster.local");
        assert_eq!(whole, Ok(vec!["192.0.2.1:80".into()]));
    }
}

#[test]
fn a_host_may_be_defined_in_each_namespace_for_itself() {
    let text = include_str!("../../testdata/private_hosts.yaml");
    let cluster = "outbound|80||api.example.com";
    for (namespace, address) in [("a", "192.0.2.1:80"), ("b", "192.0.2.2:80")] {
        let (snapshot, findings) = translated(text, &ClientScope::namespace(namespace));
        assert_eq!(addresses(&snapshot, cluster), Ok(vec![address.into()]), "{findings:?}");
        // `shared.example.com` is public in both: the own definition counts.
        let shared = addresses(&snapshot, "outbound|80||shared.example.com");
        assert_eq!(shared, Ok(vec![address.into()]), "{findings:?}");
    }
    let (stranger, findings) = translated(text, &ClientScope::unnamed());
    assert!(stranger.cluster(&cluster.into()).is_none() && stranger.target("api.example.com").is_none());
    assert_eq!(
        addresses(&stranger, "outbound|80||shared.example.com"),
        Ok(vec!["192.0.2.1:80".into()])
    );
    assert!(
        findings
            .iter()
            .all(|finding| finding.contains("the older definition counts")),
        "{findings:?}"
    );
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn a_namespace_is_named_by_what_is_exported_to_it() {
    let text =
        include_str!("../../testdata/private_hosts.yaml").replacen("exportTo: [\".\"]", "exportTo: [told, \"*\"]", 1);
    let (documents, _) = read("f.yaml", &text);
    let named = namespaces(&documents, &Mesh::default());
    let named: Vec<&str> = named.iter().map(|name| &**name).collect();
    assert_eq!(named, ["a", "b", "default", "istio-system", "told"]);
}

#[test]
fn a_port_that_only_others_see_is_no_error() {
    let text = include_str!("../../testdata/private_hosts.yaml").replacen("number: 80,", "number: 90,", 1);
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: api, namespace: a}\nspec:\n  \
                hosts: [api.example.com]\n  http:\n  - route:\n    - destination: {host: api.example.com, port: {number: 90}}\n";
    let text = format!("{text}---\n{rule}");
    let cluster = "outbound|90||api.example.com";
    let (own, _) = translated(&text, &ClientScope::namespace("a"));
    assert_eq!(addresses(&own, cluster), Ok(vec!["192.0.2.1:90".into()]));
    let (other, findings) = translated(&text, &ClientScope::namespace("b"));
    let why = addresses(&other, cluster).unwrap_err();
    assert!(
        why.contains("\"api.example.com\" as namespace \"b\" sees it has no port 90"),
        "{why}"
    );
    assert!(
        findings
            .iter()
            .any(|finding| finding.contains("warning[IST0101]") && finding.contains("port.number"))
    );
}

#[test]
fn all_names_of_a_port_share_one_tree() {
    let text = include_str!("../../testdata/canary.yaml");
    let (documents, _) = read("canary.yaml", text);
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace("default"));
    let snapshot = translation.snapshot.unwrap();
    let tree = |name: &str| Arc::clone(snapshot.target(name).unwrap().as_ref().unwrap());
    assert!(Arc::ptr_eq(
        &tree("payment-service"),
        &tree("payment-service.default.svc.cluster.local:50051")
    ));
}

#[test]
fn the_examples_folder_translates_without_a_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/istio");
    let mut documents = Documents::default();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(documents.read(path.to_str().unwrap(), &text), []);
    }
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace("default"));
    assert_eq!(translation.diagnostics, []);
    assert!(translation.snapshot.unwrap().target("payment-service").is_some());
}

/// Folders made of the words that matter, in every order and with every kind of hole.
fn documents() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        Just("a"),
        Just("b"),
        Just("a.default.svc.cluster.local"),
        Just("*.svc.cluster.local"),
        Just("x.example.com"),
        Just("*"),
    ];
    let namespace = prop_oneof![Just("default"), Just("other"), Just("istio-system")];
    let subset = prop_oneof![Just(""), Just("v1"), Just("v2")];
    let export = prop_oneof![Just(""), Just("."), Just("*"), Just("other")];
    let parts = (
        0u8..4,
        host.clone(),
        host,
        namespace,
        subset,
        export,
        0u32..4,
        0u32..3,
        any::<bool>(),
    );
    let document = parts.prop_map(|(kind, host, other, namespace, subset, export, weight, port, flag)| {
        let export = if export.is_empty() { String::new() } else { format!("  exportTo: [{export:?}]\n") };
        let port_line = if port == 0 { String::new() } else { format!("        port: {{number: {port}}}\n") };
        let subset_line = if subset.is_empty() { String::new() } else { format!("        subset: {subset}\n") };
        let (kind, spec) = match kind {
            0 => ("VirtualService", format!(
                "  hosts: [{host:?}]\n{export}  http:\n  - match: [{{uri: {{prefix: /{subset}}}, port: {weight}}}]\n    timeout: {weight}s\n    retries: {{attempts: {port}}}\n    route:\n    - destination:\n        host: {other:?}\n{subset_line}{port_line}      weight: {weight}\n    - destination: {{host: a}}\n      weight: {port}\n  - route:\n    - destination: {{host: {other:?}}}\n"
            )),
            1 => ("DestinationRule", format!(
                "  host: {host:?}\n{export}  subsets:\n  - name: v1\n    labels: {{version: v1}}\n  - name: v{weight}\n    labels: {{version: v2}}\n"
            )),
            2 => ("ServiceEntry", format!(
                "  hosts: [{host:?}, {other:?}]\n{export}  location: MESH_INTERNAL\n  resolution: STATIC\n  ports:\n  - {{number: 1, name: one}}\n  - {{number: {port}, name: two}}\n{}",
                if flag { "  workloadSelector: {labels: {app: a}}\n" } else { "  endpoints: [{address: 127.0.0.1}]\n" }
            )),
            _ => ("WorkloadEntry", format!(
                "  address: 127.0.0.{weight}\n  labels: {{app: a, version: v{port}}}\n  weight: {weight}\n  ports: {{one: {weight}}}\n"
            )),
        };
        format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: n, namespace: {namespace}}}\nspec:\n{spec}")
    });
    prop::collection::vec(document, 0..12).prop_map(|documents| documents.join("---\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn translation_never_panics_and_is_pure(text in documents(), namespace in "default|other|istio-system") {
        let (parsed, _) = read("f.yaml", &text);
        let scope = ClientScope::namespace(namespace);
        // Building a snapshot checks that it is consistent, or panics.
        let (one, two) = (translate(&parsed, &Mesh::default(), &scope), translate(&parsed, &Mesh::default(), &scope));
        prop_assert_eq!(&one.snapshot, &two.snapshot);
        prop_assert_eq!(one.snapshot.is_none(), one.diagnostics.iter().any(Diagnostic::is_error));
        prop_assert_eq!(one.diagnostics, two.diagnostics);
    }

    #[test]
    fn reading_never_panics(text in "[a-zA-Z0-9:{}\\[\\]&*!|>#,'\"\n -]{0,200}") {
        read("f.yaml", &text);
    }

    #[test]
    fn a_cut_file_never_panics(text in documents(), cut in any::<prop::sample::Index>()) {
        let end = cut.index(text.len() + 1);
        if let Some(half) = text.get(..end) {
            read("f.yaml", half);
        }
    }
}

/// What metrics name a destination by: whose an endpoint is, in Istio's words, and which service a cluster is for.
#[test]
fn endpoints_and_clusters_say_what_metrics_name_them_by() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: pay}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: pay-v1, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: pay, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.2, labels: {app: basket}}
  - {address: 10.0.0.3}
  - {address: 10.0.0.4, labels: {service.istio.io/workload-name: cart-w}}
";
    let (documents, _) = read("f.yaml", text);
    let translated = translate(&documents, &Mesh::default(), &ClientScope::namespace("shop"));
    let snapshot = translated.snapshot.unwrap();
    let said = |host: &str| {
        let cluster = snapshot.cluster(&format!("outbound|80||{host}.shop.svc.cluster.local").as_str().into());
        let cluster = cluster.unwrap().as_ref().unwrap();
        let service = cluster.service.as_ref().unwrap();
        let told = cluster.endpoints.iter().map(|endpoint| {
            let told = endpoint.metadata.value("istio", "workload");
            told.unwrap_or_default().to_owned()
        });
        let service = format!("{} {} {}", service.host(), service.name(), service.namespace());
        (service, told.collect::<Vec<_>>())
    };
    assert_eq!(
        said("pay"),
        (
            "pay.shop.svc.cluster.local pay shop".to_owned(),
            vec!["pay-v1;shop;pay;v1;Kubernetes".to_owned()]
        )
    );
    assert_eq!(
        said("cart").1,
        [
            "basket;shop;basket;;Kubernetes",
            "cart;shop;cart;;Kubernetes",
            "cart-w;shop;cart-w;;Kubernetes"
        ]
    );
}

/// A policy is for a workload, by whatever port its server listens on.
#[test]
fn az_10_a_selector_means_a_workload_at_ports_that_nobody_lists() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: pay, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: pay}, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: cart}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}, action: DENY, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: shop}
spec: {selector: {matchLabels: {app: cart}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {'9091': {mode: DISABLE}}}
";
    let (documents, diagnostics) = read("f.yaml", text);
    assert_eq!(diagnostics, []);
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace("shop"));
    assert_eq!(translation.diagnostics, []);
    let snapshot = translation.snapshot.unwrap();
    let any = snapshot.any_inbound().unwrap();
    let chain = |address: &str, transport| {
        any.chain_for(&ConnectionFacts {
            destination: address.parse().unwrap(),
            source: "10.9.9.9:1".parse().unwrap(),
            transport,
            server_name: None,
            protocols: &[],
        })
    };
    let denies = |address: &str| !chain(address, Transport::Tls).unwrap().authorization.is_empty();
    let plaintext =
        |address: &str| chain(address, Transport::RawBuffer).unwrap().security == InboundSecurity::Plaintext;
    assert!(denies("10.0.0.1:8080") && denies("10.0.0.1:9090") && denies("10.0.0.1:9091"));
    // Whose server an address is that no document has nobody knows: it may be the one that is denied.
    assert!(!denies("10.0.0.2:9090") && denies("10.0.0.3:9090"));
    assert!(plaintext("10.0.0.2:9090") && plaintext("10.0.0.2:9091"));
    assert!(!plaintext("10.0.0.1:9090") && !plaintext("10.0.0.1:9091") && !plaintext("10.0.0.3:9091"));
    let tls = chain("10.0.0.2:9091", Transport::Tls).unwrap();
    assert_eq!(tls.security, InboundSecurity::Plaintext, "DISABLE for the port");
}

#[test]
fn a_policy_that_denies_less_than_it_seems_to_is_told() {
    let warned = |text: &str| {
        let (documents, diagnostics) = read("f.yaml", text);
        assert_eq!(diagnostics, []);
        let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace("shop"));
        let messages = translation.diagnostics.into_iter().map(|finding| {
            assert_eq!(finding.severity, Severity::Warning, "{finding}");
            finding.message
        });
        messages.collect::<Vec<_>>().join("; ")
    };
    let deny = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mode, namespace: shop}
spec: {mtls: {mode: MODE}}
";
    assert_eq!(warned(&deny.replace("MODE", "STRICT")), "");
    assert!(warned(&deny.replace("MODE", "PERMISSIVE")).contains("takes plaintext"));
    let typo = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no, namespace: shop}
spec: {selector: {matchLabels: {app: pya}}, action: DENY, rules: [{}]}
";
    assert!(warned(typo).contains("selects no workload"));
}

/// Other names of the trust domain, as Istio has them in its mesh config: the same as those that code gives, of the root namespace alone.
#[test]
fn the_mesh_config_tells_aliases_of_the_trust_domain() {
    const MEMBERS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: default}
spec:
  hosts: [pay.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1, serviceAccount: pay}]
---
";
    let config = |namespace: &str, aliases: &str| {
        format!(
            "apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: {namespace}}}
data:
  mesh: |
    trustDomainAliases: {aliases}
"
        )
    };
    let told = |text: &str, mesh: &Mesh| {
        let (documents, diagnostics) = read("f.yaml", text);
        assert!(!diagnostics.iter().any(Diagnostic::is_error), "{diagnostics:?}");
        let translation = translate(&documents, mesh, &ClientScope::namespace("default"));
        format!("{:?}", translation.snapshot.unwrap())
    };
    let by_code = Mesh {
        trust_domain_aliases: vec!["old.test".into(), "older.test".into()],
        ..Mesh::default()
    };
    let (plain, by_code) = (told(MEMBERS, &Mesh::default()), told(MEMBERS, &by_code));
    assert_ne!(plain, by_code);
    let by_document = format!("{MEMBERS}{}", config("istio-system", "[old.test, older.test]"));
    assert_eq!(told(&by_document, &Mesh::default()), by_code);
    let elsewhere = format!("{MEMBERS}{}", config("default", "[old.test, older.test]"));
    assert_eq!(told(&elsewhere, &Mesh::default()), plain);
    let (_, diagnostics) = read("f.yaml", &config("istio-system", "['spiffe://old']"));
    assert!(
        diagnostics
            .iter()
            .any(|finding| finding.message.contains("not the name of a trust domain")),
        "{diagnostics:?}"
    );
}
