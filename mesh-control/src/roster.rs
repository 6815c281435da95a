//! The status of clients as a person reads it: a table, or JSON.
//!
//! A control plane is asked who is connected and how far each is (`istioctl proxy-status` asks istiod the same); a workload is
//! asked, at its admin port, what it holds and what it refused. The words are Istio's where it has them.

use std::fmt;
use std::time::SystemTime;

use mesh_xds::ResourceKind;
use mesh_xds::csds::{ClientView, ResourceView, Sync};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The columns of the types, as Istio names them.
const TYPES: [(&str, ResourceKind); ResourceKind::COUNT] = [
    ("LDS", ResourceKind::Listener),
    ("RDS", ResourceKind::Route),
    ("CDS", ResourceKind::Cluster),
    ("EDS", ResourceKind::Endpoints),
    ("ECDS", ResourceKind::ExtensionConfig),
];
/// Stands where there is nothing to show.
const NOTHING: &str = "-";
/// The most of a reason that a table shows, in characters; JSON has all of it.
const MAX_REASON: usize = 400;

/// What a control plane tells: a row per connected client, with the version of each type that it accepted last.
#[derive(Clone, Copy, Debug)]
pub struct Clients<'a>(pub &'a [ClientView]);

/// What a workload tells of itself: a row per resource.
#[derive(Clone, Copy, Debug)]
pub struct Resources<'a>(pub &'a [ClientView]);

impl Clients<'_> {
    /// Everything, as one object.
    pub fn to_json(&self) -> Value {
        let client = |view: &ClientView| {
            let seen = view.seen().unwrap_or_default();
            let types = TYPES.into_iter().filter_map(|(name, kind)| {
                let told = of_type(view, kind)?;
                let about = json!({
                    "status": told.sync.to_string(),
                    "version": told.version,
                    "refused": told.failure.as_ref().map(|failure| &failure.version),
                    "error": told.failure.as_ref().map(|failure| &failure.details),
                });
                Some((name.to_lowercase(), about))
            });
            let mut client = json!({
                "node": view.node.id,
                "identity": seen.identity,
                "address": seen.address,
                "group": seen.group,
            });
            let fields = client.as_object_mut().into_iter();
            fields.for_each(|fields| fields.extend(types.clone()));
            client
        };
        json!({ "clients": self.0.iter().map(client).collect::<Vec<_>>(), "refusing": refusing(self.0) })
    }
}

impl Resources<'_> {
    /// Everything but the contents, as one object.
    pub fn to_json(&self) -> Value {
        let resource = |view: &ResourceView| {
            json!({
                "type": view.type_name(),
                "name": view.name,
                "version": view.version,
                "state": view.state.map(|state| state.to_string()),
                "updated": view.updated.and_then(moment),
                "error": view.failure.as_ref().map(|failure| json!({
                    "details": failure.details,
                    "version": failure.version,
                    "at": failure.at.and_then(moment),
                })),
            })
        };
        let client = |view: &ClientView| {
            json!({
                "node": view.node.id,
                "scope": view.scope,
                "resources": view.resources.iter().map(resource).collect::<Vec<_>>(),
            })
        };
        json!({ "clients": self.0.iter().map(client).collect::<Vec<_>>(), "refusing": refusing(self.0) })
    }
}

/// How many clients refuse something.
pub fn refusing(clients: &[ClientView]) -> usize {
    clients.iter().filter(|client| client.refuses()).count()
}

impl fmt::Display for Clients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![
            ["NODE", "IDENTITY", "ADDRESS", "GROUP"]
                .into_iter()
                .chain(TYPES.map(|(name, _)| name))
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        ];
        for view in self.0 {
            let seen = view.seen().unwrap_or_default();
            let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
            let mut row = vec![
                clean(&view.node.id),
                or_nothing(seen.identity),
                or_nothing(seen.address),
                clean(&seen.group),
            ];
            row.extend(TYPES.map(|(_, kind)| of_type(view, kind).map_or_else(|| NOTHING.to_owned(), cell)));
            rows.push(row);
        }
        table(f, &rows)?;
        for view in self.0 {
            for told in view.resources.iter().filter(|told| told.is_refused()) {
                let refused = told.failure.as_ref().map_or("", |failure| &failure.version);
                let (node, kind) = (clean(&view.node.id), told.type_name());
                reason(f, &format!("{node} refuses {kind} {}", clean(refused)), told)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Resources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![
            ["TYPE", "NAME", "STATE", "VERSION", "UPDATED"]
                .map(str::to_owned)
                .to_vec(),
        ];
        let resources = || self.0.iter().flat_map(|view| &view.resources);
        for told in resources() {
            let state = told.state.map_or_else(|| NOTHING.to_owned(), |state| state.to_string());
            let updated = told.updated.and_then(moment).unwrap_or_else(|| NOTHING.to_owned());
            rows.push(vec![short(told), named(told), state, version(told), updated]);
        }
        table(f, &rows)?;
        for told in resources().filter(|told| told.failure.is_some()) {
            reason(f, &format!("{} {}", short(told), named(told)), told)?;
        }
        Ok(())
    }
}

/// A client's resource by its name. What it refuses may have none that could be read.
fn named(told: &ResourceView) -> String {
    match &*told.name {
        "" => "(without a name)".to_owned(),
        name => clean(name),
    }
}

fn of_type(view: &ClientView, kind: ResourceKind) -> Option<&ResourceView> {
    view.resources.iter().find(|told| told.type_url == kind.type_url())
}

fn cell(told: &ResourceView) -> String {
    match told.sync {
        Sync::NotSent => told.sync.to_string(),
        _ => format!("{} {}", told.sync, version(told)),
    }
}

fn version(told: &ResourceView) -> String {
    match told.version.as_str() {
        "" => NOTHING.to_owned(),
        version => clean(version),
    }
}

fn short(told: &ResourceView) -> String {
    let known = TYPES.into_iter().find(|(_, kind)| kind.type_url() == told.type_url);
    known.map_or_else(|| clean(told.type_name()), |(name, _)| name.to_owned())
}

fn reason(f: &mut fmt::Formatter<'_>, about: &str, told: &ResourceView) -> fmt::Result {
    let details = told.failure.as_ref().map_or("", |failure| &failure.details);
    let mut shown: String = clean(details).chars().take(MAX_REASON).collect();
    if details.chars().count() > MAX_REASON {
        shown.push_str("...");
    }
    writeln!(f, "{about}: {shown}")
}

/// Names and reasons come from others; a terminal is not to obey them.
fn clean(text: &str) -> String {
    let visible = |letter: char| if letter.is_control() { '\u{fffd}' } else { letter };
    match text {
        "" => NOTHING.to_owned(),
        text => text.chars().map(visible).collect(),
    }
}

/// Columns as wide as their widest cell.
fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

pub(crate) fn moment(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).format(&Rfc3339).ok()
}
