//! Certificate providers beside the workload's own (gRFC A29): with whose files a cluster's endpoints are called.

use std::path::Path;

use mesh_core::config::{Cluster, Credential, Roots, TlsMode, TlsOrigination};

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
use crate::resource::ClusterSpec;

fn files(name: &str) -> Credential {
    Credential::Files {
        certificate: Path::new(&format!("/{name}/chain")).into(),
        key: Path::new(&format!("/{name}/key")).into(),
    }
}

fn roots(name: &str) -> Box<Path> {
    Path::new(&format!("/{name}/roots")).into()
}

/// A bootstrap with three instances beside the one that gives the identity.
fn with_others() -> Context {
    let others = [
        ("both", true, true),
        ("roots", false, true),
        ("certificate", true, false),
    ];
    let one = |(name, identity, trust): (&str, bool, bool)| {
        let provided = Provided {
            identity: identity.then(|| files(name)),
            roots: trust.then(|| roots(name)),
        };
        (Box::from(name), provided)
    };
    Context {
        others: Arc::new(others.map(one).into()),
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
        ("both", Some("nobody"), CERTIFICATE),
        ("both", Some("roots"), CERTIFICATE),
    ] {
        let refused = told(named, shows).unwrap_err();
        assert!(refused.field().ends_with(field), "{named} {shows:?}: {refused}");
    }
}
