//! TLS to a server that is no part of the mesh (Istio's `SIMPLE` and `MUTUAL`, for hosts of a ServiceEntry).
//!
//! Such a server has an ordinary name and an ordinary certificate, so it is judged by the rules of the web, against roots that
//! are said here. Keys, and what they are read from, are not in a configuration: only where they are to be had.

use std::path::Path;

use super::StringMatch;

/// How a server outside of the mesh is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsOrigination {
    /// What its certificate must lead to.
    pub roots: Roots,
    /// The name to call it by, sent as SNI. Without one, and without `names`, it cannot be called: there is nothing to hold its
    /// certificate against.
    pub sni: Option<Box<str>>,
    /// Names of which its certificate must have one. None: it must be good for `sni` (RFC 6125).
    pub names: Box<[NameMatch]>,
    /// What is shown to it (`MUTUAL`). `None`: nothing (`SIMPLE`).
    pub shown: Option<Credential>,
    /// Do not ask who it is (Istio `insecureSkipVerify`, Envoy `ACCEPT_UNTRUSTED`). The data plane refuses it unless the
    /// application allowed it in code.
    pub unverified: bool,
}

/// Where roots are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Roots {
    /// Those of the operating system.
    System,
    /// The certificates in this PEM file.
    File(Box<Path>),
    /// The credential of this name, which the application provides.
    Named(Box<str>),
    /// Those of the workload's own trust domain (gRFC A29: the roots of a provider, without its certificate).
    Workload,
}

/// Where a certificate with its key is to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Credential {
    /// In these PEM files.
    Files {
        /// The certificates, leaf first.
        certificate: Box<Path>,
        /// The leaf's key.
        key: Box<Path>,
    },
    /// The credential of this name, which the application provides (Istio `credentialName`).
    Named(Box<str>),
    /// The workload's own.
    Workload,
    /// What the certificate provider of this name in the bootstrap has, which is no file (gRFC A29).
    Provider(Box<str>),
}

impl TlsOrigination {
    /// Whether it asks for files or credentials that each caller has for himself, beside those of the system and of the workload: a client
    /// that knows its bootstrap's certificate providers alone has none of them.
    pub fn asks_for_the_callers_own(&self) -> bool {
        let roots = matches!(self.roots, Roots::File(_) | Roots::Named(_));
        roots || matches!(self.shown, Some(Credential::Files { .. } | Credential::Named(_)))
    }
}

/// A test of one of a certificate's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameMatch {
    /// Names of which kind it looks at.
    pub kind: NameKind,
    /// What such a name must be.
    pub test: StringMatch,
}

/// A kind of name (RFC 5280 4.2.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// `dNSName`. A name with a wildcard stands for the names that it covers where the test is for one name (RFC 6125 6.4.3).
    Dns,
    /// `uniformResourceIdentifier`
    Uri,
    /// `iPAddress`, as text.
    Ip,
    /// `rfc822Name`
    Email,
    /// Any of these.
    Any,
}
