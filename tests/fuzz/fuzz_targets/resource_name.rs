//! See `mesh_xds::fuzzing::resource_name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::resource_name(bytes));
