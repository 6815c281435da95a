//! Files that are read, and what is said of those that are not.

mod federation;
mod json;
mod refused;
mod servers;

use std::ffi::OsString;
use std::time::Duration;

use serde_json::Value;

use super::*;

/// What istio-agent writes, pod and all.
const ISTIO: &str = include_str!("../testdata/istio.json");

/// With the clutter that files have: other people's credentials, providers and keys.
const CLUTTERED: &str = r#"{
  "xds_servers": [{"server_uri": "127.0.0.1:15010", "channel_creds": [{"type": "google_default"}, {"type": "insecure"}],
                   "server_features": ["xds_v3", {"unknown": 1}], "call_creds": [], "more": 1}],
  "node": {"id": "a~b", "metadata": null, "localisty": {"region": "r"}, "UserAgentVersionType": null},
  "authorities": null,
  "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": {
      "certificate_file": "c.pem", "private_key_file": "k.pem", "ca_certificate_file": "r.pem", "more": true}},
    "other": {"plugin_name": "of_somebody_else", "config": [1]}},
  "allowed_grpc_services": {"dns:///a:1": {"channel_creds": [{"type": "insecure"}]}},
  "server_listener_resource_name_template": "",
  "more": {}
}"#;

const MESH: &str = r#"{
  "xds_servers": [{"server_uri": "localhost:1", "channel_creds": [{"type": "tls", "config": {"ca_certificate": "PEM"}}]}],
  "node": {"id": "n"},
  "certificate_providers": {"default": {"plugin_name": "mesh_ca", "config": {
    "server_uri": "https://localhost:2", "ca_certificate": "PEM", "trust_domain": "d.example", "namespace": "shop",
    "service_account": "payment", "token": "open sesame"}}}
}"#;

/// A bootstrap with these keys besides a server and a node.
fn with(more: &str) -> Result<Bootstrap, BootstrapError> {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    Bootstrap::from_json(&format!(
        r#"{{"xds_servers": [{{"server_uri": "a:1", "channel_creds": [{{"type": "insecure"}}]}}]{more}}}"#
    ))
}

#[test]
fn a_file_as_istio_writes_it() {
    let bootstrap = Bootstrap::from_json(ISTIO).unwrap();
    let server = bootstrap.server();
    assert_eq!(server.uri.socket_path(), Some(Path::new("/etc/istio/proxy/XDS")));
    assert_eq!(server.credentials, Credentials::Insecure);
    assert_eq!(bootstrap.profile(), Profile::Grpc);
    assert_eq!(bootstrap.client_listener_template(), "%s");
    assert_eq!(
        bootstrap.server_listener_name("0.0.0.0:8080").unwrap(),
        "xds.istio.io/grpc/lds/inbound/0.0.0.0:8080"
    );
    match bootstrap.identity_provider() {
        Some(("default", Provider::FileWatcher(files))) => {
            let data = Path::new("/var/lib/istio/data");
            let identity = CertificateFiles {
                certificate: data.join("cert-chain.pem"),
                private_key: data.join("key.pem"),
            };
            assert_eq!(files.identity, identity);
            assert_eq!(files.trust, TrustFile::Roots(data.join("root-cert.pem")));
            assert_eq!(files.refresh_interval, Duration::from_secs(900));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_node_goes_through_as_it_was_written() {
    let bootstrap = Bootstrap::from_json(ISTIO).unwrap();
    let mut expected: Value = serde_json::from_str(ISTIO).unwrap();
    let mut found: Value = serde_json::from_str(&bootstrap.to_json()).unwrap();
    // The only key of it that is not the node's: how Go prints a field that it has no value for.
    expected["node"].as_object_mut().unwrap().remove("UserAgentVersionType");
    assert_eq!(found["node"].take(), expected["node"].take());
    assert_eq!(found, expected, "and so does the rest");
}

#[test]
fn what_others_write_is_skipped() {
    let bootstrap = Bootstrap::from_json(CLUTTERED).unwrap();
    assert_eq!(bootstrap.server().credentials, Credentials::Insecure);
    assert_eq!(bootstrap.providers().len(), 1);
    assert_eq!(bootstrap.node().id, "a~b");
    assert!(bootstrap.authorities().is_empty());
    let missing = bootstrap.server_listener_name("a:1").unwrap_err();
    assert!(missing.is_template_missing(), "an empty template is none");
    // No certificate provider is needed, nor a node.
    assert!(with("").unwrap().identity_provider().is_none());
}

#[test]
fn a_file_as_our_control_plane_writes_it_and_its_token_stays_out_of_sight() {
    let bootstrap = Bootstrap::from_json(MESH).unwrap();
    assert_eq!(
        bootstrap.server().credentials,
        Credentials::Tls(Roots::Inline("PEM".into()).into())
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
    let authority = AuthorityEntry::default()
        .server(ServerEntry::insecure("unix:///x").call_credentials("t.jwt"))
        .client_listener_template("xdstp://a/envoy.config.listener.v3.Listener/x/%s")
        .fallback_on_reachability_only();
    let built = Bootstrap::builder(node)
        .tls("localhost:1", "PEM")
        .server(
            ServerEntry::tls_file("localhost:2", "r.pem")
                .certificate("c.pem", "k.pem")
                .call_credentials("t.jwt")
                .feature(ServerFeature::FailOnDataErrors),
        )
        .authority("a", authority)
        .mesh_ca("localhost:2", "PEM", "d", "shop", "payment", "secret")
        .client_listener_template("t/%s")
        .server_listener_template("s/%s")
        .profile(Profile::Envoy)
        .cache_directory("cache")
        .fallback_on_reachability_only();
    assert!(!format!("{built:?}").contains("secret"));
    let built = built.build().unwrap();
    let read = Bootstrap::from_json(&built.to_json()).unwrap();
    assert_eq!((read.node(), read.servers()), (built.node(), built.servers()));
    assert_eq!(read.authorities(), built.authorities());
    assert_eq!(read.client_listener_template(), "t/%s");
    assert_eq!(read.server_listener_template(), Some("s/%s"));
    assert_eq!(read.profile(), Profile::Envoy);
    assert_eq!(read.cache_directory(), Some(Path::new("cache")));
    assert!(read.fallback_on_reachability_only() && !with("").unwrap().fallback_on_reachability_only());

    let second = &read.servers()[1];
    let Credentials::Tls(tls) = &second.credentials else {
        panic!("{second:?}");
    };
    assert_eq!(tls.roots, Roots::File("r.pem".into()));
    assert_eq!(tls.certificate.as_ref().unwrap().certificate, Path::new("c.pem"));
    assert_eq!(second.call_credentials, [CallCredentials::JwtTokenFile("t.jwt".into())]);
    assert!(second.features.contains(ServerFeature::FailOnDataErrors));
    let own = &read.authorities()["a"];
    assert!(own.fallback_on_reachability_only());
    assert_eq!(own.servers()[0].uri.to_string(), "unix:/x");
    let bad = Bootstrap::builder(Node::default()).insecure("nowhere").build();
    assert_eq!(bad.unwrap_err().path(), Some("xds_servers[0].server_uri"));
}

#[test]
fn the_variant_of_the_protocol_is_a_key_of_our_own() {
    assert_eq!(with("").unwrap().protocol(), Protocol::Sotw);
    let x_mesh = |options: &str| with(&format!(r#""x_mesh": {options}"#));
    assert_eq!(x_mesh("null").unwrap().protocol(), Protocol::Sotw);
    assert_eq!(x_mesh("{}").unwrap().protocol(), Protocol::Sotw);
    assert_eq!(
        x_mesh(r#"{"protocol": "sotw", "later": 1}"#).unwrap().protocol(),
        Protocol::Sotw
    );
    let delta = x_mesh(r#"{"protocol": "delta"}"#).unwrap();
    assert_eq!(delta.protocol(), Protocol::Delta);
    assert_eq!(
        Bootstrap::from_json(&delta.to_json()).unwrap().protocol(),
        Protocol::Delta
    );
    assert!(!with("").unwrap().to_json().contains("x_mesh"));
    assert_eq!(with("").unwrap().cache_directory(), None);
}

#[test]
fn the_node_says_for_whom_resources_are_shaped_unless_the_file_does() {
    let table = [
        (r#"{"id": "a~b~c~d"}"#, "", Profile::Envoy),
        (
            r#"{"id": "a~b~c~d", "metadata": {"GENERATOR": "api"}}"#,
            "",
            Profile::Envoy,
        ),
        (
            r#"{"id": "a~b~c~d", "metadata": {"GENERATOR": "grpc"}}"#,
            "",
            Profile::Grpc,
        ),
        (r#"{"id": "a~b~c"}"#, "", Profile::Grpc),
        (r#"{"id": "a~b~c~d~e"}"#, "", Profile::Grpc),
        ("null", "", Profile::Grpc),
        (r#"{"id": "a~b~c~d"}"#, r#""profile": "grpc""#, Profile::Grpc),
        (r#"{"id": "n"}"#, r#""profile": "envoy""#, Profile::Envoy),
        (r#"{"id": "n"}"#, r#""profile": null"#, Profile::Grpc),
    ];
    for (node, options, expected) in table {
        let bootstrap = with(&format!(r#""node": {node}, "x_mesh": {{{options}}}"#)).unwrap();
        assert_eq!(bootstrap.profile(), expected, "{node} {options}");
    }
}

#[test]
fn the_file_wins_over_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap.json");
    std::fs::write(&path, MESH).unwrap();
    let read = |file: &str, config: &str| {
        let values = [(FILE_VARIABLE, file), (CONFIG_VARIABLE, config)];
        Bootstrap::from_variables(|name| values.iter().find(|(known, _)| *known == name).map(|(_, v)| v.into()))
    };
    let path = path.to_str().unwrap();
    assert_eq!(read(path, ISTIO).unwrap().node().id, "n");
    assert_eq!(read(path, "not JSON").unwrap().node().id, "n");
    assert_eq!(read(path, "").unwrap().node().id, "n");
    assert_eq!(read("", MESH).unwrap().node().id, "n");
    // A file that is named is meant: what the other variable holds does not stand in for it.
    assert!(read("no/such/file.json", MESH).is_err());
    assert!(read("", "").unwrap_err().is_not_set());
    assert!(Bootstrap::from_variables(|_| None).unwrap_err().is_not_set());
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_told_apart_from_none() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |name: &str| (name == CONFIG_VARIABLE).then(|| OsString::from_vec(vec![0xff]));
    let error = Bootstrap::from_variables(bytes).unwrap_err();
    assert!(
        !error.is_not_set() && error.to_string().contains("not UTF-8"),
        "{error}"
    );
}
