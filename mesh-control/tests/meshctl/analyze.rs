//! `meshctl analyze`: a document for each code, levels and exit codes, and the same words before anything is published.

use std::path::PathBuf;

use mesh_control::diagnostic::Code;
use mesh_control::translate::Mesh;
use mesh_control::{ControlPlane, Reading, analyze};
use serde_json::Value;

use crate::{here, meshctl, stdout};

fn case(code: &str) -> PathBuf {
    here().join("testdata/codes").join(format!("{code}.yaml"))
}

/// Each has a document, which has nothing else: so a code is given for what it says, and taken away with it.
#[test]
fn every_code_has_a_document_that_has_it_alone() {
    for code in Code::ALL {
        // About a file that cannot be read, a folder, a file's name, and what happens while a control plane runs.
        if matches!(
            code,
            Code::Unreadable | Code::UnreadFolder | Code::UnreadName | Code::KeysUnavailable | Code::Emptied
        ) {
            assert!(!case(code.as_str()).exists());
            continue;
        }
        let path = case(code.as_str());
        assert!(path.exists(), "{code} has no document");
        let findings = analyze(&Reading::of_paths(&[path]), &Mesh::default());
        assert!(
            findings.iter().any(|finding| finding.code == *code),
            "{code} is not found"
        );
        for finding in findings {
            // Who sees two protocols of a port sees two definitions of its host.
            let twice = *code == Code::ConflictingProtocols && finding.code == Code::Duplicate;
            assert!(finding.code == *code || twice, "{code}: {finding}");
            assert!(finding.line > 1 && finding.column > 0, "{finding}");
        }
    }
}

#[test]
fn what_is_found_decides_the_exit_code() {
    let path = |code: &str| case(code).display().to_string();
    let (error, warning, info) = (path("IST0101"), path("IST0174"), path("MSH0004"));
    for (arguments, expected) in [
        (&[error.as_str()][..], 79),
        (&[&warning], 0),
        (&[&warning, "--strict"], 79),
        (&[&info, "--strict"], 0),
        (&[&info, "--failure-threshold", "Info"], 79),
        (&[&error, "-S", "IST0101"], 0),
        (&[&error, "--suppress", "IST0101=VirtualService shop/pay"], 0),
        (&[&error, "--suppress", "IST0101=VirtualService shop/other"], 79),
        (&["does-not-exist.yaml"], 79),
        (&[&error, "--suppress", "IST9999"], 2),
        (&[], 2),
    ] {
        let arguments: Vec<&str> = std::iter::once("analyze").chain(arguments.iter().copied()).collect();
        assert_eq!(meshctl(&arguments).status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn its_json_has_the_keys_of_istioctl() {
    let path = case("IST0174").display().to_string();
    let output = meshctl(&["analyze", "-o", "json", &path]);
    let all: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let one = &all[0];
    assert_eq!(one["code"], "IST0174");
    assert_eq!(one["level"], "Warning");
    assert_eq!(one["origin"], "DestinationRule shop/typo");
    assert_eq!(one["reference"], format!("{path}:{}", one["line"]));
    assert!(one["message"].is_string() && one["hint"].is_string(), "{one}");
}

/// Nobody's terminal: a pipe gets no colour unless it is asked for.
#[test]
fn colour_is_for_terminals() {
    let path = case("IST0174").display().to_string();
    assert!(!stdout(&meshctl(&["analyze", &path])).contains('\x1b'));
    assert!(stdout(&meshctl(&["analyze", "--color", "always", &path])).contains("\x1b[33mwarning[IST0174]\x1b[0m"));
}

/// What the program says of a folder is what the control plane says of it before it publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_says_the_same() {
    for code in ["IST0173", "IST0131", "IST0101"] {
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::copy(case(code), folder.path().join("a.yaml")).unwrap();
        let builder = ControlPlane::builder(folder.path()).plaintext(([127, 0, 0, 1], 0).into());
        let control_plane = builder.state(state.path().join("state")).start().await.unwrap();
        let mut status = control_plane.status_changes();
        let told = status.wait_for(|status| status.accepted + status.rejected > 0).await;
        let told = told.unwrap().diagnostics.to_vec();
        assert_eq!(told, analyze(&Reading::of(folder.path()), &Mesh::default()));
        assert!(told.iter().any(|finding| finding.code.as_str() == code), "{told:?}");
        control_plane.shutdown().await;
    }
}
