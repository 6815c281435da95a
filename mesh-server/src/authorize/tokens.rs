//! The tokens that a request shows: checked before a policy is asked, and taken off before the handler sees them.
//!
//! A token that was found good becomes an `Arc<`[`JwtClaims`]`>` in the extensions of the request, for policies and the handler. The token
//! itself goes no further unless its rule says so (Istio `forwardOriginalToken`): a handler that logs its headers, or calls somebody with
//! them, gives away nothing that somebody else could be with. Headers that are to carry what a token said are taken off every request
//! first, also where there is no token.

use std::sync::Arc;

use http::header::COOKIE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use mesh_core::config::JwtRules;
use mesh_core::jwt::{Checks, JwtClaims, JwtPlace, JwtRefusal, Shown, removed_cookie, removed_param};
use mesh_core::route::RequestHead;

/// Checks what `request` shows, and leaves in it what the handler is to see. `now`: seconds since the Unix epoch.
pub(super) fn check<B>(
    rules: &JwtRules,
    request: &mut Request<B>,
    now: u64,
    checks: &mut Checks<'_>,
) -> Result<Option<Arc<JwtClaims>>, JwtRefusal> {
    let shown = rules.judge_by(&RequestHead::of(request, ""), now, checks)?;
    rules.strip(request.headers_mut());
    let Shown {
        claims: Some(claims),
        provider: Some(provider),
        place,
    } = shown
    else {
        return Ok(None);
    };
    if let Some(provider) = rules.providers.get(provider) {
        if let Some(place) = place.filter(|_| !provider.forward) {
            remove(&place, request);
        }
        let headers = request.headers_mut();
        if let Some(name) = &provider.payload_header
            && let Ok(value) = HeaderValue::from_str(claims.encoded())
        {
            headers.insert(name, value);
        }
        for one in &provider.claim_headers {
            // What cannot stand in a header is not there, rather than changed.
            if let Some(value) = claims.header_value(&one.claim)
                && let Ok(value) = HeaderValue::from_str(&value)
            {
                headers.insert(&one.header, value);
            }
        }
    }
    request.extensions_mut().insert(Arc::clone(&claims));
    Ok(Some(claims))
}

fn remove<B>(place: &JwtPlace, request: &mut Request<B>) {
    match place {
        JwtPlace::Header(name) => drop(request.headers_mut().remove(name)),
        JwtPlace::Param(name) => {
            let path = request.uri().path();
            let left = request.uri().query().and_then(|query| removed_param(query, name));
            let text = left.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
            let mut parts = request.uri().clone().into_parts();
            // A part of what was one is one.
            parts.path_and_query = PathAndQuery::try_from(text).ok();
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
        JwtPlace::Cookie(name) => {
            let headers = request.headers_mut();
            let values: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
            headers.remove(COOKIE);
            for value in values {
                let left = removed_cookie(value.as_bytes(), name);
                if let Some(value) = left.and_then(|left| HeaderValue::from_bytes(&left).ok()) {
                    headers.append(COOKIE, value);
                }
            }
        }
    }
}
