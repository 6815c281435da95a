//! The service that a cluster's calls are for, as metrics name it.

use std::net::IpAddr;

/// What a label says when nothing is known. No label is ever left out or empty: Kiali drops such a series whole.
pub const UNKNOWN: &str = "unknown";
/// The longest value of a label, in bytes: as long as a DNS name. What is beyond is cut off, since peers name themselves.
pub(crate) const MAX_LABEL_BYTES: usize = 253;

/// A service, as metrics name it (Istio's cluster metadata `istio`, `services`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    host: Box<str>,
    name: Box<str>,
    namespace: Box<str>,
}

impl Service {
    /// Nothing is known of it.
    pub fn unknown() -> Self {
        Self::new("", "", "")
    }

    /// As a control plane says it of a cluster (the first of Istio's metadata `istio`, `services`). What is empty is unknown, but
    /// for the name, which is the first label of the host then.
    pub fn new(host: &str, name: &str, namespace: &str) -> Self {
        let name = match name {
            "" => first_label(host),
            name => name,
        };
        Self {
            host: text(host),
            name: text(name),
            namespace: text(namespace),
        }
    }

    /// As far as the authority of a request tells it: a host of Kubernetes' form names its namespace, too.
    ///
    /// ```
    /// use mesh_core::config::Service;
    /// let service = Service::of_authority("payment.shop.svc.cluster.local:8080");
    /// assert_eq!((service.host(), service.name()), ("payment.shop.svc.cluster.local", "payment"));
    /// assert_eq!(service.namespace(), "shop");
    /// ```
    pub fn of_authority(authority: &str) -> Self {
        let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let host = match host.rsplit_once(':') {
            // The colons of an IPv6 address are within its brackets.
            Some((host, port)) if !host.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) => host,
            _ => host,
        };
        let lower = host.to_ascii_lowercase();
        let mut labels = lower.split('.');
        let namespace = match (labels.next(), labels.next(), labels.next()) {
            (Some(_), Some(namespace), Some("svc")) => namespace,
            _ => "",
        };
        Self::new(&lower, "", namespace)
    }

    /// Its host: mostly its full name in Kubernetes.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its short name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether its host is known.
    pub fn is_known(&self) -> bool {
        &*self.host != UNKNOWN
    }
}

/// The value of a label: not empty, and not longer than it may be.
pub(crate) fn text(value: &str) -> Box<str> {
    if value.is_empty() {
        return UNKNOWN.into();
    }
    let mut end = value.len().min(MAX_LABEL_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].into()
}

/// An address has no labels.
fn first_label(host: &str) -> &str {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(_) => host,
        Err(_) => host.split('.').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_tells() {
        for (authority, host, name, namespace) in [
            ("payment", "payment", "payment", UNKNOWN),
            ("Payment:80", "payment", "payment", UNKNOWN),
            ("payment.shop", "payment.shop", "payment", UNKNOWN),
            ("payment.shop.svc", "payment.shop.svc", "payment", "shop"),
            ("10.0.0.1:80", "10.0.0.1", "10.0.0.1", UNKNOWN),
            ("[::1]:80", "[::1]", "[::1]", UNKNOWN),
            ("[::1]", "[::1]", "[::1]", UNKNOWN),
            ("user@payment", "payment", "payment", UNKNOWN),
            ("", UNKNOWN, UNKNOWN, UNKNOWN),
        ] {
            assert_eq!(
                Service::of_authority(authority),
                Service {
                    host: host.into(),
                    name: name.into(),
                    namespace: namespace.into()
                },
                "{authority}"
            );
        }
        assert_eq!(Service::new("a.b", "c", "").name(), "c");
        assert!(!Service::unknown().is_known());
    }
}
