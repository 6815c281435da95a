//! How the calls of a session are kept with one host.

use mesh_core::config::{Session, SessionCookie, SessionState};

use super::common::duration;
use crate::proto::core::TypedExtensionConfig;
use crate::proto::http::{Cookie, CookieAttribute};
use crate::proto::pack;
use crate::proto::stateful_session::StatefulSession;
use crate::proto::stateful_session::cookie::CookieBasedSessionState;
use crate::proto::stateful_session::header::HeaderBasedSessionState;

/// The filter's configuration.
pub(super) fn session(session: &Session) -> StatefulSession {
    StatefulSession {
        session_state: session.state.as_ref().map(state),
        strict: session.strict,
        ..StatefulSession::default()
    }
}

/// By the names that Envoy's documents give them.
fn state(state: &SessionState) -> TypedExtensionConfig {
    let (name, config) = match state {
        SessionState::Cookie(value) => {
            let cookie = Some(cookie(value));
            (
                "envoy.http.stateful_session.cookie",
                pack(&CookieBasedSessionState { cookie }),
            )
        }
        SessionState::Header(name) => {
            let name = name.to_string();
            (
                "envoy.http.stateful_session.header",
                pack(&HeaderBasedSessionState { name }),
            )
        }
    };
    TypedExtensionConfig {
        name: name.into(),
        typed_config: Some(config),
    }
}

fn cookie(cookie: &SessionCookie) -> Cookie {
    let attributes = cookie.attributes.iter().map(|(name, value)| CookieAttribute {
        name: name.clone().into(),
        value: value.clone().into(),
    });
    Cookie {
        name: cookie.name.clone().into(),
        ttl: (!cookie.ttl.is_zero()).then(|| duration(cookie.ttl)),
        path: cookie.path.clone().into(),
        attributes: attributes.collect(),
    }
}
