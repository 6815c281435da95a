//! What is told of policies: what holds only sometimes, and what is not understood, which nothing of is served.

use super::*;

/// What has an effect only sometimes is told, and taken.
#[test]
fn az_9_what_holds_only_sometimes_is_a_warning() {
    for (spec, expected) in [
        ("{rules: [{to: [{operation: {paths: [/a//b]}}]}]}", "MeshLayer::paths"),
        (
            "{rules: [{when: [{key: 'request.headers[x-forwarded-for]', values: [a]}]}]}",
            "taken off",
        ),
    ] {
        let (documents, _) = read(&[spec]);
        let mut findings = Findings::default();
        Policies::new(&documents, &Mesh::default(), &mut findings);
        let all: Vec<_> = findings.0.into_iter().collect();
        assert!(
            all.iter().any(|finding| finding.message.contains(expected)),
            "{spec}: {all:?}"
        );
        assert!(
            all.iter().all(|finding| finding.severity == Severity::Warning),
            "{spec}: {all:?}"
        );
    }
}

/// Of two documents of one name, Kubernetes would hold one. Neither is guessed.
#[test]
fn az_9_a_name_that_is_given_twice_is_an_error() {
    let document = |kind: &str, namespace: &str, spec: &str| {
        format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p{namespace}}}\nspec: {spec}\n")
    };
    for (kind, spec) in [
        ("AuthorizationPolicy", "{action: DENY}"),
        ("PeerAuthentication", "{mtls: {mode: STRICT}}"),
        ("RequestAuthentication", "{}"),
    ] {
        let mut documents = Documents::default();
        assert_eq!(documents.read("a.yaml", &document(kind, "", spec)), [], "{kind}");
        // The namespace that is not written is a namespace like others.
        let found = documents.read("b.yaml", &document(kind, ", namespace: default", spec));
        let [finding] = &*found else {
            panic!("{kind}: {found:?}")
        };
        assert!(finding.is_error() && &*finding.file == "b.yaml", "{found:?}");
        assert!(finding.message.contains("a.yaml:4"), "{found:?}");
        assert_eq!(
            documents.read("c.yaml", &document(kind, ", namespace: other", spec)),
            [],
            "{kind}"
        );
    }
}

/// A typo in front of the kind must not open what it closes.
#[test]
fn az_9_a_kind_of_ours_in_another_group_is_an_error() {
    for kind in ["AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication"] {
        for version in ["apiVersion: security.istio/v1\n", "", "apiVersion: v1\n"] {
            let text = format!("{version}kind: {kind}\nmetadata: {{name: p}}\nspec: {{}}\n");
            let found = Documents::default().read("f.yaml", &text);
            assert!(matches!(&*found, [finding] if finding.is_error()), "{text}{found:?}");
        }
        let text = format!("apiVersion: policy.linkerd.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{}}\n");
        assert!(
            !Documents::default()
                .read("f.yaml", &text)
                .iter()
                .any(Diagnostic::is_error)
        );
    }
}

/// AZ-9: nothing is skipped. Each is an error, so the last good configuration stays.
#[test]
fn az_9_what_is_not_understood_is_an_error() {
    for (spec, expected) in [
        ("{rule: []}", "unknown field"),
        ("{action: ALOW}", "is not one of"),
        ("{action: CUSTOM}", "asks for provider.name"),
        ("{action: CUSTOM, provider: {}}", "name is required"),
        ("{provider: {name: x}}", "for action CUSTOM alone"),
        ("{targetRefs: []}", "not served"),
        ("{rules: [{from: []}]}", "must not be an empty list"),
        ("{rules: [{from: [{}]}]}", "source is required"),
        ("{rules: [{from: [{source: {}}]}]}", "must say something"),
        (
            "{rules: [{from: [{source: {principals: []}}]}]}",
            "must not be an empty list",
        ),
        ("{rules: [{from: [{source: {principals: ['']}}]}]}", "must not be empty"),
        ("{rules: [{from: [{source: {principal: [a]}}]}]}", "unknown field"),
        ("{rules: [{to: [{operation: {}}]}]}", "must say something"),
        ("{rules: [{when: [{key: x, values: [a]}]}]}", "is not an attribute"),
        ("{rules: [{when: [{key: source.ip}]}]}", "values or notValues"),
        (
            "{rules: [{when: [{key: 'request.auth.claims[a]b', values: [a]}]}]}",
            "is not an attribute",
        ),
        (
            "{rules: [{when: [{key: experimental.envoy.filters.a, values: [a]}]}]}",
            "not looked at",
        ),
        (
            "{rules: [{from: [{source: {principals: [cluster.local/ns/a*]}}]}]}",
            "whole segments",
        ),
        (
            "{rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b c]}}]}]}",
            "nobody's principal",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}",
            "is not an account",
        ),
        (
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
            "is not an IP address",
        ),
        (
            "{action: DENY, rules: [{to: [{operation: {paths: [/a/../b]}}]}]}",
            "no request has the path",
        ),
        (
            "{action: DENY, rules: [{to: [{operation: {paths: ['/%61*']}}]}]}",
            "no request has the path",
        ),
        ("{rules: [{to: [{operation: {paths: ['/{*}x']}}]}]}", "whole segments"),
        (
            "{rules: [{to: [{operation: {paths: ['*/../admin']}}]}]}",
            "no request has the path",
        ),
        (
            "{rules: [{to: [{operation: {paths: ['/%61dmin/{**}']}}]}]}",
            "no request has the path",
        ),
        (
            "{rules: [{to: [{operation: {paths: ['/users/a%40b']}}]}]}",
            "no request has the path",
        ),
        (
            "{rules: [{to: [{operation: {paths: ['*admin*']}}]}]}",
            "at one end only",
        ),
        (
            "{rules: [{to: [{operation: {hosts: [pay.shop.]}}]}]}",
            "no request has the host",
        ),
        (
            "{rules: [{to: [{operation: {hosts: ['pay.shop:08080']}}]}]}",
            "no request has the host",
        ),
        (
            "{rules: [{to: [{operation: {hosts: [user@pay.shop]}}]}]}",
            "no request has the host",
        ),
        (
            "{rules: [{to: [{operation: {hosts: ['[0:0:0:0:0:0:0:1]']}}]}]}",
            "no request has the host",
        ),
        (
            "{rules: [{to: [{operation: {hosts: ['*pay*']}}]}]}",
            "no request has the host",
        ),
        (
            "namespace: shop, annotations: {istio.io/dry-run: maybe}|{}",
            "neither true nor false",
        ),
        ("{rules: [{to: [{operation: {methods: [get]}}]}]}", "upper case"),
        ("{rules: [{to: [{operation: {ports: ['0']}}]}]}", "is not a port"),
        (
            "{rules: [{when: [{key: 'request.headers[:scheme]', values: [a]}]}]}",
            "is not a header",
        ),
        (
            "{rules: [{when: [{key: 'request.headers[grpc-x]', values: [a]}]}]}",
            "is not a header",
        ),
    ] {
        let (documents, diagnostics) = read(&[spec]);
        let mut findings = Findings::default();
        Policies::new(&documents, &Mesh::default(), &mut findings);
        let all: Vec<_> = diagnostics
            .into_iter()
            .chain(findings.0)
            .filter(Diagnostic::is_error)
            .collect();
        assert!(
            all.iter().any(|finding| finding.message.contains(expected)),
            "{spec}: {all:?}"
        );
        assert!(all.iter().all(|finding| finding.line > 0), "{spec}: {all:?}");
    }
}
