//! See `mesh_xds::fuzzing::envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::envelope(bytes));
