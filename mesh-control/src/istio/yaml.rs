//! Text to trees of nodes that know where they stand.
//!
//! Why a tree and not `#[derive(Deserialize)]` on each kind: a document's kind decides its schema, and it may be written
//! after the body; every value must keep its position, since the translator finds errors that no parser can; and a
//! document with three mistakes should get three errors, not the first. The price is one copy of a file of at most 1 MiB.
//!
//! Text comes from whoever may write to the folder, so the parser has a budget: depth, nodes and alias expansion are
//! bounded before a tree exists (the YAML crate counts aliases' contents as if they were written out).

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

/// The deepest nesting. Istio's deepest field is at 12; each level costs stack.
const MAX_DEPTH: usize = 48;
/// The most scalars, lists and maps of one file, aliases expanded: ten times what 1 MiB of real rules holds.
const MAX_NODES: usize = 200_000;
/// The most bytes of scalars of one file, aliases expanded.
const MAX_SCALAR_BYTES: usize = 4 * 1024 * 1024;

/// A value and where it begins, both counted from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) kind: NodeKind,
}

/// What a node holds. Scalars are typed as YAML 1.2 types them: `v1` is a string, `1.0` is not.
#[derive(Debug)]
pub(super) enum NodeKind {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A map's key and where it begins.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) name: String,
}

/// Why a text is not YAML, and where.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) message: String,
}

/// Reads every document of `text`. Empty ones are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, SyntaxError> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let place = error
            .location()
            .map(|place| (clamp(place.line()), clamp(place.column())));
        let (line, column) = place.unwrap_or_default();
        let message = one_line(&error.to_string());
        // Said once: whoever shows the error shows its place.
        let place = format!(" at line {line}, column {column}");
        SyntaxError {
            line,
            column,
            message: message.strip_suffix(&place).unwrap_or(&message).to_owned(),
        }
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

/// The parser's sentence without its line breaks: a log line is one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn clamp(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<NodeKind>::deserialize(deserializer)?;
        Ok(Self {
            line: clamp(referenced.line()),
            column: clamp(referenced.column()),
            kind: value,
        })
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<String>::deserialize(deserializer)?;
        Ok(Self {
            line: clamp(referenced.line()),
            column: clamp(referenced.column()),
            name: value,
        })
    }
}

impl<'de> Deserialize<'de> for NodeKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = NodeKind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Null)
    }

    fn visit_none<E>(self) -> Result<NodeKind, E> {
        Ok(NodeKind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<NodeKind, D::Error> {
        NodeKind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<NodeKind, E> {
        Ok(NodeKind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<NodeKind, E> {
        Ok(NodeKind::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<NodeKind, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("a number beyond 64 bits"))?;
        Ok(NodeKind::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<NodeKind, E> {
        Ok(NodeKind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<NodeKind, E> {
        Ok(NodeKind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<NodeKind, E> {
        Ok(NodeKind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeKind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(NodeKind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<NodeKind, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        if map.len() > MAX_NODES {
            return Err(A::Error::custom("too many keys"));
        }
        Ok(NodeKind::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> SyntaxError {
        parse(text).unwrap_err()
    }

    #[test]
    fn keys_and_values_know_where_they_stand() {
        let documents = parse("a: 1\n---\r\nb:\r\n  - c: yes\r\n    d: 1.0\r\n").unwrap();
        assert_eq!(documents.len(), 2);
        let NodeKind::Map(entries) = &documents[1].kind else {
            panic!("{documents:?}")
        };
        let (key, value) = &entries[0];
        assert_eq!((key.name.as_str(), key.line, key.column), ("b", 3, 1));
        let NodeKind::List(items) = &value.kind else {
            panic!("{value:?}")
        };
        let NodeKind::Map(inner) = &items[0].kind else {
            panic!("{items:?}")
        };
        assert!(
            matches!(&inner[0].1.kind, NodeKind::Text(text) if text == "yes"),
            "{inner:?}"
        );
        assert_eq!((inner[1].0.line, inner[1].0.column, inner[1].1.column), (5, 5, 8));
        assert!(matches!(inner[1].1.kind, NodeKind::Float(_)));
    }

    #[test]
    fn json_is_yaml() {
        let documents = parse("{\n\t\"a\": [1, \"2\"]\n}").unwrap();
        assert_eq!(documents.len(), 1);
    }

    #[test]
    fn broken_text_is_refused_with_its_place() {
        for (text, line) in [
            ("a: [1\nb: 2\n", 2),
            ("a: b: c\n", 1),
            ("a: 1\na: 2\n", 2),
            ("a: *b\n", 1),
        ] {
            let error = error(text);
            assert_eq!(error.line, line, "{text:?}: {error:?}");
            assert!(!error.message.contains('\n'));
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", ")));
        }
        error(&laughs);
        error(&"[".repeat(100_000));
        error(&"- ".repeat(1000));
        error(&"a:\n".repeat(2));
    }
}
