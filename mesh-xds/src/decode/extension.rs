//! What an HTTP filter means in this process, and `TypedExtensionConfig` (ECDS), which is a filter as a resource of its own.
//!
//! A filter that is left out may be the one that kept a call from going where it must not. So what is passed over is a table
//! of types, each of which does nothing that a process without a proxy would miss; everything else is refused, unless its
//! listener calls it optional (gRFC A39).

use std::sync::Arc;

use mesh_core::config::FilterKind;
use prost::{Message, Name};

use super::common::decode_whole;
use super::{Context, Fault, Notes, Resource, fault, session};
use crate::bootstrap::Profile;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::fault::HttpFault;
use crate::proto::protobuf::Any;
use crate::proto::rbac_http::Rbac;
use crate::proto::router::Router;
use crate::proto::stateful_session::StatefulSession;
use crate::proto::{TYPED_STRUCTS, TypedStruct};
use crate::resource::{Extension, Filter, ResourceKind};

/// Filters that istiod gives every sidecar and that mean nothing in process, by type; and why they do not.
const NO_OPS: [(&str, Means); 9] = [
    // Which ALPN the proxy offers upstream: the data plane here offers its own.
    (
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        Means::Nothing,
    ),
    // Answers browsers, by what routes say of it: nothing is said here.
    ("envoy.extensions.filters.http.cors.v3.Cors", Means::NothingWhenEmpty),
    // Counts: the data plane counts for itself.
    (
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        Means::Nothing,
    ),
    ("stats.PluginConfig", Means::Nothing),
    // Tells the other proxy who this one is.
    ("io.istio.http.peer_metadata.Config", Means::Nothing),
    ("envoy.tcp.metadataexchange.config.MetadataExchange", Means::Nothing),
    // Resolves where a request goes before its cluster is called: that is done when it is called.
    (
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        Means::Nothing,
    ),
    // Translate for clients that do not speak gRPC.
    ("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", Means::Nothing),
    (
        "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config",
        Means::Nothing,
    ),
];

/// Filters that keep calls out. They are never passed over at a server, even when they are called optional.
const GUARDS: [&str; 10] = [
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz",
    "istio.envoy.config.filter.http.authn.v2alpha1.FilterConfig",
    "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
    "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
    "envoy.extensions.filters.http.oauth2.v3.OAuth2",
    "envoy.extensions.filters.http.csrf.v3.CsrfPolicy",
];

#[derive(Clone, Copy, PartialEq)]
enum Means {
    Nothing,
    NothingWhenEmpty,
}

impl Resource for Extension {
    const KIND: ResourceKind = ResourceKind::ExtensionConfig;
    type Proto = TypedExtensionConfig;

    fn name(proto: &TypedExtensionConfig) -> &str {
        &proto.name
    }

    /// A filter that is not supported is a good resource all the same: what becomes of it is for the listener to say.
    fn decode(proto: &TypedExtensionConfig, context: &Context, notes: &mut Notes) -> Result<Self, Fault> {
        let any = proto
            .typed_config
            .as_ref()
            .ok_or_else(|| Fault::new("typed_config", "is missing"))?;
        let (type_url, filter) = meaning(any, context, notes).map_err(|fault| fault.within("typed_config"))?;
        if let Filter::Unsupported(why) = &filter {
            notes.add(why);
        }
        Ok(Self { type_url, filter })
    }
}

/// The filter's type, by URL, and what it means.
pub(super) fn meaning(any: &Any, context: &Context, notes: &mut Notes) -> Result<(Box<str>, Filter), Fault> {
    let (type_url, empty) = inner_type(any)?;
    let name = type_name(&type_url);
    if name == HttpFault::full_name() {
        // An empty one is the place where routes hang their faults.
        let filter = match (any.type_url == type_url, empty) {
            (true, _) => Filter::Call(fault::read(&any.value, context, notes)?.into()),
            (false, true) => Filter::Call(FilterKind::Fault(Arc::default())),
            (false, false) => Filter::Unsupported("a fault that is written as JSON is not read".into()),
        };
        return Ok((type_url.into(), filter));
    }
    if name == StatefulSession::full_name() {
        // So is an empty one of these.
        let filter = match (any.type_url == type_url, empty) {
            (true, _) => Filter::Call(session::read(&any.value, notes)?.into()),
            (false, true) => Filter::Call(FilterKind::Session(Arc::default())),
            (false, false) => Filter::Unsupported("a session that is written as JSON is not read".into()),
        };
        return Ok((type_url.into(), filter));
    }
    if name == Rbac::full_name() && context.profile == Profile::Envoy && asks_nothing(any, &type_url, empty) {
        return Ok((type_url.into(), Filter::NoOp));
    }
    let known = NO_OPS.iter().find(|(known, _)| *known == name);
    let filter = match known {
        _ if name == Router::full_name() => Filter::Router,
        // What a gRPC client is sent is judged by gRPC's rules: filters that do something to calls are all that it is ever sent besides.
        Some(_) if context.profile == Profile::Grpc => unsupported(&type_url),
        Some((_, means)) if empty || *means == Means::Nothing => Filter::NoOp,
        Some(_) => {
            Filter::Unsupported(format!("filter type {type_url:?} with a configuration is not supported").into())
        }
        None if is_guard(&type_url) => {
            Filter::Unsupported(format!("filter type {type_url:?} guards, and is not enforced here").into())
        }
        None => unsupported(&type_url),
    };
    Ok((type_url.into(), filter))
}

/// Whether an RBAC filter keeps nobody out: without `rules` and `matcher` it enforces nothing (Envoy: "If absent, no enforcing RBAC policy will
/// be applied"), and its dry run changes nothing. Istio puts one in the place of a plugin that may be left out.
fn asks_nothing(any: &Any, type_url: &str, empty: bool) -> bool {
    if any.type_url != type_url {
        return empty;
    }
    // What is not known of it may be what it enforces.
    decode_whole::<Rbac>(&any.value).is_ok_and(|rbac| rbac.rules.is_none() && rbac.matcher.is_none())
}

/// Whether a type, by URL, is that of a filter that keeps calls out.
pub(super) fn is_guard(type_url: &str) -> bool {
    GUARDS.contains(&type_name(type_url))
}

fn unsupported(type_url: &str) -> Filter {
    Filter::Unsupported(format!("filter type {type_url:?} is not supported").into())
}

/// The type that a configuration has in truth, and whether it says nothing.
fn inner_type(any: &Any) -> Result<(String, bool), Fault> {
    if !TYPED_STRUCTS.contains(&type_name(&any.type_url)) {
        return Ok((any.type_url.clone(), any.value.is_empty()));
    }
    let wrapped = TypedStruct::decode(&*any.value).map_err(|error| Fault::new("", error))?;
    Ok((wrapped.type_url, wrapped.value.is_empty()))
}

/// A type's full name, by its URL.
pub(super) fn type_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}
