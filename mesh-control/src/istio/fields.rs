//! Reading a tree against a schema: what is known is taken, what is left over is an error.
//!
//! A schema says four things of a field: it is served (taken and decoded), it is known but has no effect yet (a warning that
//! names it), it is known and must not be ignored (an error that says why), or nobody knows it (an error, as strict
//! validation in `istioctl` has it). Nothing is dropped in silence.
//!
//! Decoders return `None` after they have complained, so one pass tells everything that is wrong with a document.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::yaml::{Key, Node, NodeKind};
use crate::diagnostic::{Code, Diagnostic, Severity};

/// Where a value stands, for whoever has to point at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line in the file, from 1.
    pub line: u32,
    /// Column in the line, from 1.
    pub column: u32,
    /// The path in the document, as `spec.http[0].timeout`.
    pub field: Arc<str>,
}

/// A value and where it stands. Derefs to the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Collects the findings of one document.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    pub(super) file: &'a str,
    pub(super) document: Option<Box<str>>,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
}

impl Sink<'_> {
    pub(super) fn say(&mut self, severity: Severity, code: Code, place: &Place, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic {
            file: self.file.into(),
            line: place.line,
            column: place.column,
            severity,
            code,
            document: self.document.clone(),
            field: (!place.field.is_empty()).then(|| (*place.field).into()),
            message: message.into(),
        });
    }

    pub(super) fn schema(&mut self, place: &Place, message: impl Into<String>) {
        self.say(Severity::Error, Code::Schema, place, message);
    }
}

/// A node and its path.
#[derive(Debug)]
pub(super) struct Value {
    kind: NodeKind,
    pub(super) place: Place,
}

impl Value {
    pub(super) fn root(node: Node) -> Self {
        Self::new(node, String::new())
    }

    fn new(node: Node, field: String) -> Self {
        let place = Place {
            line: node.line,
            column: node.column,
            field: field.into(),
        };
        Self { kind: node.kind, place }
    }

    /// What it is, for a sentence.
    fn what(&self) -> &'static str {
        match self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool => "a boolean",
            NodeKind::Integer(_) | NodeKind::Float => "a number",
            NodeKind::Text(_) => "a string",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a map",
        }
    }

    fn mismatch(&self, wanted: &str, sink: &mut Sink<'_>) {
        let scalar = matches!(self.kind, NodeKind::Bool | NodeKind::Integer(_) | NodeKind::Float);
        let help = if scalar && wanted == "a string" { ": quote it" } else { "" };
        sink.schema(&self.place, format!("expected {wanted}, found {}{help}", self.what()));
    }

    pub(super) fn string(self, sink: &mut Sink<'_>) -> Option<At<String>> {
        match self.kind {
            NodeKind::Text(value) => Some(At {
                value,
                place: self.place,
            }),
            _ => {
                self.mismatch("a string", sink);
                None
            }
        }
    }

    /// A number between 0 and `max`.
    pub(super) fn number(self, max: u32, sink: &mut Sink<'_>) -> Option<At<u32>> {
        let NodeKind::Integer(number) = self.kind else {
            self.mismatch("a whole number", sink);
            return None;
        };
        match u32::try_from(number) {
            Ok(value) if value <= max => Some(At {
                value,
                place: self.place,
            }),
            _ => {
                sink.schema(&self.place, format!("{number} is not between 0 and {max}"));
                None
            }
        }
    }

    /// Every item, with its index in the path. Items that `decode` refuses are left out.
    pub(super) fn list<T>(
        self,
        sink: &mut Sink<'_>,
        mut decode: impl FnMut(Self, &mut Sink<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let NodeKind::List(items) = self.kind else {
            self.mismatch("a list", sink);
            return None;
        };
        let field = &self.place.field;
        let values = items.into_iter().enumerate();
        let values = values.map(|(index, node)| Self::new(node, format!("{field}[{index}]")));
        Some(values.filter_map(|value| decode(value, sink)).collect())
    }

    /// Free keys, as in labels.
    pub(super) fn map<T>(
        self,
        sink: &mut Sink<'_>,
        mut decode: impl FnMut(Self, &mut Sink<'_>) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let NodeKind::Map(entries) = self.kind else {
            self.mismatch("a map", sink);
            return None;
        };
        let mut map = BTreeMap::new();
        for (key, node) in entries {
            let value = Self::new(node, format!("{}[{}]", self.place.field, key.name));
            if let Some(value) = decode(value, sink) {
                map.insert(key.name, value);
            }
        }
        Some(map)
    }

    /// Its fields, by a schema.
    pub(super) fn object(self, sink: &mut Sink<'_>) -> Option<Fields> {
        let NodeKind::Map(entries) = self.kind else {
            self.mismatch("a map", sink);
            return None;
        };
        Some(Fields {
            entries,
            place: self.place,
        })
    }
}

/// The fields of an object that nobody has taken yet. [`finish`](Self::finish) complains about the rest.
#[derive(Debug)]
#[must_use = "fields that nobody takes must be complained about"]
pub(super) struct Fields {
    entries: Vec<(Key, Node)>,
    pub(super) place: Place,
}

impl Fields {
    /// Takes a field. `null` counts as absent, as in Kubernetes. Names are lowerCamelCase; `snake_case` is the same field,
    /// as protobuf's JSON mapping has it.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(key, _)| is_named(&key.name, name))?;
        let (_, node) = self.entries.remove(index);
        let field = self.path(name);
        (!matches!(node.kind, NodeKind::Null)).then(|| Value::new(node, field))
    }

    pub(super) fn string(&mut self, name: &str, sink: &mut Sink<'_>) -> Option<At<String>> {
        self.take(name)?.string(sink)
    }

    /// A string that must be there and must not be empty.
    pub(super) fn required_string(&mut self, name: &str, sink: &mut Sink<'_>) -> Option<At<String>> {
        let Some(value) = self.take(name) else {
            sink.schema(&self.place, format!("{name} is required"));
            return None;
        };
        let text = value.string(sink)?;
        if text.is_empty() {
            sink.schema(&text.place, format!("{name} must not be empty"));
            return None;
        }
        Some(text)
    }

    pub(super) fn strings(&mut self, name: &str, sink: &mut Sink<'_>) -> Vec<At<String>> {
        self.list(name, sink, Value::string)
    }

    /// The items of a list; none when it is absent.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        sink: &mut Sink<'_>,
        decode: impl FnMut(Value, &mut Sink<'_>) -> Option<T>,
    ) -> Vec<T> {
        let value = self.take(name);
        value.and_then(|value| value.list(sink, decode)).unwrap_or_default()
    }

    /// Labels and the like: free keys with string values.
    pub(super) fn labels(&mut self, name: &str, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
        let decode = |value: Value, sink: &mut Sink<'_>| value.string(sink).map(|text| text.value);
        let value = self.take(name);
        value.and_then(|value| value.map(sink, decode)).unwrap_or_default()
    }

    /// Warns of known fields that have no effect in this version.
    pub(super) fn unserved(&mut self, names: &[&str], sink: &mut Sink<'_>) {
        for name in names {
            if let Some(value) = self.take(name) {
                let message = "known Istio field, not served by this version: it has no effect";
                sink.say(Severity::Warning, Code::NotServed, &value.place, message);
            }
        }
    }

    /// Refuses known fields that must not be ignored, and says why not.
    pub(super) fn refused(&mut self, names: &[&str], why: &str, sink: &mut Sink<'_>) {
        for name in names {
            if let Some(value) = self.take(name) {
                let message = format!("known Istio field, not served by this version, and {why}");
                sink.say(Severity::Error, Code::Refused, &value.place, message);
            }
        }
    }

    /// Complains about each field that was not taken.
    pub(super) fn finish(self, sink: &mut Sink<'_>) {
        for (key, _) in &self.entries {
            let place = Place {
                line: key.line,
                column: key.column,
                field: self.path(&key.name).into(),
            };
            sink.schema(&place, format!("unknown field {:?}", key.name));
        }
    }

    /// Ends the reading of an object whose other fields belong to somebody else, as Kubernetes' metadata do.
    pub(super) fn ignore_rest(self) {}

    fn path(&self, name: &str) -> String {
        if self.place.field.is_empty() {
            return name.to_owned();
        }
        format!("{}.{name}", self.place.field)
    }
}

/// Whether `key` is `name` or its `snake_case`.
fn is_named(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    if !key.contains('_') {
        return false;
    }
    let mut camel = String::with_capacity(key.len());
    let mut raise = false;
    for letter in key.chars() {
        match letter {
            '_' => raise = true,
            _ if raise => {
                camel.push(letter.to_ascii_uppercase());
                raise = false;
            }
            _ => camel.push(letter),
        }
    }
    camel == name
}
