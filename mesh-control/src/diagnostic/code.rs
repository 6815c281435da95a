//! Every kind of finding, in one table: what it is called, what it says, and what to do about it.
//!
//! One table, since three things must agree: what a finding prints, what `meshctl analyze --list-codes` explains, and what the
//! documentation lists. A code keeps its meaning for ever, since scripts suppress and count by it; one that is not used any more is not
//! given away again.

use std::fmt;

use serde::Serialize;

/// Makes [`Code`] of the table below.
macro_rules! codes {
    ($($variant:ident $code:literal: $about:literal, $hint:literal;)*) => {
        /// What kind of finding it is: a stable word for filters and counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = concat!($code, ": ", $about, ".")] $variant,)*
        }

        impl Code {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What is the case, in half a sentence.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

codes! {
    NotFound "IST0101": "a name that is referred to does not exist",
        "check the spelling and the namespace (a short host is of the document's own), or add the document that defines it";
    Schema "IST0106": "the document does not fit the schema",
        "correct the field; `kubectl explain` and Istio's reference have its form";
    ConflictingHosts "IST0109": "two rules claim the same host (an error for Istio; here the older one counts)",
        "merge the two documents into one, or narrow exportTo so that no client sees both";
    PortRequired "IST0112": "a destination without a port, on a service with several",
        "add destination.port.number";
    NoWorkload "IST0127": "a selector that means no workload",
        "compare the selector's labels with those of WorkloadEntry documents and endpoints in the same namespace";
    UnverifiedServer "IST0128": "TLS to a server without caCertificates: whoever the system trusts may answer, or anybody with insecureSkipVerify",
        "name the server's own roots in caCertificates or credentialName, and drop insecureSkipVerify";
    UnverifiedServerPort "IST0129": "the same as IST0128, for one port",
        "name the server's own roots in the port's tls block";
    Unreachable "IST0130": "a route that no request can reach",
        "move it before the route that takes its requests, or remove it";
    Ineffective "IST0131": "a match that an earlier one makes useless",
        "remove it, or move it before the wider one";
    NoFailover "IST0133": "failover without outlierDetection: nothing fails over",
        "add outlierDetection to the same trafficPolicy";
    NegativeStatus "IST0171": "a status condition of the document is False",
        "whoever wrote the status says why in its message";
    EmptySubset "IST0173": "the labels of a subset fit no endpoint (an error for Istio; here a canary may come later)",
        "compare the subset's labels with those of the service's endpoints";
    NoSuchHost "IST0174": "a rule for a host that no service has",
        "check the spelling and the namespace of the host, or add a ServiceEntry for it";
    KeysFromInside "IST0175": "keys of an issuer are fetched from an address of a private network",
        "name the issuer by a host of its own, and keep the control plane from networks that it has no business in";
    ConflictingProtocols "IST0177": "two entries give one port of a host different protocols",
        "give both entries the same protocol, or narrow exportTo so that no client sees both";
    Unreadable "MSH0001": "the file cannot be read",
        "check its owner, mode and size; half-written files are read again when they are closed";
    NotServed "MSH0002": "known to Istio, but without effect in this version",
        "remove it, or see the README's table of what is served";
    Refused "MSH0003": "known to Istio and left out of this version, where ignoring it would be unsafe or misroute",
        "remove it, or say the same in a way that is served";
    Skipped "MSH0004": "a document of a kind that is no business of a mesh",
        "nothing: it may stay where it is";
    NoEndpoints "MSH0005": "a share of the traffic goes to a subset that has no endpoint",
        "start the workload and add its WorkloadEntry, or set the weight to 0";
    Duplicate "MSH0006": "the same thing is defined twice (the older one counts; where that could let somebody in it is an error)",
        "remove one of them, or give it another name";
    UselessWeight "MSH0007": "a single destination always gets everything, whatever its weight",
        "remove the weight, or add the other destination";
    NoEffect "MSH0008": "a policy that changes nothing",
        "read the sentence: the policy does not protect what it seems to";
    KeysUnavailable "MSH0009": "keys that are fetched are not there, or could not be fetched again",
        "reach the address from the control plane's machine; tokens of that issuer are refused meanwhile";
    TlsConflict "MSH0010": "how a DestinationRule calls a service is not what its servers take: calls fail",
        "remove tls from the DestinationRule (the mesh knows by itself), or change the PeerAuthentication";
    TriesCut "MSH0011": "the timeout of a route is too short for all tries that it allows",
        "raise timeout to perTryTimeout x (attempts + 1), or lower either";
    Nameless "MSH0012": "TLS to a server outside of the mesh without a name to hold its certificate against: it cannot be called",
        "add sni or subjectAltNames";
    NoSuchNamespace "MSH0013": "a policy names a namespace that no document is in",
        "check the spelling; a namespace that only callers are in is none that documents name, and then nothing is wrong";
    UnreadFolder "MSH0014": "a folder in the watched folder, whose files are not read",
        "put its files beside the others, or analyze it by its own path";
    Emptied "MSH0015": "all documents, or all of security, vanished at once: not believed, since a folder that was lost looks like this",
        "take the last one away by itself, some seconds after the others, or start with `meshctl run --allow-empty`";
    UnreadName "MSH0016": "a file that is not read, because its name ends in capital letters",
        "call it .yaml, .yml or .json";
    CallersFiles "MSH0018": "TLS by files or secrets of each caller's: gRPC clients of another make cannot call the host",
        "nothing where all callers are of this mesh's library or Envoys; else have them call it through a service of the mesh";
    UnreadExpression "MSH0019": "an expression that is not read here, so that nobody knows which calls are to be written",
        "compare response.code with numbers, or leave the filter out and go by the fields of the lines";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_given_once_and_in_order() {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let sorted: BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(codes, sorted.into_iter().collect::<Vec<_>>());
    }
}
