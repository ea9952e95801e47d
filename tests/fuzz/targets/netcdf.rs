//! NetCDF files, classic and HDF5.
#![no_main]
use libfuzzer_sys::fuzz_target;
mod common;

fuzz_target!(|data: &[u8]| {
    let file = tempfile::Builder::new().suffix(".nc").tempfile().expect("temporary file");
    std::fs::write(file.path(), data).expect("temporary file");
    common::read_everything(file.path());
});
