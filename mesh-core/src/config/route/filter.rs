//! Filters that a call passes: what each is, and what is said of it closer to the call (Envoy `http_filters`,
//! `typed_per_filter_config`; gRFC A39).
//!
//! A listener has a list of filters, each with a name. A configuration, a virtual host, a route and a share of a split may say
//! something else of a filter by its name; the closest to the call is heard. A name that is no filter's is not heard at all,
//! and neither is what would make a filter one of another kind.

use std::sync::Arc;

use super::{Fault, Session};

/// A filter of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallFilter {
    /// What routes call it by.
    pub name: Box<str>,
    /// What it does where nobody says otherwise.
    pub what: FilterKind,
    /// It does nothing where nobody says otherwise.
    pub disabled: bool,
}

impl CallFilter {
    /// One that is not disabled.
    pub fn new(name: impl Into<Box<str>>, what: FilterKind) -> Self {
        Self {
            name: name.into(),
            what,
            disabled: false,
        }
    }
}

/// What a filter does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterKind {
    /// Breaks calls.
    Fault(Arc<Fault>),
    /// Keeps calls of a session with one host.
    Session(Arc<Session>),
}

impl FilterKind {
    /// Whether it can do anything.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Fault(fault) => fault.is_empty(),
            Self::Session(session) => session.state.is_none(),
        }
    }

    /// One of the same kind that does nothing.
    #[must_use]
    pub fn idle(&self) -> Self {
        match self {
            Self::Fault(_) => Self::Fault(Arc::default()),
            Self::Session(_) => Self::Session(Arc::default()),
        }
    }

    /// Whether both are of one kind.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl From<Fault> for FilterKind {
    fn from(fault: Fault) -> Self {
        Self::Fault(Arc::new(fault))
    }
}

impl From<Session> for FilterKind {
    fn from(session: Session) -> Self {
        Self::Session(Arc::new(session))
    }
}

/// What is said of a filter closer to the call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterOverride {
    /// The filter's name.
    pub filter: Box<str>,
    /// What it does here.
    pub what: Override,
}

/// What a filter does in place of what it was told (Envoy `FilterConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Override {
    /// Nothing.
    Disabled,
    /// What it was told, though it be disabled.
    Enabled,
    /// This.
    With(FilterKind),
}
