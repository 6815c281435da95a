//! `StatefulSession`: how the calls of a session are kept with one host (Envoy; gRFCs A55 and A60).

use mesh_core::config::{Session, SessionCookie, SessionState};
use prost::{Message, Name};

use super::common::{duration, unpack};
use super::{Fault, Notes};
use crate::proto::core::TypedExtensionConfig;
use crate::proto::http::Cookie;
use crate::proto::stateful_session::cookie::CookieBasedSessionState;
use crate::proto::stateful_session::header::HeaderBasedSessionState;
use crate::proto::stateful_session::stateful_session_per_route::Override;
use crate::proto::stateful_session::{StatefulSession, StatefulSessionPerRoute};

/// Reads the filter's configuration. One without a state keeps no sessions.
pub(super) fn read(bytes: &[u8], notes: &mut Notes) -> Result<Session, Fault> {
    let proto = StatefulSession::decode(bytes).map_err(|error| Fault::new("", error))?;
    session(&proto, notes)
}

/// Reads what is said closer to a call; `None`: there are no sessions.
pub(super) fn of_route(bytes: &[u8], notes: &mut Notes) -> Result<Option<Session>, Fault> {
    let proto = StatefulSessionPerRoute::decode(bytes).map_err(|error| Fault::new("", error))?;
    match &proto.r#override {
        Some(Override::Disabled(true)) => Ok(None),
        Some(Override::Disabled(false)) => Err(Fault::new("disabled", "must be true")),
        Some(Override::StatefulSession(proto)) => session(proto, notes)
            .map(Some)
            .map_err(|fault| fault.within("stateful_session")),
        None => Err(Fault::new("override", "is missing")),
    }
}

fn session(proto: &StatefulSession, notes: &mut Notes) -> Result<Session, Fault> {
    // Calls that cannot be made end with 503 here, for whatever reason.
    if !matches!(proto.status_on_strict_destination_not_found, 0 | 503) {
        notes.add("a session's status_on_strict_destination_not_found is not applied");
    }
    let state = proto.session_state.as_ref().map(state).transpose();
    Ok(Session {
        state: state.map_err(|fault| fault.within("session_state"))?,
        strict: proto.strict,
    })
}

fn state(proto: &TypedExtensionConfig) -> Result<SessionState, Fault> {
    let field = "typed_config";
    let any = proto
        .typed_config
        .as_ref()
        .ok_or_else(|| Fault::new(field, "is missing"))?;
    if any.type_url == CookieBasedSessionState::type_url() {
        let proto: CookieBasedSessionState = unpack(field, any)?;
        let cookie = proto.cookie.as_ref().ok_or_else(|| Fault::new("cookie", "is missing"));
        return cookie
            .and_then(|proto| cookie_of(proto).map_err(|fault| fault.within("cookie")))
            .map(SessionState::Cookie)
            .map_err(|fault| fault.within(field));
    }
    if any.type_url == HeaderBasedSessionState::type_url() {
        let proto: HeaderBasedSessionState = unpack(field, any)?;
        let name = proto.name.parse();
        let name = name.map_err(|_| Fault::new("name", format!("is no header: {:?}", proto.name)).within(field))?;
        return Ok(SessionState::Header(name));
    }
    Err(Fault::new(field, format!("type {:?} is not supported", any.type_url)))
}

fn cookie_of(proto: &Cookie) -> Result<SessionCookie, Fault> {
    if proto.name.is_empty() {
        return Err(Fault::new("name", "is empty"));
    }
    let attributes = proto.attributes.iter();
    let cookie = SessionCookie {
        name: proto.name.as_str().into(),
        ttl: match &proto.ttl {
            Some(ttl) => duration("ttl", ttl)?,
            None => Default::default(),
        },
        path: proto.path.as_str().into(),
        attributes: attributes
            .map(|one| (one.name.as_str().into(), one.value.as_str().into()))
            .collect(),
    };
    if mesh_core::route::set_cookie(&cookie.name, "", 0, &cookie.path, &cookie.attributes).is_none() {
        return Err(Fault::new("", "cannot stand in a header"));
    }
    Ok(cookie)
}
