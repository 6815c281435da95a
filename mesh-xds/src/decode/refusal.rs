//! What is said of a resource that was refused, and of one that was taken with something left out.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::resource::ResourceKind;

/// The most notes kept of one resource: enough to see what is wrong, too few to fill a status page.
const MAX_NOTES: usize = 8;
/// The most bytes of a reason, a path or a note. They quote what a peer sent, which may be as long as a response; they end in
/// log lines, in NACKs and in what a caller is told.
const MAX_TEXT_BYTES: usize = 512;
/// The most bytes of a resource's name that are printed. No real one is half as long.
const MAX_NAME_BYTES: usize = 256;

/// A resource that was refused: which one, which field of it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    kind: ResourceKind,
    resource: Arc<str>,
    field: Box<str>,
    reason: Box<str>,
}

impl Rejected {
    pub(crate) fn new(kind: ResourceKind, resource: impl Into<Arc<str>>, fault: Fault) -> Self {
        let Fault { path, reason } = fault;
        Self {
            kind,
            resource: resource.into(),
            field: clip(&path, MAX_TEXT_BYTES).into(),
            reason: clip(&reason, MAX_TEXT_BYTES).into(),
        }
    }

    /// Says where in its response a resource stood whose name could not be read.
    pub(crate) fn at(mut self, index: usize) -> Self {
        if self.field.is_empty() {
            self.field = format!("resources[{index}]").into();
        } else {
            self.field = format!("resources[{index}].{}", self.field).into();
        }
        self
    }

    /// Says which resource it was, where the resource itself could not.
    pub(crate) fn of(mut self, resource: &Arc<str>) -> Self {
        self.resource = Arc::clone(resource);
        self
    }

    /// The resource's kind.
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }

    /// The resource's name; empty when its bytes did not say.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The path of the offending field, such as `virtual_hosts[0].routes[2].match.path_specifier`; empty when the resource
    /// as a whole is at fault.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{:?}", self.resource);
        write!(f, "{} {}: ", self.kind, clip(&name, MAX_NAME_BYTES))?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Rejected {}

/// A field that is wrong, before it is known whose.
#[derive(Debug)]
pub(crate) struct Fault {
    path: String,
    reason: String,
}

impl Fault {
    pub(crate) fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            path: field.into(),
            reason: reason.to_string(),
        }
    }

    /// The same fault, seen from one level up.
    pub(crate) fn within(mut self, outer: impl fmt::Display) -> Self {
        self.path = match self.path.as_str() {
            "" => outer.to_string(),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

/// What was left out of a resource that was accepted.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Box<str>>);

impl Notes {
    /// Adds a note, if it says something new.
    pub(super) fn add(&mut self, note: impl fmt::Display) {
        if self.0.len() < MAX_NOTES {
            let note = clip(&note.to_string(), MAX_TEXT_BYTES).into_owned();
            if !self.0.iter().any(|known| **known == *note) {
                self.0.push(note.into());
            }
        }
    }

    pub(crate) fn into_inner(self) -> Vec<Box<str>> {
        self.0
    }
}

/// The beginning of a text that a peer may have made long.
pub(crate) fn clip(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    format!("{}...", &text[..end.unwrap_or_default()]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_short_however_long_the_resource_is() {
        let long = "\u{e9}".repeat(100_000);
        let rejected = Rejected::new(ResourceKind::Route, long.as_str(), Fault::new(long.as_str(), &long));
        assert_eq!(rejected.resource(), long);
        assert!(rejected.reason().ends_with("\u{e9}...") && rejected.field().ends_with("..."));
        assert!(rejected.to_string().len() < 2 * MAX_TEXT_BYTES + MAX_NAME_BYTES + 64);
        let mut notes = Notes::default();
        notes.add(&long);
        assert!(notes.into_inner()[0].len() <= MAX_TEXT_BYTES + 3);
    }
}
