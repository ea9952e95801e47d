//! Standard input and output, pipes, devices.

use crate::support::*;
use std::process::{Command, Stdio};

#[test]
fn pipes() {
    let folder = Folder::new();
    let original = npy(&folder.path("x.npy"), &[50, 8]);
    let input = folder.bytes("x.npy");
    let archive = folder.piped("compress - --abs 0.01", &input);
    let restored = folder.piped("decompress - -o -", &archive);
    assert_eq!(restored[..128], input[..128], "the .npy header");
    assert_within(&original, &floats(&restored[128..]), 0.01);
    let rows = folder.piped("decompress - -o - --format raw --range 0=10:12", &archive);
    assert_within(&original[80..96], &floats(&rows), 0.01);

    let raw = folder.piped("compress - --shape 400 --dtype f32 --lossless -o -", &input[128..]);
    assert_eq!(folder.piped("decompress - -o -", &raw), input[128..]);
    folder.fails("compress - x.npy --abs 1", 2, "standard input");
    folder.fails("compress - --abs 1 -o e.rsd", 3, "standard input: not a NetCDF");

    netcdf(&folder.path("a.nc"));
    let archive = folder.piped("compress - --abs 0.01 -q", &folder.bytes("a.nc"));
    folder.put("a.rsd", archive);
    folder.works("verify a.nc a.rsd");
    folder.fails("decompress a.rsd -o - --var t", 2, "front to back");
}

#[test]
fn readers_that_leave_are_no_reason_to_complain() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[50, 8]);
    folder.works("compress x.npy --abs 0.01");
    for (arguments, status) in
        [("inspect x.npy.rsd", 0), ("compress x.npy --abs 0.01 -o -", 6), ("decompress x.npy.rsd -o -", 6)]
    {
        let mut command = folder.residuum();
        command.args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn devices_are_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[30, 40]);
    folder.works("compress x.npy --abs 0.01 -o /dev/null --force");
    folder.works("compress x.npy --abs 0.01");
    folder.works("decompress x.npy.rsd -o /dev/null --force");
    folder.fails("decompress x.npy.rsd -o /dev/null --format netcdf4", 2, "front to back");
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_with_a_path() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[50, 8]);
    let binary = env!("CARGO_BIN_EXE_residuum");
    let bash = |script: String| {
        let output = Command::new("bash").arg("-c").arg(script).current_dir(folder.root()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = bash(format!("{binary} compress <(cat x.npy) --abs 0.01 -o a.rsd"));
    assert!(done, "{said}");
    let (done, said) = bash(format!("{binary} compress <(cat x.npy) --abs 0.01"));
    assert!(!done && said.contains("-o"), "{said}");
    let (done, said) = bash(format!("{binary} decompress <(cat a.rsd) -o b.npy && {binary} verify <(cat b.npy) a.rsd"));
    assert!(done, "{said}");
}
