//! Every refusal: where, and in which words.

use proptest::prelude::*;

use super::*;

const TLS: &str = r#"{"type": "tls", "config": {"ca_certificate": "PEM"}}"#;

fn server(uri: &str, creds: &str, more: &str) -> String {
    format!(r#"{{"xds_servers": [{{"server_uri": "{uri}", "channel_creds": [{creds}]{more}}}]}}"#)
}

fn provider(config: &str) -> String {
    let list = r#""xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}]"#;
    format!(
        r#"{{{list}, "certificate_providers": {{"default": {{"plugin_name": "file_watcher", "config": {config}}}}}}}"#
    )
}

fn also(more: &str) -> String {
    format!(r#"{{"xds_servers": [{{"server_uri": "a:1", "channel_creds": [{{"type": "insecure"}}]}}], {more}}}"#)
}

#[test]
fn errors_name_the_path_and_the_reason() {
    let jwt = |config: &str| format!(r#", "call_creds": [{{"type": "x"}}, {{"type": "jwt_token_file"{config}}}]"#);
    let tls = |config: &str| server("a:1", &format!(r#"{{"type": "tls", "config": {config}}}"#), "");
    let creds = "xds_servers[0].channel_creds";
    let config = "xds_servers[0].channel_creds[0].config";
    let call = "xds_servers[0].call_creds[1]";
    let files = "certificate_providers.default.config";
    let sub = |at: &str, field: &str| format!("{at}.{field}");
    let in_the_clear = "a token is never sent in the clear";
    let cases: Vec<(String, String, &str)> = vec![
        ("[]".into(), "".into(), "invalid type: sequence, expected an object"),
        ("{".into(), "".into(), "EOF while parsing"),
        ("3".into(), "".into(), "invalid type: integer"),
        (
            format!("{} garbage", also(r#""node": {}"#)),
            "".into(),
            "trailing characters",
        ),
        (
            also(r#""authorities": {"a": {}, "a": {"xds_servers": []}}"#),
            "authorities".into(),
            "the key \"a\" is there twice",
        ),
        (
            also(r#""node": {"metadata": {"NAMESPACE": "a", "NAMESPACE": "b"}}"#),
            "node.metadata".into(),
            "the key \"NAMESPACE\" is there twice",
        ),
        (
            also(r#""certificate_providers": {"a": {"plugin_name": "x"}, "a": {"plugin_name": "y"}}"#),
            "certificate_providers".into(),
            "the key \"a\" is there twice",
        ),
        (r#"{"node": {}}"#.into(), "".into(), "missing field `xds_servers`"),
        (r#"{"xds_servers": []}"#.into(), "xds_servers".into(), "is empty"),
        (
            r#"{"xds_servers": [null]}"#.into(),
            "xds_servers[0]".into(),
            "invalid type: null",
        ),
        (
            r#"{"xds_servers": [{"channel_creds": []}]}"#.into(),
            "xds_servers[0]".into(),
            "missing field `server_uri`",
        ),
        (
            r#"{"xds_servers": [{"server_uri": 3, "channel_creds": []}]}"#.into(),
            "xds_servers[0].server_uri".into(),
            "invalid type: integer `3`",
        ),
        (
            server("", TLS, ""),
            "xds_servers[0].server_uri".into(),
            "\"\" names no server",
        ),
        (
            server("unix-abstract:x", TLS, ""),
            "xds_servers[0].server_uri".into(),
            "sockets without a file (unix-abstract) are not supported",
        ),
        (
            server("a:1", "", ""),
            creds.into(),
            "has no credentials of a supported type (tls, insecure)",
        ),
        (
            server("a:1", r#"{"type": "alts"}"#, ""),
            creds.into(),
            "has no credentials of a supported type (tls, insecure)",
        ),
        (
            server("a:1", r#"{"type": "alts"}, {"type": "google_default"}"#, ""),
            sub("xds_servers[0].channel_creds[1]", "type"),
            "google_default, the application default credentials of Google Cloud, is not supported: use tls",
        ),
        (
            server("a:1", r#"{"config": {}}"#, ""),
            format!("{creds}[0]"),
            "missing field `type`",
        ),
        (
            tls(r#"{"ca_certificate": 1}"#),
            sub(config, "ca_certificate"),
            "invalid type: integer `1`",
        ),
        (
            tls(r#"{"ca_certificate": "PEM", "certificate_file": "c.pem"}"#),
            sub(config, "private_key_file"),
            "is missing: certificate_file is of no use without it",
        ),
        (
            tls(r#"{"ca_certificate": "PEM", "private_key_file": "k.pem"}"#),
            sub(config, "certificate_file"),
            "is missing: private_key_file is of no use without it",
        ),
        (
            tls(r#"{"ca_certificate": "PEM", "refresh_interval": "soon"}"#),
            sub(config, "refresh_interval"),
            "is not a duration such as \"600s\" or \"0.5s\"",
        ),
        (
            server("a:1", TLS, &jwt("")),
            sub(call, "config.jwt_token_file"),
            "is missing",
        ),
        (
            server("a:1", TLS, &jwt(r#", "config": {"jwt_token_file": ""}"#)),
            sub(call, "config.jwt_token_file"),
            "is missing",
        ),
        (
            server("a:1", TLS, &jwt(r#", "config": {"jwt_token_file": []}"#)),
            sub(call, "config.jwt_token_file"),
            "invalid type: sequence",
        ),
        (
            server(
                "a:1",
                r#"{"type": "insecure"}"#,
                &jwt(r#", "config": {"jwt_token_file": "t"}"#),
            ),
            call.into(),
            in_the_clear,
        ),
        (
            also(r#""node": {"id": []}"#),
            "node.id".into(),
            "invalid type: sequence",
        ),
        (
            also(r#""node": {"metadata": 1}"#),
            "node.metadata".into(),
            "invalid type: integer",
        ),
        (
            also(r#""authorities": {"a": {"xds_servers": [{"server_uri": "a", "channel_creds": []}]}}"#),
            "authorities.a.xds_servers[0].server_uri".into(),
            "it needs a port from 1 to 65535",
        ),
        (
            also(r#""authorities": {"a": {"client_listener_resource_name_template": "xdstp://b/t/%s"}}"#),
            "authorities.a.client_listener_resource_name_template".into(),
            "does not begin with xdstp://a/",
        ),
        (
            also(r#""authorities": {"a": {"client_listener_resource_name_template": "xdstp://a/t/%s"}}"#),
            "authorities.a.client_listener_resource_name_template".into(),
            "the xdstp name is not that of a listener",
        ),
        (
            also(r#""authorities": {"a/b": {}}"#),
            "authorities.a/b".into(),
            "is not the authority of a URI",
        ),
        (
            also(r#""authorities": {"a b": {}}"#),
            "authorities.a b".into(),
            "is not the authority of a URI",
        ),
        (
            also(r#""client_default_listener_resource_name_template": "xdstp:%s""#),
            "client_default_listener_resource_name_template".into(),
            "an xdstp name begins with xdstp://AUTHORITY/",
        ),
        (
            also(
                r#""server_listener_resource_name_template": "xdstp://a/envoy.config.route.v3.RouteConfiguration/%s""#,
            ),
            "server_listener_resource_name_template".into(),
            "the xdstp name is not that of a listener",
        ),
        (
            also(r#""x_mesh": {"protocol": "both"}"#),
            "x_mesh.protocol".into(),
            "unknown variant `both`",
        ),
        (
            also(r#""x_mesh": {"profile": "nginx"}"#),
            "x_mesh.profile".into(),
            "unknown variant `nginx`",
        ),
        (
            also(r#""x_mesh": {"cache_directory": ""}"#),
            "x_mesh.cache_directory".into(),
            "is empty",
        ),
        (
            also(r#""x_mesh": {"cache_directory": 1}"#),
            "x_mesh.cache_directory".into(),
            "invalid type: integer",
        ),
        (provider("{}"), files.into(), "names no file"),
        (
            provider(r#"{"certificate_file": "c", "ca_certificate_file": "r"}"#),
            sub(files, "private_key_file"),
            "is missing: certificate_file is of no use without it",
        ),
        (
            provider(r#"{"private_key_file": "c", "spiffe_trust_bundle_map_file": "r"}"#),
            sub(files, "certificate_file"),
            "is missing: private_key_file is of no use without it",
        ),
        (
            provider(r#"{"refresh_interval": "-1s"}"#),
            sub(files, "refresh_interval"),
            "is not a duration",
        ),
        (
            provider(r#"{"refresh_interval": "infs"}"#),
            sub(files, "refresh_interval"),
            "is not a duration",
        ),
        (
            provider(r#"{"refresh_interval": "60"}"#),
            sub(files, "refresh_interval"),
            "is not a duration",
        ),
    ];
    for (json, path, reason) in &cases {
        let error = Bootstrap::from_json(json).unwrap_err();
        assert_eq!(error.path(), Some(path.as_str()), "{json}: {error}");
        assert!(error.to_string().contains(reason), "{json}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_ca_is_told_without_its_token() {
    let spoil = |from: &str, to: &str| {
        let error = Bootstrap::from_json(&MESH.replace(from, to)).unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
        error.path().unwrap().to_owned()
    };
    let at = |field: &str| format!("certificate_providers.default.config.{field}");
    assert_eq!(spoil("https://localhost:2", "unix:"), at("server_uri"));
    assert_eq!(spoil("d.example", "NOT A DOMAIN"), at("trust_domain"));
    assert_eq!(spoil("\"payment\"", "\"a/../b\""), at("service_account"));
    assert_eq!(
        spoil("\"token\"", "\"no_token\""),
        "certificate_providers.default.config"
    );
}

#[test]
fn providers_that_give_no_identity_are_no_error() {
    for config in [
        r#"{"ca_certificate_file": "r"}"#,
        r#"{"spiffe_trust_bundle_map_file": "m"}"#,
        r#"{"certificate_file": "c", "private_key_file": "k"}"#,
    ] {
        assert!(
            Bootstrap::from_json(&provider(config))
                .unwrap()
                .identity_provider()
                .is_none()
        );
    }
    // What they have is for clusters that name them, and stands in no other's way.
    let several = |name: &str| {
        let whole = r#"{"certificate_file": "c", "private_key_file": "k", "ca_certificate_file": "r"}"#;
        let roots = r#"{"ca_certificate_file": "r"}"#;
        let entry = |config: &str| format!(r#"{{"plugin_name": "file_watcher", "config": {config}}}"#);
        also(&format!(
            r#""certificate_providers": {{"{name}": {}, "partner": {}}}"#,
            entry(whole),
            entry(roots)
        ))
    };
    for name in ["default", "ours"] {
        let bootstrap = Bootstrap::from_json(&several(name)).unwrap();
        assert_eq!(bootstrap.identity_provider().map(|(name, _)| name), Some(name));
        assert!(matches!(
            &bootstrap.providers()["partner"],
            Provider::Half(HalfWatcher {
                half: Half::Trust(TrustFile::Roots(_)),
                ..
            })
        ));
    }
    let both = r#"{"certificate_file": "c", "private_key_file": "k", "ca_certificate_file": "r",
                   "spiffe_trust_bundle_map_file": "m"}"#;
    match Bootstrap::from_json(&provider(both)).unwrap().identity_provider() {
        Some((_, Provider::FileWatcher(files))) => assert_eq!(files.trust, TrustFile::BundleMap("m".into())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_is_not_there() {
    let error = Bootstrap::from_file("no/such/file.json").unwrap_err();
    assert!(error.to_string().contains("no/such/file.json") && error.path().is_none());
    assert!(!error.is_not_set());
}

#[test]
fn what_is_too_long_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.json");
    let fits = format!("{MESH}{}", " ".repeat(MAX_BYTES - MESH.len()));
    std::fs::write(&path, &fits).unwrap();
    assert!(Bootstrap::from_file(&path).is_ok());
    std::fs::write(&path, format!("{fits} ")).unwrap();
    for error in [Bootstrap::from_file(&path), Bootstrap::from_json(&format!("{fits} "))] {
        assert!(error.unwrap_err().to_string().contains("longer than 1 MiB"));
    }
    let deep = also(&format!(r#""node": {{"metadata": {{"deep": {}"#, "[".repeat(100_000)));
    assert!(
        Bootstrap::from_json(&deep)
            .unwrap_err()
            .to_string()
            .contains("recursion limit")
    );
}

/// JSON whose keys and texts are often those of a bootstrap.
fn json() -> impl Strategy<Value = Value> {
    let words = [
        "xds_servers",
        "server_uri",
        "channel_creds",
        "call_creds",
        "type",
        "config",
        "tls",
        "insecure",
        "jwt_token_file",
        "google_default",
        "server_features",
        "authorities",
        "node",
        "id",
        "metadata",
        "certificate_providers",
        "default",
        "plugin_name",
        "file_watcher",
        "mesh_ca",
        "x_mesh",
        "protocol",
        "profile",
        "cache_directory",
        "fallback_on_reachability_only",
        "a:1",
        "unix:x",
        "xdstp://a/envoy.config.listener.v3.Listener/%s",
        "ca_certificate",
        "refresh_interval",
        "1s",
        "%s",
        "client_listener_resource_name_template",
        "client_default_listener_resource_name_template",
        "",
    ];
    let word = prop_oneof![9 => prop::sample::select(words.map(String::from).to_vec()), 1 => ".{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn check(json: &str) -> Result<(), TestCaseError> {
    match Bootstrap::from_json(json) {
        Ok(bootstrap) => {
            let again = Bootstrap::from_json(&bootstrap.to_json());
            prop_assert_eq!(again.map(|again| again.to_json()).ok(), Some(bootstrap.to_json()));
            prop_assert!(!bootstrap.servers().is_empty());
        }
        Err(error) => prop_assert!(error.path().is_some(), "{}", error),
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_json_panics_and_every_refusal_has_a_path(json in json()) {
        check(&json.to_string())?;
    }

    /// One part of a good file replaced by anything.
    #[test]
    fn no_spoiled_file_panics(part in json(), place in 0usize..64, file in 0usize..3) {
        let mut file: Value = serde_json::from_str([ISTIO, CLUTTERED, MESH][file]).unwrap();
        let pointers = pointers(&file);
        let pointer = &pointers[place % pointers.len()];
        *file.pointer_mut(pointer).unwrap() = part;
        check(&file.to_string())?;
    }

    #[test]
    fn no_text_panics(text in ".{0,64}") {
        check(&text)?;
    }
}

/// Every place in a value.
fn pointers(value: &Value) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut walk = |key: &str, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        all.extend(pointers(value).iter().map(|below| format!("/{key}{below}")));
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(key, value)),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(index, value)| walk(&index.to_string(), value)),
        _ => {}
    }
    all
}
