//! The inbound assembly: what stands between a connection and the user's service, and in which order.

use mesh_core::Link;
use mesh_core::canonical::PathNormalization;
use mesh_core::config::{LocalRateLimit, TooManyLimits};
use opentelemetry::trace::Tracer;
use tower::Layer;
use tower::layer::util::Identity;

use crate::authenticate::{Authenticate, AuthenticateLayer};
use crate::authorize::{Authorize, AuthorizeLayer};
use crate::canonical::{Canonical, CanonicalLayer, ForwardedClientCert};
use crate::dangerous::Dangerous;
use crate::deadline::{Deadline, DeadlineLayer};
use crate::limit::{RateLimitLayer, RateLimited};
use crate::outside::OutsideCaller;
use crate::show_body::ShowBodyLayer;
use crate::telemetry::{Telemetry, TelemetryLayer};

/// Wraps any `Service<http::Request<_>>`: tonic's `Routes`, axum's `Router`, a bare function.
///
/// The rooms are public layers; whoever wants another order, or layers of their own between, stacks them by hand.
///
/// ```
/// use mesh_core::{Link, Snapshot};
/// use mesh_server::MeshLayer;
/// use tower::Layer;
///
/// let mesh = Link::fixed(Snapshot::empty(), None);
/// let app = MeshLayer::new(&mesh).layer(axum::Router::<()>::new());
/// # let _ = app;
/// ```
#[derive(Clone, Debug)]
pub struct MeshLayer<C = Identity> {
    telemetry: TelemetryLayer,
    authenticate: AuthenticateLayer,
    canonical: CanonicalLayer,
    /// Before and behind `authorize`.
    limits: [RateLimitLayer; 2],
    /// Whether bodies are shown to authorizers: the layer that does it, or none.
    show: C,
    authorize: AuthorizeLayer,
}

impl MeshLayer {
    /// The rooms, counting for `link`. A request without a verified peer is refused.
    pub fn new(link: &Link) -> Self {
        Self {
            telemetry: TelemetryLayer::new(link),
            authenticate: AuthenticateLayer::new(link),
            canonical: CanonicalLayer::new(link),
            limits: [RateLimitLayer::before_guards(link), RateLimitLayer::after_guards(link)],
            show: Identity::new(),
            authorize: AuthorizeLayer::new(link),
        }
    }

    /// Shows the bodies of requests to authorizers whose configuration wants to see them ([`ShowBodyLayer`]). The service is given a
    /// [`ShownBody`](crate::show_body::ShownBody) then. Without this, what such an authorizer is to be asked about is refused.
    #[must_use]
    pub fn show_bodies(self) -> MeshLayer<ShowBodyLayer> {
        MeshLayer {
            telemetry: self.telemetry,
            authenticate: self.authenticate,
            canonical: self.canonical,
            limits: self.limits,
            show: self.authorize.show_body(),
            authorize: self.authorize,
        }
    }
}

impl<C> MeshLayer<C> {
    /// How much of a path's spelling is taken away before a policy and the service see it. Default:
    /// [`PathNormalization::DecodeAndMergeSlashes`]; a service whose names hold escaped slashes asks for less.
    #[must_use]
    pub fn paths(self, paths: PathNormalization) -> Self {
        Self {
            canonical: self.canonical.paths(paths),
            ..self
        }
    }

    /// Makes a span by `tracer` for each request whose caller's span is recorded, and for the share that the configuration wants of those that
    /// come without one (Istio `Telemetry.tracing`; none where nothing is configured). Spans go wherever that tracer's do. The service finds
    /// its span in the header `traceparent`, and calls that it makes through the mesh are part of it.
    #[must_use]
    pub fn tracer<T>(self, tracer: T) -> Self
    where
        T: Tracer + Send + Sync + 'static,
        T::Span: Send + Sync + 'static,
    {
        Self {
            telemetry: self.telemetry.tracer(tracer),
            ..self
        }
    }

    /// What the service is told of its peer's certificate in `x-forwarded-client-cert`. Default:
    /// [`ForwardedClientCert::SanitizeSet`].
    #[must_use]
    pub fn client_cert(self, forwarded: ForwardedClientCert) -> Self {
        Self {
            canonical: self.canonical.client_cert(forwarded),
            ..self
        }
    }

    /// Asks for a token of `limit` before each request, whatever is configured besides, and before anybody is asked who may call. `name`
    /// tells limits apart: layers of one name in one process have the same buckets.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mesh_core::config::{LocalRateLimit, TokenBucket};
    /// use mesh_core::{Link, Snapshot};
    /// use mesh_server::MeshLayer;
    ///
    /// let mesh = Link::fixed(Snapshot::empty(), None);
    /// // 100 a second, and 500 at once.
    /// let bucket = TokenBucket::new(500, 100, Duration::from_secs(1)).unwrap();
    /// let layer = MeshLayer::new(&mesh).local_rate_limit("payment", LocalRateLimit::new(bucket)).unwrap();
    /// # let _ = layer;
    /// ```
    ///
    /// # Errors
    ///
    /// When the limit holds more descriptors than [`LocalRateLimit::MAX_DESCRIPTORS`].
    pub fn local_rate_limit(self, name: &str, limit: LocalRateLimit) -> Result<Self, TooManyLimits> {
        let [before, behind] = self.limits;
        let limits = [before.limit(name, limit)?, behind];
        Ok(Self { limits, ..self })
    }

    /// Asks the authorizer that the configuration calls `target` by `service`: see [`AuthorizeLayer::ext_authz`].
    #[must_use]
    pub fn ext_authz<S: OutsideCaller>(self, target: impl Into<Box<str>>, service: S) -> Self {
        Self {
            authorize: self.authorize.ext_authz(target, service),
            ..self
        }
    }

    /// Asks every authorizer that a configuration names through what `make` makes of its target: `Channel::new(&link, target)`, mostly.
    /// See [`AuthorizeLayer::ext_authz_by`].
    #[must_use]
    pub fn ext_authz_by<S: OutsideCaller>(self, make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        Self {
            authorize: self.authorize.ext_authz_by(make),
            ..self
        }
    }

    /// Asks rate limit services, where a configuration names one, through what `make` makes of its name: a client of the mesh, mostly. See
    /// [`RateLimitLayer::services`].
    #[must_use]
    pub fn rate_limit_services<S: OutsideCaller>(self, make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        let [before, behind] = self.limits;
        let before = before.services(make);
        let behind = behind.same_services(&before);
        Self {
            limits: [before, behind],
            ..self
        }
    }

    /// Choices that give up the protection of the mesh.
    pub fn dangerous(self) -> Dangerous<Self> {
        Dangerous(self)
    }
}

impl<C> Dangerous<MeshLayer<C>> {
    /// Lets requests through whose sender is not known. Handlers see no [`PeerIdentity`](crate::PeerIdentity) then.
    pub fn plaintext(self) -> MeshLayer<C> {
        MeshLayer {
            authenticate: self.0.authenticate.dangerous().plaintext(),
            authorize: self.0.authorize.dangerous().plaintext(),
            ..self.0
        }
    }
}

impl<S, C> Layer<S> for MeshLayer<C>
where
    C: Layer<Authorize<RateLimited<Deadline<S>>>>,
{
    type Service = Telemetry<Authenticate<Canonical<RateLimited<C::Service>>>>;

    fn layer(&self, inner: S) -> Self::Service {
        let [before, behind] = &self.limits;
        // Outermost: what is refused below is a request, too, and counts as one.
        self.telemetry.layer(
            // Before anything that would act for the sender.
            self.authenticate.layer(
                // Before anybody asks what the request is: all behind this see the same.
                self.canonical.layer(
                    // Before what is dear to ask: a flood of bad tokens costs no signature where a limit stands here.
                    before.layer(
                        // Before those that it is shown to, and read of no more requests than there may be.
                        self.show.layer(
                            // Asked about what the handler will see, and of each request, whatever its connection was let in for.
                            self.authorize.layer(
                                // What is there for callers is not spent by who may not call.
                                behind.layer(
                                    // Around the handler and nothing else: who is refused has no say in how long.
                                    DeadlineLayer.layer(inner),
                                ),
                            ),
                        ),
                    ),
                ),
            ),
        )
    }
}
