//! Where the request itself says where to go: no configuration knows its destination, and one lets it pass (Istio `ALLOW_ANY`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use mesh_core::config::{Protocol, TlsMode};

use super::Shared;
use super::future::{BalanceFuture, State, Way};
use super::refused::stays_in_the_mesh;
use crate::cluster::{Found, Wish};
use crate::error::{Error, Kind};
use crate::request::Attempt;
use crate::status::is_grpc;

/// A wait for the address of a name that no configuration knows.
pub(super) struct Resolving<B> {
    pub(super) found: Pin<Box<dyn Future<Output = Result<Found, Error>> + Send>>,
    pub(super) request: Option<Request<Attempt<B>>>,
    pub(super) shared: Arc<Shared>,
    pub(super) way: Way,
}

impl<B> BalanceFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send,
{
    /// Goes where the request says, if the channel may.
    pub(super) fn start_anywhere(
        &mut self,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        repicked: u32,
    ) -> Result<State<B>, Error> {
        let request = unsent.as_ref().expect("a try is sent once");
        let Some(wish) = Wish::of(request.uri(), request.headers(), shared.authority.as_ref()) else {
            return Err(Error::new(Kind::InvalidRequest("it says nowhere to go to")));
        };
        let allowed = match wish.tls() {
            Some(TlsMode::Origination(outside)) => shared.allowed.outside(&outside),
            _ => shared.allowed.plaintext,
        };
        if !allowed {
            return Err(stays_in_the_mesh(&wish));
        }
        let way = Way {
            secure: wish.secure,
            // A destination of which nothing is known is spoken to in the version of the request.
            carrier: Protocol::Request.carrier(request.version(), || is_grpc(request.headers())),
            repicked,
            elsewhere: false,
        };
        let cluster = Arc::clone(&request.body().call.cluster);
        // A name is found within the time that a connection to it may take.
        let limit = cluster.hosts().load().cluster.connect_timeout;
        match cluster.anywhere().find(&wish, &shared.manager, limit) {
            Some(found) => self.at_host(found, unsent, shared, way),
            None => Ok(State::Resolving(Box::new(Resolving {
                found: Box::pin(cluster.anywhere().wait(wish, &shared.manager, limit)?),
                request: unsent.take(),
                shared: Arc::clone(shared),
                way,
            }))),
        }
    }

    pub(super) fn at_host(
        &mut self,
        found: Found,
        unsent: &mut Option<Request<Attempt<B>>>,
        shared: &Arc<Shared>,
        mut way: Way,
    ) -> Result<State<B>, Error> {
        let Found { host, elsewhere } = found;
        way.elsewhere = elsewhere;
        let request = unsent.as_ref().expect("a try is sent once");
        let set = request.body().call.cluster.hosts().load();
        self.take_place(&set, None, request, || ((host, 0), None))?;
        self.send_or_connect(&set, unsent, shared, way)
    }
}
