//! The example that a newcomer runs first, kept true.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_payments_story_keeps_every_promise() {
    let report = examples::story::play(&|line| println!("{line}"))
        .await
        .expect("the story plays");
    println!("{}", report.json());
    assert!(report.broken().is_empty(), "{:?}", report.broken());
}
