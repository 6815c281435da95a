//! Rules for headers.

use mesh_core::config::{AppendAction, HeaderEdit, HeaderEdits, HeaderRules};

use crate::proto::core::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction};

/// The fields of the four messages that have them: `(request_headers_to_add, request_headers_to_remove)`, and the same of the
/// response.
pub(super) fn rules(rules: Option<&HeaderRules>) -> [(Vec<HeaderValueOption>, Vec<String>); 2] {
    match rules {
        None => Default::default(),
        Some(rules) => [edits(&rules.request), edits(&rules.response)],
    }
}

fn edits(edits: &HeaderEdits) -> (Vec<HeaderValueOption>, Vec<String>) {
    let remove = edits.remove.iter().map(ToString::to_string).collect();
    (edits.add.iter().map(edit).collect(), remove)
}

pub(super) fn edit(edit: &HeaderEdit) -> HeaderValueOption {
    let action = match edit.action {
        AppendAction::AppendIfExistsOrAdd => HeaderAppendAction::AppendIfExistsOrAdd,
        AppendAction::AddIfAbsent => HeaderAppendAction::AddIfAbsent,
        AppendAction::OverwriteIfExistsOrAdd => HeaderAppendAction::OverwriteIfExistsOrAdd,
        AppendAction::OverwriteIfExists => HeaderAppendAction::OverwriteIfExists,
    };
    HeaderValueOption {
        header: Some(HeaderValue {
            key: edit.name().to_string(),
            value: edit.value().as_str().into(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        keep_empty_value: edit.keep_empty,
        ..HeaderValueOption::default()
    }
}
