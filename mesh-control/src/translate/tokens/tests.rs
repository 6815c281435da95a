//! Documents about tokens: what is read of them, which of them mean a workload, and what is an error.

use super::*;
use crate::diagnostic::Diagnostic;

fn read(specs: &[(&str, String)]) -> (Documents, Vec<Diagnostic>) {
    let mut text = String::new();
    for (number, (namespace, spec)) in specs.iter().enumerate() {
        text += &format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r{number}, namespace: {namespace}}}\nspec: {spec}\n---\n"
        );
    }
    let mut documents = Documents::default();
    let diagnostics = documents.read("f.yaml", &text);
    (documents, diagnostics)
}

/// A key of the right form, whose signatures nobody makes.
fn jwks() -> String {
    let number = "A".repeat(43);
    format!(r#"jwks: '{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{number}","y":"{number}"}}]}}'"#)
}

fn of(specs: &[(&str, String)], namespace: &str, app: &str) -> Option<Arc<JwtRules>> {
    let (documents, diagnostics) = read(specs);
    assert_eq!(diagnostics, []);
    let mut findings = Findings::default();
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    let rules = of_workload(&documents, &Mesh::default(), (namespace, &labels), &mut findings);
    assert!(findings.0.is_empty(), "{findings:?}");
    rules
}

#[test]
fn every_field_is_read() {
    let keys = jwks();
    let spec = format!(
        "{{jwtRules: [{{issuer: i, audiences: [a, b], {keys}, fromHeaders: [{{name: X-Token, prefix: 'T '}}], fromParams: [p], \
         fromCookies: [c], outputPayloadToHeader: x-payload, outputClaimToHeaders: [{{header: x-sub, claim: sub}}], \
         forwardOriginalToken: true, spaceDelimitedClaims: [words], timeout: 5s}}]}}"
    );
    let rules = of(&[("shop", spec)], "shop", "pay").unwrap();
    let [provider] = &*rules.providers else {
        panic!("{rules:?}")
    };
    assert_eq!((&*provider.name, &*provider.issuer), ("origins-00", "i"));
    assert_eq!(provider.audiences, ["a".into(), "b".into()]);
    assert_eq!(provider.keys.keys().len(), 1);
    assert_eq!(provider.places.headers, [("x-token".parse().unwrap(), "T ".into())]);
    assert_eq!(
        (&*provider.places.params, &*provider.places.cookies),
        (&["p".into()][..], &["c".into()][..])
    );
    assert_eq!(provider.payload_header, Some("x-payload".parse().unwrap()));
    assert_eq!((provider.claim_headers.len(), provider.forward), (1, true));
    assert_eq!(
        provider.space_delimited,
        ["scope".into(), "permission".into(), "words".into()]
    );
    // A good token of it, or none.
    let requires = rules.rules[0].requires.as_ref();
    let expected = JwtRequirement::Any(vec![
        JwtRequirement::Provider(0, Vec::new()),
        JwtRequirement::AllowMissing,
    ]);
    assert_eq!(requires, Some(&expected));
}

#[test]
fn all_documents_that_mean_a_workload_hold_together() {
    let rule = |issuer: &str| format!("{{jwtRules: [{{issuer: {issuer}, {}}}]}}", jwks());
    let selected = |app: &str, issuer: &str| {
        let rule = rule(issuer);
        format!("{{selector: {{matchLabels: {{app: {app}}}}}, {}", &rule[1..])
    };
    let all = [
        ("istio-system", rule("mesh")),
        ("shop", rule("namespace")),
        ("shop", selected("pay", "workload")),
        ("other", rule("elsewhere")),
        ("istio-system", selected("pay", "everywhere")),
    ];
    let issuers = |namespace: &str, app: &str| {
        let rules = of(&all, namespace, app);
        let all = rules.iter().flat_map(|rules| &rules.providers);
        all.map(|provider| provider.issuer.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(issuers("shop", "pay"), ["mesh", "namespace", "workload", "everywhere"]);
    assert_eq!(issuers("shop", "cart"), ["mesh", "namespace"]);
    assert_eq!(issuers("other", "cart"), ["mesh", "elsewhere"]);
    assert_eq!(of(&all[1..3], "other", "pay"), None);
}

#[test]
fn two_workloads_at_one_address_believe_whom_both_believe() {
    let keys = jwks();
    let rule = |issuers: &[&str]| {
        let each = issuers.iter().map(|issuer| format!("{{issuer: {issuer}, {keys}}}"));
        let spec = format!("{{jwtRules: [{}]}}", each.collect::<Vec<_>>().join(", "));
        of(&[("shop", spec)], "shop", "pay")
    };
    let issuers = |rules: Option<Arc<JwtRules>>| {
        let all = rules.unwrap();
        all.providers
            .iter()
            .map(|one| one.issuer.to_string())
            .collect::<Vec<_>>()
    };
    let (ab, bc, c) = (rule(&["a", "b"]), rule(&["b", "c"]), rule(&["c"]));
    assert_eq!(issuers(both(ab.as_ref(), bc.as_ref())), ["b"]);
    assert_eq!(issuers(both(ab.as_ref(), None)), ["a", "b"]);
    assert_eq!(issuers(both(None, c.as_ref())), ["c"]);
    assert_eq!(both(None, None), None);
    // Of nobody whom both believe a token is bad, and none is still none.
    let nobody = both(ab.as_ref(), c.as_ref()).unwrap();
    assert!(nobody.providers.iter().all(|one| one.keys.keys().is_empty()));
}

#[test]
fn az_9_what_is_not_understood_of_tokens_is_an_error() {
    let keys = jwks();
    let with = |text: &str| format!("{{jwtRules: [{{issuer: i, {text}}}]}}");
    for (spec, expected) in [
        ("{jwtRule: []}".to_owned(), "unknown field"),
        ("{targetRefs: []}".into(), "not served"),
        (format!("{{jwtRules: [{{{keys}}}]}}"), "issuer is required"),
        (with("audiences: [a]"), "has no keys: write jwks or jwksUri"),
        (with("jwksUri: issuer.example/keys"), "not a URL"),
        (with("jwksUri: 'https://a@issuer.example/'"), "has a user"),
        (with("jwksUri: 'https://a/', timeout: 1m"), "not between 0 and 30 s"),
        (with(&format!("{keys}, jwksUri: 'https://a'")), "exclude each other"),
        (with("jwks: '{}'"), "no list"),
        (with(r#"jwks: '{"keys":[{"kty":"oct","k":"AA"}]}'"#), "secret key"),
        (
            with(&format!("{keys}, fromHeaders: [{{name: 'a b'}}]")),
            "is not a header",
        ),
        (
            with(&format!("{keys}, fromHeaders: [{{prefix: a}}]")),
            "name is required",
        ),
        (with(&format!("{keys}, fromParams: ['']")), "must not be empty"),
        (
            with(&format!("{keys}, outputClaimToHeaders: [{{header: a}}]")),
            "claim is required",
        ),
        (with(&format!("{keys}, audience: [a]")), "unknown field"),
    ] {
        let (_, diagnostics) = read(&[("shop", spec.clone())]);
        let mut errors = diagnostics.iter().filter(|finding| finding.is_error());
        assert!(
            errors.any(|finding| finding.message.contains(expected)),
            "{spec}: {diagnostics:?}"
        );
    }
    // What is fetched comes by TLS or from this host, unless somebody says otherwise in code.
    let found = |uri: &str, mesh: &Mesh| {
        let (documents, diagnostics) = read(&[("shop", with(&format!("jwksUri: '{uri}'")))]);
        assert_eq!(diagnostics, []);
        let mut findings = Findings::default();
        check_sources(&documents, mesh, &mut findings);
        findings.0.iter().any(Diagnostic::is_error)
    };
    let mesh = Mesh::default();
    let plaintext = Mesh {
        plaintext_jwks: true,
        ..Mesh::default()
    };
    assert!(found("http://issuer.example/keys", &mesh) && !found("http://issuer.example/keys", &plaintext));
    assert!(!found("https://issuer.example/keys", &mesh) && !found("http://127.0.0.1:9/keys", &mesh));
    let sources: Vec<String> = (0..=MAX_KEY_SOURCES)
        .map(|number| format!("{{issuer: i, jwksUri: 'https://i/{number}'}}"))
        .collect();
    for (number, expected) in [(MAX_KEY_SOURCES, false), (MAX_KEY_SOURCES + 1, true)] {
        let (documents, _) = read(&[("shop", format!("{{jwtRules: [{}]}}", sources[..number].join(", ")))]);
        let mut findings = Findings::default();
        check_sources(&documents, &mesh, &mut findings);
        assert_eq!(findings.0.iter().any(Diagnostic::is_error), expected, "{number}");
    }
    // As many issuers as a request may be held against.
    let many = vec![format!("{{issuer: i, {keys}}}"); JwtRules::MAX_PROVIDERS + 1];
    let (documents, diagnostics) = read(&[("shop", format!("{{jwtRules: [{}]}}", many.join(", ")))]);
    assert_eq!(diagnostics, []);
    let mut findings = Findings::default();
    let rules = of_workload(&documents, &Mesh::default(), ("shop", &BTreeMap::new()), &mut findings);
    assert_eq!(rules.unwrap().providers.len(), JwtRules::MAX_PROVIDERS);
    assert!(findings.0.iter().any(Diagnostic::is_error));
}
