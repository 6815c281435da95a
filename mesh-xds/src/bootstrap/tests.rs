//! Files that are read, and what is said of those that are not.

use std::time::Duration;

use super::*;

/// What istio-agent writes, with the usual clutter.
const ISTIO: &str = r#"{
  "xds_servers": [{"server_uri": "127.0.0.1:15010", "channel_creds": [{"type": "google_default"}, {"type": "insecure"}],
                   "server_features": ["xds_v3", {"unknown": 1}], "call_creds": []}],
  "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "metadata": {"GENERATOR": "grpc", "PORTS": [1, 2]},
           "locality": {"region": "r"}, "UserAgentVersionType": null},
  "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": {
      "certificate_file": "c.pem", "private_key_file": "k.pem", "ca_certificate_file": "r.pem", "refresh_interval": "900s",
      "more": true}},
    "other": {"plugin_name": "of_somebody_else", "config": [1]}},
  "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
  "more": {}
}"#;

const MESH: &str = r#"{
  "xds_servers": [{"server_uri": "localhost:1", "channel_creds": [{"type": "tls", "config": {"ca_certificate": "PEM"}}]}],
  "node": {"id": "n"},
  "certificate_providers": {"default": {"plugin_name": "mesh_ca", "config": {
    "server_uri": "https://localhost:2", "ca_certificate": "PEM", "trust_domain": "d.example", "namespace": "shop",
    "service_account": "payment", "token": "open sesame"}}}
}"#;

#[test]
fn a_file_as_istio_writes_it() {
    let bootstrap = Bootstrap::from_json(ISTIO).unwrap();
    let Server { uri, credentials } = bootstrap.server();
    assert_eq!(
        (uri.to_string().as_str(), credentials),
        ("127.0.0.1:15010", &Credentials::Insecure)
    );
    assert_eq!(bootstrap.node().metadata_text("GENERATOR"), Some("grpc"));
    assert_eq!(bootstrap.client_listener_template(), "%s");
    assert_eq!(
        bootstrap.server_listener_template(),
        Some("xds.istio.io/grpc/lds/inbound/%s")
    );
    assert_eq!(bootstrap.providers().len(), 1);
    match bootstrap.identity_provider() {
        Some(("default", Provider::FileWatcher(files))) => {
            assert_eq!(files.refresh_interval, Duration::from_secs(900));
            assert_eq!(files.roots.to_str(), Some("r.pem"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_as_our_control_plane_writes_it_and_its_token_stays_out_of_sight() {
    let bootstrap = Bootstrap::from_json(MESH).unwrap();
    assert_eq!(
        bootstrap.server().credentials,
        Credentials::Tls(Roots::Inline("PEM".into()))
    );
    match bootstrap.identity_provider() {
        Some((_, Provider::MeshCa(ca))) => {
            assert_eq!(ca.id.as_str(), "spiffe://d.example/ns/shop/sa/payment");
            assert!(matches!(&ca.token, Token::Inline(token) if token == "open sesame"));
        }
        other => panic!("{other:?}"),
    }
    assert!(!format!("{bootstrap:?}").contains("sesame"));
    let again = Bootstrap::from_json(&bootstrap.to_json()).unwrap();
    assert_eq!(again.to_json(), bootstrap.to_json());
    assert!(again.to_json().contains("open sesame"));
}

#[test]
fn what_the_builder_makes_is_what_is_read() {
    let node = Node {
        id: "n".into(),
        metadata: [("NAMESPACE".into(), "shop".into())].into(),
        ..Node::default()
    };
    let built = Bootstrap::builder(node)
        .tls("localhost:1", "PEM")
        .mesh_ca("localhost:2", "PEM", "d", "shop", "payment", "secret")
        .client_listener_template("t/%s");
    assert!(!format!("{built:?}").contains("secret"));
    let built = built.build().unwrap();
    let read = Bootstrap::from_json(&built.to_json()).unwrap();
    assert_eq!((read.node(), read.server()), (built.node(), built.server()));
    assert_eq!(read.client_listener_template(), "t/%s");
    let bad = Bootstrap::builder(Node::default()).insecure("nowhere").build();
    assert_eq!(bad.unwrap_err().path(), Some("xds_servers[0].server_uri"));
}

#[test]
fn the_variant_of_the_protocol_is_a_key_of_our_own() {
    assert_eq!(Bootstrap::from_json(MESH).unwrap().protocol(), Protocol::Sotw);
    let with = |options: &str| Bootstrap::from_json(&MESH.replacen('{', &format!("{{\"x_mesh\": {options}, "), 1));
    assert_eq!(with("{}").unwrap().protocol(), Protocol::Sotw);
    assert_eq!(
        with(r#"{"protocol": "sotw", "later": 1}"#).unwrap().protocol(),
        Protocol::Sotw
    );
    let delta = with(r#"{"protocol": "delta"}"#).unwrap();
    assert_eq!(delta.protocol(), Protocol::Delta);
    assert_eq!(
        Bootstrap::from_json(&delta.to_json()).unwrap().protocol(),
        Protocol::Delta
    );
    assert!(!Bootstrap::from_json(MESH).unwrap().to_json().contains("x_mesh"));
    assert_eq!(
        with(r#"{"protocol": "both"}"#).unwrap_err().path(),
        Some("x_mesh.protocol")
    );
}

#[test]
fn server_uris_with_and_without_a_scheme() {
    let good = [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("http://127.0.0.1:1", "127.0.0.1:1"),
        ("https://a.b:65535/", "a.b:65535"),
        ("dns:///a.b:2", "a.b:2"),
        ("dns:a:2", "a:2"),
        ("[::1]:3", "[::1]:3"),
    ];
    for (text, expected) in good {
        assert_eq!(ServerUri::parse(text).unwrap().to_string(), expected, "{text}");
    }
    for text in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "unix:///x",
        "::1:2",
        "a/b:1",
        "[]:1",
        "xds:///a:1",
    ] {
        assert!(ServerUri::parse(text).is_err(), "{text}");
    }
}

#[test]
fn errors_name_the_path() {
    let cases = [
        (r#"{"node": {}}"#, ""),
        (r#"{"xds_servers": []}"#, "xds_servers"),
        (r#"{"xds_servers": [{"channel_creds": []}]}"#, "xds_servers[0]"),
        (
            r#"{"xds_servers": [{"server_uri": 3, "channel_creds": []}]}"#,
            "xds_servers[0].server_uri",
        ),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "alts"}]}]}"#,
            "xds_servers",
        ),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "tls"}]}]}"#,
            "xds_servers[0].channel_creds[0].config",
        ),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "tls", "config": {"ca_certificate": 1}}]}]}"#,
            "xds_servers[0].channel_creds[0].config.ca_certificate",
        ),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}], "node": {"id": []}}"#,
            "node.id",
        ),
    ];
    for (json, path) in cases {
        assert_eq!(Bootstrap::from_json(json).unwrap_err().path(), Some(path), "{json}");
    }
    let spoil = |file: &str, from: &str, to: &str| {
        let error = Bootstrap::from_json(&file.replace(from, to)).unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
        error.path().unwrap().to_owned()
    };
    let at = |field: &str| format!("certificate_providers.default.config.{field}");
    assert_eq!(spoil(ISTIO, "900s", "often"), at("refresh_interval"));
    assert_eq!(spoil(ISTIO, "\"k.pem\"", "\"\""), at("private_key_file"));
    // Roots alone are a provider, but not one of an identity.
    let roots_only = ISTIO.replace("\"c.pem\"", "\"\"").replace("\"k.pem\"", "\"\"");
    assert!(Bootstrap::from_json(&roots_only).unwrap().identity_provider().is_none());
    assert_eq!(spoil(MESH, "https://localhost:2", "unix:///x"), at("server_uri"));
    assert_eq!(spoil(MESH, "d.example", "NOT A DOMAIN"), at("trust_domain"));
    assert_eq!(spoil(MESH, "\"payment\"", "\"a/../b\""), at("service_account"));
    assert_eq!(
        spoil(MESH, "\"token\"", "\"no_token\""),
        "certificate_providers.default.config"
    );
}

#[test]
fn a_file_that_is_not_there() {
    let error = Bootstrap::from_file("no/such/file.json").unwrap_err();
    assert!(error.to_string().contains("no/such/file.json") && error.path().is_none());
    assert!(!error.is_not_set());
}
