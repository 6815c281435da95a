//! `meshctl explain`, `describe` and `config` as programs: JSON, and exit codes that scripts can use.

use serde_json::Value;

use crate::{here, meshctl, stdout};

const EXAMPLES: [&str; 2] = ["--dir", "examples/istio"];

fn explain(arguments: &[&str]) -> (Option<i32>, String) {
    let output = meshctl(&[&["explain", "--from", "default/checkout"], arguments].concat());
    (output.status.code(), stdout(&output))
}

#[test]
fn an_explanation_is_one_json_object() {
    let (code, text) = explain(&[&EXAMPLES[..], &["-o", "json", "payment-service"]].concat());
    assert_eq!((code, text.lines().count()), (Some(0), 1));
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(explained["from"], "spiffe://cluster.local/ns/default/sa/checkout");
    let share = &explained["route"]["shares"][0];
    assert_eq!(share["called_by"], "mutual TLS");
    let server = &share["endpoints"][0];
    assert_eq!(server["verdict"]["is"], "served");
    assert!(
        server["origin"]["line"].is_u64() && server["origin"]["file"].is_string(),
        "{server}"
    );
}

#[test]
fn the_exit_code_says_why_nothing_is_explained() {
    let broken = tempfile::tempdir().unwrap();
    std::fs::copy(here().join("testdata/codes/IST0101.yaml"), broken.path().join("a.yaml")).unwrap();
    let broken = broken.path().display().to_string();
    let (code, text) = explain(&["--dir", &broken, "pay.shop"]);
    assert_eq!(code, Some(79), "{text}");
    assert!(text.contains("a.yaml:18:34: error[IST0101]"), "{text}");
    let (code, text) = explain(&[&EXAMPLES[..], &["nobody"]].concat());
    assert!(code == Some(1) && text.starts_with("refused: "), "{text}");
    assert_eq!(
        explain(&[&EXAMPLES[..], &["--method", "A B", "payment-service"]].concat()).0,
        Some(1)
    );
    assert_eq!(
        explain(&[&EXAMPLES[..], &["--header", "x", "payment-service"]].concat()).0,
        Some(2)
    );
}

#[test]
fn a_description_is_one_json_object() {
    let output = meshctl(&[&["describe", "payment-service", "-o", "json"], &EXAMPLES[..]].concat());
    assert_eq!(output.status.code(), Some(0));
    let described: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(described["host"], "payment-service.default.svc.cluster.local");
    let about = |section: &Value| section["about"].as_str().unwrap().to_owned();
    let sections: Vec<String> = described["sections"].as_array().unwrap().iter().map(about).collect();
    assert!(
        sections.iter().any(|about| about.starts_with("routes of ")),
        "{sections:?}"
    );
    assert!(sections.contains(&"server 127.0.0.1:50061".to_owned()), "{sections:?}");
    let unknown = meshctl(&[&["describe", "nobody"], &EXAMPLES[..]].concat());
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn shells_are_told_of_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let output = meshctl(&["completion", shell]);
        let script = stdout(&output);
        assert_eq!(output.status.code(), Some(0));
        for word in ["explain", "rotate-root", "trust-domain"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(meshctl(&["completion", "tcsh"]).status.code(), Some(2));
}
