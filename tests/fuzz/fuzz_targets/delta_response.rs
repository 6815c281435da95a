//! See `mesh_xds::fuzzing::delta_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::delta_response(bytes));
