//! Which calls are dropped before they are made, because the control plane says that the cluster has too many.
//!
//! One draw per category, in order (gRFC A27, Envoy): with 50 % and 40 % listed, the second takes 40 % of what the first
//! left.

use crate::config::DropOverload;
use crate::entropy::Draw;

/// What [`DropOverload::per_million`] is a share of.
const MILLION: u64 = 1_000_000;

/// The category that drops this call, if one does. Draws nothing where nothing is to be dropped.
pub fn dropped<'a>(overloads: &'a [DropOverload], draw: &mut Draw) -> Option<&'a DropOverload> {
    overloads
        .iter()
        .find(|overload| draw.below(MILLION) < u64::from(overload.per_million))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::Entropy;

    fn overloads(shares: &[(&str, u32)]) -> Vec<DropOverload> {
        let one = |(category, per_million): &(&str, u32)| DropOverload {
            category: (*category).into(),
            per_million: *per_million,
        };
        shares.iter().map(one).collect()
    }

    #[test]
    fn each_category_takes_its_share_of_what_the_earlier_left() {
        let (list, entropy) = (overloads(&[("lb", 500_000), ("throttle", 400_000)]), Entropy::seeded(3));
        let mut counts = [0u32; 3];
        for _ in 0..10_000 {
            let place = match dropped(&list, &mut entropy.draw()) {
                None => 0,
                Some(one) if &*one.category == "lb" => 1,
                Some(_) => 2,
            };
            counts[place] += 1;
        }
        // Expected 3,000, 5,000 and 2,000; five standard deviations are at most 250.
        let near = |count: u32, expected: u32| count.abs_diff(expected) < 250;
        assert!(
            near(counts[0], 3_000) && near(counts[1], 5_000) && near(counts[2], 2_000),
            "{counts:?}"
        );
    }

    #[test]
    fn all_and_none_are_certain() {
        let entropy = Entropy::seeded(1);
        let (all, none) = (overloads(&[("a", 1_000_000)]), overloads(&[("a", 0)]));
        for _ in 0..1_000 {
            assert!(dropped(&all, &mut entropy.draw()).is_some());
            assert!(dropped(&none, &mut entropy.draw()).is_none());
            assert!(dropped(&[], &mut entropy.draw()).is_none());
        }
    }
}
