//! Clusters that are no more, at a client that asks for them by name: both variants, on a clock of the tests.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::server::delta::DeltaState;
use crate::server::encoded::View;
use crate::server::release::RELEASE_LIMIT;
use crate::wire::DeltaRequest;

/// What a client says and is told, in either variant.
trait Spoken: Machine {
    fn say(&mut self, kind: ResourceKind, nonce: &str, names: &[&str], drops: &[&str], error: Option<&str>);

    /// The clusters that the next response takes away, its kind and its nonce. `had` is what the client has.
    fn hear(&mut self, view: &View, had: &[&str], now: Instant) -> Option<(ResourceKind, String, Vec<String>)>;
}

impl Spoken for StreamState {
    fn say(&mut self, kind: ResourceKind, nonce: &str, names: &[&str], _: &[&str], error: Option<&str>) {
        let mut request = request(kind, nonce, names);
        request.error = error.map(String::from);
        self.on_request(request).unwrap();
    }

    fn hear(&mut self, view: &View, had: &[&str], now: Instant) -> Option<(ResourceKind, String, Vec<String>)> {
        let response = self.next_response(view, now)?;
        let kind = response.kind().unwrap();
        let name = |raw| {
            decode::<ClusterSpec>(raw, &Context::default())
                .unwrap()
                .name
                .to_string()
        };
        let gone = match kind {
            CDS => {
                let told: Vec<String> = response.resources.iter().map(name).collect();
                let gone = had.iter().filter(|name| !told.iter().any(|told| told == **name));
                gone.map(ToString::to_string).collect()
            }
            _ => response.errors.into_iter().map(|error| error.name).collect(),
        };
        Some((kind, response.nonce, gone))
    }
}

impl Spoken for DeltaState {
    fn say(&mut self, kind: ResourceKind, nonce: &str, names: &[&str], drops: &[&str], error: Option<&str>) {
        let list = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        self.on_request(DeltaRequest {
            type_url: kind.type_url().into(),
            nonce: nonce.into(),
            // What is asked for already is not said again.
            subscribe: if nonce.is_empty() { list(names) } else { Vec::new() },
            unsubscribe: list(drops),
            error: error.map(String::from),
            ..DeltaRequest::default()
        })
        .unwrap();
    }

    fn hear(&mut self, view: &View, _: &[&str], now: Instant) -> Option<(ResourceKind, String, Vec<String>)> {
        let response = self.next_response(view, now)?;
        let gone = response.removed.iter().map(ToString::to_string).collect();
        Some((response.kind().unwrap(), response.nonce, gone))
    }
}

/// A client that has target `t`, its route to `a`, and clusters `a` and `z`, to which nothing leads.
struct Settled<M> {
    server: M,
    one: Encoded,
    start: Instant,
    /// The nonces of the newest responses.
    newest: BTreeMap<ResourceKind, String>,
}

const HAD: [&str; 2] = ["a", "z"];

impl<M: Spoken> Settled<M> {
    fn new() -> Self {
        let one = encoded(&snapshot("a", &[("a", 1), ("z", 2)]), None, 1);
        let (mut server, start, mut newest) = (M::new(Dialect::Mesh), Instant::now(), BTreeMap::new());
        for (kind, names) in [(LDS, &["t"][..]), (RDS, &["t"]), (CDS, &HAD), (EDS, &HAD)] {
            server.say(kind, "", names, &[], None);
            let (told, nonce, _) = server.hear(&one.view(Dialect::Mesh), &[], start).unwrap();
            assert_eq!(told, kind);
            server.say(kind, &nonce, names, &[], None);
            newest.insert(kind, nonce);
        }
        assert!(server.hear(&one.view(Dialect::Mesh), &HAD, start).is_none());
        Self {
            server,
            one,
            start,
            newest,
        }
    }

    /// All that is told of `published` at this time, and answered; with this error if it is about routes.
    fn hears(&mut self, published: &Encoded, after: Duration, error: Option<&str>) -> Vec<(ResourceKind, Vec<String>)> {
        let mut all = Vec::new();
        let at = self.start + after;
        while let Some((kind, nonce, gone)) = self.server.hear(&published.view(Dialect::Mesh), &HAD, at) {
            let names = if matches!(kind, LDS | RDS) { &["t"][..] } else { &HAD };
            self.server.say(kind, &nonce, names, &[], error.filter(|_| kind == RDS));
            self.newest.insert(kind, nonce);
            all.push((kind, gone));
        }
        all
    }
}

/// A route to `b`, and neither `a` nor `z`.
fn moved<M: Spoken>() -> (Settled<M>, Encoded) {
    let settled = Settled::new();
    let two = encoded(&snapshot("b", &[("b", 3)]), Some(&settled.one), 2);
    (settled, two)
}

fn told(kind: ResourceKind, names: &[&str]) -> (ResourceKind, Vec<String>) {
    (kind, names.iter().map(ToString::to_string).collect())
}

fn both_go_as_they_may<M: Spoken>() {
    let (mut client, two) = moved::<M>();
    let said = client.hears(&two, Duration::ZERO, None);
    assert_eq!(
        said,
        [told(CDS, &["z"]), told(EDS, &["z"]), told(RDS, &[])],
        "no route leads to z"
    );
    let limit = client.start + RELEASE_LIMIT;
    assert_eq!(client.server.wakes(), Some(limit));
    assert_eq!(client.hears(&two, RELEASE_LIMIT - Duration::from_millis(1), None), []);
    let said = client.hears(&two, RELEASE_LIMIT, None);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().all(|(_, gone)| gone.contains(&"a".to_owned())), "{said:?}");
    assert_eq!(client.server.wakes(), None);
    let overdue = [client.server.take_overdue(), client.server.take_overdue()];
    assert_eq!(overdue.map(|overdue| overdue.missed), [1, 0]);
}

#[test]
fn a_cluster_stays_for_who_asks_for_it_after_the_routes_left_it_and_not_for_ever() {
    both_go_as_they_may::<StreamState>();
    both_go_as_they_may::<DeltaState>();
}

fn is_let_go_of<M: Spoken>() {
    let (mut client, two) = moved::<M>();
    client.hears(&two, Duration::ZERO, None);
    for kind in [EDS, CDS] {
        let nonce = client.newest[&kind].clone();
        client.server.say(kind, &nonce, &["z"], &["a"], None);
    }
    assert_eq!(
        client.hears(&two, Duration::ZERO, None),
        [],
        "what is not asked for is not told of"
    );
    assert_eq!(client.server.wakes(), None);
}

#[test]
fn who_lets_go_of_a_cluster_is_told_nothing_more_of_it() {
    is_let_go_of::<StreamState>();
    is_let_go_of::<DeltaState>();
}

fn stays_while_refused<M: Spoken>() {
    let (mut client, two) = moved::<M>();
    client.hears(
        &two,
        Duration::ZERO,
        Some("node \"n\" refused 1 of the resources: route configuration \"t\": no"),
    );
    assert_eq!(
        client.hears(&two, 100 * RELEASE_LIMIT, None),
        [],
        "its routes lead to a"
    );
}

#[test]
fn a_cluster_stays_for_who_refused_the_routes_without_it() {
    stays_while_refused::<StreamState>();
    stays_while_refused::<DeltaState>();
}

fn is_deleted<M: Spoken>() {
    let mut client = Settled::<M>::new();
    let reason = Reason::new(ReasonKind::NoCluster, "no");
    let snapshot = Snapshot::builder()
        .route("t", Route::to(Split::all_to("a")))
        .resolved_cluster("a".into(), Err(reason))
        .build()
        .unwrap();
    let two = encoded(&snapshot, Some(&client.one), 2);
    let said = client.hears(&two, Duration::ZERO, None);
    assert_eq!(said, [told(CDS, &["a", "z"]), told(EDS, &["a", "z"])]);
}

#[test]
fn a_cluster_that_is_deleted_under_its_route_goes_at_once() {
    is_deleted::<StreamState>();
    is_deleted::<DeltaState>();
}
