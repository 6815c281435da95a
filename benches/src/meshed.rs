//! Ours, in two configurations.
//!
//! The lean path: route, 95/5 split, least request, route timeout, retry armed, budget, outlier detection, breakers.
//!
//! Everything that a configuration can ask for today: all of that, and both headers that tell the peer the time, header rules
//! (one added, one taken out) on the way out and back, an authority to rewrite, faults that are drawn for every call and never
//! hit, a mirror that gets no share, a limit per try with its alarm, retriable status codes (so that good answers are judged
//! too), and load reports by endpoint and locality. Not in it, since it is not there yet: trace context, the canary guard, full
//! metrics.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use examples::proto::payment_client::PaymentClient;
use http::uri::Authority;
use http::{HeaderName, StatusCode};
use mesh_client::connect::{Connecting, Io};
use mesh_client::{Channel, use_connector};
use mesh_core::Link;
use mesh_core::config::{
    Abort, Action, AppendAction, CallFilter, CircuitBreakers, Cluster, Connections, Delay, Domain, Endpoint,
    ExpectedPeers, Fault, FaultAbort, FaultDelay, Fraction, HeaderEdit, HeaderEdits, HeaderFormat, HeaderRules,
    HostRewrite, LoadReporting, Mirror, MutualTls, OutlierDetection, OutlierRules, Protocol, RetryOn, RetryPolicy,
    Rewrite, Route, RouteTree, Snapshot, Split, Thresholds, TlsMode, VirtualHost,
};

use crate::Failure;
use crate::caller::{Caller, came_back};
use crate::counting::Writes;
use crate::echo::{self, Target};
use crate::pki::SERVER_ID;

/// What the client is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Lean,
    Everything,
}

pub(crate) fn caller(server: &Target, writes: &Writes, asked: Asked) -> Result<Meshed, Failure> {
    linked(server, writes, asked).map(|(_, mesh)| mesh)
}

/// With the membership that it belongs to.
pub(crate) fn linked(server: &Target, writes: &Writes, asked: Asked) -> Result<(Link, Meshed), Failure> {
    let link = link(server, writes, asked)?;
    let mesh = Meshed(PaymentClient::new(Channel::new(&link, "xds:///payment")));
    Ok((link, mesh))
}

/// The membership alone.
pub(crate) fn link(server: &Target, writes: &Writes, asked: Asked) -> Result<Link, Failure> {
    let link = Link::fixed(snapshot(server, asked)?, Some(server.client.clone()));
    let writes = writes.clone();
    use_connector(&link, move |address| -> Connecting {
        let writes = writes.clone();
        Box::pin(async move { Ok(Box::new(writes.connect(address).await?) as Box<dyn Io>) })
    })?;
    Ok(link)
}

/// What it is configured with, for a control plane to tell as well.
pub(crate) fn snapshot(server: &Target, asked: Asked) -> Result<Snapshot, Failure> {
    let cluster = |name: &str| {
        let tls = TlsMode::Mutual(MutualTls {
            expected: ExpectedPeers::exactly([SERVER_ID]),
            sni: None,
            ..MutualTls::default()
        });
        let mut cluster = Cluster::new(name, tls, vec![Endpoint::new(server.address)]);
        cluster.outlier = Some(OutlierDetection::new(OutlierRules::Envoy));
        cluster.breakers = CircuitBreakers::same(Thresholds::ENVOY);
        // A gRPC call goes over HTTP/2 whatever is said here.
        cluster.connections = Arc::new(Connections {
            protocol: Protocol::Request,
            ..Connections::default()
        });
        if asked == Asked::Everything {
            cluster.load_reporting = Some(LoadReporting::of("payment"));
        }
        cluster
    };
    let mut route = Route::to(Split::weighted([("payment-v1".into(), 95), ("payment-v2".into(), 5)])?);
    route.timeout = Some(Duration::from_secs(10));
    // The header that tells the time is one of the things that everything has besides.
    route.limits.untold = asked == Asked::Lean;
    if asked == Asked::Everything {
        everything(&mut route)?;
    }
    let host = VirtualHost::new("payment", vec![Domain::Any], vec![Arc::new(route)]);
    let mut tree = RouteTree::new("payment", vec![host]);
    if asked == Asked::Everything {
        tree.filters
            .push(CallFilter::new("envoy.filters.http.fault", fault().into()));
    }
    let builder = Snapshot::builder().target("payment", Ok(Arc::new(tree)));
    Ok(builder
        .cluster(cluster("payment-v1"))
        .cluster(cluster("payment-v2"))
        .build()?)
}

fn everything(route: &mut Route) -> Result<(), Failure> {
    route.headers = rules()?;
    route.retry = RetryPolicy {
        on: RetryOn::parse("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"),
        statuses: [503].into(),
        per_try_timeout: Some(Duration::from_secs(2)),
        explicit: true,
        ..RetryPolicy::default()
    };
    if let Action::Forward(forward) = &mut route.action {
        forward.rewrite = Some(Box::new(Rewrite {
            host: Some(HostRewrite::Literal(Authority::from_static("payment.internal"))),
            ..Rewrite::default()
        }));
        forward.mirrors.push(Mirror {
            cluster: "payment-v2".into(),
            fraction: Some(Fraction::percent(0)),
            shadow_suffix: true,
        });
    }
    Ok(())
}

/// Adds a header to requests and to answers, and takes one out of both.
fn rules() -> Result<Option<Arc<HeaderRules>>, Failure> {
    let edits = |name| -> Result<_, Failure> {
        let action = AppendAction::OverwriteIfExistsOrAdd;
        let add = HeaderEdit::new(HeaderName::from_static(name), HeaderFormat::parse("charge")?, action)?;
        Ok(HeaderEdits {
            remove: vec![HeaderName::from_static("x-internal")],
            add: vec![add],
        })
    };
    let rules = HeaderRules {
        request: edits("x-route")?,
        response: edits("x-served-by")?,
    };
    Ok(rules.shared())
}

/// Drawn for every call, and for none.
fn fault() -> Fault {
    Fault {
        delay: Some(FaultDelay {
            fraction: Fraction::percent(0),
            delay: Delay::Fixed(Duration::from_secs(1)),
        }),
        abort: Some(FaultAbort {
            fraction: Fraction::percent(0),
            abort: Abort::Http(StatusCode::SERVICE_UNAVAILABLE),
            body: "".into(),
        }),
        ..Fault::default()
    }
}

#[derive(Clone)]
pub(crate) struct Meshed(PaymentClient<Channel<tonic::body::Body>>);

impl Caller for Meshed {
    async fn call(&mut self, note: Bytes) -> Result<(), Failure> {
        let sent = note.len();
        let reply = self.0.charge(echo::request(note)).await?.into_inner();
        came_back(sent, reply.note.len())
    }
}
