//! Certificate providers beside the workload's own (gRFC A29): with whose files a cluster's endpoints are called, and what a server's
//! filter chain shows and judges by.

use std::path::Path;

use mesh_core::config::{
    ChainIdentity, ChainMatch, Clients, Cluster, Credential, ExpectedPeers, FilterChain, Inbound, InboundSecurity,
    MutualTls, Roots, TlsMode, TlsOrigination, Traffic,
};

use super::*;
use crate::encode::{self, Dialect};
use crate::proto::cluster::Cluster as Proto;
use crate::proto::core::{TransportSocket, transport_socket::ConfigType};
use crate::proto::matcher::{StringMatcher, string_matcher::MatchPattern};
use crate::proto::pack;
use crate::proto::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher,
    UpstreamTlsContext, common_tls_context::ValidationContextType, subject_alt_name_matcher::SanType,
};
use crate::resource::{ClusterSpec, Listener};

fn files(name: &str) -> Credential {
    Credential::Files {
        certificate: Path::new(&format!("/{name}/chain")).into(),
        key: Path::new(&format!("/{name}/key")).into(),
    }
}

fn roots(name: &str) -> Box<Path> {
    Path::new(&format!("/{name}/roots")).into()
}

/// A bootstrap with five instances beside the one that gives the identity.
fn with_others() -> Context {
    let ca = Provided {
        shows: true,
        judges: true,
        ..Provided::default()
    };
    let others = [
        ("both", true, true),
        ("roots", false, true),
        ("certificate", true, false),
    ];
    let one = |(name, identity, trust): (&str, bool, bool)| {
        let provided = Provided {
            identity: identity.then(|| files(name)),
            roots: trust.then(|| roots(name)),
            shows: identity,
            judges: trust,
        };
        (Box::from(name), provided)
    };
    let map = Provided {
        judges: true,
        ..Provided::default()
    };
    // A second CA has no files that a cluster could name, and a bundle map none that is in PEM.
    let others = others
        .map(one)
        .into_iter()
        .chain([("ca".into(), ca), ("map".into(), map)]);
    Context {
        others: Arc::new(others.collect()),
        ..context()
    }
}

/// A cluster whose peers are judged by the roots of one instance, and shown the certificate of another.
fn told(roots: &str, certificate: Option<&str>) -> Result<TlsMode, Rejected> {
    let instance = |name: &str| CertificateProviderPluginInstance {
        instance_name: name.into(),
        certificate_name: String::new(),
    };
    let name = SubjectAltNameMatcher {
        san_type: SanType::Uri as i32,
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("spiffe://d/a".into())),
            ..StringMatcher::default()
        }),
        oid: String::new(),
    };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(instance(roots)),
        match_typed_subject_alt_names: vec![name],
        ..CertificateValidationContext::default()
    };
    let common = CommonTlsContext {
        tls_certificate_provider_instance: certificate.map(instance),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..CommonTlsContext::default()
    };
    let upstream = UpstreamTlsContext {
        common_tls_context: Some(common),
        ..UpstreamTlsContext::default()
    };
    let plain = encode::cluster(&Cluster::new("c", TlsMode::Plaintext, Vec::new()), Dialect::Mesh);
    let proto = Proto {
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(ConfigType::TypedConfig(pack(&upstream))),
        }),
        ..Proto::decode(&*plain).unwrap()
    };
    let decoded = decode::<ClusterSpec>(&raw(&proto), &with_others()).unwrap();
    decoded.value.map(|spec| spec.cluster.tls)
}

#[test]
fn instances_are_told_apart_by_name() {
    for (named, shows, judged_by, shown) in [
        (PROVIDER, None, Roots::Workload, None),
        (PROVIDER, Some("both"), Roots::Workload, Some(files("both"))),
        (
            PROVIDER,
            Some("certificate"),
            Roots::Workload,
            Some(files("certificate")),
        ),
        ("both", None, Roots::File(roots("both")), None),
        ("both", Some("both"), Roots::File(roots("both")), Some(files("both"))),
        ("roots", None, Roots::File(roots("roots")), None),
        (
            "roots",
            Some("certificate"),
            Roots::File(roots("roots")),
            Some(files("certificate")),
        ),
        (
            "roots",
            Some(PROVIDER),
            Roots::File(roots("roots")),
            Some(Credential::Workload),
        ),
        (
            "roots",
            Some("ca"),
            Roots::File(roots("roots")),
            Some(Credential::Provider("ca".into())),
        ),
    ] {
        let Ok(TlsMode::Origination(outside)) = told(named, shows) else {
            panic!("{named} {shows:?}");
        };
        let TlsOrigination {
            roots,
            shown: credential,
            names,
            unverified,
            ..
        } = *outside;
        assert_eq!((roots, credential), (judged_by, shown), "{named} {shows:?}");
        assert_eq!((names.len(), unverified), (1, false));
    }
    assert!(matches!(told(PROVIDER, Some(PROVIDER)), Ok(TlsMode::Mutual(_))));
}

/// Where roots are a trust domain's, of a CA or a bundle map, peers are of a mesh: known by their ids, whatever is shown to them.
#[test]
fn by_an_authoritys_roots_peers_are_of_a_mesh() {
    let of = |name: Option<&str>| name.map(Box::from);
    for (judged_by, shows, certificate, roots, anonymous) in [
        (PROVIDER, Some("ca"), Some("ca"), None, false),
        ("ca", Some(PROVIDER), None, Some("ca"), false),
        ("ca", Some("ca"), Some("ca"), Some("ca"), false),
        ("ca", Some("both"), Some("both"), Some("ca"), false),
        ("ca", None, Some("ca"), Some("ca"), true),
        ("map", Some(PROVIDER), None, Some("map"), false),
        ("map", Some("ca"), Some("ca"), Some("map"), false),
        ("map", None, None, Some("map"), true),
    ] {
        let Ok(TlsMode::Mutual(mutual)) = told(judged_by, shows) else {
            panic!("{judged_by} {shows:?}");
        };
        let expected = MutualTls {
            expected: ExpectedPeers::exactly(["spiffe://d/a"]),
            sni: None,
            identity: ChainIdentity {
                certificate: of(certificate),
                roots: of(roots),
            },
            anonymous,
        };
        assert_eq!(mutual, expected, "{judged_by} {shows:?}");
    }
}

#[test]
fn an_instance_that_is_not_there_or_has_not_what_is_asked_of_it_is_refused_by_its_field() {
    const ROOTS: &str = "ca_certificate_provider_instance.instance_name";
    const CERTIFICATE: &str = "tls_certificate_provider_instance.instance_name";
    for (named, shows, field) in [
        ("nobody", None, ROOTS),
        ("nobody", Some(PROVIDER), ROOTS),
        ("certificate", None, ROOTS),
        (PROVIDER, Some("nobody"), CERTIFICATE),
        (PROVIDER, Some("roots"), CERTIFICATE),
        ("nobody", Some("ca"), ROOTS),
        ("ca", Some("nobody"), CERTIFICATE),
        ("ca", Some("roots"), CERTIFICATE),
        ("certificate", Some("ca"), ROOTS),
        ("map", Some("map"), CERTIFICATE),
        ("both", Some("nobody"), CERTIFICATE),
        ("both", Some("roots"), CERTIFICATE),
    ] {
        let refused = told(named, shows).unwrap_err();
        assert!(refused.field().ends_with(field), "{named} {shows:?}: {refused}");
    }
}

/// A server's listener with one chain, whose socket says this.
fn served(common: CommonTlsContext, required: bool, profile: Profile) -> Result<FilterChain, Rejected> {
    use crate::proto::listener;
    use crate::proto::protobuf::BoolValue;
    use crate::proto::tls::DownstreamTlsContext;
    let plain = FilterChain {
        name: Box::default(),
        matches: ChainMatch::default(),
        security: InboundSecurity::Plaintext,
        identity: ChainIdentity::default(),
        traffic: Traffic::Http,
        authorization: Arc::default(),
        limits: Arc::default(),
        telemetry: Default::default(),
    };
    let inbound = Inbound {
        name: "s".into(),
        address: ([127, 0, 0, 1], 80).into(),
        chains: vec![plain],
        default: None,
    };
    let mut proto = listener::Listener::decode(&*encode::inbound(&inbound, profile)).unwrap();
    let downstream = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: required }),
        ..DownstreamTlsContext::default()
    };
    proto.filter_chains[0].transport_socket = Some(TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(pack(&downstream))),
    });
    let context = Context {
        profile,
        ..with_others()
    };
    let decoded = decode::<Listener>(&raw(&proto), &context).unwrap();
    decoded.value.map(|listener| match listener {
        Listener::Inbound(inbound) => inbound.chains[0].clone(),
        other => panic!("{other:?}"),
    })
}

fn by(certificate: &str, roots: Option<&str>) -> CommonTlsContext {
    let instance = |name: &str| CertificateProviderPluginInstance {
        instance_name: name.into(),
        certificate_name: String::new(),
    };
    let validation = |name| CertificateValidationContext {
        ca_certificate_provider_instance: Some(instance(name)),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: Some(instance(certificate)),
        validation_context_type: roots.map(|name| ValidationContextType::ValidationContext(validation(name))),
        ..CommonTlsContext::default()
    }
}

#[test]
fn a_chain_shows_and_judges_by_whichever_providers_it_names() {
    let own = |name: &str| (name != PROVIDER).then(|| name.into());
    for profile in [Profile::Grpc, Profile::Envoy] {
        for certificate in [PROVIDER, "both", "certificate", "ca"] {
            for roots in [PROVIDER, "both", "roots", "ca"] {
                let chain = served(by(certificate, Some(roots)), true, profile).unwrap();
                assert_eq!(chain.security, InboundSecurity::Mutual(Clients::Trusted));
                let identity = ChainIdentity {
                    certificate: own(certificate),
                    roots: own(roots),
                };
                assert_eq!(chain.identity, identity);
            }
            // Who asks for nobody's certificate needs no roots.
            let alone = ChainIdentity {
                certificate: own(certificate),
                roots: own(certificate),
            };
            for roots in [None, Some(PROVIDER)] {
                let chain = served(by(certificate, roots), false, profile).unwrap();
                assert_eq!(
                    (chain.security, chain.identity),
                    (InboundSecurity::OneSided, alone.clone())
                );
            }
        }
    }
}

#[test]
fn a_chain_whose_provider_is_not_there_or_has_not_its_half_is_refused_by_its_field() {
    const AT: &str = "filter_chains[0].transport_socket.typed_config.common_tls_context";
    const CERTIFICATE: &str = "tls_certificate_provider_instance.instance_name";
    const ROOTS: &str = "validation_context.ca_certificate_provider_instance.instance_name";
    for profile in [Profile::Grpc, Profile::Envoy] {
        for (certificate, roots, field, what) in [
            ("nobody", "both", CERTIFICATE, "nobody"),
            ("roots", "both", CERTIFICATE, "has no certificate"),
            ("both", "nobody", ROOTS, "nobody"),
            ("both", "certificate", ROOTS, "has no roots"),
        ] {
            let refused = served(by(certificate, Some(roots)), true, profile).unwrap_err();
            let text = refused.to_string();
            assert!(
                refused.field().starts_with(AT) && refused.field().ends_with(field),
                "{text}"
            );
            assert!(text.contains(what), "{text}");
        }
    }
}
