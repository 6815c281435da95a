//! `meshctl cert`: what it issues is what it believes, and a script sees which rule is broken.

use std::path::Path;

use serde_json::Value;

use crate::{meshctl_in, stdout};

fn cert(folder: &Path, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = meshctl_in(folder, &[&["cert"], arguments].concat());
    let text = stdout(&output);
    let last = text.lines().next_back().unwrap_or("null");
    (output.status.code(), serde_json::from_str(last).unwrap())
}

#[test]
fn what_is_issued_is_believed_and_what_is_not_has_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let who = ["--namespace", "shop", "--service-account", "batch"];
    let (code, issued) = cert(
        folder,
        &[&["issue", "--output", "out", "--ttl", "90s"], &who[..]].concat(),
    );
    assert_eq!(code, Some(0));
    let id = "spiffe://cluster.local/ns/shop/sa/batch";
    assert_eq!((&issued["identity"], &issued["folder"]), (&id.into(), &"out".into()));
    #[cfg(unix)]
    {
        let mode = std::fs::metadata(folder.join("out/key.pem")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    }
    let verify = |more: &[&str]| cert(folder, &[&["verify", "out/cert.pem", "--roots"], more].concat());
    let (code, believed) = verify(&["out/roots.pem", "--expect", id]);
    assert_eq!((code, &believed["believed"]), (Some(0), &true.into()));
    assert_eq!(believed["not_after"], issued["not_after"]);
    let (code, refused) = verify(&["out/roots.pem", "--expect", "spiffe://cluster.local/ns/shop/sa/pay"]);
    assert_eq!(
        (code, &refused["rule"], &refused["by"]),
        (Some(79), &"wrong_identity".into(), &"client".into())
    );
    let (code, refused) = verify(&["out/cert.pem"]);
    assert_eq!((code, &refused["rule"]), (Some(79), &"unknown_issuer".into()));
    let (code, shown) = cert(folder, &["show", "-o", "json", "out/roots.pem"]);
    assert_eq!((code, &shown["certificates"][0]["is_ca"]), (Some(0), &true.into()));
    // What cannot be read is neither believed nor refused.
    assert_eq!(cert(folder, &["show", "out/key.pem"]).0, Some(1));
    assert_eq!(verify(&["nowhere.pem"]).0, Some(1));
    assert_eq!(verify(&["out/roots.pem", "--at", "soon"]).0, Some(2));
    assert_eq!(
        cert(
            folder,
            &[&["issue", "--output", "out", "--ttl", "25h"], &who[..]].concat()
        )
        .0,
        Some(1)
    );
}
