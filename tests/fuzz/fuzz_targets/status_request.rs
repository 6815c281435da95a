//! See `mesh_xds::fuzzing::status_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::status_request(bytes));
