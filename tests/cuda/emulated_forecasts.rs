//! Tiles beside forecasts: archives and values from the device are those of the CPU. The models run on the host.

// It has more than is used here.
#[allow(dead_code)]
#[path = "../series/data.rs"]
mod data;

use super::counters;
use data::{Memory, Seer, Series, finish, uniform};
use residuum::container::Archive;
use residuum::device::cudarc::driver::safe::profiler_start;
use residuum::device::{Choice, Gpu};
use residuum::forecast::series::{self, Forecasts, Machine};
use residuum::forecast::{Forecaster, Frame, Grid, GridNeed, Key, Model, Needs};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Variable};
use residuum::{Bound, Config, DType, Effort, Kind, Result, Values};
use std::collections::BTreeMap;
use std::io::Cursor;

fn machine() -> Machine {
    Machine::of_gpu(Gpu::open(0).unwrap()).unwrap()
}

/// The archive of a file beside forecasts.
fn archive(source: &mut Memory, config: &Config, forecasts: &Forecasts, keyframe: Option<u64>) -> Vec<u8> {
    let done = series::compress(source, config, forecasts, keyframe, &mut |_| ()).unwrap();
    assert!(done.values().any(|d| d.plan.forecast.is_some()), "no forecast is of use");
    finish(source, config, done)
}

/// All variables.
fn restored(archive: &[u8], forecasts: Forecasts) -> Result<Vec<Values>> {
    let mut archive = Archive::open(Cursor::new(archive))?;
    archive.set_forecasts(forecasts)?;
    (0..archive.schema().variables.len()).map(|i| archive.read_all(i)).collect()
}

/// Archive and values are the same on the device and on the CPU.
fn same(
    source: &dyn Fn() -> Memory,
    config: &Config,
    model: &dyn Fn() -> Forecasts,
    keyframe: Option<u64>,
    what: &str,
) {
    let expected = archive(&mut source(), config, &model(), keyframe);
    let on_device = model().on(machine());
    let got = archive(&mut source(), config, &on_device, keyframe);
    assert!(on_device.machine.notes().is_empty(), "{what}: {:?}", on_device.machine.notes());
    let at = expected.iter().zip(&got).position(|(a, b)| a != b);
    assert!(at.is_none() && expected.len() == got.len(), "{what}: {} bytes of {}: {at:?}", got.len(), expected.len());
    let wanted = restored(&expected, model()).unwrap();
    let values = restored(&expected, model().on(machine())).unwrap();
    assert!(wanted.iter().zip(&values).all(|(a, b)| a.as_bytes() == b.as_bytes()), "{what}: values differ");
}

/// A small grid, done by one block each launch: one and two levels, forecasts that differ between machines.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn small() {
    for (levels, rel, effort) in
        [(1, 1e-2, Effort::Balanced), (2, 1e-3, Effort::Fast), (2, 1e-2, Effort::Best), (1, 1e-4, Effort::Best)]
    {
        let series = Series::new(9, levels);
        let config = Config::new(Bound::rel(rel)).with_effort(effort);
        let what = format!("{levels} levels, {rel}, {effort:?}");
        same(&|| series.source(), &config, &|| Seer::default().forecasts(), None, &what);
        same(&|| series.source(), &config, &|| Seer::default().forecasts(), Some(4), &what);
        // Forecasts that differ by less than was allowed for are the same once they are rounded; by more, they are noticed, and where.
        let archive = archive(&mut series.source(), &config, &Seer::default().forecasts().on(machine()), Some(4));
        let seer = |noise: f64| Seer { noise, seed: 3, ..Seer::default() };
        let wanted = restored(&archive, Seer::default().forecasts()).unwrap();
        let values = restored(&archive, seer(0.9).forecasts().on(machine())).unwrap();
        assert!(wanted.iter().zip(&values).all(|(a, b)| a.as_bytes() == b.as_bytes()), "{what}");
        let messages = [seer(10.0).forecasts(), seer(10.0).forecasts().on(machine())]
            .map(|forecasts| restored(&archive, forecasts).unwrap_err());
        assert!(messages.iter().all(|e| e.kind() == Kind::Device), "{messages:?}");
        assert_eq!(messages[0].to_string(), messages[1].to_string());
    }
}

/// What is salvaged where a forecast goes wrong, and of damaged tiles, is what the CPU salvages.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn salvage() {
    let series = Series::new(12, 2);
    let config = Config::new(Bound::rel(1e-2));
    let archive = archive(&mut series.source(), &config, &Seer::default().forecasts().on(machine()), Some(6));
    let recovered = |bytes: &[u8], forecasts: Forecasts| -> Result<Vec<Values>> {
        let mut archive = Archive::recover(Cursor::new(bytes))?;
        archive.set_forecasts(forecasts)?;
        (0..archive.schema().variables.len()).map(|i| archive.read_all(i)).collect()
    };
    let wrong = || Seer { noise: 20.0, seed: 1, wrong_step: Some(8), ..Seer::default() }.forecasts();
    let both = [recovered(&archive, wrong()).unwrap(), recovered(&archive, wrong().on(machine())).unwrap()];
    assert!(both[0].iter().zip(&both[1]).all(|(a, b)| a.as_bytes() == b.as_bytes()));
    let mut n_errors = 0;
    for at in (archive.len() / 3..archive.len()).step_by(archive.len() / 60) {
        let mut damaged = archive.clone();
        damaged[at] ^= 0x55;
        let cpu = recovered(&damaged, Seer::default().forecasts());
        let gpu = recovered(&damaged, Seer::default().forecasts().on(machine()));
        match (cpu, gpu) {
            (Ok(a), Ok(b)) => assert!(a.iter().zip(&b).all(|(a, b)| a.as_bytes() == b.as_bytes()), "byte {at}"),
            (Err(a), Err(b)) => assert_eq!(a.kind(), b.kind(), "byte {at}: {a}; {b}"),
            (a, b) => panic!("byte {at}: {:?}, {:?}", a.err(), b.err()),
        }
        n_errors += 1;
    }
    assert!(n_errors >= 30);
}

/// Knows about what comes: the truth with noise, and that errors fade.
struct Oracle {
    needs: Needs,
    tolerance: f64,
    /// By step.
    truth: BTreeMap<Key, Vec<Vec<f32>>>,
}

impl Forecaster for Oracle {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn step(&self, history: &[Frame], _: Option<&Frame>, _: usize) -> Result<Frame> {
        let [.., last] = history else { unreachable!("the history is checked") };
        let mut out = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        let now = ((last.time_unix_s - 1_577_836_800) / self.needs.step_s) as usize;
        let mut noise = uniform(now as u64);
        for (key, truth) in &self.truth {
            let x = last.values(key)?;
            let faded = x.iter().zip(&truth[now]).zip(&truth[now + 1]);
            let next = faded.map(|((x, now), next)| next + 0.3 * (x - now).clamp(-1.0, 1.0) + 0.1 * noise() as f32);
            out.insert_values(key.clone(), next.collect())?;
        }
        Ok(out)
    }

    fn tolerance(&self) -> f64 {
        self.tolerance
    }
}

const STEPS: usize = 6;

fn world_grid(shape: [usize; 2]) -> Grid {
    let lat: Vec<f64> = (0..shape[0]).map(|i| 85.0 - 170.0 * i as f64 / (shape[0] - 1) as f64).collect();
    let lon: Vec<f64> = (0..shape[1]).map(|j| 360.0 * j as f64 / shape[1] as f64).collect();
    Grid::new(lat, lon).unwrap()
}

fn oracle(shape: [usize; 2], tolerance: f64) -> Forecasts {
    let levels = [Key::level("t", 850), Key::level("t", 500), Key::level("t", 250)];
    let gives = [&levels[..], &[Key::surface("sp")]].concat();
    let (statics, forcings, grid) = (vec![], vec![], GridNeed::Exact(world_grid(shape)));
    let needs = Needs { history: 2, step_s: 6 * 3600, fields: gives.clone(), statics, forcings, gives, grid };
    let pixels = shape[0] * shape[1];
    let [.., Values::F32(t), Values::F64(sp)] = &world(shape).values[..] else { unreachable!("t and sp come last") };
    let sound = |v: f64| if v.is_finite() && v < 1000.0 { v as f32 } else { 250.0 };
    let images: Vec<Vec<f32>> =
        t.chunks(pixels).map(|image| image.iter().map(|&v| sound(f64::from(v))).collect()).collect();
    let mut truth: BTreeMap<Key, Vec<Vec<f32>>> = BTreeMap::new();
    for (l, key) in levels.iter().enumerate() {
        truth.insert(key.clone(), images.iter().skip(l).step_by(levels.len()).cloned().collect());
    }
    truth.insert(Key::surface("sp"), sp.chunks(pixels).map(|i| i.iter().map(|&v| sound(v)).collect()).collect());
    let (name, digest, made_on) = ("oracle".into(), vec![1; 32], "a test".into());
    let model = Model::Forecaster(Box::new(Oracle { needs, tolerance, truth }));
    Forecasts { tolerance, name, digest, model, made_on, machine: Machine::default() }
}

/// `t` on three levels (f32, some of it missing, some far off) and `sp` (f64).
fn world(shape: [usize; 2]) -> Memory {
    let mut noise = uniform(5);
    let [rows, columns] = shape;
    let lens = [STEPS, 3, rows, columns];
    let mut field = |levels: usize| -> Vec<f64> {
        let mut out = vec![];
        for (step, level) in (0..STEPS).flat_map(|s| (0..levels).map(move |l| (s as f64, l as f64))) {
            for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i as f64, j as f64))) {
                let x = j / columns as f64 * std::f64::consts::TAU;
                let waves = (3.0 * x - 0.3 * step).sin() * (0.1 * i + level).cos() + (0.2 * i + 0.1 * step).sin();
                out.push(250.0 + 9.0 * waves + 0.4 * (29.0 * x + 0.7 * i + step).sin() + 0.6 * noise());
            }
        }
        out
    };
    let mut t: Vec<f32> = field(3).iter().map(|&v| v as f32).collect();
    let sp = field(1);
    for (k, v) in t.iter_mut().enumerate() {
        let (i, j) = (k / columns % rows, k % columns);
        if (i / 7 + j / 11) % 9 == 4 {
            *v = f32::NAN;
        } else if k % 3001 == 17 {
            *v += 3e4;
        }
    }
    let names = ["time", "level", "lat", "lon"];
    let dimension = |k: usize| Dimension { path: format!("/{}", names[k]), len: lens[k] as u64, unlimited: false };
    let text = |name: &str, value: &str| Attribute { name: name.into(), value: AttributeValue::Text(value.into()) };
    let variable = |name: &str, dtype, axes: &[u32], attributes| Variable {
        path: format!("/{name}"),
        dtype,
        shape: axes.iter().map(|&k| lens[k as usize] as u64).collect(),
        dimensions: axes.to_vec(),
        attributes,
        chunks: None,
    };
    let grid = world_grid(shape);
    let variables = vec![
        variable("lat", DType::F64, &[2], vec![text("units", "degrees_north")]),
        variable("lon", DType::F64, &[3], vec![text("units", "degrees_east")]),
        variable("level", DType::F64, &[1], vec![text("units", "hPa")]),
        variable("time", DType::F64, &[0], vec![text("units", "hours since 2020-01-01")]),
        variable("t", DType::F32, &[0, 1, 2, 3], vec![]),
        variable("sp", DType::F64, &[0, 2, 3], vec![]),
    ];
    let values = vec![
        Values::F64(grid.lat.to_vec()),
        Values::F64(grid.lon.to_vec()),
        Values::F64(vec![850.0, 500.0, 250.0]),
        Values::F64((0..STEPS).map(|k| 6.0 * k as f64).collect()),
        Values::F32(t),
        Values::F64(sp),
    ];
    let groups = vec![Group { path: "/".into(), attributes: vec![] }];
    let schema = Schema { format: Format::NetCdf4, groups, dimensions: (0..4).map(dimension).collect(), variables };
    Memory { schema, values }
}

/// Lattices with launches of their own, six side images, missing values, values far off; exact forecasts and such that are agreed upon.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn large() {
    for (shape, tolerance, effort) in [([96, 120], 0.0, Effort::Balanced), ([90, 101], 1e-4, Effort::Best)] {
        // The bound of `t` that values far off leave room for is its own.
        let mut config = Config::new(Bound::abs(0.2)).with_effort(effort);
        config.bounds = BTreeMap::from([("sp".to_string(), Bound::rel(1e-3))]);
        let what = format!("{shape:?}, {tolerance}, {effort:?}");
        same(&|| world(shape), &config, &|| oracle(shape, tolerance), None, &what);
    }
}

/// What a sanitizer has time for.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn few() {
    let series = Series::new(5, 2);
    same(&|| series.source(), &Config::new(Bound::rel(1e-3)), &|| Seer::default().forecasts(), None, "few");
}

/// Calls fail in turn: an error that says so, nothing left behind; or the CPU takes over.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn faults() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    let series = Series::new(4, 1);
    let config = Config::new(Bound::rel(1e-3));
    let expected = archive(&mut series.source(), &config, &Seer::default().forecasts(), None);
    let life = |choice: Choice| -> Result<(Vec<u8>, Vec<String>)> {
        let forecasts = Seer::default().forecasts().on(Machine::open(choice)?.0);
        let mut source = series.source();
        let done = series::compress(&mut source, &config, &forecasts, None, &mut |_| ())?;
        let notes = forecasts.machine.notes();
        restored(&expected, Seer::default().forecasts().on(Machine::open(choice)?.0))?;
        Ok((finish(&mut source, &config, done), notes))
    };
    let set = |fault: &str| {
        // SAFETY: this process has one thread but for those of rayon, which read no environment by now.
        unsafe { std::env::set_var("CUEMU_FAIL", fault) };
        profiler_start().unwrap();
    };
    // The kernels' cache is there from now on.
    life(Choice::Cuda(0)).unwrap();
    for kind in ["alloc", "launch", "copy", "sync", "lost"] {
        let (mut n, mut n_failed) = (1u64, 0);
        loop {
            set(&format!("{kind}:{n}"));
            let result = life(Choice::Cuda(0));
            let c = counters();
            assert_eq!(c["live"], 0, "{kind} {n}: {c:?}");
            match result {
                Ok((archive, _)) => {
                    assert!(archive == expected, "{kind} {n}");
                    break;
                }
                Err(e) => assert_eq!(e.kind(), Kind::Device, "{kind} {n}: {e}"),
            }
            n_failed += 1;
            // All of the first, then some: there are thousands of launches.
            n += 1 + n / 12;
        }
        println!("{kind}: {n_failed} faults");
        assert!(n_failed >= 3, "{kind}");
    }
    let mut n_notes = 0;
    for n in [40, 150, 400, 700, 1000] {
        set(&format!("lost:{n}"));
        let (archive, notes) = life(Choice::Auto).unwrap();
        assert!(archive == expected, "lost {n}");
        n_notes += usize::from(notes.iter().any(|note| note.contains("the CPU took over")));
        assert_eq!(counters()["live"], 0);
    }
    assert!(n_notes > 0, "the GPU never failed beside forecasts");
}
