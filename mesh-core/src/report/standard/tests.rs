//! What is counted is what is told, by whichever way it was counted, and within its bounds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::identity::SpiffeId;
use crate::report::Exposition;

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap()
}

fn pair(reporter: Reporter) -> EdgeLabels {
    let labels = [("app", "payment"), ("version", "v1")];
    let label = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    EdgeLabels {
        source_principal: Some(id("checkout")),
        destination_principal: Some(id("payment")),
        service: Arc::new(Service::of_authority("payment.shop.svc.cluster.local")),
        ..EdgeLabels::new(
            reporter,
            Workload::named("checkout", "shop"),
            Workload::labelled("payment-v1", "shop", label),
        )
    }
}

fn told(edges: &Edges, now: Instant) -> String {
    let mut out = Exposition::default();
    edges.expose(now, &mut out);
    out.into_text()
}

fn lines<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(begin)).collect()
}

#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn every_label_of_istios_stands_on_every_series() {
    let edges = Edges::default();
    let amounts = Amounts {
        duration: Duration::from_micros(250),
        request_bytes: 3,
        response_bytes: 0,
    };
    edges.edge(&pair(Reporter::Destination)).count(End::http(200), amounts);
    let text = told(&edges, start());
    let labels = "reporter=\"destination\",source_workload=\"checkout\",source_canonical_service=\"checkout\",\
        source_canonical_revision=\"latest\",source_workload_namespace=\"shop\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/checkout\",source_app=\"unknown\",source_version=\"unknown\",\
        source_cluster=\"Kubernetes\",destination_workload=\"payment-v1\",destination_workload_namespace=\"shop\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/payment\",destination_app=\"payment\",\
        destination_version=\"v1\",destination_service=\"payment.shop.svc.cluster.local\",\
        destination_canonical_service=\"payment\",destination_canonical_revision=\"v1\",\
        destination_service_name=\"payment\",destination_service_namespace=\"shop\",destination_cluster=\"Kubernetes\",\
        request_protocol=\"http\",response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",\
        connection_security_policy=\"mutual_tls\"";
    assert_eq!(
        lines(&text, "istio_requests_total"),
        [format!("istio_requests_total{{{labels}}} 1")]
    );
    let name = "istio_request_duration_milliseconds";
    assert_eq!(
        lines(&text, &format!("{name}_sum")),
        [format!("{name}_sum{{{labels}}} 0.25")]
    );
    let buckets = lines(&text, &format!("{name}_bucket"));
    assert_eq!(buckets.len(), BOUNDS.len() + 1);
    assert_eq!(buckets[0], format!("{name}_bucket{{{labels},le=\"0.5\"}} 1"));
    assert_eq!(buckets[19], format!("{name}_bucket{{{labels},le=\"+Inf\"}} 1"));
    let bytes = lines(&text, "istio_request_bytes_bucket");
    assert!(
        bytes[1].ends_with(" 0") && bytes[2].ends_with("le=\"5\"} 1"),
        "{bytes:?}"
    );
    assert!(lines(&text, "istio_response_bytes_bucket")[0].ends_with("le=\"0.5\"} 1"));
    assert!(
        lines(&text, "istio_request_messages_total").is_empty(),
        "it is not gRPC"
    );
}

#[test]
fn security_is_told_by_the_called_alone() {
    let policy = |labels: EdgeLabels| {
        let edges = Edges::default();
        edges.edge(&labels).count(End::http(200), Amounts::default());
        let text = told(&edges, start());
        let line = lines(&text, "istio_requests_total")[0].to_owned();
        line.split("connection_security_policy=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(policy(pair(Reporter::Source)), "unknown");
    assert_eq!(policy(pair(Reporter::Destination)), "mutual_tls");
    let plain = EdgeLabels {
        source_principal: None,
        ..pair(Reporter::Destination)
    };
    assert_eq!(policy(plain), "none");
}

#[test]
fn ends_are_told_apart_and_messages_have_labels_of_their_own() {
    let edges = Edges::default();
    let edge = edges.edge(&pair(Reporter::Source));
    let again = edges.edge(&pair(Reporter::Source));
    assert!(Arc::ptr_eq(&edge, &again), "equal labels are one edge");
    edge.messages(1, 2);
    edge.count(End::grpc(0), Amounts::default());
    again.count(End::grpc(0), Amounts::default());
    let failed = End {
        code: 503,
        flags: Flags::named(["UH"]),
        ..End::default()
    };
    edge.count(failed, Amounts::default());
    edge.count(
        End {
            code: 0,
            flags: Flags::DOWNSTREAM_CLOSED,
            ..End::grpc(0)
        },
        Amounts::default(),
    );
    let text = told(&edges, start());
    let ends: Vec<_> = lines(&text, "istio_requests_total")
        .into_iter()
        .map(|line| {
            line.split_once("request_protocol=")
                .unwrap()
                .1
                .replace("connection_security_policy=\"unknown\"", "")
        })
        .collect();
    assert_eq!(
        ends,
        [
            "\"http\",response_code=\"503\",grpc_response_status=\"\",response_flags=\"UH\",} 1",
            "\"grpc\",response_code=\"0\",grpc_response_status=\"0\",response_flags=\"DC\",} 1",
            "\"grpc\",response_code=\"200\",grpc_response_status=\"0\",response_flags=\"-\",} 2",
        ]
    );
    let messages = lines(&text, "istio_request_messages_total");
    assert_eq!(messages.len(), 1);
    assert!(messages[0].ends_with("destination_cluster=\"Kubernetes\",request_protocol=\"grpc\"} 1"));
    assert!(lines(&text, "istio_response_messages_total")[0].ends_with(" 2"));
}

#[test]
fn what_is_told_parses_and_repeats_nothing() {
    let edges = Edges::default();
    for reporter in [Reporter::Source, Reporter::Destination] {
        for code in 0..Edges::SERIES_OF_EDGE as u16 + 5 {
            edges.edge(&pair(reporter)).count(End::http(code), Amounts::default());
        }
    }
    let now = start();
    let text = told(&edges, now);
    let mut seen = BTreeSet::new();
    let mut families = BTreeSet::new();
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} stands together");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(family), "{line}");
            assert!(seen.insert(series), "twice: {series}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert_eq!(told(&edges, now), text, "the order is fixed");
}

#[test]
fn ends_beyond_the_bound_count_in_one() {
    let edges = Edges::default();
    let edge = edges.edge(&pair(Reporter::Source));
    let most = Edges::SERIES_OF_EDGE;
    for code in 0..most as u16 + 3 {
        edge.count(End::http(code), Amounts::default());
        edge.count(End::http(code), Amounts::default());
    }
    let text = told(&edges, start());
    let others: Vec<_> = lines(&text, "istio_requests_total")
        .into_iter()
        .filter(|line| line.contains("response_code=\"other\""))
        .collect();
    assert!(others.len() == 1 && others[0].ends_with(" 6"), "{others:?}");
    assert_eq!(edges.series(), most);
    assert_eq!(edges.overflown(), [0, 6]);
    assert!(text.contains("mesh_metrics_overflow_total{bound=\"series\"} 6"));
}

#[test]
fn pairs_beyond_the_bound_count_as_one_that_names_nobody() {
    let edges = Edges::default();
    let of = |at: usize| EdgeLabels {
        destination: Workload::named(&format!("w{at}"), "shop").into(),
        ..pair(Reporter::Source)
    };
    let held: Vec<_> = (0..Edges::MAX_EDGES + 2).map(|at| edges.edge(&of(at))).collect();
    for edge in &held {
        edge.count(End::http(200), Amounts::default());
    }
    assert_eq!((edges.len(), edges.overflown()), (Edges::MAX_EDGES, [2, 0]));
    let text = told(&edges, start());
    let others: Vec<_> = lines(&text, "istio_requests_total")
        .into_iter()
        .filter(|line| line.contains("destination_service=\"other\""))
        .collect();
    assert!(others.len() == 1 && others[0].ends_with(" 2"), "{others:?}");
}

/// What a caller calls a server is the caller's own to say: it fills no place but its own.
#[test]
fn one_caller_takes_the_places_of_no_other() {
    let edges = Edges::default();
    let of = |caller: Option<&str>, service: &str| EdgeLabels {
        source_principal: caller.map(|id| SpiffeId::parse(id).unwrap()),
        service: Service::new(service, "", "").into(),
        ..pair(Reporter::Destination)
    };
    const EVIL: &str = "spiffe://mesh.test/ns/shop/sa/evil";
    for caller in [Some(EVIL), None] {
        for at in 0..10 * Edges::MAX_EDGES_OF_PEER {
            edges
                .edge(&of(caller, &format!("s{at}")))
                .count(End::http(404), Amounts::default());
        }
    }
    assert_eq!(edges.len(), 2 * (Edges::MAX_EDGES_OF_PEER + 1));
    let good = of(Some("spiffe://mesh.test/ns/shop/sa/checkout"), "payment");
    edges.edge(&good).count(End::http(200), Amounts::default());
    let text = told(&edges, start());
    let of_evil = lines(&text, "istio_requests_total")
        .into_iter()
        .filter(|line| line.contains(EVIL));
    let others: Vec<_> = of_evil
        .filter(|line| line.contains("destination_service=\"other\""))
        .collect();
    let beyond = 9 * Edges::MAX_EDGES_OF_PEER;
    assert!(
        others.len() == 1 && others[0].ends_with(&format!(" {beyond}")),
        "{others:?}"
    );
    assert!(text.contains("sa/checkout") && text.contains("destination_service=\"payment\""));
    assert_eq!(edges.overflown()[0], 2 * beyond as u64);
}

#[test]
fn a_pair_lives_while_it_is_counted_in_and_until_scrapes_have_seen_it_still() {
    let edges = Edges::default();
    let edge = edges.edge(&pair(Reporter::Source));
    edge.count(End::http(200), Amounts::default());
    drop(edge);
    let mut now = start();
    assert!(told(&edges, now).contains("checkout"), "nobody had seen it");
    now += Edges::KEPT / 2;
    edges
        .edge(&pair(Reporter::Source))
        .count(End::http(200), Amounts::default());
    told(&edges, now);
    now += Edges::KEPT - Duration::from_secs(1);
    assert!(told(&edges, now).contains("checkout"));
    let held = edges.edge(&pair(Reporter::Source));
    now += Edges::KEPT;
    assert!(told(&edges, now).contains("checkout"), "somebody counts in it");
    drop(held);
    assert!(!told(&edges, now).contains("checkout"));
    assert_eq!((edges.len(), edges.series()), (0, 0), "its places are given back");
}

/// Eight threads, of which each counts every end: whoever is first makes a series, and none is lost.
#[test]
fn nothing_is_lost_where_many_count_at_once() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 200;
    let edges = Edges::default();
    let edge = edges.edge(&pair(Reporter::Source));
    let codes: Vec<u16> = (200..220).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (edge, codes) = (&edge, &codes);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let code = codes[(thread + round) as usize % codes.len()];
                    edge.count(End::http(code), Amounts::default());
                }
            });
        }
    });
    assert_eq!(edge.activity(), THREADS * ROUNDS);
    assert_eq!(edges.series() as usize, codes.len());
}
