//! The caller of the payment service, as an application would run it.
//!
//! `GRPC_XDS_BOOTSTRAP=checkout.json checkout --target xds:///payment-service --calls 10000 --concurrency 8`
//!
//! It works with any xDS control plane that has a listener of the target's name. A bootstrap without a certificate provider
//! is one of a mesh without mutual TLS: plaintext is allowed then, and only then.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use examples::load::{Client, Tally};
use examples::logs;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::Link;
use mesh_xds::{Bootstrap, ClientStatusService, XdsClient};
use tokio::net::TcpListener;

/// Calls the payment service and tells which version answered.
#[derive(Debug, Parser)]
struct Arguments {
    /// Whom to call.
    #[arg(long, default_value = "xds:///payment-service")]
    target: String,
    /// How many calls to make; with --every-ms, none means without end.
    #[arg(long)]
    calls: Option<u64>,
    /// How many calls are made at once.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Prints a line of running totals so often, in milliseconds, while calling without pause.
    #[arg(long)]
    every_ms: Option<u64>,
    /// Where health, counters and the status of its configuration are served in plaintext, on loopback. Default: nowhere.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Lets the admin port be on another address than loopback, where a kubelet's probes reach it and everybody else who may.
    #[arg(long, requires = "admin")]
    dangerous_admin_anywhere: bool,
}

/// Calls that are made when nobody says how many.
const DEFAULT_CALLS: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    logs("warn");
    let arguments = Arguments::parse();
    let bootstrap = Bootstrap::from_env()?;
    let plaintext = bootstrap.identity_provider().is_none();
    let xds = XdsClient::start(bootstrap)?;
    let client = client(&xds.link(), &arguments.target, plaintext);
    if let Some(address) = arguments.admin {
        let listener = TcpListener::bind(address).await?;
        tracing::warn!(address = %listener.local_addr()?, "admin port");
        let admin = mesh_server::admin::serve(listener, &xds.link()).calls_only();
        let admin = admin.mount(ClientStatusService::PATH, ClientStatusService::new(&xds));
        drop(examples::admin(admin, arguments.dangerous_admin_anywhere));
    }
    let tally = Tally::default();
    let stop = examples::stop_signal()?;
    match arguments.every_ms {
        None => tokio::select! {
            () = tally.run(&client, arguments.calls.unwrap_or(DEFAULT_CALLS), arguments.concurrency) => {}
            () = stop => {}
        },
        Some(every) => tokio::select! {
            () = tally.run(&client, arguments.calls.unwrap_or(u64::MAX), arguments.concurrency) => {}
            () = print_every(Duration::from_millis(every.max(1)), &tally) => {}
            () = stop => {}
        },
    }
    let last = if arguments.every_ms.is_some() {
        tally.line()
    } else {
        tally.report()
    };
    println!("{last}");
    Ok(())
}

fn client(mesh: &Link, target: &str, plaintext: bool) -> Client {
    let channel = if plaintext {
        Channel::builder(mesh, target).dangerous().plaintext().build()
    } else {
        Channel::new(mesh, target)
    };
    PaymentClient::new(channel)
}

async fn print_every(pause: Duration, tally: &Tally) {
    let mut ticks = tokio::time::interval(pause);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        println!("{}", tally.line());
    }
}
