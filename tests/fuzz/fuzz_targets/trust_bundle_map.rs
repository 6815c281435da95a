//! See `mesh_xds::fuzzing::trust_bundle_map`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::trust_bundle_map(bytes));
