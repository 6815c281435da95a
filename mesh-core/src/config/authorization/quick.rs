//! Which policies cannot be about a request, told without looking at them.
//!
//! Most policies of a workload name callers or paths, and nearly all name others than these. What a policy can be about is worked out when
//! the configuration is built, and lies side by side: the hashes of the ids and namespaces that it names, and of each path that it names
//! the last bytes and where they stand. A request's own are found once, and a policy is looked at only when they are among its own, or
//! when it is about whoever and whatever. What is left out could not have matched, so this changes no answer.
//!
//! The last bytes and not the first: the paths of one service begin alike.

use std::hash::{Hash, Hasher};
use std::ops::Range;

use super::{PermissionTest, PrincipalTest, Rbac, Rule, StringMatch};
use crate::identity::hashed::{Hashed, namespace, of_namespace};

/// See the module. Compares as equal to any other: it says nothing that the policies do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quick {
    policies: Box<[Named]>,
    hashes: Box<[u64]>,
    ends: Box<[End]>,
}

/// Where a policy's own are; an empty range: it is to be looked at whoever it is, and whatever is done.
#[derive(Clone, Copy, Debug)]
struct Named {
    hashes: (u32, u32),
    ends: (u32, u32),
}

/// The last bytes of how a path must begin.
#[derive(Clone, Copy, Debug)]
struct End {
    /// How long the path must be.
    length: u32,
    bytes: [u8; 8],
    /// How many of the bytes count: fewer where the whole has fewer.
    count: u8,
}

/// What of a request is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// `None`: nobody.
    peer: Option<Hashed>,
    path: &'a [u8],
}

impl<'a> Asked<'a> {
    pub(crate) fn of(peer: Option<Hashed>, path: Option<&'a str>) -> Self {
        Self {
            peer,
            path: path.unwrap_or_default().as_bytes(),
        }
    }
}

impl Quick {
    pub(super) fn of(rules: &Rbac) -> Self {
        let (mut policies, mut hashes, mut ends) = (Vec::with_capacity(rules.policies.len()), Vec::new(), Vec::new());
        for policy in &rules.policies {
            // Bounded by `Authorization::MAX_NODES`.
            let begin = (hashes.len() as u32, ends.len() as u32);
            hashes.extend(of_any(&policy.principals, &who).into_iter().flatten());
            ends.extend(of_any(&policy.permissions, &what).into_iter().flatten());
            policies.push(Named {
                hashes: (begin.0, hashes.len() as u32),
                ends: (begin.1, ends.len() as u32),
            });
        }
        Self {
            policies: policies.into(),
            hashes: hashes.into(),
            ends: ends.into(),
        }
    }

    /// Whether the policy at `index` may be about the request.
    pub(crate) fn may_match(&self, index: usize, asked: &Asked<'_>) -> bool {
        let Some(named) = self.policies.get(index) else {
            return true;
        };
        let (hashes, ends) = (&self.hashes[range(named.hashes)], &self.ends[range(named.ends)]);
        let by_peer = hashes.is_empty()
            || match asked.peer {
                None => false,
                Some(Hashed::Odd) => true,
                Some(Hashed::Of { id, namespace }) => hashes.iter().any(|hash| *hash == id || *hash == namespace),
            };
        by_peer && (ends.is_empty() || ends.iter().any(|end| end.fits(asked.path)))
    }
}

impl End {
    fn of(beginning: &[u8]) -> Self {
        let count = beginning.len().min(8);
        let mut bytes = [0; 8];
        bytes[..count].copy_from_slice(&beginning[beginning.len() - count..]);
        Self {
            length: beginning.len() as u32,
            bytes,
            count: count as u8,
        }
    }

    fn fits(&self, path: &[u8]) -> bool {
        let (end, count) = (self.length as usize, usize::from(self.count));
        let own = path.get(end - count..end);
        match (own, count) {
            // One comparison of a word, as of most.
            (Some(own), 8) => <[u8; 8]>::try_from(own).is_ok_and(|own| own == self.bytes),
            (Some(own), count) => own == &self.bytes[..count],
            (None, _) => false,
        }
    }
}

fn range((begin, end): (u32, u32)) -> Range<usize> {
    begin as usize..end as usize
}

/// What all of the rules name together; `None`: one may hold for whatever. Of no rule nothing holds, which is not worth a case of its own.
fn of_any<T, K>(rules: &[Rule<T>], name: &impl Fn(&T) -> Option<K>) -> Option<Vec<K>> {
    let each: Option<Vec<Vec<K>>> = rules.iter().map(|rule| named(rule, name)).collect();
    let all: Vec<K> = each?.into_iter().flatten().collect();
    Some(all).filter(|all| !all.is_empty())
}

/// That outside of which a rule cannot hold; `None`: it may hold for whatever.
fn named<T, K>(rule: &Rule<T>, name: &impl Fn(&T) -> Option<K>) -> Option<Vec<K>> {
    match rule {
        Rule::Is(test) => name(test).map(|one| vec![one]),
        Rule::All(rules) => rules.iter().find_map(|rule| named(rule, name)),
        Rule::Any(rules) => of_any(rules, name),
        Rule::Not(_) | Rule::Always => None,
    }
}

fn who(test: &PrincipalTest) -> Option<u64> {
    match test {
        PrincipalTest::Peer(Some(StringMatch::Exact(id))) => match Hashed::of(id) {
            Hashed::Of { id, .. } => Some(id),
            Hashed::Odd => None,
        },
        PrincipalTest::Peer(Some(StringMatch::Regex(pattern))) => {
            let literals = literals(pattern.as_str())?;
            let found = literals.iter().find_map(|literal| namespace(literal));
            found.map(of_namespace)
        }
        _ => None,
    }
}

fn what(test: &PermissionTest) -> Option<End> {
    let PermissionTest::Path(test) = test else {
        return None;
    };
    let beginning = match test {
        StringMatch::Exact(text) | StringMatch::Prefix(text) => text.to_string(),
        StringMatch::Regex(pattern) => {
            // What stands first, if anything does before the first sign.
            let all = literals(pattern.as_str())?;
            all.into_iter().next()?
        }
        StringMatch::Suffix(_) | StringMatch::Contains(_) => return None,
    };
    (!beginning.is_empty()).then(|| End::of(beginning.as_bytes()))
}

/// The texts that whatever matches a pattern has in it, in their order; the first, perhaps empty, is how it begins. `None`: it has
/// alternatives, or groups, of which this knows nothing.
fn literals(source: &str) -> Option<Vec<String>> {
    if source.contains(['|', '(']) {
        return None;
    }
    let mut all = vec![String::new()];
    let mut rest = source.chars().peekable();
    while let Some(letter) = rest.next() {
        let literal = match letter {
            '\\' => {
                let next = rest.next()?;
                match next {
                    'd' | 'D' | 'w' | 'W' | 's' | 'S' => None,
                    _ if next.is_ascii_punctuation() => Some(next),
                    // A letter by its number, a class by its name.
                    _ => return None,
                }
            }
            '[' => {
                // A class within a class, or a bracket that is one of its members, is not worth reading.
                let class: String = rest.by_ref().take_while(|letter| *letter != ']').collect();
                if class.is_empty() || class == "^" || class.contains(['[', '\\']) {
                    return None;
                }
                None
            }
            // A repetition may be repeated itself, and what stood there once may then be absent (`a+*`).
            '+' if matches!(rest.peek(), Some('*' | '?' | '{' | '+')) => return None,
            '.' | '^' | '$' | '+' => None,
            '*' | '?' | '{' => {
                // What stands before it may be absent.
                all.last_mut()?.pop();
                if letter == '{' {
                    rest.by_ref().find(|letter| *letter == '}');
                }
                None
            }
            other => Some(other),
        };
        match literal {
            Some(letter) => all.last_mut()?.push(letter),
            None => all.push(String::new()),
        }
    }
    Some(all)
}

impl PartialEq for Quick {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Quick {}

impl Hash for Quick {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_says_what_must_be_there() {
        let all = |source: &str| literals(source).map(|all| all.join("_"));
        assert_eq!(all(r"\/api\/[^/]+\/x"), Some("/api/__/x".into()));
        assert_eq!(all("ab*c"), Some("a_c".into()));
        assert_eq!(all("ab?"), Some("a_".into()));
        assert_eq!(all("ab{2,3}c"), Some("a_c".into()));
        assert_eq!(all("ab+c"), Some("ab_c".into()));
        assert_eq!(all(r"a\d*b"), Some("a__b".into()));
        assert_eq!(all("a.*b"), Some("a__b".into()));
        for source in [
            "a|b",
            "(?i)ab",
            "(ab)?c",
            r"a[]b]c",
            r"a[\]]b",
            "a[[:alpha:]]b",
            r"a\x41b",
            r"a\",
            "ab+*",
            "ab+{0}",
            "ab++*",
            "ab+?",
        ] {
            assert_eq!(all(source), None, "{source}");
        }
    }

    /// What a pattern is passed over for must be in whatever matches it: random patterns, held against the engine that runs them.
    #[test]
    fn az_2_what_is_passed_over_could_not_have_matched() {
        const SIGNS: [&str; 20] = [
            "a", "b", "/", "a", "b", "/", "+", "*", "?", "{0}", "{2}", "{0,1}", "{1,}", ".", "[ab]", "[^/]", r"\.",
            r"\w", "^", "$",
        ];
        let (entropy, mut judged, mut matched) = (crate::Entropy::seeded(10), 0, 0);
        for _ in 0..30_000 {
            let mut draw = entropy.draw();
            let mut some = |all: &[&str], most: u64| -> String {
                let count = draw.below(most);
                (0..count).map(|_| all[draw.below(all.len() as u64) as usize]).collect()
            };
            let (source, text) = (some(&SIGNS, 7), some(&["a", "b", "/", ".", "aa"], 6));
            let (Ok(pattern), Some(literals)) = (crate::config::Pattern::new(&source), literals(&source)) else {
                continue;
            };
            judged += 1;
            if !StringMatch::Regex(pattern).is_match(text.as_bytes()) {
                continue;
            }
            matched += 1;
            assert!(text.starts_with(&literals[0]), "{source} {text} {literals:?}");
            let mut rest = &*text;
            for literal in &literals {
                let at = rest.find(&**literal);
                let at = at.unwrap_or_else(|| panic!("{source} {text} {literals:?}"));
                rest = &rest[at + literal.len()..];
            }
        }
        assert!(judged > 5_000 && matched > 500, "{judged} {matched}");
    }

    #[test]
    fn what_is_named_is_found_and_nothing_else() {
        let ends = |beginning: &str| End::of(beginning.as_bytes());
        for (beginning, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", true),
            ("/a", "/", false),
            ("/a", "/b", false),
            ("/pay.Pay/Charge7", "/pay.Pay/Charge7/x", true),
            ("/pay.Pay/Charge7", "/pay.Pay/Charge8", false),
            ("/pay.Pay/Charge7", "/pay.Pay/Charge", false),
            // Others that end alike are looked at, and fail there.
            ("/a/12345678", "/b/12345678", true),
        ] {
            assert_eq!(ends(beginning).fits(path.as_bytes()), expected, "{beginning} {path}");
        }
    }
}
