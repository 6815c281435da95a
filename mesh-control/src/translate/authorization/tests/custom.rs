//! Policies that have others asked: who is, about what, and what becomes of a provider that is not there.

use mesh_core::config::{AskedAbout, CheckService};

use super::*;

const CONFIG: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: authz, namespace: auth}
spec:
  hosts: [authz.auth.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: http, protocol: HTTP2}]
  endpoints: [{address: 10.0.0.9}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    extensionProviders:
    - name: metrics
      prometheus: {}
    - name: grpc
      envoyExtAuthzGrpc: {service: auth/authz.auth.svc.cluster.local, port: \"9000\", failOpen: true, statusOnError: \"503\"}
    - name: http
      envoyExtAuthzHttp:
        service: authz.auth.svc.cluster.local
        port: 9000
        timeout: 1.5s
        pathPrefix: /check
        includeRequestHeadersInCheck: [X-Key, 'x-a*']
        includeAdditionalHeadersInCheck: {x-from: mesh}
        includeRequestBodyInCheck: {maxRequestBytes: 4096, allowPartialMessage: true}
        headersToUpstreamOnAllow: ['*-user']
        headersToDownstreamOnDeny: [x-why]
    - name: gone
      envoyExtAuthzGrpc: {service: gone.auth.svc.cluster.local, port: 9000}
---
";

/// What becomes of policies of action CUSTOM, beside the configuration above; and what is said of it.
fn custom(policies: &str) -> (Authorization, String) {
    let mut documents = Documents::default();
    let text = format!("{CONFIG}{policies}");
    let read = documents.read("f.yaml", &text);
    assert!(!read.iter().any(Diagnostic::is_error), "{read:?}");
    let (mesh, scope) = (Mesh::default(), ClientScope::namespace("shop"));
    let mut findings = Findings::default();
    let registry = Registry::new(&documents, &mesh, &scope, &mut findings);
    let policies = Policies::new(&documents, &mesh, &mut findings).with_providers(&scope, &registry, &mut findings);
    let authorization = policies.of_workload("shop", &BTreeMap::new(), &mut findings);
    assert!(
        findings.0.iter().all(|finding| finding.severity == Severity::Warning),
        "{:?}",
        findings.0
    );
    (authorization, findings.0.iter().map(ToString::to_string).collect())
}

fn asking(name: &str, annotation: &str, provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop{annotation}}}\n\
         spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/{name}]}}}}]}}]}}\n---\n"
    )
}

#[test]
fn custom_has_the_authorizers_of_the_mesh_asked() {
    let (authorization, said) =
        custom(&(asking("b", "", "http") + &asking("a", "", "grpc") + &asking("c", "", "http")));
    assert!(
        said.contains("sees no service \"gone") && !said.contains("denies what"),
        "{said}"
    );
    let [grpc, http] = authorization.checks() else {
        panic!("{authorization:?}")
    };
    let names = |check: &ExtAuthz| match &check.about {
        AskedAbout::Matched(policies) => policies
            .iter()
            .map(|policy| policy.name.to_string())
            .collect::<Vec<_>>(),
        AskedAbout::Everything => panic!("not about everything"),
    };
    assert_eq!(names(grpc), ["istio-ext-authz-grpc-ns[shop]-policy[a]-rule[0]"]);
    assert_eq!(names(http).len(), 2);
    assert_eq!(&*grpc.cluster, "outbound|9000||authz.auth.svc.cluster.local");
    assert_eq!(grpc.target(), "authz.auth.svc.cluster.local:9000");
    assert_eq!((grpc.on_failure.allow, grpc.on_failure.status.as_u16()), (true, 503));
    assert_eq!((http.on_failure.allow, http.on_failure.status.as_u16()), (false, 403));
    assert_eq!(http.timeout, std::time::Duration::from_millis(1500));
    let exact = |text: &str| StringMatch::Exact(text.into());
    assert_eq!(
        http.headers.allowed,
        Some(vec![exact("x-key"), StringMatch::Prefix("x-a".into())])
    );
    assert_eq!(
        http.body.map(|body| (body.max_bytes, body.allow_partial)),
        Some((4096, true))
    );
    let CheckService::Http(how) = &http.service else {
        panic!("by HTTP")
    };
    assert_eq!((&*how.path_prefix, how.add.len()), ("/check", 1));
    assert_eq!(
        (&how.upstream, &how.client_on_deny),
        (&vec![StringMatch::Suffix("-user".into())], &Some(vec![exact("x-why")]))
    );
    // Nobody here can ask, so what they match does not pass; all else does.
    assert!(!passes(&authorization, "", "GET https://a/a") && !passes(&authorization, "", "GET https://a/c"));
    assert!(passes(&authorization, "", "GET https://a/x"));
}

#[test]
fn az_11_a_provider_that_is_not_there_denies_what_it_would_be_asked_about() {
    for provider in ["nobody", "gone", "metrics"] {
        let (authorization, said) = custom(&asking("a", "", provider));
        assert!(said.contains("denies what it would have asked about"), "{said}");
        assert!(authorization.checks().is_empty());
        assert!(!passes(&authorization, "", "GET https://a/a") && passes(&authorization, "", "GET https://a/x"));
    }
    // One that is only looked at has nobody asked.
    let (authorization, _) = custom(&asking("a", ", annotations: {istio.io/dry-run: 'true'}", "nobody"));
    assert!(authorization.checks().is_empty() && passes(&authorization, "", "GET https://a/a"));
}

#[test]
fn an_authorizer_that_is_not_understood_is_an_error() {
    for (what, expected) in [
        ("{name: a, envoyExtAuthzGrpc: {service: a}}", "port is required"),
        ("{name: a, envoyExtAuthzGrpc: {service: a, port: 0}}", "not a port"),
        ("{name: a, envoyExtAuthzGrpc: {port: 1}}", "service is required"),
        ("{envoyExtAuthzGrpc: {service: a, port: 1}}", "name is required"),
        (
            "{name: a, envoyExtAuthzGrpc: {service: a, port: 1, pathPrefix: /}}",
            "unknown field",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, pathPrefix: x}}",
            "begin with a slash",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, headersToUpstreamOnAllow: ['*']}}",
            "not supported",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, statusOnError: '99'}}",
            "not an HTTP status",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1, includeRequestBodyInCheck: {}}}",
            "maxRequestBytes",
        ),
        (
            "{name: a, envoyExtAuthzHttp: {service: a, port: 1}, envoyExtAuthzGrpc: {service: a, port: 1}}",
            "only one of",
        ),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    extensionProviders: [{what}]\n"
        );
        let found = Documents::default().read("f.yaml", &text);
        let errors: Vec<_> = found.iter().filter(|finding| finding.is_error()).collect();
        assert!(
            errors.iter().any(|finding| finding.message.contains(expected)),
            "{what}: {found:?}"
        );
        assert!(errors.iter().all(|finding| finding.line > 0), "{what}: {found:?}");
    }
}
