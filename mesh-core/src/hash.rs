//! The two hashes that make an endpoint's place, or a request's, the same in every process of a mesh and in other people's.

use twox_hash::XxHash64;

/// The seed of GNU's `std::hash`, which Envoy keeps for rings that began there.
const GNU_SEED: u64 = 0xc70f_6907;
const MURMUR_MUL: u64 = 0xc6a4_a793_5bd1_e995;

/// XXH64, as Envoy and gRPC hash with it.
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// MurmurHash2 of 64 bits (Envoy `MURMUR_HASH_2`).
pub(crate) fn murmur2(bytes: &[u8]) -> u64 {
    let mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = GNU_SEED ^ (bytes.len() as u64).wrapping_mul(MURMUR_MUL);
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MURMUR_MUL)).wrapping_mul(MURMUR_MUL);
        hash = (hash ^ word).wrapping_mul(MURMUR_MUL);
    }
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ rest).wrapping_mul(MURMUR_MUL);
    }
    mix(mix(hash).wrapping_mul(MURMUR_MUL))
}
