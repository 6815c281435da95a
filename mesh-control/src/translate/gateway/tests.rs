//! Routes of the Gateway API: precedence, producers and consumers, and what becomes of what is not there.

use std::sync::Arc;

use http::Request;
use mesh_core::config::{Action, RouteTree, Snapshot};
use mesh_core::entropy::Entropy;
use mesh_core::route::{Edits, RequestHead, first_match, location};

use crate::istio::Documents;
use crate::translate::{ClientScope, Mesh, translate};

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop}
spec: {selector: {app: pay}, ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay-v1, namespace: shop}
spec: {selector: {app: pay, version: v1}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay-v2, namespace: shop}
spec: {selector: {app: pay, version: v2}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {selector: {app: far}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: v1, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: pay, version: v1}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: v2, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: pay, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: far, namespace: other}
spec: {address: 10.0.0.3, labels: {app: far}}
";

/// A route of `kind` in `namespace` for `pay`.
fn route(kind: &str, namespace: &str, rules: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: pay, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: pay, namespace: shop, port: 80}}]
  rules:
{rules}"
    )
}

fn translated(more: &str, namespace: &str) -> (Option<Snapshot>, Vec<String>) {
    let mut documents = Documents::default();
    let mut found = documents.read("f.yaml", &format!("{SERVICES}{more}"));
    let translation = translate(&documents, &Mesh::default(), &ClientScope::namespace(namespace));
    found.extend(translation.diagnostics);
    (translation.snapshot, found.iter().map(ToString::to_string).collect())
}

fn tree(more: &str, namespace: &str, port: u32) -> Arc<RouteTree> {
    let (snapshot, found) = translated(more, namespace);
    let snapshot = snapshot.unwrap_or_else(|| panic!("{found:?}"));
    let target = snapshot
        .target(&format!("pay.shop:{port}"))
        .expect("the service is there");
    Arc::clone(target.as_ref().unwrap())
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// What becomes of a request: the service and the path that it is sent to, or what it is answered.
fn outcome(tree: &RouteTree, request: &Request<()>) -> String {
    let head = RequestHead::of(request, "pay.shop");
    let host = &tree.virtual_hosts[0];
    let entropy = Entropy::seeded(0);
    let Some(index) = first_match(&host.routes, &head, &mut entropy.draw()) else {
        return "404".to_owned();
    };
    let route = &host.routes[index];
    match &route.action {
        Action::Forward(forward) => {
            let share = &forward.split.clusters()[0];
            let (mut uri, mut headers) = (request.uri().clone(), request.headers().clone());
            if let Some(edits) = Edits::of(tree, host, route, Some(share)) {
                Arc::new(edits)
                    .apply(request.method(), &mut uri, &mut headers, "pay.shop")
                    .unwrap();
            }
            let path = uri.path_and_query().map_or("", |path| path.as_str());
            let service = share.cluster.as_str().rsplit('|').next().unwrap();
            format!("{} {path}", service.split('.').next().unwrap())
        }
        Action::Redirect(redirect) => format!(
            "{} {}",
            redirect.status.as_u16(),
            location(redirect, &route.matches, &head)
        ),
        Action::Respond(response) => response.status.as_u16().to_string(),
        Action::Unserved(why) => why.to_string(),
    }
}

#[test]
fn what_asks_for_more_is_tried_first() {
    let rules = "  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: pay, port: 81}]
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: pay-v1, port: 80}]
  - matches: [{path: {value: /a/b/}}, {path: {type: Exact, value: /exact}, method: PUT}]
    backendRefs: [{name: pay-v2, port: 80}]
  - matches: [{path: {type: Exact, value: /exact}}, {path: {value: /a}, headers: [{name: X-V, value: two}]}]
    backendRefs: [{name: pay-v2, port: 80}]
  - matches: [{path: {value: /q}, queryParams: [{name: v, value: '1'}]}]
    backendRefs: [{name: pay-v1, port: 80}]
";
    let tree = tree(&route("HTTPRoute", "shop", rules), "shop", 80);
    for (method, path, headers, expected) in [
        ("GET", "/", &[][..], "pay /"),
        ("GET", "/ab", &[], "pay /ab"),
        ("GET", "/a", &[], "pay-v1 /a"),
        ("GET", "/a/c", &[], "pay-v1 /a/c"),
        ("GET", "/a/c", &[("x-v", "two")], "pay-v2 /a/c"),
        ("GET", "/a/b", &[], "pay-v2 /a/b"),
        ("GET", "/a/bc", &[], "pay-v1 /a/bc"),
        ("GET", "/exact", &[], "pay-v2 /exact"),
        ("GET", "/exact/no", &[], "pay /exact/no"),
        ("GET", "/q?v=1", &[], "pay-v1 /q?v=1"),
        ("GET", "/q?v=2", &[], "pay /q?v=2"),
    ] {
        assert_eq!(
            outcome(&tree, &request(method, path, headers)),
            expected,
            "{method} {path}"
        );
    }
}

#[test]
fn filters_rewrite_redirect_edit_and_copy() {
    let rules = "  - matches: [{path: {value: /prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}]
    backendRefs: [{name: pay-v1, port: 80}]
  - matches: [{path: {value: /cut}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: pay-v1, port: 80}]
  - matches: [{path: {value: /whole}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}, hostname: h.example.com}}]
    backendRefs: [{name: pay-v1, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: h.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /to}, statusCode: 307}}]
  - matches: [{path: {value: /found}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /copied}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: pay-v2, port: 80}, fraction: {numerator: 1, denominator: 8}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: b}], remove: [x-c]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-d, value: e}]}}
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {codes: [500, 503], backoff: 50ms}
    backendRefs: [{name: pay-v1, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-f, value: g}]}}]}]
";
    let tree = tree(&route("HTTPRoute", "shop", rules), "shop", 80);
    for (path, expected) in [
        ("/prefix", "pay-v1 /new"),
        ("/prefix/x?y", "pay-v1 /new/x?y"),
        ("/cut", "pay-v1 /"),
        ("/cut/x", "pay-v1 /x"),
        ("/whole/x/y?z", "pay-v1 /one?z"),
        ("/moved/x", "307 http://h.example.com/to/x"),
        ("/found", "302 https://pay.shop/found"),
        ("/", "404"),
    ] {
        assert_eq!(outcome(&tree, &request("GET", path, &[])), expected, "{path}");
    }
    let routes = &tree.virtual_hosts[0].routes;
    let copied = routes
        .iter()
        .find(|route| route.forward().is_some_and(|forward| !forward.mirrors.is_empty()));
    let copied = copied.unwrap();
    let forward = copied.forward().unwrap();
    assert_eq!(forward.mirrors[0].fraction.map(|fraction| fraction.of), Some(125_000));
    assert!(copied.headers.is_some() && forward.split.clusters()[0].headers.is_some());
    let retry = &copied.retry;
    assert_eq!(
        (
            copied.timeout.unwrap().as_secs(),
            retry.per_try_timeout.unwrap().as_secs()
        ),
        (10, 2)
    );
    assert_eq!((retry.retries, &retry.statuses[..]), (2, &[500, 503][..]));
}

#[test]
fn a_consumers_route_comes_before_the_producers_and_is_for_its_namespace() {
    let to = |name: &str| format!("  - backendRefs: [{{name: {name}, port: 80}}]\n");
    let grant = "---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: web, namespace: shop}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}], to: [{group: '', kind: Service}]}
";
    let own = "  - backendRefs: [{name: pay-v2, namespace: shop, port: 80}]\n";
    let both = [
        route("HTTPRoute", "shop", &to("pay-v1")),
        route("HTTPRoute", "web", own),
        grant.to_owned(),
    ]
    .concat();
    let taken = |client: &str, port: u32| outcome(&tree(&both, client, port), &request("GET", "/", &[]));
    assert_eq!(taken("shop", 80), "pay-v1 /");
    assert_eq!(taken("other", 80), "pay-v1 /");
    assert_eq!(taken("web", 80), "pay-v2 /");
    // The other port has no route of its own.
    assert_eq!(taken("web", 81), "pay /");
}

#[test]
fn what_is_not_there_fails_its_share_alone() {
    let rules = "  - matches: [{path: {value: /none}}]
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: pay-v1, port: 80, weight: 0}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 80}, {name: pay-v1, port: 80, weight: 3}]
  - matches: [{path: {value: /far}}]
    backendRefs: [{name: far, namespace: other, port: 80}]
";
    let text = route("HTTPRoute", "shop", rules);
    let (snapshot, found) = translated(&text, "shop");
    let snapshot = snapshot.unwrap_or_else(|| panic!("{found:?}"));
    for said in [
        "sends its requests nowhere: they are answered 500",
        "no service has host \"gone.shop.svc.cluster.local\": its share of the calls fails",
        "no ReferenceGrant in namespace \"other\" lets a HTTPRoute of namespace \"shop\" name \"far\"",
    ] {
        assert!(found.iter().any(|one| one.contains(said)), "{said}: {found:?}");
    }
    let tree = snapshot.target("pay").unwrap().as_ref().unwrap();
    assert_eq!(outcome(tree, &request("GET", "/none", &[])), "500");
    assert_eq!(outcome(tree, &request("GET", "/zero", &[])), "500");
    let gone = tree.virtual_hosts[0].routes.iter().filter_map(|route| route.split());
    let weights: Vec<Vec<u32>> = gone
        .map(|split| split.clusters().iter().map(|share| share.weight.0).collect())
        .collect();
    assert!(weights.contains(&vec![1, 3]), "{weights:?}");
    let dangling = snapshot.cluster(&"invalid|80|shop|gone.shop.svc.cluster.local".into());
    assert!(dangling.is_some_and(|cluster| cluster.is_err()));
}

#[test]
fn methods_of_grpc_are_paths() {
    let rules = "  - matches: [{method: {service: pay.Pay, method: Charge}}]
    backendRefs: [{name: pay-v2, port: 80}]
  - matches: [{method: {service: pay.Pay}, headers: [{name: x-beta, value: '1'}]}]
    backendRefs: [{name: pay-v2, port: 80}]
  - matches: [{method: {method: Ping}}]
    backendRefs: [{name: pay-v2, port: 80}]
  - matches: [{method: {type: RegularExpression, service: 'old[.].*'}}]
    backendRefs: [{name: pay-v2, port: 80}]
  - backendRefs: [{name: pay-v1, port: 80}]
";
    let tree = tree(&route("GRPCRoute", "shop", rules), "shop", 80);
    for (path, headers, expected) in [
        ("/pay.Pay/Charge", &[][..], "pay-v2"),
        ("/pay.Pay/Refund", &[], "pay-v1"),
        ("/pay.Pay/Refund", &[("x-beta", "1")], "pay-v2"),
        ("/any.Thing/Ping", &[], "pay-v2"),
        ("/old.Pay/Refund", &[], "pay-v2"),
        ("/older/Refund", &[], "pay-v1"),
    ] {
        assert_eq!(
            outcome(&tree, &request("POST", path, headers)),
            format!("{expected} {path}")
        );
    }
}

/// Each field means something, or is named.
#[test]
fn every_field_is_read_or_named() {
    let rule = |field: &str| {
        route(
            "HTTPRoute",
            "shop",
            &format!("  - backendRefs: [{{name: pay-v1, port: 80}}]\n    {field}\n"),
        )
    };
    let filter = |filter: &str| rule(&format!("filters: [{{{filter}}}]"));
    let spec = |field: &str| rule("name: x").replacen("  rules:", &format!("  {field}\n  rules:"), 1);
    let backend = |fields: &str| {
        route(
            "HTTPRoute",
            "shop",
            &format!("  - backendRefs: [{{name: pay-v1, port: 80, {fields}}}]\n"),
        )
    };
    for (text, said) in [
        (spec("hostnames: [a.example.com]"), ""),
        (
            spec("useDefaultGateways: All"),
            "useDefaultGateways: known Istio field, not served",
        ),
        (spec("hosts: [a]"), "unknown field \"hosts\""),
        (
            rule("sessionPersistence: {sessionName: a}"),
            "sessionPersistence: known Istio field, not served",
        ),
        (rule("timeouts: {request: 1s, all: 1s}"), "unknown field \"all\""),
        (rule("retry: {attempts: 3}"), ""),
        (rule("weight: 1"), "unknown field \"weight\""),
        (
            rule("matches: [{path: {type: Suffix, value: /a}}]"),
            "is not one of Exact, PathPrefix, RegularExpression",
        ),
        (
            rule("matches: [{headers: [{type: Prefix, name: a, value: b}]}]"),
            "is not one of Exact, RegularExpression",
        ),
        (rule("matches: [{method: {service: a}}]"), "expected a string"),
        (filter("type: CORS, cors: {}"), "warning[MSH0002]"),
        (filter("type: ExtensionRef, extensionRef: {}"), "error[MSH0003]"),
        (filter("type: URLRewrite"), "urlRewrite is required"),
        (
            filter("type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}"),
            "path needs type and the field of that name",
        ),
        (
            filter(
                "type: RequestMirror, requestMirror: {backendRef: {name: pay-v2, port: 80}, percent: 1, fraction: {numerator: 1}}",
            ),
            "only one of percent and fraction",
        ),
        (backend("kind: Hostname"), "a backend that is no Service is not served"),
        (
            backend("filters: [{type: URLRewrite, urlRewrite: {}}]"),
            "filter URLRewrite is not served here",
        ),
        (
            rule("name: x").replace("kind: Service, name: pay", "kind: Gateway, name: pay"),
            "has no Service for a parent",
        ),
        (
            rule("name: x").replace("port: 80}]\n  rules", "sectionName: http}]\n  rules"),
            "a port of a service is named by port",
        ),
        (
            rule("name: x").replace(
                "name: pay, namespace: shop, port",
                "name: nobody, namespace: shop, port",
            ),
            "warning[IST0174]",
        ),
        (
            rule("name: x").replace("networking.k8s.io/v1", "networking.k8s.io/v3"),
            "is not a version of HTTPRoute",
        ),
    ] {
        let (_, found) = translated(&text, "shop");
        match said {
            "" => assert_eq!(found, Vec::<String>::new(), "{text}"),
            said => assert!(found.iter().any(|one| one.contains(said)), "{said}: {found:?}"),
        }
    }
}

#[test]
fn a_virtual_service_of_the_same_host_is_told_that_it_does_not_count() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec: {hosts: [pay], http: [{route: [{destination: {host: pay-v2}}]}]}
";
    let text = route("HTTPRoute", "shop", "  - backendRefs: [{name: pay-v1, port: 80}]\n") + rule;
    assert_eq!(outcome(&tree(&text, "shop", 80), &request("GET", "/", &[])), "pay-v1 /");
    let (_, found) = translated(&text, "shop");
    assert!(
        found.iter().any(|one| one.contains("routes of the Gateway API for")),
        "{found:?}"
    );
}
