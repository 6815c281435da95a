//! The only door to generated types.
//!
//! `envoy-types` carries the whole Envoy API; a few dozen messages of it are used, and only `decode`, `encode` and `wire`
//! name them. What it lacks, Istio's certificate service and
//! SPIFFE's Workload API, is small enough to be written by hand below. Whoever wants to
//! replace the generator changes this file.

#![allow(
    unnameable_types,
    unreachable_pub,
    reason = "re-exports of generated code, private to this crate"
)]

pub(crate) use envoy_types::pb::envoy::admin::v3 as admin;
#[cfg(feature = "server")]
pub(crate) use envoy_types::pb::envoy::config::ratelimit::v3 as limit_service;
pub(crate) use envoy_types::pb::envoy::config::{
    cluster::v3 as cluster, core::v3 as core, endpoint::v3 as endpoint, listener::v3 as listener, rbac::v3 as rbac,
    route::v3 as route,
};
#[cfg(feature = "server")]
pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as access_file;
pub(crate) use envoy_types::pb::envoy::extensions::clusters::aggregate::v3 as aggregate;
pub(crate) use envoy_types::pb::envoy::extensions::common::ratelimit::v3 as rate_limit;
pub(crate) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::{
    ext_authz::v3 as ext_authz, fault::v3 as fault, jwt_authn::v3 as jwt_authn, local_ratelimit::v3 as local_limit,
    ratelimit::v3 as global_limit, rbac::v3 as rbac_http, router::v3 as router,
};
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::{
    http_connection_manager::v3 as hcm, rbac::v3 as rbac_network,
};
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies as lb;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
pub(crate) use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::{raw_buffer::v3 as raw_buffer, tls::v3 as tls};
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use envoy_types::pb::envoy::service::{
    discovery::v3 as discovery, load_stats::v3 as load_stats, status::v3 as status,
};
pub(crate) use envoy_types::pb::envoy::r#type::http::v3 as http;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as percent;
pub(crate) use envoy_types::pb::google::protobuf;
pub(crate) use envoy_types::pb::google::rpc;

/// Access logs, and the filters of them that are extensions.
pub(crate) mod accesslog {
    pub(crate) use envoy_types::pb::envoy::config::accesslog::v3::*;
    pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
}

/// Paths by template.
pub(crate) mod path {
    pub(crate) use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3 as r#match;
    pub(crate) use envoy_types::pb::envoy::extensions::path::rewrite::uri_template::v3 as rewrite;
}

/// `StatefulSession` and the states it may have.
pub(crate) mod stateful_session {
    pub(crate) use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::*;
    pub(crate) use envoy_types::pb::envoy::extensions::http::stateful_session::{
        cookie::v3 as cookie, header::v3 as header,
    };
}

/// Packs a message with its type's URL.
pub(crate) fn pack<M: prost::Message + prost::Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// The names of the types that [`TypedStruct`] reads.
pub(crate) const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

/// `xds.type.v3.TypedStruct` and `udpa.type.v1.TypedStruct`, which are the same on the wire: a configuration as JSON with the
/// type it would have. Only the type is looked at; of the rest it matters whether there is any.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct TypedStruct {
    /// The type's URL.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The configuration, a `google.protobuf.Struct`, unread.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `istio.v1.auth`, the certificate service of Istio's control plane (`security/v1alpha1/ca.proto`).
pub(crate) mod istio {
    /// The method's path on the wire.
    pub(crate) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

    /// Asks for a certificate. Field 4, a free-form `metadata`, is not used here.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct CreateCertificateRequest {
        /// A PEM certificate signing request.
        #[prost(string, tag = "1")]
        pub csr: String,
        /// How long the certificate should be valid, in seconds.
        #[prost(int64, tag = "3")]
        pub validity_duration: i64,
    }

    /// The certificate and those above it.
    #[derive(Clone, PartialEq, Eq, prost::Message)]
    pub(crate) struct CreateCertificateResponse {
        /// PEM certificates, the leaf first and the root last.
        #[prost(string, repeated, tag = "1")]
        pub cert_chain: Vec<String>,
    }
}

/// The X.509 half of the SPIFFE Workload API (`SPIFFE_Workload_API.md` 5.1; the service has no package).
#[cfg(feature = "workload-api")]
pub(crate) mod spiffe {
    use std::collections::HashMap;
    use std::fmt;

    use zeroize::Zeroize;

    /// The method's path on the wire.
    pub(crate) const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

    /// Asks for what the caller is entitled to, and is told again whenever that changes.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub(crate) struct X509SvidRequest {}

    /// Everything, each time: what is not in it is no longer so (4.4). Field 2, revocation lists, is not read.
    #[derive(PartialEq, prost::Message)]
    pub(crate) struct X509SvidResponse {
        /// Whom the caller may be, at least one; the first is who it is unless it knows better (5.3).
        #[prost(message, repeated, tag = "1")]
        pub svids: Vec<X509Svid>,
        /// The roots of other trust domains, by their SPIFFE ids: certificates in DER, one after the other.
        #[prost(map = "string, bytes", tag = "3")]
        pub federated_bundles: HashMap<String, Vec<u8>>,
    }

    /// One identity. The key's bytes are wiped when it is dropped, and shown nowhere.
    #[derive(PartialEq, Eq, prost::Message)]
    #[prost(skip_debug)]
    pub(crate) struct X509Svid {
        /// Whom it names.
        #[prost(string, tag = "1")]
        pub spiffe_id: String,
        /// The chain in DER, the leaf first, one certificate after the other.
        #[prost(bytes = "vec", tag = "2")]
        pub x509_svid: Vec<u8>,
        /// The private key: PKCS#8 in DER, in the clear.
        #[prost(bytes = "vec", tag = "3")]
        pub x509_svid_key: Vec<u8>,
        /// The roots of its own trust domain in DER, one after the other.
        #[prost(bytes = "vec", tag = "4")]
        pub bundle: Vec<u8>,
        /// What the operator calls it, among several.
        #[prost(string, tag = "5")]
        pub hint: String,
    }

    impl fmt::Debug for X509Svid {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("X509Svid")
                .field("spiffe_id", &self.spiffe_id)
                .finish_non_exhaustive()
        }
    }

    impl Drop for X509Svid {
        fn drop(&mut self) {
            self.x509_svid_key.zeroize();
        }
    }
}
