//! One weight, replaced or added where it stands in a text.

use std::ops::Range;

use crate::istio::{Destination, Place};

/// A text whose places can be found.
#[derive(Debug)]
pub(super) struct Text<'t> {
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// Bytes and what comes in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) bytes: Range<usize>,
    pub(super) text: String,
}

impl<'t> Text<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let after = text.match_indices('\n').map(|(index, _)| index + 1);
        Self {
            text,
            lines: std::iter::once(0).chain(after).collect(),
        }
    }

    /// Where a place is; columns count characters.
    fn offset(&self, place: &Place) -> Option<usize> {
        let start = *self.lines.get(usize::try_from(place.line).ok()?.checked_sub(1)?)?;
        let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let mut offsets = line.char_indices().map(|(index, _)| index).chain([line.len()]);
        offsets.nth(column).map(|index| start + index)
    }

    fn line_end(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    /// The text with edits, in their order and apart.
    pub(super) fn with(&self, edits: &[Edit]) -> String {
        let (mut out, mut done) = (String::with_capacity(self.text.len() + 64), 0);
        for edit in edits {
            out.push_str(&self.text[done..edit.bytes.start]);
            out.push_str(&edit.text);
            done = edit.bytes.end;
        }
        out.push_str(&self.text[done..]);
        out
    }
}

impl Edit {
    /// What gives a destination a weight; `None` when it has it.
    pub(super) fn weight(
        text: &Text<'_>,
        destination: &Destination,
        weight: u32,
    ) -> Result<Option<Self>, &'static str> {
        match &destination.weight {
            Some(written) if written.value == weight => Ok(None),
            Some(written) => Self::replace(text, &written.place, written.value, weight).map(Some),
            None => Self::add(text, &destination.place, weight).map(Some),
        }
    }

    fn replace(text: &Text<'_>, place: &Place, old: u32, new: u32) -> Result<Self, &'static str> {
        let start = text.offset(place).ok_or("there is no such place in the file")?;
        let rest = &text.text[start..];
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        // `*w`, `0x5a`, `1_0`: what stands there is shared, or no number as people write it.
        let ends = rest[digits..].chars().next();
        let plain = rest[..digits].parse() == Ok(old) && ends.is_none_or(|letter| " \t\r\n,}]#".contains(letter));
        if !plain {
            return Err("the weight is not written as a plain number there");
        }
        Ok(Self {
            bytes: start..start + digits,
            text: new.to_string(),
        })
    }

    /// Before the first key of the map, in the way in which the map is written.
    fn add(text: &Text<'_>, place: &Place, weight: u32) -> Result<Self, &'static str> {
        let start = text.offset(place).ok_or("there is no such place in the file")?;
        let rest = &text.text[start..];
        if let Some(inside) = rest.strip_prefix('{') {
            let pad = if inside.starts_with(' ') { " " } else { "" };
            return Ok(Self {
                bytes: start + 1..start + 1,
                text: format!("{pad}weight: {weight},{}", if pad.is_empty() { " " } else { "" }),
            });
        }
        if !rest.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '"' || letter == '\'') {
            return Err("the destination has no weight, and none can be added as it is written");
        }
        let column = usize::try_from(place.column).unwrap_or_default().saturating_sub(1);
        Ok(Self {
            bytes: start..start,
            text: format!("weight: {weight}{}{}", text.line_end(), " ".repeat(column)),
        })
    }
}
