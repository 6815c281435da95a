//! Authorities, and the names of listeners (gRFC A47).

use super::*;

const AUTHORITIES: &str = r#"
  "client_default_listener_resource_name_template": "TEMPLATE",
  "server_listener_resource_name_template": "xdstp://a.example/envoy.config.listener.v3.Listener/grpc/server/%s?b=2&a=1",
  "authorities": {
    "a.example": {},
    "b.example": {
      "client_listener_resource_name_template":
        "xdstp://b.example/envoy.config.listener.v3.Listener/client/%s/%s?project=1",
      "xds_servers": [{"server_uri": "b:1", "channel_creds": [{"type": "insecure"}]},
                      {"server_uri": "b:2", "channel_creds": [{"type": "insecure"}]}],
      "fallback_on_reachability_only": true
    },
    "": {"client_listener_resource_name_template": "", "xds_servers": []}
  }"#;

fn federated(template: &str) -> Bootstrap {
    with(&AUTHORITIES.replace("TEMPLATE", template)).unwrap()
}

#[test]
fn each_authority_has_its_servers() {
    let bootstrap = federated("%s");
    let uris = |authority| {
        let servers = bootstrap.servers_for(authority)?;
        Some(servers.iter().map(|server| server.uri.to_string()).collect::<Vec<_>>())
    };
    let of = |uris: &[&str]| Some(uris.iter().map(|uri| (*uri).to_owned()).collect::<Vec<_>>());
    assert_eq!(uris(None), of(&["a:1"]));
    assert_eq!(uris(Some("a.example")), of(&["a:1"]));
    assert_eq!(uris(Some("")), of(&["a:1"]));
    assert_eq!(uris(Some("b.example")), of(&["b:1", "b:2"]));
    assert_eq!(uris(Some("c.example")), None);
    assert!(bootstrap.authorities()["b.example"].fallback_on_reachability_only());
    assert!(!bootstrap.authorities()["a.example"].fallback_on_reachability_only());
}

#[test]
fn the_names_of_clients_listeners() {
    let of_a = "xdstp://a.example/envoy.config.listener.v3.Listener/";
    let table = [
        ("%s", "payment:80", "payment:80"),
        ("%s", "[::1]:80", "[::1]:80"),
        ("%s", "xds:payment:80", "payment:80"),
        ("%s", "xds:///payment:80", "payment:80"),
        ("%s", "xds:/payment:80", "payment:80"),
        ("%s", "xds:///a%20b/c", "a b/c"),
        ("mesh/%s/%s", "a", "mesh/a/a"),
        ("constant", "a", "constant"),
        ("%s", "%s", "%s"),
        (
            "%s",
            "xds://a.example/payment:80",
            "xdstp://a.example/envoy.config.listener.v3.Listener/payment:80",
        ),
        (
            "%s",
            "xds://b.example/[::1]:80",
            "xdstp://b.example/envoy.config.listener.v3.Listener/client/%5B::1%5D:80/%5B::1%5D:80?project=1",
        ),
    ];
    for (template, target, expected) in table {
        assert_eq!(
            federated(template).listener_name(target).unwrap(),
            expected,
            "{template} {target}"
        );
    }
    // Structured names get encoded values and sorted parameters, and keep the slashes.
    let structured = federated(&format!("{of_a}grpc/%s?z=1&b=2"));
    let table = [
        ("payment.shop:80", "grpc/payment.shop:80?b=2&z=1"),
        ("xds:///[::1]:80", "grpc/%5B::1%5D:80?b=2&z=1"),
        ("xds:///%5B::1%5D:80", "grpc/%5B::1%5D:80?b=2&z=1"),
        ("a/b c?d#e", "grpc/a/b%20c%3Fd%23e?b=2&z=1"),
        ("50%", "grpc/50%25?b=2&z=1"),
    ];
    for (target, expected) in table {
        assert_eq!(
            structured.listener_name(target).unwrap(),
            format!("{of_a}{expected}"),
            "{target}"
        );
    }
}

#[test]
fn targets_that_stand_for_no_listener() {
    let bootstrap = federated("%s");
    let table = [
        ("", "it is empty"),
        ("xds:", "it is empty"),
        ("xds:///", "it is empty"),
        ("xds://a.example", "it is empty"),
        ("xds://c.example/x", "the bootstrap has no authority \"c.example\""),
        ("xds:///50%", "its percent-encoding is malformed"),
        ("xdstp://c/x", "the xdstp name has nothing after its type"),
        ("xdstp://c/t/x", "the xdstp name is not that of a listener"),
    ];
    for (target, why) in table {
        let error = bootstrap.listener_name(target).unwrap_err();
        let text = format!("the target {target:?} stands for no listener: {why}");
        assert_eq!(error.to_string(), text);
    }
    let unknown = bootstrap.listener_name("xds://c.example/x").unwrap_err();
    assert_eq!(unknown.unknown_authority(), Some("c.example"));
    // The template at the top may be of an authority that the file lacks.
    let dangling = federated("xdstp://c.example/envoy.config.listener.v3.Listener/%s");
    let unknown = dangling.listener_name("x").unwrap_err();
    assert_eq!(unknown.unknown_authority(), Some("c.example"));
}

#[test]
fn the_names_of_servers_listeners() {
    let name = |address| federated("%s").server_listener_name(address).unwrap();
    let of = |id: &str| format!("xdstp://a.example/envoy.config.listener.v3.Listener/grpc/server/{id}?a=1&b=2");
    assert_eq!(name("0.0.0.0:8080"), of("0.0.0.0:8080"));
    assert_eq!(name("[::1]:80"), of("%5B::1%5D:80"));
    let plain = with(r#""server_listener_resource_name_template": "grpc/server?address=%s""#).unwrap();
    assert_eq!(
        plain.server_listener_name("[::1]:80").unwrap(),
        "grpc/server?address=[::1]:80"
    );
    let none = with("").unwrap().server_listener_name("a:1").unwrap_err();
    assert!(none.is_template_missing());
    assert!(
        none.to_string().contains("server_listener_resource_name_template"),
        "{none}"
    );
    let dangling =
        with(r#""server_listener_resource_name_template": "xdstp://c/envoy.config.listener.v3.Listener/%s""#).unwrap();
    let error = dangling.server_listener_name("a:1").unwrap_err();
    assert!(!error.is_template_missing());
    assert!(
        error.to_string().ends_with("the bootstrap has no authority \"c\""),
        "{error}"
    );
}
