//! `Telemetry` documents to what is told of calls, at either end.
//!
//! What stands closer to a workload has the last word, and of what it says nothing the next wider one holds: of the mesh, of the namespace, of
//! the workload (Istio). Which labels a caller has nobody knows here, so what is said of some workloads holds for their servers alone.

use std::collections::BTreeMap;

use mesh_core::config::{LogFilter, Telemetry};

use super::{Findings, Mesh};
use crate::diagnostic::{Code, Severity};
use crate::istio::{self, AccessLogging, Document, Documents};

/// The documents by what they are for.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    /// The mesh's own file, where Istio says it without a document (`accessLogFile`).
    by_default: bool,
    mesh: Option<&'a Document<istio::Telemetry>>,
    namespaces: BTreeMap<&'a str, &'a Document<istio::Telemetry>>,
    /// Oldest first.
    workloads: BTreeMap<&'a str, Vec<&'a Document<istio::Telemetry>>>,
}

impl<'a> Told<'a> {
    pub(super) fn new(documents: &'a Documents, mesh: &Mesh, findings: &mut Findings) -> Self {
        let mut configs = documents.mesh_configs.iter();
        let config = configs.find(|config| config.meta.namespace() == &*mesh.root_namespace);
        let mut all = Self {
            by_default: config.is_some_and(|config| config.spec.access_log),
            ..Self::default()
        };
        for document in &documents.telemetries {
            let namespace = document.meta.namespace();
            if let Some(selector) = &document.spec.selector {
                let mut words = document.spec.access_logging.iter();
                if let Some(word) = words.find(|word| word.ends.has_client()) {
                    let message = "which labels a caller has is not known here: what is said of some workloads holds for their servers alone";
                    findings.say(&document.meta, Severity::Warning, Code::NotServed, &word.place, message);
                }
                debug_assert!(!selector.labels.is_empty(), "one without labels is none");
                all.workloads.entry(namespace).or_default().push(document);
                continue;
            }
            let first = match namespace == &*mesh.root_namespace {
                true => *all.mesh.get_or_insert(document),
                false => *all.namespaces.entry(namespace).or_insert(document),
            };
            if !std::ptr::eq(first, document) {
                let message = format!("{} is for all of it already; the older document counts", first.meta);
                findings.say(
                    &document.meta,
                    Severity::Warning,
                    Code::Duplicate,
                    &document.meta.place,
                    message,
                );
            }
        }
        all
    }

    /// What callers in `namespace` tell of their calls.
    pub(super) fn of_clients(&self, namespace: &str) -> Telemetry {
        let words = self.wide(namespace).filter(|word| word.ends.has_client());
        self.last_word(words)
    }

    /// What a server of `namespace` with `labels` tells of its requests.
    pub(super) fn of_server(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Telemetry {
        let workloads = self.workloads.get(namespace).into_iter().flatten();
        let own = workloads.filter(|document| {
            let selector = document.spec.selector.as_ref();
            selector.is_some_and(|selector| selector.selects(labels))
        });
        // Of several that mean one workload the oldest counts.
        let own = own.take(1).flat_map(|document| &document.spec.access_logging);
        let words = self.wide(namespace).chain(own).filter(|word| word.ends.has_server());
        self.last_word(words)
    }

    /// What is said of all workloads of a namespace, the mesh's word first.
    fn wide(&self, namespace: &str) -> impl Iterator<Item = &'a AccessLogging> {
        let documents = self.mesh.into_iter().chain(self.namespaces.get(namespace).copied());
        documents.flat_map(|document| &document.spec.access_logging)
    }

    fn last_word<'w>(&self, words: impl Iterator<Item = &'w AccessLogging>) -> Telemetry {
        let filter = match words.last() {
            Some(word) => word.filter.clone(),
            None => self.by_default.then_some(LogFilter::All),
        };
        Telemetry {
            access_log: filter.map(Into::into),
        }
    }
}

/// What holds where two workloads are at one address, and nobody knows which of them is meant: both.
pub(super) fn both(a: &Telemetry, b: &Telemetry) -> Telemetry {
    if a == b {
        return a.clone();
    }
    let filters = [&a.access_log, &b.access_log].into_iter().flatten();
    let filters: Vec<LogFilter> = filters.map(|filter| (**filter).clone()).collect();
    Telemetry {
        access_log: LogFilter::any_of(filters).map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::config::Comparison;

    use super::*;

    fn read(texts: &[&str]) -> (Documents, Vec<String>) {
        let (mut documents, mut found) = (Documents::default(), Vec::new());
        for text in texts {
            let diagnostics = documents.read("t.yaml", text);
            found.extend(diagnostics.iter().map(|one| format!("{} {}", one.code, one.message)));
        }
        (documents, found)
    }

    fn document(name: &str, namespace: &str, spec: &str) -> String {
        format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    }

    fn filters(texts: &[String], labels: &[(&str, &str)]) -> [Option<LogFilter>; 2] {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (documents, found) = read(&texts);
        assert!(found.is_empty(), "{found:?}");
        let told = Told::new(&documents, &Mesh::default(), &mut Findings::default());
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let server = told.of_server("shop", &labels.collect());
        [told.of_clients("shop"), server].map(|telemetry| telemetry.access_log.map(|filter| (*filter).clone()))
    }

    #[test]
    fn what_stands_closer_has_the_last_word() {
        let errors = LogFilter::Status(Comparison::AtLeast, 400);
        let mesh = document(
            "mesh",
            "istio-system",
            "{accessLogging: [{providers: [{name: envoy}]}]}",
        );
        let shop = document(
            "shop",
            "shop",
            "{accessLogging: [{filter: {expression: response.code >= 400}}]}",
        );
        let silent = document("shop", "shop", "{}");
        let servers = document(
            "s",
            "shop",
            "{accessLogging: [{match: {mode: SERVER}, disabled: true}]}",
        );
        let canary = document(
            "canary",
            "shop",
            "{selector: {matchLabels: {version: v2}}, accessLogging: [{match: {mode: SERVER}}]}",
        );
        let other = document("other", "other", "{accessLogging: [{disabled: true}]}");
        let all = Some(LogFilter::All);
        for (documents, labels, expected) in [
            (vec![], &[][..], [None, None]),
            (vec![mesh.clone()], &[], [all.clone(), all.clone()]),
            (
                vec![mesh.clone(), shop.clone()],
                &[],
                [Some(errors.clone()), Some(errors.clone())],
            ),
            (vec![mesh.clone(), silent, other], &[], [all.clone(), all.clone()]),
            (vec![mesh, servers], &[], [all.clone(), None]),
            (
                vec![shop.clone(), canary.clone()],
                &[("version", "v1")],
                [Some(errors.clone()), Some(errors.clone())],
            ),
            (vec![shop, canary], &[("version", "v2")], [Some(errors), all.clone()]),
        ] {
            assert_eq!(filters(&documents, labels), expected, "{documents:?}");
        }
        let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    accessLogFile: /dev/stdout\n";
        assert_eq!(filters(&[config.to_owned()], &[]), [all.clone(), all]);
        let off = document("mesh", "istio-system", "{accessLogging: [{disabled: true}]}");
        assert_eq!(filters(&[config.to_owned(), off], &[]), [None, None]);
    }

    #[test]
    fn what_is_not_served_is_said() {
        for (spec, code) in [
            (
                "{accessLogging: [{filter: {expression: 'request.path == \"/\"'}}]}",
                "MSH0019",
            ),
            ("{accessLogging: [{filter: {}}]}", "IST0106"),
            ("{accessLogging: [{match: {mode: BOTH}}]}", "IST0106"),
            ("{accessLogging: [{providers: [{name: loki}]}]}", "MSH0002"),
            ("{metrics: [{providers: [{name: prometheus}]}]}", "MSH0002"),
        ] {
            let (documents, found) = read(&[&document("t", "shop", spec)]);
            assert!(found.len() == 1 && found[0].starts_with(code), "{spec}: {found:?}");
            let told = Told::new(&documents, &Mesh::default(), &mut Findings::default());
            assert!(told.of_clients("shop").is_off(), "{spec}");
        }
    }

    #[test]
    fn what_cannot_be_told_to_callers_is_said_and_of_two_for_one_the_older_counts() {
        let canary = document(
            "c",
            "shop",
            "{selector: {matchLabels: {version: v2}}, accessLogging: [{}]}",
        );
        let first = document("a", "shop", "{accessLogging: [{}]}");
        let second = document("b", "shop", "{accessLogging: [{disabled: true}]}");
        let (documents, found) = read(&[&canary, &first, &second]);
        assert!(found.is_empty(), "{found:?}");
        let mut findings = Findings::default();
        let told = Told::new(&documents, &Mesh::default(), &mut findings);
        let codes: Vec<Code> = findings.0.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [Code::Duplicate, Code::NotServed]);
        assert_eq!(told.of_clients("shop").access_log.as_deref(), Some(&LogFilter::All));
    }

    #[test]
    fn two_at_one_address_are_both_written() {
        let of = |code| Telemetry {
            access_log: Some(LogFilter::Status(Comparison::Equal, code).into()),
        };
        let both = both(&of(1), &of(2)).access_log.unwrap();
        assert!(both.passes(1, 0) && both.passes(2, 0) && !both.passes(3, 0));
        assert_eq!(super::both(&of(1), &Telemetry::default()), of(1));
    }
}
