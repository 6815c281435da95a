//! See `mesh_xds::fuzzing::route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::route(bytes));
