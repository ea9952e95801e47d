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

#[test]
fn boxes_of_steps_come_out_front_to_back() {
    let folder = Folder::new();
    let shape = [6, 5, 64, 1024];
    // Levels differ, steps hardly do.
    let value = |i: usize| {
        let (step, level, place) = (i / (5 << 16), (i >> 16) % 5, (i & 0xffff) as f32);
        (place * 0.003 * (1.0 + level as f32)).sin() + step as f32 * 0.01
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    folder.put("t.f32", bytemuck::cast_slice::<f32, u8>(&values));
    folder.works("compress t.f32 --shape 6,5,64,1024 --dtype f32 --abs 1e-3 --effort fast --tile-mib 1");
    let json: serde_json::Value = serde_json::from_str(&folder.works("inspect t.f32.rsd --json")).unwrap();
    assert_eq!(json["variables"][0]["tiles"]["shape"], serde_json::json!([3, 1, 64, 1024]));
    folder.works("verify t.f32 t.f32.rsd");
    folder.works("decompress t.f32.rsd -o file.f32");
    let restored = folder.bytes("file.f32");
    assert!(folder.piped("decompress t.f32.rsd --format raw -o -", &[]) == restored);
    let part = folder.piped("decompress t.f32.rsd --range 0=2:5 --range 1=1:3 --format raw -o -", &[]);
    let image = 4 << 16;
    let expected: Vec<u8> = (2..5).flat_map(|t| restored[(t * 5 + 1) * image..][..2 * image].to_vec()).collect();
    assert!(part == expected);
    for format in ["npy", "netcdf4", "netcdf3", "zarr3"] {
        folder.works(&format!("decompress t.f32.rsd --format {format} -o {format}"));
        let mut source = residuum::io::open(&folder.path(format), &Default::default()).unwrap();
        let fields = source.schema().variables.iter().position(|v| v.shape.len() == 4);
        let values = source.read(fields.unwrap(), &[0..6, 0..5, 0..64, 0..1024]).unwrap();
        assert!(values.as_bytes() == restored, "{format}");
    }
    // What is whole of an incomplete archive: steps of which all levels are there.
    let archive = folder.bytes("t.f32.rsd");
    folder.put("cut.rsd", &archive[..archive.len() * 3 / 4]);
    folder.works("decompress cut.rsd --recover -o cut.f32");
    assert!(folder.bytes("cut.f32") == restored[..3 * 5 * image]);
}
