//! What is not there: deleted, late, ended by its time, or none of those that are listed.

use super::*;

#[test]
fn cp_8_a_deleted_listener_or_cluster_goes_on_serving() {
    for (kind, resource) in [(LDS, listener("a", "r")), (CDS, cluster("a"))] {
        let (mut stream, _) = Stream::open(&[(kind, &["a"])]);
        stream.answer(response(kind, "1", vec![resource]));
        assert_eq!(stream.answer(response(kind, "2", vec![])).version, "2");
        let row = stream.ads.cache().rows().next().unwrap();
        assert_eq!(row.accepted.map(|version| &**version), Some("1"));
        assert!(matches!(row.trouble, Some(Trouble::Absent(why)) if why.contains("deleted")));
    }
}

#[test]
fn absence_says_nothing_about_routes_and_endpoints() {
    for (kind, resource) in [(RDS, routes("a", "c")), (EDS, endpoints("a", &[1]))] {
        let (mut stream, _) = Stream::open(&[(kind, &["a", "b"])]);
        stream.answer(response(kind, "1", vec![resource]));
        stream.answer(response(kind, "2", vec![]));
        assert!(stream.ads.cache().rows().all(|row| row.trouble.is_none()));
    }
}

#[test]
fn what_does_not_come_in_time_does_not_exist_until_it_comes() {
    let (mut stream, _) = Stream::open(&[(EDS, &["a", "b"])]);
    let deadline = stream.ads.deadline(stream.now).unwrap();
    assert_eq!(deadline, stream.now + Duration::from_secs(15));
    stream.answer(response(EDS, "1", vec![endpoints("b", &[1])]));
    assert!(!stream.ads.on_timer(deadline - Duration::from_millis(1)));
    assert!(stream.ads.on_timer(deadline));
    assert!(matches!(
        stream.ads.cache().find::<Endpoints>("a"),
        Found::None(Trouble::Absent(_))
    ));
    assert!(matches!(stream.ads.cache().find::<Endpoints>("b"), Found::Value(_)));
    assert_eq!(stream.ads.deadline(stream.now), None);
    stream.answer(response(EDS, "2", vec![endpoints("a", &[1])]));
    assert!(matches!(stream.ads.cache().find::<Endpoints>("a"), Found::Value(_)));
}

#[test]
fn the_timer_starts_with_the_request_and_stops_with_the_stream() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a"])]);
    stream.ads.stream_closed();
    stream.now += Duration::from_secs(100);
    assert!(!stream.ads.on_timer(stream.now), "a broken stream proves nothing");
    stream.ads.stream_opened();
    stream.sent();
    assert_eq!(
        stream.ads.deadline(stream.now),
        Some(stream.now + Duration::from_secs(15))
    );
}

#[test]
fn the_control_planes_word_that_a_resource_is_not_there_needs_no_timer() {
    let (mut stream, _) = Stream::open(&[(LDS, &["a", "b", "c"])]);
    stream.answer(response(LDS, "1", vec![listener("b", "r")]));
    let mut told = response(LDS, "2", vec![listener("b", "r")]);
    let error = |name: &str, code| ResourceError {
        name: name.into(),
        code,
        message: "no".into(),
    };
    // NOT_FOUND is about the resource; UNAVAILABLE is about the control plane.
    told.errors = vec![error("a", 5), error("c", 14)];
    assert_eq!(stream.answer(told).error, None);
    assert!(matches!(
        stream.ads.cache().find::<Listener>("a"),
        Found::None(Trouble::Absent(_))
    ));
    assert!(matches!(stream.ads.cache().find::<Listener>("b"), Found::Value(_)));
    assert!(matches!(
        stream.ads.cache().find::<Listener>("c"),
        Found::None(Trouble::Failed(_))
    ));
    assert_eq!(stream.ads.deadline(stream.now), None, "neither is waited for any more");
    // A passing error beside a good value changes nothing, and neither is forgotten by a response that is silent about it.
    let mut passing = response(LDS, "3", vec![listener("c", "r")]);
    passing.errors = vec![error("b", 13)];
    assert_eq!(stream.answer(passing).error, None);
    for name in ["b", "c"] {
        assert!(
            matches!(stream.ads.cache().find::<Listener>(name), Found::Value(_)),
            "{name}"
        );
    }
    let rows = stream.ads.cache().rows();
    let troubles: Vec<_> = rows.map(|row| row.trouble.is_some()).collect();
    assert_eq!(troubles, [true, true, false]);
}

#[test]
fn cp_8_a_deleted_listener_or_cluster_is_kept_by_default_and_told_once() {
    for kind in [LDS, CDS] {
        let (mut stream, _) = Stream::open(&[(kind, &["a"])]);
        let there = |version: &str| match kind {
            LDS => response(kind, version, vec![listener("a", "r")]),
            _ => response(kind, version, vec![cluster("a")]),
        };
        stream.answer(there("1"));
        let deleted = stream.ads.hear(response(kind, "2", vec![]), stream.now).taken;
        assert_eq!((deleted.deleted, deleted.valid), (names(&["a"]), 0));
        let again = stream.ads.hear(response(kind, "3", vec![]), stream.now).taken;
        assert!(again.deleted.is_empty(), "once");
        let row = stream.ads.cache().rows().next().unwrap();
        assert!(row.accepted.is_some() && matches!(row.trouble, Some(Trouble::Absent(why)) if why.contains("kept")));
        let back = stream.ads.hear(there("4"), stream.now).taken;
        assert_eq!((back.returned, back.valid), (names(&["a"]), 1));
        assert_eq!(stream.ads.cache().rows().next().unwrap().trouble, None);
    }
}

#[test]
fn cp_8_data_errors_end_a_resource_where_the_control_plane_is_said_to_mean_them() {
    let error = ResourceError {
        name: "a".into(),
        code: 7,
        message: "not yours".into(),
    };
    let mut denied = response(CDS, "2", vec![]);
    denied.errors = vec![error];
    let mut passing = denied.clone();
    passing.errors[0].code = 14;
    for (said, is_kept, text) in [
        (response(CDS, "2", vec![]), false, "was deleted by the control plane"),
        (response(CDS, "2", vec![bad_cluster("a")]), false, "instance_name"),
        (denied, false, "not yours"),
        (passing, true, "not yours"),
    ] {
        let (mut stream, _) = Stream::open(&[(CDS, &["a"])]);
        let rules = Rules {
            fail_on_data_errors: true,
            ..Rules::default()
        };
        stream.ads = AdsState::new(Arc::default(), Context::default()).with_rules(rules);
        stream.ads.subscribe(&needs(&[(CDS, &["a"])]));
        stream.ads.stream_opened();
        stream.sent();
        stream.answer(response(CDS, "1", vec![cluster("a")]));
        stream.answer(said);
        let is_there = matches!(stream.ads.cache().find::<ClusterSpec>("a"), Found::Value(_));
        let trouble = stream.ads.cache().rows().next().unwrap().trouble.cloned();
        assert_eq!(is_there, is_kept, "{trouble:?}");
        assert!(format!("{trouble:?}").contains(text), "{trouble:?}");
        assert!(!format!("{trouble:?}").contains("kept"), "{trouble:?}");
        stream.answer(response(CDS, "3", vec![cluster("a")]));
        assert!(matches!(stream.ads.cache().find::<ClusterSpec>("a"), Found::Value(_)));
    }
}

#[test]
fn silence_is_a_passing_trouble_where_the_control_plane_is_said_to_mean_that() {
    let (mut stream, _) = Stream::open(&[]);
    let rules = Rules {
        silence_is_transient: true,
        ..Rules::default()
    };
    stream.ads = AdsState::new(Arc::default(), Context::default()).with_rules(rules);
    stream.ads.subscribe(&needs(&[(LDS, &["a"])]));
    stream.ads.stream_opened();
    stream.sent();
    let half_a_minute = stream.now + Duration::from_secs(30);
    assert_eq!(stream.ads.deadline(stream.now), Some(half_a_minute));
    assert!(stream.ads.on_timer(half_a_minute));
    match stream.ads.cache().find::<Listener>("a") {
        Found::None(Trouble::TimedOut(why)) => assert!(why.contains("30 s") && !why.contains("exist"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_forgotten_is_asked_for_without_a_version() {
    let (mut stream, _) = Stream::open(&[(CDS, &["a"])]);
    stream.answer(response(CDS, "1", vec![cluster("a")]));
    stream.ads.forget_versions();
    stream.ads.stream_opened();
    let first = stream.sent().remove(0);
    assert_eq!((first.version.as_str(), first.names), ("", names(&["a"])));
    assert!(
        matches!(stream.ads.cache().find::<ClusterSpec>("a"), Found::Value(_)),
        "values stay"
    );
    stream.ads.reset();
    assert_eq!(stream.ads.cache().rows().count(), 0);
    stream.ads.subscribe(&needs(&[(CDS, &["a"])]));
    assert!(stream.sent().is_empty(), "there is no stream");
}

/// Everything of a kind, with `wanted` as the names that are looked at.
fn everything(kind: ResourceKind, wanted: &[&str]) -> Needs {
    let mut all = needs(&[(kind, wanted)]);
    all.want_everything(kind);
    all
}

#[test]
fn everything_is_asked_for_without_names_and_what_is_not_listed_is_not_there() {
    let (mut stream, _) = Stream::open(&[]);
    stream.ads.subscribe(&everything(CDS, &["a", "missing"]));
    let sent = stream.sent();
    assert_eq!((sent.len(), sent[0].names.len()), (1, 0));
    // No name is waited for by itself, but any word at all is.
    assert_eq!(
        stream.ads.deadline(stream.now),
        Some(stream.now + Duration::from_secs(15))
    );
    let found = |stream: &Stream, name: &str| match stream.ads.cache().find::<ClusterSpec>(name) {
        Found::Value(_) => "there",
        Found::None(Trouble::Absent(_)) => "absent",
        Found::None(Trouble::Refused(_)) => "refused",
        Found::None(Trouble::Failed(_) | Trouble::TimedOut(_)) => "unavailable",
        Found::Pending => "pending",
    };
    assert_eq!(found(&stream, "missing"), "pending");
    let ack = stream.answer(response(CDS, "1", vec![cluster("a"), cluster("unasked")]));
    assert_eq!((ack.version.as_str(), ack.names.len(), ack.error), ("1", 0, None));
    assert_eq!(stream.ads.deadline(stream.now), None);
    let three = ["a", "unasked", "missing"].map(|name| found(&stream, name));
    assert_eq!(three, ["there", "there", "absent"]);
    // Another name is looked at: nothing needs to be said for that.
    stream.ads.subscribe(&everything(CDS, &["a", "unasked"]));
    assert!(stream.sent().is_empty());
    // Of what is no longer listed, what is looked at keeps its value and the rest is forgotten.
    stream.ads.subscribe(&everything(CDS, &["a"]));
    stream.answer(response(CDS, "2", vec![cluster("b")]));
    assert_eq!(
        ["a", "unasked", "b"].map(|name| found(&stream, name)),
        ["there", "absent", "there"]
    );
    let rows = |stream: &Stream| stream.ads.cache().rows().count();
    assert_eq!(rows(&stream), 2);
    stream.ads.subscribe(&everything(CDS, &[]));
    assert_eq!(rows(&stream), 1, "what is neither listed nor looked at is gone");
    // A new stream asks for everything again, and knows what it knew.
    stream.ads.stream_closed();
    stream.ads.stream_opened();
    let sent = stream.sent();
    assert_eq!((sent.len(), sent[0].names.len(), sent[0].version.as_str()), (1, 0, "2"));
    assert_eq!(found(&stream, "b"), "there");
}

#[test]
fn a_time_to_live_ends_a_resource_unless_a_heartbeat_renews_it() {
    let (mut stream, _) = Stream::open(&[(RDS, &["a"])]);
    let there = |stream: &Stream| matches!(stream.ads.cache().find::<RouteTree>("a"), Found::Value(_));
    let second = Duration::from_secs(1);
    let ack = stream.answer(response(
        RDS,
        "1",
        vec![enveloped("a", Some(routes("a", "c")), 10 * second)],
    ));
    assert_eq!((ack.error, there(&stream)), (None, true));
    assert_eq!(stream.ads.deadline(stream.now), Some(stream.now + 10 * second));
    stream.now += 9 * second;
    assert!(!stream.ads.on_timer(stream.now));
    stream.answer(response(RDS, "1", vec![enveloped("a", None, 10 * second)]));
    stream.now += 9 * second;
    assert!(!stream.ads.on_timer(stream.now) && there(&stream));
    // A control plane that is gone does not renew it, and that is what the time is for.
    stream.ads.stream_closed();
    stream.now += second;
    assert_eq!(stream.ads.deadline(stream.now), Some(stream.now));
    assert!(stream.ads.on_timer(stream.now) && !there(&stream));
    match stream.ads.cache().find::<RouteTree>("a") {
        Found::None(Trouble::Absent(why)) => assert!(why.contains("time to live"), "{why}"),
        other => panic!("{other:?}"),
    }
    // It comes again without one, and stays.
    stream.ads.stream_opened();
    stream.sent();
    stream.answer(response(RDS, "2", vec![routes("a", "c")]));
    assert_eq!((there(&stream), stream.ads.deadline(stream.now)), (true, None));
}

/// In state of the world a version is of the type. News of others moves it on, and a heartbeat then has the new one.
#[test]
fn a_heartbeat_renews_what_was_told_before_the_version_moved_on() {
    let ttl = Duration::from_secs(10);
    let lives = |heartbeat: Raw, version: &str, refused: bool| {
        let (mut stream, _) = Stream::open(&[(RDS, &["a", "b"])]);
        stream.answer(response(RDS, "1", vec![enveloped("a", Some(routes("a", "c")), ttl)]));
        stream.now += ttl / 2;
        let newer = match refused {
            // A route that matches nothing and does nothing.
            true => raw(
                RDS,
                [&[0x0a, 1, b'a', 0x12, 8, 0x0a, 1, b'h', 0x12, 1, b'*'][..], &[0x1a, 0]].concat(),
            ),
            false => routes("b", "c"),
        };
        let answer = stream.answer(response(RDS, "2", vec![newer]));
        assert_eq!(answer.error.is_some(), refused);
        stream.ads.hear(response(RDS, version, vec![heartbeat]), stream.now);
        stream.now += ttl - Duration::from_secs(1);
        stream.ads.on_timer(stream.now);
        matches!(stream.ads.cache().find::<RouteTree>("a"), Found::Value(_))
    };
    let heartbeat = || enveloped("a", None, ttl);
    assert!(lives(heartbeat(), "2", false));
    assert!(
        lives(of_version("1", heartbeat()), "2", false),
        "the version it came with"
    );
    assert!(lives(of_version("2", heartbeat()), "2", false));
    assert!(
        lives(of_version("0", heartbeat()), "2", false),
        "it came with no version to compare that with"
    );
    // Of a newer one that is not used there is nothing to renew.
    assert!(!lives(heartbeat(), "2", true));
}

/// Control planes version resources by themselves in state of the world too, on their envelopes, and hold to these in heartbeats.
#[test]
fn a_heartbeat_may_say_the_version_of_the_envelope_or_of_the_response() {
    let ttl = Duration::from_secs(3);
    let lives = |told: &str, heartbeat: &str, response_version: &str| {
        let (mut stream, _) = Stream::open(&[(EDS, &["a", "b"])]);
        let first = enveloped("a", Some(endpoints("a", &[1])), ttl);
        stream.answer(response(EDS, "10", vec![of_version(told, first)]));
        let ack = stream.answer(response(EDS, "11", vec![endpoints("b", &[1])]));
        assert_eq!(ack.error, None);
        // For longer than it would live by itself.
        for _ in 0..4 {
            stream.now += Duration::from_millis(1200);
            stream.ads.on_timer(stream.now);
            let beat = of_version(heartbeat, enveloped("a", None, ttl));
            let ack = stream.answer(response(EDS, response_version, vec![beat]));
            assert_eq!((ack.error, &*ack.version), (None, response_version));
        }
        matches!(stream.ads.cache().find::<Endpoints>("a"), Found::Value(_))
    };
    for (told, heartbeat, version, expected) in [
        // Each has its own, whatever the type's does.
        ("r7", "r7", "10", true),
        ("r7", "r7", "11", true),
        ("r7", "r7", "12", true),
        // What it came with is one of its versions, and so is the newest.
        ("r7", "10", "11", true),
        ("r7", "12", "12", true),
        ("r7", "", "10", true),
        ("r7", "", "12", true),
        // Another than it has: a newer one was missed.
        ("r7", "r8", "10", false),
        ("r7", "r8", "12", false),
        // Without one of its own only the response's can be compared.
        ("", "", "10", true),
        ("", "", "12", true),
        ("", "r7", "10", true),
        ("", "r7", "12", true),
    ] {
        assert_eq!(
            lives(told, heartbeat, version),
            expected,
            "{told:?}, a heartbeat of {heartbeat:?} in {version:?}"
        );
    }
}

/// The last good value is kept when a newer one is refused; heartbeats of the newer one say nothing for it.
#[test]
fn a_heartbeat_of_a_refused_version_renews_nothing() {
    let ttl = Duration::from_secs(3);
    for (heartbeat, expected) in [("r7", true), ("r8", false), ("", false)] {
        let (mut stream, _) = Stream::open(&[(CDS, &["a"])]);
        let good = enveloped("a", Some(cluster("a")), ttl);
        stream.answer(response(CDS, "10", vec![of_version("r7", good)]));
        let bad = enveloped("a", Some(bad_cluster("a")), ttl);
        let nack = stream.answer(response(CDS, "11", vec![of_version("r8", bad)]));
        assert!(nack.error.is_some());
        stream.now += ttl / 2;
        let beat = of_version(heartbeat, enveloped("a", None, ttl));
        stream.ads.hear(response(CDS, "11", vec![beat]), stream.now);
        stream.now += ttl - Duration::from_secs(1);
        stream.ads.on_timer(stream.now);
        let is_there = matches!(stream.ads.cache().find::<ClusterSpec>("a"), Found::Value(_));
        assert_eq!(is_there, expected, "{heartbeat:?}");
    }
}

#[test]
fn the_first_wait_to_end_is_known_whatever_came_or_was_dropped_meanwhile() {
    let (mut stream, _) = Stream::open(&[(RDS, &["a", "b"])]);
    let (start, second) = (stream.now, Duration::from_secs(1));
    stream.now += second;
    stream.ads.subscribe(&needs(&[(RDS, &["a", "b", "c"])]));
    stream.sent();
    assert_eq!(stream.ads.deadline(stream.now), Some(start + 15 * second));
    stream.answer(response(RDS, "1", vec![routes("a", "x")]));
    assert_eq!(stream.ads.deadline(stream.now), Some(start + 15 * second));
    // The last of the first batch is dropped; what counts now is the second.
    stream.ads.subscribe(&needs(&[(RDS, &["a", "c"])]));
    stream.sent();
    assert_eq!(stream.ads.deadline(stream.now), Some(start + 16 * second));
    assert!(!stream.ads.on_timer(start + 15 * second));
    assert!(stream.ads.on_timer(start + 16 * second));
    assert_eq!(stream.ads.deadline(stream.now), None);
    // A stream that breaks begins all waits anew.
    stream.ads.subscribe(&needs(&[(RDS, &["a", "c", "d"])]));
    stream.sent();
    stream.ads.stream_closed();
    assert_eq!(stream.ads.deadline(stream.now), None);
    stream.now += 60 * second;
    stream.ads.stream_opened();
    stream.sent();
    assert_eq!(stream.ads.deadline(stream.now), Some(stream.now + 15 * second));
}

/// A control plane may go on making bad names for ever.
#[test]
fn what_was_refused_is_forgotten_when_it_is_not_listed_any_more() {
    let (mut stream, _) = Stream::open(&[(EDS, &["e"])]);
    stream.ads.subscribe(&everything(CDS, &["looked-for"]));
    stream.sent();
    for round in 0..1000 {
        let list = vec![cluster("good"), bad_cluster(&format!("bad-{round}"))];
        stream.ads.hear(response(CDS, &round.to_string(), list), stream.now);
        let names: Vec<&str> = stream.ads.cache().rows().map(|row| &**row.name).collect();
        assert_eq!(names, [&format!("bad-{round}"), "good", "looked-for"]);
    }
    // One that is looked for is told of as what it is.
    let bad = vec![cluster("good"), bad_cluster("looked-for")];
    stream.ads.hear(response(CDS, "x", bad), stream.now);
    let found = |stream: &Stream| match stream.ads.cache().find::<ClusterSpec>("looked-for") {
        Found::None(trouble) => trouble,
        other => panic!("{other:?}"),
    };
    assert!(matches!(found(&stream), Trouble::Refused(_)));
    stream.ads.hear(response(CDS, "y", vec![cluster("good")]), stream.now);
    assert!(matches!(found(&stream), Trouble::Absent(_)));
}

/// It says of some that they are as they were, and nothing of the others.
#[test]
fn cp_8_heartbeats_alone_delete_nothing() {
    for fail_on_data_errors in [false, true] {
        let (stream, _) = Stream::open(&[(EDS, &["e"])]);
        let rules = Rules {
            fail_on_data_errors,
            ..Rules::default()
        };
        let mut ads = stream.ads.with_rules(rules);
        ads.subscribe(&needs(&[(LDS, &["a", "b"])]));
        while ads.next_request(stream.now).is_some() {}
        let ttl = Duration::from_secs(10);
        let both = vec![enveloped("a", Some(listener("a", "r")), ttl), listener("b", "r")];
        ads.hear(response(LDS, "1", both), stream.now);
        let heard = ads.hear(response(LDS, "1", vec![enveloped("a", None, ttl)]), stream.now);
        assert_eq!(heard.taken.deleted.len(), 0);
        for name in ["a", "b"] {
            assert!(matches!(ads.cache().find::<Listener>(name), Found::Value(_)), "{name}");
        }
        // With a resource beside it, it is a list.
        let list = vec![enveloped("a", None, ttl), listener("c", "r")];
        ads.hear(response(LDS, "2", list), stream.now);
        let absent = |name| matches!(ads.cache().row(LDS, name).unwrap().trouble, Some(Trouble::Absent(_)));
        assert_eq!((absent("a"), absent("b")), (false, true));
    }
}

#[test]
fn cp_8_one_that_cannot_say_its_name_deletes_nothing() {
    let (mut stream, _) = Stream::open(&[(CDS, &["a", "b"])]);
    stream.answer(response(CDS, "1", vec![cluster("a"), cluster("b")]));
    let nameless = raw(CDS, vec![0xff; 9]);
    let heard = stream
        .ads
        .hear(response(CDS, "2", vec![cluster("a"), nameless]), stream.now);
    assert_eq!((heard.taken.deleted.len(), heard.taken.rejected.len()), (0, 1));
    let mut rows = stream.ads.cache().rows();
    assert!(rows.all(|row| row.trouble.is_none()));
}
