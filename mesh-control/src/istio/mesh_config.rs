//! `MeshConfig`: what holds for the whole mesh, where Istio has it: the text `mesh` of the `ConfigMap` named `istio` in the root
//! namespace. It is read with the folder, so a change of it is taken over like that of any document.
//!
//! The text is YAML in YAML. What is wrong with it is told at the place of the text, with the line in it.

use mesh_core::identity::TrustDomain;

use super::extension_provider::{self, Authorizer};
use super::load_balancer::LocalitySetting;
use super::value::{At, Place, Sink, Value};
use super::yaml;
use crate::diagnostic::Diagnostic;

/// What is served of a `MeshConfig`. What is not said is Istio's default.
#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// `localityLbSetting`: what holds for services of which no rule says anything else.
    pub locality: Option<LocalitySetting>,
    /// `extensionProviders`: those of them that are asked whether requests may pass.
    pub authorizers: Vec<Authorizer>,
    /// `accessLogFile`: whether access logs are written where no document says anything of them. Which file is for a proxy.
    pub access_log: bool,
    /// `trustDomainAliases`: other names of the trust domain.
    pub trust_domain_aliases: Vec<Box<str>>,
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
            config.authorizers = fields.list("extensionProviders", &mut inner, extension_provider::provider);
            config.trust_domain_aliases = fields.list("trustDomainAliases", &mut inner, alias);
            let file = fields.string("accessLogFile", &mut inner);
            config.access_log = file.is_some_and(|file| !file.is_empty());
            fields.unserved_rest(&mut inner);
        }
        if let Some(setting) = &mut config.locality {
            setting.place = outside(text, &setting.place.field);
        }
        for authorizer in &mut config.authorizers {
            for value in [&mut authorizer.name, &mut authorizer.service] {
                value.place = outside(text, &value.place.field);
            }
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

fn alias(value: Value, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let text = value.string(sink)?;
    if TrustDomain::parse(&text).is_err() {
        sink.schema(
            &text.place,
            format!("{:?} is not the name of a trust domain", text.value),
        );
        return None;
    }
    Some(text.value.into())
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
