//! What is done to the headers of requests and answers on their way (Envoy `request_headers_to_add` and its kin).
//!
//! A rule stands at one of four places: a share of a split, a route, a virtual host, a whole configuration. Which are applied
//! in what order is [`crate::route::Edits`]' to say.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

use super::format::HeaderFormat;

/// The rules of one place. Shared, since it stands beside every route that it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderRules {
    /// For the request.
    pub request: HeaderEdits,
    /// For the answer.
    pub response: HeaderEdits,
}

impl HeaderRules {
    /// Shared, or nothing if these rules do nothing.
    pub fn shared(self) -> Option<Arc<Self>> {
        (!self.request.is_empty() || !self.response.is_empty()).then(|| Arc::new(self))
    }
}

/// Removals, then additions (Envoy's order).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderEdits {
    /// Taken out first.
    pub remove: Vec<HeaderName>,
    /// Put in then, each by its own rule.
    pub add: Vec<HeaderEdit>,
}

impl HeaderEdits {
    /// Whether they do nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// One header to put in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderEdit {
    name: HeaderName,
    value: HeaderFormat,
    /// What becomes of values that are there.
    pub action: AppendAction,
    /// Put it in even if its value comes out empty.
    pub keep_empty: bool,
}

/// What becomes of values that are there (Envoy `HeaderAppendAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppendAction {
    /// They stay beside the new one.
    #[default]
    AppendIfExistsOrAdd,
    /// They stay, and the new one does not come in.
    AddIfAbsent,
    /// The new one takes their place.
    OverwriteIfExistsOrAdd,
    /// The new one takes their place, if there are any.
    OverwriteIfExists,
}

impl HeaderEdit {
    /// Puts `value` in as `name`.
    ///
    /// # Errors
    ///
    /// When `name` is that of a header which other rules are for ([`may_be_edited`](Self::may_be_edited)).
    pub fn new(name: HeaderName, value: HeaderFormat, action: AppendAction) -> Result<Self, InvalidEdit> {
        if !Self::may_be_edited(&name) {
            return Err(InvalidEdit);
        }
        Ok(Self {
            name,
            value,
            action,
            keep_empty: false,
        })
    }

    /// Whether a header may be edited. The pseudo headers have no [`HeaderName`]; `host` is one of them by another name, and
    /// there are host rewrites for it (Envoy refuses both).
    pub fn may_be_edited(name: &HeaderName) -> bool {
        name != http::header::HOST
    }

    /// The header.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// What is put in.
    pub fn value(&self) -> &HeaderFormat {
        &self.value
    }
}

/// An edit of a header that must not be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidEdit;

impl fmt::Display for InvalidEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(":-prefixed and host headers may not be edited")
    }
}

impl std::error::Error for InvalidEdit {}
