//! Which servers there are, and which of them are the same.

use super::*;

const TLS: &str = r#"{"type": "tls", "config": {"ca_certificate": "PEM"}}"#;

fn servers(list: &str) -> Result<Vec<Server>, BootstrapError> {
    Bootstrap::from_json(&format!(r#"{{"xds_servers": [{list}]}}"#)).map(|bootstrap| bootstrap.servers().to_vec())
}

fn entry(uri: &str, creds: &str, more: &str) -> String {
    format!(r#"{{"server_uri": "{uri}", "channel_creds": [{creds}]{more}}}"#)
}

#[test]
fn every_server_is_kept_in_order_of_priority() {
    let insecure = r#"{"type": "insecure"}"#;
    let list = [
        entry("a:1", insecure, ""),
        entry("b:1", TLS, ""),
        entry("a:1", insecure, ""),
    ];
    let servers = servers(&list.join(",")).unwrap();
    let uris: Vec<String> = servers.iter().map(|server| server.uri.to_string()).collect();
    assert_eq!(uris, ["a:1", "b:1", "a:1"]);
}

#[test]
fn the_first_supported_credentials_win() {
    let insecure = r#"{"type": "insecure", "config": 3}"#;
    let alts = r#"{"type": "alts", "config": [1]}"#;
    let google = r#"{"type": "google_default"}"#;
    let table = [
        (vec![insecure], true),
        (vec![alts, insecure], true),
        (vec![google, insecure, TLS], true),
        (vec![alts, TLS, insecure], false),
    ];
    for (creds, is_insecure) in table {
        let servers = servers(&entry("a:1", &creds.join(","), "")).unwrap();
        let found = servers[0].credentials == Credentials::Insecure;
        assert_eq!(found, is_insecure, "{creds:?}");
    }
}

#[test]
fn tls_that_names_no_roots_has_the_systems() {
    for config in ["", r#", "config": {}"#, r#", "config": {"ca_certificate_file": ""}"#] {
        let creds = format!(r#"{{"type": "tls"{config}}}"#);
        let servers = servers(&entry("a:1", &creds, "")).unwrap();
        assert_eq!(
            servers[0].credentials,
            Credentials::Tls(Roots::System.into()),
            "{config}"
        );
    }
}

#[test]
fn a_certificate_for_the_control_plane() {
    let with = |more: &str| {
        let creds = format!(r#"{{"type": "tls", "config": {{"ca_certificate_file": "r.pem"{more}}}}}"#);
        match servers(&entry("a:1", &creds, "")).unwrap().remove(0).credentials {
            Credentials::Tls(tls) => tls,
            other => panic!("{other:?}"),
        }
    };
    let plain = with("");
    assert_eq!(
        (plain.certificate.clone(), plain.refresh_interval),
        (None, Duration::from_secs(600))
    );
    assert!(Credentials::Tls(plain).shows_identity());
    let own = with(r#", "certificate_file": "c.pem", "private_key_file": "k.pem", "refresh_interval": "0.5s""#);
    assert_eq!(own.refresh_interval, Duration::from_millis(500));
    assert_eq!(own.certificate.as_ref().unwrap().private_key, Path::new("k.pem"));
    assert!(!Credentials::Tls(own).shows_identity());
    assert!(!Credentials::Insecure.shows_identity());
    // Empty is absent, as it is to gRPC.
    assert_eq!(
        with(r#", "certificate_file": "", "private_key_file": """#).certificate,
        None
    );
}

#[test]
fn every_supported_call_credential_applies() {
    let more = r#", "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": "a"}},
        {"type": "of_somebody_else", "config": 1}, {"type": "jwt_token_file", "config": {"jwt_token_file": "b"}}]"#;
    let expected = ["a", "b"].map(|path| CallCredentials::JwtTokenFile(path.into()));
    assert_eq!(servers(&entry("a:1", TLS, more)).unwrap()[0].call_credentials, expected);
    // Through a socket file nobody else listens.
    let local = entry("unix:///x", r#"{"type": "insecure"}"#, more);
    assert_eq!(servers(&local).unwrap()[0].call_credentials, expected);
    assert!(
        servers(&entry("a:1", TLS, r#", "call_creds": null"#)).unwrap()[0]
            .call_credentials
            .is_empty()
    );
}

#[test]
fn known_features_are_a_set_and_others_are_ignored() {
    let more = r#", "server_features": ["xds_v3", 1, null, {"xds_v3": 1}, ["fail_on_data_errors"], "later",
        "trusted_xds_server", "ignore_resource_deletion", "xds_v3", "resource_timer_is_transient_error"]"#;
    let features = servers(&entry("a:1", TLS, more)).unwrap().remove(0).features;
    let expected = [
        ServerFeature::XdsV3,
        ServerFeature::IgnoreResourceDeletion,
        ServerFeature::TrustedXdsServer,
        ServerFeature::ResourceTimerIsTransientError,
    ];
    assert_eq!(features.iter().collect::<Vec<_>>(), expected);
    assert!(!features.contains(ServerFeature::FailOnDataErrors));
}

#[test]
fn servers_are_the_same_when_they_may_share_a_stream() {
    let creds = r#", "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": "a"}}]"#;
    let feature = r#", "server_features": ["fail_on_data_errors", "later"]"#;
    let one = |uri: &str, creds: &str, more: &str| servers(&entry(uri, creds, more)).unwrap().remove(0);
    let plain = one("a:1", TLS, "");
    // The same, spelled otherwise or with what nobody reads.
    for uri in ["dns:///a:1", "https://a:1/", "http://a:1"] {
        assert_eq!(one(uri, TLS, r#", "server_features": ["later"]"#), plain);
    }
    let others = [
        one("a:2", TLS, ""),
        one("a:1", r#"{"type": "insecure"}"#, ""),
        one("a:1", r#"{"type": "tls", "config": {"ca_certificate": "OTHER"}}"#, ""),
        one("a:1", TLS, creds),
        one("a:1", TLS, feature),
    ];
    for other in others {
        assert_ne!(other, plain);
    }
}
