//! What is compared.

use serde::{Deserialize, Serialize};

/// How a call gets from its caller to the echo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) family: Family,
    /// A client of `clients`, or of the package `others`.
    pub(crate) client: &'static str,
    pub(crate) of_others: bool,
    /// A server of `serving`, or hyper's (`web`).
    pub(crate) server: &'static str,
    pub(crate) servers: usize,
    pub(crate) sidecars: Sidecars,
    /// Whether a control plane tells the client whom to call.
    pub(crate) plane: bool,
    /// Whether it is the mesh.
    pub(crate) ours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sidecars {
    None,
    /// Of the client alone.
    One,
    Two,
}

/// What is the same for a setup and what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Family {
    Grpc,
    Http2,
    Http1,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::Grpc, Self::Http2, Self::Http1];

    /// What the others of it are compared with.
    pub(crate) fn base(self) -> &'static str {
        match self {
            Self::Grpc => "bare_channel",
            Self::Http2 => "hyper_http2",
            Self::Http1 => "hyper_http1",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Grpc => "gRPC, by tonic",
            Self::Http2 => "HTTP/2, by hyper",
            Self::Http1 => "HTTP/1.1, by hyper",
        }
    }
}

const PLAIN: Setup = Setup {
    name: "",
    title: "",
    family: Family::Grpc,
    client: "",
    of_others: false,
    server: "bare",
    servers: 1,
    sidecars: Sidecars::None,
    plane: false,
    ours: false,
};

const fn ours(name: &'static str, title: &'static str, family: Family, ends: [&'static str; 2]) -> Setup {
    Setup {
        name,
        title,
        family,
        client: ends[0],
        server: ends[1],
        ours: true,
        ..PLAIN
    }
}

pub(crate) const SETUPS: [Setup; 15] = [
    Setup {
        name: "bare_channel",
        title: "tonic `Channel` to tonic server",
        client: "bare_channel",
        ..PLAIN
    },
    Setup {
        name: "balance_list",
        title: "tonic `Channel::balance_list` of 4",
        client: "balance_list",
        of_others: true,
        servers: 4,
        ..PLAIN
    },
    Setup {
        name: "tonic_xds",
        title: "tonic-xds, told by an ADS server",
        client: "tonic_xds",
        of_others: true,
        plane: true,
        ..PLAIN
    },
    Setup {
        name: "one_sidecar",
        title: "tonic, Envoy beside the client",
        client: "plain_channel",
        sidecars: Sidecars::One,
        ..PLAIN
    },
    Setup {
        name: "two_sidecars",
        title: "tonic, Envoy beside both",
        client: "plain_channel",
        server: "plain",
        sidecars: Sidecars::Two,
        ..PLAIN
    },
    ours(
        "lean_client",
        "mesh client, lean, to tonic server",
        Family::Grpc,
        ["mesh", "bare"],
    ),
    ours("lean", "mesh at both ends, lean", Family::Grpc, ["mesh", "mesh_lean"]),
    ours(
        "everything",
        "mesh at both ends, everything",
        Family::Grpc,
        ["everything", "mesh"],
    ),
    ours(
        "everything_tonic",
        "the same, served by tonic's loop",
        Family::Grpc,
        ["everything", "mesh_tonic"],
    ),
    Setup {
        name: "hyper_http2",
        title: "hyper to hyper",
        family: Family::Http2,
        client: "hyper_http2",
        server: "web",
        ..PLAIN
    },
    ours(
        "lean_http2",
        "mesh at both ends, lean",
        Family::Http2,
        ["mesh_http2", "mesh_lean_web"],
    ),
    ours(
        "everything_http2",
        "mesh at both ends, everything",
        Family::Http2,
        ["everything_http2", "mesh_web"],
    ),
    Setup {
        name: "hyper_http1",
        title: "hyper to hyper",
        family: Family::Http1,
        client: "hyper_http1",
        server: "web",
        ..PLAIN
    },
    ours(
        "lean_http1",
        "mesh at both ends, lean",
        Family::Http1,
        ["mesh_http1", "mesh_lean_web"],
    ),
    ours(
        "everything_http1",
        "mesh at both ends, everything",
        Family::Http1,
        ["everything_http1", "mesh_web"],
    ),
];
