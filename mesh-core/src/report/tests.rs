//! Windows, readers, what counts as success, and that no count is lost between threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::*;
use crate::config::{ClusterName, LoadReporting, Locality, ReportedMetric};

#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
fn moment() -> Instant {
    Instant::now()
}

fn zone(name: &str) -> Arc<Locality> {
    Arc::new(Locality {
        zone: name.into(),
        ..Locality::default()
    })
}

fn asking_for(metrics: &[&str]) -> LoadReporting {
    LoadReporting {
        metrics: metrics.iter().filter_map(|name| ReportedMetric::parse(name)).collect(),
        ..LoadReporting::of("eds")
    }
}

fn cluster() -> ClusterName {
    "c".into()
}

/// A call that ends with this gRPC status.
fn grpc(load: &Arc<Load>, status: u8, trailers: &HeaderMap) {
    let mut call = Counted::begin(Arc::clone(load), true);
    call.saw_headers(StatusCode::OK, None, &HeaderMap::new());
    call.saw_trailers(Some(status), trailers);
}

fn report(text: &str) -> HeaderMap {
    let name = HeaderName::from_static("endpoint-load-metrics");
    HeaderMap::from_iter([(name, HeaderValue::from_str(&format!("TEXT {text}")).unwrap())])
}

fn counts(issued: u64, succeeded: u64, errored: u64, in_progress: u64) -> Counts {
    Counts {
        issued,
        succeeded,
        errored,
        in_progress,
    }
}

/// The counts of the only locality of the only cluster.
#[track_caller]
fn only(window: &Window) -> Counts {
    let [cluster] = &window.clusters[..] else {
        panic!("not one cluster: {window:?}")
    };
    let [locality] = &cluster.localities[..] else {
        panic!("not one locality: {window:?}")
    };
    locality.counts
}

#[test]
fn counts_begin_anew_with_each_window_but_not_what_is_in_progress() {
    let (loads, start) = (Loads::default(), moment());
    let reader = loads.reader(start);
    let load = loads.load(&cluster(), &asking_for(&[]), &zone("a"));
    let open = Counted::begin(Arc::clone(&load), true);
    grpc(&load, 0, &HeaderMap::new());
    grpc(&load, 5, &HeaderMap::new());
    let window = reader.take(start + Duration::from_secs(3));
    assert_eq!(window.span, Duration::from_secs(3));
    assert_eq!(
        (&*window.clusters[0].service, only(&window)),
        ("eds", counts(3, 1, 1, 1))
    );
    grpc(&load, 0, &HeaderMap::new());
    let window = reader.take(start + Duration::from_secs(4));
    assert_eq!(
        (window.span, only(&window)),
        (Duration::from_secs(1), counts(1, 1, 0, 1))
    );
    assert_eq!(only(&reader.take(start)), counts(0, 0, 0, 1), "still in progress");
    drop(open);
    assert_eq!(
        only(&reader.take(start)),
        counts(0, 0, 1, 0),
        "a call without an answer"
    );
    assert_eq!(
        only(&reader.take(start)),
        Counts::default(),
        "told once that it is quiet"
    );
    assert_eq!(reader.take(start).clusters, []);
}

#[test]
fn readers_do_not_take_from_one_another() {
    let (loads, now) = (Loads::default(), moment());
    let (first, second) = (loads.reader(now), loads.reader(now));
    let load = loads.load(&cluster(), &asking_for(&[]), &zone("a"));
    grpc(&load, 0, &HeaderMap::new());
    assert_eq!(only(&first.take(now)), counts(1, 1, 0, 0));
    grpc(&load, 0, &HeaderMap::new());
    assert_eq!(only(&second.take(now)), counts(2, 2, 0, 0));
    assert_eq!(only(&first.take(now)), counts(1, 1, 0, 0));
}

#[test]
fn a_reader_is_told_of_its_clusters_alone_and_holds_up_no_other() {
    let (loads, now) = (Loads::default(), moment());
    let reader = |name: &'static str| loads.reader_of(now, move |cluster| cluster.as_str() == name);
    let (of_a, of_b) = (reader("a"), reader("b"));
    let load = loads.load(&"a".into(), &asking_for(&[]), &zone("z"));
    grpc(&load, 0, &HeaderMap::new());
    assert!(!of_a.is_idle() && of_b.is_idle());
    assert_eq!(of_b.take(now).clusters, []);
    assert_eq!(only(&of_a.take(now)), counts(1, 1, 0, 0));
    drop(load);
    of_a.take(now);
    assert!(loads.is_empty(), "the other reader has nothing to see");
}

#[test]
fn what_counts_as_success() {
    type End = fn(&mut Counted);
    const NONE: fn() -> HeaderMap = HeaderMap::new;
    let cases: [(&str, bool, End, bool); 12] = [
        (
            "gRPC, OK in trailers",
            true,
            |call| {
                call.saw_headers(StatusCode::OK, None, &NONE());
                call.saw_trailers(Some(0), &NONE());
            },
            true,
        ),
        (
            "gRPC, not found",
            true,
            |call| {
                call.saw_headers(StatusCode::OK, None, &NONE());
                call.saw_trailers(Some(5), &NONE());
            },
            false,
        ),
        (
            "gRPC, trailers only, OK",
            true,
            |call| call.saw_headers(StatusCode::OK, Some(0), &NONE()),
            true,
        ),
        (
            "gRPC, trailers only, unavailable",
            true,
            |call| {
                call.saw_headers(StatusCode::OK, Some(14), &NONE());
            },
            false,
        ),
        (
            "gRPC, no status at all",
            true,
            |call| {
                call.saw_headers(StatusCode::OK, None, &NONE());
                call.saw_trailers(None, &NONE());
            },
            false,
        ),
        (
            "gRPC, broken after OK",
            true,
            |call| {
                call.saw_headers(StatusCode::OK, Some(0), &NONE());
                call.failed();
            },
            false,
        ),
        (
            "HTTP, 200",
            false,
            |call| call.saw_headers(StatusCode::OK, None, &NONE()),
            true,
        ),
        (
            "HTTP, 404",
            false,
            |call| call.saw_headers(StatusCode::NOT_FOUND, None, &NONE()),
            true,
        ),
        (
            "HTTP, 503",
            false,
            |call| {
                call.saw_headers(StatusCode::SERVICE_UNAVAILABLE, None, &NONE());
                call.saw_trailers(None, &NONE());
            },
            false,
        ),
        (
            "HTTP, trailers",
            false,
            |call| {
                call.saw_headers(StatusCode::OK, None, &NONE());
                call.saw_trailers(None, &NONE());
            },
            true,
        ),
        (
            "HTTP, broken off",
            false,
            |call| {
                call.saw_headers(StatusCode::OK, None, &NONE());
                call.failed();
            },
            false,
        ),
        ("no answer", false, |_| {}, false),
    ];
    for (what, grpc, end, good) in cases {
        let (loads, now) = (Loads::default(), moment());
        let reader = loads.reader(now);
        let mut call = Counted::begin(loads.load(&cluster(), &asking_for(&[]), &zone("a")), grpc);
        end(&mut call);
        drop(call);
        let expected = if good { counts(1, 1, 0, 0) } else { counts(1, 0, 1, 0) };
        assert_eq!(only(&reader.take(now)), expected, "{what}");
    }
}

#[test]
fn figures_are_summed_by_name_and_only_those_that_are_asked_for() {
    let (loads, now) = (Loads::default(), moment());
    let reader = loads.reader(now);
    let reporting = asking_for(&["cpu_utilization", "named_metrics.queue"]);
    let load = loads.load(&cluster(), &reporting, &zone("a"));
    grpc(
        &load,
        0,
        &report("cpu_utilization=0.5,named_metrics.queue=3,named_metrics.other=9"),
    );
    grpc(&load, 0, &report("mem_utilization=0.5,named_metrics.queue=1"));
    let figures = |window: Window| window.clusters[0].localities[0].figures.clone();
    let cpu = Figure { calls: 1, sum: 0.5 };
    let expected = |queue| [("cpu_utilization".into(), cpu), ("named_metrics.queue".into(), queue)];
    assert_eq!(
        figures(reader.take(now)),
        expected(Figure { calls: 2, sum: 4.0 }).into()
    );
    grpc(&load, 0, &report("named_metrics.queue=2"));
    let [_, queue] = expected(Figure { calls: 1, sum: 2.0 });
    assert_eq!(figures(reader.take(now)), [queue].into());
    // The same place under another selection is one place to who reads.
    let all = loads.load(&cluster(), &asking_for(&["named_metrics.*"]), &zone("a"));
    grpc(&all, 0, &report("named_metrics.queue=5"));
    grpc(&load, 0, &report("named_metrics.queue=7"));
    let window = reader.take(now);
    assert_eq!(only(&window), counts(2, 2, 0, 0));
    let [_, queue] = expected(Figure { calls: 2, sum: 12.0 });
    assert_eq!(figures(window), [queue].into());
}

#[test]
fn an_endpoint_reports_once_per_call_and_cannot_fill_the_memory() {
    let (loads, now) = (Loads::default(), moment());
    let reader = loads.reader(now);
    let load = loads.load(&cluster(), &asking_for(&["named_metrics.*"]), &zone("a"));
    let mut call = Counted::begin(Arc::clone(&load), true);
    call.saw_headers(StatusCode::OK, None, &report("named_metrics.a=1"));
    call.saw_trailers(Some(0), &report("named_metrics.a=1"));
    drop(call);
    for n in 0..1_000 {
        grpc(&load, 0, &report(&format!("named_metrics.x{n}=1")));
    }
    grpc(
        &load,
        0,
        &report(&format!("named_metrics.{}=1,named_metrics.a=1e300", "y".repeat(500))),
    );
    let figures = reader.take(now).clusters[0].localities[0].figures.clone();
    assert_eq!(figures.len(), 64);
    assert_eq!(figures["named_metrics.a"], Figure { calls: 1, sum: 1.0 });
}

#[test]
fn drops_are_counted_by_category() {
    let (loads, now) = (Loads::default(), moment());
    let reader = loads.reader(now);
    let drops = loads.drops(&cluster(), &asking_for(&[]));
    drops.count("lb");
    drops.count("lb");
    drops.count("throttle");
    drops.count_uncategorised();
    let window = reader.take(now);
    let told = &window.clusters[0];
    assert_eq!(told.drops, [("lb".into(), 2), ("throttle".into(), 1)].into());
    assert_eq!((told.uncategorised_drops, told.dropped()), (1, 4));
    drops.count("throttle");
    assert_eq!(reader.take(now).clusters[0].drops, [("throttle".into(), 1)].into());
    for n in 0..100 {
        drops.count(&format!("category-{n}"));
    }
    let told = &reader.take(now).clusters[0];
    assert_eq!(
        (told.dropped(), told.drops.len() + told.uncategorised_drops as usize),
        (100, 100)
    );
    assert!(told.uncategorised_drops > 0);
}

#[test]
fn an_entry_goes_when_nobody_counts_in_it_and_every_reader_has_seen_it() {
    let (loads, now) = (Loads::default(), moment());
    let (first, second) = (loads.reader(now), loads.reader(now));
    let load = loads.load(&cluster(), &asking_for(&[]), &zone("a"));
    grpc(&load, 0, &HeaderMap::new());
    drop(load);
    assert_eq!(only(&first.take(now)), counts(1, 1, 0, 0));
    assert_eq!(
        only(&second.take(now)),
        counts(1, 1, 0, 0),
        "the second had not seen it"
    );
    for reader in [&first, &second] {
        assert!(reader.take(now).clusters[0].is_quiet());
    }
    assert!(loads.is_empty());
}

#[test]
fn churn_leaves_nothing_behind_whether_there_is_a_reader_or_not() {
    let (loads, now) = (Loads::default(), moment());
    for n in 0..1_000 {
        loads.load(&cluster(), &asking_for(&[]), &zone(&n.to_string()));
    }
    assert!(loads.entries() <= 2 * 64, "{}", loads.entries());
    // A reader that never looks, and a new cluster with each change.
    let reader = loads.reader(now);
    for n in 0..20_000 {
        let load = loads.load(&format!("c{n}").as_str().into(), &asking_for(&[]), &zone("a"));
        grpc(&load, 0, &HeaderMap::new());
    }
    assert!(loads.entries() <= 4 * 4096, "{}", loads.entries());
    assert!(reader.take(now).clusters.len() >= 2048);
    reader.take(now);
    assert!(loads.is_empty());
}

#[test]
fn who_waits_for_something_to_be_counted_is_told() {
    let loads = Loads::default();
    let told = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let bell = Arc::clone(&told);
    let _subscription = loads.on_change(move || {
        bell.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(loads.is_empty());
    let _load = loads.load(&cluster(), &asking_for(&[]), &zone("a"));
    assert!(!loads.is_empty());
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// What calls of a cluster came to is told to who asks, in windows like all else, and by nobody but the caller.
#[test]
fn calls_are_told_in_windows_to_who_asks() {
    let (loads, now) = (Loads::default(), moment());
    let reporting = LoadReporting::of("eds").with_calls();
    assert!(reporting.asks_for_calls() && !LoadReporting::of("eds").asks_for_calls());
    assert!(
        !asking_for(&["named_metrics.*"]).asks_for_calls(),
        "all of the endpoints' is not ours"
    );
    let (first, second) = (loads.reader(now), loads.reader(now));
    let calls = loads.calls(&cluster(), &reporting);
    let told = |reader: &LoadReader| {
        let mut report = CallReport::default();
        for locality in reader.take(now).clusters.iter().flat_map(|cluster| &cluster.localities) {
            report.add(&locality.figures);
        }
        (report.calls(), report.failures(), report.secured)
    };
    let end = standard::End::grpc;
    calls.count(end(0), Duration::from_millis(2), true);
    assert_eq!(told(&first), (0, 0, 0), "nobody asked yet");
    calls.ask(true);
    calls.count(end(14), Duration::from_millis(2), false);
    assert_eq!(told(&first), (2, 1, 1));
    assert_eq!(told(&first), (0, 0, 0));
    calls.count(end(0), Duration::from_millis(2), true);
    assert_eq!((told(&first), told(&second)), ((1, 0, 1), (3, 1, 2)));
    // What was told is not told again when somebody asks anew.
    calls.ask(false);
    calls.count(end(0), Duration::from_millis(2), true);
    assert_eq!(told(&first), (0, 0, 0));
    calls.ask(true);
    assert_eq!(told(&first), (1, 0, 1));
    // An endpoint that reports such a name is not listened to, and what it reports besides is not asked for.
    let load = loads.load(&cluster(), &asking_for(&["named_metrics.*"]), &zone("a"));
    grpc(
        &load,
        0,
        &report("named_metrics.mesh.calls.secured=7,named_metrics.q=1"),
    );
    let window = first.take(now);
    let figures: Vec<_> = window.clusters[0]
        .localities
        .iter()
        .flat_map(|one| one.figures.keys())
        .collect();
    assert_eq!(figures, [&Box::<str>::from("named_metrics.q")]);
    drop((load, second));
    // Its last numbers are told, and then it is gone.
    calls.count(end(0), Duration::from_millis(2), true);
    drop(calls);
    assert_eq!(told(&first), (1, 0, 1));
    first.take(now);
    assert!(first.is_idle() && loads.is_empty());
}

#[test]
fn sums_are_exact_whoever_counts_while_others_read() {
    const THREADS: u64 = 4;
    const CALLS: u64 = 5_000;
    let (loads, now) = (Loads::default(), moment());
    let reporting = asking_for(&["named_metrics.*"]);
    let read = |reader: &LoadReader, sum: &mut (Counts, Figure, u64)| {
        for cluster in reader.take(now).clusters {
            sum.2 += cluster.dropped();
            for locality in cluster.localities {
                sum.0.add(&locality.counts);
                assert!(locality.counts.in_progress <= THREADS);
                for figure in locality.figures.values() {
                    sum.1.add(figure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let counting: Vec<_> = (0..THREADS)
            .map(|_| {
                let (loads, reporting) = (loads.clone(), &reporting);
                scope.spawn(move || {
                    for n in 0..CALLS {
                        let load = loads.load(&cluster(), reporting, &zone("a"));
                        grpc(&load, u8::from(n % 10 == 0), &report("named_metrics.q=1"));
                        loads.drops(&cluster(), reporting).count("lb");
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2).map(|_| loads.reader(now)).collect();
        let mut sums = vec![(Counts::default(), Figure::default(), 0); 2];
        while counting.iter().any(|thread| !thread.is_finished()) {
            for (reader, sum) in readers.iter().zip(&mut sums) {
                read(reader, sum);
            }
        }
        for (reader, sum) in readers.iter().zip(&mut sums) {
            read(reader, sum);
            let all = THREADS * CALLS;
            assert_eq!(sum.0, counts(all, all * 9 / 10, all / 10, 0));
            let figure = Figure {
                calls: all,
                sum: all as f64,
            };
            assert_eq!((sum.1, sum.2), (figure, all));
        }
    });
}
