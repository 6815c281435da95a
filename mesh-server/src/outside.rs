//! What the application gives to call somebody outside of the process: this crate makes no calls of its own.

use std::fmt;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer, or not all of it: in the words of whoever calls.
#[derive(Debug)]
pub struct CallFailed(BoxError);

impl fmt::Display for CallFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for CallFailed {}

/// The body of an answer.
pub(crate) type OutsideBody = UnsyncBoxBody<Bytes, CallFailed>;

/// A caller in a box.
pub(crate) type BoxCaller =
    BoxCloneSyncService<Request<Full<Bytes>>, Response<UnsyncBoxBody<Bytes, CallFailed>>, CallFailed>;

/// What calls an authorizer or a rate limit service: any HTTP client that is a `tower::Service` of whole requests and can be cloned, such as
/// a channel of mesh-client, or `tower::service_fn`. There is nothing to implement.
pub trait OutsideCaller: Clone + Send + Sync + Sized + 'static {
    /// The same for all.
    #[doc(hidden)]
    fn boxed(self)
    -> BoxCloneSyncService<Request<Full<Bytes>>, Response<UnsyncBoxBody<Bytes, CallFailed>>, CallFailed>;
}

impl<S, R> OutsideCaller for S
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    fn boxed(self) -> BoxCaller {
        let boxed =
            |response: Response<R>| response.map(|body| body.map_err(|error| CallFailed(error.into())).boxed_unsync());
        BoxCloneSyncService::new(self.map_response(boxed).map_err(|error| CallFailed(error.into())))
    }
}
