//! Clusters that stand for others (gRFC A37).

use mesh_core::config::ReasonKind;
use proptest::prelude::*;

use super::assemble::{Mesh, kind_of};
use super::*;
use crate::decode::Context;
use crate::decode::tests::raw as raw_of;
use crate::decode::tests::{context, kinds, strategies};

/// Messages are merged by putting their bytes together: `policy` with 30 of a hundred dropped as "lb".
pub(super) const THIRTY_PERCENT: [u8; 12] = [0x22, 10, 0x12, 8, 0x0a, 2, b'l', b'b', 0x12, 2, 0x08, 30];

fn aggregate(name: &str, members: &[&str]) -> Raw {
    let mut cluster = kinds::aggregate(members);
    cluster.name = name.into();
    raw_of(&cluster)
}

/// A mesh whose target is routed to cluster `c`, of these clusters.
fn begin(clusters: &[Raw]) -> Mesh {
    let mut mesh = Mesh::new(&["t"]);
    mesh.hear(ResourceKind::Listener, vec![listener("t", "t")]);
    mesh.hear(ResourceKind::Route, vec![routes("t", "c")]);
    // What is asked for grows by one level with each response.
    for _ in 0..20 {
        mesh.hear(ResourceKind::Cluster, clusters.to_vec());
    }
    mesh
}

/// Priority and port of each endpoint, or what is wrong.
fn places(mesh: &Mesh) -> Result<Vec<(u32, u16)>, String> {
    let snapshot = mesh.published.as_ref().expect("something was published");
    match snapshot.cluster(&"c".into()).unwrap() {
        Ok(cluster) => Ok(cluster
            .endpoints
            .iter()
            .map(|one| (one.priority, one.address.port()))
            .collect()),
        Err(reason) => Err(format!("{:?}: {reason}", reason.kind())),
    }
}

#[test]
fn members_follow_one_another_and_count_where_they_came_first() {
    let mut mesh = begin(&[
        aggregate("c", &["x", "d", "x", "z"]),
        aggregate("d", &["y", "c", "z", "y"]),
        cluster("x"),
        cluster("y"),
        cluster("z"),
    ]);
    let told = [endpoints("x", &[1, 2]), endpoints("y", &[3]), endpoints("z", &[4])];
    mesh.hear(ResourceKind::Endpoints, told.to_vec());
    assert_eq!(places(&mesh).unwrap(), [(0, 1), (0, 2), (1, 3), (2, 4)]);
    // One without endpoints takes no place, and comes back to its own.
    mesh.hear(ResourceKind::Endpoints, vec![endpoints("x", &[])]);
    assert_eq!(places(&mesh).unwrap(), [(0, 3), (1, 4)]);
    mesh.hear(ResourceKind::Endpoints, vec![endpoints("x", &[5])]);
    assert_eq!(places(&mesh).unwrap(), [(0, 5), (1, 3), (2, 4)]);
}

#[test]
fn one_that_stands_for_itself_alone_stands_for_nothing() {
    let mesh = begin(&[aggregate("c", &["d"]), aggregate("d", &["c"])]);
    let why = places(&mesh).unwrap_err();
    assert!(
        why.contains("NoEndpoints") && why.contains("stands for no cluster"),
        "{why}"
    );
}

#[test]
fn a_member_that_is_not_there_is_left_out() {
    let mut mesh = begin(&[aggregate("c", &["gone", "x"]), cluster("x")]);
    mesh.hear(ResourceKind::Endpoints, vec![endpoints("x", &[1])]);
    mesh.time_out();
    assert_eq!(places(&mesh).unwrap(), [(0, 1)]);
}

/// `c` stands for the first of a chain, each of which stands for the next, and the last for `leaf`.
fn chain(levels: usize) -> Mesh {
    let name = |level: usize| match level {
        0 => "c".to_owned(),
        _ if level == levels => "leaf".to_owned(),
        _ => format!("level-{level}"),
    };
    let mut clusters: Vec<Raw> = (0..levels)
        .map(|level| aggregate(&name(level), &[&name(level + 1), "side"]))
        .collect();
    clusters.extend([cluster("leaf"), cluster("side")]);
    let mut mesh = begin(&clusters);
    mesh.hear(
        ResourceKind::Endpoints,
        vec![endpoints("leaf", &[1]), endpoints("side", &[2])],
    );
    mesh
}

#[test]
fn sixteen_levels_are_served_and_one_more_is_an_error_of_the_whole() {
    assert_eq!(places(&chain(16)).unwrap(), [(0, 1), (1, 2)]);
    let why = places(&chain(17)).unwrap_err();
    assert!(
        why.contains("NoCluster") && why.contains("\"level-16\"") && why.contains("16 deep"),
        "{why}"
    );
}

#[test]
fn more_members_than_may_be_are_an_error_of_the_whole() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("x-{n:03}")).collect();
        let members: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut clusters = vec![aggregate("c", &members)];
        clusters.extend(members.iter().map(|name| cluster(name)));
        let mut mesh = begin(&clusters);
        let told = members.iter().map(|name| endpoints(name, &[1])).collect();
        mesh.hear(ResourceKind::Endpoints, told);
        places(&mesh)
    };
    assert_eq!(many(256).unwrap().len(), 256);
    // One cluster names no more, so the one too many comes from another.
    let members: Vec<String> = (0..257).map(|n| format!("x-{n:03}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut clusters = vec![
        aggregate("c", &["d", "e"]),
        aggregate("d", &members[..256]),
        aggregate("e", &members[256..]),
    ];
    clusters.extend(members.iter().map(|name| cluster(name)));
    let mut mesh = begin(&clusters);
    let told = members.iter().map(|name| endpoints(name, &[1])).collect();
    mesh.hear(ResourceKind::Endpoints, told);
    let why = places(&mesh).unwrap_err();
    assert!(
        why.contains("NoCluster") && why.contains("256") && why.contains("\"x-256\""),
        "{why}"
    );
}

/// Of names that lead nowhere there is an end too, or one resource could have any number of others asked for.
#[test]
fn more_names_than_may_be_are_an_error_of_the_whole_also_when_nothing_is_there() {
    let name = |branch: usize, n: usize| format!("gone-{branch}-{n:03}");
    let mut clusters = vec![aggregate("c", &["b-0", "b-1", "b-2", "b-3"])];
    for branch in 0..4 {
        let names: Vec<String> = (0..256).map(|n| name(branch, n)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        clusters.push(aggregate(&format!("b-{branch}"), &names));
    }
    let mut mesh = begin(&clusters);
    mesh.time_out();
    let why = places(&mesh).unwrap_err();
    assert!(why.contains("NoCluster") && why.contains("more than 1024"), "{why}");
}

/// The first of its leaves has no part in what the second one says, and the whole says nothing for either.
#[test]
fn each_member_keeps_what_is_said_of_it() {
    let mut mesh = begin(&[aggregate("c", &["x", "y"]), cluster("x"), cluster("y")]);
    let whole = |mesh: &Mesh| {
        let snapshot = mesh.published.as_ref().unwrap();
        Arc::clone(snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap())
    };
    let said = |mesh: &Mesh| {
        let whole = whole(mesh);
        assert!(whole.drops.is_empty());
        let leaves = whole.leaves.iter();
        leaves
            .map(|leaf| {
                let drops: Vec<u32> = leaf.drops.iter().map(|one| one.per_million).collect();
                (leaf.name.to_string(), drops, leaf.endpoints.len())
            })
            .collect::<Vec<_>>()
    };
    let overloaded = |name: &str, ports: &[u16]| {
        let mut raw = endpoints(name, ports);
        raw.bytes.extend(THIRTY_PERCENT);
        raw
    };
    mesh.hear(
        ResourceKind::Endpoints,
        vec![overloaded("x", &[1]), endpoints("y", &[2])],
    );
    let of = |name: &str, drops: &[u32], endpoints| (name.to_owned(), drops.to_vec(), endpoints);
    assert_eq!(said(&mesh), [of("x", &[300_000], 1), of("y", &[], 1)]);
    // What did not change is the value that it was.
    let before = whole(&mesh);
    mesh.hear(ResourceKind::Endpoints, vec![overloaded("y", &[2, 3])]);
    assert_eq!(said(&mesh), [of("x", &[300_000], 1), of("y", &[300_000], 2)]);
    let after = whole(&mesh);
    assert!(Arc::ptr_eq(&before.leaves[0], &after.leaves[0]));
    assert!(!Arc::ptr_eq(&before.leaves[1], &after.leaves[1]));
}

/// One that waits is waited for: what it would be called with is not known.
#[test]
fn nothing_is_published_before_each_member_is_known() {
    let mut mesh = begin(&[aggregate("c", &["x", "y"]), cluster("x"), cluster("y")]);
    mesh.hear(ResourceKind::Endpoints, vec![endpoints("x", &[1])]);
    assert!(mesh.published.is_none());
    mesh.time_out();
    assert_eq!(places(&mesh).unwrap(), [(0, 1)], "and no longer than it may take");
    let snapshot = mesh.published.as_ref().unwrap();
    assert_eq!(kind_of(snapshot.cluster(&"c".into()).unwrap()), None::<ReasonKind>);
}

proptest! {
    /// What our control plane says of a cluster that stands for others, and of those, is put together to the same value.
    #[test]
    fn aggregates_survive_the_wire(whole in strategies::aggregates()) {
        let mut mesh = Mesh::within(&["t"], Context { trusted: true, ..context() });
        mesh.hear(ResourceKind::Listener, vec![listener("t", "t")]);
        mesh.hear(ResourceKind::Route, vec![routes("t", "c")]);
        let clusters = std::iter::once(&whole).chain(whole.leaves.iter().map(|leaf| &**leaf));
        let clusters: Vec<Raw> = clusters
            .map(|cluster| raw(ResourceKind::Cluster, encode::cluster(cluster, Dialect::Mesh)))
            .collect();
        // Its leaves are asked for when it is known.
        mesh.hear(ResourceKind::Cluster, clusters.clone());
        mesh.hear(ResourceKind::Cluster, clusters);
        let endpoints = whole.leaves.iter().map(|leaf| {
            let bytes = encode::endpoints(&leaf.name, &leaf.endpoints, &leaf.drops, &leaf.localities);
            raw(ResourceKind::Endpoints, bytes)
        });
        mesh.hear(ResourceKind::Endpoints, endpoints.collect());
        let snapshot = mesh.published.as_ref().expect("something was published");
        let read = snapshot.cluster(&"c".into()).unwrap().as_ref().unwrap();
        prop_assert_eq!(&**read, &whole);
    }
}
