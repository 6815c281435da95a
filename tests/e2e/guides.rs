//! What the guides tell people to write is what the control plane takes, without a warning.

use std::net::SocketAddr;

use tests::{Mesh, routes, workloads};

const TASKS: &str = include_str!("../../docs/tasks.md");
const MIGRATION: &str = include_str!("../../docs/migration.md");

/// The documents of a guide, each with the heading that it stands under.
fn documents(guide: &'static str) -> Vec<(&'static str, &'static str)> {
    let sections = guide.split("\n## ").skip(1);
    let of_section = |section: &'static str| {
        let heading = section.lines().next().unwrap();
        let blocks = section.split("```yaml\n").skip(1);
        blocks.map(move |block| (heading, block.split("```").next().unwrap()))
    };
    sections.flat_map(of_section).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_document_of_the_guides_is_taken_without_a_warning() {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (tasks, migration) = (documents(TASKS), documents(MIGRATION));
    assert!(
        tasks.len() >= 11 && migration.len() >= 2,
        "{} and {}",
        tasks.len(),
        migration.len()
    );
    for (heading, document) in tasks.into_iter().chain(migration) {
        // What a task replaces, it names as the example does.
        let base = routes(95, 5);
        let replaced = |part: &&str| {
            let kind = part.lines().find(|line| line.starts_with("kind: ")).unwrap();
            !document.contains(kind)
        };
        let rest = base.split("---\n").filter(replaced).collect::<Vec<_>>().join("---\n");
        let mut files = vec![("workloads.yaml", workloads(at(50_061), at(50_062)))];
        files.push(("task.yaml", document.to_owned()));
        if !rest.is_empty() {
            files.push(("routes.yaml", rest));
        }
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let mesh = Mesh::start(&files).await;
        let status = mesh.control().status();
        assert!(
            status.accepted == 1 && status.diagnostics.is_empty(),
            "{heading}: {:?}",
            status.diagnostics
        );
    }
}
