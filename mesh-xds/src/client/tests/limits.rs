//! Which of the limits that a control plane says holds for a call: a route's longest stream, what it gives gRPC calls, its timeout, and
//! the connection manager's longest stream, which stands back behind the route's (gRFC A31; Envoy).

use std::time::Duration;

use super::assemble::Mesh;
use super::*;
use crate::decode::tests::{limited_listener, routes_saying};
use mesh_core::deadline::{self, Caller};

#[test]
fn a_routes_longest_stream_holds_before_the_managers_even_where_it_is_as_long_as_the_timeout() {
    // What the route says, in seconds; what comes of it for a gRPC call and for another where the manager says five.
    let cases = [
        ([None, None, None], (Some(5), Some(5))),
        ([Some(9), None, None], (Some(9), Some(9))),
        ([Some(9), None, Some(9)], (Some(9), Some(9))),
        ([Some(0), None, None], (None, None)),
        ([Some(0), None, Some(9)], (None, Some(9))),
        ([Some(9), Some(7), Some(9)], (Some(7), Some(9))),
        ([Some(9), Some(0), Some(9)], (None, Some(9))),
        ([None, Some(7), Some(9)], (Some(7), Some(5))),
        ([None, None, Some(9)], (Some(5), Some(5))),
        ([None, None, Some(2)], (Some(5), Some(2))),
    ];
    for (said, expected) in cases {
        let mut mesh = Mesh::new(&["t"]);
        mesh.hear(ResourceKind::Listener, vec![limited_listener("t", "r", 30, 5)]);
        mesh.hear(ResourceKind::Route, vec![routes_saying(&routes("r", "c"), said)]);
        mesh.hear(ResourceKind::Cluster, vec![cluster("c")]);
        let heard = mesh.hear(ResourceKind::Endpoints, vec![endpoints("c", &[1])]);
        let snapshot = heard.snapshot.unwrap();
        let tree = snapshot.target("t").unwrap().as_ref().unwrap();
        let least = |grpc| {
            let caller = Caller {
                grpc,
                ..Caller::default()
            };
            let limit = deadline::limits(&tree.virtual_hosts[0].routes[0], &caller).least();
            limit.map(|limit| limit.total)
        };
        let (grpc, other) = expected;
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        assert_eq!((least(true), least(false)), (seconds(grpc), seconds(other)), "{said:?}");
    }
}
