//! Envoy's order, rule by rule, and Istio's modes.

use super::*;

fn chain(name: &str, security: InboundSecurity, change: impl FnOnce(&mut ChainMatch)) -> FilterChain {
    let mut matches = ChainMatch::default();
    change(&mut matches);
    FilterChain {
        name: name.into(),
        matches,
        security,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    }
}

fn inbound(chains: Vec<FilterChain>) -> Inbound {
    Inbound {
        name: "l".into(),
        address: ([0, 0, 0, 0], 15006).into(),
        chains,
        default: Some(chain("default", InboundSecurity::Plaintext, |_| {})),
    }
}

fn facts() -> ConnectionFacts<'static> {
    ConnectionFacts {
        destination: ([10, 0, 0, 1], 80).into(),
        source: ([10, 0, 9, 9], 4000).into(),
        transport: Transport::Tls,
        server_name: Some("A.svc.local"),
        protocols: &["istio", "h2"],
    }
}

fn range(text: &str, bits: u32) -> IpPrefix {
    IpPrefix::new(text.parse().unwrap(), bits).unwrap()
}

/// Of two chains, each of which takes the connection, the first is chosen; and alone with a rule that fails, neither is.
#[test]
fn the_more_specific_rule_wins_at_each_step() {
    type Change = fn(&mut ChainMatch);
    let pairs: [(&str, Change, Change, Change); 9] = [
        ("port", |m| m.port = Some(80), |_| {}, |m| m.port = Some(81)),
        (
            "destination",
            |m| m.destinations = vec![range("10.0.0.0", 24)],
            |m| m.destinations = vec![range("10.0.0.0", 8)],
            |m| m.destinations = vec![range("11.0.0.0", 8)],
        ),
        (
            "server name",
            |m| m.server_names = vec![Domain::parse("*.svc.local").unwrap()],
            |m| m.server_names = vec![Domain::parse("*.local").unwrap()],
            |m| m.server_names = vec![Domain::parse("b.svc.local").unwrap()],
        ),
        (
            "transport",
            |m| m.transport = Some(Transport::Tls),
            |_| {},
            |m| m.transport = Some(Transport::RawBuffer),
        ),
        (
            "protocol",
            |m| m.protocols = vec!["x".into(), "istio".into()],
            |m| m.protocols = vec!["h2".into()],
            |m| m.protocols = vec!["http/1.1".into()],
        ),
        (
            "direct source",
            |m| m.direct_sources = vec![range("10.0.9.9", 32)],
            |_| {},
            |m| m.direct_sources = vec![range("::", 0)],
        ),
        (
            "source type",
            |m| m.source_type = SourceType::External,
            |_| {},
            |m| m.source_type = SourceType::SameIpOrLoopback,
        ),
        (
            "source",
            |m| m.sources = vec![range("10.0.9.0", 24), range("1.1.1.1", 32)],
            |m| m.sources = vec![range("10.0.0.0", 16)],
            |m| m.sources = vec![range("10.0.10.0", 24)],
        ),
        (
            "source port",
            |m| m.source_ports = vec![1, 4000],
            |_| {},
            |m| m.source_ports = vec![1],
        ),
    ];
    let chosen = |chains: Vec<FilterChain>| inbound(chains).chain_for(&facts()).map(|chain| chain.name.to_string());
    let plain = InboundSecurity::Plaintext;
    for (index, (what, narrow, wide, wrong)) in pairs.iter().enumerate() {
        let make = |name: &str, change: &Change| chain(name, plain.clone(), change);
        assert_eq!(
            chosen(vec![make("wide", wide), make("narrow", narrow)]).as_deref(),
            Some("narrow"),
            "{what}"
        );
        assert_eq!(chosen(vec![make("wrong", wrong)]).as_deref(), Some("default"), "{what}");
        // An earlier rule counts for more than all later ones, and a failure behind it is not made up for.
        if let Some((_, later, _, _)) = pairs.get(index + 1) {
            let both = vec![make("later", later), make("earlier", narrow)];
            assert_eq!(chosen(both).as_deref(), Some("earlier"), "{what}");
        }
    }
    let committed = chain("committed", plain.clone(), |m| {
        m.port = Some(80);
        m.transport = Some(Transport::RawBuffer);
    });
    let everything = chain("everything", plain, |_| {});
    assert_eq!(chosen(vec![everything, committed]).as_deref(), Some("default"));
}

#[test]
fn without_a_default_a_connection_that_no_chain_takes_is_refused() {
    let mut inbound = inbound(vec![chain("a", InboundSecurity::Plaintext, |m| m.port = Some(81))]);
    inbound.default = None;
    assert_eq!(inbound.chain_for(&facts()), None);
}

#[test]
fn loopback_and_the_own_address_are_local() {
    let local = inbound(vec![chain("local", InboundSecurity::Plaintext, |m| {
        m.source_type = SourceType::SameIpOrLoopback;
    })]);
    for (source, name) in [
        ("127.0.0.1:1", "local"),
        ("[::ffff:10.0.0.1]:1", "local"),
        ("10.0.0.2:1", "default"),
    ] {
        let facts = ConnectionFacts {
            source: source.parse().unwrap(),
            ..facts()
        };
        assert_eq!(&*local.chain_for(&facts).unwrap().name, name, "{source}");
    }
}

#[test]
fn chains_overlap_when_nothing_tells_them_apart() {
    let base = ChainMatch {
        port: Some(80),
        sources: vec![range("10.1.2.3", 16)],
        ..ChainMatch::default()
    };
    let same = ChainMatch {
        sources: vec![range("11.0.0.0", 8), range("10.1.0.0", 16)],
        ..base.clone()
    };
    assert!(base.overlaps(&same) && ChainMatch::default().overlaps(&ChainMatch::default()));
    let others = [
        ChainMatch {
            port: None,
            ..base.clone()
        },
        ChainMatch {
            sources: vec![range("10.1.0.0", 17)],
            ..base.clone()
        },
        ChainMatch {
            transport: Some(Transport::Tls),
            ..base.clone()
        },
        ChainMatch {
            sources: Vec::new(),
            ..base.clone()
        },
    ];
    assert!(others.iter().all(|other| !base.overlaps(other)));
}

#[test]
fn modes_of_ports() {
    let mutual = || InboundSecurity::Mutual(Clients::Trusted);
    let tls = |m: &mut ChainMatch| (m.port, m.transport) = (Some(80), Some(Transport::Tls));
    let raw = |m: &mut ChainMatch| (m.port, m.transport) = (Some(80), Some(Transport::RawBuffer));
    let mode = |chains: Vec<FilterChain>, default: Option<InboundSecurity>| {
        let inbound = Inbound {
            default: default.map(|security| chain("default", security, |_| {})),
            ..inbound(chains)
        };
        inbound.mode(80)
    };
    let (plain, strict) = (InboundSecurity::Plaintext, chain("tls", mutual(), tls));
    assert_eq!(mode(vec![strict.clone()], None), MtlsMode::Strict);
    // What the chain does not take, the default one lets in.
    assert_eq!(mode(vec![strict.clone()], Some(plain.clone())), MtlsMode::Permissive);
    let permissive = vec![strict, chain("raw", plain.clone(), raw)];
    assert_eq!(mode(permissive, None), MtlsMode::Permissive);
    assert_eq!(mode(vec![chain("raw", plain.clone(), raw)], None), MtlsMode::Disable);
    let one_sided = chain("tls", InboundSecurity::OneSided, tls);
    assert_eq!(mode(vec![one_sided], None), MtlsMode::Disable);
    // A chain for every connection to the port leaves nothing to the default one, nor to those for every port.
    let whole = chain("whole", mutual(), |m| m.port = Some(80));
    let passthrough = chain("passthrough", plain.clone(), |_| {});
    assert_eq!(mode(vec![whole, passthrough.clone()], Some(plain)), MtlsMode::Strict);
    assert_eq!(mode(vec![passthrough], None), MtlsMode::Disable);
    assert_eq!(mode(Vec::new(), None), MtlsMode::Strict);
}
