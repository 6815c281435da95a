//! How many requests a workload takes is what an `EnvoyFilter` with a local rate limit says: from a saved file to the next request of a
//! connection that is open, and no save gives anybody a token.

use std::time::Duration;

use examples::load::{Client, Tally};
use tests::{Mesh, listener, routes, soon, workloads};

/// A pause between two looks: a server does not say what it goes by.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The document of Istio's task, but for how many there are, in an hour.
fn limit(tokens: u32) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: filter-local-ratelimit-svc, namespace: default}}
spec:
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener:
          filterChain:
            filter: {{name: envoy.filters.network.http_connection_manager}}
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.http.local_ratelimit
          typed_config:
            '@type': type.googleapis.com/udpa.type.v1.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value:
              stat_prefix: http_local_rate_limiter
              token_bucket: {{max_tokens: {tokens}, tokens_per_fill: {tokens}, fill_interval: 3600s}}
              filter_enabled: {{default_value: {{numerator: 100, denominator: HUNDRED}}}}
              filter_enforced: {{default_value: {{numerator: 100, denominator: HUNDRED}}}}
              rate_limited_as_resource_exhausted: true
"
    )
}

/// Of so many calls, how many were answered, and what the others were told.
async fn calls(client: &mut Client, count: usize) -> (u64, String) {
    let tally = Tally::default();
    for _ in 0..count {
        soon("a call", tally.call(client)).await;
    }
    let counts = tally.counts();
    (count as u64 - counts.failed, format!("{:?}", counts.errors))
}

#[tokio::test]
async fn a_workload_takes_as_many_requests_as_its_document_says() {
    let ((first, v1), (_unserved, v2)) = (listener().await, listener().await);
    let mesh = Mesh::start(&[("workloads.yaml", &workloads(v1, v2)), ("routes.yaml", &routes(100, 0))]).await;
    let (backend, _member) = mesh.serve(first, "v1").await;
    let (mut checkout, _checkout) = mesh.checkout("payment-service").await;
    assert_eq!(calls(&mut checkout, 10).await.0, 10);

    // Twenty tokens, and after them nothing for long.
    mesh.save("limits.yaml", &limit(20));
    let limited = async {
        while backend.link.tally().get("rate_limited", "local") == 0 {
            calls(&mut checkout, 1).await;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the limit to reach the server", limited).await;
    let before = backend.handled();
    let (answered, told) = calls(&mut checkout, 10).await;
    assert_eq!((answered, backend.handled()), (0, before), "{told}");
    assert!(told.contains("local_rate_limited"), "{told}");

    // Every save is a push, and none of them gives a token.
    for tokens in [21, 20, 22] {
        mesh.save("limits.yaml", &limit(tokens));
        mesh.until_read(|status| !status.is_rejected()).await;
        assert_eq!(calls(&mut checkout, 5).await.0, 0);
    }

    // Without the document there is no limit.
    std::fs::remove_file(mesh.path("limits.yaml")).unwrap();
    let free = async {
        while calls(&mut checkout, 1).await.0 == 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    soon("the limit to be gone", free).await;
    assert_eq!(calls(&mut checkout, 50).await.0, 50);
    assert_eq!(backend.link.tally().total("connection_revoked"), 0);
}
