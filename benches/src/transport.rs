//! The mesh's own connections without its rooms: what the mesh costs beside this, its rooms cost.

use bytes::Bytes;
use examples::proto::payment_client::PaymentClient;
use http::uri::Authority;
use mesh_client::transport::Transport;

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::counting::Writes;
use crate::echo::{self, Target};
use crate::meshed::{self, Asked};

/// Calls that make the connections: so many all but surely go to either part of the split.
const FIRST: usize = 20;

pub(crate) async fn caller(server: &Target, writes: &Writes) -> Result<Bare, Failure> {
    let (link, mut mesh) = meshed::linked(server, writes, Asked::Lean)?;
    for _ in 0..FIRST {
        mesh.call(Bytes::new()).await?;
    }
    let authority = Authority::from_static("payment");
    let transport = Transport::of(&link, "payment-v1", authority).ok_or("the cluster is not there")?;
    Ok(Bare(PaymentClient::new(transport)))
}

#[derive(Clone)]
pub(crate) struct Bare(PaymentClient<Transport>);

impl Caller for Bare {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let reply = self.0.charge(echo::request(note)).await?.into_inner();
        came_back(sent, reply.note.len())
    }
}
