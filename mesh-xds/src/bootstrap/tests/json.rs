//! How a bootstrap's JSON is read: as protobuf's, and with the file's name in what is wrong with it.

use super::*;

/// serde alone reads a struct from a list: an empty one for `tls` would mean the system's roots.
#[test]
fn a_list_is_no_object() {
    let server = |creds: &str| format!(r#""xds_servers": [{{"server_uri": "a:1", "channel_creds": [{creds}]}}]"#);
    let insecure = server(r#"{"type": "insecure"}"#);
    for (text, path) in [
        ("[]".to_owned(), ""),
        (format!("{{{}}}", server("[]")), "xds_servers[0].channel_creds[0]"),
        (
            format!("{{{}}}", server(r#"{"type": "tls", "config": []}"#)),
            "xds_servers[0].channel_creds[0].config",
        ),
        (format!(r#"{{{insecure}, "x_mesh": []}}"#), "x_mesh"),
        (format!(r#"{{{insecure}, "node": []}}"#), "node"),
        (
            format!(r#"{{{insecure}, "node": {{"locality": ["r"]}}}}"#),
            "node.locality",
        ),
        (
            format!(r#"{{{insecure}, "authorities": {{"a": []}}}}"#),
            "authorities.a",
        ),
        (
            format!(r#"{{{insecure}, "certificate_providers": {{"a": ["file_watcher"]}}}}"#),
            "certificate_providers.a",
        ),
        (
            format!(
                r#"{{{insecure}, "certificate_providers": {{"a": {{"plugin_name": "istio_agent", "config": []}}}}}}"#
            ),
            "certificate_providers.a.config",
        ),
        (r#"{"xds_servers": [["a:1", []]]}"#.to_owned(), "xds_servers[0]"),
    ] {
        let error = Bootstrap::from_json(&text).unwrap_err();
        assert_eq!(error.path(), Some(path), "{text}: {error}");
        assert!(
            error.to_string().contains("invalid type: sequence, expected an object"),
            "{error}"
        );
    }
}

/// protobuf's JSON writes `null` for what is not there, whatever it is.
#[test]
fn null_is_what_is_not_there() {
    let nothing = r#"{
        "xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "tls", "config": null}],
                         "call_creds": null, "server_features": null}],
        "node": {"id": null, "cluster": null, "metadata": null,
                 "locality": {"region": null, "zone": null, "sub_zone": null}, "user_agent_name": null},
        "authorities": {"a": null, "b": {"xds_servers": null, "client_listener_resource_name_template": null,
                                         "fallback_on_reachability_only": null}},
        "certificate_providers": {"x": {"plugin_name": "y", "config": null},
                                  "z": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "r",
                                        "certificate_file": null, "private_key_file": null, "refresh_interval": null}}},
        "client_default_listener_resource_name_template": null, "server_listener_resource_name_template": null,
        "x_mesh": {"protocol": null, "profile": null, "cache_directory": null, "trust_bundles": null,
                   "fallback_on_reachability_only": null}, "more": null
    }"#;
    let with_nulls = Bootstrap::from_json(nothing).unwrap();
    let bare = r#"{
        "xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "tls"}]}], "authorities": {"a": {}, "b": {}},
        "certificate_providers": {"x": {"plugin_name": "y"},
                                  "z": {"plugin_name": "file_watcher", "config": {"ca_certificate_file": "r"}}}
    }"#;
    let bare = Bootstrap::from_json(bare).unwrap();
    let but_for_config = |bootstrap: &Bootstrap| {
        let mut file: Value = serde_json::from_str(&bootstrap.to_json()).unwrap();
        file["certificate_providers"]["z"]["config"]
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        file
    };
    assert_eq!(but_for_config(&with_nulls), but_for_config(&bare));
    // Of the node's metadata it is a value, and is sent.
    let told = r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}], "node": {"metadata": {"a": null}}}"#;
    assert!(Bootstrap::from_json(told).unwrap().node().metadata["a"].is_null());
}

/// Whoever reads the log of a pod has several files before him.
#[test]
fn an_error_of_a_file_names_the_file_and_the_path_within() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap.json");
    for (text, within) in [
        (r#"{"xds_servers": [}"#, "xds_servers"),
        (
            r#"{"xds_servers": [{"server_uri": "dns://8.8.8.8/a:1", "channel_creds": []}]}"#,
            "xds_servers[0].server_uri",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Bootstrap::from_file(&path).unwrap_err();
        assert_eq!(error.file(), Some(&*path));
        assert!(error.path().unwrap().starts_with(within), "{error}");
        let told = error.to_string();
        assert!(told.contains(path.to_str().unwrap()) && told.contains(within), "{told}");
        assert_eq!(Bootstrap::from_json(text).unwrap_err().file(), None);
    }
}
