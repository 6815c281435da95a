//! What else the CA promises: whose tokens it has reviewed, what is written down, keys that are somebody's already, clocks and files.

use std::sync::atomic::AtomicUsize;

use mesh_core::identity::{Identity, Svid, TrustBundle};
use mesh_core::testing::TestIssuer;
use serde_json::{Value, json};

use super::*;
use crate::ca::review::{MAX_REVIEWS, MAX_TOKEN_BYTES};
use crate::ca::{ReviewRefusal, Reviewer, ServiceAccountTokens};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const PAYMENT: &str = "spiffe://cluster.local/ns/default/sa/payment";

fn authority() -> Authority {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    Authority::open(None, domain, Arc::new(Fixed(NOW)), DEFAULT_LEAF_LIFETIME).unwrap()
}

fn reviewed(reviewer: Reviewer) -> Bench {
    let mut authority = authority();
    authority.review_by(reviewer);
    Bench::new(Arc::new(authority))
}

/// A service account's token, as kubelet projects it, but for what `edit` makes of it.
fn account(cluster: &TestIssuer, edit: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": ISSUER,
        "aud": ["istio-ca"],
        "sub": "system:serviceaccount:default:checkout",
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 3600,
        "kubernetes.io": {
            "namespace": "default",
            "pod": {"name": "checkout-0", "uid": "1"},
            "serviceaccount": {"name": "checkout", "uid": "2"},
        },
    });
    edit(&mut claims);
    cluster.token(&claims.to_string())
}

// A review has a limit of time, which needs a clock.
#[tokio::test]
async fn tokens_of_service_accounts_are_checked_by_the_clusters_keys() {
    let (cluster, other) = (TestIssuer::new("one"), TestIssuer::new("one"));
    let tokens = ServiceAccountTokens::new(ISSUER, &cluster.jwks()).unwrap();
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let bench = || {
        let (tokens, domain) = (tokens.clone(), domain.clone());
        reviewed(Reviewer::of_service_accounts(tokens, domain, Arc::new(Fixed(NOW))))
    };
    let csr = csr(&key(), &[CHECKOUT]);
    let good = account(&cluster, |_| {});
    let one = bench();
    // It stands for its account for as long as it lasts, and for no other.
    for _ in 0..2 {
        let chain = one.ask(&csr, Some(&good), None).unwrap().cert_chain;
        let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        assert_eq!(verify::leaf_id(&der).unwrap().as_str(), CHECKOUT);
    }
    assert_eq!(one.tally.get("certificate_issued", "reviewed_token"), 2);
    let stranger = super::csr(&key(), &[PAYMENT]);
    refused(one.ask(&stranger, Some(&good), None), Code::InvalidArgument);

    type Edit = fn(&mut Value);
    let bad: [(&str, Edit); 10] = [
        ("another issuer", |claims| claims["iss"] = "https://elsewhere".into()),
        ("another audience", |claims| claims["aud"] = json!(["vault"])),
        ("no audience", |claims| claims["aud"] = Value::Null),
        ("an end long ago", |claims| claims["exp"] = (NOW - 61).into()),
        ("a beginning to come", |claims| claims["nbf"] = (NOW + 61).into()),
        ("no end", |claims| {
            claims.as_object_mut().unwrap().remove("exp");
        }),
        ("no account", |claims| {
            claims["kubernetes.io"]["serviceaccount"] = Value::Null
        }),
        ("no namespace", |claims| {
            claims["kubernetes.io"]["namespace"] = Value::Null
        }),
        ("a path", |claims| {
            claims["kubernetes.io"]["namespace"] = "default/sa/payment".into()
        }),
        ("dots", |claims| {
            claims["kubernetes.io"]["serviceaccount"]["name"] = "..".into()
        }),
    ];
    for (what, edit) in bad {
        let answer = bench().ask(&csr, Some(&account(&cluster, edit)), None);
        assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated, "{what}");
    }
    refused(
        bench().ask(&csr, Some(&account(&other, |_| {})), None),
        Code::Unauthenticated,
    );
    let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
    refused(bench().ask(&csr, Some(&long), None), Code::Unauthenticated);
    // And without anybody to review it, it is a word like any other.
    refused(super::bench().ask(&csr, Some(&good), None), Code::Unauthenticated);
}

// A review has a limit of time, which needs a clock.
#[tokio::test]
async fn a_hook_is_asked_about_what_is_none_of_ours_and_only_by_who_has_not_failed_too_often() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let bench = reviewed(Reviewer::new(move |token: String| {
        count.fetch_add(1, Ordering::Relaxed);
        let answer = match token.as_str() {
            "of checkout" => Ok(id(CHECKOUT)),
            "of elsewhere" => Ok(id("spiffe://elsewhere/a")),
            _ => Err(ReviewRefusal::new("no such token")),
        };
        std::future::ready(answer)
    }));
    let csr = csr(&key(), &[]);
    let join = bench.token(Lifetime::default());
    bench.ask(&csr, Some(&join), None).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0, "a join token is ours");
    bench.ask(&csr, Some("of checkout"), None).unwrap();
    refused(bench.ask(&csr, Some("of elsewhere"), None), Code::Unauthenticated);
    for _ in 0..9 {
        refused(bench.ask(&csr, Some("guess"), None), Code::Unauthenticated);
    }
    let before = asked.load(Ordering::Relaxed);
    refused(bench.ask(&csr, Some("guess"), None), Code::ResourceExhausted);
    assert_eq!(asked.load(Ordering::Relaxed), before, "the hook is spared");
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_hangs_is_waited_for_a_while_and_takes_no_more_than_its_places() {
    let bench = reviewed(Reviewer::new(|_| std::future::pending()));
    let ask = |n: usize| {
        let mut request = Request::new(CreateCertificateRequest {
            csr: csr(&key(), &[]),
            validity_duration: 0,
        });
        let token = "Bearer of nobody".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let address = [[192, 0, 2, 1], [192, 0, 2, 2]][n % 2];
        request.extensions_mut().insert(Line::from(Peer {
            address: Some(SocketAddr::from((address, 1))),
            ..Peer::default()
        }));
        let service = bench.service.clone();
        async move { service.create(&request).await.unwrap_err().code() }
    };
    let asking: Vec<_> = (0..MAX_REVIEWS + 1).map(|n| tokio::spawn(ask(n))).collect();
    let mut codes = Vec::new();
    for asked in asking {
        codes.push(asked.await.unwrap());
    }
    // One found no place; of the others each address has ten mistakes, and the rest is too many.
    assert_eq!(codes[MAX_REVIEWS], Code::ResourceExhausted);
    let waited = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    assert_eq!(waited, 20);
}

#[test]
fn a_key_is_one_workloads_until_its_certificate_has_ended() {
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let bench = Bench::new(Arc::new(
        Authority::open(None, domain, time, DEFAULT_LEAF_LIFETIME).unwrap(),
    ));
    let (first, second) = (key(), key());
    bench.ask_for(&csr(&first, &[]), 60, None, Some(CHECKOUT)).unwrap();
    // The same workload may ask again with it, as one does whose answer was lost; nobody else may.
    bench.ask_for(&csr(&first, &[]), 60, None, Some(CHECKOUT)).unwrap();
    refused(bench.ask(&csr(&first, &[]), None, Some(PAYMENT)), Code::InvalidArgument);
    bench.ask(&csr(&second, &[]), None, Some(PAYMENT)).unwrap();
    clock.0.store(NOW + 61, Ordering::Relaxed);
    bench.ask(&csr(&first, &[]), None, Some(PAYMENT)).unwrap();
}

#[test]
fn rsa_keys_are_signed_where_the_ca_is_told_to() {
    let mut authority = authority();
    authority.accept_rsa();
    let bench = Bench::new(Arc::new(authority));
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let chain = bench.ask(&csr(&rsa, &[]), None, Some(CHECKOUT)).unwrap().cert_chain;
    let der = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    Svid::new(vec![der], rsa.into()).unwrap();
}

#[test]
fn each_certificate_is_written_down_before_it_is_given() {
    let state = tempfile::tempdir().unwrap();
    let bench = Bench::new(open(Some(state.path()), NOW).unwrap());
    let token = bench.token(Lifetime::default());
    bench.ask(&csr(&key(), &[]), Some(&token), None).unwrap();
    bench.ask(&csr(&key(), &[]), None, Some(PAYMENT)).unwrap();
    bench.ask(&csr(&key(), &[]), Some("guess"), None).unwrap_err();
    // A restart goes on where it was.
    let again = Bench::new(open(Some(state.path()), NOW + 5).unwrap());
    again.ask(&csr(&key(), &[]), None, Some(CHECKOUT)).unwrap();
    let text = std::fs::read_to_string(state.path().join("audit.log")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value| {
        [
            line["time"].to_string(),
            line["method"].to_string(),
            line["id"].to_string(),
        ]
    };
    let quoted = |text: &str| format!("\"{text}\"");
    let expected = [
        [NOW.to_string(), quoted("join_token"), quoted(CHECKOUT)],
        [NOW.to_string(), quoted("certificate"), quoted(PAYMENT)],
        [(NOW + 5).to_string(), quoted("certificate"), quoted(CHECKOUT)],
    ];
    assert_eq!(lines.iter().map(of).collect::<Vec<_>>(), expected);
    let (_, secret) = token.split_once('.').unwrap();
    assert!(!text.contains(secret) && lines.iter().all(|line| line["serial"].as_str().unwrap().len() >= 30));
    // What cannot be written down is not given.
    #[cfg(target_os = "linux")]
    {
        let full = tempfile::tempdir().unwrap();
        let authority = open(Some(full.path()), NOW).unwrap();
        let mut authority = Arc::into_inner(authority).unwrap();
        authority.audit =
            crate::ca::audit::AuditLog::over(std::fs::File::options().write(true).open("/dev/full").unwrap());
        let bench = Bench::new(Arc::new(authority));
        refused(bench.ask(&csr(&key(), &[]), None, Some(PAYMENT)), Code::Unavailable);
        assert_eq!(bench.tally.total("certificate_issued"), 0);
    }
}

#[cfg(unix)]
#[test]
fn an_audit_log_that_others_read_or_that_is_a_link_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().unwrap();
    open(Some(state.path()), NOW).unwrap();
    let path = state.path().join("audit.log");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(open(Some(state.path()), NOW).unwrap_err().is_exposed());
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(open(Some(state.path()), NOW).unwrap_err().is_exposed());
}

#[test]
fn a_clock_before_the_root_signs_nothing() {
    let clock = Arc::new(Settable(AtomicU64::new(NOW)));
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let authority = Authority::open(None, domain, time, DEFAULT_LEAF_LIFETIME).unwrap();
    let sign = || authority.sign(&id(CHECKOUT), &key(), Duration::ZERO);
    sign().unwrap();
    clock.0.store(NOW - 86_400, Ordering::Relaxed);
    assert!(sign().is_err());
    clock.0.store(NOW, Ordering::Relaxed);
    sign().unwrap();
}

/// ID-12, in a handshake: what an issuer that is two minutes ahead has just made is good by the right time.
#[test]
fn id_12_a_certificate_of_an_issuer_two_minutes_ahead_is_good_by_the_right_time() {
    use mesh_core::identity::tls::{ClientAuth, server_config};
    let bench = Bench::new(open(None, NOW + 120).unwrap());
    let key = key();
    let chain = bench.ask(&csr(&key, &[]), None, Some(CHECKOUT)).unwrap().cert_chain;
    let [leaf, root] = [&chain[0], &chain[1]].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let svid = Svid::new(vec![leaf], key.into()).unwrap();
    assert!((120..=300).contains(&(NOW + 120 - svid.not_before().as_secs())));
    let bundle = TrustBundle::new(svid.id().trust_domain().clone(), vec![root]).unwrap();
    let identity = Identity::new(svid, bundle);
    let clock = || Arc::new(Fixed(NOW)) as Arc<dyn TimeProvider>;
    let server = server_config(&identity, ClientAuth::Required, clock(), &[b"h2"]).unwrap();
    let expected = mesh_core::config::ExpectedPeers::exactly([CHECKOUT]);
    let client = mesh_core::identity::tls::client_config(&identity, &expected, clock(), &[b"h2"]).unwrap();
    let name = rustls::pki_types::ServerName::try_from("checkout").unwrap();
    let mut client = rustls::ClientConnection::new(client, name).unwrap();
    let mut server = rustls::ServerConnection::new(server).unwrap();
    // One and a half round trips.
    for _ in 0..3 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
}
