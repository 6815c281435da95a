//! What a rule does to requests beside sending them somewhere, as the core's actions, header rules and faults.
//!
//! Order and precedence are Istio's: a share's header edits come after its rule's and have the last word; the authority of
//! `rewrite` comes before one that `headers` sets; a fault strikes before a request is sent and before any retry.

use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderName, StatusCode};
use mesh_core::config::{
    Abort, Action, AppendAction, CallFilter, ClusterName, Delay, DirectResponse, Fault, FaultAbort, FaultDelay,
    FilterKind, FilterOverride, Forward, Fraction, HeaderEdit, HeaderEdits, HeaderFormat, HeaderRules, HostRewrite,
    Mirror, Override, PathRewrite, Per, Redirect, RedirectPath, Rewrite, Split, Substitution,
};

use super::{Findings, View, split};
use crate::diagnostic::{Code, Severity};
use crate::istio::{
    AbortStatus, At, HeaderOp, HeaderOps, HttpDirectResponse, HttpFault, HttpRedirect, HttpRewrite, HttpRoute, Meta,
    Place,
};

/// The filter of a client's listener that faults are said of (Envoy's and Istio's name).
const FAULT: &str = "envoy.filters.http.fault";
/// What Istio writes before a redirect's path that takes the place of the matched prefix alone.
const PREFIX: &str = "%PREFIX()%";

/// What becomes of the requests of a rule for a client that addressed `port`; `None` when something in it is wrong.
pub(super) fn action(view: &mut View<'_, '_>, meta: &Meta, http: &HttpRoute, port: Option<u32>) -> Option<Action> {
    if let Some(redirect) = &http.redirect {
        let redirect = self::redirect(meta, redirect, port, view.findings)?;
        return Some(Action::Redirect(Box::new(redirect)));
    }
    if let Some(response) = &http.direct_response {
        return Some(Action::Respond(direct(meta, response, view.findings)?));
    }
    let split = split::split(view, meta, http, port)?;
    let mirrors = mirrors(view, meta, http, port)?;
    forwarded(view, meta, http, split, mirrors)
}

/// The same of requests that are divided and copied so.
pub(super) fn forwarded(
    view: &mut View<'_, '_>,
    meta: &Meta,
    http: &HttpRoute,
    split: Split,
    mirrors: Vec<Mirror>,
) -> Option<Action> {
    let rewrite = rewrite(meta, http, view.findings);
    Some(Action::Forward(Forward {
        rewrite: rewrite?.map(Box::new),
        mirrors,
        ..Forward::from(split)
    }))
}

/// The header edits of a rule.
pub(super) fn headers(meta: &Meta, http: &HttpRoute, findings: &mut Findings) -> Option<Arc<HeaderRules>> {
    rules(meta, http.headers.as_ref()?, findings).0.shared()
}

/// What a rule says of the fault filter.
pub(super) fn fault(meta: &Meta, http: &HttpRoute, findings: &mut Findings) -> Vec<FilterOverride> {
    let fault = http.fault.as_ref().map(|fault| of_fault(meta, fault, findings));
    let fault = fault.filter(|fault| !fault.is_empty());
    let said = fault.map(|fault| FilterOverride {
        filter: FAULT.into(),
        what: Override::With(FilterKind::from(fault)),
    });
    said.into_iter().collect()
}

/// The filters of a client's listener whose routes say these things: one that does nothing by itself, as Istio's.
pub(super) fn filters<'a>(mut said: impl Iterator<Item = &'a FilterOverride>) -> Vec<CallFilter> {
    match said.any(|one| &*one.filter == FAULT) {
        true => vec![CallFilter::new(FAULT, FilterKind::from(Fault::default()))],
        false => Vec::new(),
    }
}

/// A share's header edits, and the authority that they set.
pub(super) fn of_share(
    meta: &Meta,
    ops: Option<&HeaderOps>,
    findings: &mut Findings,
) -> (Option<Arc<HeaderRules>>, Option<Authority>) {
    let Some(ops) = ops else { return (None, None) };
    let (rules, host) = rules(meta, ops, findings);
    (rules.shared(), host)
}

fn rules(meta: &Meta, ops: &HeaderOps, findings: &mut Findings) -> (HeaderRules, Option<Authority>) {
    let (request, host) = edits(meta, &ops.request, findings);
    let (response, _) = edits(meta, &ops.response, findings);
    (HeaderRules { request, response }, host)
}

/// Edits of one head, and the authority among them: Istio takes `set` of `:authority` and `host` for a rewrite of it, and leaves out
/// whatever else begins with a colon.
fn edits(meta: &Meta, op: &HeaderOp, findings: &mut Findings) -> (HeaderEdits, Option<Authority>) {
    let (mut edits, mut authority) = (HeaderEdits::default(), None);
    let mut wrong = |place: &Place, message: String| {
        findings.say(meta, Severity::Error, Code::Schema, place, message);
    };
    let set = op.set.iter().map(|pair| (pair, AppendAction::OverwriteIfExistsOrAdd));
    let add = op.add.iter().map(|pair| (pair, AppendAction::AppendIfExistsOrAdd));
    for ((name, value), action) in set.chain(add) {
        let is_host = name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host");
        if is_host && action == AppendAction::OverwriteIfExistsOrAdd {
            match Authority::try_from(value.as_str()) {
                Ok(host) => authority = Some(host),
                Err(_) => wrong(&value.place, format!("{:?} is no authority", **value)),
            }
            continue;
        }
        let edit = name
            .parse::<HeaderName>()
            .map_err(|_| format!("{name:?} is not the name of a header"));
        let edit = edit.and_then(|name| {
            let format = HeaderFormat::parse(value).map_err(|error| error.to_string())?;
            HeaderEdit::new(name, format, action).map_err(|error| error.to_string())
        });
        match edit {
            Ok(edit) => edits.add.push(edit),
            Err(why) => wrong(&value.place, why),
        }
    }
    for name in &op.remove {
        match name.parse::<HeaderName>() {
            Ok(header) if HeaderEdit::may_be_edited(&header) => edits.remove.push(header),
            _ => wrong(&name.place, format!("{:?} is no header that may be taken out", **name)),
        }
    }
    (edits, authority)
}

/// The rewrite of a rule: its own, and the authority that its header edits set. `None` when it is wrong.
fn rewrite(meta: &Meta, http: &HttpRoute, findings: &mut Findings) -> Option<Option<Rewrite>> {
    let set = http
        .headers
        .as_ref()
        .and_then(|ops| rules(meta, ops, &mut Findings::default()).1);
    let Some(rewrite) = &http.rewrite else {
        return Some(set.map(|host| Rewrite {
            host: Some(HostRewrite::Literal(host)),
            ..Rewrite::default()
        }));
    };
    let own = authority(meta, rewrite, findings)?;
    let path = match (&rewrite.uri, &rewrite.regex) {
        (Some(uri), _) => Some(PathRewrite::Prefix(uri.as_str().into())),
        (None, Some((pattern, replacement))) => match Substitution::new(pattern, replacement) {
            Ok(substitution) => Some(PathRewrite::Regex(substitution)),
            Err(error) => {
                findings.say(meta, Severity::Error, Code::Schema, &pattern.place, error.to_string());
                return None;
            }
        },
        (None, None) => None,
    };
    Some(Some(Rewrite {
        host: own.or(set).map(HostRewrite::Literal),
        append_forwarded_host: false,
        path,
    }))
}

fn authority(meta: &Meta, rewrite: &HttpRewrite, findings: &mut Findings) -> Option<Option<Authority>> {
    let Some(text) = &rewrite.authority else {
        return Some(None);
    };
    match Authority::try_from(text.as_str()) {
        Ok(authority) => Some(Some(authority)),
        Err(_) => {
            let message = format!("{:?} is no authority", **text);
            findings.say(meta, Severity::Error, Code::Schema, &text.place, message);
            None
        }
    }
}

fn redirect(meta: &Meta, redirect: &HttpRedirect, port: Option<u32>, findings: &mut Findings) -> Option<Redirect> {
    let written = redirect.status.as_ref().filter(|status| status.value != 0);
    let status = written.map_or(301, |status| status.value);
    let status = u16::try_from(status)
        .ok()
        .filter(|code| [301, 302, 303, 307, 308].contains(code));
    let Some(status) = status.and_then(|code| StatusCode::from_u16(code).ok()) else {
        let place = written.map_or(&redirect.place, |at| &at.place);
        let message = "a redirect's status is 301, 302, 303, 307 or 308";
        findings.say(meta, Severity::Error, Code::Schema, place, message);
        return None;
    };
    let text = |at: &Option<At<String>>| {
        let text = at.as_ref().map(|at| at.as_str()).filter(|text| !text.is_empty());
        text.map(Box::<str>::from)
    };
    let path = text(&redirect.uri).map(|uri| match uri.strip_prefix(PREFIX) {
        Some(prefix) => RedirectPath::Rewritten(PathRewrite::Prefix(prefix.into())),
        None => RedirectPath::Whole(uri),
    });
    let asked = redirect.port.as_ref().map(|port| port.value);
    let port = asked.or_else(|| port.filter(|_| redirect.request_port));
    Some(Redirect {
        status,
        scheme: text(&redirect.scheme),
        host: text(&redirect.authority),
        port: port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        path,
        strip_query: false,
    })
}

fn direct(meta: &Meta, response: &HttpDirectResponse, findings: &mut Findings) -> Option<DirectResponse> {
    let status = u16::try_from(response.status.value)
        .ok()
        .filter(|status| *status >= 200);
    let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
        let message = "the status of an answer is between 200 and 599";
        findings.say(meta, Severity::Error, Code::Schema, &response.status.place, message);
        return None;
    };
    if response.body.len() > DirectResponse::DEFAULT_MAX_BODY_BYTES {
        let message = format!("a body has at most {} bytes", DirectResponse::DEFAULT_MAX_BODY_BYTES);
        findings.say(meta, Severity::Error, Code::Schema, &response.status.place, message);
        return None;
    }
    Some(DirectResponse {
        status,
        body: Bytes::from(response.body.clone()),
    })
}

fn of_fault(meta: &Meta, fault: &HttpFault, findings: &mut Findings) -> Fault {
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        fraction: fraction(delay.share),
        delay: Delay::Fixed(delay.fixed.value),
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let status = match &abort.status {
            AbortStatus::Grpc(code) => Abort::Grpc(*code),
            AbortStatus::Http(status) => {
                let code = u16::try_from(status.value).ok().filter(|code| *code >= 200);
                let Some(code) = code.and_then(|code| StatusCode::from_u16(code).ok()) else {
                    let message = "the status of an abort is between 200 and 599";
                    findings.say(meta, Severity::Error, Code::Schema, &status.place, message);
                    return None;
                };
                Abort::Http(code)
            }
        };
        Some(FaultAbort {
            fraction: fraction(abort.share),
            abort: status,
            body: "".into(),
        })
    });
    Fault {
        delay: delay.filter(|delay| delay.fraction.of > 0),
        abort: abort.filter(|abort| abort.fraction.of > 0),
        ..Fault::default()
    }
}

/// Thousandths of a percent as parts of a million.
fn fraction(share: u32) -> Fraction {
    Fraction {
        of: share * 10,
        per: Per::Million,
    }
}

fn mirrors(view: &mut View<'_, '_>, meta: &Meta, http: &HttpRoute, port: Option<u32>) -> Option<Vec<Mirror>> {
    let mut mirrors = Vec::new();
    for mirror in &http.mirrors {
        let cluster = split::target(view, meta, &mirror.destination, port, mirror.share > 0)?;
        mirrors.extend(self::mirror(cluster, mirror.share));
    }
    Some(mirrors)
}

/// A copy of a share of the calls, in thousandths of a percent; `None`: of none.
pub(super) fn mirror(cluster: ClusterName, share: u32) -> Option<Mirror> {
    let fraction = fraction(share);
    (share > 0).then(|| Mirror {
        cluster,
        fraction: (fraction.of < fraction.per.count()).then_some(fraction),
        shadow_suffix: true,
    })
}
