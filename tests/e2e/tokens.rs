//! Whose tokens a workload believes is what `RequestAuthentication` says, and what they are good for is what `AuthorizationPolicy` says:
//! from saved files to the next request of real callers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

#[tokio::test]
async fn az_12_tokens_are_believed_and_asked_for_by_what_documents_say() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    let (backend, _server) = mesh.serve(first, "v1").await;
    let (mut client, _caller) = mesh.checkout("payment-service").await;
    let mut call = async |bearer: Option<&str>| {
        let mut request = tonic::Request::new(ChargeRequest::default());
        if let Some(token) = bearer {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        match soon("a call", client.charge(request)).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    };
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

    // A document without keys that can be had changes nothing.
    mesh.save(
        "tokens.yaml",
        &document(
            "RequestAuthentication",
            "{jwtRules: [{issuer: x, jwksUri: 'http://127.0.0.1:1/'}]}",
        ),
    );
    mesh.until_read(mesh_control::Status::is_rejected).await;
    assert_eq!(call(Some(&forged)).await, Code::Unauthenticated);
}
