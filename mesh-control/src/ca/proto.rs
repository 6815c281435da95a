//! The two messages of Istio's certificate service (`istio.v1.auth`, `security/v1alpha1/ca.proto`), written by hand: a
//! generator for two messages would be a build dependency for nothing.

/// The service's name.
pub(super) const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
/// The method's path.
pub(super) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// Asks for a certificate. Field 4, a free-form `metadata`, is not read: it can ask for impersonation, which this CA does
/// not do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct CreateCertificateRequest {
    /// A signing request, in PEM.
    #[prost(string, tag = "1")]
    pub(super) csr: String,
    /// The wished lifetime in seconds; 0 leaves it to the CA.
    #[prost(int64, tag = "3")]
    pub(super) validity_duration: i64,
}

/// What the caller gets.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct CreateCertificateResponse {
    /// Certificates in PEM: the leaf first, the root last.
    #[prost(string, repeated, tag = "1")]
    pub(super) cert_chain: Vec<String>,
}
