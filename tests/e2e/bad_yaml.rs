//! A mistake in the YAML is told with file, line and field; the last good configuration stays, and nothing restarts.

use examples::load::Tally;
use tests::{Canary, interval_million, routes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cp_14_bad_documents_keep_the_last_good_configuration() {
    let canary = Canary::start().await;
    let good = routes(95, 5);
    let with = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replacen(from, to, 1)
    };
    // What is wrong, how the document reads, which line, and what the message names.
    let cases = [
        (
            "syntax",
            with("  host: payment-service", "  host: [payment-service"),
            "routes.yaml:",
            "",
        ),
        (
            "unknown field",
            with("      weight: 95", "      wieght: 95"),
            "routes.yaml:28:7",
            "wieght",
        ),
        (
            "dangling subset",
            with("        subset: v2\n", "        subset: v3\n"),
            "routes.yaml:31:17",
            "v3",
        ),
        (
            "dangling host",
            with(
                "        host: payment-service\n        subset: v2",
                "        host: nobody\n        subset: v2",
            ),
            "routes.yaml:30:15",
            "nobody",
        ),
        (
            "weights sum to 0",
            with("weight: 95", "weight: 0").replacen("weight: 5\n", "weight: 0\n", 1),
            "routes.yaml:",
            "weight",
        ),
        (
            "half written",
            good[..good.find("ght: 95").unwrap()].to_owned(),
            "routes.yaml",
            "",
        ),
    ];
    let streams = canary.checkout.status().report().connection.streams;
    for (what, document, place, names) in cases {
        let before = canary.mesh.control().status().rejected;
        canary.mesh.save("routes.yaml", &document);
        let status = canary.mesh.until_read(|status| status.rejected > before).await;
        let errors: Vec<String> = status
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .map(ToString::to_string)
            .collect();
        println!("{what}: {}", errors.join("\n    "));
        assert!(
            errors.iter().any(|e| e.contains(place) && e.contains(names)),
            "{what}: {errors:?}"
        );
        let tally = Tally::default();
        tally.run(&canary.client, 400, 8).await;
        let counts = tally.counts();
        assert_eq!((counts.ok, counts.failed), (400, 0), "{what}: {:?}", counts.errors);
        assert!(
            interval_million(400, 0.05).contains(&counts.of("v2")),
            "{what}: {}",
            counts.of("v2")
        );
    }
    // The next good save takes effect, over the same stream.
    let before = canary.mesh.control().status().accepted;
    canary.mesh.save("routes.yaml", &routes(0, 100));
    canary.mesh.until_read(|status| status.accepted > before).await;
    let tally = Tally::default();
    tests::soon("the good weights to take effect", async {
        loop {
            let before = tally.counts().of("v1");
            tally.run(&canary.client, 50, 1).await;
            if tally.counts().of("v1") == before {
                break;
            }
        }
    })
    .await;
    assert_eq!(
        (
            tally.counts().failed,
            canary.checkout.status().report().connection.streams
        ),
        (0, streams)
    );
}
