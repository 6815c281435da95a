//! What the two variants of the protocol have in common on the serving end.

use super::clients::SubscriptionReport;
use super::encoded::Encoded;
use crate::encode::Dialect;
use crate::resource::ResourceKind;
use crate::wire::Variant;

/// Make before break: nothing is named before it is there (xDS protocol, "Eventual consistency considerations").
pub(super) const SEND_ORDER: [ResourceKind; ResourceKind::COUNT] = [
    ResourceKind::Cluster,
    ResourceKind::Endpoints,
    ResourceKind::ExtensionConfig,
    ResourceKind::Listener,
    ResourceKind::Route,
];

/// The name that asks for everything (xDS protocol, "Wildcard").
pub(super) const WILDCARD: &str = "*";

/// The server's side of one stream: requests in, responses pulled out by whoever has room to send one.
pub(super) trait Machine: Send + 'static {
    type Variant: Variant;

    fn new(dialect: Dialect) -> Self;

    /// Takes a request in.
    fn on_request(&mut self, request: <Self::Variant as Variant>::Request);

    /// What to send next, if anything differs from what was sent.
    fn next_response(&mut self, published: &Encoded) -> Option<<Self::Variant as Variant>::Response>;

    fn report(&self) -> Vec<SubscriptionReport>;
}
