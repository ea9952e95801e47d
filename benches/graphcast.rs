//! One step of GraphCast at the size of a published model, on the CPU: time and peak memory.
//!
//! `cargo bench --bench graphcast` makes random weights of GraphCast_small (1°, 13 levels); `… -- WEIGHTS INPUTS OUTPUTS` takes weights (a file of
//! `residuum weights import`) and inputs (safetensors, `input.VARIABLE` as the parity fixtures have them), and compares with outputs
//! of the original (safetensors, `VARIABLE`), in units of each variable's standard deviation.

use residuum::Result;
use residuum::forecast::graphcast::{Config, GraphCast};
use residuum::forecast::weights::{self, About, Planned};
use residuum::forecast::{Forecaster, Frame, Grid, GridNeed, Key, Options, Weights};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let Err(e) = run(&arguments) {
        eprintln!("{e}");
        std::process::exit(1);
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let random = scratch.path().join("random.safetensors");
    let weights = match arguments.first() {
        Some(path) => Weights::open(Path::new(path))?,
        None => {
            write_random(&random)?;
            Weights::open(&random)?
        }
    };
    let start = Instant::now();
    let model = GraphCast::new(&weights, &Options::default())?;
    model.prepare()?;
    println!("opened: {:.1} s, {:.2} GB resident", start.elapsed().as_secs_f64(), peak_gb());
    let config: Config = weights.config()?;
    let levels = &config.task_config.pressure_levels;
    let history = match arguments.get(1) {
        Some(path) => given(&model, levels, Path::new(path))?,
        None => made_up(&model)?,
    };
    let mut last = None;
    for _ in 0..3 {
        let start = Instant::now();
        last = Some(model.step(&history, None, 0)?);
        println!("step: {:.2} s, {:.2} GB resident at most", start.elapsed().as_secs_f64(), peak_gb());
    }
    if let (Some(path), Some(frame)) = (arguments.get(2), last) {
        let expected = candle_core::safetensors::load(path, &candle_core::Device::Cpu)?;
        let mut worst = vec![0f32; frame.grid.lat.len() * frame.grid.lon.len()];
        for variable in &config.task_config.target_variables {
            let fields = expected[variable.as_str()].squeeze(0)?.squeeze(0)?;
            let n = if fields.rank() == 3 { levels.len() } else { 1 };
            let std = weights.f32s(&format!("std.{variable}"), &[n])?;
            for i in 0..n {
                let (key, field) = match fields.rank() {
                    3 => (Key::level(variable, levels[i]), fields.get(i)?),
                    _ => (Key::surface(variable), fields.clone()),
                };
                let theirs = field.flatten_all()?.to_vec1::<f32>()?;
                for ((worst, a), b) in worst.iter_mut().zip(frame.values(&key)?).zip(theirs) {
                    *worst = worst.max((a - b).abs() / std[i]);
                }
            }
        }
        worst.sort_by(f32::total_cmp);
        // A point between two triangles of the mesh hears from one of them: which is the original's library's affair.
        let other = worst.iter().filter(|&&w| w > 1e-3).count();
        let most = worst[worst.len() - 1 - other];
        println!(
            "difference from the original: at most {most:e} standard deviations, but for {other} of {} points, where it is at most {:e}",
            worst.len(),
            worst[worst.len() - 1]
        );
    }
    Ok(())
}

/// Most memory that was ever resident, in 10⁹ bytes.
fn peak_gb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024e-9
}

fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Weights of the published 1° model's shapes.
fn write_random(path: &Path) -> Result<()> {
    let surface = [
        "2m_temperature",
        "mean_sea_level_pressure",
        "10m_v_component_of_wind",
        "10m_u_component_of_wind",
        "total_precipitation_6hr",
        "temperature",
        "geopotential",
        "u_component_of_wind",
        "v_component_of_wind",
        "vertical_velocity",
        "specific_humidity",
    ];
    let forcings = [
        "toa_incident_solar_radiation",
        "year_progress_sin",
        "year_progress_cos",
        "day_progress_sin",
        "day_progress_cos",
    ];
    let inputs: Vec<&str> =
        surface.iter().chain(&forcings).chain(&["geopotential_at_surface", "land_sea_mask"]).copied().collect();
    let config = json!({
        "model_config": {
            "resolution": 1.0, "mesh_size": 5, "latent_size": 512, "gnn_msg_steps": 16, "hidden_layers": 1,
            "radius_query_fraction_edge_length": 0.6,
        },
        "task_config": {
            "input_variables": inputs, "target_variables": surface, "forcing_variables": forcings,
            "pressure_levels": [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000], "input_duration": "12h",
        },
    });
    let parsed: Config = serde_json::from_value(config.clone()).expect("the configuration above is complete");
    let plan = |(name, shape): (String, Vec<usize>)| {
        let (around, by) = match name.rsplit([':', '.']).next() {
            Some("w") => (0.0, 2.0 / (shape[0] as f32).sqrt()),
            Some("b" | "offset") => (0.0, 0.1),
            _ if name.starts_with("mean.") => (0.0, 0.1),
            _ => (1.0, 0.2),
        };
        let (n, mut seed) = (shape.iter().product::<usize>(), 0);
        for b in name.bytes() {
            seed = seed * 31 + u64::from(b);
        }
        let bytes = move || {
            let mut seed = seed;
            Ok((0..n).flat_map(|_| (around + by * noise(&mut seed)).to_le_bytes()).collect())
        };
        (name, Planned { dtype: safetensors::Dtype::F32, shape, bytes: Box::new(bytes) })
    };
    let tensors: Vec<(String, Planned<'_>)> =
        parsed.parameters()?.into_iter().chain(parsed.statistics()).map(plan).collect();
    let about = About { model: "graphcast".into(), config, licence: String::new(), source: "random".into() };
    weights::write(path, &about, &tensors, true, |_| Ok(()))
}

/// Frames of numbers of no pattern.
fn made_up(model: &GraphCast) -> Result<Vec<Frame>> {
    let needs = model.needs();
    let GridNeed::Exact(grid) = &needs.grid else { unreachable!("GraphCast works on one grid") };
    let mut seed = 1;
    let n = grid.lat.len() * grid.lon.len();
    let frame = |i: usize| -> Result<Frame> {
        let mut frame = Frame::new(1_520_229_600 + i as i64 * needs.step_s, grid.clone());
        for key in needs.fields.iter().chain(&needs.statics) {
            frame.insert_values(key.clone(), (0..n).map(|_| 2.0 * noise(&mut seed)).collect())?;
        }
        Ok(frame)
    };
    (0..needs.history).map(frame).collect()
}

/// Frames of a file.
fn given(model: &GraphCast, levels: &[u32], path: &Path) -> Result<Vec<Frame>> {
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu)?;
    let degrees =
        |name: &str| -> Result<Vec<f64>> { Ok(tensors[name].to_vec1::<f32>()?.into_iter().map(f64::from).collect()) };
    let grid = Grid::new(degrees("lat")?, degrees("lon")?)?;
    let shape = grid.shape();
    let times = tensors["datetime_unix_s"].flatten_all()?.to_vec1::<i64>()?;
    let mut frames = Vec::new();
    for (i, &time) in times.iter().enumerate().take(model.needs().history) {
        let mut frame = Frame::new(time, grid.clone());
        for (name, tensor) in &tensors {
            let Some(variable) = name.strip_prefix("input.") else { continue };
            let at = if tensor.rank() == 2 && tensor.dims() == [shape.0, shape.1] {
                tensor.clone()
            } else {
                tensor.get(0)?.get(i)?
            };
            if at.rank() == 3 {
                for (k, &hpa) in levels.iter().enumerate() {
                    frame.insert(Key::level(variable, hpa), at.get(k)?)?;
                }
            } else {
                frame.insert(Key::surface(variable), at.broadcast_as(shape)?.contiguous()?)?;
            }
        }
        frames.push(frame);
    }
    Ok(frames)
}
