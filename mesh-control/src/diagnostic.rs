//! What is to be said about a document, and exactly where.
//!
//! The reader, the translator and the watched folder all speak through this one type, so that a log line, `meshctl check`
//! and an editor show the same thing. An error keeps the whole folder from being published; a warning and a note do not.
//! Codes are Istio's own (`IST…`, as `istioctl analyze` prints them) where the condition is the same, and `MSH…` otherwise.

use std::fmt;

use serde::Serialize;

/// One finding. Ordered by file, then position, so that a sorted list reads like the folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct Diagnostic {
    /// The file, as it was named to the reader.
    pub file: Box<str>,
    /// Line in the file, from 1; 0 when the whole file is meant.
    pub line: u32,
    /// Column in the line, from 1; 0 when the whole file is meant.
    pub column: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What kind of finding it is.
    pub code: Code,
    /// The document, as `Kind namespace/name`; `None` when none could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<str>>,
    /// The field, as `spec.http[0].route[1].weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    /// The sentence.
    pub message: String,
}

impl Diagnostic {
    /// A finding about a whole file: it cannot be read, it is too large.
    pub fn of_file(file: &str, severity: Severity, code: Code, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            severity,
            code,
            document: None,
            field: None,
            message: message.into(),
        }
    }

    /// Whether it keeps the configuration from being published.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// `20-routes.yaml:14:9: error[IST0101]: VirtualService default/payment: spec.http[0]…: …`, which editors can jump to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}[{}]: ", self.severity, self.code)?;
        for part in [&self.document, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is published; the last good configuration stays.
    Error,
    /// Published, but not all that was written has an effect.
    Warning,
    /// Only to be known.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// What kind of finding it is: a stable word for filters and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Code {
    /// IST0101: a name that is referred to does not exist.
    NotFound,
    /// IST0106: the document does not fit the schema.
    Schema,
    /// IST0109: two rules claim the same host.
    ConflictingHosts,
    /// IST0112: a destination without a port, on a service with several.
    PortRequired,
    /// IST0130: a route that no request can reach.
    Unreachable,
    /// IST0174: a rule for a host that no service has.
    NoSuchHost,
    /// MSH0001: the file cannot be read.
    Unreadable,
    /// MSH0002: known to Istio, but without effect in this version.
    NotServed,
    /// MSH0003: known to Istio and left out of this version, where ignoring it would be unsafe or misroute.
    Refused,
    /// MSH0004: a document of a kind that is no business of a mesh.
    Skipped,
    /// MSH0005: a share of the traffic goes to a subset that has no endpoint.
    NoEndpoints,
    /// MSH0006: the same thing is defined twice. The older one counts, except where that could let somebody in: there it is an error.
    Duplicate,
    /// MSH0007: a single destination always gets everything, whatever its weight.
    UselessWeight,
    /// MSH0008: a policy that changes nothing.
    NoEffect,
    /// MSH0009: keys that are fetched are not there, or could not be fetched again.
    KeysUnavailable,
}

impl Code {
    /// The code as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "IST0101",
            Self::Schema => "IST0106",
            Self::ConflictingHosts => "IST0109",
            Self::PortRequired => "IST0112",
            Self::Unreachable => "IST0130",
            Self::NoSuchHost => "IST0174",
            Self::Unreadable => "MSH0001",
            Self::NotServed => "MSH0002",
            Self::Refused => "MSH0003",
            Self::Skipped => "MSH0004",
            Self::NoEndpoints => "MSH0005",
            Self::Duplicate => "MSH0006",
            Self::UselessWeight => "MSH0007",
            Self::NoEffect => "MSH0008",
            Self::KeysUnavailable => "MSH0009",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
