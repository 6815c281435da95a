//! `MeshConfig`: what holds for the whole mesh, where Istio has it: the text `mesh` of the `ConfigMap` named `istio` in the root
//! namespace. It is read with the folder, so a change of it is taken over like that of any document.
//!
//! The text is YAML in YAML. What is wrong with it is told at the place of the text, with the line in it.

use super::load_balancer::LocalitySetting;
use super::value::{At, Place, Sink, Value};
use super::yaml;
use crate::diagnostic::Diagnostic;

/// What is served of a `MeshConfig`. What is not said is Istio's default.
#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// `localityLbSetting`: what holds for services of which no rule says anything else.
    pub locality: Option<LocalitySetting>,
}

impl MeshConfig {
    pub(super) fn read(text: &At<String>, sink: &mut Sink<'_>) -> Option<Self> {
        let nodes = match yaml::parse(text) {
            Ok(nodes) => nodes,
            Err(error) => {
                let message = format!("{}, in line {} of the text", error.message, error.line);
                sink.schema(&text.place, message);
                return None;
            }
        };
        let Some(node) = nodes.into_iter().next() else {
            return Some(Self::default());
        };
        let mut findings = Vec::new();
        let mut inner = Sink {
            file: sink.file,
            document: sink.document.clone(),
            diagnostics: &mut findings,
        };
        let mut config = Self::default();
        if let Some(mut fields) = Value::root(node).object(&mut inner) {
            let locality = fields.take("localityLbSetting");
            config.locality = locality.and_then(|value| LocalitySetting::read(value, &mut inner));
            fields.unserved_rest(&mut inner);
        }
        if let Some(setting) = &mut config.locality {
            setting.place = outside(text, &setting.place.field);
        }
        sink.diagnostics.extend(findings.into_iter().map(|finding| {
            let Place { line, column, field } = outside(text, finding.field.as_deref().unwrap_or_default());
            Diagnostic {
                message: format!("{}, in line {} of the text", finding.message, finding.line),
                line,
                column,
                field: Some((*field).into()),
                ..finding
            }
        }));
        Some(config)
    }
}

/// The place of a field in the text, as far as the file has one.
fn outside(text: &At<String>, field: &str) -> Place {
    let whole = &text.place;
    let path = match field {
        "" => whole.field.to_string(),
        field => format!("{}.{field}", whole.field),
    };
    Place {
        field: path.into(),
        ..whole.clone()
    }
}
