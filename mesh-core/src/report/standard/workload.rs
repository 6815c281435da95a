//! What the labels say of a workload, by Istio's derivation.

use crate::config::service::{UNKNOWN, text};
use crate::identity::SpiffeId;

/// The revision of whatever tells none (Istio).
const LATEST: &str = "latest";
/// Where a workload is when nobody says (Istio's and Kiali's default).
const CLUSTER: &str = "Kubernetes";

/// A workload, as labels name it. Each text is `unknown` where nothing is known, but for the revision, which is `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    name: Box<str>,
    namespace: Box<str>,
    canonical_name: Box<str>,
    canonical_revision: Box<str>,
    app: Box<str>,
    version: Box<str>,
    cluster: Box<str>,
}

impl Workload {
    /// Nothing is known of it.
    pub fn unknown() -> Self {
        Self {
            name: UNKNOWN.into(),
            namespace: UNKNOWN.into(),
            canonical_name: UNKNOWN.into(),
            canonical_revision: LATEST.into(),
            app: UNKNOWN.into(),
            version: UNKNOWN.into(),
            cluster: UNKNOWN.into(),
        }
    }

    /// A workload without labels: its canonical name is its own. In the cluster `Kubernetes`.
    pub fn named(name: &str, namespace: &str) -> Self {
        Self::labelled(name, namespace, |_| None)
    }

    /// A workload with the Kubernetes labels that `label` knows. In the cluster `Kubernetes`.
    ///
    /// The canonical name is the label `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else `name`;
    /// the revision `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`, else `latest`
    /// (Istio).
    pub fn labelled<'a>(name: &'a str, namespace: &'a str, label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let first = |labels: [&str; 3]| {
            labels
                .into_iter()
                .find_map(|key| label(key).filter(|text| !text.is_empty()))
        };
        let canonical_name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let canonical_revision = first([
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]);
        Self {
            name: text(name),
            namespace: text(namespace),
            canonical_name: text(canonical_name.unwrap_or(name)),
            canonical_revision: canonical_revision.map_or_else(|| LATEST.into(), text),
            app: text(label("app").unwrap_or_default()),
            version: text(label("version").unwrap_or_default()),
            cluster: CLUSTER.into(),
        }
    }

    /// What a control plane says of an endpoint in its metadata `istio`, `workload`: the parts `workload;namespace;canonical-name;
    /// canonical-revision;cluster`, of which any may be empty or missing. Labels are not among them, so app and version stay unknown
    /// (Istio).
    pub fn of_endpoint(metadata: &str) -> Self {
        let mut parts = metadata.split(';');
        let mut next = || parts.next().unwrap_or_default();
        let (name, namespace, canonical_name, revision, cluster) = (next(), next(), next(), next(), next());
        Self {
            name: text(name),
            namespace: text(namespace),
            canonical_name: text(canonical_name),
            canonical_revision: match revision {
                "" => LATEST.into(),
                revision => text(revision),
            },
            cluster: text(cluster),
            ..Self::unknown()
        }
    }

    /// The same, as [`of_endpoint`](Self::of_endpoint) reads it.
    pub fn endpoint_metadata(&self) -> String {
        let known = |text: &'_ str| {
            if text == UNKNOWN {
                String::new()
            } else {
                text.replace(';', "_")
            }
        };
        let revision = match self.canonical_revision() {
            LATEST => String::new(),
            revision => known(revision),
        };
        let [name, namespace, canonical, cluster] =
            [&self.name, &self.namespace, &self.canonical_name, &self.cluster].map(|text| known(text));
        format!("{name};{namespace};{canonical};{revision};{cluster}")
    }

    /// In another cluster; empty: left as it is.
    #[must_use]
    pub fn in_cluster(mut self, cluster: &str) -> Self {
        if !cluster.is_empty() {
            self.cluster = text(cluster);
        }
        self
    }

    /// With the namespace that a certificate tells, which counts for more than what a peer says of itself.
    #[must_use]
    pub fn vouched_by(mut self, id: &SpiffeId) -> Self {
        if let Some(namespace) = namespace_of(id) {
            self.namespace = text(namespace);
        }
        self
    }

    /// Its name: that of the Deployment, mostly.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its canonical service.
    pub fn canonical_name(&self) -> &str {
        &self.canonical_name
    }

    /// The revision of that.
    pub fn canonical_revision(&self) -> &str {
        &self.canonical_revision
    }

    /// Its label `app`.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// Its label `version`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The cluster of machines that it runs in.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether its name is known.
    pub fn is_known(&self) -> bool {
        &*self.name != UNKNOWN
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self::unknown()
    }
}

/// The namespace that an id of Istio's form names: `spiffe://domain/ns/NAMESPACE/sa/ACCOUNT`.
pub(super) fn namespace_of(id: &SpiffeId) -> Option<&str> {
    let (namespace, account) = id.path().strip_prefix("/ns/")?.split_once("/sa/")?;
    (!namespace.is_empty() && !namespace.contains('/') && !account.is_empty()).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::service::MAX_LABEL_BYTES as MAX_BYTES;

    fn of(labels: &[(&str, &str)]) -> Workload {
        let labels: Vec<_> = labels.to_vec();
        let find = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        Workload::labelled("reviews-v1", "default", find)
    }

    #[test]
    fn canonical_names_and_revisions_are_derived_as_istio_does() {
        let all = [
            ("service.istio.io/canonical-name", "canonical"),
            ("app.kubernetes.io/name", "kubernetes"),
            ("app", "reviews"),
            ("service.istio.io/canonical-revision", "r3"),
            ("app.kubernetes.io/version", "r2"),
            ("version", "v1"),
        ];
        for (labels, name, revision) in [
            (&all[..], "canonical", "r3"),
            (&all[1..], "kubernetes", "r3"),
            (&[all[2], all[4], all[5]], "reviews", "r2"),
            (&[all[5]], "reviews-v1", "v1"),
            (&[], "reviews-v1", "latest"),
            (&[("app", ""), ("version", "")], "reviews-v1", "latest"),
        ] {
            let workload = of(labels);
            assert_eq!(
                (workload.canonical_name(), workload.canonical_revision()),
                (name, revision),
                "{labels:?}"
            );
        }
        let workload = of(&all);
        assert_eq!(
            (workload.app(), workload.version(), workload.cluster()),
            ("reviews", "v1", "Kubernetes")
        );
        let bare = of(&[]).in_cluster("east").in_cluster("");
        assert_eq!((bare.app(), bare.version(), bare.cluster()), (UNKNOWN, UNKNOWN, "east"));
    }

    #[test]
    fn endpoints_tell_five_things_and_neither_app_nor_version() {
        let told = Workload::of_endpoint("reviews-v2;default;reviews;v2;east");
        assert_eq!(
            (told.name(), told.namespace(), told.cluster()),
            ("reviews-v2", "default", "east")
        );
        assert_eq!((told.canonical_name(), told.canonical_revision()), ("reviews", "v2"));
        assert_eq!((told.app(), told.version()), (UNKNOWN, UNKNOWN));
        assert_eq!(told.endpoint_metadata(), "reviews-v2;default;reviews;v2;east");
        let part = Workload::of_endpoint(";;reviews");
        assert_eq!(
            (part.name(), part.canonical_name(), part.canonical_revision()),
            (UNKNOWN, "reviews", "latest")
        );
        assert_eq!(Workload::of_endpoint(""), Workload::unknown());
        assert_eq!(Workload::unknown().endpoint_metadata(), ";;;;");
    }

    #[test]
    fn a_certificate_knows_the_namespace_better() {
        let id = |text| SpiffeId::parse(text).unwrap();
        let told = Workload::named("a", "claimed").vouched_by(&id("spiffe://d/ns/shop/sa/a"));
        assert_eq!(told.namespace(), "shop");
        for other in [
            "spiffe://d",
            "spiffe://d/payment",
            "spiffe://d/ns/shop",
            "spiffe://d/ns/a/b/sa/c",
        ] {
            assert_eq!(namespace_of(&id(other)), None, "{other}");
        }
    }

    #[test]
    fn no_text_is_empty_or_endless() {
        let long = "ü".repeat(MAX_BYTES);
        let workload = Workload::named(&long, "");
        assert!(workload.name().len() <= MAX_BYTES && workload.name().len() > MAX_BYTES - 2);
        assert_eq!(workload.namespace(), UNKNOWN);
    }
}
