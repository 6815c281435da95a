//! `meshctl shift`: other weights for a service's routes, in the document that is there.
//!
//! The document is edited and not written anew: a folder of YAML is somebody's, with comments, an order and a way of writing, and a review
//! of such a change should show two numbers. So weights are replaced where the parser saw them, byte for byte, and what comes out is read
//! and analysed again before anything is written: a position that was misunderstood is found there, and not by callers.

mod diff;
mod edit;
mod file;
mod refusal;
mod traffic;

use std::collections::BTreeMap;

pub use diff::unified;
use edit::{Edit, Text};
pub use file::{Folder, replace};
pub use refusal::ShiftRefusal;
pub use traffic::{Calls, MIN_CALLS, Target, Traffic};

use crate::istio::{Destination, Document, Documents, HttpRoute, VirtualService};
use crate::source::Reading;
use crate::translate::{Mesh, full_host};

/// What weights must sum to. Istio takes any sum; whoever shifts thinks in percent, and 90 and 15 are a mistake.
const SUM: u64 = 100;

/// Which weights are wanted.
#[derive(Clone, Debug)]
pub struct Shift {
    /// The service, by a host of it; a short one is of `namespace`.
    pub service: String,
    /// The namespace of a short name.
    pub namespace: String,
    /// The weight of each destination, by its subset, or by its host where it has none.
    pub weights: Vec<(String, u32)>,
    /// The routes that are meant: their names, or their indices from 0. None: the only one that has these destinations.
    pub routes: Vec<String>,
}

/// What would become of which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shifted {
    /// The file.
    pub file: String,
    /// What it holds now.
    pub before: String,
    /// What it would hold: the same but for the weights.
    pub after: String,
    /// The document, as `VirtualService namespace/name`.
    pub document: String,
    /// The routes, as `spec.http[0]`.
    pub routes: Vec<String>,
    /// The destinations, with the weights that they get.
    pub targets: Vec<Target>,
}

impl Shift {
    /// What is to be written to have these weights, for the files of a folder by name. Pure.
    ///
    /// # Errors
    ///
    /// When the weights do not sum to 100, it is not clear which routes are meant, a weight cannot be replaced where it stands, or the
    /// documents have errors, before or after.
    pub fn plan(&self, files: &BTreeMap<String, String>, mesh: &Mesh) -> Result<Shifted, ShiftRefusal> {
        self.check()?;
        let reading = analysed(files, mesh)?;
        let rule = self.rule(&reading.documents, mesh)?;
        let routes = self.chosen(rule)?;
        let (file, document) = (rule.meta.file.to_string(), rule.meta.to_string());
        let before = files
            .get(&file)
            .ok_or_else(|| ShiftRefusal::NoRule(self.service.clone()))?;
        let text = Text::new(before);
        let mut edits = Vec::new();
        for route in &routes {
            for destination in &route.route {
                let weight = self.weight(destination).ok_or_else(|| ShiftRefusal::LeftOut {
                    destination: name(destination).to_owned(),
                    line: destination.place.line,
                })?;
                edits.extend(
                    Edit::weight(&text, destination, weight).map_err(|why| ShiftRefusal::Unplain {
                        place: format!("{file}:{}:{}", destination.place.line, destination.place.column),
                        why,
                    })?,
                );
            }
        }
        edits.sort_by_key(|edit| edit.bytes.start);
        if edits.windows(2).any(|pair| pair[1].bytes.start < pair[0].bytes.end) {
            return Err(ShiftRefusal::Unplain {
                place: file,
                why: "two weights are written in one place",
            });
        }
        let after = text.with(&edits);
        let mut files = files.clone();
        files.insert(file.clone(), after.clone());
        let again = analysed(&files, mesh)?;
        self.confirm(&again.documents, mesh, &file, &routes)?;
        Ok(Shifted {
            before: before.clone(),
            after,
            targets: self.targets(rule, &routes, mesh),
            document,
            routes: routes.iter().map(|route| route.place.field.to_string()).collect(),
            file,
        })
    }

    /// Each destination once.
    fn targets(&self, rule: &Document<VirtualService>, routes: &[&HttpRoute], mesh: &Mesh) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for one in routes.iter().flat_map(|route| &route.route) {
            let host = full_host(&one.host, rule.meta.namespace(), mesh);
            let subset = one.subset.as_ref().map_or("", |subset| subset.as_str());
            let target = Target {
                name: name(one).to_owned(),
                weight: self.weight(one).unwrap_or(0),
                cluster: format!("{subset}|{host}"),
            };
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        targets
    }

    fn check(&self) -> Result<(), ShiftRefusal> {
        let sum: u64 = self.weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut names: Vec<&str> = self.weights.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ShiftRefusal::Twice(twice[0].to_owned()));
        }
        match sum {
            SUM => Ok(()),
            other => Err(ShiftRefusal::Sum(other)),
        }
    }

    fn weight(&self, destination: &Destination) -> Option<u32> {
        let wanted = self.weights.iter().find(|(wanted, _)| wanted == name(destination));
        wanted.map(|(_, weight)| *weight)
    }

    /// The one rule of the mesh for the service.
    fn rule<'d>(&self, documents: &'d Documents, mesh: &Mesh) -> Result<&'d Document<VirtualService>, ShiftRefusal> {
        let service = full_host(&self.service, &self.namespace, mesh);
        let of_mesh = |rule: &&Document<VirtualService>| {
            let gateways = &rule.spec.gateways;
            gateways.is_empty() || gateways.iter().any(|gateway| **gateway == "mesh")
        };
        let rules = documents.virtual_services.iter().filter(of_mesh);
        let rules: Vec<_> = rules
            .filter(|rule| {
                let mut hosts = rule.spec.hosts.iter();
                hosts.any(|host| full_host(host, rule.meta.namespace(), mesh) == service)
            })
            .collect();
        match rules[..] {
            [] => Err(ShiftRefusal::NoRule(service)),
            [rule] => Ok(rule),
            [..] => Err(ShiftRefusal::SeveralRules(
                rules.iter().map(|rule| rule.meta.to_string()).collect(),
            )),
        }
    }

    fn chosen<'d>(&self, rule: &'d Document<VirtualService>) -> Result<Vec<&'d HttpRoute>, ShiftRefusal> {
        let all = || rule.spec.http.iter().enumerate();
        let has = |route: &HttpRoute, wanted: &str| route.route.iter().any(|one| name(one) == wanted);
        let described = |routes: &mut dyn Iterator<Item = (usize, &HttpRoute)>| {
            let each = routes.map(|(index, route)| match &route.name {
                Some(name) => format!("{} (line {})", **name, route.place.line),
                None => format!("{index} (line {})", route.place.line),
            });
            each.collect::<Vec<_>>()
        };
        if self.routes.is_empty() {
            let fitting = |(_, route): &(usize, &HttpRoute)| self.weights.iter().all(|(wanted, _)| has(route, wanted));
            return match all().filter(fitting).count() {
                0 => Err(ShiftRefusal::NoRoute(described(&mut all()))),
                1 => Ok(all().filter(fitting).map(|(_, route)| route).collect()),
                _ => Err(ShiftRefusal::SeveralRoutes(described(&mut all().filter(fitting)))),
            };
        }
        let mut chosen = Vec::new();
        for wanted in &self.routes {
            let named = |(index, route): &(usize, &HttpRoute)| match &route.name {
                Some(name) => **name == *wanted,
                None => index.to_string() == *wanted,
            };
            let found: Vec<&HttpRoute> = all().filter(named).map(|(_, route)| route).collect();
            if found.is_empty() {
                return Err(ShiftRefusal::NoRoute(described(&mut all())));
            }
            for route in found {
                if let Some((missing, _)) = self.weights.iter().find(|(wanted, _)| !has(route, wanted)) {
                    return Err(ShiftRefusal::NoDestination {
                        wanted: missing.clone(),
                        line: route.place.line,
                    });
                }
                if !chosen.iter().any(|other: &&HttpRoute| other.place == route.place) {
                    chosen.push(route);
                }
            }
        }
        Ok(chosen)
    }

    /// Whether the parser sees what was meant to be written.
    fn confirm(
        &self,
        documents: &Documents,
        mesh: &Mesh,
        file: &str,
        routes: &[&HttpRoute],
    ) -> Result<(), ShiftRefusal> {
        let rule = self.rule(documents, mesh)?;
        for route in routes {
            let again = rule.spec.http.iter().find(|one| one.place.field == route.place.field);
            let again = again.map_or(&[][..], |again| &again.route);
            let as_wanted = |one: &Destination| one.weight.as_ref().map(|weight| weight.value) == self.weight(one);
            if again.len() != route.route.len() || !again.iter().all(as_wanted) {
                return Err(ShiftRefusal::Unplain {
                    place: format!("{file}:{}:{}", route.place.line, route.place.column),
                    why: "what would be written is not read as it was meant",
                });
            }
        }
        Ok(())
    }
}

/// What a destination is called here.
fn name(destination: &Destination) -> &str {
    let subset = destination.subset.as_ref().map(|subset| subset.as_str());
    subset.unwrap_or(&destination.host)
}

/// The documents, where they have no error.
fn analysed(files: &BTreeMap<String, String>, mesh: &Mesh) -> Result<Reading, ShiftRefusal> {
    let reading = Reading::of_texts(files);
    let errors: Vec<_> = crate::analyze(&reading, mesh)
        .into_iter()
        .filter(crate::diagnostic::Diagnostic::is_error)
        .collect();
    match errors.is_empty() {
        true => Ok(reading),
        false => Err(ShiftRefusal::Analysis(errors)),
    }
}

#[cfg(test)]
mod tests;
