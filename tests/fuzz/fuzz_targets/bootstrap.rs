//! See `mesh_xds::fuzzing::bootstrap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::bootstrap(bytes));
