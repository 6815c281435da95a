//! What is written is the same but for the weights; what is not clear is refused.

use proptest::prelude::*;

use super::*;

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: pay}
  - {address: 10.0.0.2, labels: {version: v2}, serviceAccount: pay}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pay, namespace: shop}
spec:
  host: pay
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

const HEAD: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: pay, namespace: shop}
spec:
  hosts: [pay]
  http:
";

fn files(routes: &str) -> BTreeMap<String, String> {
    let rule = format!("# Ours.\n{HEAD}{routes}");
    BTreeMap::from([("a.yaml".to_owned(), SERVICE.to_owned()), ("b.yaml".to_owned(), rule)])
}

fn shift(weights: &[(&str, u32)], routes: &[&str]) -> Shift {
    Shift {
        service: "pay".into(),
        namespace: "shop".into(),
        weights: weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect(),
        routes: routes.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn plan(text: &str, weights: &[(&str, u32)], routes: &[&str]) -> Result<Shifted, ShiftRefusal> {
    shift(weights, routes).plan(&files(text), &Mesh::default())
}

const BLOCK: &str = "  - name: all   # the canary
    route:
    - destination: {host: pay, subset: v1}
      weight: 90 # most
    - destination:
        host: pay
        subset: \"v2\"
      weight:   10
";

#[test]
fn weights_alone_are_replaced() {
    let shifted = plan(BLOCK, &[("v2", 5), ("v1", 95)], &[]).unwrap();
    let wanted = BLOCK.replace("90 # most", "95 # most").replace("  10\n", "  5\n");
    assert_eq!(shifted.after, format!("# Ours.\n{HEAD}{wanted}"));
    assert_eq!(
        (shifted.file.as_str(), &*shifted.routes),
        ("b.yaml", &["spec.http[0]".to_owned()][..])
    );
}

#[test]
fn a_weight_that_is_not_there_is_added_in_the_way_of_its_map() {
    let flow = "  - route: [{destination: {host: pay, subset: v1}}, { destination: {host: pay, subset: v2} }]\n";
    let shifted = plan(
        &flow.replace("v1}}", "v1}, weight: 100}"),
        &[("v1", 90), ("v2", 10)],
        &[],
    )
    .unwrap();
    assert!(
        shifted.after.contains("v1}, weight: 90}, { weight: 10, destination"),
        "{}",
        shifted.after
    );
    let block = BLOCK.replace("      weight:   10\n", "");
    let shifted = plan(&block, &[("v1", 60), ("v2", 40)], &[]).unwrap();
    assert!(
        shifted.after.contains("    - weight: 40\n      destination:\n"),
        "{}",
        shifted.after
    );
}

#[test]
fn what_is_not_clear_is_refused() {
    let two = format!("{BLOCK}{}", BLOCK.replace("name: all", "name: rest"));
    let matched = two.replacen("    route:", "    match: [{uri: {prefix: /a}}]\n    route:", 1);
    let half = BLOCK.replace("name: all", "match: [{uri: {prefix: /b}}]\n    name: all");
    let kinds = [
        (plan(BLOCK, &[("v1", 90), ("v2", 5)], &[]), "sum to 95, not to 100"),
        (plan(BLOCK, &[("v1", 90), ("v1", 10)], &[]), "v1 is named twice"),
        (plan(BLOCK, &[("v1", 100)], &[]), "\"v2\" on line 12 has a share too"),
        (
            plan(BLOCK, &[("v1", 90), ("v3", 10)], &[]),
            "no route has these destinations",
        ),
        (
            plan(&half, &[("v1", 90), ("v3", 10)], &["all"]),
            "has no destination \"v3\"",
        ),
        (plan(BLOCK, &[("v1", 90), ("v2", 10)], &["other"]), "no route has"),
        (
            plan(&matched, &[("v1", 90), ("v2", 10)], &[]),
            "say which by --route: all (line 8), rest (line",
        ),
        (
            plan(&BLOCK.replace("90 #", "0x5a #"), &[("v1", 95), ("v2", 5)], &[]),
            "not written as a plain number",
        ),
        (
            plan(&BLOCK.replace("\"v2\"", "v9"), &[("v1", 95), ("v9", 5)], &[]),
            "IST0101",
        ),
    ];
    for (outcome, words) in kinds {
        let refusal = outcome.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal:?} does not say {words:?}");
    }
    let missing = Shift {
        service: "other".into(),
        ..shift(&[("v1", 100)], &[])
    };
    assert!(
        missing
            .plan(&files(BLOCK), &Mesh::default())
            .unwrap_err()
            .to_string()
            .contains("no VirtualService")
    );
    let chosen = plan(&matched, &[("v1", 50), ("v2", 50)], &["rest", "all"]).unwrap();
    assert_eq!(
        chosen.after.matches("weight: 50").count() + chosen.after.matches("weight:   50").count(),
        4
    );
}

#[test]
fn a_weight_that_two_routes_share_is_refused() {
    let shared = BLOCK.replace("90 # most", "&w 50").replace("  10", "  *w");
    let refusal = plan(&shared, &[("v1", 95), ("v2", 5)], &[]).unwrap_err();
    assert!(refusal.to_string().contains("plain number"), "{refusal}");
}

#[test]
fn the_difference_is_shown_as_a_patch() {
    let block = BLOCK.replace("      weight:   10\n", "");
    let shifted = plan(&block, &[("v1", 60), ("v2", 40)], &[]).unwrap();
    let patch = unified("b.yaml", &shifted.before, &shifted.after);
    let expected = "--- b.yaml
+++ b.yaml
@@ -8,7 +8,8 @@
   - name: all   # the canary
     route:
     - destination: {host: pay, subset: v1}
-      weight: 90 # most
+      weight: 60 # most
-    - destination:
+    - weight: 40
+      destination:
         host: pay
         subset: \"v2\"
";
    assert_eq!(patch, expected);
    assert_eq!(unified("b.yaml", &shifted.after, &shifted.after), "");
}

/// What is written anew keeps its mode and its link, and somebody else's change stays.
#[cfg(unix)]
#[test]
fn a_file_is_replaced_whole_and_stays_what_it_was() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("real.yaml"), folder.path().join("link.yaml"));
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    replace(&link, "old", "new").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    replace(&path, "old", "newer").unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A destination in one of the ways in which people write it; `#W` stands for the weight.
fn destination(subset: &'static str) -> impl Strategy<Value = String> {
    let comment = "( # [a-zé\u{1f600}:0-9]{0,9})?";
    (0..5_usize, comment, 0..4_usize).prop_map(move |(way, comment, spaces)| {
        let pad = " ".repeat(spaces);
        match way {
            0 => format!("    - destination: {{host: pay, subset: {subset}}}{comment}\n      weight: {pad}#W{comment}\n"),
            1 => format!("    - weight: #W{comment}\n      destination:{comment}\n        subset: {subset}\n        host: \"pay\"\n"),
            2 => format!("    - {{{pad}weight: #W{pad}, destination: {{host: pay, subset: '{subset}'}}}}{comment}\n"),
            3 => format!("    -   {{\"destination\": {{\"host\": \"pay\", \"subset\": \"{subset}\"}}, \"weight\": #W}}{comment}\n"),
            _ => format!("    # {subset}é\n    -\n      weight: #W\n\n      destination: {{ subset: {subset}, host: pay }}{comment}\n"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// With the weights taken out, both texts are the same bytes.
    #[test]
    fn all_bytes_outside_of_the_weights_stay(
        one in destination("v1"), two in destination("v2"),
        old in 0..=100_u32, new in 0..=100_u32, windows in any::<bool>(), flip in any::<bool>(),
    ) {
        let (first, second) = if flip { (&two, &one) } else { (&one, &two) };
        let routes = format!("  - route:\n{first}{second}    timeout: 5s # as ever\n");
        let weighted = |one: u32| {
            let (a, b) = if flip { (100 - one, one) } else { (one, 100 - one) };
            let text = routes.replacen("#W", &a.to_string(), 1).replacen("#W", &b.to_string(), 1);
            let text = format!("# Ours.\n{HEAD}{text}");
            if windows { text.replace('\n', "\r\n") } else { text }
        };
        let mut files = files("");
        files.insert("b.yaml".into(), weighted(old));
        let shifted = shift(&[("v1", new), ("v2", 100 - new)], &[]).plan(&files, &Mesh::default());
        let shifted = shifted.map_err(|refusal| TestCaseError::fail(refusal.to_string()))?;
        prop_assert_eq!(shifted.after, weighted(new));
    }
}
