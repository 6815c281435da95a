//! AZ-1: requests that try to reach what a policy keeps them from, against real routers over real sockets. The oracle is the protected
//! handler: it must never run, whatever the policy engine thinks it saw.
//!
//! Three kinds of service: an axum router, tonic's, and a bare function that does with a path what a file server does (decodes it,
//! resolves its dots, takes backslashes for slashes). Two policies: DENY what is protected, and ALLOW something else.

use std::collections::BTreeSet;

use axum::extract::Request as AxumRequest;
use axum::routing::any;
use mesh_core::Entropy;
use mesh_core::config::{PermissionTest, RbacAction, Rule, StringMatch};
use tonic::body::Body as TonicBody;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use super::authorize::{one_rule, open};
use super::odd::{Http2, http1};
use super::*;

/// Of each kind of service and policy; over HTTP/1.1, where each takes a connection, fewer.
const REQUESTS: usize = 400;
const OVER_HTTP1: usize = 100;

const PREFIXES: [&str; 20] = [
    "/",
    "//",
    "/./",
    "/x/../",
    "/x/%2e%2e/",
    "/%2e/",
    "/\\",
    "/x\\..\\",
    "/%2f",
    "/%5c",
    "/x/..%2f",
    "/x/..%5c",
    "/..;/",
    "/x/..;a=b/",
    "/%2e%2e%2f",
    "/%252e%252e/",
    "/%c0%2e/",
    "/%c0%af",
    "/..%3b/",
    "/x;y/../",
];
const SEPARATORS: [&str; 11] = [
    "/", "//", "/./", "%2f", "%2F", "%5c", "\\", "/x/../", "/%2e/", "%252f", "/;/",
];
const TAILS: [&str; 10] = ["", "?x=/public/", "/", "%00", "#f", ";x", "/.", "/x/..", "%20", "%2e"];

/// The protected path: two segments.
struct Protected {
    first: &'static str,
    second: &'static str,
    /// What an allowing policy allows.
    public: &'static str,
}

const FILES: Protected = Protected {
    first: "admin",
    second: "secret",
    public: "/public/",
};
const CALLS: Protected = Protected {
    first: "mesh.test.Named",
    second: "Secret",
    public: "/mesh.test.Named/Public/",
};

impl Protected {
    /// Whether a path is it to somebody who reads generously.
    fn is(&self, path: &str) -> bool {
        let mut decoded = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            let two = bytes.clone().take(2).collect::<Vec<_>>();
            let code = std::str::from_utf8(&two)
                .ok()
                .and_then(|two| u8::from_str_radix(two, 16).ok());
            match (byte, code) {
                (b'%', Some(code)) if two.len() == 2 => {
                    decoded.push(code);
                    bytes.nth(1);
                }
                _ => decoded.push(byte),
            }
        }
        let mut segments: Vec<&[u8]> = Vec::new();
        for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
            match segment {
                b"" | b"." => {}
                b".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        segments == [self.first.as_bytes(), self.second.as_bytes()]
    }

    /// Spellings of it, and of what looks like it; the plain one first.
    fn spellings(&self, count: usize, seed: u64) -> BTreeSet<String> {
        let entropy = Entropy::seeded(seed);
        let mut draw = entropy.draw();
        let mut of = |all: &[&str]| all[draw.below(all.len() as u64) as usize].to_owned();
        let mut all = BTreeSet::from([format!("/{}/{}", self.first, self.second)]);
        while all.len() < count {
            let escaped =
                |word: &str, at: usize| format!("{}%{:02x}{}", &word[..at], word.as_bytes()[at], &word[at + 1..]);
            let first = match of(&["plain", "plain", "escaped", "upper"]).as_str() {
                "plain" => self.first.to_owned(),
                "escaped" => escaped(self.first, 1),
                _ => self.first.to_uppercase(),
            };
            let second = match of(&["plain", "plain", "escaped"]).as_str() {
                "plain" => self.second.to_owned(),
                _ => escaped(self.second, 2),
            };
            let begin = match of(&["", "", "public"]).as_str() {
                "public" => format!("{}..{}", self.public, of(&["/", "%2f", "\\", ";/"])),
                _ => String::new(),
            };
            // From what is public two steps up, where it lies two deep.
            let begin = begin.replace("Public/..", "Public/../..");
            all.insert(format!(
                "{begin}{}{first}{}{second}{}",
                of(&PREFIXES),
                of(&SEPARATORS),
                of(&TAILS)
            ));
        }
        all
    }
}

/// Counts those that are protected and those that are not.
#[derive(Clone, Default)]
struct Oracle {
    reached: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
}

impl Oracle {
    fn see(&self, protected: &Protected, path: &str) {
        let counter = if protected.is(path) {
            &self.reached
        } else {
            &self.others
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn serve_app<S, B>(link: &Link, app: S) -> SocketAddr
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, link, app).into_future());
    address
}

/// Denies what is protected, or allows what is public.
fn policies(protected: &Protected) -> [(RbacAction, StringMatch); 2] {
    let denied = format!("/{}/{}", protected.first, protected.second);
    [
        (RbacAction::Deny, StringMatch::Prefix(denied.into())),
        (RbacAction::Allow, StringMatch::Prefix(protected.public.into())),
    ]
}

/// Sends all of it; how many requests that were.
async fn attack(mesh: &Mesh, address: SocketAddr, protected: &Protected, oracle: &Oracle, grpc: bool) -> usize {
    let mut sent = 0;
    for (seed, (action, path)) in policies(protected).into_iter().enumerate() {
        let rule = Rule::Is(PermissionTest::Path(path));
        mesh.rules(address, open(one_rule(action, rule, Rule::Always)));
        let content_type: &[u8] = if grpc { b"application/grpc" } else { b"text/plain" };
        let mut connection = Http2::new(TcpStream::connect(address).await.unwrap()).await;
        let mut call = async |path: &str| {
            let fields: [(&[u8], &[u8]); 5] = [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":authority", b"payment.shop"),
                (b":path", path.as_bytes()),
                (b"content-type", content_type),
            ];
            if !connection.request(&fields).await {
                connection = Http2::new(TcpStream::connect(address).await.unwrap()).await;
            }
        };
        // What is allowed arrives, or nothing would be shown.
        let before = oracle.others.load(Ordering::Relaxed);
        call(&format!("{}x", protected.public)).await;
        assert_eq!(oracle.others.load(Ordering::Relaxed), before + 1, "{action:?}");
        let spellings = protected.spellings(REQUESTS, seed as u64);
        for path in &spellings {
            call(path).await;
            assert_eq!(oracle.reached.load(Ordering::Relaxed), 0, "{action:?} {path}");
        }
        for path in spellings.iter().step_by(REQUESTS / OVER_HTTP1) {
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: payment.shop\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            http1(TcpStream::connect(address).await.unwrap(), head.as_bytes()).await;
            assert_eq!(
                oracle.reached.load(Ordering::Relaxed),
                0,
                "{action:?} {path} over HTTP/1.1"
            );
        }
        sent += REQUESTS + OVER_HTTP1;
    }
    // And without a policy the corpus does reach it, so it is what it says.
    mesh.rules(address, open(Default::default()));
    let mut connection = Http2::new(TcpStream::connect(address).await.unwrap()).await;
    let path = format!("/{}/{}", protected.first, protected.second);
    let fields: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"payment.shop"),
        (b":path", path.as_bytes()),
    ];
    connection.request(&fields).await;
    assert_eq!(oracle.reached.load(Ordering::Relaxed), 1);
    sent
}

#[tokio::test]
async fn az_1_no_spelling_reaches_a_protected_axum_handler() {
    let (mesh, oracle) = (Mesh::governed(), Oracle::default());
    let seen = oracle.clone();
    let handler = move |request: AxumRequest| {
        seen.see(&FILES, request.uri().path());
        async { "seen" }
    };
    let router = axum::Router::new()
        .route("/admin/secret", any(handler.clone()))
        .route("/admin/{*rest}", any(handler.clone()))
        .fallback(handler);
    let address = serve_app(&mesh.link, MeshLayer::new(&mesh.link).layer(router)).await;
    assert_eq!(attack(&mesh, address, &FILES, &oracle, false).await, 1000);
}

#[tokio::test]
async fn az_1_no_spelling_reaches_a_protected_hyper_handler() {
    let (mesh, oracle) = (Mesh::governed(), Oracle::default());
    let seen = oracle.clone();
    let answer = move |request: Request<RequestBody>| {
        seen.see(&FILES, request.uri().path());
        async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"seen")))) }
    };
    let app = crate::FromHyper::new(hyper::service::service_fn(answer));
    let address = serve_app(&mesh.link, MeshLayer::new(&mesh.link).layer(app)).await;
    assert_eq!(attack(&mesh, address, &FILES, &oracle, false).await, 1000);
}

#[tokio::test]
async fn az_1_no_spelling_reaches_a_protected_tonic_method() {
    let (mesh, oracle) = (Mesh::governed(), Oracle::default());
    let routes = Routes::new(Calls(oracle.clone()));
    let address = serve_app(&mesh.link, MeshLayer::new(&mesh.link).layer(routes)).await;
    assert_eq!(attack(&mesh, address, &CALLS, &oracle, true).await, 1000);
}

/// What tonic would generate, as far as routing goes.
#[derive(Clone)]
struct Calls(Oracle);

impl NamedService for Calls {
    const NAME: &'static str = "mesh.test.Named";
}

impl Service<Request<TonicBody>> for Calls {
    type Response = Response<TonicBody>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<TonicBody>) -> Self::Future {
        self.0.see(&CALLS, request.uri().path());
        std::future::ready(Ok(Response::new(TonicBody::empty())))
    }
}
