//! Aurora.

use super::fixture::{Fixture, oracles, values, worst};
use candle_core::{DType, Device, Tensor};
use residuum::forecast::aurora::{Aurora, root_area};
use residuum::forecast::{Forecaster, Frame, Grid, Key, Options, Probe, Rollout, Weights, measure};
use std::collections::HashMap;
use std::process::Command;

/// Largest difference in normalised units at the first step, and at later ones.
const FIRST_STEP: f32 = 1e-4;
const LATER_STEPS: f32 = 1e-3;

/// A fixture with its tensors.
struct Case {
    fixture: Fixture,
    inputs: HashMap<String, Tensor>,
    scales: HashMap<String, f64>,
}

impl Case {
    fn all() -> Vec<Case> {
        Fixture::all("aurora").into_iter().map(Case::new).collect()
    }

    fn new(fixture: Fixture) -> Case {
        let inputs = fixture.tensors("inputs.safetensors");
        // Published constants, or those that the fixture brings.
        let text = std::fs::read_to_string(fixture.file("aurora_normalisation.json")).unwrap_or_else(|_| {
            std::fs::read_to_string(oracles().unwrap().join("aurora/aurora_normalisation.json")).unwrap()
        });
        let both: Vec<HashMap<String, f64>> = serde_json::from_str(&text).unwrap();
        Case { fixture, inputs, scales: both[1].clone() }
    }

    fn strings(&self, name: &str) -> Vec<String> {
        self.fixture.config[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
    }

    fn levels(&self) -> Vec<u32> {
        self.fixture.config["atmos_levels"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    fn batch(&self) -> usize {
        self.fixture.config["batch"].as_u64().unwrap() as usize
    }

    fn step_s(&self) -> i64 {
        self.fixture.config["timestep_hours"].as_i64().unwrap() * 3600
    }

    fn options(&self) -> Options {
        let areas = ("aux.root_area".to_string(), self.inputs["aux.root_area"].clone());
        Options { auxiliary: HashMap::from([areas]), ..Options::default() }
    }

    fn model(&self, use_lora: bool) -> Aurora {
        let mut config = self.fixture.config.clone();
        config["use_lora"] = use_lora.into();
        let weights = Weights::open_as(&self.fixture.file("weights.safetensors"), "aurora", config).unwrap();
        Aurora::new(&weights, &self.options()).unwrap()
    }

    fn grid(&self) -> Grid {
        let degrees = |name: &str| values(&self.inputs[name]).into_iter().map(f64::from).collect::<Vec<_>>();
        Grid::new(degrees("lat"), degrees("lon")).unwrap()
    }

    /// The history of one item of the batch.
    fn history(&self, b: usize) -> Vec<Frame> {
        let times = self.inputs["time_unix_s"].to_vec1::<i64>().unwrap();
        let t_len = self.inputs[&format!("surf.{}", self.strings("surf_vars")[0])].dim(1).unwrap();
        let item = |name: &str| self.inputs[name].get(b).unwrap();
        (0..t_len)
            .map(|t| {
                let time = times[b] - self.step_s() * (t_len - 1 - t) as i64;
                let mut frame = Frame::new(time, self.grid());
                for name in self.strings("surf_vars") {
                    frame.insert(Key::surface(&name), item(&format!("surf.{name}")).get(t).unwrap()).unwrap();
                }
                for name in self.strings("static_vars") {
                    frame.insert(Key::surface(&name), self.inputs[&format!("static.{name}")].clone()).unwrap();
                }
                for name in self.strings("atmos_vars") {
                    let all = item(&format!("atmos.{name}")).get(t).unwrap();
                    for (i, &level) in self.levels().iter().enumerate() {
                        frame.insert(Key::level(&name, level), all.get(i).unwrap()).unwrap();
                    }
                }
                frame
            })
            .collect()
    }

    /// Largest difference of a frame from outputs under `prefix`, over the scale of each variable.
    fn difference(&self, frame: &Frame, outputs: &HashMap<String, Tensor>, prefix: &str, b: usize) -> f32 {
        let mut most = 0f32;
        let mut compare = |key: Key, expected: Tensor, scale: f64| {
            let off = worst(&frame.values(&key).unwrap(), &values(&expected)) / scale as f32;
            most = most.max(off);
        };
        for name in self.strings("surf_vars") {
            // Outputs have a time axis of one.
            let expected = outputs[&format!("{prefix}surf.{name}")].get(b).unwrap();
            compare(Key::surface(&name), expected, self.scales[&name]);
        }
        for name in self.strings("atmos_vars") {
            let expected = outputs[&format!("{prefix}atmos.{name}")].get(b).unwrap();
            let axis = expected.rank() - 3;
            for (i, &level) in self.levels().iter().enumerate() {
                let expected = expected.narrow(axis, i, 1).unwrap();
                compare(Key::level(&name, level), expected, self.scales[&format!("{name}_{level}")]);
            }
        }
        most
    }
}

#[test]
fn roll_outs_equal_the_original_s() {
    for case in Case::all() {
        let outputs = case.fixture.tensors("outputs.safetensors");
        for (tag, use_lora) in [("lora", true), ("nolora", false)] {
            if !outputs.keys().any(|k| k.starts_with(&format!("{tag}."))) {
                continue;
            }
            let model = case.model(use_lora);
            for b in 0..case.batch() {
                let mut rollout = Rollout::new(&model, &case.history(b)).unwrap();
                for step in 1.. {
                    let prefix = format!("{tag}.step{step}.");
                    if !outputs.keys().any(|k| k.starts_with(&prefix)) {
                        assert!(step > 1);
                        break;
                    }
                    let frame = rollout.step(None).unwrap();
                    let off = case.difference(&frame, &outputs, &prefix, b);
                    println!("{} {prefix} item {b}: off by {off:.2e} (normalised)", case.fixture.path.display());
                    assert!(off < if step == 1 { FIRST_STEP } else { LATER_STEPS }, "{prefix} off by {off}");
                    let last = case.history(b).last().unwrap().time_unix_s;
                    assert_eq!(frame.time_unix_s, last + case.step_s() * step);
                }
            }
        }
    }
}

#[test]
fn values_inside_equal_the_original_s() {
    for case in Case::all() {
        let expected = case.fixture.tensors("intermediates.safetensors");
        let use_lora = case.fixture.config["use_lora"].as_bool().unwrap();
        let model = case.model(use_lora);
        let levels = case.levels();
        for b in 0..case.batch() {
            let probe = Probe::keeping();
            model.step_with(&case.history(b), 0, &probe).unwrap();
            let found = probe.take().unwrap();
            let mut names: Vec<&String> = expected.keys().collect();
            names.sort();
            for name in names {
                let theirs = &expected[name];
                // Codes of places are the same for the whole batch; all else has the batch first.
                let shared = ["pos_encode", "scale_encode", "levels_encode"].iter().any(|s| name.ends_with(s));
                let theirs = if shared {
                    theirs.clone()
                } else {
                    let n = theirs.dim(0).unwrap() / case.batch();
                    theirs.narrow(0, b * n, n).unwrap()
                };
                let ours = match name.strip_prefix("dec.norm.") {
                    None if name == "enc.atmos_tokens" => found[name].transpose(0, 1).unwrap().contiguous().unwrap(),
                    None => found[name].clone(),
                    Some(field) => {
                        let (group, variable) = field.split_once('.').unwrap();
                        let planes: Vec<Tensor> = if group == "surf" {
                            vec![found[&format!("dec.norm.{}", Key::surface(variable))].clone()]
                        } else {
                            let key = |&l: &u32| found[&format!("dec.norm.{}", Key::level(variable, l))].clone();
                            levels.iter().map(key).collect()
                        };
                        Tensor::stack(&planes, 0).unwrap()
                    }
                };
                let (ours, theirs) = (values(&ours), values(&theirs));
                let largest = theirs.iter().fold(1f32, |m, x| m.max(x.abs()));
                let off = worst(&ours, &theirs) / largest;
                println!("{name:28} off by {off:.2e} of {largest:.2}");
                assert!(off < FIRST_STEP, "{name} off by {off} of {largest}");
            }
        }
    }
}

#[test]
fn areas_of_patches_equal_the_original_s() {
    // 1e-6 but for what one ulp of a sine (6e-8) makes of a difference of sines, which near the poles is more.
    let near = |ours: &[f32], theirs: &[f32], grid: &Grid, patch: usize| {
        assert_eq!(ours.len(), theirs.len());
        let columns = grid.lon.len() / patch;
        let mut most = 0f64;
        for (i, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
            let rows = &grid.lat[i / columns * patch..][..patch];
            let sines = (rows[0].to_radians().sin() - rows[patch - 1].to_radians().sin()).abs();
            let off = (f64::from(a) / f64::from(b) - 1.0).abs();
            assert!(off < f64::max(1e-6, 6e-8 / sines), "patch {i} off by {off}");
            most = most.max(off);
        }
        let equal = ours.iter().zip(theirs).filter(|(a, b)| a == b).count();
        println!("areas off by {most:.1e}, {equal} of {} equal", ours.len());
    };
    for case in Case::all() {
        let patch = case.fixture.config["patch_size"].as_u64().unwrap() as usize;
        near(&root_area(&case.grid(), patch).unwrap(), &values(&case.inputs["aux.root_area"]), &case.grid(), patch);
    }
    let Some(tables) = oracles().map(|o| o.join("aurora/aurora_root_area.safetensors")).filter(|p| p.exists()) else {
        return;
    };
    // Those of the official grids come from a table of ours, because there the last bit matters.
    let tables = candle_core::safetensors::load(tables, &Device::Cpu).unwrap();
    for (name, rows, columns, patch) in [("0.25deg_p4", 721, 1440, 4), ("0.1deg_p10", 1801, 3600, 10)] {
        let lat: Vec<f64> = (0..rows).map(|i| 90.0 - 180.0 * i as f64 / (rows - 1) as f64).collect();
        let lon: Vec<f64> = (0..columns).map(|i| 360.0 * i as f64 / columns as f64).collect();
        let ours = root_area(&Grid::new(lat, lon).unwrap(), patch).unwrap();
        assert_eq!(ours, values(&tables[name]), "{name}");
    }
}

/// Devices and other types go by candle's own functions; f64 on the CPU takes that way too.
#[test]
fn candle_s_own_functions_give_the_same() {
    for case in Case::all() {
        let outputs = case.fixture.tensors("outputs.safetensors");
        let use_lora = case.fixture.config["use_lora"].as_bool().unwrap();
        let mut config = case.fixture.config.clone();
        config["use_lora"] = use_lora.into();
        let weights = Weights::open_as(&case.fixture.file("weights.safetensors"), "aurora", config).unwrap();
        let options = Options { dtype: DType::F64, ..case.options() };
        let frame = Aurora::new(&weights, &options).unwrap().step(&case.history(0), None, 0).unwrap();
        let tag = if use_lora { "lora.step1." } else { "nolora.step1." };
        let off = case.difference(&frame, &outputs, tag, 0);
        println!("in f64 off by {off:.2e}");
        assert!(off < FIRST_STEP, "off by {off}");
        // What the tolerance has to cover: it differs by more than another device in f32 would.
        let model = case.model(use_lora);
        let apart = measure::apart(&model.step(&case.history(0), None, 0).unwrap(), &frame).unwrap();
        println!("{:.1e} of the spread of {}", apart[0].1, apart[0].0);
        assert!(apart[0].1 > 0.0 && 4.0 * apart[0].1 <= model.tolerance(), "{:?}", apart[0]);
    }
}

#[test]
fn what_is_missing_or_elsewhere_is_said() {
    for case in Case::all() {
        let model = case.model(false);
        let history = case.history(0);
        let step = |h: &[Frame]| model.step(h, None, 0).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(step(&history[..1]).contains("looks back on"), "{}", step(&history[..1]));
        // A field less.
        let mut last = Frame::new(history[1].time_unix_s, history[1].grid.clone());
        let level = case.levels()[0];
        let left_out = Key::level("t", level);
        for (key, field) in history[1].fields().filter(|(k, _)| **k != left_out) {
            last.insert(key.clone(), field.clone()).unwrap();
        }
        let said = step(&[history[0].clone(), last]);
        assert!(said.contains(&left_out.to_string()) && said.contains("found: ") && said.contains("msl"), "{said}");
        // A column less.
        let (h, w) = history[0].grid.shape();
        let narrow = |frame: &Frame| {
            let grid = Grid::new(frame.grid.lat.to_vec(), frame.grid.lon[..w - 1].to_vec()).unwrap();
            let mut out = Frame::new(frame.time_unix_s, grid);
            for (key, field) in frame.fields() {
                out.insert(key.clone(), field.narrow(1, 0, w - 1).unwrap()).unwrap();
            }
            out
        };
        let said = step(&history.iter().map(narrow).collect::<Vec<_>>());
        assert!(said.contains(&format!("{h} x {}", w - 1)) && said.contains("multiples of"), "{said}");
        // Wrong times.
        let mut late = history[1].clone();
        late.time_unix_s += 3600;
        let said = step(&[history[0].clone(), late]);
        assert!(said.contains("apart"), "{said}");
        // South to north is turned round.
        let turned: Vec<Frame> = history.iter().map(|f| f.flipped(true, false).unwrap()).collect();
        let (a, b) = (model.step(&history, None, 0).unwrap(), model.step(&turned, None, 0).unwrap());
        assert_eq!(a.values(&left_out).unwrap(), b.values(&left_out).unwrap());
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    // Threads of candle's matrix products are counted once a process, from the environment.
    let run = |threads: &str| {
        let mut this = Command::new(std::env::current_exe().unwrap());
        this.args(["--ignored", "--exact", "aurora::prints_bits", "--nocapture"]).env("RAYON_NUM_THREADS", threads);
        let output = this.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|l| l.contains(" bits ")).map(str::to_string).collect::<Vec<_>>()
    };
    let one = run("1");
    assert_eq!(one.is_empty(), Case::all().is_empty());
    for threads in ["2", "3", "8"] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}

#[test]
#[ignore = "run by the test of threads"]
fn prints_bits() {
    for case in Case::all() {
        let frame = case.model(false).step(&case.history(0), None, 0).unwrap();
        for (key, _) in frame.fields() {
            let bits = frame
                .values(key)
                .unwrap()
                .iter()
                .fold(0u64, |h, x| (h ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3).rotate_left(17));
            println!("{key} bits {bits:016x}");
        }
    }
}
