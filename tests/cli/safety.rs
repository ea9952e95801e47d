//! Nothing that is there is lost, and nothing half made is left.

use crate::support::*;
use residuum::io::{self, Format, OpenOptions, Schema};
use residuum::{DType, Values};
use std::process::Command;

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[4, 4]);
    folder.put("x.npy.rsd", "precious");
    folder.fails("compress x.npy --abs 1", 2, "--force");
    assert_eq!(folder.bytes("x.npy.rsd"), b"precious");
    folder.works("compress x.npy --abs 1 --force");
    folder.put("y.npy", "precious");
    folder.fails("decompress x.npy.rsd -o y.npy", 2, "--force");
    assert_eq!(folder.bytes("y.npy"), b"precious");
    folder.works("decompress x.npy.rsd -o y.npy --force");
    folder.works("verify y.npy x.npy.rsd");
    folder.fails("decompress x.npy.rsd -o x.npy.rsd --force", 2, "is an input");
}

#[test]
fn inputs_are_never_replaced() {
    let folder = Folder::new();
    npy(&folder.path("p"), &[4, 4]);
    npy(&folder.path("p.rsd"), &[4, 4]);
    folder.put("b.toml", "bound = \"abs:1\"");
    folder.fails("compress p p.rsd --abs 1 --force", 2, "is an input");
    assert!(folder.bytes("p.rsd").starts_with(b"\x93NUMPY"));
    folder.fails("compress p --bounds b.toml -o b.toml --force", 2, "is an input");

    std::fs::remove_file(folder.path("p.rsd")).unwrap();
    std::fs::create_dir(folder.path("d.zarr")).unwrap();
    folder.works("compress p --abs 1 -o d.zarr/a.rsd");
    folder.fails("decompress d.zarr/a.rsd --force -o d.zarr", 2, "that an input is in");
    folder.works("compress p --abs 1 -o a.rsd");
    folder.fails("decompress a.rsd --force -o d.zarr", 2, "not a Zarr store");
    assert!(folder.path("d.zarr/a.rsd").exists());
    folder.put("w.safetensors", "precious");
    folder.fails("decompress a.rsd --forecast w.safetensors -o w.safetensors --force", 2, "is an input");
    assert_eq!(folder.bytes("w.safetensors"), b"precious");
    // A store is replaced, an empty folder too.
    std::fs::create_dir(folder.path("e.zarr")).unwrap();
    folder.works("decompress a.rsd --force -o e.zarr");
    folder.works("decompress a.rsd --force -o e.zarr");
    folder.fails("decompress a.rsd -o e.zarr", 2, "--force");
}

#[test]
fn what_appears_meanwhile_stays() {
    let folder = Folder::new();
    for (name, format) in [
        ("a.nc", Format::NetCdf4),
        ("a.cdf", Format::NetCdf3),
        ("a.npy", Format::Npy),
        ("a.bin", Format::Raw),
        ("a.zarr", Format::Zarr3),
    ] {
        let path = folder.path(name);
        let schema = Schema::single(format, "x", DType::F32, &[2]);
        let sink = |force: bool| {
            let mut sink = io::create(&path, &schema, format, force).unwrap();
            sink.write(0, &[std::ops::Range { start: 0, end: 2 }], &Values::F32(vec![1.0, 2.0])).unwrap();
            let parts = std::fs::read_dir(folder.root()).unwrap().map(|e| e.unwrap().file_name());
            let names: Vec<_> = parts.map(|n| n.into_string().unwrap()).filter(|n| n.starts_with('.')).collect();
            assert!(
                names.len() == 1 && names[0].starts_with(&format!(".{name}.")) && names[0].ends_with(".tmp"),
                "{names:?}"
            );
            sink
        };
        let late = sink(false);
        std::fs::write(&path, "precious").unwrap();
        let e = late.finish().unwrap_err();
        assert!(e.kind() == residuum::Kind::Usage && e.to_string().contains("meanwhile"), "{name}: {e}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious", "{name}");
        sink(true).finish().unwrap();
        assert!(
            io::open(&path, &OpenOptions { shape: (format == Format::Raw).then(|| vec![2]), dtype: Some(DType::F32) })
                .is_ok()
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing() {
    let folder = Folder::new();
    folder.put("n.f32", noise(1 << 20));
    let arguments = "compress n.f32 --shape 1024,1024 --dtype f32 --abs 1e-3 --tile-mib 1";
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = folder.residuum();
    let output = command.args(arguments.split(' ')).args(["-o", "-"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: standard output: ") && said.contains("No space"), "{said}");

    // A limit on the size of files is met as a full disk is, and needs no disk of one's own.
    let binary = env!("CARGO_BIN_EXE_residuum");
    let limited = |arguments: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 1000; exec {binary} {arguments}");
        Command::new("bash").arg("-c").arg(script).current_dir(folder.root()).output().unwrap()
    };
    let output = limited(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.starts_with("error: n.f32.rsd: "), "{said}");
    assert_eq!(folder.count(), 1, "something is left");

    folder.works(arguments);
    let output = limited("decompress n.f32.rsd -o back.npy");
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(folder.count(), 2, "something is left");
}
