//! Rules for headers, at each of the four places where they may stand.

use std::sync::Arc;

use http::HeaderName;
use mesh_core::config::{AppendAction, HeaderEdit, HeaderEdits, HeaderFormat, HeaderRules, InvalidEdit};

use crate::decode::Fault;
use crate::proto::core::{HeaderValueOption, header_value_option::HeaderAppendAction};

/// Reads the rules of one place, if there are any.
pub(super) fn rules(
    request: (&[HeaderValueOption], &[String]),
    response: (&[HeaderValueOption], &[String]),
) -> Result<Option<Arc<HeaderRules>>, Fault> {
    let rules = HeaderRules {
        request: edits("request", request)?,
        response: edits("response", response)?,
    };
    Ok(rules.shared())
}

/// Reads headers that are put in, and none that is taken out.
pub(in crate::decode) fn additions(what: &str, add: &[HeaderValueOption]) -> Result<HeaderEdits, Fault> {
    edits(what, (add, &[]))
}

fn edits(what: &str, (add, remove): (&[HeaderValueOption], &[String])) -> Result<HeaderEdits, Fault> {
    let add = add.iter().enumerate().map(|(index, proto)| {
        edit(proto).map_err(|fault| fault.within(format_args!("{what}_headers_to_add[{index}]")))
    });
    let remove = remove.iter().enumerate().map(|(index, text)| {
        let field = || format!("{what}_headers_to_remove[{index}]");
        let name = name(text).map_err(|reason| Fault::new(field(), reason))?;
        if HeaderEdit::may_be_edited(&name) {
            Ok(name)
        } else {
            Err(Fault::new(field(), InvalidEdit))
        }
    });
    Ok(HeaderEdits {
        add: add.collect::<Result<_, _>>()?,
        remove: remove.collect::<Result<_, _>>()?,
    })
}

fn edit(proto: &HeaderValueOption) -> Result<HeaderEdit, Fault> {
    let header = proto
        .header
        .as_ref()
        .ok_or_else(|| Fault::new("header", "is missing"))?;
    let name = name(&header.key).map_err(|reason| Fault::new("header.key", reason))?;
    let raw = match (header.value.is_empty(), header.raw_value.is_empty()) {
        (false, false) => return Err(Fault::new("header.raw_value", "stands beside a value")),
        (_, true) => header.value.as_str(),
        (true, false) => {
            std::str::from_utf8(&header.raw_value).map_err(|error| Fault::new("header.raw_value", error))?
        }
    };
    let value = HeaderFormat::parse(raw).map_err(|error| Fault::new("header.value", error))?;
    let mut edit = HeaderEdit::new(name, value, action(proto)?).map_err(|error| Fault::new("header.key", error))?;
    edit.keep_empty = proto.keep_empty_value;
    Ok(edit)
}

fn name(text: &str) -> Result<HeaderName, String> {
    if text.starts_with(':') {
        return Err(InvalidEdit.to_string());
    }
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("is not a header name: {text:?}"))
}

#[allow(deprecated, reason = "older control planes still write `append`")]
fn action(proto: &HeaderValueOption) -> Result<AppendAction, Fault> {
    let unknown = || Fault::new("append_action", format!("is not known: {}", proto.append_action));
    let action = match HeaderAppendAction::try_from(proto.append_action).map_err(|_| unknown())? {
        HeaderAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        HeaderAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
        HeaderAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        HeaderAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    match (&proto.append, action) {
        (None, action) => Ok(action),
        (Some(append), AppendAction::AppendIfExistsOrAdd) if append.value => Ok(action),
        (Some(_), AppendAction::AppendIfExistsOrAdd) => Ok(AppendAction::OverwriteIfExistsOrAdd),
        (Some(_), _) => Err(Fault::new("append", "stands beside an append_action")),
    }
}
