//! VAEformer at the size of its fixture, with random weights: what it decodes is no help to anybody, but its latents are those of the original. The
//! fixture lies where those of `tests/parity` do.

use super::command::{run, works};
use super::data::{Memory, all, finish, uniform};
use super::fixture::Fixture;
use residuum::compress::{Before, Done, compress_rest};
use residuum::container::Archive;
use residuum::decompress::inspect_tile;
use residuum::device::Cpu;
use residuum::forecast::import::{ImportOptions, import};
use residuum::forecast::series::{self, Forecasts};
use residuum::forecast::{Grid, GridNeed, Options};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Variable};
use residuum::{Bound, Config, DType, Kind, PredictorChoice, Values};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

/// The fixture's image and steps that differ from it ever more, as a file; with the weights, imported, and the original's string of the image.
struct Case {
    _folder: tempfile::TempDir,
    weights: PathBuf,
    original: Vec<u8>,
    source: Memory,
    n_steps: usize,
}

fn cases(n_steps: usize) -> Vec<Case> {
    Fixture::all("cra5-vaeformer").into_iter().filter_map(|f| case(&f, n_steps)).collect()
}

fn case(fixture: &Fixture, n_steps: usize) -> Option<Case> {
    let checkpoint = fixture.file("cra5_tiny.pth");
    if !checkpoint.exists() {
        println!("skipped: no checkpoint in {}", fixture.path.display());
        return None;
    }
    let folder = tempfile::TempDir::new().unwrap();
    let weights = folder.path().join("vaeformer.safetensors");
    let options = ImportOptions { config: Some(fixture.config.clone()), ..Default::default() };
    import(&checkpoint, &weights, &options, false).unwrap();
    let forecasts = open(&weights);
    let GridNeed::Exact(grid) = &forecasts.model.needs().grid else { panic!("one grid") };
    let x: Vec<f32> = fixture.tensors("inputs.safetensors")["x"].flatten_all().unwrap().to_vec1().unwrap();
    let source = file(grid, &x, n_steps);
    let original = std::fs::read(fixture.file("latent.bin")).unwrap();
    Some(Case { _folder: folder, weights, original, source, n_steps })
}

fn open(weights: &Path) -> Forecasts {
    Forecasts::open(weights, &Options::default()).unwrap()
}

/// Fields `channel0`, `channel1`, … (time, lat, lon). In the third step a corner is missing.
fn file(grid: &Grid, x: &[f32], n_steps: usize) -> Memory {
    let (h, w) = grid.shape();
    let lens = [n_steps, h, w];
    let text = |name: &str, value: &str| Attribute { name: name.into(), value: AttributeValue::Text(value.into()) };
    let variable = |name: &str, dtype, axes: &[u32], attributes| Variable {
        path: format!("/{name}"),
        dtype,
        shape: axes.iter().map(|&k| lens[k as usize] as u64).collect(),
        dimensions: axes.to_vec(),
        attributes,
        chunks: None,
    };
    let mut variables = vec![
        variable("time", DType::F64, &[0], vec![text("units", "hours since 2020-01-01")]),
        variable("lat", DType::F64, &[1], vec![text("units", "degrees_north")]),
        variable("lon", DType::F64, &[2], vec![text("units", "degrees_east")]),
    ];
    let mut values = vec![
        Values::F64((0..n_steps).map(|k| k as f64).collect()),
        Values::F64(grid.lat.to_vec()),
        Values::F64(grid.lon.to_vec()),
    ];
    let mut noise = uniform(3);
    for (channel, plane) in x.chunks_exact(h * w).enumerate() {
        let mut field = vec![];
        for k in 0..n_steps {
            field.extend(plane.iter().map(|v| v + 0.05 * k as f32 * noise() as f32));
        }
        if n_steps > 2 {
            field[2 * h * w..][..5].fill(f32::NAN);
        }
        variables.push(variable(&format!("channel{channel}"), DType::F32, &[0, 1, 2], vec![]));
        values.push(Values::F32(field));
    }
    let dimension =
        |(k, name): (usize, &&str)| Dimension { path: format!("/{name}"), len: lens[k] as u64, unlimited: false };
    let schema = Schema {
        format: Format::NetCdf4,
        groups: vec![Group { path: "/".into(), attributes: vec![] }],
        dimensions: ["time", "lat", "lon"].iter().enumerate().map(dimension).collect(),
        variables,
    };
    Memory { schema, values }
}

impl Case {
    fn done(&mut self, config: &Config, keyframe: Option<u64>) -> BTreeMap<usize, Done> {
        series::compress(&mut self.source, config, &open(&self.weights), keyframe, &mut |_| ()).unwrap()
    }

    fn archive(&mut self, config: &Config, keyframe: Option<u64>) -> Vec<u8> {
        let done = self.done(config, keyframe);
        finish(&mut self.source, config, done)
    }

    /// Largest error in units of the bound; what is missing has to be missing.
    fn worst(&self, restored: &BTreeMap<String, Vec<f32>>, rel: f32) -> f32 {
        let mut worst = 0f32;
        for (v, values) in self.source.schema.variables.iter().zip(&self.source.values) {
            let Values::F32(values) = values else { continue };
            let there = values.iter().filter(|x| x.is_finite());
            let (min, max) = there.fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
            for (x, y) in values.iter().zip(&restored[v.name()]) {
                let e = (x - y).abs() / (rel * (max - min));
                worst = worst.max(if x.to_bits() == y.to_bits() {
                    0.0
                } else if e.is_nan() {
                    f32::INFINITY
                } else {
                    e
                });
            }
        }
        worst
    }
}

fn restored(coded: &[u8], weights: &Path) -> residuum::Result<BTreeMap<String, Vec<f32>>> {
    let mut archive = Archive::open(Cursor::new(coded))?;
    if archive.forecasts_needed().is_some() {
        archive.set_forecasts(open(weights))?;
    }
    all(&mut archive)
}

/// The decoded field as prediction of several steps: the study's pipeline. Latents are those of the original, byte for byte.
#[test]
fn latents_of_the_original_are_in_the_archive() {
    for mut case in cases(4) {
        let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Forecast).with_verify(true);
        let on = |case: &mut Case, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let coded = case.archive(&config, None);
                let values = restored(&coded, &case.weights).unwrap();
                (coded, values)
            })
        };
        let (coded, values) = on(&mut case, 1);
        let (other, same) = on(&mut case, 2);
        assert!(coded == other, "threads");
        let bits = |v: &BTreeMap<String, Vec<f32>>| v.values().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(&values) == bits(&same), "threads");
        assert!(case.worst(&values, 1e-3) <= 1.0);
        // Exact on the CPU: nothing is rounded, and no processor is named.
        let mut a = Archive::open(Cursor::new(&coded)).unwrap();
        assert!(!a.forecasts_needed().unwrap().made_on.as_ref().unwrap().contains("CPU"));
        let first = a.find("channel0").unwrap();
        let tile = a.coded_tile(first, 0).unwrap();
        let region = a.variable(first).unwrap().plan.tiling.region(0);
        let report = inspect_tile(&tile, DType::F32, &region).unwrap();
        assert_eq!(report.predictor, format!("forecasts of {} images", case.n_steps));
        // The first step is the fixture's image.
        let n = case.original.len();
        let at = tile.windows(n).position(|w| w == case.original).expect("the original's bytes");
        let ours = at - 1 + n;
        println!(
            "latent of a frame: {ours} bytes, {n} in the original's file, {} in its strings; of {} frames {} bytes",
            n - 20,
            case.n_steps,
            report.bytes.latents
        );
        assert!(ours as f64 <= 1.05 * (n - 20) as f64);
    }
}

/// Beside the fitted predictor, which sees that such fields are of no use: no archive is larger for them.
#[test]
fn archives_are_never_larger() {
    for mut case in cases(3) {
        for rel in [1e-1, 1e-3] {
            let config = Config::new(Bound::rel(rel)).with_verify(true);
            let without = finish(&mut case.source, &config, BTreeMap::new());
            for keyframe in [None, Some(1)] {
                let with = case.archive(&config, keyframe);
                assert!(
                    with.len() <= without.len(),
                    "{rel}: {} bytes with latents, {} without",
                    with.len(),
                    without.len()
                );
                assert!(case.worst(&restored(&with, &case.weights).unwrap(), rel as f32) <= 1.0);
            }
        }
    }
}

/// A step needs its own latent, no other.
#[test]
fn steps_are_restored_alone() {
    for mut case in cases(3) {
        let config = Config::new(Bound::rel(1e-2)).with_predictor(PredictorChoice::Forecast);
        let coded = case.archive(&config, Some(1));
        let whole = restored(&coded, &case.weights).unwrap();
        let mut a = Archive::open(Cursor::new(&coded)).unwrap();
        a.set_forecasts(open(&case.weights)).unwrap();
        let last = a.schema().variables.len() - 1;
        let name = a.schema().variables[last].name().to_string();
        let shape = a.schema().variables[last].shape.clone();
        let n = (shape[1] * shape[2]) as usize;
        // The latents of other steps are not looked at: they are damaged.
        let holder = a.find("channel0").unwrap();
        let tile = a.coded_tile(holder, 0).unwrap();
        let mut damaged = coded.clone();
        let at = damaged.windows(tile.len()).position(|w| w == tile).unwrap();
        damaged[at + 40] ^= 1;
        let mut b = Archive::open(Cursor::new(&damaged[..])).unwrap();
        b.set_forecasts(open(&case.weights)).unwrap();
        let Values::F32(values) = b.read(last, &[1..2, 0..shape[1], 0..shape[2]]).unwrap() else { panic!("f32") };
        assert!(values == whole[&name][n..2 * n]);
        let e = b.read(last, &[0..1, 0..shape[1], 0..shape[2]]).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt, "{e}");
    }
}

/// Bits of a latent turned, behind the checksums: an error, or what was there.
#[test]
fn damaged_latents_do_no_harm() {
    for mut case in cases(1) {
        let config = Config::new(Bound::rel(1e-2)).with_predictor(PredictorChoice::Forecast);
        let coded = case.archive(&config, None);
        let expected = restored(&coded, &case.weights).unwrap();
        let mut done = case.done(&config, None);
        let schema = case.source.schema.clone();
        let holder = schema.variables.iter().position(|v| v.name() == "channel0").unwrap();
        let tile = done.get_mut(&holder).unwrap().tiles.get(0).unwrap();
        let mut a = Archive::open(Cursor::new(&coded)).unwrap();
        let (mut refused, mut tried) = (0, 0);
        let bits = (8..24 * 8).step_by(5).chain((24 * 8..(case.original.len() + 3) * 8).step_by(211));
        for bit in bits {
            let mut bad = tile.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut writer = residuum::container::Writer::new(vec![], &schema).unwrap();
            for i in 0..schema.variables.len() {
                let plan = a.variable(i).unwrap().plan.clone();
                writer.begin(&plan).unwrap();
                let sound = a.coded_tile(i, 0).unwrap();
                writer.tile(if i == holder { &bad } else { &sound }).unwrap();
            }
            tried += 1;
            match restored(&writer.finish().unwrap(), &case.weights) {
                Ok(values) => assert!(values == expected, "bit {bit}"),
                Err(e) => {
                    assert!(matches!(e.kind(), Kind::Corrupt | Kind::Disagreement | Kind::Unsupported), "{e}");
                    refused += 1;
                }
            }
        }
        println!("{refused} of {tried} flips refused");
        assert!(refused * 10 > tried * 9);
    }
}

#[test]
fn weights_may_be_in_the_archive_and_others_are_refused() {
    for mut case in cases(1) {
        let config = Config::new(Bound::rel(1e-2)).with_predictor(PredictorChoice::Forecast);
        let done = case.done(&config, None);
        let file = std::fs::read(&case.weights).unwrap();
        let before = Before { done, weights: Some(file.clone()) };
        let coded = compress_rest(&mut case.source, vec![], &config, &mut Cpu, before, &mut |_| ()).unwrap();
        let mut a = Archive::open(Cursor::new(&coded[..])).unwrap();
        assert!(case.worst(&all(&mut a).unwrap(), 1e-2) <= 1.0);
        // A bit of a weight.
        let other = case.weights.with_file_name("other.safetensors");
        let mut bytes = file;
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&other, bytes).unwrap();
        let e = a.set_forecasts(open(&other)).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains("those given, of vaeformer"), "{e}");
    }
}

#[test]
fn the_command_knows_codecs() {
    for mut case in cases(3) {
        let folder = case.weights.parent().unwrap().to_path_buf();
        let plain = finish(&mut case.source, &Config::new(Bound::LOSSLESS), BTreeMap::new());
        std::fs::write(folder.join("x.nc.rsd"), plain).unwrap();
        works(&folder, "decompress x.nc.rsd -o x.nc");
        let line = "compress x.nc --rel 1e-2 --forecast vaeformer.safetensors -o x.rsd";
        let said = works(&folder, line);
        assert!(said.contains("not smaller with forecasts"), "{said}");
        works(&folder, &format!("{line} --predictor forecast --keyframe 1 --force"));
        let shown = works(&folder, "inspect x.rsd");
        for part in ["forecasts of vaeformer, in intervals of 1 steps", "latents: 3", "not in the archive"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let json: serde_json::Value = serde_json::from_str(&works(&folder, "inspect x.rsd --json")).unwrap();
        let latents = |v: &serde_json::Value| v["bytes"]["latents"].as_u64().unwrap();
        let of_variables: Vec<u64> = json["variables"].as_array().unwrap().iter().map(latents).collect();
        assert!(of_variables[3] > 3000 && of_variables[4..].iter().all(|&n| n == 0), "{of_variables:?}");
        works(&folder, "verify x.nc x.rsd --forecast vaeformer.safetensors");
        works(&folder, "decompress x.rsd -o y.nc --forecast vaeformer.safetensors");
        let (status, said) = run(&folder, "decompress x.rsd -o z.nc");
        assert!(status == 2 && said.contains("--forecast"), "{said}");
    }
}
