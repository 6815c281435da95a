//! How a client refuses: how often, and in how many words.

use super::*;

/// A refusal that names no resource is as visible as any other, until the control plane says something better.
#[test]
fn cp_5_what_is_refused_without_a_name_has_a_row_until_the_next_response() {
    let (mut stream, _) = Stream::open(&[(CDS, &["a"])]);
    let good = stream.answer(response(CDS, "1", vec![cluster("a")]));
    assert_eq!((good.error, stream.ads.cache().row(CDS, "").is_none()), (None, true));
    stream.ads.take_changed();
    let unreadable = raw(CDS, vec![0xff; 9]);
    let of_another_kind = enveloped("a", Some(listener("a", "r")), Duration::from_secs(9));
    let twice = enveloped(
        "",
        Some(enveloped("a", Some(cluster("a")), Duration::from_secs(9))),
        Duration::from_secs(9),
    );
    for (version, bad, says) in [
        ("2", unreadable, "resources[1]"),
        ("3", listener("a", "r"), "expected a cluster"),
        ("4", twice, "expected a cluster"),
    ] {
        // Refusals are sent no faster than this.
        stream.now += Duration::from_secs(300);
        let nack = stream
            .answer(response(CDS, version, vec![cluster("a"), bad]))
            .error
            .unwrap();
        let row = stream.ads.cache().row(CDS, "").unwrap();
        let Some(Trouble::Refused(why)) = row.trouble else {
            panic!("{row:?}")
        };
        assert!(nack.contains(&why.to_string()) && nack.contains(says), "{nack} {why}");
        assert_eq!((&**row.received, row.accepted), (version, None));
        assert_eq!(CacheState::of(&row), CacheState::Nacked);
        assert!(stream.ads.take_changed().contains(&(CDS, "".into())));
    }
    // One whose envelope says its name has a row of its own.
    stream.now += Duration::from_secs(300);
    let nack = stream.answer(response(CDS, "5", vec![of_another_kind])).error.unwrap();
    assert!(nack.contains("cluster \"a\": type_url: expected a cluster"), "{nack}");
    assert!(stream.ads.cache().row(CDS, "").is_none());
    assert!(
        stream.ads.take_changed().contains(&(CDS, "".into())),
        "and that is news"
    );
}

/// One rule for both variants: what a resource is called outside is what it is called inside.
#[test]
fn cp_5_an_envelope_of_another_name_is_refused_as_delta_refuses_it() {
    let (mut stream, _) = Stream::open(&[(CDS, &["a", "b"])]);
    let ttl = Duration::from_secs(9);
    let named = |outer: &str, inner: &str| enveloped(outer, Some(cluster(inner)), ttl);
    let heard = stream.answer(response(CDS, "1", vec![named("a", "a"), named("", "b")]));
    assert_eq!(heard.error, None, "an envelope need not say a name");
    let nack = stream.answer(response(CDS, "2", vec![named("a", "b"), named("b", "b")]));
    assert!(nack.error.unwrap().contains("cluster \"a\": name: is \"b\" inside"));
    let cache = stream.ads.cache();
    assert!(matches!(
        cache.row(CDS, "a").unwrap().trouble,
        Some(Trouble::Refused(_))
    ));
    assert_eq!(
        cache.row(CDS, "a").unwrap().accepted.map(|version| &**version),
        Some("1")
    );
    assert_eq!(cache.row(CDS, "b").unwrap().trouble, None);
}

/// The moments, from now on, at which a control plane that says something bad as soon as it is answered is refused.
fn refusals(stream: &mut Stream, until: Duration) -> Vec<f64> {
    let (start, mut at) = (stream.now, Vec::new());
    for nonce in 0u32.. {
        let bad = response(CDS, &format!("bad-{nonce}"), vec![bad_cluster("b")]);
        stream.ads.hear(bad, stream.now);
        while !stream.ads.has_request(stream.now) {
            stream.now = stream.ads.deadline(stream.now).unwrap();
        }
        if stream.now > start + until {
            break;
        }
        let sent = stream.sent();
        assert_eq!((sent.len(), sent[0].nonce.clone()), (1, format!("bad-{nonce}")));
        assert!(sent[0].error.is_some());
        at.push((stream.now - start).as_secs_f64());
    }
    stream.sent();
    at
}

#[test]
fn cp_6_refusals_of_a_type_are_as_far_apart_as_attempts_that_fail() {
    let (mut stream, _) = Stream::open(&[(CDS, &["b"]), (EDS, &["e"])]);
    stream.answer(response(EDS, "1", vec![endpoints("e", &[1])]));
    let at = refusals(&mut stream, Duration::from_secs(10));
    let rounded: Vec<f64> = at.iter().map(|at| (at * 10.0).round() / 10.0).collect();
    assert_eq!(rounded, [0.0, 1.0, 2.6, 5.2, 9.3]);
    let at = refusals(&mut stream, Duration::from_secs(3600));
    let longest = at.windows(2).map(|two| two[1] - two[0]).fold(0.0, f64::max);
    assert!((longest - 120.0).abs() < 0.1 && at.len() < 40, "{longest}: {at:?}");
    // A good one is answered at once, of another type as well, and the next bad one is held for a second at most.
    stream.ads.hear(response(CDS, "x", vec![bad_cluster("b")]), stream.now);
    assert!(stream.sent().is_empty());
    assert_eq!(
        stream.answer(response(EDS, "2", vec![endpoints("e", &[2])])).error,
        None
    );
    assert_eq!(stream.answer(response(CDS, "y", vec![cluster("b")])).error, None);
    let at = refusals(&mut stream, Duration::from_secs(10));
    assert!(at[0] <= 1.0 && (at[1] - at[0] - 1.0).abs() < 1e-6, "{at:?}");
}

#[test]
fn cp_6_good_and_bad_by_turns_are_refused_no_faster_than_once_a_second() {
    let (mut stream, _) = Stream::open(&[(CDS, &["b"])]);
    let (start, mut count) = (stream.now, 0);
    while stream.now < start + Duration::from_secs(10) {
        stream.answer(response(CDS, "good", vec![cluster("b")]));
        stream
            .ads
            .hear(response(CDS, "bad", vec![bad_cluster("b")]), stream.now);
        count += stream.sent().len();
        stream.now += Duration::from_millis(10);
    }
    assert_eq!(count, 10);
}

/// A request that names the newest response and refuses nothing is consent.
#[test]
fn a_change_of_names_while_a_refusal_is_held_says_the_refusal_too() {
    let (mut stream, _) = Stream::open(&[(CDS, &["b"])]);
    stream.answer(response(CDS, "1", vec![bad_cluster("b")]));
    stream.ads.hear(response(CDS, "2", vec![bad_cluster("b")]), stream.now);
    assert!(stream.sent().is_empty());
    stream.ads.subscribe(&needs(&[(CDS, &["b", "c"])]));
    let sent = stream.sent();
    assert_eq!((sent.len(), sent[0].names.len(), sent[0].nonce.as_str()), (1, 2, "2"));
    assert!(sent[0].error.is_some());
}

#[test]
fn a_refusal_is_long_enough_to_help_and_no_longer() {
    let many: Vec<String> = (0..500).map(|n| format!("cluster-{n:03}")).collect();
    let list: Vec<&str> = many.iter().map(String::as_str).collect();
    let (mut stream, _) = Stream::open(&[(CDS, &list)]);
    let error = stream
        .answer(response(CDS, "1", list.iter().map(|name| bad_cluster(name)).collect()))
        .error
        .unwrap();
    assert!(error.len() < 5000 && error.contains("500") && error.contains("cluster-000"));
}

/// A resource that is one long mistake is named all the same.
#[test]
fn a_refusal_of_something_long_still_says_which_and_why() {
    let long = "x".repeat(100_000);
    let (mut stream, _) = Stream::open(&[(CDS, &["c"])]);
    let wrong = Raw {
        type_url: long,
        bytes: Vec::new(),
    };
    let error = stream.answer(response(CDS, "1", vec![wrong])).error.unwrap();
    assert!(error.len() < 1024, "{} bytes", error.len());
    assert!(
        error.contains("resources[0].type_url: expected a cluster, not"),
        "{error}"
    );
}
