//! The task against a control plane that can misbehave, which the serving end of this crate refuses to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Extensions, Status};

use super::*;
use crate::bootstrap::Bootstrap;
use crate::client::{Phase, XdsClient};
use crate::node::Node;
use crate::wire::{self, Delta, Request, Requests, Responses, Serve, Sotw};

/// Longer than any step takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Who called a provider `default` meant an identity. One of a plugin that is not known gives none, and says so, in the log and to whoever asks.
#[tokio::test]
async fn a_default_provider_of_an_unknown_plugin_is_why_there_is_no_identity() {
    for (providers, told) in [
        (r#"{"default": {"plugin_name": "zz"}}"#, Some("\"zz\"")),
        (r#"{"other": {"plugin_name": "zz"}}"#, None),
    ] {
        let servers = r#"[{"server_uri": "127.0.0.1:1", "channel_creds": [{"type": "insecure"}]}]"#;
        let file = format!(r#"{{"xds_servers": {servers}, "certificate_providers": {providers}}}"#);
        let client = XdsClient::start(Bootstrap::from_json(&file).unwrap()).unwrap();
        let standing = client.link().identity().load_full();
        let why = standing.as_ref().as_ref().unwrap_err().to_string();
        match told {
            Some(plugin) => assert!(why.contains(plugin) && why.contains("\"default\""), "{why}"),
            None => assert!(why.contains("nothing was configured"), "{why}"),
        }
    }
}

/// One stream, from the server's side.
struct Conversation {
    requests: mpsc::UnboundedReceiver<Request>,
    responses: mpsc::Sender<Result<Response, Status>>,
}

impl Conversation {
    /// The next request of a type.
    async fn request(&mut self, kind: ResourceKind) -> Request {
        loop {
            let next = tokio::time::timeout(SOON, self.requests.recv());
            let request = next.await.unwrap().expect("the stream is open");
            if request.type_url == kind.type_url() {
                return request;
            }
        }
    }

    async fn say(&self, kind: ResourceKind, version: &str, resources: Vec<Raw>) {
        self.responses
            .send(Ok(response(kind, version, resources)))
            .await
            .unwrap();
    }

    /// Tells a whole tree, each part when it is asked for.
    async fn tell(&mut self, port: u16) {
        self.request(ResourceKind::Listener).await;
        self.say(ResourceKind::Listener, "1", vec![listener("t", "t")]).await;
        self.request(ResourceKind::Route).await;
        self.say(ResourceKind::Route, "1", vec![routes("t", "c")]).await;
        self.request(ResourceKind::Cluster).await;
        self.say(ResourceKind::Cluster, "1", vec![cluster("c")]).await;
        self.request(ResourceKind::Endpoints).await;
        self.say(ResourceKind::Endpoints, "1", vec![endpoints("c", &[port])])
            .await;
    }
}

/// Hands every stream to the test.
struct Puppet(mpsc::UnboundedSender<Conversation>);

impl Serve for Puppet {
    fn begin(&self, _: &Extensions, mut incoming: Requests<Sotw>) -> Result<Responses<Sotw>, Status> {
        let (responses, receiver) = mpsc::channel(1);
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.next().await {
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        let conversation = Conversation { requests, responses };
        self.0
            .send(conversation)
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(receiver)
    }

    fn begin_delta(&self, _: &Extensions, _: Requests<Delta>) -> Result<Responses<Delta>, Status> {
        Err(Status::unimplemented("the test speaks state of the world"))
    }
}

async fn puppet() -> (SocketAddr, mpsc::UnboundedReceiver<Conversation>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, streams) = mpsc::unbounded_channel();
    let router = tonic::transport::Server::builder().add_service(wire::service(Puppet(sender)));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, streams)
}

fn client(address: SocketAddr) -> XdsClient {
    let bootstrap = Bootstrap::builder(Node::default()).insecure(&address.to_string());
    XdsClient::start(bootstrap.build().unwrap()).unwrap()
}

async fn next(streams: &mut mpsc::UnboundedReceiver<Conversation>) -> Conversation {
    tokio::time::timeout(SOON, streams.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn cp_5_a_refusal_is_told_and_the_last_good_one_serves() {
    let (address, mut streams) = puppet().await;
    let client = client(address);
    let link = client.link();
    let _guard = link.interest().watch("t");
    let mut stream = next(&mut streams).await;
    stream.tell(1).await;
    client
        .status()
        .until(SOON, |report| report.published.0 == 1)
        .await
        .unwrap();
    let before = link.snapshots().load_full();

    stream.say(ResourceKind::Cluster, "2", vec![bad_cluster("c")]).await;
    let nack = stream.request(ResourceKind::Cluster).await;
    assert_eq!((nack.version.as_str(), nack.nonce.as_str()), ("1", "2"));
    assert!(nack.error.unwrap().contains("\"c\""));
    let report = client
        .status()
        .until(SOON, |report| report.rejections == 1)
        .await
        .unwrap();
    let row = report.resource(ResourceKind::Cluster, "c").unwrap();
    assert_eq!((row.accepted.as_deref(), &*row.received), (Some("1"), "2"));
    assert_eq!(row.rejected.as_ref().unwrap().resource(), "c");
    assert!(
        Arc::ptr_eq(&before, &link.snapshots().load_full()),
        "nothing was published"
    );
}

#[tokio::test]
async fn cp_9_a_lost_stream_is_opened_again_and_the_snapshot_stays() {
    let (address, mut streams) = puppet().await;
    let client = client(address);
    let link = client.link();
    let _guard = link.interest().watch("t");
    let mut stream = next(&mut streams).await;
    stream.tell(1).await;
    client
        .status()
        .until(SOON, |report| report.published.0 == 1)
        .await
        .unwrap();
    let before = link.snapshots().load_full();
    let ended = Status::unavailable("bye");
    stream.responses.send(Err(ended)).await.unwrap();
    drop(stream);

    let mut again = next(&mut streams).await;
    let first = again.request(ResourceKind::Listener).await;
    assert_eq!((first.version.as_str(), first.nonce.as_str()), ("1", ""));
    assert!(Arc::ptr_eq(&before, &link.snapshots().load_full()));
    // A control plane's words are for operators; the link says that there is trouble and the report says which.
    assert!(link.waiting_reason().unwrap().to_string().contains("bye"));
    again.say(ResourceKind::Listener, "2", vec![listener("t", "t")]).await;
    let report = client
        .status()
        .until(SOON, |report| report.connection.responses == 5)
        .await
        .unwrap();
    assert_eq!(
        (report.connection.streams, report.connection.phase),
        (2, Phase::Connected)
    );
    assert_eq!(link.waiting_reason(), None);
}

#[tokio::test]
async fn nothing_is_opened_for_a_process_that_wants_nothing_and_all_ends_with_the_link() {
    let (address, mut streams) = puppet().await;
    let client = client(address);
    let status = client.status().clone();
    let guard = client.link().interest().watch("t");
    let mut stream = next(&mut streams).await;
    stream.request(ResourceKind::Listener).await;
    // The guard does not keep the client alive; the client and its links do.
    let link = client.link();
    drop(client);
    assert!(status.report().is_connected());
    drop(link);
    status
        .until(SOON, |report| report.connection.phase == Phase::Stopped)
        .await
        .unwrap();
    tokio::time::timeout(SOON, stream.responses.closed()).await.unwrap();
    drop(guard);
    assert!(streams.try_recv().is_err());
}

#[tokio::test]
async fn a_call_can_be_told_why_it_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(address);
    let link = client.link();
    let _guard = link.interest().watch("t");
    let report = client
        .status()
        .until(SOON, |report| matches!(report.connection.phase, Phase::BackingOff(_)));
    let report = report.await.unwrap();
    assert_eq!(report.connection.attempts, 1);
    let reason = link.waiting_reason().unwrap().to_string();
    assert!(reason.starts_with(&format!("connecting to {address}: ")), "{reason}");
    assert!(reason.to_lowercase().contains("refused"), "{reason}");
    assert_eq!(link.snapshots().load().target("t"), None);
}
