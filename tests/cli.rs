//! The command as users meet it: files in, files out, exit statuses, and what is on the disk when something goes wrong.

use residuum::io::{self, Attribute, AttributeValue, Dimension, Format, Group, OpenOptions, Schema, Variable};
use residuum::{DType, Values};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn residuum(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_residuum"));
    command.current_dir(folder);
    command
}

fn run(folder: &Path, arguments: &str) -> Output {
    residuum(folder).args(arguments.split_whitespace()).stdin(Stdio::null()).output().unwrap()
}

/// Runs the command, which must end with `status` and say `part` on standard error.
#[track_caller]
fn fails(folder: &Path, arguments: &str, status: i32, part: &str) {
    let output = run(folder, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments}: {said}");
    assert!(said.contains(part), "{arguments}: {said}");
    assert!(!said.contains("panicked"), "{arguments}: {said}");
}

/// Runs the command, which must succeed; gives what it prints.
#[track_caller]
fn works(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `input` comes out as when it is piped through the command.
fn piped(folder: &Path, arguments: &str, input: &[u8]) -> Vec<u8> {
    let mut command = residuum(folder);
    command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments}");
    output.stdout
}

/// A smooth field with a missing value.
fn field(n: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..n).map(|i| 280.0 + 10.0 * (i as f32 * 0.013).sin()).collect();
    values[n / 2] = f32::NAN;
    values
}

/// Numbers without any pattern, so that compressing them takes its time.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1.0 + (state >> 40) as f32
    };
    (0..n).flat_map(|_| next().to_le_bytes()).collect()
}

fn write(path: &Path, schema: &Schema, values: &[Values]) {
    let mut sink = io::create(path, schema, schema.format, false).unwrap();
    for (i, (v, values)) in schema.variables.iter().zip(values).enumerate() {
        sink.write(i, &v.shape.iter().map(|&n| 0..n).collect::<Vec<_>>(), values).unwrap();
    }
    sink.finish().unwrap();
}

fn npy(path: &Path, shape: &[u64]) -> Vec<f32> {
    let values = field(shape.iter().product::<u64>() as usize);
    let schema = Schema::single(Format::Npy, "x", DType::F32, shape);
    write(path, &schema, &[Values::F32(values.clone())]);
    values
}

fn read(path: &Path, name: &str) -> (Variable, Values) {
    let mut source = io::open(path, &OpenOptions::default()).unwrap();
    let i = source.schema().variables.iter().position(|v| v.name() == name).unwrap();
    let v = source.schema().variables[i].clone();
    let values = source.read(i, &v.shape.iter().map(|&n| 0..n).collect::<Vec<_>>()).unwrap();
    (v, values)
}

#[track_caller]
fn assert_within(original: &[f32], restored: &[f32], bound: f32) {
    assert_eq!(original.len(), restored.len());
    let is_within = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= bound;
    assert!(original.iter().zip(restored).all(is_within));
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// `time 6, lat 10, lon 20`: two fields, their coordinates, and a packed field.
fn netcdf(path: &Path) -> Vec<f32> {
    let text = |name: &str, value: &str| Attribute { name: name.into(), value: AttributeValue::Text(value.into()) };
    let number = |name: &str, value: AttributeValue| Attribute { name: name.into(), value };
    let lens = [("/time", 6), ("/lat", 10), ("/lon", 20)];
    let variable = |name: &str, dtype, dimensions: &[u32], attributes| Variable {
        path: format!("/{name}"),
        dtype,
        shape: dimensions.iter().map(|&d| lens[d as usize].1).collect(),
        dimensions: dimensions.to_vec(),
        attributes,
        chunks: None,
    };
    let packing = vec![
        number("scale_factor", AttributeValue::F32(vec![0.01])),
        number("add_offset", AttributeValue::F32(vec![5.0])),
        number("_FillValue", AttributeValue::I16(vec![-1])),
    ];
    let schema = Schema {
        format: Format::NetCdf4,
        groups: vec![Group { path: "/".into(), attributes: vec![text("title", "made up")] }],
        dimensions: lens.map(|(p, len)| Dimension { path: p.into(), len, unlimited: false }).to_vec(),
        variables: vec![
            variable("time", DType::I64, &[0], vec![text("units", "hours since 2000-01-01")]),
            variable("lat", DType::F64, &[1], vec![]),
            variable("lon", DType::F64, &[2], vec![]),
            variable("t", DType::F32, &[0, 1, 2], vec![text("units", "K")]),
            variable("u", DType::F32, &[1, 2], vec![]),
            variable("packed", DType::I16, &[0, 1], packing),
        ],
    };
    let t = field(1200);
    let values = [
        Values::I64((0..6).collect()),
        Values::F64((0..10).map(f64::from).collect()),
        Values::F64((0..20).map(f64::from).collect()),
        Values::F32(t.clone()),
        Values::F32(field(200)),
        Values::I16((-1..59).collect()),
    ];
    write(path, &schema, &values);
    t
}

#[test]
fn npy_there_and_back() {
    let folder = TempDir::new().unwrap();
    let original = npy(&folder.path().join("x.npy"), &[30, 40]);
    let before = std::fs::read(folder.path().join("x.npy")).unwrap();
    let table = works(folder.path(), "compress x.npy --abs 0.01");
    assert!(table.contains("abs:0.01") && table.contains("30x40") && table.contains("MB/s"), "{table}");
    assert!(works(folder.path(), "verify x.npy x.npy.rsd").contains("every value is within its bound"));
    works(folder.path(), "decompress x.npy.rsd -o y.npy");
    let (_, Values::F32(restored)) = read(&folder.path().join("y.npy"), "y") else { panic!("f32") };
    assert_within(&original, &restored, 0.01);
    assert_eq!(std::fs::read(folder.path().join("x.npy")).unwrap(), before);
    // Nothing but what was asked for is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    assert_eq!(works(folder.path(), "compress x.npy --abs 0.01 --quiet -o z.rsd"), "");
}

#[test]
fn raw_there_and_back() {
    let folder = TempDir::new().unwrap();
    let original = field(600);
    let bytes: Vec<u8> = original.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(folder.path().join("p.f32"), &bytes).unwrap();
    works(folder.path(), "compress p.f32 --shape 20,30 --dtype f32 --rel 1e-3 --predictor lorenzo --threads 2");
    works(folder.path(), "verify p.f32 p.f32.rsd");
    fails(folder.path(), "decompress p.f32.rsd", 2, "--force");
    assert_eq!(std::fs::read(folder.path().join("p.f32")).unwrap(), bytes);
    works(folder.path(), "decompress p.f32.rsd --range 0=5:10 --range 1=:3 -o part.bin");
    let part = floats(&std::fs::read(folder.path().join("part.bin")).unwrap());
    let wanted: Vec<f32> = (5..10).flat_map(|i| original[i * 30..i * 30 + 3].to_vec()).collect();
    assert_within(&wanted, &part, 0.02);
    fails(folder.path(), "compress p.f32 --shape 20,31 --dtype f32 --rel 1e-3 --force", 2, "2480 bytes");
}

#[test]
fn parts_of_netcdf() {
    let folder = TempDir::new().unwrap();
    let t = netcdf(&folder.path().join("a.nc"));
    std::fs::write(folder.path().join("b.toml"), "bound = \"rel:0.5\"\n[bounds]\nt = \"abs:5\"\nu = \"lossless\"\n")
        .unwrap();
    let output = run(folder.path(), "compress a.nc --bounds b.toml --bound t=abs:0.01");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--unpack"), "no word about the packed variable");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("abs:0.01") && !table.contains("abs:5"), "{table}");
    works(folder.path(), "verify a.nc a.nc.rsd");

    works(folder.path(), "decompress a.nc.rsd --var t --range time=1:3 --range lon=10: -o part.nc");
    let source = io::open(&folder.path().join("part.nc"), &OpenOptions::default()).unwrap();
    let names: Vec<_> = source.schema().variables.iter().map(Variable::name).collect();
    assert_eq!(names, ["time", "lat", "lon", "t"]);
    let lens: Vec<_> = source.schema().dimensions.iter().map(|d| d.len).collect();
    assert_eq!(lens, [2, 10, 10]);
    let (v, Values::F32(part)) = read(&folder.path().join("part.nc"), "t") else { panic!("f32") };
    assert_eq!(v.attribute("units"), Some(&AttributeValue::Text("K".into())));
    let wanted: Vec<f32> = (10..30).flat_map(|row| t[row * 20 + 10..row * 20 + 20].to_vec()).collect();
    assert_within(&wanted, &part, 0.01);
    assert_eq!(read(&folder.path().join("part.nc"), "time").1, Values::I64(vec![1, 2]));

    works(folder.path(), "decompress a.nc.rsd --var u -o u.npy");
    let bytes = |file: &str| read(&folder.path().join(file), "u").1.as_bytes().to_vec();
    assert_eq!(bytes("u.npy"), bytes("a.nc"));
    works(folder.path(), "decompress a.nc.rsd -o a.zarr --format zarr2");
    assert_eq!(bytes("a.zarr"), bytes("a.nc"));
    works(folder.path(), "compress a.nc --var u --bounds b.toml -o u.rsd");
    let table = works(folder.path(), "verify a.nc u.rsd");
    assert!(table.contains("not in the archive: time, t, packed"), "{table}");

    fails(folder.path(), "decompress a.nc.rsd -o all.npy", 2, "--var");
    fails(folder.path(), "decompress a.nc.rsd --var w -o w.nc", 2, "there are: time");
    fails(folder.path(), "decompress a.nc.rsd --range level=0:1 -o w.nc", 2, "there are: time, lat, lon");
    fails(folder.path(), "decompress a.nc.rsd --range time=0:7 -o w.nc", 2, "0:6");
    fails(folder.path(), "decompress a.nc.rsd --range time=0:1 --range time=2:3 -o w.nc", 2, "twice");
    fails(folder.path(), "compress a.nc --abs 1 --bound w=abs:1 -o w.rsd", 2, "there are: time");
}

#[test]
fn packed_integers_as_numbers() {
    let folder = TempDir::new().unwrap();
    netcdf(&folder.path().join("a.nc"));
    fails(folder.path(), "compress a.nc --lossless --bound packed=abs:0.001", 2, "--unpack");
    works(folder.path(), "compress a.nc --lossless --bound packed=abs:0.001 --unpack");
    works(folder.path(), "verify a.nc a.nc.rsd");
    works(folder.path(), "decompress a.nc.rsd -o b.nc");
    let (v, Values::F32(numbers)) = read(&folder.path().join("b.nc"), "packed") else { panic!("f32") };
    assert!(v.attribute("scale_factor").is_none());
    assert!(numbers[0].is_nan());
    assert!(numbers[1..].iter().enumerate().all(|(i, x)| (x - (5.0 + 0.01 * i as f32)).abs() <= 0.0011));
}

#[test]
fn pipes() {
    let folder = TempDir::new().unwrap();
    let original = npy(&folder.path().join("x.npy"), &[50, 8]);
    let input = std::fs::read(folder.path().join("x.npy")).unwrap();
    let archive = piped(folder.path(), "compress - --abs 0.01", &input);
    let restored = piped(folder.path(), "decompress - -o -", &archive);
    assert_eq!(restored[..128], input[..128], "the .npy header");
    assert_within(&original, &floats(&restored[128..]), 0.01);
    let rows = piped(folder.path(), "decompress - -o - --format raw --range 0=10:12", &archive);
    assert_within(&original[80..96], &floats(&rows), 0.01);

    let raw = piped(folder.path(), "compress - --shape 400 --dtype f32 --lossless -o -", &input[128..]);
    assert_eq!(piped(folder.path(), "decompress - -o -", &raw), input[128..]);
    fails(folder.path(), "compress - x.npy --abs 1", 2, "standard input");
    fails(folder.path(), "compress - --abs 1 -o e.rsd", 3, "standard input: not a NetCDF");

    netcdf(&folder.path().join("a.nc"));
    let archive = piped(folder.path(), "compress - --abs 0.01 -q", &std::fs::read(folder.path().join("a.nc")).unwrap());
    std::fs::write(folder.path().join("a.rsd"), archive).unwrap();
    works(folder.path(), "verify a.nc a.rsd");
    fails(folder.path(), "decompress a.rsd -o - --var t", 2, "front to back");
}

#[test]
fn readers_that_leave_are_no_reason_to_complain() {
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[50, 8]);
    works(folder.path(), "compress x.npy --abs 0.01");
    for (arguments, status) in
        [("inspect x.npy.rsd", 0), ("compress x.npy --abs 0.01 -o -", 6), ("decompress x.npy.rsd -o -", 6)]
    {
        let mut command = residuum(folder.path());
        command.args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments}");
    }
}

#[test]
fn verify_finds_what_differs() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.npy");
    npy(&path, &[30, 40]);
    works(folder.path(), "compress x.npy --abs 0.01");
    let mut bytes = std::fs::read(&path).unwrap();
    let value = f32::from_le_bytes(bytes[528..532].try_into().unwrap());
    bytes[528..532].copy_from_slice(&(value + 0.05).to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    fails(folder.path(), "verify x.npy x.npy.rsd", 1, "1 values beyond their bounds");
    let output = run(folder.path(), "verify x.npy x.npy.rsd --json");
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["violations"], 1);
    assert!(json["variables"][0]["max_error_over_bound"].as_f64().unwrap() > 4.0);

    netcdf(&folder.path().join("a.nc"));
    works(folder.path(), "compress a.nc --abs 0.01");
    works(folder.path(), "decompress a.nc.rsd --range time=0:5 -o b.nc");
    fails(folder.path(), "verify b.nc a.nc.rsd", 1, "other differences");
}

#[test]
fn inspect_tells_where_the_bytes_go() {
    let folder = TempDir::new().unwrap();
    netcdf(&folder.path().join("a.nc"));
    works(folder.path(), "compress a.nc --rel 1e-3 --bound u=pw-rel:1e-3");
    let text = works(folder.path(), "inspect a.nc.rsd");
    assert!(text.contains("format version 1") && text.contains("time,lat,lon"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&works(folder.path(), "inspect a.nc.rsd --json")).unwrap();
    let len = std::fs::metadata(folder.path().join("a.nc.rsd")).unwrap().len();
    assert_eq!(json["file_bytes"], len);
    assert_eq!(json["source_format"], "netcdf4");
    for v in json["variables"].as_array().unwrap() {
        let parts: u64 = v["bytes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(v["stored_bytes"], parts, "{v}");
    }
    let t = &json["variables"][3];
    assert_eq!((&t["name"], &t["bound"]["asked"]), (&"t".into(), &"rel:1e-3".into()));
    assert_eq!(t["n_special"], 1);
}

#[test]
fn wrong_calls_end_with_2_and_say_why() {
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[4, 4]);
    std::fs::write(folder.path().join("b.toml"), "bund = \"abs:1\"\n").unwrap();
    for (arguments, part) in [
        ("", "Usage"),
        ("compress x.npy", "a bound is needed"),
        ("compress x.npy --abs 1 --rel 1", "cannot be used with"),
        ("compress x.npy --abs -1", "must not be negative"),
        ("compress x.npy --abs nan", "not a number"),
        ("compress x.npy --rel 2", "below 1"),
        ("compress x.npy --abs 1e-60", "can not be represented"),
        ("compress x.npy --abs 1 --bound x=1", "is not a bound"),
        ("compress x.npy --bounds b.toml", "bund"),
        ("compress x.npy --abs 1 --predictor magic", "possible values"),
        ("compress x.npy --abs 1 --threads 0", "1 to 1024"),
        ("compress x.npy --abs 1 --tile-mib 0", "0 is not in"),
        ("compress x.npy --abs 1 --dtype f32", "--shape"),
        ("compress x.npy --abs 1 -o nowhere/x.rsd", "there is no folder"),
        ("compress x.npy x.npy --abs 1 -o .", "several inputs"),
        ("compress x.npy b.toml --abs 1 -o both.rsd", "a folder that is there"),
        ("compress x.npy --abs 1 -o x.npy --force", "is an input"),
        ("decompress x.npy", "with -o"),
        ("decompress x.rsd --range time", "DIM=START:END"),
        ("decompress x.rsd --range time=3:2", "DIM=START:END"),
        ("decompress x.rsd --format grib", "possible values"),
    ] {
        fails(folder.path(), arguments, 2, part);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "something was written");
}

#[test]
fn exit_statuses() {
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[30, 40]);
    std::fs::write(folder.path().join("text"), "not data at all").unwrap();
    fails(folder.path(), "compress missing.nc --abs 1", 6, "error: missing.nc: ");
    fails(folder.path(), "compress text --abs 1", 3, "error: text: ");
    fails(folder.path(), "inspect text", 3, "not a residuum archive");
    fails(folder.path(), "decompress missing.rsd", 6, "error: missing.rsd: ");

    works(folder.path(), "compress x.npy --abs 0.01");
    let archive = std::fs::read(folder.path().join("x.npy.rsd")).unwrap();
    let with = |name: &str, at: usize, byte: u8| {
        let mut archive = archive.clone();
        archive[at] ^= byte;
        std::fs::write(folder.path().join(name), archive).unwrap();
    };
    with("damaged.rsd", archive.len() / 2, 1);
    with("later.rsd", 8, 2);
    std::fs::write(folder.path().join("cut.rsd"), &archive[..archive.len() - 20]).unwrap();
    fails(folder.path(), "decompress damaged.rsd -o y.npy", 4, "error: damaged.rsd: ");
    fails(folder.path(), "decompress later.rsd -o y.npy", 5, "newer");
    fails(folder.path(), "decompress cut.rsd -o y.npy", 4, "--recover");
    assert!(!folder.path().join("y.npy").exists());
    // Of several inputs, the good ones are done.
    std::fs::create_dir(folder.path().join("out")).unwrap();
    fails(folder.path(), "compress text x.npy missing --abs 1 -o out", 3, "error: missing: ");
    assert!(folder.path().join("out/x.npy.rsd").exists());
    let help = works(folder.path(), "--help");
    assert!(help.contains("Exit status") && help.contains("Examples"));
}

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[4, 4]);
    std::fs::write(folder.path().join("x.npy.rsd"), "precious").unwrap();
    fails(folder.path(), "compress x.npy --abs 1", 2, "--force");
    assert_eq!(std::fs::read(folder.path().join("x.npy.rsd")).unwrap(), b"precious");
    works(folder.path(), "compress x.npy --abs 1 --force");
    std::fs::write(folder.path().join("y.npy"), "precious").unwrap();
    fails(folder.path(), "decompress x.npy.rsd -o y.npy", 2, "--force");
    assert_eq!(std::fs::read(folder.path().join("y.npy")).unwrap(), b"precious");
    works(folder.path(), "decompress x.npy.rsd -o y.npy --force");
    works(folder.path(), "verify y.npy x.npy.rsd");
    fails(folder.path(), "decompress x.npy.rsd -o x.npy.rsd --force", 2, "is an input");
}

#[test]
#[cfg(unix)]
fn a_killed_run_leaves_no_archive_but_what_it_had() {
    let folder = TempDir::new().unwrap();
    let bytes = noise(8 << 20);
    std::fs::write(folder.path().join("n.f32"), &bytes).unwrap();
    let mut command = residuum(folder.path());
    command.args("compress n.f32 --shape 8192,1024 --dtype f32 --pw-rel 1e-3 --tile-mib 1 --threads 1 -q".split(' '));
    let mut child = command.spawn().unwrap();
    let part = loop {
        let parts = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
        let part = parts.into_iter().find(|p| p.extension().is_some_and(|e| e == "part"));
        if let Some(part) = part.filter(|p| std::fs::metadata(p).is_ok_and(|m| m.len() > 2 << 20)) {
            break part;
        }
        assert!(child.try_wait().unwrap().is_none(), "it was done before it could be killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("n.f32.rsd").exists());
    assert!(part.file_name().unwrap().to_str().unwrap().starts_with(".n.f32.rsd."));

    std::fs::rename(part, folder.path().join("left.rsd")).unwrap();
    let output = run(folder.path(), "decompress left.rsd --recover -o left.bin");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("of 8192 along its first dimension"), "{said}");
    let left = floats(&std::fs::read(folder.path().join("left.bin")).unwrap());
    assert!(left.len() >= 1 << 18 && left.len().is_multiple_of(1024));
    let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() * 1e-3;
    assert!(floats(&bytes).iter().zip(&left).all(is_near));
}

#[test]
fn what_is_whole_of_a_cut_archive_comes_back() {
    let folder = TempDir::new().unwrap();
    netcdf(&folder.path().join("a.nc"));
    works(folder.path(), "compress a.nc --abs 0.01");
    let archive = std::fs::read(folder.path().join("a.nc.rsd")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&works(folder.path(), "inspect a.nc.rsd --json")).unwrap();
    let tail: u64 = [4, 5].map(|i: usize| json["variables"][i]["stored_bytes"].as_u64().unwrap()).iter().sum();
    std::fs::write(folder.path().join("cut.rsd"), &archive[..archive.len() - tail as usize]).unwrap();
    let output = run(folder.path(), "decompress cut.rsd --recover -o b.nc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("variable \"packed\" is left out"), "{said}");
    let (_, Values::F32(t)) = read(&folder.path().join("b.nc"), "t") else { panic!("f32") };
    assert_eq!(t.len(), 1200);
    fails(folder.path(), "decompress cut.rsd --recover --var packed --format raw -o p", 4, "nothing");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("n.f32"), noise(1 << 20)).unwrap();
    let arguments = "compress n.f32 --shape 1024,1024 --dtype f32 --abs 1e-3 --tile-mib 1";
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = residuum(folder.path());
    let output = command.args(arguments.split(' ')).args(["-o", "-"]).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("error: standard output: ") && said.contains("No space"), "{said}");

    // A limit on the size of files is met as a full disk is, and needs no disk of one's own.
    let binary = env!("CARGO_BIN_EXE_residuum");
    let limited = |arguments: &str| {
        let script = format!("trap '' XFSZ; ulimit -f 1000; exec {binary} {arguments}");
        Command::new("bash").arg("-c").arg(script).current_dir(folder.path()).output().unwrap()
    };
    let output = limited(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.starts_with("error: n.f32.rsd: "), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left");

    works(folder.path(), arguments);
    let output = limited("decompress n.f32.rsd -o back.npy");
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "something is left");
}

#[test]
#[cfg(target_os = "linux")]
fn devices_are_written_to_and_not_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[30, 40]);
    works(folder.path(), "compress x.npy --abs 0.01 -o /dev/null --force");
    works(folder.path(), "compress x.npy --abs 0.01");
    works(folder.path(), "decompress x.npy.rsd -o /dev/null --force");
    fails(folder.path(), "decompress x.npy.rsd -o /dev/null --format netcdf4", 2, "front to back");
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

/// A file of one group with these variables of one dimension `x`, whatever its length.
fn file_of(path: &Path, format: Format, variables: Vec<(&str, Values, Vec<Attribute>)>) {
    let len = variables.first().map_or(0, |v| v.1.len()) as u64;
    let schema = Schema {
        format,
        groups: vec![Group { path: "/".into(), attributes: vec![] }],
        dimensions: vec![Dimension { path: "/x".into(), len, unlimited: false }],
        variables: variables
            .iter()
            .map(|(name, values, attributes)| Variable {
                path: format!("/{name}"),
                dtype: values.dtype(),
                shape: vec![len],
                dimensions: vec![0],
                attributes: attributes.clone(),
                chunks: None,
            })
            .collect(),
    };
    write(path, &schema, &variables.into_iter().map(|v| v.1).collect::<Vec<_>>());
}

fn attribute(name: &str, value: AttributeValue) -> Attribute {
    Attribute { name: name.into(), value }
}

#[test]
fn inputs_are_never_replaced() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    npy(&path("p"), &[4, 4]);
    npy(&path("p.rsd"), &[4, 4]);
    std::fs::write(path("b.toml"), "bound = \"abs:1\"").unwrap();
    fails(folder.path(), "compress p p.rsd --abs 1 --force", 2, "is an input");
    assert!(std::fs::read(path("p.rsd")).unwrap().starts_with(b"\x93NUMPY"));
    fails(folder.path(), "compress p --bounds b.toml -o b.toml --force", 2, "is an input");

    std::fs::remove_file(path("p.rsd")).unwrap();
    std::fs::create_dir(path("d.zarr")).unwrap();
    works(folder.path(), "compress p --abs 1 -o d.zarr/a.rsd");
    fails(folder.path(), "decompress d.zarr/a.rsd --force -o d.zarr", 2, "that an input is in");
    works(folder.path(), "compress p --abs 1 -o a.rsd");
    fails(folder.path(), "decompress a.rsd --force -o d.zarr", 2, "not a Zarr store");
    assert!(path("d.zarr/a.rsd").exists());
    // A store is replaced, an empty folder too.
    std::fs::create_dir(path("e.zarr")).unwrap();
    works(folder.path(), "decompress a.rsd --force -o e.zarr");
    works(folder.path(), "decompress a.rsd --force -o e.zarr");
    fails(folder.path(), "decompress a.rsd -o e.zarr", 2, "--force");
}

#[test]
fn what_appears_meanwhile_stays() {
    let folder = TempDir::new().unwrap();
    for (name, format) in [
        ("a.nc", Format::NetCdf4),
        ("a.cdf", Format::NetCdf3),
        ("a.npy", Format::Npy),
        ("a.bin", Format::Raw),
        ("a.zarr", Format::Zarr3),
    ] {
        let path = folder.path().join(name);
        let schema = Schema::single(format, "x", DType::F32, &[2]);
        let sink = |force: bool| {
            let mut sink = io::create(&path, &schema, format, force).unwrap();
            sink.write(0, &[std::ops::Range { start: 0, end: 2 }], &Values::F32(vec![1.0, 2.0])).unwrap();
            let parts = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
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
fn values_never_written_do_not_count() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let unwritten = 9.969_21e36_f32;
    let mut values = field(1000);
    values[500] = 285.0;
    values[..100].fill(unwritten);
    for format in [Format::NetCdf3, Format::NetCdf4] {
        file_of(&path("a.nc"), format, vec![("t", Values::F32(values.clone()), vec![])]);
        works(folder.path(), "compress a.nc --rel 1e-3 --force");
        works(folder.path(), "verify a.nc a.nc.rsd");
        works(folder.path(), "decompress a.nc.rsd -o b.nc --force");
        let (_, Values::F32(restored)) = read(&path("b.nc"), "t") else { panic!("f32") };
        assert_within(&values, &restored, 0.021);
        assert!(restored != values, "nothing was lossy");
        std::fs::remove_file(path("a.nc")).unwrap();
    }
    // In a Zarr store of version 3 it is the array's own fill value.
    values[..100].fill(-9e9);
    let fill = attribute("_zarr_fill_value", AttributeValue::Json("-9e9".into()));
    file_of(&path("a.zarr"), Format::Zarr3, vec![("t", Values::F32(values.clone()), vec![fill])]);
    works(folder.path(), "compress a.zarr --rel 1e-3");
    works(folder.path(), "decompress a.zarr.rsd -o b.zarr");
    let (_, Values::F32(restored)) = read(&path("b.zarr"), "t") else { panic!("f32") };
    assert_within(&values, &restored, 0.021);
}

#[test]
fn fill_values_of_any_attribute_type() {
    let v = |attributes: &[(&str, AttributeValue)]| Variable {
        attributes: attributes.iter().map(|(n, v)| attribute(n, v.clone())).collect(),
        ..Schema::single(Format::Raw, "x", DType::F32, &[1]).variables[0].clone()
    };
    use AttributeValue as A;
    let fill = |x: f32| vec![u64::from(x.to_bits())];
    for value in [
        A::I8(vec![99]),
        A::U8(vec![99]),
        A::I16(vec![99]),
        A::U16(vec![99]),
        A::I32(vec![99]),
        A::U32(vec![99]),
        A::I64(vec![99]),
        A::U64(vec![99]),
        A::F32(vec![99.0]),
        A::F64(vec![99.0]),
        A::Text("99".into()),
        A::Texts(vec!["99.0".into()]),
        A::Json("[99]".into()),
    ] {
        assert_eq!(v(&[("missing_value", value.clone())]).fill_values(), fill(99.0), "{value:?}");
        assert!(v(&[("missing_value", value), ("_FillValue", A::F32(vec![1e20]))]).has_several_fill_values());
    }
    assert!(v(&[("missing_value", A::I32(vec![1, 2]))]).has_several_fill_values());
    assert!(!v(&[("missing_value", A::I32(vec![1, 1]))]).has_several_fill_values());
    assert!(v(&[("missing_value", A::Text("n/a".into()))]).fill_values().is_empty());
    assert!(v(&[("_FillValue", A::F32(vec![f32::NAN]))]).fill_values().is_empty());
}

#[test]
fn one_variable_that_is_not_read_does_not_stop_the_others() {
    let folder = TempDir::new().unwrap();
    file_of(&folder.path().join("a.zarr"), Format::Zarr2, vec![("t", Values::F32(field(50)), vec![])]);
    let odd = folder.path().join("a.zarr/odd");
    std::fs::create_dir(&odd).unwrap();
    let text = r#"{"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "<c8", "compressor": null, "fill_value": null,
        "order": "C", "filters": null}"#;
    std::fs::write(odd.join(".zarray"), text).unwrap();
    fails(folder.path(), "compress a.zarr --abs 1", 5, "--exclude odd");
    fails(folder.path(), "compress a.zarr --abs 1 --var odd", 5, "\"<c8\"");
    fails(folder.path(), "compress a.zarr --abs 1 --exclude odd --exclude even", 2, "no variable");
    works(folder.path(), "compress a.zarr --abs 1 --var t -o 1.rsd");
    works(folder.path(), "compress a.zarr --abs 1 --exclude odd -o 2.rsd");
    assert!(works(folder.path(), "verify a.zarr 2.rsd").contains("not in the archive: odd"));
}

#[test]
fn a_file_without_variables_comes_back() {
    let folder = TempDir::new().unwrap();
    for format in [Format::NetCdf3, Format::NetCdf4, Format::Zarr3] {
        let (a, b) = (TempDir::new_in(folder.path()).unwrap(), TempDir::new_in(folder.path()).unwrap());
        let name = if format == Format::Zarr3 { "a.zarr" } else { "a.nc" };
        let mut schema = Schema::single(format, "x", DType::F32, &[1]);
        schema.variables.clear();
        schema.groups[0].attributes.push(attribute("title", AttributeValue::Text("nothing".into())));
        write(&a.path().join(name), &schema, &[]);
        works(a.path(), &format!("compress {name} --abs 1"));
        let archive = a.path().join(format!("{name}.rsd"));
        works(b.path(), &format!("decompress {} -o {name}", archive.display()));
        let source = io::open(&b.path().join(name), &OpenOptions::default()).unwrap();
        assert_eq!(source.schema().groups, schema.groups);
        fails(b.path(), &format!("decompress {} -o x.npy", archive.display()), 4, "nothing");
    }
}

#[test]
fn a_damaged_tile_costs_itself_only() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("n.f32"), noise(1 << 20)).unwrap();
    works(folder.path(), "compress n.f32 --shape 1024,1024 --dtype f32 --abs 1 --tile-mib 1");
    let path = folder.path().join("n.f32.rsd");
    let mut archive = std::fs::read(&path).unwrap();
    let middle = archive.len() * 3 / 8;
    archive[middle] ^= 1;
    std::fs::write(&path, &archive).unwrap();
    fails(folder.path(), "decompress n.f32.rsd -o b.f32", 4, "variable \"n\": tile 1: checksum");
    fails(folder.path(), "decompress n.f32.rsd -o b.f32", 4, "--recover");
    let output = run(folder.path(), "decompress n.f32.rsd -o b.f32 --recover");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("tile 1 is damaged") && said.contains("256:512,0:1024"), "{said}");
    let restored = floats(&std::fs::read(folder.path().join("b.f32")).unwrap());
    let original = floats(&std::fs::read(folder.path().join("n.f32")).unwrap());
    let (tile, rest) = (1 << 18..1 << 19, 1 << 19..1 << 20);
    assert!(restored[tile].iter().all(|v| v.is_nan()));
    assert_within(&original[rest.clone()], &restored[rest], 1.0);
    assert_within(&original[..1 << 18], &restored[..1 << 18], 1.0);
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_with_a_path() {
    let folder = TempDir::new().unwrap();
    npy(&folder.path().join("x.npy"), &[50, 8]);
    let binary = env!("CARGO_BIN_EXE_residuum");
    let bash = |script: String| {
        let output = Command::new("bash").arg("-c").arg(script).current_dir(folder.path()).output().unwrap();
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
fn notes_and_messages_name_what_is_meant() {
    let folder = TempDir::new().unwrap();
    let scaled = attribute("scale_factor", AttributeValue::F32(vec![0.01]));
    file_of(&folder.path().join("a.nc"), Format::NetCdf4, vec![("t", Values::F32(field(50)), vec![scaled])]);
    let said = |arguments: &str| String::from_utf8(run(folder.path(), arguments).stderr).unwrap();
    assert!(said("compress a.nc --abs 1").contains("before scale_factor"));
    fails(folder.path(), "compress a.nc --abs 1 -o nowhere/", 2, "there is no folder nowhere/");
    fails(folder.path(), "decompress a.nc.rsd -o nowhere/", 2, "there is no folder nowhere/");
    std::fs::rename(folder.path().join("a.nc.rsd"), folder.path().join("a")).unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    fails(folder.path(), "decompress a -o out", 2, "name a file in that folder");

    // Names steer no terminal.
    file_of(&folder.path().join("b.zarr"), Format::Zarr3, vec![("a\u{1b}[2J", Values::Char(vec![b'x']), vec![])]);
    works(folder.path(), "compress b.zarr --abs 1");
    for arguments in ["decompress b.zarr.rsd -o b.npy --var w", "compress b.zarr --abs 1 --var w -o x.rsd"] {
        assert!(!said(arguments).contains('\u{1b}'), "{}", said(arguments));
    }
    assert!(!works(folder.path(), "verify b.zarr b.zarr.rsd").contains('\u{1b}'));
}

#[test]
fn text_of_another_encoding_is_announced() {
    let folder = TempDir::new().unwrap();
    let title = attribute("title", AttributeValue::Text("grad _".into()));
    file_of(&folder.path().join("a.nc"), Format::NetCdf3, vec![("t", Values::F32(field(50)), vec![title])]);
    let mut bytes = std::fs::read(folder.path().join("a.nc")).unwrap();
    let at = bytes.windows(6).position(|w| w == b"grad _").unwrap();
    bytes[at + 5] = 0xb0;
    std::fs::write(folder.path().join("a.nc"), bytes).unwrap();
    let output = run(folder.path(), "compress a.nc --abs 1");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("attribute \"title\" is not UTF-8"), "{said}");
}
