//! The rules of the order, step by step: what waits for what, and for how long.

use super::*;

/// Clusters, and a route on port 80 to the last of them.
fn leading(clusters: &[&str]) -> Snapshot {
    let mut builder = Snapshot::builder();
    for name in clusters {
        let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
        builder = builder.cluster(Cluster::new(*name, TlsMode::Plaintext, vec![endpoint]));
    }
    let last = clusters[clusters.len() - 1];
    builder.route("t:80", Route::to(Split::all_to(last))).build().unwrap()
}

/// A client of all clusters and listeners that was told of cluster `old` and the route to it, and answered.
fn settled<M: Spoken>(dialect: Dialect) -> (M, Encoded) {
    let one = encoded(&leading(&["old"]), None, 1);
    let mut server = M::new(dialect);
    let routes = if dialect == ENVOY { "80" } else { "t:80" };
    for (kind, asked) in [(CDS, &[][..]), (EDS, &["old"]), (LDS, &[]), (RDS, &[routes])] {
        server.say(kind, None, &names(asked), "", None);
        let heard = server.hear(&one.view(dialect)).unwrap();
        assert_eq!(heard.kind, kind);
        server.say(kind, Some(&names(asked)), &names(asked), &heard.nonce, None);
    }
    assert!(server.hear(&one.view(dialect)).is_none() && server.wakes().is_none());
    (server, one)
}

fn waits_so_long<M: Spoken>() {
    for dialect in DIALECTS {
        let (mut server, one) = settled::<M>(dialect);
        let two = encoded(&leading(&["old", "new"]), Some(&one), 2).view(dialect);
        let start = Instant::now();
        let heard = server.hear_at(&two, start).unwrap();
        assert_eq!(heard.kind, CDS);
        // It does not even answer. Publishing more does not begin the wait anew.
        assert!(server.hear_at(&two, start).is_none());
        assert_eq!(server.wakes(), Some(start + WARMING_LIMIT), "{dialect:?}");
        let late = start + WARMING_LIMIT - Duration::from_millis(1);
        let more = encoded(&leading(&["old", "more", "new"]), Some(&one), 3).view(dialect);
        let heard = server.hear_at(&more, late).map(|heard| heard.kind);
        assert_eq!(heard, Some(CDS));
        assert!(server.hear_at(&more, late).is_none());
        assert_eq!(server.take_overdue(), Overdue::default());
        let heard = server.hear_at(&more, start + WARMING_LIMIT).map(|heard| heard.kind);
        assert_eq!(heard, Some(RDS), "{dialect:?}");
        assert!(server.hear_at(&more, start + WARMING_LIMIT).is_none());
        assert_eq!(server.wakes(), None, "nothing waits any more");
        let (given_up, once) = (server.take_overdue(), server.take_overdue());
        assert!(given_up.cold > 0 && once == Overdue::default(), "{given_up:?}");
    }
}

#[test]
fn a_route_waits_for_a_cluster_that_is_not_warmed_and_not_for_ever() {
    waits_so_long::<StreamState>();
    waits_so_long::<DeltaState>();
}

/// At which of its answers the route comes, if it refuses the cluster, or its endpoints, or nothing.
fn waits_for_both<M: Spoken>(refused: Option<ResourceKind>) {
    let (mut server, one) = settled::<M>(ENVOY);
    let two = encoded(&leading(&["old", "new"]), Some(&one), 2).view(ENVOY);
    let why = |kind| (refused == Some(kind)).then_some("new: no");
    let clusters = server.hear(&two).unwrap();
    assert!(server.hear(&two).is_none());
    let (few, both) = (names(&["old"]), names(&["new", "old"]));
    server.say(CDS, Some(&names(&[])), &names(&[]), &clusters.nonce, why(CDS));
    assert!(server.hear(&two).is_none(), "its endpoints were not asked for");
    // In state of the world with the nonce of what it was told before, which is its third response.
    let nonce = if M::WHOLE { "2" } else { "" };
    server.say(EDS, Some(&few), &both, nonce, None);
    let endpoints = server.hear(&two).unwrap();
    assert_eq!(endpoints.kind, EDS);
    assert!(server.hear(&two).is_none());
    server.say(EDS, Some(&both), &both, &endpoints.nonce, why(EDS));
    assert_eq!(server.hear(&two).map(|heard| heard.kind), Some(RDS));
    assert!(server.hear(&two).is_none());
    // It is warm from now on: what changes of it is not waited for.
    let mut changed = leading(&["old", "new"])
        .cluster(&"new".into())
        .unwrap()
        .as_ref()
        .unwrap()
        .as_ref()
        .clone();
    changed.breakers.default.max_requests = 7;
    let three = Snapshot::builder()
        .cluster(changed)
        .cluster(Cluster::new("old", TlsMode::Plaintext, Vec::new()))
        .route("t:80", Route::to(Split::all_to("old")))
        .build();
    let three = encoded(&three.unwrap(), None, 3).view(ENVOY);
    let kinds: Vec<_> = std::iter::from_fn(|| server.hear(&three))
        .map(|heard| heard.kind)
        .collect();
    assert_eq!(kinds, [CDS, EDS, RDS]);
}

#[test]
fn a_route_comes_when_the_client_has_answered_to_the_cluster_and_to_its_endpoints() {
    for refused in [None, Some(CDS), Some(EDS)] {
        waits_for_both::<StreamState>(refused);
        waits_for_both::<DeltaState>(refused);
    }
}

fn names(list: &[&str]) -> Names {
    list.iter().map(|name| Arc::from(*name)).collect()
}

/// Cluster `c` with this bound, and one endpoint that stays.
fn bounded(max_requests: u32) -> Snapshot {
    let endpoint = Endpoint::new(([127, 0, 0, 1], 1).into());
    let mut cluster = Cluster::new("c", TlsMode::Plaintext, vec![endpoint]);
    cluster.breakers.default.max_requests = max_requests;
    Snapshot::builder().cluster(cluster).build().unwrap()
}

fn warms<M: Spoken>() {
    for dialect in DIALECTS {
        let one = encoded(&bounded(1), None, 1);
        let two = encoded(&bounded(2), Some(&one), 2);
        let mut server = M::new(dialect);
        for kind in [CDS, EDS] {
            server.say(kind, None, &names(&["c"]), "", None);
            let heard = server.hear(&one.view(dialect)).unwrap();
            server.say(kind, Some(&names(&["c"])), &names(&["c"]), &heard.nonce, None);
        }
        assert_eq!(server.hear(&two.view(dialect)).unwrap().kind, CDS);
        let again = server
            .hear(&two.view(dialect))
            .map(|heard| (heard.kind, heard.resources.len()));
        let expected = (dialect == ENVOY).then_some((EDS, 1));
        assert_eq!(again, expected, "{dialect:?}");
        assert!(server.hear(&two.view(dialect)).is_none());
    }
}

#[test]
fn envoy_is_sent_the_endpoints_of_a_changed_cluster_again_and_nobody_else_is() {
    warms::<StreamState>();
    warms::<DeltaState>();
}

/// What is said without a nonce is answered, a refusal is known by its error, and what was refused is not sent again.
fn answers<M: Spoken>() {
    for dialect in DIALECTS {
        for kind in [CDS, EDS] {
            let one = encoded(&bounded(1), None, 1);
            let mut server = M::new(dialect);
            server.say(kind, None, &names(&["c"]), "", None);
            assert_eq!(server.hear(&one.view(dialect)).unwrap().resources.len(), 1);
            // Once more without a nonce, as for the first time.
            server.say(kind, None, &names(&["c"]), "", None);
            let heard = server.hear(&one.view(dialect)).unwrap();
            assert_eq!(heard.resources.len(), 1, "{dialect:?} {kind}");
            let same = names(&["c"]);
            server.say(kind, Some(&same), &same, &heard.nonce, Some("no"));
            assert!(server.hear(&one.view(dialect)).is_none(), "{dialect:?} {kind}");
            let report = server.report();
            assert_eq!(
                report[0].acknowledged,
                Acknowledged::Refused("no".into()),
                "{dialect:?} {kind}"
            );
            // Something else is worth a try.
            let endpoint = Endpoint::new(([127, 0, 0, 1], 2).into());
            let mut cluster = Cluster::new("c", TlsMode::Plaintext, vec![endpoint]);
            cluster.breakers.default.max_requests = 2;
            let two = encoded(&Snapshot::builder().cluster(cluster).build().unwrap(), Some(&one), 2);
            assert_eq!(server.hear(&two.view(dialect)).unwrap().resources.len(), 1);
        }
    }
}

#[test]
fn requests_are_answered_and_refusals_known_in_every_dialect() {
    answers::<StreamState>();
    answers::<DeltaState>();
}

#[test]
fn an_envoy_elsewhere_has_the_same_ports_there_and_is_told_when_they_change() {
    let bind = Dialect::Envoy([127, 0, 0, 2].into());
    let target = |names: &[&str]| {
        let mut builder = Snapshot::builder().cluster(Cluster::new("c", TlsMode::Plaintext, Vec::new()));
        for name in names {
            builder = builder.route(name, Route::to(Split::all_to("c")));
        }
        builder.build().unwrap()
    };
    let one = encoded(&target(&["t:80"]), None, 1);
    let same = encoded(&target(&["t:80", "u:80"]), Some(&one), 2);
    let more = encoded(&target(&["t:80", "u:81"]), Some(&same), 3);
    let version = |encoded: &Encoded| Arc::clone(&encoded.view(bind).of(LDS).version);
    assert_eq!(version(&one), version(&same), "the routes changed, the ports did not");
    assert_ne!(version(&same), version(&more));
    let (here, there) = (one.view(ENVOY), one.view(bind));
    assert_ne!(here.of(LDS).resources, there.of(LDS).resources);
    for kind in [RDS, CDS, EDS] {
        assert!(Arc::ptr_eq(here.of(kind), there.of(kind)));
    }
}
