//! Access logs, from an Istio document to the lines of both ends: those of `docs/telemetry.md`, published by a real control plane, saved
//! while calls go on.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use examples::load::Client;
use examples::proto::ChargeRequest;
use mesh_core::report::access::TARGET;
use tests::{Mesh, listener, routes, soon, workloads};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const GUIDE: &str = include_str!("../../docs/telemetry.md");

type Line = BTreeMap<&'static str, String>;

/// Keeps the lines of the thread that a test, and all of its mesh, runs in.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Values::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Values(Line);

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// A line of the caller's, or of the server's.
fn is_callers(line: &Line) -> bool {
    line.contains_key("upstream_cluster")
}

async fn charge(client: &mut Client) {
    let request = ChargeRequest::default();
    soon("an answer", client.charge(request)).await.unwrap();
}

/// Calls until the lines of one call are such; they are.
async fn until(client: &mut Client, lines: &Lines, like: impl Fn(&[Line]) -> bool) -> Vec<Line> {
    soon("the lines of a call", async {
        loop {
            lines.take();
            charge(client).await;
            let of_call = lines.take();
            if like(&of_call) {
                return of_call;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_documents_of_the_guide_say_which_calls_are_written() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let documents: Vec<&str> = GUIDE
        .split("```yaml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let [all, errors] = documents[..] else {
        panic!("{documents:?}")
    };
    let (socket, address) = listener().await;
    let (_, nobody) = listener().await;
    let (workloads, routes) = (workloads(address, nobody), routes(100, 0));
    let mesh = Mesh::start(&[
        ("workloads.yaml", &*workloads),
        ("routes.yaml", &*routes),
        ("telemetry.yaml", all),
    ])
    .await;
    assert!(
        mesh.control().status().diagnostics.is_empty(),
        "{:?}",
        mesh.control().status().diagnostics
    );
    let (_backend, _server) = mesh.serve(socket, "v1").await;
    let (mut client, _caller) = mesh.checkout("payment-service").await;

    let both = until(&mut client, &lines, |lines| lines.len() == 2).await;
    let (caller, server) = match is_callers(&both[0]) {
        true => (&both[0], &both[1]),
        false => (&both[1], &both[0]),
    };
    for (name, value) in [
        ("method", "POST"),
        ("protocol", "HTTP/2"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("response_code_details", "via_upstream"),
        ("grpc_status", "0"),
    ] {
        assert_eq!((&*caller[name], &*server[name]), (value, value), "{name}");
    }
    for name in ["path", "bytes_received", "bytes_sent", "authority"] {
        assert_eq!(caller[name], server[name], "{name}");
    }
    assert_eq!(caller["upstream_host"], address.to_string());
    assert!(caller["upstream_cluster"].starts_with("outbound|"), "{caller:?}");
    assert_eq!(server["downstream_local_address"], address.to_string());

    // Of what succeeds neither end writes anything then, and both do again when the document is gone.
    mesh.save("telemetry.yaml", &format!("{all}---\n{errors}"));
    until(&mut client, &lines, <[Line]>::is_empty).await;
    mesh.save("telemetry.yaml", all);
    until(&mut client, &lines, |lines| lines.len() == 2).await;
    // A document that is refused changes nothing.
    mesh.save(
        "telemetry.yaml",
        &errors.replace("response.code >= 400", "request.path == '/'"),
    );
    mesh.until_read(|status| status.diagnostics.iter().any(|one| one.code.as_str() == "MSH0019"))
        .await;
    until(&mut client, &lines, |lines| lines.len() == 2).await;
}
