//! What the two variants of the protocol have in common on the serving end.

use std::fmt;

use tokio::time::Instant;
use tonic::Status;

use super::clients::SubscriptionReport;
use super::encoded::View;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::Variant;

/// Make before break: nothing is named before it is there (xDS protocol, "Eventual consistency considerations"). Order alone
/// is not enough for a client that warms clusters, see [`warming`](super::warming).
pub(super) const SEND_ORDER: [ResourceKind; ResourceKind::COUNT] = [
    ResourceKind::Cluster,
    ResourceKind::Endpoints,
    ResourceKind::ExtensionConfig,
    ResourceKind::Listener,
    ResourceKind::Route,
];

/// The name that asks for everything (xDS protocol, "Wildcard").
pub(super) const WILDCARD: &str = "*";

/// The most names of one kind that one stream may be subscribed to. Ten times the largest mesh that is planned for; each
/// costs some hundred bytes, here and in the client, and a client that adds names without end is broken or hostile.
pub(super) const MAX_NAMES: usize = 100_000;

/// The most unanswered responses of one kind that are remembered. A client that lags further behind goes on being served; what
/// it says to older ones is not reported.
pub(super) const MAX_UNANSWERED: usize = 64;

/// The server's side of one stream: requests in, responses pulled out by whoever has room to send one.
pub(super) trait Machine: Send + 'static {
    type Variant: Variant;

    fn new(dialect: Dialect) -> Self;

    /// Takes a request in.
    ///
    /// # Errors
    ///
    /// When the stream cannot go on after it.
    fn on_request(&mut self, request: <Self::Variant as Variant>::Request) -> Result<(), Misuse>;

    /// What to send next, if anything differs from what was sent and need not wait for something else.
    fn next_response(&mut self, published: &View, now: Instant) -> Option<<Self::Variant as Variant>::Response>;

    /// When to ask again although nothing was said or published: something waits, and will have waited long enough.
    fn wakes(&self) -> Option<Instant>;

    /// Waits that took too long since this was last asked.
    fn take_overdue(&mut self) -> Overdue;

    fn report(&self) -> Vec<SubscriptionReport>;
}

/// How often something was said although its client was not ready for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    /// Clusters that routes lead to and that the client did not warm in time.
    pub(super) cold: u64,
    /// Clusters that are no more, and that the client asks for still.
    pub(super) missed: u64,
}

/// What a client may not do. It ends the stream; nobody else notices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misuse {
    /// Of the aggregated service, which must be told what is asked for.
    NoType,
    /// Of a service of one type.
    AnotherType { asked: String, served: ResourceKind },
    /// More than [`MAX_NAMES`].
    TooManyNames(ResourceKind),
}

/// Settles the type that a request is about. The service of one type takes an empty one for its own and no other; the
/// aggregated service (`only` is `None`) takes any but an empty one (xDS protocol, "ADS").
pub(super) fn settle_type(only: Option<ResourceKind>, type_url: &mut String) -> Result<(), Misuse> {
    match only {
        None if type_url.is_empty() => Err(Misuse::NoType),
        None => Ok(()),
        Some(served) if type_url.is_empty() => {
            served.type_url().clone_into(type_url);
            Ok(())
        }
        Some(served) if type_url == served.type_url() => Ok(()),
        Some(served) => Err(Misuse::AnotherType {
            asked: std::mem::take(type_url),
            served,
        }),
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoType => f.write_str("type_url: empty on an aggregated stream"),
            Self::AnotherType { asked, served } => write!(
                f,
                "type_url: {asked:?} on a stream of {served} resources ({})",
                served.type_url()
            ),
            Self::TooManyNames(kind) => write!(f, "resource_names: more than {MAX_NAMES} of kind {kind}"),
        }
    }
}

impl From<Misuse> for Status {
    fn from(misuse: Misuse) -> Self {
        let text = misuse.to_string();
        match misuse {
            Misuse::NoType | Misuse::AnotherType { .. } => Self::invalid_argument(text),
            Misuse::TooManyNames(_) => Self::resource_exhausted(text),
        }
    }
}
