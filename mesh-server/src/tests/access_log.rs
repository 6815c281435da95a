//! What is written of requests: by Envoy's names, where the rules of the server want it, and by the rules of the moment.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

use mesh_core::config::{
    Authorization, Comparison, FilterChain, LogFilter, PermissionTest, RbacAction, Rule, StringMatch, Telemetry,
};
use mesh_core::report::access::TARGET;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::authorize::{mutual, one_rule, open};
use super::*;

type Line = BTreeMap<&'static str, String>;

/// Keeps the lines of the thread that a test runs in.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Lines {
    /// Waits for so many lines.
    async fn take(&self, count: usize) -> Vec<Line> {
        while self.0.lock().unwrap().len() < count {
            tokio::task::yield_now().await;
        }
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

fn logged(chain: FilterChain, filter: Option<LogFilter>) -> FilterChain {
    FilterChain {
        telemetry: Telemetry {
            access_log: filter.map(Into::into),
        },
        ..chain
    }
}

async fn asks(sender: &mut Sender, path: &str) -> u16 {
    let request = Request::post(format!("http://payment.shop:8080{path}"))
        .header("user-agent", "till")
        .header("x-request-id", "7");
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let code = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    code
}

#[tokio::test]
async fn a_request_is_one_line_when_its_answer_has_ended() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    mesh.rules(address, logged(mutual(Authorization::default()), Some(LogFilter::All)));
    let (mut sender, _connection) = h2(connect(address, mesh.client()).await.unwrap()).await.unwrap();
    assert_eq!(asks(&mut sender, "/pay?how=now").await, 200);
    let [line] = &lines.take(1).await[..] else {
        panic!("one request is one line")
    };
    let varies = [
        "start_time",
        "duration",
        "downstream_remote_address",
        "upstream_service_time",
    ];
    let shown = line.iter().filter(|(name, _)| !varies.contains(name));
    let shown: Vec<(&str, &str)> = shown.map(|(name, value)| (*name, value.as_str())).collect();
    let local = address.to_string();
    assert_eq!(
        shown,
        [
            ("authority", "payment.shop:8080"),
            ("bytes_received", "0"),
            ("bytes_sent", "38"),
            ("downstream_local_address", &*local),
            ("method", "POST"),
            ("path", "/pay?how=now"),
            ("protocol", "HTTP/2"),
            ("request_id", "7"),
            ("requested_server_name", "payment.shop"),
            ("response_code", "200"),
            ("response_code_details", "via_upstream"),
            ("response_flags", "-"),
            ("user_agent", "till"),
        ]
    );
    assert!(varies.iter().all(|name| line.contains_key(name)), "{line:?}");
}

#[tokio::test]
async fn refusals_say_whose_they_are_and_rules_that_change_count_for_open_connections() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let (mesh, handler) = (Mesh::governed(), Handler::default());
    let (address, _server) = handler.listen(&mesh.link).await;
    let secret = || Rule::Is(PermissionTest::Path(StringMatch::Exact("/secret".into())));
    let rules = || open(one_rule(RbacAction::Deny, secret(), Rule::Always));
    mesh.rules(address, logged(rules(), None));
    let (mut sender, _connection) = h2(TcpStream::connect(address).await.unwrap()).await.unwrap();
    assert_eq!(asks(&mut sender, "/secret").await, 403);
    mesh.rules(
        address,
        logged(rules(), Some(LogFilter::Status(Comparison::AtLeast, 400))),
    );
    // The rules reach the connection when its task has heard of them: from the first line on all are written.
    while lines.0.lock().unwrap().is_empty() {
        assert_eq!(asks(&mut sender, "/secret").await, 403);
    }
    drop(lines.take(1).await);
    assert_eq!(asks(&mut sender, "/").await, 200);
    assert_eq!(asks(&mut sender, "/secret").await, 403);
    let [line] = &lines.take(1).await[..] else {
        panic!("one was refused")
    };
    assert_eq!((&*line["path"], &*line["response_code"]), ("/secret", "403"));
    assert_eq!(line["response_code_details"], "rbac_access_denied");
    mesh.rules(address, logged(rules(), None));
    loop {
        drop(lines.take(0).await);
        assert_eq!(asks(&mut sender, "/secret").await, 403);
        if lines.take(0).await.is_empty() {
            break;
        }
    }
}
