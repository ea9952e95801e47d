//! `.npy` files.
#![no_main]
use libfuzzer_sys::fuzz_target;
mod common;

fuzz_target!(|data: &[u8]| {
    let file = tempfile::Builder::new().suffix(".npy").tempfile().expect("temporary file");
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend_from_slice(data);
    std::fs::write(file.path(), bytes).expect("temporary file");
    common::read_everything(file.path());
});
