//! Tables of names, and what holds of every text.

use proptest::prelude::*;

use super::*;

const LISTENER: &str = "envoy.config.listener.v3.Listener";

#[test]
fn every_spelling_has_one_normal_form() {
    let table = [
        ("payment:80", "payment:80"),
        ("", ""),
        ("XDSTP://a/b/c", "XDSTP://a/b/c"),
        ("a%zz?b", "a%zz?b"),
        ("xdstp://a/t/i", "xdstp://a/t/i"),
        ("xdstp:///t/i", "xdstp:///t/i"),
        ("xdstp://a:1/t/i/j//k", "xdstp://a:1/t/i/j//k"),
        ("xdstp://a/t/i?", "xdstp://a/t/i"),
        ("xdstp://a/t/i?z=1&b=2&&a", "xdstp://a/t/i?a=&b=2&z=1"),
        ("xdstp://a/t/i?k=1&k=2", "xdstp://a/t/i?k=2"),
        ("xdstp://a/t/i?k=a=b/c?d", "xdstp://a/t/i?k=a=b/c?d"),
        ("xdstp://a/t/i#alt=xdstp://b/t/i,entry=x", "xdstp://a/t/i"),
        ("xdstp://a/t/i?k=1#x?y", "xdstp://a/t/i?k=1"),
        ("xdstp://a/t/[::1]:80", "xdstp://a/t/%5B::1%5D:80"),
        ("xdstp://a/t/%5b::1%5d:80", "xdstp://a/t/%5B::1%5D:80"),
        ("xdstp://a/t/%7Ea%61", "xdstp://a/t/~aa"),
        // Another name than `a/b`.
        ("xdstp://a/t/a%2fb", "xdstp://a/t/a%2Fb"),
        ("xdstp://a/t/i?k=a%26b%3D", "xdstp://a/t/i?k=a%26b%3D"),
        ("xdstp://a/t/ü", "xdstp://a/t/%C3%BC"),
        ("xdstp://a/t/%ff", "xdstp://a/t/%FF"),
    ];
    for (text, expected) in table {
        assert_eq!(ResourceName::parse(text).unwrap().to_string(), expected, "{text}");
    }
}

#[test]
fn its_parts() {
    let name = ResourceName::parse("xdstp://a.example/t/x/y?b=2&a=1").unwrap();
    assert_eq!(name.authority(), Some("a.example"));
    assert_eq!((name.type_name(), name.id()), (Some("t"), "x/y"));
    assert_eq!(name.context().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
    assert_eq!(ResourceName::parse("xdstp:///t/i").unwrap().authority(), Some(""));
    let plain = ResourceName::parse("payment:80").unwrap();
    assert_eq!(
        (plain.authority(), plain.type_name(), plain.id()),
        (None, None, "payment:80")
    );
    assert_eq!(plain.context().count(), 0);
}

#[test]
fn what_is_no_name_says_why() {
    let table = [
        ("xdstp:a", InvalidResourceName::Authority),
        ("xdstp:/a/t/i", InvalidResourceName::Authority),
        ("xdstp://", InvalidResourceName::Type),
        ("xdstp://a", InvalidResourceName::Type),
        ("xdstp://a/", InvalidResourceName::Type),
        ("xdstp://a//i", InvalidResourceName::Type),
        ("xdstp://a/t", InvalidResourceName::Id),
        ("xdstp://a/t/", InvalidResourceName::Id),
        ("xdstp://a?k=/t/i", InvalidResourceName::Type),
        ("xdstp://a/t/i?=1", InvalidResourceName::Context),
        ("xdstp://a/t/%", InvalidResourceName::Percent),
        ("xdstp://a/t/%4", InvalidResourceName::Percent),
        ("xdstp://a/t/%zz", InvalidResourceName::Percent),
        ("xdstp://a/t/%+1", InvalidResourceName::Percent),
        ("xdstp://%/t/i", InvalidResourceName::Percent),
        ("xdstp://a/t/i?%=1", InvalidResourceName::Percent),
        ("xdstp://a/t/i?k=%a", InvalidResourceName::Percent),
    ];
    for (text, expected) in table {
        assert_eq!(ResourceName::parse(text), Err(expected), "{text}");
    }
}

#[test]
fn the_type_must_be_the_one_asked_for() {
    let text = format!("xdstp://a/{LISTENER}/i");
    let parse = ResourceName::parse_as;
    assert!(parse(ResourceKind::Listener, &text).is_ok());
    let other = parse(ResourceKind::Cluster, &text).unwrap_err();
    assert_eq!(other, InvalidResourceName::AnotherType(ResourceKind::Cluster));
    assert_eq!(other.to_string(), "the xdstp name is not that of a cluster");
    assert!(parse(ResourceKind::Cluster, "outbound|80||a").is_ok());
}

#[test]
fn values_are_encoded_as_a_path_has_them() {
    let table = [
        ("payment.shop:80", "payment.shop:80"),
        ("a/b", "a/b"),
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "%5B::1%5D:80"),
        ("a b?c#d%e", "a%20b%3Fc%23d%25e"),
        ("é", "%C3%A9"),
    ];
    for (text, expected) in table {
        assert_eq!(encode_path(text), expected);
        assert_eq!(decode_percent(expected).as_deref(), Some(text));
    }
    for text in ["%", "%1", "%g1", "%ff"] {
        assert_eq!(decode_percent(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn the_normal_form_is_a_name_and_its_own_normal_form(text in "(xdstp:(//)?)?[a-c/?=&#%0-9A-F\\[ é.]{0,40}") {
        if let Ok(name) = ResourceName::parse(&text) {
            let normal = name.to_string();
            prop_assert_eq!(&ResourceName::parse(&normal).unwrap(), &name);
        }
    }

    #[test]
    fn no_text_panics(text in ".*") {
        let _ = ResourceName::parse(&text);
        let _ = ResourceName::parse(&format!("xdstp://{text}"));
        prop_assert_eq!(decode_percent(&encode_path(&text)), Some(text));
    }

    #[test]
    fn the_order_of_parameters_does_not_matter(
        parameters in prop::collection::btree_map("[a-z]{1,3}", "[a-z%=]{0,3}", 0..5),
        seed in any::<u64>(),
    ) {
        let spell = |(key, value): (&String, &String)| format!("{key}={}", encode_path(value));
        let mut parts: Vec<String> = parameters.iter().map(spell).collect();
        let sorted = format!("xdstp://a/t/i?{}", parts.join("&"));
        if !parts.is_empty() {
            let by = seed as usize % parts.len();
            parts.rotate_left(by);
        }
        let turned = format!("xdstp://a/t/i?{}", parts.join("&"));
        prop_assert_eq!(ResourceName::parse(&sorted).unwrap(), ResourceName::parse(&turned).unwrap());
    }
}
