//! What an answer does.
//!
//! By gRPC an authorizer says what it wants done ([`CheckAnswer`]); by HTTP it only answers, and the configuration says which of its
//! headers go where. Both become one [`Verdict`].

use bytes::Bytes;
use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::ask::is_framing;
use super::{CheckFailure, FAILURE_ALLOWED, MAX_ANSWER_HEADERS, TO_REMOVE};
use crate::config::{AppendAction, ExtAuthz, HttpCheck, OnFailure, StringMatch};
use crate::escaped::{Plus, reads_as};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, changed so.
    Allowed(Allowed),
    /// It does not, and its sender is told this.
    Denied(Denied),
    /// Nothing was learnt.
    Failed(CheckFailure),
}

/// How a request that goes on is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Of the request.
    pub upstream: Vec<Mutation>,
    /// Headers taken off the request, before any is put in.
    pub remove: Vec<HeaderName>,
    /// Of the answer to it.
    pub downstream: Vec<Mutation>,
    /// Parameters taken off its query, before any is put in.
    pub query_remove: Vec<Box<str>>,
    /// Parameters put into its query, in the place of those of the same names.
    pub query_set: Vec<(Box<str>, Box<str>)>,
}

/// What the sender of a request is told that does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The status.
    pub status: StatusCode,
    /// Headers.
    pub headers: Vec<Mutation>,
    /// The body.
    pub body: Bytes,
}

/// A header to put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// The header.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What becomes of values that are there.
    pub action: AppendAction,
}

/// An answer by gRPC, as it was said (`CheckResponse`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckAnswer {
    /// Its gRPC status, and so yes or no.
    pub code: i32,
    /// What is said beside that.
    pub said: Said,
}

/// What an answer by gRPC says beside yes and no. Names and values are as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    #[default]
    Nothing,
    /// For a request that goes on (`OkHttpResponse`).
    Ok {
        /// For the request.
        headers: Vec<(String, Vec<u8>, AppendAction)>,
        /// Off the request.
        remove: Vec<String>,
        /// For the answer.
        response: Vec<(String, Vec<u8>, AppendAction)>,
        /// Query parameters off the request.
        query_remove: Vec<String>,
        /// Query parameters for the request.
        query_set: Vec<(String, String)>,
    },
    /// For one that does not (`DeniedHttpResponse`).
    Denied {
        /// The status; 0: 403.
        status: i32,
        /// For the answer.
        headers: Vec<(String, Vec<u8>, AppendAction)>,
        /// Its body.
        body: String,
    },
    /// That the authorizer failed (`error_response`).
    Error,
}

impl ExtAuthz {
    /// What an answer by gRPC does.
    pub fn grpc_verdict(&self, answer: CheckAnswer) -> Verdict {
        self.of_grpc(answer).unwrap_or_else(Verdict::Failed)
    }

    fn of_grpc(&self, answer: CheckAnswer) -> Result<Verdict, CheckFailure> {
        match (answer.code, answer.said) {
            (_, Said::Error) => Err(CheckFailure::Failed),
            (0, Said::Nothing) => Ok(Verdict::Allowed(Allowed::default())),
            (
                0,
                Said::Ok {
                    headers,
                    remove,
                    response,
                    query_remove,
                    query_set,
                },
            ) => {
                let parameters = query_remove.len() + query_set.len();
                if headers.len() + remove.len() + response.len() + parameters > MAX_ANSWER_HEADERS {
                    return Err(CheckFailure::Malformed);
                }
                Ok(Verdict::Allowed(Allowed {
                    upstream: mutations(headers)?,
                    remove: remove.iter().filter_map(|name| removable(name)).collect(),
                    downstream: mutations(response)?,
                    query_remove: query_remove.into_iter().map(Into::into).collect(),
                    query_set: query_set
                        .into_iter()
                        .map(|(key, value)| (key.into(), value.into()))
                        .collect(),
                }))
            }
            // Yes with what a no has, or the other way about: who knows what was meant.
            (0, Said::Denied { .. }) => Err(CheckFailure::Malformed),
            (_, Said::Denied { status, headers, body }) => {
                if headers.len() > MAX_ANSWER_HEADERS {
                    return Err(CheckFailure::Malformed);
                }
                let status = match status {
                    0 => StatusCode::FORBIDDEN,
                    status => final_status(u16::try_from(status).unwrap_or_default())?,
                };
                Ok(Verdict::Denied(Denied {
                    status,
                    headers: mutations(headers)?,
                    body: self.shortened(body.into()),
                }))
            }
            (_, Said::Nothing | Said::Ok { .. }) => Ok(Verdict::Denied(Denied {
                status: StatusCode::FORBIDDEN,
                headers: Vec::new(),
                body: Bytes::new(),
            })),
        }
    }

    /// What an answer by HTTP does: 200 is yes, 5xx a failure, and all else a no in the authorizer's own words (Envoy).
    pub fn http_verdict(&self, check: &HttpCheck, status: StatusCode, headers: &HeaderMap, body: Bytes) -> Verdict {
        if status.is_server_error() {
            return Verdict::Failed(CheckFailure::Failed);
        }
        if headers.len() > MAX_ANSWER_HEADERS || status.is_informational() {
            return Verdict::Failed(CheckFailure::Malformed);
        }
        let picked = |tests: &dyn Fn(&HeaderName) -> bool, action: AppendAction| {
            let picked = headers.iter().filter(|(name, _)| !is_framing(name) && tests(name));
            picked
                .map(|(name, value)| Mutation {
                    name: name.clone(),
                    value: value.clone(),
                    action,
                })
                .collect::<Vec<_>>()
        };
        if status != StatusCode::OK {
            let all = &check.client_on_deny;
            let goes = |name: &HeaderName| all.as_deref().is_none_or(|tests| is_told(name) || any(tests, name));
            return Verdict::Denied(Denied {
                status,
                headers: picked(&goes, AppendAction::AppendIfExistsOrAdd),
                body: self.shortened(body),
            });
        }
        let mut upstream: Vec<Mutation> = Vec::new();
        for one in picked(&|name| any(&check.upstream, name), AppendAction::OverwriteIfExistsOrAdd) {
            // The first value takes the place of the request's own, and further ones stand beside it.
            let again = upstream.iter().any(|other| other.name == one.name);
            let action = if again {
                AppendAction::AppendIfExistsOrAdd
            } else {
                one.action
            };
            upstream.push(Mutation { action, ..one });
        }
        upstream.extend(picked(
            &|name| any(&check.upstream_append, name),
            AppendAction::AppendIfExistsOrAdd,
        ));
        let to_remove = headers
            .get_all(TO_REMOVE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        Verdict::Allowed(Allowed {
            upstream,
            remove: to_remove
                .flat_map(|names| names.split(','))
                .filter_map(removable)
                .collect(),
            downstream: picked(
                &|name| any(&check.client_on_allow, name),
                AppendAction::AppendIfExistsOrAdd,
            ),
            query_remove: Vec::new(),
            query_set: Vec::new(),
        })
    }

    fn shortened(&self, mut body: Bytes) -> Bytes {
        body.truncate(self.max_denied_body);
        body
    }
}

impl OnFailure {
    /// What becomes of a request of which nothing was learnt, and why nothing was.
    ///
    /// # Errors
    ///
    /// When it does not pass: what its sender is told.
    pub fn verdict(&self, why: CheckFailure, headers: &mut HeaderMap) -> Result<(), StatusCode> {
        if !self.allow || !why.may_pass() {
            return Err(self.status);
        }
        if self.tell {
            headers.insert(FAILURE_ALLOWED, HeaderValue::from_static("true"));
        }
        Ok(())
    }
}

impl Allowed {
    /// Changes the request. [`downstream`](Self::downstream) is for its answer.
    ///
    /// # Errors
    ///
    /// When that makes no request.
    pub fn apply<B>(&self, request: &mut Request<B>) -> Result<(), CheckFailure> {
        let (remove, set) = (&self.query_remove, &self.query_set);
        if !remove.is_empty() || !set.is_empty() {
            let uri = with_query(request.uri(), remove, set).ok_or(CheckFailure::Malformed)?;
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        for name in &self.remove {
            headers.remove(name);
        }
        self.upstream.iter().for_each(|one| one.apply(headers));
        Ok(())
    }
}

impl Mutation {
    /// Puts the header in.
    pub fn apply(&self, headers: &mut HeaderMap) {
        let is_there = headers.contains_key(&self.name);
        match self.action {
            AppendAction::AppendIfExistsOrAdd => drop(headers.append(&self.name, self.value.clone())),
            AppendAction::AddIfAbsent if is_there => {}
            AppendAction::OverwriteIfExists if !is_there => {}
            AppendAction::AddIfAbsent | AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists => {
                headers.insert(&self.name, self.value.clone());
            }
        }
    }
}

fn any(tests: &[StringMatch], name: &HeaderName) -> bool {
    tests.iter().any(|test| test.is_match(name.as_str().as_bytes()))
}

/// What whoever is denied is told in any case (Envoy).
fn is_told(name: &HeaderName) -> bool {
    [WWW_AUTHENTICATE, LOCATION].contains(name)
}

/// One that ends an exchange.
fn final_status(status: u16) -> Result<StatusCode, CheckFailure> {
    let status = StatusCode::from_u16(status)
        .ok()
        .filter(|status| !status.is_informational());
    status.ok_or(CheckFailure::Malformed)
}

/// Each has to be a header that may be put in. Pseudo headers and those of framing may not be: the request that the handler sees is the
/// one that was judged.
fn mutations(all: Vec<(String, Vec<u8>, AppendAction)>) -> Result<Vec<Mutation>, CheckFailure> {
    let one = |(name, value, action): (String, Vec<u8>, AppendAction)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok();
        let name = name.filter(|name| !is_framing(name)).ok_or(CheckFailure::Malformed)?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| CheckFailure::Malformed)?;
        Ok(Mutation { name, value, action })
    };
    all.into_iter().map(one).collect()
}

/// What must not be taken off is not (Envoy: pseudo headers and `host` are passed over).
fn removable(name: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    (!is_framing(&name)).then_some(name)
}

fn with_query(uri: &Uri, remove: &[Box<str>], set: &[(Box<str>, Box<str>)]) -> Option<Uri> {
    // However a name is spelled, a handler reads it as the same.
    let goes = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default();
        let is = |name: &str| reads_as(key.as_bytes(), name, Plus::Blank);
        !remove.iter().any(|name| is(name)) && !set.iter().any(|(name, _)| is(name))
    };
    let query = uri.query().unwrap_or_default();
    let kept = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter(goes)
        .map(str::to_owned);
    let put = set
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    let query = kept.chain(put).collect::<Vec<_>>().join("&");
    let path = uri.path();
    let both = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(both).ok()?);
    Uri::from_parts(parts).ok()
}

/// As a parameter may be written (RFC 3986 "unreserved").
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
