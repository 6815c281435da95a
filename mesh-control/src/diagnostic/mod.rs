//! What is to be said about a document, and exactly where.
//!
//! The reader, the translator and the watched folder all speak through this one type, so that a log line, `meshctl analyze`
//! and an editor show the same thing. An error keeps the whole folder from being published; a warning and an info do not.
//! Codes are Istio's own (`IST…`, as `istioctl analyze` prints them) where the condition is the same, and `MSH…` otherwise: `code.rs` has
//! all of them in one table.

mod code;

use std::fmt;

use serde::Serialize;

pub use code::Code;

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
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}
