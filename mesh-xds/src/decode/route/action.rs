//! What a route does besides forwarding, and what it changes on the way: redirects, direct responses, rewrites, mirrors.

use http::uri::Authority;
use http::{HeaderName, HeaderValue, StatusCode};
use mesh_core::config::{
    Action, DirectResponse, HostRewrite, Mirror, PathMatch, PathRewrite, Redirect, RedirectPath, Rewrite, RouteMatch,
    Substitution, TemplateRewrite,
};
use prost::Name as _;

use crate::bootstrap::Profile;
use crate::decode::common::{runtime_fraction, unpack};
use crate::decode::{Context, Fault, Notes};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::core::data_source::Specifier;
use crate::proto::matcher::RegexMatchAndSubstitute;
use crate::proto::path::rewrite::UriTemplateRewriteConfig;
use crate::proto::route::{
    DirectResponseAction, RedirectAction, RouteAction,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    route_action::{HostRewriteSpecifier, RequestMirrorPolicy},
};

pub(super) fn redirect(proto: &RedirectAction) -> Result<Action, Fault> {
    let unknown = || Fault::new("response_code", format!("is not known: {}", proto.response_code));
    let status = match RedirectResponseCode::try_from(proto.response_code).map_err(|_| unknown())? {
        RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
        RedirectResponseCode::Found => StatusCode::FOUND,
        RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
        RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
        RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
    };
    let scheme = match &proto.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => text("scheme_redirect", scheme)?,
        Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
    };
    let path = match &proto.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(path)) => text("path_redirect", path)?.map(RedirectPath::Whole),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            text("prefix_rewrite", prefix)?.map(|prefix| RedirectPath::Rewritten(PathRewrite::Prefix(prefix)))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            let regex = substitution("regex_rewrite", regex)?;
            Some(RedirectPath::Rewritten(PathRewrite::Regex(regex)))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Ok(Action::Unserved("a redirect with path_rewrite".into()));
        }
        None => None,
    };
    let port = u16::try_from(proto.port_redirect);
    let port = port.map_err(|_| Fault::new("port_redirect", format!("is not a port: {}", proto.port_redirect)))?;
    Ok(Action::Redirect(Box::new(Redirect {
        status,
        scheme,
        host: text("host_redirect", &proto.host_redirect)?,
        port: (port != 0).then_some(port),
        path,
        strip_query: proto.strip_query,
    })))
}

/// A text that will stand in a header; empty: none.
fn text(field: &str, text: &str) -> Result<Option<Box<str>>, Fault> {
    if HeaderValue::from_str(text).is_err() {
        return Err(Fault::new(field, "cannot stand in a header"));
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

/// `max_body` is the configuration's own limit.
pub(super) fn direct_response(
    proto: &DirectResponseAction,
    max_body: Option<u32>,
    notes: &mut Notes,
) -> Result<Action, Fault> {
    let status = u16::try_from(proto.status)
        .ok()
        .filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| Fault::new("status", format!("is not from 200 to 599: {}", proto.status)))?;
    let body = match proto.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => Vec::new(),
        Some(Specifier::InlineString(text)) => text.as_bytes().to_vec(),
        Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
        // Files and variables belong to the process; what a control plane says must not bring them to callers.
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return Ok(Action::Unserved(
                "a direct response whose body is not in the configuration".into(),
            ));
        }
    };
    let max = max_body.map_or(DirectResponse::DEFAULT_MAX_BODY_BYTES, |max| max as usize);
    if body.len() > max {
        let reason = format!("has {} bytes, and may have {max}", body.len());
        return Err(Fault::new("body", reason));
    }
    if proto.body_format.is_some() {
        notes.add("a direct response's body_format is not applied");
    }
    Ok(Action::Respond(DirectResponse {
        status,
        body: body.into(),
    }))
}

/// Reads how a route changes authority and path. The inner error is what it asks for that is not served: a call with another
/// path than was meant is worse than none.
pub(super) fn rewrite(
    action: &RouteAction,
    matches: &RouteMatch,
    context: &Context,
    notes: &mut Notes,
) -> Result<Result<Option<Box<Rewrite>>, &'static str>, Fault> {
    let ways = [
        ("prefix_rewrite", !action.prefix_rewrite.is_empty()),
        ("regex_rewrite", action.regex_rewrite.is_some()),
        ("path_rewrite_policy", action.path_rewrite_policy.is_some()),
        ("path_rewrite", !action.path_rewrite.is_empty()),
    ];
    let mut used = ways.iter().filter(|(_, used)| *used);
    let first = used.next();
    if let Some((second, _)) = used.next() {
        return Err(Fault::new(*second, "stands beside another rewrite of the path"));
    }
    let path = match first {
        Some(("prefix_rewrite", _)) => text("prefix_rewrite", &action.prefix_rewrite)?.map(PathRewrite::Prefix),
        Some(("path_rewrite_policy", _)) => {
            let policy = action.path_rewrite_policy.as_ref();
            match policy.map(|policy| template(policy, matches)).transpose()? {
                Some(Ok(template)) => Some(PathRewrite::Template(template)),
                Some(Err(what)) => return Ok(Err(what)),
                None => None,
            }
        }
        Some(("path_rewrite", _)) => return Ok(Err("path_rewrite")),
        _ => {
            let regex = action
                .regex_rewrite
                .as_ref()
                .map(|regex| substitution("regex_rewrite", regex));
            regex.transpose()?.map(PathRewrite::Regex)
        }
    };
    let host = match &action.host_rewrite_specifier {
        Some(HostRewriteSpecifier::HostRewriteLiteral(literal)) => {
            authority("host_rewrite_literal", literal)?.map(HostRewrite::Literal)
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(header)) => {
            let name = HeaderName::from_bytes(header.as_bytes());
            let name =
                name.map_err(|_| Fault::new("host_rewrite_header", format!("is not a header name: {header:?}")))?;
            Some(HostRewrite::Header(name))
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
            Some(HostRewrite::PathRegex(substitution("host_rewrite_path_regex", regex)?))
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => {
            // gRFC A81: only a control plane that the bootstrap trusts may let endpoints name authorities.
            let may = context.trusted || context.profile == Profile::Envoy;
            if auto.value && !may {
                notes.add("auto_host_rewrite is not applied: the bootstrap does not call the control plane trusted_xds_server");
            }
            (auto.value && may).then_some(HostRewrite::Endpoint)
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => return Ok(Err("host_rewrite")),
        None => None,
    };
    let any = path.is_some() || host.is_some();
    Ok(Ok(any.then(|| {
        Box::new(Rewrite {
            // Where no authority takes another's place there is nothing to tell.
            append_forwarded_host: action.append_x_forwarded_host && host.is_some(),
            host,
            path,
        })
    })))
}

/// The inner error is a policy that is not served.
fn template(
    policy: &TypedExtensionConfig,
    matches: &RouteMatch,
) -> Result<Result<TemplateRewrite, &'static str>, Fault> {
    let field = "path_rewrite_policy.typed_config";
    let any = policy
        .typed_config
        .as_ref()
        .ok_or_else(|| Fault::new(field, "is missing"))?;
    if any.type_url != UriTemplateRewriteConfig::type_url() {
        return Ok(Err("path_rewrite_policy"));
    }
    let config: UriTemplateRewriteConfig = unpack(field, any)?;
    let PathMatch::Template(shape) = &matches.path else {
        return Err(Fault::new(field, "is a template, and the route does not match by one"));
    };
    let text = &config.path_template_rewrite;
    let read = TemplateRewrite::parse(text, shape);
    read.map(Ok)
        .map_err(|error| Fault::new(format!("{field}.path_template_rewrite"), error))
}

/// An authority; empty: none.
pub(super) fn authority(field: &str, text: &str) -> Result<Option<Authority>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = Authority::try_from(text);
    read.map(Some)
        .map_err(|error| Fault::new(field, format!("{text:?}: {error}")))
}

pub(super) fn substitution(field: &str, proto: &RegexMatchAndSubstitute) -> Result<Substitution, Fault> {
    let pattern = proto.pattern.as_ref();
    let pattern = pattern.ok_or_else(|| Fault::new(format!("{field}.pattern"), "is missing"))?;
    Substitution::new(&pattern.regex, &proto.substitution).map_err(|error| Fault::new(field, error))
}

/// Of a route, its virtual host and its configuration the first that says anything is heard, and alone (Envoy).
pub(super) fn mirrors(places: [&[RequestMirrorPolicy]; 3], notes: &mut Notes) -> Result<Vec<Mirror>, Fault> {
    let heard = places
        .into_iter()
        .find(|policies| !policies.is_empty())
        .unwrap_or_default();
    let mut mirrors = Vec::with_capacity(heard.len());
    for (index, proto) in heard.iter().enumerate() {
        let read =
            mirror(proto, notes).map_err(|fault| fault.within(format_args!("request_mirror_policies[{index}]")))?;
        mirrors.extend(read);
    }
    Ok(mirrors)
}

fn mirror(proto: &RequestMirrorPolicy, notes: &mut Notes) -> Result<Option<Mirror>, Fault> {
    if !proto.cluster_header.is_empty() {
        notes.add("a mirror whose cluster is named by a header is left out");
        return Ok(None);
    }
    if proto.cluster.is_empty() {
        return Err(Fault::new("cluster", "is empty"));
    }
    if !proto.request_headers_mutations.is_empty() || !proto.host_rewrite_literal.is_empty() {
        notes.add("what a mirror changes of its copies' heads is not applied");
    }
    let fraction = proto.runtime_fraction.as_ref().map(runtime_fraction).transpose();
    Ok(Some(Mirror {
        cluster: proto.cluster.as_str().into(),
        fraction: fraction.map_err(|fault| fault.within("runtime_fraction"))?,
        shadow_suffix: !proto.disable_shadow_host_suffix_append,
    }))
}
