//! The forecaster of `weights/`: the same as the implementation that trained it, the same for any number of threads, and better than persistence.
//!
//! `tiny.safetensors` and `frames.safetensors` are made by `weights/recipe/fixture.py`.
#![cfg(feature = "forecast")]

use residuum::Values;
use residuum::error::Kind;
use residuum::forecast::unet::UNet;
use residuum::forecast::{Forecaster, Frame, Grid, Key, Options, Weights, open_forecaster, weights};
use residuum::io::{self, OpenOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The tiny model, and its grid and channels.
fn tiny() -> (UNet, Grid, Vec<Key>) {
    let model = UNet::new(&Weights::open(&root("tests/unet/tiny.safetensors")).unwrap()).unwrap();
    let lat: Vec<f64> = (0..8).map(|i| -78.75 + 22.5 * f64::from(i)).collect();
    let lon: Vec<f64> = (0..16).map(|i| 22.5 * f64::from(i)).collect();
    let keys = model.needs().fields.clone();
    (model, Grid::new(lat, lon).unwrap(), keys)
}

const TIME: i64 = 951_912_000;

/// Two frames, and arrays of the other implementation.
fn frames(grid: &Grid, keys: &[Key]) -> (Vec<Frame>, Weights) {
    let file = Weights::open_as(&root("tests/unet/frames.safetensors"), "unet", json!({})).unwrap();
    let (h, w) = grid.shape();
    let frame = |name: &str, time: i64| {
        let values = file.f32s(name, &[keys.len(), h, w]).unwrap();
        let mut frame = Frame::new(time, grid.clone());
        for (key, field) in keys.iter().zip(values.chunks_exact(h * w)) {
            frame.insert_values(key.clone(), field.to_vec()).unwrap();
        }
        frame
    };
    (vec![frame("before", TIME - 21_600), frame("now", TIME)], file)
}

/// Largest difference over the root mean square.
fn difference(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let square: f64 = theirs.iter().map(|x| f64::from(*x).powi(2)).sum();
    let largest = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    largest / (square / theirs.len() as f64).sqrt()
}

#[test]
fn parity_with_the_implementation_that_trains() {
    let (model, grid, keys) = tiny();
    let (history, theirs) = frames(&grid, &keys);
    let (next, parts) = model.step_with_parts(&history).unwrap();
    let (h, w) = grid.shape();
    let moved = theirs.f32s("moved", &[8, h, w]).unwrap();
    for (i, (ours, theirs)) in parts.moved.chunks_exact(h * w).zip(moved.chunks_exact(h * w)).enumerate() {
        assert!(difference(ours, theirs) < 1e-5, "advection of channel {i}: {}", difference(ours, theirs));
    }
    let linear = theirs.f32s("linear", &[h, w, keys.len()]).unwrap();
    assert!(difference(&parts.linear, &linear) < 1e-5, "regression: {}", difference(&parts.linear, &linear));
    assert_eq!(next.time_unix_s, TIME + 21_600);
    let expected = theirs.f32s("expected", &[keys.len(), h, w]).unwrap();
    let now = theirs.f32s("now", &[keys.len(), h, w]).unwrap();
    for ((key, expected), now) in keys.iter().zip(expected.chunks_exact(h * w)).zip(now.chunks_exact(h * w)) {
        let ours = next.values(key).unwrap();
        let change = |x: &[f32]| x.iter().zip(now).map(|(x, y)| x - y).collect::<Vec<f32>>();
        let found = difference(&change(&ours), &change(expected));
        assert!(found < 1e-4, "{key}: {found}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (model, grid, keys) = tiny();
    let (history, _) = frames(&grid, &keys);
    let bits = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let next = pool.install(|| model.step(&history, None, 0)).unwrap();
        let values = keys.iter().flat_map(|k| next.values(k).unwrap());
        values.map(f32::to_bits).collect::<Vec<u32>>()
    };
    let one = bits(1);
    assert_eq!(one, bits(2));
    assert_eq!(one, bits(5));
    assert_eq!(model.tolerance(), 0.0);
}

#[test]
fn values_that_are_no_numbers_do_no_harm() {
    let (model, grid, keys) = tiny();
    let (mut history, _) = frames(&grid, &keys);
    for bad in [f32::NAN, f32::INFINITY, f32::MIN, f32::MAX] {
        history[1].insert_values(keys[2].clone(), vec![bad; 128]).unwrap();
        let next = model.step(&history, None, 0).unwrap();
        assert_eq!(next.values(&keys[0]).unwrap().len(), 128);
    }
}

#[test]
fn frames_that_do_not_fit_are_refused_in_words() {
    let (model, grid, keys) = tiny();
    let (history, _) = frames(&grid, &keys);
    let mut late = history.clone();
    late[1].time_unix_s += 3_600;
    let e = model.step(&late, None, 0).unwrap_err();
    assert_eq!(e.kind(), Kind::Input);
    assert!(e.to_string().contains("25200 s apart"), "{e}");
    let mut bare = history[..1].to_vec();
    bare.push(Frame::new(TIME, grid));
    assert!(model.step(&bare, None, 0).unwrap_err().to_string().contains("missing"));
    let turned: Vec<Frame> = history.iter().map(|f| f.flipped(true, false).unwrap()).collect();
    let (a, b) = (model.step(&turned, None, 0).unwrap(), model.step(&history, None, 0).unwrap());
    assert_eq!(a.values(&keys[0]).unwrap(), b.values(&keys[0]).unwrap());
}

#[test]
fn configurations_that_no_model_has_are_refused() {
    let path = root("tests/unet/tiny.safetensors");
    let sound = Weights::open(&path).unwrap().about().config.clone();
    let changes: [(&str, Value); 10] = [
        ("lat", json!([1.0, 2.0, 3.0])),
        ("lat", json!([])),
        ("lon", json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])),
        ("widths", json!([0, 20])),
        ("widths", json!([1_u64 << 60, 20])),
        ("blocks", json!([1, 2, 1_000_000])),
        ("kernels", json!([4, 5])),
        ("wind", json!(["u", "w"])),
        ("step_s", json!(0)),
        ("variables", json!([])),
    ];
    for (name, value) in changes {
        let mut config = sound.clone();
        config[name] = value.clone();
        let weights = Weights::open_as(&path, "unet", config).unwrap();
        let Err(e) = UNet::new(&weights) else { panic!("{name} = {value} was taken") };
        assert_eq!(e.kind(), Kind::Input, "{name} = {value}: {e}");
    }
}

/// The manifest's entry of the weights that come with this version.
fn manifest() -> toml::Table {
    let text = std::fs::read_to_string(root("weights/manifest.toml")).unwrap();
    let all: toml::Table = text.parse().unwrap();
    all["unet_t31"].as_table().unwrap().clone()
}

#[test]
fn weights_are_those_of_the_manifest() {
    let entry = manifest();
    let path = root("weights").join(entry["file"].as_str().unwrap());
    assert_eq!(weights::digest(&path).unwrap(), entry["sha256"].as_str().unwrap());
    let opened = Weights::open(&path).unwrap();
    assert_eq!(opened.about().model, entry["model"].as_str().unwrap());
    assert_eq!(opened.about().licence, entry["licence"].as_str().unwrap());
    assert_eq!(opened.parameters() as i64, entry["parameters"].as_integer().unwrap());
    assert!(std::fs::metadata(&path).unwrap().len() <= 10 << 20);
}

/// Steps of the sample, as frames of these fields.
fn sample(keys: &[Key]) -> Vec<Frame> {
    let mut file = io::open(&root("samples/gcm_t31_6h.nc"), &OpenOptions::default()).unwrap();
    let schema = file.schema().clone();
    let mut read = |name: &str| {
        let i = schema.find(name).unwrap();
        let region: Vec<_> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
        let values = file.read(i, &region).unwrap();
        (schema.variables[i].shape.clone(), values)
    };
    let floats = |values: Values| match values {
        Values::F32(v) => v.into_iter().map(f64::from).collect(),
        Values::F64(v) => v,
        Values::I64(v) => v.into_iter().map(|x| x as f64).collect(),
        other => panic!("{:?}", other.dtype()),
    };
    let mut coordinate = |name: &str| -> Vec<f64> { floats(read(name).1) };
    let grid = Grid::new(coordinate("lat"), coordinate("lon")).unwrap();
    let (times, levels) = (coordinate("time"), coordinate("level"));
    let mut frames: Vec<Frame> = times.iter().map(|&t| Frame::new(t as i64, grid.clone())).collect();
    let points = grid.lat.len() * grid.lon.len();
    for key in keys {
        let (shape, values) = read(&key.name);
        let Values::F32(values) = values else { panic!("{key} is not f32") };
        let level = |&hpa: &u32| levels.iter().position(|x| (x * 1000.0).round() as u32 == hpa).unwrap();
        let (of_step, level) = (shape[1..].iter().product::<u64>() as usize, key.level_hpa.as_ref().map_or(0, level));
        for (frame, values) in frames.iter_mut().zip(values.chunks_exact(of_step)) {
            frame.insert_values(key.clone(), values[level * points..][..points].to_vec()).unwrap();
        }
    }
    frames
}

/// Errors of forecasts over those of persistence, root mean square over all steps and all levels of each variable.
fn errors(model: &dyn Forecaster, frames: &[Frame]) -> BTreeMap<String, f64> {
    let mut squares = BTreeMap::new();
    for three in frames.windows(3) {
        let next = model.step(&three[..2], None, 0).unwrap();
        for key in &model.needs().gives {
            let truth = three[2].values(key).unwrap();
            let square: &mut [f64; 2] = squares.entry(key.name.clone()).or_default();
            for (sum, guess) in square.iter_mut().zip([&next, &three[1]]) {
                let guess = guess.values(key).unwrap();
                *sum += guess.iter().zip(&truth).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
        }
    }
    squares.into_iter().map(|(name, [ours, still])| (name, (ours / still).sqrt())).collect()
}

#[test]
fn the_trained_model_beats_persistence_as_the_manifest_says() {
    let entry = manifest();
    let path = root("weights").join(entry["file"].as_str().unwrap());
    let model = open_forecaster(&path, &Options::default()).unwrap();
    let found = errors(&*model, &sample(&model.needs().fields));
    let skill = entry["skill"].as_table().unwrap();
    assert_eq!(found.len(), skill.len());
    for (name, said) in skill {
        let (found, said) = (found[name], said.as_float().unwrap());
        // The sample is a part of the held-out period, 12 steps of 120: some weather is easier than other.
        assert!(
            (found / said - 1.0).abs() < 0.35,
            "{name}: {found:.3} of persistence's error, the manifest says {said}"
        );
        assert!(found < 0.5, "{name}: {found:.3} of persistence's error");
    }
}
