//! One value of a document: where it stands, what it is, and what to say when it is something else.
//!
//! Decoders return `None` after they have complained, so one pass tells everything that is wrong with a document.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::yaml::{Node, NodeKind};
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
    pub(super) kind: NodeKind,
    pub(super) place: Place,
}

impl Value {
    pub(super) fn root(node: Node) -> Self {
        Self::new(node, String::new())
    }

    pub(super) fn new(node: Node, field: String) -> Self {
        let place = Place {
            line: node.line,
            column: node.column,
            field: field.into(),
        };
        Self { kind: node.kind, place }
    }

    /// What stands under a key, where it is a map that has it.
    pub(super) fn get(&self, name: &str) -> Option<&NodeKind> {
        let NodeKind::Map(entries) = &self.kind else {
            return None;
        };
        let entry = entries.iter().find(|(key, _)| key.name == name);
        entry.map(|(_, node)| &node.kind)
    }

    /// The items of a list in it, where it is a map that has one: of what belongs to others, and may look otherwise.
    pub(super) fn items_of(self, name: &str) -> Vec<Self> {
        let NodeKind::Map(entries) = self.kind else {
            return Vec::new();
        };
        let found = entries.into_iter().find(|(key, _)| key.name == name);
        let Some((
            _,
            Node {
                kind: NodeKind::List(items),
                ..
            },
        )) = found
        else {
            return Vec::new();
        };
        let field = format!("{}.{name}", self.place.field);
        let items = items.into_iter().enumerate();
        items
            .map(|(index, node)| Self::new(node, format!("{field}[{index}]")))
            .collect()
    }

    /// What it is, for a sentence.
    fn what(&self) -> &'static str {
        match self.kind {
            NodeKind::Null => "nothing",
            NodeKind::Bool(_) => "a boolean",
            NodeKind::Integer(_) | NodeKind::Float(_) => "a number",
            NodeKind::Text(_) => "a string",
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a map",
        }
    }

    pub(super) fn mismatch(&self, wanted: &str, sink: &mut Sink<'_>) {
        let scalar = matches!(self.kind, NodeKind::Bool(_) | NodeKind::Integer(_) | NodeKind::Float(_));
        let help = if scalar && wanted == "a string" {
            ": quote it"
        } else {
            ""
        };
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

    /// A whole number, which may be below zero.
    pub(super) fn integer(self, sink: &mut Sink<'_>) -> Option<i64> {
        let NodeKind::Integer(number) = self.kind else {
            self.mismatch("a whole number", sink);
            return None;
        };
        Some(number)
    }

    /// True or false.
    pub(super) fn boolean(self, sink: &mut Sink<'_>) -> Option<At<bool>> {
        let NodeKind::Bool(value) = self.kind else {
            self.mismatch("true or false", sink);
            return None;
        };
        Some(At {
            value,
            place: self.place,
        })
    }

    /// A number of zero or more, in thousandths: as fine as any field asks for.
    pub(super) fn thousandths(self, max: u32, sink: &mut Sink<'_>) -> Option<At<u32>> {
        let number = match self.kind {
            NodeKind::Integer(number) => number as f64,
            NodeKind::Float(number) => number,
            _ => {
                self.mismatch("a number", sink);
                return None;
            }
        };
        if !(0.0..=f64::from(max)).contains(&number) {
            sink.schema(&self.place, format!("{number} is not between 0 and {max}"));
            return None;
        }
        Some(At {
            value: (number * 1_000.0).round() as u32,
            place: self.place,
        })
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
}
