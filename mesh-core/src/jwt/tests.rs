//! Tokens as attackers make them. `az_12`: the confusions that libraries were taken in by; each against a key that would have been fooled.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use serde_json::{Value, json};

use super::*;
use crate::config::{InvalidJwks, Jwks, JwtPlaces, JwtProvider, JwtRequirement, JwtRule, PathMatch, RouteMatch};
use crate::testing::TestIssuer;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

fn provider(issuer: &str, jwks: &str) -> JwtProvider {
    JwtProvider {
        name: issuer.into(),
        issuer: issuer.into(),
        audiences: Vec::new(),
        keys: Jwks::parse(jwks).unwrap(),
        places: JwtPlaces::default(),
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: vec!["scope".into()],
    }
}

/// Istio's shape: a good token of any provider, or none.
fn rules(providers: Vec<JwtProvider>) -> JwtRules {
    let any = (0..providers.len()).map(|index| JwtRequirement::Provider(index, Vec::new()));
    let requires = JwtRequirement::Any(any.chain([JwtRequirement::AllowMissing]).collect());
    JwtRules {
        providers,
        rules: vec![JwtRule {
            matches: RouteMatch::any(),
            requires: Some(requires),
        }],
    }
}

fn judge(rules: &JwtRules, headers: &[(&str, &str)], uri: &str) -> Result<Shown, JwtRefusal> {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).unwrap();
    rules.judge(&RequestHead::of(&request, ""), NOW)
}

fn bearer(rules: &JwtRules, token: &str) -> Result<Shown, JwtRefusal> {
    judge(rules, &[("authorization", &format!("Bearer {token}"))], "/")
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": ["shop", "bank"], "exp": NOW + 60})
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[test]
fn a_good_token_says_who_and_what() {
    let issuer = TestIssuer::new("k1");
    let rules = rules(vec![provider(ISSUER, &issuer.jwks())]);
    let mut all = claims();
    all["scope"] = json!("read write");
    all["realm"] = json!({"roles": ["admin"]});
    let shown = bearer(&rules, &issuer.token(&all.to_string())).unwrap();
    let claims = shown.claims.unwrap();
    assert_eq!(claims.principal(), Some("https://issuer.example/alice"));
    assert_eq!((shown.provider, claims.text(&["sub"])), (Some(0), Some("alice")));
    assert_eq!(claims.header_value("exp"), Some((NOW + 60).to_string()));
    assert_eq!(claims.header_value("realm"), None);
    assert!(claims.to_json().contains(r#""scope":["read","write"]"#));
    // Nothing of it is printed along.
    assert_eq!(format!("{claims:?}"), "JwtClaims { .. }");
    // None passes, unauthenticated, and so does another scheme.
    assert_eq!(judge(&rules, &[], "/").unwrap(), Shown::default());
    let basic = [("authorization", "Basic YTpi")];
    assert_eq!(judge(&rules, &basic, "/").unwrap(), Shown::default());
}

#[test]
fn az_12_no_token_chooses_how_it_is_checked() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = rsa.public_key();
    let jwk = |extra: &str| {
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) = (
            number(public.modulus().big_endian_without_leading_zero()),
            number(public.exponent().big_endian_without_leading_zero()),
        );
        format!(r#"{{"keys":[{{"kty":"RSA","kid":"k1","n":"{n}","e":"{e}"{extra}}}]}}"#)
    };
    let set = jwk("");
    let signed = |header: Value, by: &dyn Fn(&[u8]) -> Vec<u8>| {
        let text = format!("{}.{}", encoded(&header), encoded(&claims()));
        let signature = URL_SAFE_NO_PAD.encode(by(text.as_bytes()));
        format!("{text}.{signature}")
    };
    let by_rsa = |message: &[u8]| {
        let mut out = vec![0; public.modulus_len()];
        let random = SystemRandom::new();
        rsa.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out)
            .unwrap();
        out
    };
    let nothing = |_: &[u8]| Vec::new();
    // The public key as the secret, in each form that it is handed around in.
    let as_secret = |secret: Vec<u8>| {
        move |message: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message)
                .as_ref()
                .to_vec()
        }
    };
    let rules = |set: &str| rules(vec![provider(ISSUER, set)]);
    let good = signed(json!({"alg": "RS256", "kid": "k1"}), &by_rsa);
    bearer(&rules(&set), &good).unwrap();
    let unnamed = signed(json!({"alg": "RS256"}), &by_rsa);
    bearer(&rules(&set), &unnamed).unwrap();

    let cases = [
        (
            signed(json!({"alg": "none", "kid": "k1"}), &nothing),
            JwtRefusal::Algorithm,
        ),
        (signed(json!({"alg": "None"}), &nothing), JwtRefusal::Algorithm),
        (signed(json!({"alg": "", "kid": "k1"}), &nothing), JwtRefusal::Algorithm),
        (
            signed(
                json!({"alg": "HS256", "kid": "k1"}),
                &as_secret(public.as_ref().to_vec()),
            ),
            JwtRefusal::Algorithm,
        ),
        (
            signed(json!({"alg": "HS256"}), &as_secret(set.clone().into_bytes())),
            JwtRefusal::Algorithm,
        ),
        // A kind of key that this one is not of.
        (signed(json!({"alg": "ES256", "kid": "k1"}), &by_rsa), JwtRefusal::NoKey),
        (signed(json!({"alg": "EdDSA"}), &by_rsa), JwtRefusal::NoKey),
        // Of its kind, and not what was signed with.
        (
            signed(json!({"alg": "PS256", "kid": "k1"}), &by_rsa),
            JwtRefusal::Signature,
        ),
        (
            signed(json!({"alg": "RS512", "kid": "k1"}), &by_rsa),
            JwtRefusal::Signature,
        ),
        (
            signed(json!({"alg": "RS256", "kid": "k1"}), &nothing),
            JwtRefusal::Signature,
        ),
        // Another key, also one that the token brings along.
        (signed(json!({"alg": "RS256", "kid": "k2"}), &by_rsa), JwtRefusal::NoKey),
        (
            signed(json!({"alg": "RS256", "kid": "../../k1"}), &by_rsa),
            JwtRefusal::NoKey,
        ),
        (
            signed(json!({"alg": "RS256", "kid": 1}), &by_rsa),
            JwtRefusal::Malformed,
        ),
        (
            signed(json!({"alg": "RS256", "kid": "k1", "crit": ["exp"]}), &by_rsa),
            JwtRefusal::Malformed,
        ),
        (
            signed(
                json!({"alg": "RS256", "kid": "k1", "b64": false, "crit": ["b64"]}),
                &by_rsa,
            ),
            JwtRefusal::Malformed,
        ),
        (signed(json!({"kid": "k1"}), &by_rsa), JwtRefusal::Malformed),
    ];
    for (token, why) in &cases {
        assert_eq!(bearer(&rules(&set), token), Err(*why), "{token}");
    }
    // A key that says its algorithm is for no other, and one for encryption for none.
    let narrow = rules(&jwk(r#","alg":"RS512""#));
    assert_eq!(bearer(&narrow, &good), Err(JwtRefusal::NoKey));
    let encrypts = rules(&jwk(r#","use":"enc""#));
    assert_eq!(bearer(&encrypts, &good), Err(JwtRefusal::NoKey));
    assert_eq!(bearer(&rules(r#"{"keys":[]}"#), &good), Err(JwtRefusal::NoKey));
    // Every other bit, and every other form.
    let flipped = good.replace(&encoded(&claims()), &encoded(&json!({"iss": ISSUER, "sub": "root"})));
    assert_eq!(bearer(&rules(&set), &flipped), Err(JwtRefusal::Signature));
    let more = [
        format!("{good}."),
        format!("{good}="),
        format!(".{good}"),
        good.replace('.', ""),
        good.replacen('.', "..", 1),
    ];
    for token in more
        .iter()
        .map(String::as_str)
        .chain(["a.b.c", "e30.e30.", "bnVsbA.bnVsbA."])
    {
        assert!(bearer(&rules(&set), token).is_err(), "{token}");
    }
    let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
    assert_eq!(bearer(&rules(&set), &long), Err(JwtRefusal::Malformed));
}

#[test]
fn az_12_times_have_a_minute_of_doubt_and_no_more() {
    let issuer = TestIssuer::new("k1");
    let rules = rules(vec![provider(ISSUER, &issuer.jwks())]);
    let with = |name: &str, value: Value| {
        let mut all = claims();
        all[name] = value;
        bearer(&rules, &issuer.token(&all.to_string())).map(drop)
    };
    let cases = [
        ("exp", json!(NOW - 59), Ok(())),
        ("exp", json!(NOW - 60), Err(JwtRefusal::Expired)),
        ("exp", json!(NOW as f64 - 59.5), Ok(())),
        ("exp", json!("9999999999"), Err(JwtRefusal::Malformed)),
        ("exp", json!(-1), Err(JwtRefusal::Malformed)),
        ("exp", json!(null), Err(JwtRefusal::Malformed)),
        ("nbf", json!(NOW + 60), Ok(())),
        ("nbf", json!(NOW + 61), Err(JwtRefusal::NotYet)),
        ("iat", json!(NOW + 60), Ok(())),
        ("iat", json!(NOW + 61), Err(JwtRefusal::NotYet)),
        ("iat", json!([]), Err(JwtRefusal::Malformed)),
    ];
    for (name, value, expected) in cases {
        assert_eq!(with(name, value.clone()), expected, "{name} {value}");
    }
}

#[test]
fn az_12_an_issuer_speaks_for_itself_and_its_audiences() {
    let (one, other) = (TestIssuer::new("same"), TestIssuer::new("same"));
    let mut first = provider(ISSUER, &one.jwks());
    first.audiences = vec!["shop".into()];
    let second = provider("https://other.example", &other.jwks());
    let rules = rules(vec![first, second]);
    let with = |by: &TestIssuer, change: &[(&str, Value)]| {
        let mut all = claims();
        for (name, value) in change {
            all[*name] = value.clone();
        }
        bearer(&rules, &by.token(&all.to_string())).map(|shown| shown.provider.unwrap())
    };
    let theirs = [("iss", json!("https://other.example"))];
    assert_eq!(with(&one, &[]), Ok(0));
    assert_eq!(with(&other, &theirs), Ok(1));
    // The key of one says nothing for the other.
    assert_eq!(with(&other, &[]), Err(JwtRefusal::Signature));
    assert_eq!(with(&one, &theirs), Err(JwtRefusal::Signature));
    assert_eq!(
        with(&one, &[("iss", json!("https://issuer.example/"))]),
        Err(JwtRefusal::Issuer)
    );
    assert_eq!(with(&one, &[("iss", json!([ISSUER]))]), Err(JwtRefusal::Issuer));
    assert_eq!(with(&one, &[("aud", json!("shop"))]), Ok(0));
    for audience in [
        json!("bank"),
        json!(["bank"]),
        json!([]),
        json!(null),
        json!({"shop": 1}),
    ] {
        assert_eq!(with(&one, &[("aud", audience)]), Err(JwtRefusal::Audience));
    }
}

#[test]
fn az_12_two_tokens_are_refused_wherever_they_are() {
    let issuer = TestIssuer::new("k1");
    let token = issuer.token(&claims().to_string());
    let mut special = provider(ISSUER, &issuer.jwks());
    special.places = JwtPlaces {
        headers: vec![("x-token".parse().unwrap(), "".into())],
        params: vec!["t".into()],
        cookies: vec!["session".into()],
    };
    let usual = rules(vec![provider(ISSUER, &issuer.jwks())]);
    let both = rules(vec![provider(ISSUER, &issuer.jwks()), special]);
    let bearer = &*format!("bearer {token}");
    let place =
        |rules: &JwtRules, headers: &[(&str, &str)], uri: &str| judge(rules, headers, uri).map(|shown| shown.place);
    let header = |name: &str| Some(JwtPlace::Header(name.parse().unwrap()));

    assert_eq!(
        place(&both, &[("authorization", bearer)], "/"),
        Ok(header("authorization"))
    );
    assert_eq!(place(&both, &[("x-token", &token)], "/"), Ok(header("x-token")));
    let cookie = &*format!("a=b; session={token}; c=d");
    assert_eq!(
        place(&both, &[("cookie", cookie)], "/"),
        Ok(Some(JwtPlace::Cookie("session".into())))
    );
    let query = &*format!("/?a=b&t={token}");
    assert_eq!(place(&both, &[], query), Ok(Some(JwtPlace::Param("t".into()))));
    assert_eq!(place(&usual, &[], query), Ok(None));

    let twice = [
        (vec![("authorization", bearer), ("authorization", bearer)], "/"),
        (vec![("authorization", bearer), ("x-token", &token)], "/"),
        (vec![("x-token", &token)], query),
        (vec![("cookie", cookie), ("x-token", &token)], "/"),
        (vec![("cookie", cookie), ("cookie", cookie)], "/"),
    ];
    for (headers, uri) in twice {
        assert_eq!(place(&both, &headers, uri), Err(JwtRefusal::Several), "{headers:?}");
    }
    let usual_twice = &*format!("/?access_token={token}");
    assert_eq!(
        place(&usual, &[("authorization", bearer)], usual_twice),
        Err(JwtRefusal::Several)
    );

    assert_eq!(removed_param("a=b&t=x&c", "t"), Some("a=b&c".into()));
    assert_eq!(removed_param("t=x", "t"), None);
    assert_eq!(
        removed_cookie(b"a=b; session=x; c=d", "session"),
        Some(b"a=b; c=d".into())
    );
    assert_eq!(removed_cookie(b"session=x", "session"), None);
}

#[test]
fn az_12_a_token_is_found_however_its_name_is_spelt() {
    let issuer = TestIssuer::new("k1");
    let token = issuer.token(&claims().to_string());
    let mut special = provider(ISSUER, &issuer.jwks());
    special.places = JwtPlaces {
        headers: vec![("x-token".parse().unwrap(), "Token ".into())],
        params: vec!["t ok".into()],
        cookies: vec!["session".into()],
    };
    let all = rules(vec![provider(ISSUER, &issuer.jwks()), special]);
    let raw = |headers: &[(&str, &[u8])], uri: &str| {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let shown = all.judge(&RequestHead::of(&request, ""), NOW);
        shown.map(|shown| shown.place.is_some())
    };

    // A bad one, and one beside a good one, are refused wherever a handler would read them.
    let bearer = format!("Bearer {token}");
    let params = [
        "t+ok",
        "t%20ok",
        "%74+%6Fk",
        "access_token",
        "access%5Ftoken",
        "acc%65ss_token",
    ];
    for param in params {
        let uri = format!("/?a=b&{param}=x.y.z");
        assert_eq!(raw(&[], &uri), Err(JwtRefusal::Malformed), "{uri}");
        assert_eq!(
            raw(&[("authorization", bearer.as_bytes())], &uri),
            Err(JwtRefusal::Several),
            "{uri}"
        );
    }
    let cookies: [&[u8]; 5] = [
        b"session=x.y.z; a=\xff",
        b"a=\xff; session=x.y.z",
        b"session =x.y.z",
        b"s%65ssion=x.y.z",
        b"a;session=x.y.z",
    ];
    for cookie in cookies {
        assert_eq!(
            raw(&[("cookie", cookie)], "/"),
            Err(JwtRefusal::Malformed),
            "{cookie:?}"
        );
        let both: [(&str, &[u8]); 2] = [("authorization", bearer.as_bytes()), ("cookie", cookie)];
        assert_eq!(raw(&both, "/"), Err(JwtRefusal::Several), "{cookie:?}");
    }
    for (name, value) in [
        ("authorization", "Bearer\tx.y.z"),
        ("authorization", "bearer \t x.y.z"),
        ("x-token", "token\tx.y.z"),
    ] {
        assert_eq!(
            raw(&[(name, value.as_bytes())], "/"),
            Err(JwtRefusal::Malformed),
            "{value:?}"
        );
    }
    // What is escaped is read as what it stands for, and other names and schemes are none of ours.
    let escaped: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(raw(&[], &format!("/?access_token={escaped}")), Ok(true));
    assert_eq!(
        raw(
            &[("authorization", b"Bearerx x.y.z"), ("cookie", b"sessions=x.y.z")],
            "/?access=x&t=x"
        ),
        Ok(false)
    );

    // Nor does a handler read what was taken out.
    assert_eq!(removed_param("a=b&t%6Fk=x&tok=y&c", "tok"), Some("a=b&c".into()));
    assert_eq!(
        removed_cookie(b"a=\xff; s%65ssion=x;session =y; c", "session"),
        Some(b"a=\xff; c".into())
    );
}

#[test]
fn what_is_asked_for_is_asked_of_the_requests_it_is_asked_of() {
    let issuer = TestIssuer::new("k1");
    let token = issuer.token(&claims().to_string());
    let of = |requires: Option<JwtRequirement>| JwtRules {
        providers: vec![provider(ISSUER, &issuer.jwks()), provider("other", &issuer.jwks())],
        rules: vec![JwtRule {
            matches: RouteMatch {
                path: PathMatch::Prefix("/guarded".into()),
                ..RouteMatch::any()
            },
            requires,
        }],
    };
    let one = |index: usize| JwtRequirement::Provider(index, Vec::new());
    let bearer = &*format!("Bearer {token}");
    let ask = |requires: JwtRequirement, token: Option<&str>| {
        let headers: Vec<_> = token.into_iter().map(|token| ("authorization", token)).collect();
        judge(&of(Some(requires)), &headers, "/guarded/x").map(|shown| shown.claims.is_some())
    };
    assert_eq!(ask(one(0), Some(bearer)), Ok(true));
    assert_eq!(ask(one(0), None), Err(JwtRefusal::Missing));
    assert_eq!(ask(one(1), Some(bearer)), Err(JwtRefusal::Issuer));
    assert_eq!(ask(one(7), Some(bearer)), Err(JwtRefusal::Missing));
    assert_eq!(
        ask(JwtRequirement::All(vec![one(0), one(1)]), Some(bearer)),
        Err(JwtRefusal::Issuer)
    );
    assert_eq!(ask(JwtRequirement::Any(vec![one(1), one(0)]), Some(bearer)), Ok(true));
    let bank = JwtRequirement::Provider(0, vec!["bank".into()]);
    assert_eq!(ask(bank, Some(bearer)), Ok(true));
    let club = JwtRequirement::Provider(0, vec!["club".into()]);
    assert_eq!(ask(club, Some(bearer)), Err(JwtRefusal::Audience));
    assert_eq!(ask(JwtRequirement::AllowMissing, None), Ok(false));
    assert_eq!(ask(JwtRequirement::AllowMissing, Some(bearer)), Ok(true));
    assert_eq!(
        ask(JwtRequirement::AllowMissing, Some("Bearer x")),
        Err(JwtRefusal::Malformed)
    );
    assert_eq!(ask(JwtRequirement::AllowMissingOrFailed, Some("Bearer x")), Ok(false));
    assert_eq!(ask(JwtRequirement::AllowMissingOrFailed, Some(bearer)), Ok(true));
    // Nobody asks about the others.
    let others = judge(&of(Some(one(0))), &[("authorization", "Bearer x")], "/open");
    assert_eq!(others, Ok(Shown::default()));
    assert_eq!(
        judge(&of(None), &[("authorization", "Bearer x")], "/guarded"),
        Ok(Shown::default())
    );
}

#[test]
fn a_set_of_keys_reads_as_it_is_written_and_holds_no_secret() {
    let text = TestIssuer::new("k1").jwks();
    let read = Jwks::parse(&text).unwrap();
    assert_eq!(Jwks::parse(&read.to_json()).unwrap(), read);
    assert_eq!(read.keys().len(), 1);
    let cases = [
        ("x", InvalidJwks::NotJson),
        ("{}", InvalidJwks::NoKeys),
        (r#"{"keys":{}}"#, InvalidJwks::NoKeys),
        (r#"{"keys":[1]}"#, InvalidJwks::BadKey),
        (r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, InvalidJwks::Secret),
        (
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA","d":"AAAA"}]}"#,
            InvalidJwks::Secret,
        ),
        (
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#,
            InvalidJwks::BadKey,
        ),
        (r#"{"keys":[{"kty":"RSA","n":"AAAA","e":"AQAB"}]}"#, InvalidJwks::BadKey),
        (
            r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}"#,
            InvalidJwks::BadKey,
        ),
    ];
    for (text, why) in cases {
        assert_eq!(Jwks::parse(text), Err(why), "{text}");
    }
    let many = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; Jwks::MAX_KEYS + 1].join(","));
    assert_eq!(Jwks::parse(&many), Err(InvalidJwks::TooLarge));
    assert_eq!(
        Jwks::parse(&" ".repeat(Jwks::MAX_BYTES + 1)),
        Err(InvalidJwks::TooLarge)
    );
    assert_eq!(Jwks::parse(r#"{"keys":[{"kty":"AKP"}]}"#), Ok(Jwks::default()));
}

/// What is remembered is a signature and nothing else: times, audiences and keys are judged as if nothing were.
#[test]
fn az_12_a_remembered_signature_is_only_good_while_all_else_is() {
    let (issuer, other) = (TestIssuer::new("k1"), TestIssuer::new("k1"));
    let mut provider = provider(ISSUER, &issuer.jwks());
    provider.audiences = vec!["shop".into()];
    let cache = TokenCache::default();
    let token = issuer.token(&claims().to_string());
    let look = |provider: &JwtProvider, token: &str, now: u64| {
        let request = Request::builder().header("authorization", format!("Bearer {token}"));
        let (request, mut checks) = (request.body(()).unwrap(), cache.checks());
        let shown = rules(vec![provider.clone()]).judge_by(&RequestHead::of(&request, ""), now, &mut checks);
        (shown.map(|shown| shown.claims.is_some()), checks.made())
    };
    assert_eq!(look(&provider, &token, NOW), (Ok(true), 1));
    assert_eq!(look(&provider, &token, NOW), (Ok(true), 0));
    // Another set of keys that has the key; a set that has not, whatever it calls its own; and the first again.
    let with = |keys: &[&TestIssuer]| {
        let keys: Vec<Value> = keys
            .iter()
            .flat_map(|one| {
                serde_json::from_str::<Value>(&one.jwks()).unwrap()["keys"]
                    .as_array()
                    .unwrap()
                    .clone()
            })
            .collect();
        JwtProvider {
            keys: Jwks::parse(&json!({ "keys": keys }).to_string()).unwrap(),
            ..provider.clone()
        }
    };
    assert_eq!(look(&with(&[&other, &issuer]), &token, NOW), (Ok(true), 0));
    assert_eq!(look(&with(&[&other]), &token, NOW), (Err(JwtRefusal::Signature), 1));
    assert_eq!(look(&with(&[]), &token, NOW), (Err(JwtRefusal::NoKey), 0));
    assert_eq!(look(&provider, &token, NOW), (Ok(true), 0));
    // A key that is for another algorithm now, or goes by another name, is another key.
    let mut narrowed = provider.keys.to_json();
    narrowed = narrowed.replace("ES256", "ES384");
    let narrowed = JwtProvider {
        keys: Jwks::parse(&narrowed).unwrap(),
        ..provider.clone()
    };
    assert_eq!(look(&narrowed, &token, NOW), (Err(JwtRefusal::NoKey), 0));
    // All else of the token and of the rules.
    assert_eq!(look(&provider, &token, NOW + 60 + SKEW), (Err(JwtRefusal::Expired), 0));
    let elsewhere = JwtProvider {
        audiences: vec!["elsewhere".into()],
        ..provider.clone()
    };
    assert_eq!(look(&elsewhere, &token, NOW), (Err(JwtRefusal::Audience), 0));
    let foreign = JwtProvider {
        issuer: "https://other.example".into(),
        ..provider.clone()
    };
    assert_eq!(look(&foreign, &token, NOW), (Err(JwtRefusal::Issuer), 0));
    // Another token, if only in its signature; and bad ones are not remembered.
    let again = issuer.token(&claims().to_string());
    assert_eq!(look(&provider, &again, NOW), (Ok(true), 1));
    let forged = other.token(&claims().to_string());
    for _ in 0..2 {
        assert_eq!(look(&provider, &forged, NOW), (Err(JwtRefusal::Signature), 1));
    }
    let signature = token.rsplit_once('.').unwrap().1;
    let mut richer = claims();
    richer["sub"] = json!("root");
    let mixed = format!(
        "{}.{signature}",
        other.token(&richer.to_string()).rsplit_once('.').unwrap().0
    );
    assert_eq!(look(&provider, &mixed, NOW), (Err(JwtRefusal::Signature), 1));
}
