//! The caller, in a child process: bare tonic channels over mutual TLS, told over its standard input whom to call how often.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use hyper_util::rt::TokioIo;
use mesh_core::config::ExpectedPeers;
use mesh_core::identity::tls::client_config;
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Failure;
use crate::pki::{Pair, SERVER_ID};
use crate::serving::Served;

/// What the child is told first.
#[derive(Serialize, Deserialize)]
struct Whom {
    client: Pair,
    servers: BTreeMap<String, SocketAddr>,
}

/// The child, as its parent sees it. It ends with its parent: its standard input closes.
pub(crate) struct Load {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::UnboundedReceiver<String>,
}

impl Load {
    pub(crate) fn spawn(client: &Pair, served: &[Served]) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--load")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut orders = child.stdin.take().ok_or("the child has no standard input")?;
        let whom = Whom {
            client: client.clone(),
            servers: served
                .iter()
                .map(|served| (served.name.to_owned(), served.address))
                .collect(),
        };
        writeln!(orders, "{}", serde_json::to_string(&whom)?)?;
        let stdout = child.stdout.take().ok_or("the child has no standard output")?;
        let (told, answers) = mpsc::unbounded_channel();
        // The servers' thread serves meanwhile.
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders, answers })
    }

    /// Has a server called.
    pub(crate) async fn call(&mut self, name: &str, calls: usize, concurrent: usize) -> Result<(), Failure> {
        writeln!(self.orders, "{name} {calls} {concurrent}")?;
        match self.answers.recv().await.as_deref() {
            Some("done") => Ok(()),
            other => Err(format!("the caller says {other:?}").into()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child.
pub(crate) fn run() -> Result<(), Failure> {
    let mut lines = io::stdin().lock().lines();
    let whom: Whom = serde_json::from_str(&lines.next().ok_or("nothing is told")??)?;
    let expected = ExpectedPeers::exactly([SERVER_ID]);
    let tls = client_config(
        &whom.client.identity()?,
        &expected,
        Arc::new(DefaultTimeProvider),
        &[b"h2"],
    )?;
    let tls = TlsConnector::from(tls);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut clients = BTreeMap::new();
    for (name, address) in whom.servers {
        let client = runtime.block_on(connect(address, tls.clone()))?;
        clients.insert(name, client);
    }
    for line in lines {
        let line = line?;
        let order: Vec<&str> = line.split(' ').collect();
        let [name, calls, concurrent] = order[..] else {
            return Err(format!("not an order: {line:?}").into());
        };
        let client = clients.get(name).ok_or("nobody of that name")?;
        let (calls, concurrent): (usize, usize) = (calls.parse()?, concurrent.parse()?);
        runtime.block_on(call(client, calls / concurrent, concurrent))?;
        println!("done");
        io::stdout().flush()?;
    }
    Ok(())
}

async fn connect(address: SocketAddr, tls: TlsConnector) -> Result<PaymentClient<Channel>, Failure> {
    let connector = tower::service_fn(move |_: Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(address.ip().into());
            Ok::<_, io::Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://payment");
    Ok(PaymentClient::new(endpoint.connect_with_connector(connector).await?))
}

async fn call(client: &PaymentClient<Channel>, each: usize, concurrent: usize) -> Result<(), Failure> {
    let note = Bytes::from(vec![b'x'; 1024]);
    let mut callers = Vec::with_capacity(concurrent);
    for _ in 0..concurrent {
        let (mut client, note) = (client.clone(), note.clone());
        callers.push(tokio::spawn(async move {
            for _ in 0..each {
                let request = ChargeRequest {
                    note: note.clone(),
                    ..ChargeRequest::default()
                };
                client.charge(request).await?;
            }
            Ok::<_, tonic::Status>(())
        }));
    }
    for caller in callers {
        caller.await??;
    }
    Ok(())
}
