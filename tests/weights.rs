//! Import of checkpoints: what is whole comes in bit for bit, what is not is refused, and nothing in a file makes the program panic, run
//! anything or ask for memory beyond the file's size.
//!
//! Checkpoints are made here, byte by byte; where the miniature official ones are at hand (`../shared/oracles`, or `RESIDUUM_ORACLES`), those too.
#![cfg(feature = "forecast")]

use residuum::forecast::aurora::{Aurora, Config};
use residuum::forecast::import::{Checkpoint, ImportOptions, import};
use residuum::forecast::{Options, Weights, open_forecaster};
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A zip archive of uncompressed entries.
fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Writes the pickle of a dictionary of tensors as `torch.save` does.
struct Pickler {
    bytes: Vec<u8>,
}

impl Pickler {
    fn new() -> Self {
        // PROTO 2, EMPTY_DICT, BINPUT 0, MARK
        Self { bytes: b"\x80\x02}q\x00(".to_vec() }
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.bytes());
    }

    fn int(&mut self, n: usize) {
        self.bytes.push(b'J');
        self.bytes.extend((n as u32).to_le_bytes());
    }

    fn ints(&mut self, ints: &[usize]) {
        self.bytes.push(b'(');
        ints.iter().for_each(|&n| self.int(n));
        self.bytes.push(b't');
    }

    /// One item; `class` names the storage, whose record has `len` elements.
    fn tensor(&mut self, name: &str, class: &str, record: &str, len: usize, view: (usize, &[usize], &[usize])) {
        self.text(name);
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(format!("ctorch\n{class}\n").bytes());
        self.text(record);
        self.text("cpu");
        self.int(len);
        self.bytes.extend(b"tQ");
        let (offset, shape, strides) = view;
        self.int(offset);
        self.ints(shape);
        self.ints(strides);
        // requires_grad, OrderedDict(), then the call.
        self.bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.extend(b"u.");
        self.bytes
    }
}

fn opened(bytes: &[u8]) -> residuum::Result<Checkpoint> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.ckpt");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}

#[track_caller]
fn refused(bytes: &[u8], part: &str) {
    let said = opened(bytes).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains(part), "{said:?}");
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zipped(&[("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", &[0; 24]), ("x/version", b"3\n")])
}

fn small_checkpoint() -> Vec<u8> {
    let mut p = Pickler::new();
    p.tensor("net.a", "FloatStorage", "0", 6, (0, &[2, 3], &[3, 1]));
    p.tensor("b", "IntStorage", "1", 4, (1, &[2], &[2]));
    p.tensor("scalar", "LongStorage", "2", 1, (0, &[], &[]));
    p.tensor("turned", "FloatStorage", "0", 6, (0, &[3, 2], &[1, 3]));
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let ints: Vec<u8> = (10..14i32).flat_map(i32::to_le_bytes).collect();
    zipped(&[
        ("x/data.pkl", &p.finish()),
        ("x/byteorder", b"little"),
        ("x/data/0", &floats),
        ("x/data/1", &ints),
        ("x/data/2", &7i64.to_le_bytes()),
    ])
}

#[test]
fn tensors_of_every_layout_come_in() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.ckpt");
    std::fs::write(&path, small_checkpoint()).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let bytes = checkpoint.bytes(name).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    assert_eq!(floats("net.a"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(floats("turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(checkpoint.bytes("b").unwrap(), [11i32, 13].map(i32::to_le_bytes).concat());
    assert_eq!(checkpoint.number("scalar").unwrap(), 7.0);
    assert_eq!(checkpoint.meta("net.a").unwrap().shape, [2, 3]);
}

#[test]
fn pickles_with_code_are_refused() {
    for (module, name) in
        [("os", "system"), ("builtins", "eval"), ("posix", "system"), ("torch", "load"), ("torch._utils", "_rebuild")]
    {
        let mut p = b"\x80\x02".to_vec();
        p.extend(format!("c{module}\n{name}\n").bytes());
        p.extend(b"X\x04\x00\x00\x00true\x85R.");
        refused(&with_pickle(&p), &format!("{module}.{name}"));
        // The same by STACK_GLOBAL.
        let mut p = b"\x80\x04".to_vec();
        for text in [module, name] {
            p.extend([0x8c, text.len() as u8]);
            p.extend(text.bytes());
        }
        p.extend(b"\x93.");
        refused(&with_pickle(&p), &format!("{module}.{name}"));
    }
    // INST, OBJ, NEWOBJ, EXT1, PERSID, INT as text
    for code in [b'i', b'o', 0x81, 0x82, b'P', b'I'] {
        refused(&with_pickle(&[0x80, 2, code, 1, b'\n', b'.']), "which no checkpoint of tensors needs");
    }
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    let cases: [(usize, &[usize], &[usize]); 5] = [
        (1, &[2, 3], &[3, 1]),
        (0, &[1 << 30, 1 << 30], &[0, 0]),
        (0, &[7], &[0]),
        (0, &[2, 3], &[3]),
        (usize::MAX >> 33, &[1], &[1]),
    ];
    for (offset, shape, strides) in cases {
        let mut p = Pickler::new();
        p.tensor("a", "FloatStorage", "0", 6, (offset, shape, strides));
        refused(&with_pickle(&p.finish()), "leaves its storage");
    }
    let mut p = Pickler::new();
    p.tensor("a", "FloatStorage", "0", 7, (0, &[7], &[1]));
    refused(&with_pickle(&p.finish()), "has 24 bytes");
    let mut p = Pickler::new();
    p.tensor("a", "FloatStorage", "../0", 6, (0, &[6], &[1]));
    refused(&with_pickle(&p.finish()), "is not there");
}

#[test]
fn what_is_no_checkpoint_is_said() {
    refused(b"", "no zip archive");
    refused(b"\x80\x02\x8a\x0alF\x9c", "before 1.6");
    refused(&with_pickle(b"\x80\x02]."), "does not hold a dictionary");
    refused(&with_pickle(b"\x80\x02}"), "ends early");
    refused(&with_pickle(&[0x80, 2, b'X', 0xff, 0xff, 0xff, 0x7f]), "ends early");
    refused(&zipped(&[("x/data.pkl", b"\x80\x02}."), ("x/byteorder", b"big")]), "not little-endian");
    refused(&zipped(&[("readme.txt", b"hello")]), "not a .npy file");
    let whole = small_checkpoint();
    refused(&whole[..whole.len() / 2], "zip archive");
    // Deep nesting costs no stack, and a mebibyte of marks no more than that.
    let mut nested = b"\x80\x02)".to_vec();
    nested.extend(std::iter::repeat_n(0x85, 2_000_000));
    nested.push(b'.');
    refused(&with_pickle(&nested), "does not hold a dictionary");
    refused(&with_pickle(&[&b"\x80\x02"[..], &[b'('; 1 << 20]].concat()), "ends early");
}

/// A `.npy` file.
fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    header.push_str(&" ".repeat(64 - (header.len() + 11) % 64));
    header.push('\n');
    [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), values].concat()
}

#[test]
fn npz_archives_give_tensors_and_texts() {
    let text: Vec<u8> = "CC BY\u{2002}4\0".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
    let bytes = zipped(&[
        ("params:a:w.npy", &npy("<f4", "(2, 1)", &[0; 8])),
        ("license.npy", &npy("<U8", "()", &text)),
        ("n.npy", &npy("<i8", "()", &512i64.to_le_bytes())),
    ]);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.npz");
    std::fs::write(&path, &bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.meta("params:a:w").unwrap().shape, [2, 1]);
    assert_eq!(checkpoint.texts()["license"], "CC BY\u{2002}4");
    assert_eq!(checkpoint.number("n").unwrap(), 512.0);
    assert_eq!(checkpoint.bytes("params:a:w").unwrap(), [0; 8]);
    for (descr, shape, part) in [
        ("<f4", "(3, 1)", "does not fit"),
        ("<f4", "(4611686018427387904, 4)", "does not fit"),
        ("|O", "()", "element type"),
        ("<U4000000000", "()", "array of texts"),
        ("<f4", "(-1)", "not a .npy header"),
    ] {
        refused(&zipped(&[("a.npy", &npy(descr, shape, &[0; 8]))]), part);
    }
}

/// Opens a damaged checkpoint and reads all of it; only that it ends, with an error or not, matters.
fn survive(bytes: &[u8]) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.ckpt");
    std::fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    for name in checkpoint.tensors().keys() {
        let _ = checkpoint.bytes(name);
    }
}

#[test]
fn no_flipped_bit_and_no_missing_end_does_harm() {
    let npz =
        zipped(&[("a.npy", &npy("<f4", "(2, 1)", &[0; 8])), ("b.npy", &npy("<U2", "()", &[65, 0, 0, 0, 0, 0, 0, 0]))]);
    for whole in [small_checkpoint(), npz] {
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            survive(&damaged);
        }
        for end in 0..whole.len() {
            survive(&whole[..end]);
        }
    }
    // Checksums hide the pickle from flips of the whole file: here it is damaged before it is packed.
    let mut p = Pickler::new();
    p.tensor("a", "FloatStorage", "0", 6, (0, &[2, 3], &[3, 1]));
    let pickle = p.finish();
    for bit in 0..pickle.len() * 8 {
        let mut damaged = pickle.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        survive(&with_pickle(&damaged));
    }
}

/// A configuration of a few thousand parameters.
fn tiny() -> Config {
    serde_json::from_value(json!({
        "embed_dim": 8, "num_heads": 2, "window_size": [2, 2, 2], "encoder_depths": [1, 1], "encoder_num_heads": [1, 2],
        "decoder_depths": [1, 1], "decoder_num_heads": [2, 1], "mlp_ratio": 2.0, "patch_size": 2, "atmos_levels": [500, 850],
        "use_lora": true
    }))
    .unwrap()
}

#[test]
fn weights_are_checked_against_their_configuration() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    Aurora::write_random(&path, &tiny(), 3).unwrap();
    let written = std::fs::read(&path).unwrap();
    Aurora::write_random(&path, &tiny(), 3).unwrap();
    assert_eq!(written, std::fs::read(&path).unwrap());
    assert!(open_forecaster(&path, &Options::default()).is_ok());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = serde_json::to_value(tiny()).unwrap();
        change(&mut config);
        let weights = Weights::open_as(&path, "aurora", config).unwrap();
        Aurora::new(&weights, &Options::default()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(with(&|_| ()), "");
    let said = with(&|c| c["embed_dim"] = 16.into());
    assert!(said.contains("has shape") && said.contains("configuration says"), "{said}");
    for (key, value) in [
        ("embed_dim", json!(1u64 << 40)),
        ("embed_dim", json!(6)),
        ("num_heads", json!(0)),
        ("encoder_depths", json!([1u64 << 40, 1])),
        ("encoder_depths", json!([])),
        ("mlp_ratio", json!(1e300)),
        ("patch_size", json!(0)),
        ("latent_levels", json!(0)),
        ("atmos_levels", json!([])),
        ("atmos_levels", json!([501])),
        ("window_size", json!([0, 1, 1])),
        ("lora_mode", json!("often")),
        ("timestep_hours", json!(0)),
        ("surf_vars", json!(["2t", "swh"])),
        ("max_history_size", json!(0)),
    ] {
        assert_ne!(with(&|c| c[key] = value.clone()), "", "{key} = {value}");
    }
    // A file with a flipped bit in its header is refused or opens; it never panics.
    let header = u64::from_le_bytes(written[..8].try_into().unwrap()) as usize;
    let sound = Weights::open(&path).unwrap().names().len();
    assert!(sound > 50);
    for bit in (0..(8 + header) * 8).step_by(7) {
        let mut damaged = written.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &damaged).unwrap();
        if let Ok(weights) = Weights::open(&path) {
            let _ = weights.names().iter().map(|n| weights.bytes(n)).filter(Result::is_ok).count();
        }
    }
    for end in [0, 7, 8, 9, header, written.len() - 1] {
        std::fs::write(&path, &written[..end]).unwrap();
        assert!(Weights::open(&path).is_err());
    }
}

fn miniature() -> Option<PathBuf> {
    let named = std::env::var_os("RESIDUUM_ORACLES").map(PathBuf::from);
    let root = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/oracles"));
    let path = root.join("aurora/pretrained-stacked.ckpt");
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

#[test]
fn the_miniature_of_aurora_comes_in_bit_for_bit() {
    let Some(checkpoint) = miniature() else { return };
    let folder = TempDir::new().unwrap();
    let output = folder.path().join("aurora.safetensors");
    let text = std::fs::read_to_string(checkpoint.with_file_name("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["use_lora"] = false.into();
    let options = ImportOptions { config: Some(config.clone()), ..ImportOptions::default() };
    let about = import(&checkpoint, &output, &options, false).unwrap();
    assert_eq!(about.model, "aurora");
    let imported = Weights::open(&output).unwrap();
    let original = Weights::open_as(&checkpoint.with_file_name("weights.safetensors"), "aurora", Value::Null).unwrap();
    let expected: Vec<String> = original.names().into_iter().filter(|n| !n.contains("lora")).collect();
    assert_eq!(imported.names(), expected);
    for name in expected {
        assert_eq!(imported.info(&name), original.info(&name), "{name}");
        assert_eq!(imported.bytes(&name).unwrap(), original.bytes(&name).unwrap(), "{name}");
    }
    assert!(import(&checkpoint, &output, &options, false).unwrap_err().to_string().contains("exists already"));
    let first = std::fs::read(&output).unwrap();
    import(&checkpoint, &output, &options, true).unwrap();
    assert_eq!(first, std::fs::read(&output).unwrap());
    // Heads that shapes do not tell are those of published models unless told; what can not be is refused and leaves no file.
    let wrong = folder.path().join("wrong.safetensors");
    config["embed_dim"] = 32.into();
    let options = ImportOptions { config: Some(config), ..ImportOptions::default() };
    let said = import(&checkpoint, &wrong, &options, false).unwrap_err().to_string();
    assert!(said.contains("configuration says"), "{said}");
    assert!(!wrong.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_miniature_of_aurora_survives_damage() {
    let Some(path) = miniature() else { return };
    let whole = std::fs::read(path).unwrap();
    let mut state = 1u64;
    for _ in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 33) as usize % whole.len();
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (state % 8);
        survive(&damaged);
        // The directory at the end says where everything is.
        let mut damaged = whole.clone();
        let at = whole.len() - 1 - (state >> 40) as usize % 30_000;
        damaged[at] ^= 1 << (state % 8);
        survive(&damaged);
    }
    for i in 0..60 {
        survive(&whole[..whole.len() * i / 60]);
    }
}

#[test]
fn the_command_imports_and_inspects() {
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(env!("CARGO_BIN_EXE_residuum")).arg("weights").args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    Aurora::write_random(&path, &tiny(), 3).unwrap();
    let (status, out, _) = run(&["inspect".as_ref(), path.as_ref()]);
    let parameters = Weights::open(&path).unwrap().parameters();
    assert_eq!(status, 0);
    for part in ["aurora", "random, seed 3", "sha256", &format!("{} {:03}", parameters / 1000, parameters % 1000)] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (status, out, _) = run(&["inspect".as_ref(), path.as_ref(), "--json".as_ref()]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &json["parameters"]), (0, &json!(parameters)));
    // A checkpoint of no model, and no checkpoint.
    let strange = folder.path().join("x.ckpt");
    std::fs::write(&strange, small_checkpoint()).unwrap();
    let (status, _, said) = run(&["import".as_ref(), strange.as_ref()]);
    assert_eq!(status, 3);
    assert!(said.contains("no model known") && said.contains("aurora"), "{said}");
    let (status, _, said) = run(&["inspect".as_ref(), strange.as_ref()]);
    assert_eq!(status, 3);
    assert!(said.contains("not a safetensors file"), "{said}");
    let (status, _, _) = run(&["import".as_ref(), folder.path().join("none").as_ref()]);
    assert_eq!(status, 6);
    let Some(checkpoint) = miniature() else { return };
    let config = checkpoint.with_file_name("config.json");
    let output = folder.path().join("aurora.safetensors");
    let (status, _, said) = run(&[
        "import".as_ref(),
        checkpoint.as_ref(),
        "-o".as_ref(),
        output.as_ref(),
        "--config".as_ref(),
        config.as_ref(),
    ]);
    // That configuration asks for low-rank additions, which this checkpoint lacks.
    assert_eq!(status, 3);
    assert!(said.contains("lora"), "{said}");
}
