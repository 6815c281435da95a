//! Reading a tree against a schema: what is known is taken, what is left over is an error.
//!
//! A schema says four things of a field: it is served (taken and decoded), it is known but has no effect yet (a warning that
//! names it), it is known and must not be ignored (an error that says why), or nobody knows it (an error, as strict
//! validation in `istioctl` has it). Nothing is dropped in silence.

use std::collections::BTreeMap;

use super::value::{At, Place, Sink, Value};
use super::yaml::{Key, Node, NodeKind};
use crate::diagnostic::{Code, Severity};

/// The fields of an object that nobody has taken yet. [`finish`](Self::finish) complains about the rest.
#[derive(Debug)]
#[must_use = "fields that nobody takes must be complained about"]
pub(super) struct Fields {
    entries: Vec<(Key, Node)>,
    pub(super) place: Place,
}

impl Fields {
    pub(super) fn new(entries: Vec<(Key, Node)>, place: Place) -> Self {
        Self { entries, place }
    }

    /// Takes a field. `null` counts as absent, as in Kubernetes. Names are lowerCamelCase; `snake_case` is the same field,
    /// as protobuf's JSON mapping has it.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(key, _)| is_named(&key.name, name))?;
        let (_, node) = self.entries.remove(index);
        let field = self.path(name);
        (!matches!(node.kind, NodeKind::Null)).then(|| Value::new(node, field))
    }

    /// Complains about each field that is written and says nothing, where that is not the same as leaving it out.
    pub(super) fn no_nulls(&self, sink: &mut Sink<'_>) {
        for (key, node) in &self.entries {
            if matches!(node.kind, NodeKind::Null) {
                let place = Place {
                    line: key.line,
                    column: key.column,
                    field: self.path(&key.name).into(),
                };
                sink.schema(
                    &place,
                    format!("{} is written and says nothing: leave it out", key.name),
                );
            }
        }
    }

    /// The text at the end of `names`, each in the map of the one before, without taking anything.
    pub(super) fn glance(&self, names: &[&str]) -> Option<&str> {
        let (first, others) = names.split_first()?;
        let mut entries = &self.entries;
        let mut wanted = first;
        let mut others = others.iter();
        loop {
            let (_, node) = entries.iter().find(|(key, _)| is_named(&key.name, wanted))?;
            match (&node.kind, others.next()) {
                (NodeKind::Text(text), None) => return Some(text),
                (NodeKind::Map(inner), Some(next)) => (entries, wanted) = (inner, next),
                _ => return None,
            }
        }
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

    /// Warns of each field that was not taken: of an object most of whose fields are not served, and none of which is missed where
    /// it would let anybody in.
    pub(super) fn unserved_rest(self, sink: &mut Sink<'_>) {
        for (key, _) in &self.entries {
            let place = Place {
                line: key.line,
                column: key.column,
                field: self.path(&key.name).into(),
            };
            let message = "not served by this version: it has no effect";
            sink.say(Severity::Warning, Code::NotServed, &place, message);
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

impl Value {
    /// Its fields, by a schema.
    pub(super) fn object(self, sink: &mut Sink<'_>) -> Option<Fields> {
        let NodeKind::Map(entries) = self.kind else {
            self.mismatch("a map", sink);
            return None;
        };
        Some(Fields::new(entries, self.place))
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
