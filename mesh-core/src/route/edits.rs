//! All that a route and what stands above it do to the head of a call: resolved once, when the configuration is.
//!
//! The rules of a share, a route, a virtual host and a whole configuration are applied in this order, so that what stands
//! farther away has the last word, or in the opposite one where the configuration asks for it. In each place what is removed
//! goes first, then overwrites, then additions; values are made of what stood there before. Host and path come last (all as
//! Envoy does).

use std::sync::Arc;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::head::has;
use super::value::{Known, format};
use super::{InvalidRewrite, RequestHead, rewrite};
use crate::config::{
    AppendAction, HeaderEdit, HeaderEdits, HeaderRules, HostRewrite, Rewrite, Route, RouteMatch, RouteTree,
    VirtualHost, WeightedCluster,
};

/// What is done to the heads of the calls that a route gives to a cluster.
#[derive(Clone, Debug)]
pub struct Edits {
    rules: Vec<Arc<HeaderRules>>,
    rewrite: Option<Box<Rewrite>>,
    share_host: Option<Authority>,
    matches: RouteMatch,
    route: Box<str>,
    cluster: Box<str>,
}

/// What is remembered of a request for the headers of its answer.
#[derive(Debug)]
pub struct Answer {
    edits: Arc<Edits>,
    asked: Option<Box<Asked>>,
}

#[derive(Debug)]
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    target: Box<str>,
}

impl Edits {
    /// What is done to calls of `route` that fall into `share`, or that it answers by itself. `None`: nothing.
    pub fn of(tree: &RouteTree, host: &VirtualHost, route: &Route, share: Option<&WeightedCluster>) -> Option<Self> {
        let of_share = share.and_then(|share| share.headers.as_ref());
        let mut rules = vec![
            of_share,
            route.headers.as_ref(),
            host.headers.as_ref(),
            tree.headers.as_ref(),
        ];
        if tree.closest_rules_last {
            rules.reverse();
        }
        let rules: Vec<_> = rules.into_iter().flatten().cloned().collect();
        let rewrite = share.and_then(|_| route.forward()?.rewrite.clone());
        let share_host = share.and_then(|share| share.host.clone());
        if rules.is_empty() && rewrite.is_none() && share_host.is_none() {
            return None;
        }
        Some(Self {
            rules,
            rewrite,
            share_host,
            matches: route.matches.clone(),
            route: route.name.clone(),
            cluster: share.map_or("", |share| share.cluster.as_str()).into(),
        })
    }

    /// Edits the request's head, and keeps what the answer's edits will ask for.
    ///
    /// # Errors
    ///
    /// When its path cannot be rewritten.
    pub fn apply(
        self: &Arc<Self>,
        method: &Method,
        uri: &mut Uri,
        headers: &mut HeaderMap,
        target: &str,
    ) -> Result<Option<Answer>, InvalidRewrite> {
        let answer = self.answer(|| Asked {
            method: method.clone(),
            uri: uri.clone(),
            headers: headers.clone(),
            target: target.into(),
        });
        for rules in &self.rules {
            remove(&rules.request, headers);
            add(&rules.request, headers, |edit, headers| {
                let head = RequestHead {
                    method,
                    uri,
                    headers,
                    target,
                };
                let known = Known {
                    request: Some(head),
                    response: None,
                    route: &self.route,
                    cluster: &self.cluster,
                };
                format(edit.value(), &known)
            });
        }
        let head = RequestHead {
            method,
            uri,
            headers,
            target,
        };
        let rewritten = rewrite::apply(self.rewrite.as_deref(), self.share_host.as_ref(), &self.matches, head)?;
        rewritten.write(uri, headers);
        Ok(answer)
    }

    /// Whether calls go by the name of the endpoint that each try finds ([`by_endpoint`](Self::by_endpoint)).
    pub fn asks_endpoint(&self) -> bool {
        let host = self.rewrite.as_ref().and_then(|rewrite| rewrite.host.as_ref());
        matches!(host, Some(HostRewrite::Endpoint))
    }

    /// Gives one try's head the endpoint's name for its authority (Envoy `auto_host_rewrite`). A name that is no authority
    /// changes nothing.
    pub fn by_endpoint(&self, name: &str, uri: &mut Uri, headers: &mut HeaderMap, target: &str) {
        let Ok(name) = Authority::try_from(name) else { return };
        let head = RequestHead {
            method: &Method::GET,
            uri,
            headers,
            target,
        };
        let asked = head.authority().to_owned();
        let append = self
            .rewrite
            .as_ref()
            .is_some_and(|rewrite| rewrite.append_forwarded_host);
        rewrite::to_endpoint(name, append, uri, headers, asked);
    }

    /// Edits the head of an answer that the route gives by itself.
    pub fn apply_to_own(self: &Arc<Self>, request: &RequestHead<'_>, status: StatusCode, headers: &mut HeaderMap) {
        let answer = self.answer(|| Asked {
            method: request.method.clone(),
            uri: request.uri.clone(),
            headers: request.headers.clone(),
            target: request.target.into(),
        });
        if let Some(answer) = answer {
            answer.apply(status, headers);
        }
    }

    fn answer(self: &Arc<Self>, asked: impl FnOnce() -> Asked) -> Option<Answer> {
        if self.rules.iter().all(|rules| rules.response.is_empty()) {
            return None;
        }
        let mut added = self.rules.iter().flat_map(|rules| &rules.response.add);
        let asks = added.any(|edit| edit.value().asks_the_request());
        Some(Answer {
            edits: Arc::clone(self),
            asked: asks.then(|| Box::new(asked())),
        })
    }
}

impl Answer {
    /// Edits the answer's headers.
    pub fn apply(&self, status: StatusCode, headers: &mut HeaderMap) {
        for rules in &self.edits.rules {
            remove(&rules.response, headers);
            let request = self.asked.as_ref().map(|asked| RequestHead {
                method: &asked.method,
                uri: &asked.uri,
                headers: &asked.headers,
                target: &asked.target,
            });
            add(&rules.response, headers, |edit, headers| {
                let known = Known {
                    request,
                    response: Some((status, headers)),
                    route: &self.edits.route,
                    cluster: &self.edits.cluster,
                };
                format(edit.value(), &known)
            });
        }
    }
}

impl HeaderEdits {
    /// Makes these edits, of values that are the same for all requests; others put nothing in.
    pub fn apply_literals(&self, headers: &mut HeaderMap) {
        remove(self, headers);
        add(self, headers, |edit, _| edit.value().literal().cloned());
    }
}

fn remove(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        // What is taken out is mostly not there.
        if has(headers, name) {
            headers.remove(name);
        }
    }
}

/// More additions of one place than this have their values in memory of their own.
const INLINE: usize = 8;

/// Makes the additions of one place: of values that were made before any of them was written.
fn add(edits: &HeaderEdits, headers: &mut HeaderMap, make: impl Fn(&HeaderEdit, &HeaderMap) -> Option<HeaderValue>) {
    let value_of = |edit: &HeaderEdit, headers: &HeaderMap| {
        let wanted = match edit.action {
            AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
            AppendAction::AddIfAbsent => !has(headers, edit.name()),
            AppendAction::OverwriteIfExists => has(headers, edit.name()),
        };
        let made = if wanted { make(edit, headers) } else { None };
        made.filter(|value| edit.keep_empty || !value.is_empty())
    };
    let overwrites = |edit: &HeaderEdit| {
        let action = edit.action;
        matches!(
            action,
            AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists
        )
    };
    match &*edits.add {
        [] => return,
        // The common case, which has no order to keep.
        [edit] => {
            if let Some(value) = value_of(edit, headers) {
                if overwrites(edit) {
                    headers.insert(edit.name(), value);
                } else {
                    headers.append(edit.name(), value);
                }
            }
            return;
        }
        _ => {}
    }
    let mut few = [const { None }; INLINE];
    let mut many = Vec::new();
    let values = if edits.add.len() <= INLINE {
        &mut few[..edits.add.len()]
    } else {
        many.resize(edits.add.len(), None);
        &mut many[..]
    };
    for (edit, value) in edits.add.iter().zip(&mut *values) {
        *value = value_of(edit, headers);
    }
    // Overwrites first, so that what is added to the same name stays.
    for (edit, value) in edits.add.iter().zip(&mut *values).filter(|(edit, _)| overwrites(edit)) {
        if let Some(value) = value.take() {
            headers.insert(edit.name(), value);
        }
    }
    for (edit, value) in edits.add.iter().zip(values) {
        if let Some(value) = value.take() {
            headers.append(edit.name(), value);
        }
    }
}
