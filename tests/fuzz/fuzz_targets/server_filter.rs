//! See `mesh_xds::fuzzing::server_filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::server_filter(bytes));
