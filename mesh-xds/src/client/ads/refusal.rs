//! The text of a NACK.

use crate::decode::Rejected;

/// The most bytes of a refusal's text; a reader needs the first faults, not all of ten thousand.
const MAX_REFUSAL_BYTES: usize = 4096;
/// Stands for what was left out.
const MORE: &str = "; ...";

/// What a control plane's operator reads: who refuses, and every fault until the text is full. The first is told at least
/// in part, however long it is: a name in it may be the peer's own choice.
pub(super) fn refusal(node: &str, rejected: &[&Rejected]) -> String {
    let mut text = format!("node {node:?} refused {} of the resources: ", rejected.len());
    for (index, why) in rejected.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        let next = format!("{separator}{why}");
        let is_full = text.len() + next.len() > MAX_REFUSAL_BYTES - MORE.len();
        if !is_full || index == 0 {
            text.push_str(&next);
        }
        if is_full {
            let limit = MAX_REFUSAL_BYTES - MORE.len();
            let whole = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
            text.truncate(whole.unwrap_or_default());
            text.push_str(MORE);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Fault;
    use crate::resource::ResourceKind;

    #[test]
    fn cp_5_a_refusal_never_is_longer_than_its_limit() {
        let fault = |name: &str| Rejected::new(ResourceKind::Cluster, name, Fault::new("field", "is wrong"));
        let one_long = refusal("n", &[&fault(&"\u{e9}".repeat(10_000))]);
        assert!(one_long.len() <= MAX_REFUSAL_BYTES && one_long.contains("\u{e9}\u{e9}"));
        let long_node = refusal(&"n".repeat(10_000), &[&fault("a")]);
        assert_eq!(long_node.len(), MAX_REFUSAL_BYTES);
        let many: Vec<Rejected> = (0..500).map(|index| fault(&format!("cluster-{index:03}"))).collect();
        let many: Vec<&Rejected> = many.iter().collect();
        let text = refusal("n", &many);
        assert!(text.len() <= MAX_REFUSAL_BYTES && text.contains("cluster-000") && text.ends_with(MORE));
        assert!(!refusal("n", &many[..2]).contains(MORE));
    }
}
