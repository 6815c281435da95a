//! The text of a NACK.

use crate::decode::Rejected;

/// The most bytes of a refusal's text; a reader needs the first faults, not all of ten thousand.
const MAX_REFUSAL_BYTES: usize = 4096;

/// What a control plane's operator reads: who refuses, and every fault until the text is full.
pub(super) fn refusal(node: &str, rejected: &[Rejected]) -> String {
    let mut text = format!("node {node:?} refused {} of the resources: ", rejected.len());
    for (index, why) in rejected.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let next = format!("{separator}{why}");
        if text.len() + next.len() > MAX_REFUSAL_BYTES {
            text.push_str("; ...");
            break;
        }
        text.push_str(&next);
    }
    text
}
