//! Zarr folders: the input is cut in two, metadata and the first chunk; its first byte chooses the version and the number of axes.
#![no_main]
use libfuzzer_sys::fuzz_target;
mod common;

fuzz_target!(|data: &[u8]| {
    common::allow_caught_panics();
    let Some((&version, data)) = data.split_first() else { return };
    let cut = data.iter().position(|&b| b == 0).unwrap_or(data.len());
    let (metadata, chunk) = (&data[..cut], data.get(cut + 1..).unwrap_or(&[]));
    let folder = tempfile::Builder::new().suffix(".zarr").tempdir().expect("temporary folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("temporary folder");
        std::fs::write(path, bytes).expect("temporary file");
    };
    if version % 2 == 0 {
        write(".zgroup", br#"{"zarr_format":2}"#);
        write("a/.zarray", metadata);
        write(if version & 2 == 0 { "a/0" } else { "a/0.0" }, chunk);
    } else {
        write("zarr.json", br#"{"zarr_format":3,"node_type":"group","attributes":{}}"#);
        write("a/zarr.json", metadata);
        write(if version & 2 == 0 { "a/c/0" } else { "a/c/0/0" }, chunk);
    }
    common::read_everything(folder.path());
});
