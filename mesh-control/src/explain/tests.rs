//! Requests that meet each kind of rule, and the line that is named for it.

use super::*;

const MESH: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: grpc, protocol: GRPC}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: pay}
  - {address: 10.0.0.2, labels: {version: v2}, serviceAccount: pay}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: shop}
spec:
  host: pay
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay]
  http:
  - name: beta
    match:
    - uri: {prefix: /nothing}
    - headers: {x-beta: {exact: \"1\"}}
    route: [{destination: {host: pay, subset: v2}}]
    timeout: 3s
  - route:
    - {destination: {host: pay, subset: v1}, weight: 95}
    - {destination: {host: pay, subset: v2}, weight: 5}
    retries: {attempts: 4, perTryTimeout: 200ms, retryOn: 5xx}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: [shop]}}]
    to: [{operation: {paths: [/admin]}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

fn asked(from: &str, path: &str, headers: &[(&str, &str)]) -> Asked {
    Asked {
        from: from.into(),
        target: "xds:///pay.shop".into(),
        method: "POST".into(),
        path: path.into(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    }
}

fn explained(text: &str, asked: &Asked) -> Result<Explanation, ExplainRefusal> {
    let mut documents = Documents::default();
    let diagnostics = documents.read("mesh.yaml", text);
    explain(&Reading { documents, diagnostics }, &Mesh::default(), asked)
}

fn lines(origins: &[Origin]) -> Vec<u32> {
    origins.iter().map(|origin| origin.line).collect()
}

#[test]
fn the_route_is_that_of_the_data_plane_and_has_its_line() {
    let beta = explained(MESH, &asked("shop/web", "/p", &[("x-beta", "1")])).unwrap();
    let route = beta.route.unwrap();
    assert_eq!((route.index, &*route.name, route.timeout_ms), (1, "beta", Some(3000)));
    assert_eq!(lines(&route.origins), [32], "the second match");
    assert_eq!(route.shares.len(), 1);
    let rest = explained(MESH, &asked("shop/web", "/p", &[])).unwrap().route.unwrap();
    assert_eq!((rest.index, rest.retries, rest.per_try_timeout_ms), (2, 4, Some(200)));
    assert_eq!(lines(&rest.origins), [35]);
    let shares: Vec<_> = rest.shares.iter().map(|share| (share.weight, share.total)).collect();
    assert_eq!(shares, [(95, 100), (5, 100)]);
    assert_eq!(lines(&rest.shares[1].origins), [5, 21], "the service and the subset");
    assert_eq!(
        (&*rest.shares[1].called_by, &*rest.shares[1].balancing),
        ("mutual TLS", "RoundRobin")
    );
    let endpoint = &rest.shares[1].endpoints[0];
    assert_eq!(
        (&*endpoint.address, endpoint.origin.as_ref().unwrap().line),
        ("10.0.0.2:80", 11)
    );
}

#[test]
fn the_policy_is_that_of_the_server_and_has_its_line() {
    let verdict = |from: &str, path: &str| {
        let explained = explained(MESH, &asked(from, path, &[])).unwrap();
        let server = explained.route.unwrap().shares[0].endpoints[0].clone();
        (server.verdict, lines(&server.decided_by))
    };
    assert_eq!(verdict("shop/web", "/p"), (Verdict::Served, vec![52]));
    assert_eq!(verdict("other/web", "/admin"), (Verdict::Served, vec![52]));
    let closed = Verdict::Refused("by ns[shop]-policy[closed]-rule[0]".into());
    assert_eq!(verdict("shop/web", "/admin"), (closed.clone(), vec![52, 46]));
    // The server judges the canonical form, as it serves it.
    assert_eq!(verdict("shop/web", "/x/../admin"), (closed, vec![52, 46]));
    let (Verdict::Refused(why), _) = verdict("shop/web", "/a%00b") else {
        panic!("no canonical form")
    };
    assert!(why.contains("with 400"), "{why}");
}

#[test]
fn a_server_that_takes_plaintext_alone_is_not_called_otherwise() {
    let plain = MESH
        .replace("STRICT", "DISABLE")
        .replace("action: DENY", "action: ALLOW");
    let explained = explained(&plain, &asked("shop/web", "/admin", &[])).unwrap();
    let server = explained.route.unwrap().shares[0].endpoints[0].clone();
    assert_eq!(
        server.verdict,
        Verdict::Refused("no policy allows it".into()),
        "nobody is anybody by plaintext"
    );
    assert_eq!(lines(&server.decided_by), [52, 44]);
}

#[test]
fn what_cannot_be_explained_says_why() {
    let known = explained(
        MESH,
        &Asked {
            target: "nobody".into(),
            ..asked("shop/web", "/", &[])
        },
    )
    .unwrap_err();
    assert!(
        known.to_string().contains("it may call pay, pay:80, pay.shop"),
        "{known}"
    );
    let errors = explained(&MESH.replace("subset: v2", "subset: v9"), &asked("shop/web", "/", &[])).unwrap_err();
    assert!(errors.to_string().contains("IST0101"), "{errors}");
    for request in [
        Asked {
            method: "G T".into(),
            ..asked("web", "/", &[])
        },
        asked("web", "/ /", &[]),
        asked("web", "/", &[("a b", "c")]),
        asked("a/b/ c", "/", &[]),
    ] {
        assert!(
            matches!(explained(MESH, &request), Err(ExplainRefusal::Request(_))),
            "{request:?}"
        );
    }
}

#[test]
fn what_is_rewritten_answered_broken_and_copied_is_said() {
    let rules = "  - name: old
    match: [{uri: {prefix: /old}}]
    rewrite: {uri: /admin}
    route: [{destination: {host: pay, subset: v1}}]
  - name: gone
    match: [{uri: {prefix: /gone}}]
    redirect: {uri: \"%PREFIX()%/here\", redirectCode: 307}
  - name: said
    match: [{uri: {exact: /said}}]
    directResponse: {status: 418, body: {string: tea}}
  - name: broken
    match: [{uri: {exact: /broken}}]
    fault: {delay: {fixedDelay: 2s, percentage: {value: 50}}, abort: {httpStatus: 503, percentage: {value: 1}}}
    mirror: {host: pay, subset: v2}
    route: [{destination: {host: pay, subset: v1}}]
";
    let mesh = MESH.replacen("  - name: beta\n", &format!("{rules}  - name: beta\n"), 1);
    let taken = |path: &str| explained(&mesh, &asked("shop/web", path, &[])).unwrap().route.unwrap();
    // The server's policy is asked about the path that it gets.
    let server = taken("/old").shares[0].endpoints[0].clone();
    assert_eq!(
        server.verdict,
        Verdict::Refused("by ns[shop]-policy[closed]-rule[0]".into())
    );
    let gone = taken("/gone/by");
    assert_eq!(gone.answer.as_deref(), Some("307, to http://pay.shop/here/by"));
    assert!(gone.shares.is_empty());
    assert_eq!(taken("/said").answer.as_deref(), Some("418, with a body of 3 bytes"));
    let broken = taken("/broken");
    assert_eq!(
        broken.faults,
        [
            "500000 of 1000000 are held up for 2s",
            "10000 of 1000000 are answered 503"
        ]
    );
    assert_eq!(broken.mirrors, ["all to outbound|80|v2|pay.shop.svc.cluster.local"]);
}
