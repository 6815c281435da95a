//! What a route does besides forwarding, and what it changes on the way.

use http::StatusCode;
use mesh_core::config::{
    DirectResponse, HostRewrite, Mirror, PathRewrite, Redirect, RedirectPath, Rewrite, Substitution, TemplateRewrite,
};

use super::common::runtime_fraction;
use super::matcher::regex_of;
use crate::proto::core::{DataSource, TypedExtensionConfig, data_source::Specifier};
use crate::proto::matcher::RegexMatchAndSubstitute;
use crate::proto::pack;
use crate::proto::path::rewrite::UriTemplateRewriteConfig;
use crate::proto::protobuf::BoolValue;
use crate::proto::route::{
    DirectResponseAction, RedirectAction, RouteAction,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    route_action::{HostRewriteSpecifier, RequestMirrorPolicy},
};

pub(super) fn redirect(redirect: &Redirect) -> RedirectAction {
    let code = match redirect.status {
        StatusCode::FOUND => RedirectResponseCode::Found,
        StatusCode::SEE_OTHER => RedirectResponseCode::SeeOther,
        StatusCode::TEMPORARY_REDIRECT => RedirectResponseCode::TemporaryRedirect,
        StatusCode::PERMANENT_REDIRECT => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let scheme = redirect.scheme.clone();
    let path = redirect.path.as_ref().and_then(|path| match path {
        RedirectPath::Whole(path) => Some(PathRewriteSpecifier::PathRedirect(path.clone().into())),
        RedirectPath::Rewritten(PathRewrite::Prefix(prefix)) => {
            Some(PathRewriteSpecifier::PrefixRewrite(prefix.clone().into()))
        }
        RedirectPath::Rewritten(PathRewrite::Regex(regex)) => {
            Some(PathRewriteSpecifier::RegexRewrite(substitution(regex)))
        }
        // There is no word for it, so nobody could have said it.
        RedirectPath::Rewritten(PathRewrite::Template(_)) => None,
    });
    RedirectAction {
        response_code: code as i32,
        scheme_rewrite_specifier: scheme.map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.into())),
        host_redirect: redirect.host.clone().unwrap_or_default().into(),
        port_redirect: redirect.port.unwrap_or_default().into(),
        path_rewrite_specifier: path,
        strip_query: redirect.strip_query,
    }
}

pub(super) fn direct_response(response: &DirectResponse) -> DirectResponseAction {
    let body = (!response.body.is_empty()).then(|| DataSource {
        specifier: Some(Specifier::InlineBytes(response.body.to_vec())),
        ..DataSource::default()
    });
    DirectResponseAction {
        status: response.status.as_u16().into(),
        body,
        ..DirectResponseAction::default()
    }
}

/// Writes how a route changes authority and path into its action.
pub(super) fn rewrite(rewrite: &Rewrite, action: &mut RouteAction) {
    match &rewrite.path {
        Some(PathRewrite::Prefix(prefix)) => action.prefix_rewrite = prefix.clone().into(),
        Some(PathRewrite::Regex(regex)) => action.regex_rewrite = Some(substitution(regex)),
        Some(PathRewrite::Template(template)) => action.path_rewrite_policy = Some(self::template(template)),
        None => {}
    }
    action.append_x_forwarded_host = rewrite.append_forwarded_host;
    action.host_rewrite_specifier = rewrite.host.as_ref().map(|host| match host {
        HostRewrite::Literal(authority) => HostRewriteSpecifier::HostRewriteLiteral(authority.to_string()),
        HostRewrite::Header(name) => HostRewriteSpecifier::HostRewriteHeader(name.to_string()),
        HostRewrite::PathRegex(regex) => HostRewriteSpecifier::HostRewritePathRegex(substitution(regex)),
        HostRewrite::Endpoint => HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true }),
    });
}

fn template(template: &TemplateRewrite) -> TypedExtensionConfig {
    let path_template_rewrite = template.as_str().into();
    TypedExtensionConfig {
        name: "envoy.path.rewrite.uri_template.uri_template_rewriter".into(),
        typed_config: Some(pack(&UriTemplateRewriteConfig { path_template_rewrite })),
    }
}

pub(super) fn substitution(value: &Substitution) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(regex_of(value.pattern())),
        substitution: value.replacement().into(),
    }
}

pub(super) fn mirror(mirror: &Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: mirror.cluster.to_string(),
        runtime_fraction: mirror.fraction.map(runtime_fraction),
        disable_shadow_host_suffix_append: !mirror.shadow_suffix,
        ..RequestMirrorPolicy::default()
    }
}
