//! The C interface: its header, its functions, and programs in C, C++ and Fortran built against the library.

mod calls;
mod programs;

/// The committed header is what cbindgen makes of `src/capi`. `RESIDUUM_WRITE_HEADER=1` (`just header`) writes it.
#[test]
fn the_header_is_that_of_the_code() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    // With the modules that it names.
    let builder = cbindgen::Builder::new().with_config(config).with_src(root.join("src/capi/mod.rs"));
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let path = root.join("include/residuum.h");
    if std::env::var_os("RESIDUUM_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap_or_default();
    assert!(committed == made, "include/residuum.h is not what src/capi says: `just header`, and look at what changed");
}
