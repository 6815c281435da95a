//! `EnvoyFilter` documents to how many requests a workload takes.
//!
//! All that mean a workload hold together, those of the root namespace first, then by priority and age (Istio). Each is one filter with
//! buckets of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_core::config::{LimitFilter, RateLimits};

use super::{Findings, Mesh};
use crate::diagnostic::{Code, Severity};
use crate::istio::{Document, Documents, EnvoyFilter};

/// The documents by what they are for.
#[derive(Debug, Default)]
pub(super) struct Limits<'a> {
    mesh: Vec<&'a Document<EnvoyFilter>>,
    namespaces: BTreeMap<&'a str, Vec<&'a Document<EnvoyFilter>>>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, findings: &mut Findings) -> Self {
        let mut all = Self::default();
        for document in &documents.envoy_filters {
            let namespace = document.meta.namespace();
            // One with a selector means workloads of every namespace there, which have these labels (Istio).
            match namespace == &*mesh.root_namespace {
                true => all.mesh.push(document),
                false => all.namespaces.entry(namespace).or_default().push(document),
            }
        }
        all.mesh.sort_by_key(|document| document.spec.priority);
        for (namespace, own) in &mut all.namespaces {
            own.sort_by_key(|document| document.spec.priority);
            let several = all
                .mesh
                .iter()
                .chain(own.iter())
                .flat_map(|document| &document.spec.patches);
            if several.count() > RateLimits::MAX_FILTERS {
                let message = format!(
                    "{namespace} has more than {} limits: the last of them have no effect",
                    RateLimits::MAX_FILTERS
                );
                let last = own[own.len() - 1];
                findings.say(&last.meta, Severity::Error, Code::Refused, &last.meta.place, message);
            }
        }
        all
    }

    /// The ports of which a document says something of their own.
    pub(super) fn ports(&self, namespace: &str) -> impl Iterator<Item = u16> {
        let own = self.namespaces.get(namespace).into_iter().flatten();
        let documents = self.mesh.iter().chain(own);
        documents.flat_map(|document| document.spec.patches.iter().filter_map(|patch| patch.port))
    }

    /// How many requests a workload of `namespace` with `labels` takes on its own port `port`.
    pub(super) fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>, port: u16) -> Arc<RateLimits> {
        let own = self.namespaces.get(namespace).into_iter().flatten();
        let selected = self.mesh.iter().chain(own).filter(|document| {
            let selector = document.spec.selector.as_ref();
            selector.is_none_or(|selector| selector.selects(labels))
        });
        let mut filters: Vec<LimitFilter> = Vec::new();
        for document in selected {
            let patches = document.spec.patches.iter();
            for patch in patches.filter(|patch| patch.port.is_none_or(|of| of == port)) {
                add(
                    &mut filters,
                    LimitFilter {
                        name: patch.name.clone(),
                        limit: Some(Arc::clone(&patch.limit)),
                        after_guards: patch.after_guards,
                    },
                );
            }
        }
        // Those before the guards come first, whatever document they are of.
        filters.sort_by_key(|filter| filter.after_guards);
        made(filters)
    }
}

/// What holds where two workloads are at one address, and nobody knows which of them is meant: both.
pub(super) fn both(a: &Arc<RateLimits>, b: &Arc<RateLimits>) -> Arc<RateLimits> {
    if a == b {
        return Arc::clone(a);
    }
    let mut filters = a.filters().to_vec();
    for filter in b.filters().iter().filter(|filter| !a.filters().contains(filter)) {
        add(&mut filters, filter.clone());
    }
    filters.sort_by_key(|filter| filter.after_guards);
    made(filters)
}

/// Names are unique in a chain: of several limits of one name, the later ones get a number.
fn add(filters: &mut Vec<LimitFilter>, mut filter: LimitFilter) {
    let taken = |name: &str| filters.iter().any(|other| *other.name == *name);
    if taken(&filter.name) {
        let numbered = (2..).map(|number| format!("{}-{number}", filter.name));
        let free = numbered.into_iter().find(|name| !taken(name));
        filter.name = free.unwrap_or_default().into();
    }
    filters.push(filter);
}

fn made(mut filters: Vec<LimitFilter>) -> Arc<RateLimits> {
    // Told when the documents were read.
    filters.truncate(RateLimits::MAX_FILTERS);
    Arc::new(RateLimits::new(filters, Vec::new()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-local-ratelimit-svc, namespace: NAMESPACE}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener:
          filterChain:
            filter: {name: envoy.filters.network.http_connection_manager}
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.http.local_ratelimit
          typed_config:
            '@type': type.googleapis.com/udpa.type.v1.TypedStruct
            type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
            value:
              stat_prefix: http_local_rate_limiter
              token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}
              filter_enabled:
                runtime_key: local_rate_limit_enabled
                default_value: {numerator: 100, denominator: HUNDRED}
              filter_enforced:
                runtime_key: local_rate_limit_enforced
                default_value: {numerator: 100, denominator: HUNDRED}
              response_headers_to_add:
                - append: false
                  header: {key: x-local-rate-limit, value: 'true'}
---
";

    fn limits(text: &str, namespace: &str, labels: &[(&str, &str)], port: u16) -> Arc<RateLimits> {
        let mut documents = Documents::default();
        assert_eq!(documents.read("a.yaml", text), []);
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let mut findings = Findings::default();
        let limits = Limits::new(&documents, &Mesh::default(), &mut findings);
        limits.of_workload(namespace, &labels, port)
    }

    /// The document of Istio's task, as it stands there.
    #[test]
    fn istios_own_example_limits_the_workload_it_selects() {
        let text = LIMIT.replace("NAMESPACE", "shop");
        let of = |namespace, app| limits(&text, namespace, &[("app", app)], 9080);
        let found = of("shop", "productpage");
        let [filter] = found.filters() else { panic!("{found:?}") };
        let limit = filter.limit.as_deref().unwrap();
        let bucket = limit.bucket.unwrap();
        assert_eq!(
            (bucket.max(), bucket.per_fill(), bucket.interval().as_secs()),
            (4, 4, 60)
        );
        assert_eq!((limit.response_headers.add.len(), filter.after_guards), (1, false));
        assert!(of("shop", "ratings").is_empty() && of("other", "productpage").is_empty());
    }

    #[test]
    fn all_that_mean_a_workload_hold_the_roots_first() {
        let narrow = LIMIT
            .replace("NAMESPACE", "shop")
            .replace("  workloadSelector: {labels: {app: productpage}}\n", "")
            .replace("        listener:\n", "        listener:\n          portNumber: 9080\n")
            .replace("max_tokens: 4", "max_tokens: 5");
        let text = narrow + &LIMIT.replace("NAMESPACE", "istio-system");
        let maxima = |port| {
            let found = limits(&text, "shop", &[("app", "productpage")], port);
            let max = |filter: &LimitFilter| {
                let bucket = filter.limit.as_ref().and_then(|limit| limit.bucket);
                (filter.name.to_string(), bucket.map(|bucket| bucket.max()))
            };
            found.filters().iter().map(max).collect::<Vec<_>>()
        };
        let name = "envoy.filters.http.local_ratelimit".to_owned();
        assert_eq!(maxima(9080), [(name.clone(), Some(4)), (format!("{name}-2"), Some(5))]);
        assert_eq!(maxima(9081), [(name, Some(4))]);
    }

    #[test]
    fn every_other_patch_is_an_error() {
        let good = LIMIT.replace("NAMESPACE", "shop");
        let errors = |text: &str| {
            let mut documents = Documents::default();
            let found = documents.read("a.yaml", text);
            found
                .into_iter()
                .filter(|finding| finding.severity == Severity::Error)
                .count()
        };
        assert_eq!(errors(&good), 0);
        for (from, to) in [
            ("applyTo: HTTP_FILTER", "applyTo: NETWORK_FILTER"),
            ("applyTo: HTTP_FILTER", "applyTo: LISTENER"),
            ("applyTo: HTTP_FILTER", "applyTo: HTTP_ROUTE"),
            ("applyTo: HTTP_FILTER", "applyTo: EXTENSION_CONFIG"),
            ("applyTo: HTTP_FILTER", "applyTo: NOTHING"),
            ("context: SIDECAR_INBOUND", "context: SIDECAR"),
            ("http.local_ratelimit.v3.LocalRateLimit", "http.rbac.v3.RBAC"),
            ("context: SIDECAR_INBOUND", "context: ANY"),
            ("operation: INSERT_BEFORE", "operation: REPLACE"),
            ("http.local_ratelimit.v3.LocalRateLimit", "http.lua.v3.Lua"),
            ("http_connection_manager", "tcp_proxy"),
            ("stat_prefix: http_local", "surprise: http_local"),
            ("fill_interval: 60s", "fill_interval: 1ms"),
            ("max_tokens: 4", "max_tokens: -1"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert!(errors(&bad) > 0, "{to}");
        }
    }

    /// What patches an Envoy elsewhere, or turns nobody away, is told of, and the rest is published.
    #[test]
    fn a_patch_that_means_nothing_in_process_is_a_warning_that_names_document_and_line() {
        let good = LIMIT.replace("NAMESPACE", "shop");
        for (from, to, why) in [
            ("context: SIDECAR_INBOUND", "context: GATEWAY", "context GATEWAY"),
            (
                "context: SIDECAR_INBOUND",
                "context: SIDECAR_OUTBOUND",
                "context SIDECAR_OUTBOUND",
            ),
            ("applyTo: HTTP_FILTER", "applyTo: BOOTSTRAP", "applyTo BOOTSTRAP"),
            ("applyTo: HTTP_FILTER", "applyTo: CLUSTER", "applyTo CLUSTER"),
            ("operation: INSERT_BEFORE", "operation: REMOVE", "operation REMOVE"),
            (
                "http.local_ratelimit.v3.LocalRateLimit",
                "http.grpc_stats.v3.FilterConfig",
                "filter envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
            ),
        ] {
            let other = good.replace(from, to);
            assert_ne!(other, good);
            let mut documents = Documents::default();
            let found = documents.read(
                "a.yaml",
                &(other + &good.replace("metadata: {name: ", "metadata: {name: good-")),
            );
            let [warning] = &*found else { panic!("{to}: {found:?}") };
            let text = warning.to_string();
            let place =
                "a.yaml:8:7: warning[MSH0002]: EnvoyFilter shop/filter-local-ratelimit-svc: spec.configPatches[0]: ";
            assert!(text.starts_with(&format!("{place}{why}")), "{text}");
            // The document beside it holds.
            let limits = Limits::new(&documents, &Mesh::default(), &mut Findings::default());
            let labels = [("app".to_owned(), "productpage".to_owned())].into();
            assert_eq!(limits.of_workload("shop", &labels, 9080).filters().len(), 1, "{to}");
        }
    }
}
