//! When sources are asked, and what a fetch takes of whoever answers: over real sockets and real TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_core::config::Jwks;
use mesh_core::identity::tls::provider;
use mesh_core::testing::{TestCa, TestIssuer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::fetch::FetchError;
use super::*;

fn source(uri: &str) -> JwksSource {
    JwksSource::at(uri).unwrap()
}

fn keys() -> Jwks {
    Jwks::parse(&TestIssuer::new("k1").jwks()).unwrap()
}

fn wanting(sources: &[&str], now: Instant) -> Keeper {
    let mut keeper = Keeper::new(REFRESH_INTERVAL);
    let sources = sources.iter().map(|uri| (source(uri), DEFAULT_TIMEOUT));
    keeper.want(sources.collect(), now, |_| None);
    keeper
}

#[test]
fn what_is_good_is_asked_again_after_the_interval_and_what_fails_sooner_and_sooner_less() {
    let (entropy, start) = (Entropy::seeded(1), Instant::now());
    let a = source("https://a.example/keys");
    let mut keeper = wanting(&["https://a.example/keys"], start);
    assert_eq!(keeper.due(start, 8), (vec![(a.clone(), DEFAULT_TIMEOUT)], None));
    // It is being asked.
    assert_eq!(keeper.due(start + REFRESH_INTERVAL, 8), (vec![], None));
    let mut now = start;
    for (failures, most) in [10, 20, 40, 80, 160, 320, 640, 1200, 1200].into_iter().enumerate() {
        let news = keeper.took(&a, Err("down".into()), now, &mut entropy.draw());
        assert_eq!(news, failures == 0, "the same failure is said once");
        let (_, next) = keeper.due(now, 8);
        let pause = next.unwrap() - now;
        let most = Duration::from_secs(most);
        assert!((most / 2..=most).contains(&pause), "{pause:?} of {most:?}");
        now += pause;
        assert_eq!(keeper.due(now, 8).0.len(), 1);
    }
    let good = keys();
    assert!(keeper.took(&a, Ok(good.clone()), now, &mut entropy.draw()));
    let pause = keeper.due(now, 8).1.unwrap() - now;
    assert!((REFRESH_INTERVAL.mul_f64(0.9)..=REFRESH_INTERVAL.mul_f64(1.1)).contains(&pause));
    assert!(!keeper.took(&a, Ok(good.clone()), now, &mut entropy.draw()), "no news");
    // The last good ones stay, and it is said why they are the last.
    assert!(keeper.took(&a, Err("down".into()), now, &mut entropy.draw()));
    assert_eq!(keeper.keys(&a), Some(&good));
    assert!(
        keeper
            .complaint(&a, "i")
            .unwrap()
            .contains("the last good ones stay: down")
    );
    assert!(keeper.took(&a, Ok(keys()), now, &mut entropy.draw()));
    assert_eq!(keeper.complaint(&a, "i"), None);
    // An issuer that says it has no key is believed.
    assert!(keeper.took(&a, Ok(Jwks::default()), now, &mut entropy.draw()));
    assert!(keeper.complaint(&a, "i").unwrap().contains("no key of a kind"));
}

#[test]
fn only_what_is_wanted_is_asked_and_never_more_than_there_is_room_for() {
    let (entropy, start) = (Entropy::seeded(2), Instant::now());
    let all = ["https://a/", "https://b/", "https://c/"];
    let mut keeper = wanting(&all, start);
    assert_eq!(keeper.due(start, 2).0.len(), 2);
    assert_eq!(keeper.due(start, 0), (vec![], None));
    assert!(!keeper.asked_all_once());
    assert_eq!(keeper.due(start, 2).0, [(source("https://c/"), DEFAULT_TIMEOUT)]);
    for uri in all {
        keeper.took(&source(uri), Ok(keys()), start, &mut entropy.draw());
    }
    assert!(keeper.asked_all_once());
    keeper.want(BTreeMap::from([(source("https://b/"), MAX_TIMEOUT)]), start, |_| None);
    assert!(keeper.keys(&source("https://a/")).is_none() && keeper.keys(&source("https://b/")).is_some());
    // What comes of it after that is nobody's.
    assert!(!keeper.took(&source("https://a/"), Ok(keys()), start, &mut entropy.draw()));
    assert_eq!(
        keeper.due(start + REFRESH_INTERVAL * 2, 8).0,
        [(source("https://b/"), MAX_TIMEOUT)]
    );
}

#[test]
fn addresses_are_read_strictly() {
    for bad in [
        "",
        "keys",
        "/keys",
        "a.example/keys",
        "ftp://a/",
        "file:///etc/passwd",
        "https://user@a.example/",
        "https://user:secret@a.example/",
        "https:///keys",
        "https://a b/",
    ] {
        assert!(JwksSource::at(bad).is_err(), "{bad}");
    }
    assert!(JwksSource::at(&format!("https://a/{}", "x".repeat(2048))).is_err());
    for (uri, loopback) in [
        ("http://localhost:1/", true),
        ("http://127.9.0.1/", true),
        ("http://[::1]:8/x", true),
        ("http://localhost.example/", false),
        ("http://10.0.0.1/", false),
    ] {
        let source = source(uri);
        assert_eq!(
            (source.uri().is_loopback(), source.uri().is_secure()),
            (loopback, false)
        );
        assert_eq!(source.to_string(), uri);
    }
    let issuer = JwksSource::of_issuer("https://a.example/realm/").unwrap();
    assert_eq!(
        issuer.to_string(),
        "https://a.example/realm/.well-known/openid-configuration"
    );
    for bad in ["me", "https://a/?b=c", "https://a/#b"] {
        assert!(JwksSource::of_issuer(bad).is_err(), "{bad}");
    }
}

/// What an issuer answers to a path.
type Answers = fn(&str, SocketAddr) -> Response<Full<Bytes>>;

async fn answer(io: impl AsyncRead + AsyncWrite + Unpin, own: SocketAddr, answers: Answers) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let answer = answers(request.uri().path(), own);
        async move { Ok::<_, Infallible>(answer) }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(io), service).await);
}

/// An issuer in plaintext; how many connections it had.
async fn plain(answers: Answers) -> (SocketAddr, Arc<AtomicUsize>) {
    let (connections, listener) = (
        Arc::new(AtomicUsize::new(0)),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let (own, count) = (listener.local_addr().unwrap(), Arc::clone(&connections));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(answer(stream, own, answers));
        }
    });
    (own, connections)
}

fn fetcher() -> Fetcher {
    Fetcher {
        connector: JwksConnector::tcp(),
        roots: Some(Vec::new()),
        clock: Arc::new(DefaultTimeProvider),
        plaintext: false,
    }
}

async fn fetch(uri: &str) -> Result<Jwks, FetchError> {
    fetcher().fetch(&source(uri), DEFAULT_TIMEOUT).await
}

fn text(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("location", "/keys");
    response.body(Full::new(body.into())).unwrap()
}

fn of_issuer(path: &str, own: SocketAddr) -> Response<Full<Bytes>> {
    let configuration = |issuer: &str, uri: &str| text(200, format!(r#"{{"issuer":"{issuer}","jwks_uri":"{uri}"}}"#));
    let me = format!("http://{own}");
    match path {
        "/keys" => text(200, TestIssuer::new("k1").jwks()),
        "/moved" => text(302, ""),
        "/none" => text(404, ""),
        "/huge" => text(200, vec![b' '; Jwks::MAX_BYTES + 1]),
        "/binary" => text(200, &b"\xff"[..]),
        "/page" => text(200, "<html>"),
        "/secret" => text(200, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#),
        "/good/.well-known/openid-configuration" => configuration(&format!("{me}/good"), &format!("{me}/keys")),
        "/other/.well-known/openid-configuration" => configuration(&format!("{me}/good"), &format!("{me}/keys")),
        "/away/.well-known/openid-configuration" => configuration(&format!("{me}/away"), "http://192.0.2.1/keys"),
        "/file/.well-known/openid-configuration" => configuration(&format!("{me}/file"), "file:///keys"),
        _ => text(200, "{}"),
    }
}

#[tokio::test]
async fn az_12_only_a_whole_set_of_public_keys_is_taken_of_an_answer() {
    let (own, connections) = plain(of_issuer).await;
    let keys = fetch(&format!("http://{own}/keys")).await.unwrap();
    assert_eq!(keys.keys().len(), 1);
    for (path, reason) in [
        ("moved", "status"),
        ("none", "status"),
        ("huge", "too_large"),
        ("binary", "http"),
        ("page", "keys"),
        ("secret", "keys"),
        ("other-thing", "keys"),
    ] {
        let before = connections.load(Ordering::SeqCst);
        let error = fetch(&format!("http://{own}/{path}")).await.unwrap_err();
        assert_eq!(error.as_str(), reason, "{path}: {error}");
        // No redirect is followed.
        assert_eq!(connections.load(Ordering::SeqCst), before + 1, "{path}");
    }
    let discover = async |issuer: &str| {
        let source = JwksSource::of_issuer(issuer).unwrap();
        fetcher().fetch(&source, DEFAULT_TIMEOUT).await
    };
    assert_eq!(
        discover(&format!("http://{own}/good/")).await.unwrap_err().as_str(),
        "discovery"
    );
    assert_eq!(discover(&format!("http://{own}/good")).await.unwrap().keys().len(), 1);
    for (issuer, reason) in [
        ("other", "discovery"),
        ("away", "plaintext"),
        ("file", "discovery"),
        ("x", "discovery"),
    ] {
        let error = discover(&format!("http://{own}/{issuer}")).await.unwrap_err();
        assert_eq!(error.as_str(), reason, "{issuer}: {error}");
    }
    // A head that does not end.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1024 * 1024));
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(head.as_bytes()).await);
            drop(stream.read(&mut [0; 1]).await);
        }
    });
    assert_eq!(fetch(&format!("http://{own}/keys")).await.unwrap_err().as_str(), "http");
}

#[tokio::test]
async fn az_12_plaintext_stays_on_this_host() {
    for uri in ["http://192.0.2.1/keys", "http://issuer.example/keys"] {
        assert_eq!(fetch(uri).await.unwrap_err().as_str(), "plaintext", "{uri}");
    }
}

/// Under a paused clock the time is over as soon as nothing else can happen.
#[tokio::test(start_paused = true)]
async fn az_12_a_source_that_says_nothing_is_left_in_time() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let once = Mutex::new(Some(ours));
    let connector = JwksConnector::new(move |_, _| {
        let io = once.lock().unwrap().take();
        std::future::ready(io.ok_or_else(|| std::io::ErrorKind::NotConnected.into()))
    });
    let fetcher = Fetcher { connector, ..fetcher() };
    let begin = Instant::now();
    let error = fetcher
        .fetch(&source("http://127.0.0.1/keys"), DEFAULT_TIMEOUT)
        .await
        .unwrap_err();
    assert_eq!((error.as_str(), begin.elapsed()), ("timeout", DEFAULT_TIMEOUT));
    drop(theirs);
}

#[tokio::test]
async fn az_12_over_tls_only_who_the_roots_vouch_for_by_that_name_is_believed() {
    let (ca, other) = (TestCa::new("issuer.example"), TestCa::new("issuer.example"));
    let issued = ca.web_server("issuer.example");
    let config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, own, of_issuer).await;
            }
        }
    });
    let by = |roots: Vec<CertificateDer<'static>>| Fetcher {
        connector: JwksConnector::new(move |_, _| tokio::net::TcpStream::connect(own)),
        roots: Some(roots),
        ..fetcher()
    };
    for (roots, host, expected) in [
        (vec![ca.root()], "issuer.example", Ok(1)),
        (vec![ca.root()], "other.example", Err("tls")),
        (vec![other.root()], "issuer.example", Err("tls")),
        (vec![], "issuer.example", Err("roots")),
    ] {
        let fetched = by(roots)
            .fetch(&source(&format!("https://{host}/keys")), DEFAULT_TIMEOUT)
            .await;
        let fetched = fetched
            .as_ref()
            .map(|keys| keys.keys().len())
            .map_err(FetchError::as_str);
        assert_eq!(fetched, expected, "{host}");
    }
}

#[derive(Debug)]
struct At(u64);

impl rustls::time_provider::TimeProvider for At {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(
            self.0,
        )))
    }
}

#[test]
fn az_12_keys_outlive_a_restart_for_a_day_and_no_longer() {
    const DAY: u64 = 24 * 3600;
    let (folder, good) = (tempfile::tempdir().unwrap(), keys());
    let at = |seconds: u64| Records::open(folder.path(), Arc::new(At(seconds))).unwrap();
    let (a, b) = (source("https://a.example/keys"), source("https://b.example/keys"));
    at(DAY).save(&a, &good);
    let left = |seconds: u64| at(seconds).load(&a).map(|(keys, left)| (keys == good, left.as_secs()));
    assert_eq!(left(DAY), Some((true, DAY)));
    assert_eq!(left(2 * DAY - 1), Some((true, 1)));
    // Too old, from the future, and another's.
    assert_eq!(
        (left(2 * DAY), left(DAY - 1), at(DAY).load(&b).is_none()),
        (None, None, true)
    );
    let file = std::fs::read_dir(folder.path().join("jwks"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::copy(&file, file.with_file_name("other")).unwrap();
    let other = Records::open(folder.path(), Arc::new(At(DAY))).unwrap();
    other.keep_only([&a].into_iter());
    assert_eq!(std::fs::read_dir(folder.path().join("jwks")).unwrap().count(), 1);
    // What somebody else could have written, or is no record, is nobody's keys.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("a.example", "b.example")).unwrap();
    assert_eq!(left(DAY), None);
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert_eq!(left(DAY), None);
    std::fs::write(&file, &text).unwrap();
    assert!(left(DAY).is_some());
    #[cfg(unix)]
    {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(left(DAY), None);
    }
}

#[test]
fn az_12_keys_from_before_a_restart_are_let_go_of_in_time() {
    let (entropy, start) = (Entropy::seeded(3), Instant::now());
    let (a, good) = (source("https://a.example/keys"), keys());
    let hour = Duration::from_secs(3600);
    let mut keeper = Keeper::new(REFRESH_INTERVAL);
    let wanted: BTreeMap<_, _> = [(a.clone(), DEFAULT_TIMEOUT)].into();
    keeper.want(wanted.clone(), start, |_| Some((good.clone(), hour)));
    assert_eq!(keeper.keys(&a), Some(&good));
    assert!(keeper.complaint(&a, "i").unwrap().contains("before the restart"));
    assert!(keeper.took(&a, Err("down".into()), start, &mut entropy.draw()));
    assert!(!keeper.took(&a, Err("down".into()), start + hour / 2, &mut entropy.draw()));
    assert!(keeper.complaint(&a, "i").unwrap().contains("for a day"));
    // Another reading restores nothing anew, and gives no more time.
    keeper.want(wanted.clone(), start + hour / 2, |_| Some((good.clone(), hour)));
    assert!(
        keeper.took(&a, Err("down".into()), start + hour, &mut entropy.draw()),
        "that they are over is news"
    );
    assert_eq!(keeper.keys(&a), None);
    assert!(keeper.complaint(&a, "i").unwrap().contains("are refused"));
    // Once they were fetched by this process they stay as ever.
    let mut keeper = Keeper::new(REFRESH_INTERVAL);
    keeper.want(wanted, start, |_| Some((good.clone(), hour)));
    assert!(keeper.took(&a, Ok(good.clone()), start, &mut entropy.draw()));
    assert!(keeper.took(&a, Err("down".into()), start + 2 * hour, &mut entropy.draw()));
    assert_eq!(keeper.keys(&a), Some(&good));
}
