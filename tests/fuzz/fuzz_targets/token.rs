//! See `mesh_xds::fuzzing::token`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::token(bytes));
