//! See `mesh_xds::fuzzing::listener`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::listener(bytes));
