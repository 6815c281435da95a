//! What a client of the incremental variant is sent.

use super::*;
use crate::server::delta::DeltaState;
use crate::wire::{DeltaRequest, DeltaResponse, MAX_REFUSAL_BYTES};

/// A client that speaks when it is told to.
struct Client {
    state: DeltaState,
}

impl Client {
    fn new() -> Self {
        Self {
            state: DeltaState::new(Dialect::Grpc),
        }
    }

    fn says(&mut self, kind: ResourceKind, request: DeltaRequest) {
        self.state
            .on_request(DeltaRequest {
                type_url: kind.type_url().into(),
                ..request
            })
            .unwrap();
    }

    fn asks(&mut self, kind: ResourceKind, subscribe: &[&str]) {
        let subscribe = names(subscribe);
        self.says(
            kind,
            DeltaRequest {
                subscribe,
                ..DeltaRequest::default()
            },
        );
    }

    fn drops(&mut self, kind: ResourceKind, unsubscribe: &[&str]) {
        let unsubscribe = names(unsubscribe);
        self.says(
            kind,
            DeltaRequest {
                unsubscribe,
                ..DeltaRequest::default()
            },
        );
    }

    fn answers(&mut self, response: &DeltaResponse, error: Option<&str>) {
        let request = DeltaRequest {
            nonce: response.nonce.clone(),
            error: error.map(String::from),
            ..DeltaRequest::default()
        };
        self.says(response.kind().unwrap(), request);
    }

    /// The next response, accepted.
    #[track_caller]
    fn takes(&mut self, published: &Encoded) -> DeltaResponse {
        let response = self.hears(published);
        self.answers(&response, None);
        response
    }

    #[track_caller]
    fn hears(&mut self, published: &Encoded) -> DeltaResponse {
        self.state
            .next_response(&published.view(Dialect::Grpc), Instant::now())
            .expect("there is something to send")
    }

    #[track_caller]
    fn hears_nothing(&mut self, published: &Encoded) {
        let response = self.state.next_response(&published.view(Dialect::Grpc), Instant::now());
        assert!(response.is_none(), "{response:?}");
    }

    fn said(&self, kind: ResourceKind) -> Acknowledged {
        let report = self.state.report();
        let one = report.iter().find(|subscription| subscription.kind == kind).unwrap();
        one.acknowledged.clone()
    }

    /// The versions that it was brought to, and accepted, last.
    fn versions(&self, kind: ResourceKind) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let report = self.state.report();
        let one = report.iter().find(|subscription| subscription.kind == kind).unwrap();
        (one.sent.clone(), one.accepted.clone())
    }
}

fn names(list: &[&str]) -> Vec<Arc<str>> {
    list.iter().map(|name| Arc::from(*name)).collect()
}

/// Which names a response brings, and which it takes away.
fn told(response: &DeltaResponse) -> (Vec<&str>, Vec<&str>) {
    let brought = response.resources.iter().map(|one| &*one.name).collect();
    (brought, response.removed.iter().map(|name| &**name).collect())
}

#[test]
fn only_what_changed_is_sent_and_only_of_types_that_were_asked_for() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new();
    client.hears_nothing(&one);
    client.asks(EDS, &["c", "d"]);
    assert_eq!(told(&client.takes(&one)), (vec!["c", "d"], vec![]));
    client.hears_nothing(&one);
    // Two publishes later the client is told of the last.
    let two = encoded(&snapshot("c", &[("c", 1), ("d", 3)]), Some(&one), 2);
    let three = encoded(&snapshot("c", &[("c", 1), ("d", 4)]), Some(&two), 3);
    let response = client.takes(&three);
    assert_eq!(told(&response), (vec!["d"], vec![]));
    assert_eq!(
        response.resources[0].version,
        three.view(Dialect::Grpc).of(EDS).versions["d"]
    );
    client.hears_nothing(&three);
    let unknown = DeltaRequest {
        type_url: "type.googleapis.com/x.Y".into(),
        subscribe: names(&["c"]),
        ..DeltaRequest::default()
    };
    client.state.on_request(unknown).unwrap();
    client.hears_nothing(&three);
}

#[test]
fn what_was_accepted_last_is_known_while_what_came_after_is_refused_in_part() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 1)]), None, 1);
    let two = encoded(&snapshot("c", &[("c", 2), ("d", 2)]), Some(&one), 2);
    // What is refused stays as it is.
    let three = encoded(&snapshot("c", &[("c", 3), ("d", 2)]), Some(&two), 3);
    let four = encoded(&snapshot("c", &[("c", 3), ("d", 4)]), Some(&three), 4);
    let version = |published: &Encoded| Some(Arc::clone(&published.view(Dialect::Grpc).of(EDS).version));
    let mut client = Client::new();
    client.asks(EDS, &["c", "d"]);
    let first = client.hears(&one);
    assert_eq!(client.versions(EDS), (version(&one), None));
    client.answers(&first, None);
    assert_eq!(client.versions(EDS), (version(&one), version(&one)));
    let second = client.hears(&two);
    assert_eq!(client.versions(EDS), (version(&two), version(&one)));
    client.answers(&second, Some("endpoints \"d\": bad"));
    assert_eq!(client.versions(EDS), (version(&two), version(&one)));
    client.takes(&three);
    assert!(matches!(client.said(EDS), Acknowledged::Refused(_)));
    assert_eq!(client.versions(EDS), (version(&three), version(&one)));
    client.takes(&four);
    assert_eq!(client.versions(EDS), (version(&four), version(&four)));
}

#[test]
fn a_name_that_is_not_there_is_said_to_be_removed_once_and_sent_when_it_comes() {
    let one = encoded(&snapshot("c", &[("c", 1)]), None, 1);
    for kind in [CDS, EDS] {
        let mut client = Client::new();
        client.asks(kind, &["c", "d"]);
        assert_eq!(told(&client.takes(&one)), (vec!["c"], vec!["d"]));
        client.hears_nothing(&one);
        let two = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), Some(&one), 2);
        assert_eq!(told(&client.takes(&two)), (vec!["d"], vec![]));
        assert_eq!(told(&client.takes(&one)), (vec![], vec!["d"]));
        client.hears_nothing(&one);
    }
}

#[test]
fn a_wildcard_is_an_empty_first_subscription_or_a_star_until_it_is_unsubscribed() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let more = encoded(&snapshot("c", &[("c", 1), ("d", 2), ("e", 3)]), Some(&one), 2);
    let without = encoded(&snapshot("c", &[("c", 9)]), Some(&one), 3);
    for first in [&[][..], &["*"][..]] {
        let mut client = Client::new();
        client.asks(CDS, first);
        assert_eq!(told(&client.takes(&one)), (vec!["c", "d"], vec![]));
        client.asks(CDS, &[]);
        client.hears_nothing(&one);
        assert_eq!(told(&client.takes(&more)), (vec!["e"], vec![]));
        assert_eq!(told(&client.takes(&without)), (vec![], vec!["d", "e"]));
        client.hears_nothing(&without);
        client.asks(CDS, &["c"]);
        assert_eq!(told(&client.takes(&without)), (vec!["c"], vec![]));
        client.drops(CDS, &["*"]);
        client.hears_nothing(&more);
        client.drops(CDS, &["c"]);
        client.hears_nothing(&one);
    }
    // Routes and endpoints cannot be asked for so; a wildcard without anything is still answered.
    let mut client = Client::new();
    client.asks(EDS, &["*"]);
    client.hears_nothing(&one);
    client.asks(CDS, &["*"]);
    let nothing = encoded(&Snapshot::builder().build().unwrap(), None, 1);
    assert_eq!(told(&client.takes(&nothing)), (vec![], vec![]));
    client.hears_nothing(&nothing);
}

#[test]
fn after_a_lost_stream_nothing_that_is_held_is_sent_again() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2), ("e", 3)]), None, 1);
    let view = one.view(Dialect::Grpc);
    let versions = &view.of(EDS).versions;
    let held: Vec<_> = ["c", "d", "e"]
        .map(|name| (Arc::from(name), Arc::clone(&versions[name])))
        .into();
    let resumes = || {
        let mut client = Client::new();
        let request = DeltaRequest {
            subscribe: names(&["c", "d", "e"]),
            held: held.clone(),
            ..DeltaRequest::default()
        };
        client.says(EDS, request);
        client
    };
    // The control plane may be another one: versions are of the content.
    let same = encoded(&snapshot("c", &[("c", 1), ("d", 2), ("e", 3)]), None, 7);
    let mut client = resumes();
    client.hears_nothing(&same);
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
    let other = encoded(&snapshot("c", &[("c", 1), ("d", 20)]), None, 7);
    assert_eq!(told(&resumes().takes(&other)), (vec!["d"], vec!["e"]));
}

#[test]
fn a_refused_resource_is_not_sent_again_as_it_was_and_its_next_version_is() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new();
    client.asks(EDS, &["c", "d"]);
    client.takes(&one);
    let bad = encoded(&snapshot("c", &[("c", 10), ("d", 20)]), Some(&one), 2);
    let response = client.hears(&bad);
    client.answers(
        &response,
        Some("node \"n\" refused 1 of the resources: endpoints \"d\": lb_endpoints[0]: no"),
    );
    assert!(matches!(client.said(EDS), Acknowledged::Refused(why) if why.contains("lb_endpoints")));
    client.hears_nothing(&bad);
    // What was in use before the refusal is a change to the client, as is any other version.
    let back = encoded(&snapshot("c", &[("c", 10), ("d", 2)]), Some(&bad), 3);
    assert_eq!(told(&client.hears(&back)), (vec!["d"], vec![]));
    client.hears_nothing(&back);
    // The refusal stands until that is accepted, and an answer to something else does not lift it.
    let response = client.hears(&bad);
    client.answers(&response, Some("resource \"d\": is bad"));
    let other = encoded(&snapshot("c", &[("c", 11), ("d", 20)]), Some(&bad), 4);
    assert_eq!(told(&client.takes(&other)), (vec!["c"], vec![]));
    assert!(matches!(client.said(EDS), Acknowledged::Refused(_)));
    let good = encoded(&snapshot("c", &[("c", 11), ("d", 21)]), Some(&other), 5);
    assert_eq!(told(&client.takes(&good)), (vec!["d"], vec![]));
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
}

#[test]
fn a_refusal_that_names_nothing_is_of_the_whole_response_and_asking_again_is_answered() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let mut client = Client::new();
    client.asks(EDS, &["c", "d"]);
    let response = client.hears(&one);
    client.answers(&response, Some("NO"));
    client.hears_nothing(&one);
    client.asks(EDS, &["d"]);
    assert_eq!(told(&client.takes(&one)), (vec!["d"], vec![]));
    assert_eq!(
        client.said(EDS),
        Acknowledged::Refused("NO".into()),
        "c is refused still"
    );
}

#[test]
fn an_answer_is_about_its_response_however_late_and_a_change_of_names_counts_with_any_nonce() {
    let one = encoded(&snapshot("c", &[("c", 1), ("d", 2)]), None, 1);
    let two = encoded(&snapshot("c", &[("c", 1), ("d", 3)]), Some(&one), 2);
    let mut client = Client::new();
    client.asks(EDS, &["c", "d"]);
    let (first, second) = (client.hears(&one), client.hears(&two));
    client.answers(&first, None);
    assert_eq!(client.said(EDS), Acknowledged::Waiting);
    client.answers(&second, None);
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
    client.answers(&first, Some("resource \"d\": is bad"));
    assert_eq!(client.said(EDS), Acknowledged::Accepted, "d is not what it was then");
    // A refusal of what was dropped meanwhile says nothing about what came with it.
    let three = encoded(&snapshot("c", &[("c", 5), ("d", 5)]), Some(&two), 3);
    let third = client.hears(&three);
    client.drops(EDS, &["d"]);
    client.answers(&third, Some("resource \"d\": is bad"));
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
    client.asks(EDS, &["d"]);
    client.takes(&one);
    let request = DeltaRequest {
        nonce: "4711".into(),
        unsubscribe: names(&["d"]),
        ..DeltaRequest::default()
    };
    client.says(EDS, request);
    client.hears_nothing(&one);
}

#[test]
fn clusters_and_their_endpoints_come_before_the_routes_that_need_them_and_go_after() {
    let old = encoded(&snapshot("a", &[("a", 1)]), None, 1);
    let mut client = Client::new();
    for (kind, name) in [(LDS, "t"), (RDS, "t"), (CDS, "*"), (EDS, "a")] {
        client.asks(kind, &[name]);
        client.takes(&old);
    }
    client.hears_nothing(&old);
    let new = encoded(&snapshot("b", &[("b", 2)]), Some(&old), 2);
    let clusters = client.takes(&new);
    assert_eq!((clusters.kind(), told(&clusters)), (Some(CDS), (vec!["b"], vec![])));
    // Nobody calls b before it has its endpoints.
    client.hears_nothing(&new);
    client.asks(EDS, &["b"]);
    let endpoints = client.hears(&new);
    assert_eq!((endpoints.kind(), told(&endpoints)), (Some(EDS), (vec!["b"], vec![])));
    client.hears_nothing(&new);
    client.answers(&endpoints, None);
    let routes = client.hears(&new);
    assert_eq!(routes.kind(), Some(RDS));
    client.hears_nothing(&new);
    client.answers(&routes, None);
    let gone = client.takes(&new);
    assert_eq!((gone.kind(), told(&gone)), (Some(CDS), (vec![], vec!["a"])));
    let gone = client.takes(&new);
    assert_eq!((gone.kind(), told(&gone)), (Some(EDS), (vec![], vec!["a"])));
    client.hears_nothing(&new);
}

#[test]
fn a_client_that_does_not_answer_is_told_the_newest_all_the_same() {
    let mut published = encoded(&snapshot("c", &[("c", 1)]), None, 1);
    let mut client = Client::new();
    client.asks(EDS, &["c"]);
    let first = client.hears(&published);
    for port in 2..100 {
        published = encoded(&snapshot("c", &[("c", port)]), Some(&published), u64::from(port));
        client.hears(&published);
    }
    // What it says to the first is of no use by now, and forgotten.
    client.answers(&first, Some("resource \"c\": is bad"));
    assert_eq!(client.said(EDS), Acknowledged::Waiting);
    published = encoded(&snapshot("c", &[("c", 100)]), Some(&published), 100);
    client.takes(&published);
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
}

#[test]
fn a_refusal_of_a_name_is_none_of_the_names_that_begin_with_it_or_it_with_them() {
    let ports = |pay, v2| snapshot("pay", &[("pay", pay), ("pay-v2", v2)]);
    let one = encoded(&ports(1, 1), None, 1);
    let mut client = Client::new();
    client.asks(EDS, &["pay", "pay-v2"]);
    let response = client.hears(&one);
    client.answers(
        &response,
        Some("node \"n\" refused 1 of the resources: endpoints \"pay-v2\": is bad"),
    );
    let two = encoded(&ports(1, 2), Some(&one), 2);
    assert_eq!(told(&client.takes(&two)), (vec!["pay-v2"], vec![]));
    assert_eq!(client.said(EDS), Acknowledged::Accepted);
}

#[test]
fn what_a_cut_refusal_does_not_name_is_unknown_and_sent_once_more_with_the_next_change() {
    let ports = |c| snapshot("c", &[("c", c), ("d", 2), ("e", 3)]);
    let one = encoded(&ports(1), None, 1);
    let mut client = Client::new();
    client.asks(EDS, &["c", "d", "e"]);
    let response = client.hears(&one);
    let cut = |name: &str| format!("node \"n\" refused 2 of the resources: endpoints \"{name}\": is bad; ...");
    client.answers(&response, Some(&cut("c")));
    client.hears_nothing(&one);
    let two = encoded(&ports(2), Some(&one), 2);
    let response = client.hears(&two);
    assert_eq!(told(&response), (vec!["c", "d", "e"], vec![]));
    // Now it says which was the other.
    let why = "node \"n\" refused 1 of the resources: endpoints \"d\": is bad";
    client.answers(&response, Some(why));
    assert_eq!(client.said(EDS), Acknowledged::Refused(why.into()));
    client.hears_nothing(&two);
    // Nor is anything accepted because something else is.
    let mut client = Client::new();
    client.asks(EDS, &["c", "d", "e"]);
    let response = client.hears(&one);
    client.answers(&response, Some(&cut("c")));
    client.drops(EDS, &["c"]);
    assert_eq!(client.said(EDS), Acknowledged::Waiting);
    client.hears_nothing(&one);
}

/// A megabyte and more of text with the beginnings of ten thousand names in it, from a client that means harm.
#[test]
fn a_refusal_costs_what_the_shortest_costs_however_long_it_is() {
    let long = "outbound|80|v1|service-".repeat(650_000);
    let (sotw, delta) = crate::wire::long_refusals(&long);
    for error in [sotw, delta] {
        let error = error.unwrap();
        assert!(
            error.len() <= MAX_REFUSAL_BYTES && error.ends_with("..."),
            "{}",
            error.len()
        );
        let clusters: Vec<(String, u16)> = (0..1_000)
            .map(|n| (format!("outbound|80|v1|service-{n:05}"), 1))
            .collect();
        let clusters: Vec<(&str, u16)> = clusters.iter().map(|(name, port)| (&**name, *port)).collect();
        let published = encoded(&snapshot(clusters[0].0, &clusters), None, 1);
        let mut client = Client::new();
        client.asks(CDS, &["*"]);
        let response = client.hears(&published);
        client.answers(&response, Some(&error));
        assert!(matches!(client.said(CDS), Acknowledged::Refused(why) if why.len() <= MAX_REFUSAL_BYTES));
    }
    // Not in the middle of a character.
    for shift in 0..4 {
        let text = "x".repeat(shift) + &"\u{1f600}".repeat(10_000);
        assert!(crate::wire::long_refusals(&text).0.unwrap().len() > MAX_REFUSAL_BYTES - 10);
    }
}
