//! VAEformer.

use crate::fixture::Fixture;
use candle_core::{Device, Tensor};
use residuum::error::Kind;
use residuum::forecast::import::{Checkpoint, ImportOptions, import};
use residuum::forecast::vaeformer::latent::{Bin, Tables, scale_table};
use residuum::forecast::vaeformer::{Image, Symbols, VaeFormer};
use residuum::forecast::{Frame, Latent, Options, Weights, open_field_codec};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Greatest difference in normalised units.
const TOLERANCE: f32 = 1e-4;

struct Oracle {
    folder: PathBuf,
    config: serde_json::Value,
    inputs: HashMap<String, Tensor>,
    outputs: HashMap<String, Tensor>,
    model: VaeFormer,
}

/// All fixtures, each with its model.
fn oracles() -> &'static [Oracle] {
    static ORACLES: OnceLock<Vec<Oracle>> = OnceLock::new();
    let load = |f: Fixture| {
        let weights = Weights::open_as(&f.file("weights.safetensors"), "vaeformer", f.config.clone()).unwrap();
        let model = VaeFormer::new(&weights, &Options::default()).unwrap();
        let (inputs, outputs) = (f.tensors("inputs.safetensors"), f.tensors("outputs.safetensors"));
        Oracle { folder: f.path, config: f.config, inputs, outputs, model }
    };
    ORACLES.get_or_init(|| Fixture::all("cra5-vaeformer").into_iter().map(load).collect())
}

impl Oracle {
    fn floats(&self, name: &str) -> Vec<f32> {
        self.outputs[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        self.outputs[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.outputs[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn x(&self) -> Image {
        let x = &self.inputs["x"];
        let shape = x.dims();
        assert_eq!(shape[0], 1, "one image");
        Image { shape: [shape[1], shape[2], shape[3]], data: x.flatten_all().unwrap().to_vec1().unwrap() }
    }

    fn symbols(&self) -> Symbols {
        Symbols { z: self.integers("z_symbols"), y: self.integers("y_symbols") }
    }

    fn weights(&self) -> Weights {
        Weights::open_as(&self.folder.join("weights.safetensors"), "vaeformer", self.config.clone()).unwrap()
    }
}

fn close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let differences = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let worst = differences.fold(0f32, |m, d| if d > m || d.is_nan() { d } else { m });
    println!("{what}: differs by at most {worst:e}");
    assert!(worst <= TOLERANCE, "{what} differs by {worst:e}");
}

#[test]
fn the_encoder_gives_the_same_symbols() {
    for o in oracles() {
        let (y, z) = o.model.analyse(&o.x()).unwrap();
        close("y", &y.data, &o.floats("y"));
        close("z", &z.data, &o.floats("z"));
        assert_eq!(o.model.quantise(&y, &z).unwrap(), o.symbols());
    }
}

#[test]
fn the_hyper_prior_gives_the_same_tables() {
    for o in oracles() {
        let hyper = o.model.hyper(&o.integers("z_symbols")).unwrap();
        // Scales have no normalised unit: rows of the fixtures' last layer are up to 256 times the others. In units of their root mean square, then.
        let theirs = o.floats("scales");
        let unit = (theirs.iter().map(|x| x * x).sum::<f32>() / theirs.len() as f32).sqrt().max(1.0);
        let in_units = |v: &[f32]| v.iter().map(|x| x / unit).collect::<Vec<_>>();
        close("scales", &in_units(&hyper.scales), &in_units(&theirs));
        close("means", &hyper.means, &o.floats("means"));
        assert_eq!(hyper.indexes.iter().map(|i| i32::from(*i)).collect::<Vec<_>>(), o.integers("indexes"));
    }
}

#[test]
fn the_decoder_gives_the_same_field() {
    for o in oracles() {
        let y = o.model.dequantise(&o.symbols()).unwrap();
        close("y_hat", &y.data, &o.floats("y_hat"));
        close("x_hat", &o.model.synthesise(&y).unwrap().data, &o.floats("x_hat"));
    }
}

#[test]
fn bin_files_are_the_same_bytes() {
    for o in oracles() {
        let (y, z) = o.model.analyse(&o.x()).unwrap();
        let bin = o.model.compress(&o.model.quantise(&y, &z).unwrap()).unwrap();
        assert_eq!(bin.y, o.bytes("y_string"));
        assert_eq!(bin.z, o.bytes("z_string"));
        let file = std::fs::read(o.folder.join("latent.bin")).unwrap();
        assert_eq!(bin.write().unwrap(), file);
        assert_eq!(o.model.decompress(&Bin::read(&file).unwrap()).unwrap(), o.symbols());
    }
}

#[test]
fn damaged_bin_files_are_refused_or_decode_to_something() {
    for o in oracles() {
        let file = std::fs::read(o.folder.join("latent.bin")).unwrap();
        let read = |bytes: &[u8]| Bin::read(bytes).and_then(|bin| o.model.decompress(&bin));
        // Every header bit, and a sample of the rest: each takes the hyper-prior once.
        let bits: Vec<usize> = (0..160).chain((160..file.len() * 8).step_by(61)).collect();
        let mut refused = 0;
        for bit in &bits {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match read(&bad) {
                Err(e) => {
                    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
                    refused += 1;
                }
                Ok(symbols) => assert_ne!(symbols, o.symbols(), "bit {bit}"),
            }
        }
        println!("{refused} of {} flips refused", bits.len());
        assert!(refused * 10 > bits.len() * 9);
        for n in (0..file.len()).step_by(13) {
            assert_eq!(read(&file[..n]).unwrap_err().kind(), Kind::Corrupt);
        }
    }
}

/// The tables that a checkpoint without them gets: the original's, but for single frequencies that hang on the last bit of erfc.
#[test]
fn tables_can_be_computed() {
    for o in oracles() {
        let (factorised, gaussian) = o.model.tables();
        let ours = Tables::gaussian(&scale_table()).parts();
        let theirs = gaussian.parts();
        assert_eq!((&ours.1, &ours.2), (&theirs.1, &theirs.2), "lengths and offsets");
        let differ = ours.0.iter().zip(&theirs.0).filter(|(a, b)| a != b).count();
        let worst = ours.0.iter().zip(&theirs.0).map(|(a, b)| (a - b).abs()).max().unwrap();
        println!("Gaussian tables: {differ} of {} entries differ, by at most {worst}", ours.0.len());
        assert!(worst <= 8 && differ * 20 < ours.0.len());

        // Through weights without tables, as saved before `update()`.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.safetensors");
        let full = candle_core::safetensors::load(o.folder.join("weights.safetensors"), &Device::Cpu).unwrap();
        let dropped = ["_quantized_cdf", "_cdf_length", "_offset", "scale_table"];
        let kept: HashMap<_, _> = full.into_iter().filter(|(k, _)| !dropped.iter().any(|d| k.ends_with(d))).collect();
        candle_core::safetensors::save(&kept, &path).unwrap();
        let weights = Weights::open_as(&path, "vaeformer", o.config.clone()).unwrap();
        let bare = VaeFormer::new(&weights, &Options::default()).unwrap();
        assert_eq!(bare.tables().1, &Tables::gaussian(&scale_table()));
        let (ours, theirs) = (bare.tables().0.parts(), factorised.parts());
        assert_eq!((&ours.1, &ours.2), (&theirs.1, &theirs.2));
        let worst = ours.0.iter().zip(&theirs.0).map(|(a, b)| (a - b).abs()).max().unwrap();
        println!("factorised tables: entries differ by at most {worst}");
        assert!(worst <= 1);
        let symbols = o.symbols();
        let bin = bare.compress(&symbols).unwrap();
        assert_eq!(bare.decompress(&bin).unwrap(), symbols);
    }
}

/// candle's layers, which run on GPUs, on the CPU.
#[test]
fn the_engine_of_devices_agrees() {
    for o in oracles() {
        let model = VaeFormer::on_device(&o.weights(), &Options::default()).unwrap();
        let (y, z) = model.analyse(&o.x()).unwrap();
        close("y", &y.data, &o.floats("y"));
        close("z", &z.data, &o.floats("z"));
        assert_eq!(model.quantise(&y, &z).unwrap(), o.symbols());
        close("x_hat", &model.synthesise(&model.dequantise(&o.symbols()).unwrap()).unwrap().data, &o.floats("x_hat"));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for o in oracles() {
        let run = || {
            let (y, z) = o.model.analyse(&o.x()).unwrap();
            let hyper = o.model.hyper(&o.integers("z_symbols")).unwrap();
            (y.data, z.data, hyper, o.model.synthesise(&o.model.dequantise(&o.symbols()).unwrap()).unwrap().data)
        };
        let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(run);
        let one = on(1);
        for n in [2, 3, 7] {
            assert!(one == on(n), "{n} threads");
        }
    }
}

fn imported(o: &Oracle, folder: &Path) -> Option<PathBuf> {
    let checkpoint = o.folder.join("cra5_tiny.pth");
    if !checkpoint.exists() {
        println!("skipped: no checkpoint in {}", o.folder.display());
        return None;
    }
    let path = folder.join("vaeformer.safetensors");
    let options = ImportOptions { config: Some(o.config.clone()), ..Default::default() };
    import(&checkpoint, &path, &options, false).unwrap();
    Some(path)
}

#[test]
fn an_imported_checkpoint_has_the_same_bits() {
    for o in oracles() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = imported(o, folder.path()) else { continue };
        let (ours, theirs) = (Weights::open(&path).unwrap(), o.weights());
        assert_eq!(ours.names(), theirs.names());
        for name in ours.names() {
            assert_eq!(ours.info(&name), theirs.info(&name), "{name}");
            assert_eq!(ours.bytes(&name).unwrap(), theirs.bytes(&name).unwrap(), "{name}");
        }
        assert_eq!(ours.about().model, "vaeformer");
    }
}

#[test]
fn a_mislabelled_checkpoint_is_refused() {
    for o in oracles() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = o.folder.join("cra5_tiny.pth");
        if !checkpoint.exists() {
            println!("skipped: no checkpoint in {}", o.folder.display());
            continue;
        }
        let path = folder.path().join("out.safetensors");
        let import_as = |config: Option<serde_json::Value>| {
            let e = import(&checkpoint, &path, &ImportOptions { config, ..Default::default() }, false).unwrap_err();
            assert!(!path.exists());
            println!("{e}");
            e.kind()
        };
        assert_eq!(import_as(None), Kind::Input);
        let edits = [
            ("embed_dim", serde_json::json!(48)),
            ("depth", serde_json::json!(6)),
            ("depth", serde_json::json!(1u64 << 40)),
            ("num_heads", serde_json::json!(5)),
            ("num_heads", serde_json::json!(0)),
            ("img_size", serde_json::json!([1usize << 60, 1usize << 60])),
            ("window_size", serde_json::json!([[1 << 23, 1 << 23]])),
            ("patch_stride", serde_json::json!([0, 10])),
            ("prior", serde_json::json!(7)),
        ];
        for (field, value) in edits {
            let mut config = o.config.clone();
            config[field] = value;
            assert_eq!(import_as(Some(config)), Kind::Input, "{field}");
        }
        // Cut files, and files with a bit turned, end in an error or in weights; never in a panic.
        let bytes = std::fs::read(&checkpoint).unwrap();
        for i in 0..40 {
            let damaged = folder.path().join("damaged.pth");
            let mut bad = bytes.clone();
            match i % 2 {
                0 => bad.truncate(bytes.len() * i / 40),
                _ => bad[bytes.len() * i / 40] ^= 0x10,
            }
            std::fs::write(&damaged, bad).unwrap();
            if let Ok(c) = Checkpoint::open(&damaged) {
                let _ = c.tensors().keys().map(|k| c.bytes(k)).filter(|b| b.is_err()).count();
            }
            let options = ImportOptions { config: Some(o.config.clone()), ..Default::default() };
            let _ = import(&damaged, &path, &options, true);
        }
    }
}

#[test]
fn frames_become_integers_and_frames_again() {
    for o in oracles() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = imported(o, folder.path()) else { continue };
        let codec = open_field_codec(&path, &Options::default()).unwrap();
        let needs = codec.needs();
        let residuum::forecast::GridNeed::Exact(grid) = &needs.grid else { panic!("one grid") };
        let mut frame = Frame::new(1_700_000_000, grid.clone());
        let (h, w) = grid.shape();
        for (key, plane) in needs.fields.iter().zip(o.x().data.chunks_exact(h * w)) {
            frame.insert_values(key.clone(), plane.to_vec()).unwrap();
        }
        let latent = codec.encode(&frame).unwrap();
        assert_eq!(latent.parts[0].values, o.integers("z_symbols"));
        assert_eq!(latent.parts[1].values, o.integers("y_symbols"));
        let bytes = codec.to_bytes(&latent).unwrap();
        assert_eq!(bytes, std::fs::read(o.folder.join("latent.bin")).unwrap());
        assert_eq!(codec.from_bytes(&bytes, frame.time_unix_s).unwrap(), latent);
        let back = codec.decode(&latent).unwrap();
        for (key, plane) in needs.gives.iter().zip(o.floats("x_hat").chunks_exact(h * w)) {
            close(&key.to_string(), &back.values(key).unwrap(), plane);
        }
        for latent in [
            Latent { parts: latent.parts[..1].to_vec(), ..latent.clone() },
            Latent { parts: latent.parts.iter().rev().cloned().collect(), ..latent.clone() },
            {
                let mut bad = latent.clone();
                bad.parts[1].values.pop();
                bad
            },
        ] {
            assert_eq!(codec.decode(&latent).unwrap_err().kind(), Kind::Corrupt);
            assert_eq!(codec.to_bytes(&latent).unwrap_err().kind(), Kind::Corrupt);
        }
        // Missing values in the frame can not be coded.
        let first = needs.fields[0].clone();
        frame.insert_values(first, vec![f32::NAN; h * w]).unwrap();
        assert_eq!(codec.encode(&frame).unwrap_err().kind(), Kind::Input);
    }
}
