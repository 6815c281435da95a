//! What RE2 takes and means, what it refuses, and its own verdicts on random patterns.

use super::*;
use regex::bytes::Regex;

fn compiled(source: &str) -> Result<Regex, String> {
    let translated = translated(source, Over::Bytes)?;
    Regex::new(&format!("^(?:{translated})$")).map_err(|error| error.to_string())
}

/// What RE2 takes, with a text that it matches as a whole and one that it does not.
#[test]
fn what_re2_takes_means_the_same() {
    for (source, yes, no) in [
        ("/users/{id}", "/users/{id}", "/users/id"),
        ("a{", "a{", "a"),
        ("a{,5}", "a{,5}", "aaa"),
        ("a{01}", "a{01}", "a"),
        ("a{1", "a{1", "a"),
        ("a{2}", "aa", "a"),
        ("a{2,}?", "aaa", "a"),
        ("a{2,3}", "aaa", "aaaa"),
        ("}]", "}]", "}"),
        ("/[[]x", "/[x", "/x"),
        ("/a[^/[]+", "/ab", "/a["),
        ("/a[b&&c]", "/a&", "/ad"),
        ("/a[b&&c]", "/ab", "/a"),
        ("[a-z--b]", "-", "{"),
        ("[a~~b]", "~", "c"),
        ("[a[b]]", "a]", "b"),
        ("[]a]", "]", "b"),
        ("[^]a]", "b", "]"),
        (r"[\]a\-]+", "]a-", "b"),
        (r"[\w-\d]+", "a-1", "/"),
        (r"[\W\d]+", "1/", "a"),
        (r"[-a]+", "-a", "b"),
        (r"[a-]+", "-a", "b"),
        (r"[+--]+", "+,-", "."),
        ("/a[[:alpha:]]", "/ab", "/a1"),
        ("[[:^digit:]]", "a", "1"),
        ("[[:x]+", "[:x", "y"),
        (r"\Q/a.b*\E", "/a.b*", "/axb"),
        (r"\Qa\Eb*", "abb", "b"),
        (r"\Qab*", "ab*", "abb"),
        (r"/\C", "/\u{7f}", "/"),
        (r"\101\0\07", "A\0\u{7}", "A"),
        (r"\08", "\x008", "8"),
        (r"/a\x62\x{63}", "/abc", "/a"),
        (r"\a\f\n\r\t\v", "\u{7}\u{c}\n\r\t\u{b}", "a"),
        (r"\<a\>\_\-\ \#\&\~", "<a>_- #&~", "a"),
        (r"\pN\PN", "1a", "a1"),
        (r"\p{Greek}\p{^Greek}\P{Greek}", "\u{3b1}bc", "abc"),
        (r"[\p{Lu}\pN]+", "A1", "a"),
        (r"\Aa\z", "a", "b"),
        (r"a\b/\B/", "a//", "ab//"),
        ("(?P<n>a)(?<m>b)", "ab", "a"),
        ("(?P<1>a)", "a", "1"),
        ("(?i)K", "k", "l"),
        ("(?i)a(?-i)b", "Ab", "AB"),
        ("(?is-m:a.)", "A\n", "A"),
        ("(?)a", "a", "b"),
        (".", "\u{e9}", "\n"),
        ("(|a)b||c", "ab", "a"),
        ("()", "", "a"),
        ("^*a$", "a", "b"),
        ("#a b&&c--d~~", "#a b&&c--d~~", "#ab"),
        ("(a{500}){2}", &"a".repeat(1000), "a"),
        ("/a\u{e9}[\u{e8}-\u{ea}]", "/a\u{e9}\u{ea}", "/a"),
    ] {
        let regex = compiled(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert!(regex.is_match(yes.as_bytes()), "{source} on {yes:?}");
        assert!(!regex.is_match(no.as_bytes()), "{source} on {no:?}");
    }
    assert!(compiled(r"\C").is_ok_and(|regex| regex.is_match(b"\xff")));
}

#[test]
fn what_re2_refuses_is_refused() {
    for source in [
        "a**",
        "a*+",
        "a+?*",
        "a??\u{3f}",
        "x{2}{3}",
        "a*{2}",
        "*a",
        "(*a)",
        "a|*",
        "{2}",
        "a{1001}",
        "a{2,1}",
        "(a{100}){11}",
        "((a{10}){10}){11}",
        "a{99999999999}",
        "(?x)a b",
        "(?u)a",
        "(?R)a",
        "(?-)",
        "(?i-:a)",
        "(?i",
        "a(?i)*",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?P=n)",
        "(?P>n)",
        "(?P<n",
        "(?P<>a)",
        "(?P<a-b>a)",
        "(?P<n>a)(?P<n>b)",
        "(?#a)",
        r"\1",
        r"\8",
        r"\e",
        r"\h",
        r"\Z",
        r"\G",
        r"\K",
        r"\X",
        r"\R",
        r"\N",
        r"\E",
        r"\u0041",
        r"\x{110000}",
        r"\xg",
        r"\x{}",
        r"\x{d800}",
        r"\c",
        "\\\u{e9}",
        "\\",
        "[",
        "[]",
        "[^]",
        "[a",
        "[b-a]",
        r"[\b]",
        r"[a-\w]",
        r"[\Qa\E]",
        "[[:alfa:]]",
        r"\p{Letter}x{",
        r"\p{}",
        r"\p{gc=Lu}",
        r"\p{Lu",
        r"\p",
        "(",
        ")",
        "a)|(?:b",
    ] {
        assert!(compiled(source).is_err(), "{source}");
    }
}

#[test]
fn groups_are_no_deeper_than_both_allow() {
    let nested = |depth: usize| format!("{}{}", "(".repeat(depth), ")".repeat(depth));
    assert!(compiled(&nested(MAX_DEPTH)).is_ok());
    assert!(compiled(&nested(MAX_DEPTH + 1)).is_err());
}

#[test]
fn no_match_cuts_a_character_of_a_text() {
    assert!(translated(r"\C", Over::Text).is_err());
    let text = translated(r"\b\B\w", Over::Text).unwrap();
    assert!(regex::Regex::new(&text).is_ok());
}

/// What `google-re2` 1.1.20251105 said to random patterns: which it takes, and which of the texts each matches as a whole.
#[test]
fn random_patterns_are_judged_as_re2_does() {
    // `texts`, and of each pattern the places of the texts that it matches: none where it is refused.
    let verdicts: serde_json::Value = serde_json::from_str(include_str!("verdicts.json")).unwrap();
    let texts: Vec<&str> = verdicts["texts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|text| text.as_str())
        .collect();
    let patterns = verdicts["patterns"].as_array().unwrap();
    assert!(patterns.len() >= 1000 && texts.len() >= 20);
    for verdict in patterns {
        let source = verdict[0].as_str().unwrap();
        let places = verdict[1].as_array();
        let expected = places.map(|places| places.iter().filter_map(|place| place.as_u64()).collect::<Vec<_>>());
        let matched = compiled(source).ok().map(|regex| {
            let matched = (0_u64..)
                .zip(&texts)
                .filter(|(_, text)| regex.is_match(text.as_bytes()));
            matched.map(|(place, _)| place).collect::<Vec<_>>()
        });
        assert_eq!(matched, expected, "{source}");
    }
}
