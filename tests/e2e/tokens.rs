//! Whose tokens a workload believes is what `RequestAuthentication` says, and what they are good for is what `AuthorizationPolicy` says:
//! from saved files to the next request of real callers.

use std::collections::HashMap;
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use examples::load::Client;
use examples::proto::ChargeRequest;
use mesh_core::testing::TestIssuer;
use tests::{Mesh, listener, routes, soon, workloads};
use tonic::Code;

/// A pause between two looks: a server does not say what it goes by.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const ISSUER: &str = "https://issuer.example";

fn document(kind: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: one, namespace: default}}
spec: {spec}
"
    )
}

fn token(issuer: &TestIssuer, subject: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let end = now + 600;
    issuer.token(&format!(
        r#"{{"iss":"{ISSUER}","sub":"{subject}","exp":{end},"realm":{{"roles":["teller"]}}}}"#
    ))
}

/// What comes of a call with this token, or without any.
async fn call(client: &Client, bearer: Option<&str>) -> Code {
    let mut request = tonic::Request::new(ChargeRequest::default());
    if let Some(token) = bearer {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    match soon("a call", client.clone().charge(request)).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[tokio::test]
async fn az_12_tokens_are_believed_and_asked_for_by_what_documents_say() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    let (backend, _server) = mesh.serve(first, "v1").await;
    let (client, _caller) = mesh.checkout("payment-service").await;
    let call = async |bearer: Option<&str>| call(&client, bearer).await;
    let (issuer, stranger) = (TestIssuer::new("k1"), TestIssuer::new("k1"));
    let (alice, bob) = (token(&issuer, "alice"), token(&issuer, "bob"));
    let forged = token(&stranger, "alice");
    assert_eq!(call(Some(&forged)).await, Code::Ok, "nobody looks at tokens");

    // Whose tokens are good: none passes as before, and a bad one does not.
    let believed = document(
        "RequestAuthentication",
        &format!("{{jwtRules: [{{issuer: '{ISSUER}', jwks: '{}'}}]}}", issuer.jwks()),
    );
    mesh.save("tokens.yaml", &believed);
    let told = async {
        while call(Some(&forged)).await != Code::Unauthenticated {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the server", told).await;
    assert_eq!((call(None).await, call(Some(&alice)).await), (Code::Ok, Code::Ok));

    // What they are good for.
    let asked = |rule: &str| document("AuthorizationPolicy", &format!("{{rules: [{rule}]}}"));
    for (rule, expected) in [
        (
            "{from: [{source: {requestPrincipals: ['*']}}]}".to_owned(),
            [false, true, true],
        ),
        (
            format!("{{from: [{{source: {{requestPrincipals: ['{ISSUER}/bob']}}}}]}}"),
            [false, false, true],
        ),
        (
            "{when: [{key: 'request.auth.claims[realm][roles]', values: [teller]}]}".into(),
            [false, true, true],
        ),
        (
            format!("{{when: [{{key: request.auth.principal, notValues: ['{ISSUER}/alice']}}]}}"),
            [true, false, true],
        ),
    ] {
        mesh.save("policy.yaml", &asked(&rule));
        let expected = expected.map(|passes| if passes { Code::Ok } else { Code::PermissionDenied });
        let told = async {
            while [call(None).await, call(Some(&alice)).await, call(Some(&bob)).await] != expected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        soon("the policy to reach the server", told).await;
        // Whatever the policy asks for, a bad token is a bad token.
        let before = backend.handled();
        assert_eq!(
            (call(Some(&forged)).await, backend.handled()),
            (Code::Unauthenticated, before)
        );
    }

    // A document whose keys may not be had changes nothing.
    mesh.save(
        "tokens.yaml",
        &document(
            "RequestAuthentication",
            "{jwtRules: [{issuer: x, jwksUri: 'http://issuer.example/'}]}",
        ),
    );
    mesh.until_read(mesh_control::Status::is_rejected).await;
    assert_eq!(call(Some(&forged)).await, Code::Unauthenticated);
}

/// An issuer over HTTP, and what it answers now to whom.
#[derive(Clone, Default)]
struct Issuing(Arc<Mutex<HashMap<&'static str, String>>>);

impl Issuing {
    async fn start(&self) -> SocketAddr {
        let answers = self.clone();
        let answer = move |request: axum::extract::Request| {
            let answer = answers.0.lock().unwrap().get(request.uri().path()).cloned();
            async move { answer.ok_or(http::StatusCode::SERVICE_UNAVAILABLE) }
        };
        let (listener, address) = listener().await;
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        address
    }

    fn say(&self, path: &'static str, answer: &str) {
        self.0.lock().unwrap().insert(path, answer.to_owned());
    }
}

/// What the control plane complains of.
fn said(mesh: &Mesh) -> Vec<String> {
    let status = mesh.control().status();
    status.diagnostics.iter().map(ToString::to_string).collect()
}

/// Whether the control plane complains of keys.
fn lacks_keys(status: &mesh_control::Status) -> bool {
    status
        .diagnostics
        .iter()
        .any(|finding| finding.code.as_str() == "MSH0009")
}

/// Keys that stand elsewhere are fetched by the control plane. Without any, nobody's token is good; the last good ones outlive their issuer.
#[tokio::test]
async fn az_12_keys_are_fetched_and_kept_and_without_any_no_token_is_good() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start_with(
        &[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))],
        |builder| builder.jwks_refresh_interval(Duration::from_millis(100)),
    )
    .await;
    let (backend, _server) = mesh.serve(first, "v1").await;
    let (client, _caller) = mesh.checkout("payment-service").await;
    let call = async |bearer: Option<&str>| call(&client, bearer).await;
    let (old, new, issuing) = (TestIssuer::new("k1"), TestIssuer::new("k2"), Issuing::default());
    let (with_old, with_new) = (token(&old, "alice"), token(&new, "alice"));
    let address = issuing.start().await;

    // The issuer answers nothing: its tokens are bad, and whoever has none passes as ever.
    let rule = format!("{{jwtRules: [{{issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'}}]}}");
    mesh.save("tokens.yaml", &document("RequestAuthentication", &rule));
    mesh.until_read(lacks_keys).await;
    let told = async {
        while call(Some(&with_old)).await != Code::Unauthenticated {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the rule to reach the server", told).await;
    let before = backend.handled();
    assert_eq!(
        (call(Some(&with_old)).await, backend.handled()),
        (Code::Unauthenticated, before)
    );
    assert_eq!(call(None).await, Code::Ok);

    // It comes back, has other keys, and is gone: each is taken over, and the last good ones stay.
    for (keys, expected) in [
        (old.jwks(), [Code::Ok, Code::Unauthenticated]),
        (new.jwks(), [Code::Unauthenticated, Code::Ok]),
    ] {
        issuing.say("/keys", &keys);
        let told = async {
            while [call(Some(&with_old)).await, call(Some(&with_new)).await] != expected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        soon("the keys to reach the server", told).await;
    }
    mesh.until_read(|status| !lacks_keys(status)).await;
    issuing.say("/keys", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AA\"}]}");
    mesh.until_read(lacks_keys).await;
    // Nor does a bad save lose them.
    mesh.save("broken.yaml", "[");
    mesh.until_read(mesh_control::Status::is_rejected).await;
    assert_eq!(
        [call(Some(&with_old)).await, call(Some(&with_new)).await],
        [Code::Unauthenticated, Code::Ok]
    );
    std::fs::remove_file(mesh.path("broken.yaml")).unwrap();
    mesh.until_read(|status| !status.is_rejected()).await;

    // An issuer may be asked where its keys are.
    let me = format!("http://{address}");
    issuing.say(
        "/.well-known/openid-configuration",
        &format!("{{\"issuer\":\"{me}\",\"jwks_uri\":\"{me}/found\"}}"),
    );
    issuing.say("/found", &old.jwks());
    let rule = format!("{{jwtRules: [{{issuer: '{me}'}}]}}");
    mesh.save("tokens.yaml", &document("RequestAuthentication", &rule));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let found = old.token(&format!("{{\"iss\":\"{me}\",\"sub\":\"alice\",\"exp\":{}}}", now + 600));
    let told = async {
        while [call(Some(&found)).await, call(Some(&with_new)).await] != [Code::Ok, Code::Unauthenticated] {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the keys that were found to reach the server", told).await;
}

/// A control plane that starts while an issuer is away has the keys that the one before it had fetched, and says so. One without a state
/// directory has none.
#[tokio::test]
async fn az_12_fetched_keys_outlive_a_restart() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let (issuer, issuing, state) = (TestIssuer::new("k1"), Issuing::default(), tempfile::tempdir().unwrap());
    let address = issuing.start().await;
    issuing.say("/keys", &issuer.jwks());
    let rule = format!("{{jwtRules: [{{issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'}}]}}");
    let documents = [
        ("workloads.yaml", workloads(v1, v2)),
        ("routes.yaml", routes(100, 0)),
        ("tokens.yaml", document("RequestAuthentication", &rule)),
    ];
    let documents = documents.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut before = Mesh::start_with(&documents, |builder| builder.state(state.path())).await;
    assert!(!lacks_keys(&before.control().status()));
    before.stop_control().await;
    // From now on it answers nothing.
    issuing.0.lock().unwrap().clear();

    let mesh = Mesh::start_with(&documents, |builder| builder.state(state.path())).await;
    let complaints = said(&mesh);
    assert!(
        complaints
            .iter()
            .any(|text| text.contains("those from before the restart stay")),
        "{complaints:?}"
    );
    let (_backend, _server) = mesh.serve(first, "v1").await;
    let (client, _caller) = mesh.checkout("payment-service").await;
    let (good, forged) = (token(&issuer, "alice"), token(&TestIssuer::new("k1"), "alice"));
    assert_eq!(call(&client, Some(&good)).await, Code::Ok);
    assert_eq!(call(&client, Some(&forged)).await, Code::Unauthenticated);

    let forgetful = Mesh::start(&documents).await;
    let complaints = said(&forgetful);
    assert!(
        complaints
            .iter()
            .any(|text| text.contains("are refused until there are")),
        "{complaints:?}"
    );
}
