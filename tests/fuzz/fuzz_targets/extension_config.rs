//! See `mesh_xds::fuzzing::extension_config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::extension_config(bytes));
