//! HTTP/1.1, large bodies and streams, beside a bare hyper client: heap allocations, writes and, under a profiler, instructions.
//!
//! The echo server runs in a process of its own and speaks both versions in the clear, so that what is measured is the client's
//! HTTP. All clients use the same counting socket, from one current-thread runtime, one call at a time, in interleaved rounds.
//! Time is not judged.
//!
//! `cargo run --release -p benches --bin bodies -- --check`; `--only CLIENT BODY CALLS` runs one pair alone, for
//! `valgrind --tool=callgrind --toggle-collect='bodies::profiled*'`.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

#[path = "counting.rs"]
mod counting;

use std::alloc::System;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_client::connect::{Connecting, Io};
use mesh_client::{Channel, use_connector};
use mesh_core::Link;
use mesh_core::config::{Cluster, Connections, Endpoint, Protocol, Route, Snapshot, Split, TlsMode};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower::Service as _;

use counting::Writes;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Failure = Box<dyn std::error::Error>;

const WARM_UP: usize = 20;
const ROUNDS: usize = 5;
/// What a call may cost beside the bare client's, in writes: the same, but for a window update that falls on either side.
const MAX_WRITES_RATIO: f64 = 1.02;
const CLIENTS: [&str; 4] = ["hyper_http1", "mesh_http1", "hyper_http2", "mesh_http2"];
const BODIES: [Shape; 3] = [
    Shape {
        name: "unary_1_kib",
        chunk: 1024,
        chunks: 1,
        calls: 500,
    },
    Shape {
        name: "whole_1_mib",
        chunk: 1024 * 1024,
        chunks: 1,
        calls: 20,
    },
    Shape {
        name: "stream_64_of_16_kib",
        chunk: 16 * 1024,
        chunks: 64,
        calls: 20,
    },
];

/// What is sent, and comes back.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    chunk: usize,
    chunks: usize,
    calls: usize,
}

/// A body of equal chunks, which are there when they are asked for.
#[derive(Clone)]
struct Chunks {
    chunk: Bytes,
    left: usize,
    /// Told as a stream, whose length is not known.
    unknown: bool,
}

impl Shape {
    fn body(self) -> Chunks {
        Chunks {
            chunk: Bytes::from(vec![b'x'; self.chunk]),
            left: self.chunks,
            unknown: self.chunks > 1,
        }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.unknown {
            true => SizeHint::default(),
            false => SizeHint::with_exact((self.left * self.chunk.len()) as u64),
        }
    }
}

enum Client {
    Hyper1(http1::SendRequest<Chunks>),
    Hyper2(http2::SendRequest<Chunks>),
    Mesh(Channel<Chunks>, Version),
}

impl Client {
    async fn new(name: &str, address: SocketAddr, writes: &Writes) -> Result<Self, Failure> {
        match name {
            "hyper_http1" => {
                let io = TokioIo::new(writes.clone().connect(address).await?);
                let (send, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Ok(Self::Hyper1(send))
            }
            "hyper_http2" => {
                let io = TokioIo::new(writes.clone().connect(address).await?);
                let (send, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Ok(Self::Hyper2(send))
            }
            "mesh_http1" => Ok(Self::Mesh(mesh(address, writes)?, Version::HTTP_11)),
            "mesh_http2" => Ok(Self::Mesh(mesh(address, writes)?, Version::HTTP_2)),
            other => Err(format!("no client {other:?}: one of {CLIENTS:?}").into()),
        }
    }

    async fn call(&mut self, body: Chunks) -> Result<usize, Failure> {
        let request = Request::builder().method(Method::POST);
        match self {
            Self::Hyper1(send) => {
                let request = request.uri("/echo").header("host", "payment").body(body)?;
                send.ready().await?;
                length(send.send_request(request).await?).await
            }
            Self::Hyper2(send) => {
                let request = request.uri("http://payment/echo").body(body)?;
                send.ready().await?;
                length(send.send_request(request).await?).await
            }
            Self::Mesh(channel, version) => {
                let request = request.uri("http://payment/echo").version(*version).body(body)?;
                length(channel.call(request).await?).await
            }
        }
    }
}

/// The bytes of an answer.
async fn length<B>(response: Response<B>) -> Result<usize, Failure>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    if response.status() != StatusCode::OK {
        return Err(format!("answered {}", response.status()).into());
    }
    let (mut body, mut length) = (response.into_body(), 0);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

fn mesh(address: SocketAddr, writes: &Writes) -> Result<Channel<Chunks>, Failure> {
    let cluster = Cluster {
        connections: Arc::new(Connections {
            protocol: Protocol::Request,
            ..Connections::default()
        }),
        ..Cluster::new("payment", TlsMode::Plaintext, vec![Endpoint::new(address)])
    };
    let builder = Snapshot::builder().route("payment", Route::to(Split::all_to("payment")));
    let link = Link::fixed(builder.cluster(cluster).build()?, None);
    let writes = writes.clone();
    use_connector(&link, move |address| -> Connecting {
        let writes = writes.clone();
        Box::pin(async move { Ok(Box::new(writes.connect(address).await?) as Box<dyn Io>) })
    })?;
    Ok(Channel::builder(&link, "payment").dangerous().plaintext().build())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--serve") {
        return serve();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (server, writes) = (Server::spawn()?, Writes::default());
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let name = arguments.get(at + 1).map_or("mesh_http1", String::as_str);
        let shape = arguments
            .get(at + 2)
            .and_then(|name| BODIES.iter().find(|one| one.name == name));
        let mut shape = *shape.unwrap_or(&BODIES[0]);
        let mut client = runtime.block_on(Client::new(name, server.address, &writes))?;
        runtime.block_on(measure(
            &mut client,
            Shape {
                calls: WARM_UP,
                ..shape
            },
            &writes,
        ))?;
        if let Some(calls) = arguments.get(at + 3) {
            shape.calls = calls.parse()?;
        }
        let cost = profiled(&runtime, &mut client, shape, &writes)?;
        eprintln!("{name} {}: {cost:?}", shape.name);
        return Ok(());
    }
    let report = runtime.block_on(compare(server.address, &writes))?;
    println!("{report:#}");
    if has("--check") {
        check(&report)?;
    }
    Ok(())
}

async fn compare(address: SocketAddr, writes: &Writes) -> Result<Value, Failure> {
    let mut report =
        json!({ "what": "echo, in the clear, current-thread runtime; per call, client side", "rounds": ROUNDS });
    for shape in BODIES {
        let mut clients = Vec::new();
        for name in CLIENTS {
            let mut client = Client::new(name, address, writes).await?;
            measure(
                &mut client,
                Shape {
                    calls: WARM_UP,
                    ..shape
                },
                writes,
            )
            .await?;
            clients.push((name, client, Vec::new()));
        }
        for _ in 0..ROUNDS {
            for (_, client, costs) in &mut clients {
                costs.push(measure(client, shape, writes).await?);
            }
        }
        for (name, _, mut costs) in clients {
            costs.sort_by(|a, b| a.allocations.total_cmp(&b.allocations));
            let Cost {
                allocations,
                bytes,
                writes,
            } = costs[ROUNDS / 2];
            report[shape.name][name] = json!({ "allocations": allocations, "bytes": bytes, "writes": writes });
        }
    }
    Ok(report)
}

/// Ours may not write more often than hyper's of the same version, whatever is sent.
fn check(report: &Value) -> Result<(), Failure> {
    for shape in BODIES {
        for version in ["http1", "http2"] {
            let writes = |who: &str| report[shape.name][format!("{who}_{version}")]["writes"].as_f64();
            let (Some(bare), Some(ours)) = (writes("hyper"), writes("mesh")) else {
                return Err("a figure is missing".into());
            };
            if ours > bare * MAX_WRITES_RATIO {
                return Err(format!("{} over {version}: {ours} writes, and hyper {bare}", shape.name).into());
            }
        }
    }
    Ok(())
}

/// A profiler finds it by its name.
#[inline(never)]
fn profiled(runtime: &Runtime, client: &mut Client, shape: Shape, writes: &Writes) -> Result<Cost, Failure> {
    runtime.block_on(measure(client, shape, writes))
}

async fn measure(client: &mut Client, shape: Shape, writes: &Writes) -> Result<Cost, Failure> {
    let body = shape.body();
    let writes_before = writes.count();
    let region = Region::new(ALLOCATOR);
    for _ in 0..shape.calls {
        let length = client.call(body.clone()).await?;
        if length != shape.chunk * shape.chunks {
            return Err(format!("{length} bytes came back").into());
        }
    }
    let heap = region.change();
    let calls = shape.calls as f64;
    Ok(Cost {
        allocations: heap.allocations as f64 / calls,
        bytes: heap.bytes_allocated as f64 / calls,
        writes: (writes.count() - writes_before) as f64 / calls,
    })
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: f64,
    bytes: f64,
    writes: f64,
}

/// The echo server, in a child process that ends with its parent.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn spawn() -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("the child has no standard output")?).read_line(&mut line)?;
        Ok(Self {
            child,
            address: line.trim().parse()?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_line(&mut String::new());
        std::process::exit(0);
    });
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let echo =
                    |request: Request<Incoming>| async move { Ok::<_, Infallible>(Response::new(request.into_body())) };
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let served = server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(echo));
                // A client that goes is no failure.
                let _ = served.await;
            });
        }
    })
}
