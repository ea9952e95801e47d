//! One step of the small Aurora at full size (0.25°, 721 x 1440, 13 levels) with random weights: how long it takes and how much memory.
//!
//! `cargo run --release --example aurora_full_size [FOLDER]` keeps weights, input and output in FOLDER, where `benches/aurora_pytorch.py` finds them to run
//! the original on. That leaves the areas of patches there as PyTorch computes them on this machine, one ulp off here and there: the next run takes them.

use candle_core::{Device, Tensor};
use residuum::forecast::aurora::{Aurora, Config};
use residuum::forecast::{Forecaster, Frame, Grid, Options, Weights};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args_os().nth(1).map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let weights = folder.join("weights.safetensors");
    if !weights.exists() {
        Aurora::write_random(&weights, &Config::small(), 1)?;
    }
    let mut options = Options::default();
    let areas = folder.join("root_area.safetensors");
    if areas.exists() {
        options.auxiliary = candle_core::safetensors::load(areas, &Device::Cpu)?;
    }
    let model = Aurora::new(&Weights::open(&weights)?, &options)?;
    let lat: Vec<f64> = (0..721).map(|i| 90.0 - 0.25 * f64::from(i)).collect();
    let lon: Vec<f64> = (0..1440).map(|i| 0.25 * f64::from(i)).collect();
    let grid = Grid::new(lat, lon)?;
    let history = [frame(&model, &grid, 0)?, frame(&model, &grid, 1)?];
    save(&folder.join("inputs.safetensors"), &history)?;
    println!("before the step: {}", memory("VmRSS"));
    let start = Instant::now();
    let next = model.step(&history, None, 0)?;
    println!("one step: {:.1} s, peak {}", start.elapsed().as_secs_f64(), memory("VmHWM"));
    save(&folder.join("outputs.safetensors"), &[next])?;
    Ok(())
}

/// Smooth fields of plausible size, another for each variable and time.
fn frame(model: &Aurora, grid: &Grid, index: i64) -> Result<Frame, Box<dyn std::error::Error>> {
    let needs = model.needs();
    let mut frame = Frame::new(1_652_227_200 + index * needs.step_s, grid.clone());
    for (k, key) in needs.fields.iter().chain(&needs.statics).enumerate() {
        let (mean, spread) = match (key.name.as_str(), key.level_hpa) {
            ("z", Some(hpa)) => (7e4 * (1013.0 / f64::from(hpa)).ln(), 3e3),
            ("t" | "2t", _) => (270.0, 20.0),
            ("q", _) => (4e-3, 3e-3),
            ("msl", _) => (101_000.0, 1300.0),
            ("lsm", _) => (0.5, 0.5),
            ("slt", _) => (3.5, 3.5),
            ("z", None) => (4e3, 4e3),
            _ => (0.0, 10.0),
        };
        let (k, i) = (k as f64, index as f64);
        let value = |y: f64, x: f64| {
            let wave = (0.05 * y + k).sin() * (x.to_radians() * 5.0 + 0.3 * i + k).cos();
            (mean + spread * (0.7 * wave + 0.3 * (0.7 * y + 1.3 * x + k).sin())) as f32
        };
        let values = grid.lat.iter().flat_map(|&y| grid.lon.iter().map(move |&x| value(y, x))).collect();
        frame.insert_values(key.clone(), values)?;
    }
    Ok(frame)
}

fn save(path: &Path, frames: &[Frame]) -> Result<(), Box<dyn std::error::Error>> {
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    for (i, frame) in frames.iter().enumerate() {
        tensors.extend(frame.fields().map(|(key, field)| (format!("{i}.{key}"), field.clone())));
        tensors.insert(format!("{i}.time_unix_s"), Tensor::new(&[frame.time_unix_s], &Device::Cpu)?);
    }
    Ok(candle_core::safetensors::save(&tensors, path)?)
}

/// A line of /proc/self/status, where there is one.
fn memory(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or("not known here".to_string(), |kib| format!("{:.2} GiB", kib / (1 << 20) as f64))
}
