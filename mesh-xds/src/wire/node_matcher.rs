//! `NodeMatcher` (Envoy `type.matcher.v3`): which clients a reader of a control plane's CSDS asks about.
//!
//! What is not understood is an error and not a matcher that takes everything or nothing: a reader would believe the answer.

use mesh_core::config::StringMatch;
use serde_json::Value;

use crate::decode::{Fault, string_match};
use crate::node::Node;
use crate::proto::matcher::{
    DoubleMatcher, ListMatcher, NodeMatcher, StructMatcher, ValueMatcher, double_matcher, list_matcher,
    struct_matcher::path_segment::Segment, value_matcher::MatchPattern,
};

/// Takes a node that passes all its tests; without one it takes every node.
#[derive(Debug)]
pub(crate) struct NodeMatch {
    id: Option<StringMatch>,
    metadata: Vec<MetadataMatch>,
}

#[derive(Debug)]
struct MetadataMatch {
    path: Vec<String>,
    value: ValueMatch,
}

#[derive(Debug)]
enum ValueMatch {
    Null,
    Number { from: f64, to: Bound },
    Text(StringMatch),
    Bool(bool),
    Present(bool),
    OneOf(Box<Self>),
    Any(Vec<Self>),
}

#[derive(Debug)]
enum Bound {
    Including(f64),
    Excluding(f64),
}

impl NodeMatch {
    pub(crate) fn read(proto: &NodeMatcher) -> Result<Self, Fault> {
        let id = proto.node_id.as_ref().map(string_match).transpose();
        let metadata = proto.node_metadatas.iter().enumerate().map(|(index, matcher)| {
            MetadataMatch::read(matcher).map_err(|fault| fault.within(format_args!("node_metadatas[{index}]")))
        });
        Ok(Self {
            id: id.map_err(|fault| fault.within("node_id"))?,
            metadata: metadata.collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn is_match(&self, node: &Node) -> bool {
        let id = self.id.as_ref().is_none_or(|id| id.is_match(node.id.as_bytes()));
        id && self.metadata.iter().all(|metadata| metadata.is_match(node))
    }
}

impl MetadataMatch {
    fn read(proto: &StructMatcher) -> Result<Self, Fault> {
        let segment = |segment: &Option<Segment>| match segment {
            Some(Segment::Key(key)) => Ok(key.clone()),
            None => Err(Fault::new("path", "has a segment without a key")),
        };
        let path: Result<Vec<_>, _> = proto.path.iter().map(|step| segment(&step.segment)).collect();
        let path = path?;
        if path.is_empty() {
            return Err(Fault::new("path", "is missing"));
        }
        let value = proto.value.as_ref().ok_or_else(|| Fault::new("value", "is missing"))?;
        let value = ValueMatch::read(value).map_err(|fault| fault.within("value"))?;
        Ok(Self { path, value })
    }

    fn is_match(&self, node: &Node) -> bool {
        let (first, rest) = self.path.split_first().expect("a path that was read is not empty");
        let found = rest
            .iter()
            .try_fold(node.metadata.get(first), |value, key| Some(value?.get(key)))
            .flatten();
        self.value.is_match(found)
    }
}

impl ValueMatch {
    /// As deep as the protobuf decoder lets messages nest.
    fn read(proto: &ValueMatcher) -> Result<Self, Fault> {
        match &proto.match_pattern {
            Some(MatchPattern::NullMatch(_)) => Ok(Self::Null),
            Some(MatchPattern::DoubleMatch(number)) => double(number),
            Some(MatchPattern::StringMatch(text)) => string_match(text)
                .map(Self::Text)
                .map_err(|fault| fault.within("string_match")),
            Some(MatchPattern::BoolMatch(flag)) => Ok(Self::Bool(*flag)),
            Some(MatchPattern::PresentMatch(present)) => Ok(Self::Present(*present)),
            Some(MatchPattern::ListMatch(list)) => one_of(list),
            Some(MatchPattern::OrMatch(any)) => {
                let alternatives = any.value_matchers.iter().map(Self::read).collect::<Result<_, _>>();
                alternatives.map(Self::Any).map_err(|fault| fault.within("or_match"))
            }
            None => Err(Fault::new("match_pattern", "is missing")),
        }
    }

    fn is_match(&self, value: Option<&Value>) -> bool {
        match self {
            Self::Null => value == Some(&Value::Null),
            Self::Number { from, to } => value.and_then(Value::as_f64).is_some_and(|number| {
                let below = match to {
                    Bound::Including(to) => number <= *to,
                    Bound::Excluding(to) => number < *to,
                };
                *from <= number && below
            }),
            Self::Text(text) => value
                .and_then(Value::as_str)
                .is_some_and(|value| text.is_match(value.as_bytes())),
            Self::Bool(flag) => value.and_then(Value::as_bool) == Some(*flag),
            // Only what is not made of other values counts as there (Envoy).
            Self::Present(present) => {
                let is_there = value.is_some_and(|value| !value.is_null() && !value.is_array() && !value.is_object());
                is_there == *present
            }
            Self::OneOf(inner) => {
                let values = value.and_then(Value::as_array);
                values.is_some_and(|values| values.iter().any(|value| inner.is_match(Some(value))))
            }
            Self::Any(alternatives) => alternatives.iter().any(|inner| inner.is_match(value)),
        }
    }
}

fn double(proto: &DoubleMatcher) -> Result<ValueMatch, Fault> {
    match &proto.match_pattern {
        Some(double_matcher::MatchPattern::Exact(number)) => Ok(ValueMatch::Number {
            from: *number,
            to: Bound::Including(*number),
        }),
        Some(double_matcher::MatchPattern::Range(range)) => Ok(ValueMatch::Number {
            from: range.start,
            to: Bound::Excluding(range.end),
        }),
        None => Err(Fault::new("double_match", "is empty")),
    }
}

fn one_of(proto: &ListMatcher) -> Result<ValueMatch, Fault> {
    match &proto.match_pattern {
        Some(list_matcher::MatchPattern::OneOf(inner)) => {
            let inner = ValueMatch::read(inner).map_err(|fault| fault.within("list_match.one_of"))?;
            Ok(ValueMatch::OneOf(Box::new(inner)))
        }
        None => Err(Fault::new("list_match", "is empty")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::matcher::{OrMatcher, StringMatcher, string_matcher, struct_matcher::PathSegment};

    fn text(pattern: string_matcher::MatchPattern) -> StringMatcher {
        StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        }
    }

    fn exact(value: &str) -> MatchPattern {
        MatchPattern::StringMatch(text(string_matcher::MatchPattern::Exact(value.into())))
    }

    fn value(pattern: MatchPattern) -> ValueMatcher {
        ValueMatcher {
            match_pattern: Some(pattern),
        }
    }

    fn metadata(path: &[&str], pattern: MatchPattern) -> NodeMatcher {
        let segment = |key: &&str| PathSegment {
            segment: Some(Segment::Key((*key).into())),
        };
        NodeMatcher {
            node_metadatas: vec![StructMatcher {
                path: path.iter().map(segment).collect(),
                value: Some(value(pattern)),
            }],
            ..NodeMatcher::default()
        }
    }

    fn node() -> Node {
        let metadata = json!({
            "NAMESPACE": "shop", "LABELS": { "app": "cart" }, "PORTS": [80, "http"], "BETA": true, "SIZE": 3, "NONE": null
        });
        Node {
            id: "sidecar~1".into(),
            metadata: serde_json::from_value(metadata).unwrap(),
            ..Node::default()
        }
    }

    #[test]
    fn each_kind_of_test_takes_what_it_says() {
        use string_matcher::MatchPattern as Pattern;
        let id = |pattern| NodeMatcher {
            node_id: Some(text(pattern)),
            ..NodeMatcher::default()
        };
        let number = |pattern| {
            MatchPattern::DoubleMatch(DoubleMatcher {
                match_pattern: Some(pattern),
            })
        };
        let list = |inner| {
            MatchPattern::ListMatch(Box::new(ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(value(inner)))),
            }))
        };
        let either = |patterns: Vec<MatchPattern>| {
            MatchPattern::OrMatch(OrMatcher {
                value_matchers: patterns.into_iter().map(value).collect(),
            })
        };
        let range = |start, end| {
            let range = crate::proto::percent::DoubleRange { start, end };
            number(double_matcher::MatchPattern::Range(range))
        };
        let table = [
            (NodeMatcher::default(), true),
            (id(Pattern::Exact("sidecar~1".into())), true),
            (id(Pattern::Exact("sidecar".into())), false),
            (id(Pattern::Prefix("sidecar~".into())), true),
            (id(Pattern::Suffix("~2".into())), false),
            (metadata(&["NAMESPACE"], exact("shop")), true),
            (metadata(&["NAMESPACE"], exact("other")), false),
            (metadata(&["LABELS", "app"], exact("cart")), true),
            (metadata(&["LABELS", "app", "x"], exact("cart")), false),
            (metadata(&["LABELS"], MatchPattern::PresentMatch(true)), false),
            (metadata(&["NAMESPACE"], MatchPattern::PresentMatch(true)), true),
            (metadata(&["GONE"], MatchPattern::PresentMatch(false)), true),
            (metadata(&["BETA"], MatchPattern::BoolMatch(true)), true),
            (metadata(&["BETA"], MatchPattern::BoolMatch(false)), false),
            (
                metadata(&["SIZE"], number(double_matcher::MatchPattern::Exact(3.0))),
                true,
            ),
            (metadata(&["SIZE"], range(1.0, 3.0)), false),
            (metadata(&["SIZE"], range(3.0, 4.0)), true),
            (metadata(&["PORTS"], list(exact("http"))), true),
            (metadata(&["PORTS"], list(exact("grpc"))), false),
            (metadata(&["NAMESPACE"], either(vec![exact("a"), exact("shop")])), true),
            (metadata(&["NAMESPACE"], either(vec![])), false),
        ];
        for (matcher, takes) in table {
            assert_eq!(
                NodeMatch::read(&matcher).unwrap().is_match(&node()),
                takes,
                "{matcher:?}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let table = [
            (metadata(&[], exact("a")), "node_metadatas[0].path"),
            (
                metadata(&["a"], MatchPattern::StringMatch(StringMatcher::default())),
                "node_metadatas[0].value.string_match.match_pattern",
            ),
            (
                NodeMatcher {
                    node_id: Some(text(string_matcher::MatchPattern::Prefix(String::new()))),
                    ..NodeMatcher::default()
                },
                "node_id.prefix",
            ),
        ];
        for (matcher, field) in table {
            let fault = NodeMatch::read(&matcher).unwrap_err().to_string();
            assert!(fault.starts_with(field), "{fault}");
        }
    }
}
