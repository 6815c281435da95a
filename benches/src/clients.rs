//! The measured clients by name: what `cost` counts and `compare` times is the same value.

use bytes::Bytes;
use http::Version;

use crate::Failure;
use crate::caller::Caller;
use crate::counting::Writes;
use crate::echo::Target;
use crate::meshed::{self, Asked};
use crate::{bare, direct, transport, web};

#[derive(Clone)]
pub(crate) enum Client {
    Bare(bare::Bare),
    Direct(direct::Direct),
    Transport(transport::Bare),
    /// As the mesh is, lean or with everything.
    Mesh(meshed::Meshed),
    /// A request of HTTP and no more, by hyper or through the mesh.
    Web(web::Web),
}

impl Client {
    pub(crate) const NAMES: [&str; 12] = [
        "plain_channel",
        "bare_channel",
        "direct",
        "transport",
        "mesh",
        "everything",
        "hyper_http2",
        "mesh_http2",
        "everything_http2",
        "hyper_http1",
        "mesh_http1",
        "everything_http1",
    ];

    pub(crate) async fn new(name: &str, server: &Target, writes: &Writes) -> Result<Self, Failure> {
        const HTTP1: Version = Version::HTTP_11;
        const HTTP2: Version = Version::HTTP_2;
        Ok(match name {
            "bare_channel" => Self::Bare(bare::caller(server, writes).await?),
            "plain_channel" => Self::Bare(bare::in_the_clear(server, writes).await?),
            "direct" => Self::Direct(direct::caller(server, writes).await?),
            "transport" => Self::Transport(transport::caller(server, writes).await?),
            "mesh" => Self::Mesh(meshed::caller(server, writes, Asked::Lean)?),
            "everything" => Self::Mesh(meshed::caller(server, writes, Asked::Everything)?),
            "hyper_http2" => Self::Web(web::hyper(server, writes, HTTP2).await?),
            "mesh_http2" => Self::Web(web::meshed(server, writes, Asked::Lean, HTTP2)?),
            "everything_http2" => Self::Web(web::meshed(server, writes, Asked::Everything, HTTP2)?),
            "hyper_http1" => Self::Web(web::hyper(server, writes, HTTP1).await?),
            "mesh_http1" => Self::Web(web::meshed(server, writes, Asked::Lean, HTTP1)?),
            "everything_http1" => Self::Web(web::meshed(server, writes, Asked::Everything, HTTP1)?),
            other => return Err(format!("no client {other:?}: one of {:?}", Self::NAMES).into()),
        })
    }
}

impl Caller for Client {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        match self {
            Self::Bare(client) => client.call(note).await,
            Self::Direct(client) => client.call(note).await,
            Self::Transport(client) => client.call(note).await,
            Self::Mesh(client) => client.call(note).await,
            Self::Web(client) => client.call(note).await,
        }
    }
}
