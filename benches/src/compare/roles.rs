//! What the processes of a run do: a server, a client, a control plane. Each is told its part in the first line of its standard input, and
//! says where it listens, or that it is ready, in the first line of its output.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;

use mesh_xds::server::{AdsService, Caller, SnapshotCache};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

use crate::clients::Client;
use crate::counting::Writes;
use crate::echo::Target;
use crate::meshed::{self, Asked};
use crate::pki::Pair;
use crate::{Failure, load, serving, web};

/// Whom to call, and as whom.
#[derive(Serialize, Deserialize)]
pub(crate) struct Whom {
    pub(crate) client: Pair,
    pub(crate) address: SocketAddr,
}

impl Whom {
    fn target(&self) -> Result<Target, Failure> {
        Ok(Target {
            address: self.address,
            client: self.client.identity()?,
        })
    }
}

pub(crate) fn client(name: &str) -> Result<(), Failure> {
    let whom: Whom = told()?;
    let (runtime, writes) = (runtime()?, Writes::default());
    let client = runtime.block_on(Client::new(name, &whom.target()?, &writes))?;
    load::obey(&runtime, &client)
}

/// So many servers of a kind, in one process.
pub(crate) fn server(kind: &'static str, servers: usize) -> Result<(), Failure> {
    let pair: Pair = told()?;
    let identity = pair.identity()?;
    let runtime = runtime()?;
    let (mut addresses, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..servers {
        if kind == "web" {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            addresses.push(listener.local_addr()?);
            let identity = identity.clone();
            runtime.spawn(async move {
                // It serves until the process ends.
                let _ = web::serve(listener, &identity).await.map_err(|error| error.to_string());
            });
            continue;
        }
        let served = runtime.block_on(serving::start(kind, &identity))?;
        addresses.push(served.address);
        kept.push(served);
    }
    say(&addresses)?;
    end_with_parent();
    runtime.block_on(std::future::pending::<()>());
    Ok(())
}

/// A control plane that tells everybody of the mesh of the lean client.
pub(crate) fn plane() -> Result<(), Failure> {
    let whom: Whom = told()?;
    let snapshot = meshed::snapshot(&whom.target()?, Asked::Lean)?;
    let cache = SnapshotCache::new();
    cache.publish("all", &snapshot)?;
    runtime()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        say(&listener.local_addr()?)?;
        end_with_parent();
        let service = AdsService::new(cache, |_: &Caller| Ok("all".into()));
        let server = tonic::transport::Server::builder().add_service(service);
        server.serve_with_incoming(TcpIncoming::from(listener)).await?;
        Ok(())
    })
}

/// One thread: what is compared is work, and not how a scheduler spreads it.
fn runtime() -> Result<Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn told<T: DeserializeOwned>() -> Result<T, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn say(what: &impl Serialize) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    out.flush()?;
    Ok(())
}

fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
}
