//! See `mesh_xds::fuzzing::pem_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::pem_file(bytes));
