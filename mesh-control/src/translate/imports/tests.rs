//! What is seen through a Sidecar, by whom, and that each of its fields is read or named.

use crate::istio::Documents;
use crate::translate::{ClientScope, Mesh, translate};

const SERVICES: [(&str, &str); 4] = [("pay", "shop"), ("cart", "shop"), ("mail", "post"), ("bank", "money")];

fn services() -> String {
    let each = SERVICES.iter().map(|(name, namespace)| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             hosts: [{name}.{namespace}.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: http}}]\n  endpoints: [{{address: 10.0.0.1}}]\n---\n"
        )
    });
    each.collect()
}

fn sidecar(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

/// The services that clients of a namespace may call, and what was found.
fn seen(more: &str, client: &str) -> (Vec<&'static str>, Vec<String>) {
    let mut documents = Documents::default();
    let mut found = documents.read("f.yaml", &format!("{}{more}", services()));
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace(client));
    found.extend(translation.diagnostics);
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let snapshot = translation.snapshot.unwrap_or_else(|| panic!("{found:?}"));
    let names = SERVICES.iter().filter(|(name, namespace)| {
        let target = snapshot.target(&format!("{name}.{namespace}.svc.cluster.local"));
        target.is_some()
    });
    (names.map(|(name, _)| *name).collect(), found)
}

#[test]
fn hosts_are_listed_by_namespace_and_name() {
    for (hosts, expected) in [
        ("./*", &["pay", "cart"][..]),
        ("*/*", &["pay", "cart", "mail", "bank"]),
        ("~/*", &[]),
        ("post/*", &["mail"]),
        ("*/mail.post.svc.cluster.local", &["mail"]),
        ("shop/mail.post.svc.cluster.local", &[]),
        ("*/*.shop.svc.cluster.local", &["pay", "cart"]),
    ] {
        let text = sidecar("shop", &format!("{{egress: [{{hosts: ['{hosts}']}}]}}"));
        assert_eq!(seen(&text, "shop").0, expected, "{hosts}");
        // It is for its own namespace alone.
        assert_eq!(seen(&text, "post").0.len(), 4, "{hosts}");
    }
}

#[test]
fn the_own_namespaces_sidecar_comes_before_that_of_the_root() {
    let root = sidecar("istio-system", "{egress: [{hosts: ['./*']}]}");
    assert_eq!(seen(&root, "shop").0, ["pay", "cart"]);
    assert_eq!(seen(&root, "post").0, ["mail"]);
    let both = root + &sidecar("shop", "{egress: [{hosts: ['money/*']}, {hosts: ['post/*']}]}");
    assert_eq!(seen(&both, "shop").0, ["mail", "bank"]);
    // One that lists nothing takes nothing away.
    assert_eq!(seen(&sidecar("shop", "{}"), "shop").0.len(), 4);
}

#[test]
fn a_rule_that_is_seen_brings_its_destinations_along_and_one_that_is_not_does_nothing() {
    let rule = |namespace: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: pay, namespace: {namespace}}}\nspec:\n  \
             hosts: [pay.shop.svc.cluster.local]\n  http: [{{route: [{{destination: {{host: bank.money.svc.cluster.local}}}}]}}]\n---\n"
        )
    };
    let own = sidecar("shop", "{egress: [{hosts: ['./*']}]}");
    assert_eq!(seen(&(own.clone() + &rule("shop")), "shop").0, ["pay", "cart", "bank"]);
    assert_eq!(seen(&(own + &rule("post")), "shop").0, ["pay", "cart"]);
}

#[test]
fn servers_go_by_what_is_said_of_them_whatever_their_clients_see() {
    let text = services() + &sidecar("shop", "{egress: [{hosts: ['~/*']}]}");
    let mut documents = Documents::default();
    assert_eq!(documents.read("f.yaml", &text), []);
    let snapshot = translate(&documents, &Mesh::default(), &ClientScope::namespace("shop")).snapshot;
    assert!(snapshot.unwrap().inbound("10.0.0.1:80").is_some());
}

#[test]
fn every_field_is_read_or_named() {
    for (spec, said) in [
        (
            "{egress: [{hosts: ['./*'], port: {number: 80}}]}",
            "egress[0].port: known Istio field, not served",
        ),
        (
            "{egress: [{hosts: ['./*'], bind: 0.0.0.0}]}",
            "egress[0].bind: known Istio field",
        ),
        ("{ingress: []}", "ingress: known Istio field"),
        (
            "{inboundConnectionPool: {}}",
            "inboundConnectionPool: known Istio field",
        ),
        ("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", ""),
        (
            "{outboundTrafficPolicy: {mode: ALLOW_ANY}}",
            "outboundTrafficPolicy.mode: hosts that no document knows",
        ),
        (
            "{workloadSelector: {labels: {app: a}}}",
            "a Sidecar for some of a namespace has no effect",
        ),
        (
            "{egress: [{hosts: ['~post/*', './*']}]}",
            "leaving hosts out is not served",
        ),
    ] {
        let (_, found) = seen(&sidecar("shop", spec), "shop");
        match said {
            "" => assert_eq!(found, Vec::<String>::new()),
            said => assert!(found.iter().any(|one| one.contains(said)), "{said}: {found:?}"),
        }
    }
    let two = sidecar("shop", "{egress: [{hosts: ['./*']}]}") + &sidecar("shop", "{}");
    let (names, found) = seen(&two, "shop");
    assert_eq!(names, ["pay", "cart"]);
    assert!(
        found
            .iter()
            .any(|one| one.contains("is for the whole namespace already")),
        "{found:?}"
    );
    let mut documents = Documents::default();
    for (spec, said) in [
        ("{egress: [{hosts: ['pay']}]}", "is not of the form NAMESPACE/HOST"),
        ("{egress: [{}]}", "hosts is required"),
        ("{egres: []}", "unknown field"),
    ] {
        let found = documents.read("f.yaml", &sidecar("shop", spec));
        assert!(
            found.iter().any(|one| one.to_string().contains(said)),
            "{said}: {found:?}"
        );
    }
}
