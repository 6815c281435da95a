//! See `mesh_xds::fuzzing::load_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::load_response(bytes));
