//! What a refusal says: which resources of a response its client does not use.
//!
//! The protocol has one text for it and no form. Real clients name each resource that they refuse, in these ways:
//!
//! | who | how |
//! |---|---|
//! | ours | `node "N" refused 2 of the resources: cluster "NAME": why; ...` |
//! | gRPC Go, Java | `resource "NAME": why`, `Cluster 'NAME' validation error: why` |
//! | C-core, Envoy | `resource index 0: NAME: why`, `Error adding/updating cluster(s) NAME: why` |
//!
//! A name counts when it stands there whole, since names begin like one another (`pay`, `pay-v2`). What a refusal does not
//! name is in use, unless it names nothing, or was cut: then nobody knows.
//!
//! The text is a stranger's. It is short by the time it comes here ([`MAX_REFUSAL_BYTES`](crate::wire::MAX_REFUSAL_BYTES)),
//! and is read once, not once per resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::resource::ResourceKind;

/// How our own client's refusals begin.
const OURS: (&str, &str) = ("node \"", " refused ");
/// What stands where something was left out, by our client and by whoever cut its text.
const CUT: &str = "...";
/// What follows a quoted name in Java's.
const JAVA: &str = " validation error";
/// The longest name that is looked for between apostrophes, which stand in prose as well.
const MAX_NAME_BYTES: usize = 512;

/// A refusal that was read.
#[derive(Clone, Debug)]
pub(super) struct Nack {
    pub(super) why: Arc<str>,
    names: BTreeSet<Box<str>>,
    is_cut: bool,
    is_ours: bool,
}

/// What a refusal says of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
    /// The text was cut before it could be named.
    Unknown,
}

impl Nack {
    pub(super) fn read(text: &str) -> Self {
        let mut names = BTreeSet::new();
        let is_ours = text.starts_with(OURS.0) && text.contains(OURS.1);
        quoted(text, is_ours, &mut names);
        if !is_ours {
            bare(text, &mut names);
        }
        Self {
            why: text.into(),
            names,
            is_cut: text.contains(CUT),
            is_ours,
        }
    }

    /// Those of all that its client was told that it names. Only our own client speaks of more than one response at once: of what it
    /// refuses of earlier ones, and did not come to say. In others' prose a word may be any name by chance.
    pub(super) fn named<T>(&self, told: &BTreeMap<Arc<str>, T>) -> Vec<Arc<str>> {
        let names = self.names.iter().filter(|_| self.is_ours);
        let known = names.filter_map(|name| told.get_key_value(&**name));
        known.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// What it says of each of the resources in the response that it answers. Whether it names others besides.
    pub(super) fn judge<'a>(&self, in_it: &'a [Arc<str>], names_others: bool) -> Vec<(&'a Arc<str>, Verdict)> {
        let names_some = names_others || in_it.iter().any(|name| self.names.contains(&**name));
        let verdict = |name: &Arc<str>| match (self.names.contains(&**name), names_some, self.is_cut) {
            (true, ..) | (_, false, _) => Verdict::Refused,
            (_, _, true) => Verdict::Unknown,
            _ => Verdict::Accepted,
        };
        in_it.iter().map(|name| (name, verdict(name))).collect()
    }
}

/// Names in quotes, as Rust, Go and Java write them before they say why.
fn quoted(text: &str, only_after_a_kind: bool, names: &mut BTreeSet<Box<str>>) {
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\'']) {
        let (before, from) = rest.split_at(at);
        let is_double = from.starts_with('"');
        let inner = &from[1..];
        let found = if is_double {
            until_quote(inner)
        } else {
            until_apostrophe(inner)
        };
        let Some((name, after)) = found else {
            // What is left open was cut; an apostrophe is part of a word.
            rest = inner;
            continue;
        };
        let is_named = match only_after_a_kind {
            true => is_double && after.starts_with(':') && ends_with_a_kind(before),
            false => after.starts_with(':') || after.starts_with(JAVA),
        };
        if is_named {
            names.insert(name.into());
        }
        rest = if is_named || is_double { after } else { inner };
    }
}

fn ends_with_a_kind(text: &str) -> bool {
    let text = text.strip_suffix(' ').unwrap_or_default();
    ResourceKind::ALL.iter().any(|kind| text.ends_with(&kind.to_string()))
}

/// A text in double quotes, from after the first of them, and what is behind it.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((name, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => name.push('\n'),
                'r' => name.push('\r'),
                't' => name.push('\t'),
                '0' => name.push('\0'),
                // `\u{e9}`; in Go `\u00e9`, which no name of ours needs.
                'u' => {
                    let digits = text[chars.offset()..].strip_prefix('{')?.split('}').next()?;
                    name.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
                    chars.by_ref().find(|(_, char)| *char == '}')?;
                }
                other => name.push(other),
            },
            other => name.push(other),
        }
    }
    None
}

fn until_apostrophe(text: &str) -> Option<(String, &str)> {
    let at = text.find('\'').filter(|at| *at <= MAX_NAME_BYTES)?;
    Some((text[..at].into(), &text[at + 1..]))
}

/// Words with a colon behind them, as C-core and Envoy write names before they say why.
fn bare(text: &str, names: &mut BTreeSet<Box<str>>) {
    let words = text.split(|char: char| char.is_whitespace() || ",;[(".contains(char));
    let named = words
        .filter_map(|word| word.strip_suffix(':'))
        .filter(|name| !name.is_empty());
    names.extend(named.map(Box::from));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Fault, Rejected};

    #[track_caller]
    fn check(text: &str, in_it: &[&str], refused: &[&str], unknown: &[&str]) {
        let in_it: Vec<Arc<str>> = in_it.iter().map(|name| Arc::from(*name)).collect();
        let nack = Nack::read(text);
        let said = nack.judge(&in_it, false);
        let of = |verdict| {
            let said = said.iter().filter(move |(_, said)| *said == verdict);
            said.map(|(name, _)| &***name).collect::<Vec<&str>>()
        };
        assert_eq!(of(Verdict::Refused), refused, "{text}");
        assert_eq!(of(Verdict::Unknown), unknown, "{text}");
    }

    #[test]
    fn a_name_is_found_whole_as_each_client_writes_it() {
        let pay = ["pay", "pay-v2", "pay:80", "tls", "n"];
        let ours = "node \"n\" refused 1 of the resources: cluster \"pay-v2\": tls: names \"pay\"";
        check(ours, &pay, &["pay-v2"], &[]);
        check(
            "error parsing: resource \"pay-v2\": no \"pay\" here",
            &pay,
            &["pay-v2"],
            &[],
        );
        let java = "CDS response Cluster 'pay' validation error: can't be; Cluster 'pay:80' validation error: no";
        check(java, &pay, &["pay", "pay:80"], &[]);
        let core = "xDS response validation errors: [resource index 0: pay-v2: INVALID_ARGUMENT: errors; resource index 2: pay:80: no]";
        check(core, &pay, &["pay-v2", "pay:80"], &[]);
        let istio = ["outbound|80||a.b", "outbound|80||a", "outbound|80|v1|a"];
        let envoy = "Error adding/updating cluster(s) outbound|80||a: no such lb, outbound|80|v1|a: bad";
        check(envoy, &istio, &["outbound|80||a", "outbound|80|v1|a"], &[]);
        // Nothing is named, or nothing of this response.
        check("NO", &pay[..2], &["pay", "pay-v2"], &[]);
        check("resource \"other\": no", &pay[..2], &["pay", "pay-v2"], &[]);
        check("", &pay[..1], &["pay"], &[]);
    }

    #[test]
    fn what_a_cut_refusal_does_not_name_is_unknown() {
        let text = "node \"n\" refused 3 of the resources: cluster \"a\": x: is bad; ...";
        check(text, &["a", "b"], &["a"], &["b"]);
        check("resource index 0: a: bad, resource ind...", &["a", "b"], &["a"], &["b"]);
        // Before it came to any name: of these all.
        check("node \"n\" refused 3 of the re...", &["a", "b"], &["a", "b"], &[]);
    }

    #[test]
    fn whatever_a_name_is_made_of_our_own_client_is_understood() {
        for name in ["a\"b", "a\\", "\u{e9}", "\n", "\u{7f}", "'", "\": ", "a b", "\u{1f}x"] {
            let refused = Rejected::new(ResourceKind::Cluster, name, Fault::new("f", "is bad"));
            let text = format!("node \"n\\\"\" refused 1 of the resources: {refused}");
            check(&text, &[name, "other"], &[name], &[]);
        }
    }

    #[test]
    fn any_text_is_read_in_one_walk() {
        for text in ["\"", "'", "\\", "a:", "\"\\u{", "'a'", "\"\":"] {
            let text = text.repeat(2_048 / text.len());
            assert!(Nack::read(&text).names.len() <= 1 + text.len() / 2, "{text}");
        }
    }
}
