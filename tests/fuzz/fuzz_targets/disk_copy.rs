//! See `mesh_xds::fuzzing::disk_copy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mesh_xds::fuzzing::disk_copy(bytes));
