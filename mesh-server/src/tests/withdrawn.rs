//! Streams that were let in, and the rule that let them in was withdrawn.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use http_body::{Body, Frame};
use mesh_core::config::{
    Authorization, HeaderMatch, HeaderTest, Permission, PermissionTest, Principal, PrincipalTest, RbacAction, Rule,
    StringMatch, Subject,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::authorize::{mutual, one_rule, open};
use super::*;

const OTHER: &str = "spiffe://mesh.test/ns/shop/sa/other";

/// An answer that has a word whenever somebody says one, or always, and no end.
struct Words {
    said: mpsc::UnboundedReceiver<u32>,
    always: bool,
}

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let word = |word: u32| Ok(Frame::data(word.to_string().into()));
        match self.said.poll_recv(cx) {
            Poll::Pending if self.always => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1_024]))))),
            said => said.map(|next| next.map(word)),
        }
    }
}

/// Who says words, to every answer that there is.
#[derive(Clone, Default)]
struct News(Arc<Mutex<Vec<mpsc::UnboundedSender<u32>>>>);

impl News {
    fn say(&self, word: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.send(word).is_ok());
    }

    /// An answer, whose first word is `0`.
    fn words(&self, always: bool) -> Words {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(0).unwrap();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Words { said: receiver, always }
    }
}

/// A service whose answers never end; `/late` has none, and those of `/more` have words that nobody waits for.
fn endless(link: &Link, news: &News) -> BoxCloneSyncService<Request<RequestBody>, Response<Answer>, Infallible> {
    let news = news.clone();
    let answer = move |request: Request<RequestBody>| {
        let news = news.clone();
        async move {
            if request.uri().path() == "/late" {
                std::future::pending::<()>().await;
            }
            let always = request.uri().path() == "/more";
            Ok::<_, Infallible>(Response::new(news.words(always)))
        }
    };
    let app = MeshLayer::new(link).layer(service_fn(answer));
    BoxCloneSyncService::new(
        app.map_response(|response: Response<_>| response.map(|body| Answer::new(body.map_err(Into::into)))),
    )
}

/// A mesh, its server, and what has open streams say one more word.
struct Stage {
    mesh: Mesh,
    address: SocketAddr,
    news: News,
    _server: JoinHandle<Drained>,
}

impl Stage {
    async fn new() -> Self {
        let mesh = Mesh::governed();
        let news = News::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, &mesh.link, endless(&mesh.link, &news)).into_future());
        Self {
            mesh,
            address,
            news,
            _server: server,
        }
    }

    fn mutual(&self, authorization: Authorization) {
        self.mesh.rules(self.address, mutual(authorization));
    }

    async fn begin(&self, identity: &str, path: &str) -> (Sender, http::response::Parts, hyper::body::Incoming) {
        let config = self.mesh.client_as(&self.mesh.ca.identity(identity));
        let (mut sender, _) = h2(connect(self.address, config).await.unwrap()).await.unwrap();
        let request = Request::get(format!("http://payment.shop{path}"))
            .body(Empty::new())
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (sender, head, body)
    }

    fn withdrawn(&self, reason: &'static str) -> u64 {
        self.mesh.link.tally().get("request_withdrawn", reason)
    }
}

async fn word(body: &mut hyper::body::Incoming) -> Result<Bytes, hyper::Error> {
    body.frame()
        .await
        .expect("it has no end")
        .map(|frame| frame.into_data().unwrap())
}

fn peer(id: &str) -> Principal {
    Rule::Is(PrincipalTest::Peer(Some(StringMatch::Exact(id.into()))))
}

fn everybody() -> Authorization {
    Authorization::default()
}

fn header(name: &'static str, value: &str) -> Permission {
    Rule::Is(PermissionTest::Header(HeaderMatch {
        subject: Subject::Header(http::HeaderName::from_static(name)),
        test: HeaderTest::Value(StringMatch::Exact(value.into())),
        invert: false,
        missing_is_empty: false,
    }))
}

#[tokio::test]
async fn az_a_stream_ends_with_the_rule_that_let_it_in_and_nobody_elses_does() {
    let stage = Stage::new().await;
    stage.mutual(everybody());
    let (_one, _, mut evil) = stage.begin(CLIENT, "/").await;
    let (_two, _, mut good) = stage.begin(OTHER, "/").await;
    for body in [&mut evil, &mut good] {
        assert_eq!(word(body).await.unwrap(), "0");
    }
    // A rule that is about neither, and one that is about the other's path: both go on.
    stage.mutual(one_rule(
        RbacAction::Deny,
        Rule::Always,
        peer("spiffe://mesh.test/ns/shop/sa/third"),
    ));
    stage.news.say(1);
    for body in [&mut evil, &mut good] {
        assert_eq!(word(body).await.unwrap(), "1");
    }
    // Not by another word of the handler's, which says none: by the rule alone.
    stage.mutual(one_rule(RbacAction::Deny, Rule::Always, peer(CLIENT)));
    let error = word(&mut evil).await.unwrap_err();
    let reset = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<::h2::Error>());
    assert_eq!(
        reset.and_then(::h2::Error::reason),
        Some(::h2::Reason::INADEQUATE_SECURITY)
    );
    stage.news.say(2);
    assert_eq!(word(&mut good).await.unwrap(), "2");
    // Nothing that is allowed is not allowed any more either.
    stage.mutual(one_rule(RbacAction::Allow, Rule::Always, peer(CLIENT)));
    assert!(word(&mut good).await.is_err());
    assert_eq!(
        (
            stage.withdrawn("rbac"),
            stage.mesh.link.tally().total("connection_revoked")
        ),
        (2, 0)
    );
}

/// An answer that always has more is never waited for, and ends all the same.
#[tokio::test]
async fn az_an_answer_without_a_pause_ends_with_its_rule_too() {
    let stage = Stage::new().await;
    stage.mutual(everybody());
    let (_one, _, mut more) = stage.begin(CLIENT, "/more").await;
    assert_eq!(word(&mut more).await.unwrap(), "0");
    stage.mutual(one_rule(RbacAction::Deny, Rule::Always, peer(CLIENT)));
    let to_its_end = async { while word(&mut more).await.is_ok() {} };
    let long = std::time::Duration::from_secs(30);
    tokio::time::timeout(long, to_its_end).await.expect("it ends");
    assert_eq!(stage.withdrawn("rbac"), 1);
}

#[tokio::test]
async fn az_a_call_that_waits_for_its_answer_is_refused_when_the_rule_is_withdrawn() {
    let stage = Stage::new().await;
    stage.mutual(everybody());
    let config = stage.mesh.client();
    let (mut sender, _task) = h2(connect(stage.address, config).await.unwrap()).await.unwrap();
    let request = Request::get("http://payment.shop/late").body(Empty::new()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request));
    // Another one of the same connection shows that the first is there.
    let shown = Request::get("http://payment.shop/").body(Empty::new()).unwrap();
    let mut shown = sender.send_request(shown).await.unwrap().into_body();
    assert_eq!(word(&mut shown).await.unwrap(), "0");
    stage.mutual(one_rule(RbacAction::Deny, Rule::Always, peer(CLIENT)));
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status(), 403);
    assert!(word(&mut shown).await.is_err());
}

/// Headers are not kept for it: where it turns on one, the stream ends and who comes again is judged by it.
#[tokio::test]
async fn az_a_stream_ends_where_a_new_rule_turns_on_its_headers() {
    let stage = Stage::new().await;
    stage.mutual(everybody());
    let (_one, _, mut one) = stage.begin(CLIENT, "/").await;
    let (_two, _, mut other) = stage.begin(OTHER, "/").await;
    for body in [&mut one, &mut other] {
        assert_eq!(word(body).await.unwrap(), "0");
    }
    stage.mutual(one_rule(RbacAction::Deny, header("x-role", "admin"), peer(CLIENT)));
    assert!(word(&mut one).await.is_err());
    assert_eq!((stage.withdrawn("headers"), stage.withdrawn("rbac")), (1, 0));
    stage.news.say(1);
    assert_eq!(word(&mut other).await.unwrap(), "1");
    let (_again, head, mut again) = stage.begin(CLIENT, "/").await;
    assert_eq!(head.status, 200);
    assert_eq!(word(&mut again).await.unwrap(), "0");
}

/// Over HTTP/1.1, in plaintext that a PERMISSIVE server let in: cut off by a policy, and by STRICT.
#[tokio::test]
async fn az_an_answer_over_http1_is_cut_off_with_the_rule_that_let_it_in() {
    for strict in [false, true] {
        let stage = Stage::new().await;
        stage.mesh.rules(stage.address, open(everybody()));
        let mut io = TcpStream::connect(stage.address).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nhost: payment.shop\r\n\r\n")
            .await
            .unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"1\r\n0\r\n") {
            assert_ne!(
                io.read_buf(&mut read).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&read)
            );
        }
        match strict {
            true => stage.mutual(everybody()),
            false => stage.mesh.rules(
                stage.address,
                open(one_rule(RbacAction::Deny, Rule::Always, Rule::Always)),
            ),
        }
        let mut rest = Vec::new();
        drop(io.read_to_end(&mut rest).await);
        // Cut off: the last chunk, of no length, never came.
        assert_eq!(rest, b"", "{}", String::from_utf8_lossy(&rest));
        assert_eq!(stage.withdrawn(if strict { "connection" } else { "rbac" }), 1);
    }
}
