//! Tokens by table and by clock, and the files of a channel.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mesh_core::Entropy;
use mesh_core::testing::{SettableClock, TestCa};
use rustls::pki_types::UnixTime;
use tonic::Code;

use super::token::{Cache, Failure, InvalidToken, Plan, Token};
use super::*;
use crate::bootstrap::CallCredentials;

/// The wall clock's second at which tests begin.
const NOW: u64 = 1_000_000;

/// A JWT with these claims.
fn jwt(claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        encode(r#"{"alg":"RS256"}"#),
        encode(claims),
        encode("signature")
    )
}

fn until(exp: u64) -> Token {
    Token::read(jwt(&format!(r#"{{"exp":{exp}}}"#)).as_bytes()).unwrap()
}

fn wall(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

#[test]
fn tokens_by_table() {
    let good = jwt(r#"{"iss":"x","exp":1000}"#);
    let bad = [
        (String::new(), InvalidToken::NotJwt),
        ("opaque".into(), InvalidToken::NotJwt),
        ("a.b".into(), InvalidToken::NotJwt),
        (format!("{good}.more"), InvalidToken::NotJwt),
        (format!("Bearer {good}"), InvalidToken::NotJwt),
        (good.replacen('.', "\n.", 1), InvalidToken::NotJwt),
        ("a.!!.c".into(), InvalidToken::NotJwt),
        (".e30.c".into(), InvalidToken::NotJwt),
        ("a.e30=.c".into(), InvalidToken::NotJwt),
        (jwt("{}"), InvalidToken::NoEnd),
        (jwt("[1]"), InvalidToken::NoEnd),
        (jwt("not JSON"), InvalidToken::NoEnd),
        (jwt(r#"{"exp":"1000"}"#), InvalidToken::NoEnd),
        (jwt(r#"{"exp":null}"#), InvalidToken::NoEnd),
        (
            jwt(&format!(r#"{{"exp":1,"pad":"{}"}}"#, "x".repeat(16 * 1024))),
            InvalidToken::TooLong,
        ),
    ];
    for (text, expected) in bad {
        assert_eq!(Token::read(text.as_bytes()).unwrap_err(), expected, "{text}");
    }
    for text in [
        good.clone(),
        format!("  {good}\n"),
        jwt(r#"{"exp":1000.9}"#),
        jwt(r#"{"exp":1e3}"#),
    ] {
        let mut cache = Cache::default();
        let token = Token::read(text.as_bytes()).unwrap();
        assert!(!format!("{token:?}").contains(&text[4..]), "a token is not shown");
        cache.record(Ok(token), wall(0)).unwrap();
        // 30 s before it ends it is over.
        let header = cache.current(wall(969)).unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Bearer {}", text.trim()));
        assert!(header.is_sensitive());
        assert!(cache.current(wall(970)).is_none());
    }
    let mut cache = Cache::default();
    for exp in ["-5", "0", "30"] {
        let token = Token::read(jwt(&format!(r#"{{"exp":{exp}}}"#)).as_bytes()).unwrap();
        assert!(cache.record(Ok(token), wall(0)).is_err(), "{exp} is long ago");
    }
    let forever = Token::read(jwt(r#"{"exp":1e300}"#).as_bytes()).unwrap();
    assert!(cache.record(Ok(forever), wall(NOW)).is_ok());
}

#[test]
fn what_a_call_does_by_what_is_known() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut cache = Cache::default();
    assert!(matches!(cache.plan(wall(NOW), start), Plan::Read));

    cache.record(Ok(until(NOW + 300)), wall(NOW)).unwrap();
    assert!(matches!(cache.plan(wall(NOW), start), Plan::Use(_)));
    // It ends for us at 270, and is renewed in the minute before that.
    assert!(matches!(cache.plan(wall(NOW + 210), after(210)), Plan::Use(_)));
    assert!(matches!(cache.plan(wall(NOW + 211), after(211)), Plan::Read));
    // A renewal that fails is not repeated at once, and the old one goes on.
    let failure = Failure::unreadable("gone");
    assert_eq!(
        cache.record(Err(failure.clone()), wall(NOW + 211)),
        Err(failure.clone())
    );
    cache.rest(failure.clone(), after(215));
    assert!(matches!(cache.plan(wall(NOW + 214), after(214)), Plan::Use(_)));
    assert!(matches!(cache.plan(wall(NOW + 215), after(215)), Plan::Read));
    // Once it is over, calls fail with what the last reading said.
    cache.rest(failure.clone(), after(300));
    match cache.plan(wall(NOW + 270), after(270)) {
        Plan::Fail(told) => assert_eq!(told, failure),
        other => panic!("{other:?}"),
    }
    assert!(matches!(cache.plan(wall(NOW + 300), after(300)), Plan::Read));
    // A token that has ended is no renewal.
    let ended = cache.record(Ok(until(NOW + 330)), wall(NOW + 300)).unwrap_err();
    assert_eq!(ended, Failure::invalid(InvalidToken::Ended));
    cache.record(Ok(until(NOW + 900)), wall(NOW + 300)).unwrap();
    assert!(matches!(cache.plan(wall(NOW + 300), after(290)), Plan::Use(_)));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_when_it_must_be_and_no_sooner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let clock = SettableClock::at(NOW);
    let credentials = [CallCredentials::JwtTokenFile(path.clone())];
    let tokens = CallTokens::new(&credentials, Arc::new(clock.clone()), &Entropy::seeded(1));
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let claims = |exp: u64| jwt(&format!(r#"{{"exp":{exp}}}"#));

    let missing = tokens.headers().await.unwrap_err();
    assert_eq!(missing.code(), Code::Unavailable);
    assert!(missing.message().contains(path.to_str().unwrap()), "{missing:?}");
    // It is there now, but the pause after the failure is not over.
    write(&claims(NOW + 1000));
    assert_eq!(tokens.headers().await.unwrap_err().message(), missing.message());
    tokio::time::advance(Duration::from_secs(2)).await;
    let first = tokens.headers().await.unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0], format!("Bearer {}", claims(NOW + 1000)));

    // A new one in the file waits until the old one nears its end.
    write(&claims(NOW + 5000));
    assert_eq!(tokens.headers().await.unwrap(), first);
    clock.set(NOW + 915);
    let second = tokens.headers().await.unwrap();
    assert_eq!(second[0], format!("Bearer {}", claims(NOW + 5000)));

    write("open sesame");
    clock.set(NOW + 4990);
    let invalid = tokens.headers().await.unwrap_err();
    assert_eq!(invalid.code(), Code::Unauthenticated);
    assert!(invalid.message().contains("it is not a JWT"), "{invalid:?}");
    assert!(!invalid.message().contains("sesame"));
    assert!(!format!("{tokens:?}").contains("Bearer"));
    write(&"x".repeat(2 * 1024 * 1024));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(
        tokens
            .headers()
            .await
            .unwrap_err()
            .message()
            .contains("longer than 1 MiB")
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_believed_is_read_again_before_it_is_shown_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let credentials = [CallCredentials::JwtTokenFile(path.clone())];
    let clock = Arc::new(SettableClock::at(NOW));
    let tokens = CallTokens::new(&credentials, clock, &Entropy::seeded(1));
    let claims = |exp: u64| jwt(&format!(r#"{{"exp":{exp}}}"#));
    let write = |exp: u64| std::fs::write(&path, claims(exp)).unwrap();
    let shown = async || tokens.headers().await.unwrap()[0].to_str().unwrap().to_owned();
    let of = |exp: u64| format!("Bearer {}", claims(exp));
    write(NOW + 1000);
    assert_eq!(shown().await, of(NOW + 1000));
    write(NOW + 2000);
    assert_eq!(shown().await, of(NOW + 1000));
    tokens.doubt();
    assert_eq!(shown().await, of(NOW + 2000));
    // Once for each doubt.
    write(NOW + 3000);
    assert_eq!(shown().await, of(NOW + 2000));
    // And what is there goes on being shown where there is nothing else.
    std::fs::remove_file(&path).unwrap();
    tokens.doubt();
    assert_eq!(shown().await, of(NOW + 2000));
}

#[tokio::test]
async fn all_of_the_files_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pem = |label: &str, der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let ca = TestCa::new("d");
    // No SPIFFE certificate: the control plane has rules of its own.
    let (shown, other) = (ca.web_server("client.example"), ca.web_server("client.example"));
    let roots = write("roots.pem", &pem("CERTIFICATE", &ca.root()));
    let certificate = write("chain.pem", &pem("CERTIFICATE", &shown.chain[0]));
    let key = write("key.pem", &pem("PRIVATE KEY", shown.key.secret_der()));
    let stranger = write("other.pem", &pem("PRIVATE KEY", other.key.secret_der()));
    let empty = write("empty.pem", "");
    let read = |roots: &Path, certificate: &Path, private_key: &Path| {
        let tls = TlsCredentials {
            certificate: Some(CertificateFiles {
                certificate: certificate.into(),
                private_key: private_key.into(),
            }),
            ..Roots::File(roots.into()).into()
        };
        async move { Material::read(&tls).await.map_err(|error| error.to_string()) }
    };
    let material = read(&roots, &certificate, &key).await.unwrap();
    assert!(material.certificate.is_some() && material.roots.len() == 1);
    let refused = [
        (
            read(&empty, &certificate, &key).await,
            "roots: there is no certificate in it",
        ),
        (
            read(&roots, &empty, &key).await,
            "client certificate: there is no certificate in it",
        ),
        (read(&roots, &certificate, &empty).await, "client key: not PEM"),
        (
            read(&roots, &certificate, Path::new("no/such")).await,
            "client key: no/such",
        ),
        (
            read(&roots, &certificate, &stranger).await,
            "client certificate: the private key is not the certificate's",
        ),
    ];
    for (result, expected) in refused {
        let error = result.unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// In a process of its own, since the environment is everybody's.
#[tokio::test]
async fn the_systems_roots_are_those_that_its_environment_names() {
    const CHILD: &str = "READS_SYSTEM_ROOTS";
    if std::env::var_os(CHILD).is_some() {
        let material = Material::read(&Roots::System.into()).await;
        match std::env::var(CHILD).unwrap().as_str() {
            "one" => assert_eq!(material.unwrap().roots.len(), 1),
            none => assert!(material.unwrap_err().to_string().starts_with("roots: "), "{none}"),
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, missing) = (folder.path().join("roots.pem"), folder.path().join("missing.pem"));
    let body = base64::engine::general_purpose::STANDARD.encode(TestCa::new("d").root());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    std::fs::write(&root, pem).unwrap();
    for (file, expected) in [(root, "one"), (missing, "none")] {
        let name = "credentials::tests::the_systems_roots_are_those_that_its_environment_names";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let child = child
            .args(["--exact", name])
            .env("SSL_CERT_FILE", &file)
            .env(CHILD, expected);
        let output = child.env_remove("SSL_CERT_DIR").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{file:?}: {said}");
    }
}
