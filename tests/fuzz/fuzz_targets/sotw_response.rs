//! See `mesh_xds::fuzzing::sotw_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::sotw_response(bytes));
