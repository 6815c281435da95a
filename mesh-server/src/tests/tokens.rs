//! Tokens of real requests: whose are believed, what a handler sees of them, and what a refusal looks like.

use http::{HeaderMap, Uri};
use mesh_core::config::{
    Authorization, ClaimHeader, ClaimShape, Jwks, JwtPlaces, JwtProvider, JwtRequirement, JwtRule, JwtRules, Principal,
    PrincipalTest, RbacAction, RouteMatch, Rule, StringMatch, TokenTest,
};
use mesh_core::jwt::JwtClaims;
use mesh_core::testing::TestIssuer;

use super::authorize::{one_rule, open};
use super::*;

const ISSUER: &str = "https://issuer.example";

/// What the handler saw: the headers, the URI, and whom the token was about.
type Seen = Arc<std::sync::Mutex<Option<(HeaderMap, Uri, Option<String>)>>>;

async fn listen(mesh: &Mesh) -> (SocketAddr, Seen) {
    let (seen, listener) = (Seen::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let note = Arc::clone(&seen);
    let app = MeshLayer::new(&mesh.link).layer(service_fn(move |request: Request<RequestBody>| {
        let claims = request.extensions().get::<Arc<JwtClaims>>();
        let about = claims.and_then(|claims| claims.principal()).map(str::to_owned);
        *note.lock().unwrap() = Some((request.headers().clone(), request.uri().clone(), about));
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    }));
    tokio::spawn(serve(listener, &mesh.link, app).into_future());
    (address, seen)
}

pub(super) fn provider(issuer: &TestIssuer) -> JwtProvider {
    JwtProvider {
        name: "origins-00".into(),
        issuer: ISSUER.into(),
        audiences: Vec::new(),
        keys: Jwks::parse(&issuer.jwks()).unwrap(),
        places: JwtPlaces::default(),
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: Vec::new(),
    }
}

pub(super) fn believes(authorization: Authorization, provider: JwtProvider) -> Authorization {
    let requires = JwtRequirement::Any(vec![
        JwtRequirement::Provider(0, Vec::new()),
        JwtRequirement::AllowMissing,
    ]);
    let rules = JwtRules {
        providers: vec![provider],
        rules: vec![JwtRule {
            matches: RouteMatch::any(),
            requires: Some(requires),
        }],
    };
    authorization.with_tokens(Some(Arc::new(rules)))
}

fn principal(id: &str) -> Principal {
    let test = StringMatch::Exact(id.into());
    Rule::Is(PrincipalTest::Token(TokenTest::Principal(Some(test))))
}

fn token(issuer: &TestIssuer, subject: &str, life: u64) -> String {
    let end = NOW_SECONDS + life;
    issuer.token(&format!(
        r#"{{"iss":"{ISSUER}","sub":"{subject}","exp":{end},"groups":["staff","ops"],"level":3}}"#
    ))
}

pub(super) async fn ask(address: SocketAddr, uri: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    let io = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(uri).header("host", "payment.shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn az_12_none_passes_a_good_one_counts_and_a_bad_one_is_refused() {
    let (mesh, issuer) = (Mesh::governed(), TestIssuer::new("k1"));
    let (address, seen) = listen(&mesh).await;
    mesh.rules(address, open(believes(Authorization::default(), provider(&issuer))));
    let bearer = |token: &str| format!("Bearer {token}");
    let about = || seen.lock().unwrap().take().map(|(_, _, about)| about);

    assert_eq!(ask(address, "/", &[]).await.status(), 200);
    assert_eq!(about(), Some(None));
    let good = bearer(&token(&issuer, "alice", 30));
    assert_eq!(ask(address, "/", &[("authorization", &good)]).await.status(), 200);
    assert_eq!(about(), Some(Some(format!("{ISSUER}/alice"))));

    let stranger = bearer(&token(&TestIssuer::new("k1"), "alice", 30));
    let unsigned = good.rsplit_once('.').unwrap().0.to_owned() + ".";
    for (shown, message) in [
        (&*stranger, "Jwt verification fails"),
        (&*unsigned, "Jwt verification fails"),
        (
            "Bearer x",
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
    ] {
        let response = ask(address, "/", &[("authorization", shown)]).await;
        assert_eq!(
            (response.status().as_u16(), &**response.body()),
            (401, message.as_bytes())
        );
        assert_eq!(
            response.headers()["www-authenticate"],
            r#"Bearer error="invalid_token""#
        );
    }
    let grpc = [("authorization", "Bearer x"), ("content-type", "application/grpc")];
    let response = ask(address, "/", &grpc).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"16".parse().unwrap())
    );
    // It was good, and is not when its time is over.
    mesh.clock.set(NOW_SECONDS + 30 + 61);
    let response = ask(address, "/", &[("authorization", &good)]).await;
    assert_eq!(
        (response.status().as_u16(), &**response.body()),
        (401, &b"Jwt is expired"[..])
    );
    assert_eq!(about(), None, "no refused request reaches the handler");
    assert_eq!(mesh.link.tally().get("token_refused", "signature"), 2);
    assert_eq!(mesh.link.tally().get("token_refused", "expired"), 1);
}

#[tokio::test]
async fn az_12_policies_ask_whom_a_token_is_about_and_what_it_says() {
    let (mesh, issuer) = (Mesh::governed(), TestIssuer::new("k1"));
    let (address, seen) = listen(&mesh).await;
    let alice = format!("Bearer {}", token(&issuer, "alice", 30));
    let bob = format!("Bearer {}", token(&issuer, "bob", 30));
    let claim = |name: &str, shape, value: &str| {
        let path = name.split('.').map(Box::from).collect();
        Rule::Is(PrincipalTest::Token(TokenTest::Claim(
            path,
            shape,
            StringMatch::Exact(value.into()),
        )))
    };
    let cases = [
        (
            RbacAction::Allow,
            principal(&format!("{ISSUER}/alice")),
            [403, 200, 403],
        ),
        (RbacAction::Deny, principal(&format!("{ISSUER}/alice")), [200, 403, 200]),
        // Whoever has none: what a policy says that asks for a token.
        (
            RbacAction::Deny,
            Rule::Is(PrincipalTest::Token(TokenTest::Principal(None))).negated(),
            [403, 200, 200],
        ),
        (
            RbacAction::Allow,
            claim("groups", ClaimShape::Any, "ops"),
            [403, 200, 200],
        ),
        (
            RbacAction::Allow,
            claim("groups", ClaimShape::Text, "ops"),
            [403, 403, 403],
        ),
        (RbacAction::Allow, claim("sub", ClaimShape::Any, "bob"), [403, 403, 200]),
        (
            RbacAction::Allow,
            claim("sub", ClaimShape::List, "bob"),
            [403, 403, 403],
        ),
        // A number is no text, and what is not there is nothing.
        (RbacAction::Allow, claim("level", ClaimShape::Any, "3"), [403, 403, 403]),
        (
            RbacAction::Allow,
            claim("groups.0", ClaimShape::Any, "staff"),
            [403, 403, 403],
        ),
    ];
    for (action, who, expected) in cases {
        let rules = believes(one_rule(action, Rule::Always, who.clone()), provider(&issuer));
        mesh.rules(address, open(rules));
        let shown = [vec![], vec![("authorization", &*alice)], vec![("authorization", &*bob)]];
        for (headers, expected) in shown.iter().zip(expected) {
            let status = ask(address, "/", headers).await.status().as_u16();
            assert_eq!(status, expected, "{who:?} {headers:?}");
            assert_eq!(seen.lock().unwrap().take().is_some(), status == 200);
        }
    }
    // Without anybody who checks them, tokens are nobody's.
    mesh.rules(
        address,
        open(one_rule(
            RbacAction::Allow,
            Rule::Always,
            principal(&format!("{ISSUER}/alice")),
        )),
    );
    assert_eq!(ask(address, "/", &[("authorization", &alice)]).await.status(), 403);
}

#[tokio::test]
async fn az_12_a_handler_sees_what_a_token_said_and_not_the_token() {
    let (mesh, issuer) = (Mesh::governed(), TestIssuer::new("k1"));
    let (address, seen) = listen(&mesh).await;
    let header = |name: &str| name.parse().unwrap();
    let everywhere = JwtPlaces {
        headers: vec![(header("x-token"), "".into())],
        params: vec!["token".into()],
        cookies: vec!["session".into()],
    };
    let claim_headers = ["sub", "level", "groups", "none"].map(|claim| ClaimHeader {
        header: header(&format!("x-claim-{claim}")),
        claim: claim.into(),
    });
    let provider = JwtProvider {
        places: everywhere,
        payload_header: Some(header("x-payload")),
        claim_headers: claim_headers.into(),
        ..provider(&issuer)
    };
    let rules = |provider: JwtProvider| open(believes(Authorization::default(), provider));
    mesh.rules(address, rules(provider.clone()));
    let token = token(&issuer, "alice", 30);
    let payload = token.split('.').nth(1).unwrap();
    let lies = [("x-claim-sub", "root"), ("x-claim-none", "root"), ("x-payload", "e30")];
    let cookie = format!("a=b; session={token}; c=d");
    let query = format!("/x?a=b&token={token}&c=d");

    for (uri, own) in [
        ("/x", ("x-token", &*token)),
        ("/x", ("cookie", &cookie)),
        (&query, ("x-other", "1")),
    ] {
        let headers: Vec<_> = lies.into_iter().chain([own]).collect();
        assert_eq!(ask(address, uri, &headers).await.status(), 200);
        let (headers, uri, about) = seen.lock().unwrap().take().unwrap();
        assert_eq!(about, Some(format!("{ISSUER}/alice")));
        assert_eq!(headers["x-claim-sub"], "alice");
        assert_eq!(headers["x-claim-level"], "3");
        assert_eq!(headers["x-payload"], payload);
        assert!(headers.get("x-claim-groups").is_none() && headers.get("x-claim-none").is_none());
        let all = format!("{headers:?} {uri}");
        assert!(!all.contains(&token), "{all}");
        match own.0 {
            "cookie" => assert_eq!(headers["cookie"], "a=b; c=d"),
            "x-other" => assert_eq!(uri.query(), Some("a=b&c=d")),
            _ => {}
        }
    }
    // Who has no token does not say what one said either.
    assert_eq!(ask(address, "/x", &lies).await.status(), 200);
    let (headers, ..) = seen.lock().unwrap().take().unwrap();
    assert!(lies.iter().all(|(name, _)| headers.get(*name).is_none()));
    // Where the rule says so, the token goes on.
    mesh.rules(
        address,
        rules(JwtProvider {
            forward: true,
            ..provider
        }),
    );
    assert_eq!(ask(address, "/x", &[("x-token", &token)]).await.status(), 200);
    let (headers, ..) = seen.lock().unwrap().take().unwrap();
    assert_eq!(headers["x-token"], &*token);
}

/// A caller shows its token with every request; the signature is checked once, and again only by keys that are new.
#[tokio::test]
async fn az_12_a_token_costs_one_check_of_its_signature() {
    let (mesh, issuer) = (Mesh::governed(), TestIssuer::new("k1"));
    let (address, seen) = listen(&mesh).await;
    let good = format!("Bearer {}", token(&issuer, "alice", 30));
    let checked = || mesh.link.tally().get("token_checked", "signature");
    let asked = async || ask(address, "/", &[("authorization", &good)]).await.status().as_u16();
    mesh.rules(address, open(believes(Authorization::default(), provider(&issuer))));
    for _ in 0..50 {
        assert_eq!(asked().await, 200);
    }
    assert_eq!(checked(), 1);
    // Other rules for the same keys.
    let deny = one_rule(RbacAction::Deny, Rule::Always, principal("nobody"));
    mesh.rules(address, open(believes(deny, provider(&issuer))));
    assert_eq!((asked().await, checked()), (200, 1));
    // The key is gone: what was good is not, from the next request on.
    let stranger = TestIssuer::new("k1");
    mesh.rules(address, open(believes(Authorization::default(), provider(&stranger))));
    seen.lock().unwrap().take();
    assert_eq!((asked().await, checked()), (401, 2));
    assert!(seen.lock().unwrap().is_none());
    mesh.rules(address, open(believes(Authorization::default(), provider(&issuer))));
    assert_eq!((asked().await, checked()), (200, 2));
    mesh.clock.set(NOW_SECONDS + 30 + 60);
    assert_eq!((asked().await, checked()), (401, 2));
}
