//! See `mesh_xds::fuzzing::orca_report`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::orca_report(bytes));
