//! Tiles beside forecasts: archives and values from the device are those of the CPU. The models run on the host.

// It has more than is used here.
#[allow(dead_code)]
#[path = "../series/data.rs"]
mod data;

use super::{counted, counters, number};
use crate::registry::{CONTENTS, FILL, Random, content};
use data::{Memory, Seer, Series, finish, uniform};
use residuum::container::{Archive, Writer};
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
        assert!(messages.iter().all(|e| e.kind() == Kind::Disagreement), "{messages:?}");
        assert_eq!(messages[0].to_string(), messages[1].to_string());
    }
}

/// An archive of the first builds: beside an exact model, with one digest of all steps of a tile.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn earlier() {
    let archive = include_bytes!("../golden/v1/beside-advection-fitted.rsd");
    let read = |machine: Machine| -> Vec<Values> {
        let mut archive = Archive::open(Cursor::new(&archive[..])).unwrap();
        assert_eq!(archive.forecasts_needed().unwrap().made_on, None);
        archive.find_forecasts(machine).unwrap();
        (0..archive.schema().variables.len()).map(|i| archive.read_all(i).unwrap()).collect()
    };
    let (wanted, values) = (read(Machine::default()), read(machine()));
    assert!(wanted.iter().zip(&values).all(|(a, b)| a.as_bytes() == b.as_bytes()));
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
    // Whoever leaves the choice of device to the program is told the same; the GPU is not given up for it.
    let mut left = Archive::open(Cursor::new(&archive[..])).unwrap();
    left.set_forecasts(wrong().on(Machine::open(Choice::Auto).unwrap().0)).unwrap();
    let n = left.schema().variables.len();
    assert_eq!((0..n).find_map(|i| left.read_all(i).err()).unwrap().kind(), Kind::Disagreement);
    assert!(left.forecast_notes().is_empty(), "{:?}", left.forecast_notes());
}

/// The archive with another tile for a variable, which has one.
fn with_tile(whole: &[u8], variable: usize, tile: &[u8]) -> Vec<u8> {
    let mut a = Archive::open(Cursor::new(whole)).unwrap();
    let schema = a.schema().clone();
    let mut writer = Writer::new(vec![], &schema).unwrap();
    for i in 0..schema.variables.len() {
        let plan = a.variable(i).unwrap().plan.clone();
        writer.begin(&plan).unwrap();
        let stored = a.coded_tile(i, 0).unwrap();
        writer.tile(if i == variable { tile } else { &stored }).unwrap();
    }
    writer.finish().unwrap()
}

/// Tiles damaged behind the checksums: every answer is the CPU's, be it an error.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn damage() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    let series = Series::new(5, 2);
    let config = Config::new(Bound::rel(1e-2));
    let read = |bytes: &[u8], variable: usize, recovers: bool, is_on_gpu: bool| -> Result<Values> {
        let mut archive =
            if recovers { Archive::recover(Cursor::new(bytes))? } else { Archive::open(Cursor::new(bytes))? };
        let forecasts = Seer::default().forecasts();
        archive.set_forecasts(if is_on_gpu { forecasts.on(machine()) } else { forecasts })?;
        archive.read_all(variable)
    };
    let mut random = uniform(3);
    let mut n_decoded = [0, 0];
    // With digests by step what goes wrong is mostly seen at the next forecast; with one at the end, by the codes.
    for (variable, tolerance) in [(4, 1e-5), (5, 1e-5), (4, 0.0), (5, 0.0)] {
        let mut forecasts = Seer::default().forecasts().on(machine());
        forecasts.tolerance = tolerance;
        let whole = archive(&mut series.source(), &config, &forecasts, None);
        let mut a = Archive::open(Cursor::new(&whole[..])).unwrap();
        let tile = a.coded_tile(variable, 0).unwrap();
        assert_eq!(tile[0], 3, "coded beside forecasts");
        let (_, sound) = counted(|| read(&whole, variable, false, true).unwrap());
        for k in 0..60 {
            let mut below = |n: usize| ((random() + 1.0) / 2.0 * n as f64) as usize;
            let mut damaged = tile.clone();
            // What is said of the tile comes first, and is short.
            let reach = if k % 2 == 0 { tile.len().min(300) } else { tile.len() };
            let at = below(8 * reach);
            damaged[at / 8] ^= 1 << (at % 8);
            if k % 10 == 0 {
                damaged.truncate(below(tile.len()));
            }
            let bytes = with_tile(&whole, variable, &damaged);
            for recovers in [false, true] {
                let expected = read(&bytes, variable, recovers, false);
                let (got, c) = counted(|| read(&bytes, variable, recovers, true));
                let what = format!("variable {variable}, {tolerance}, bit {at}, recovers {recovers}");
                match (expected, got) {
                    (Ok(a), Ok(b)) => assert!(a.as_bytes() == b.as_bytes(), "{what}"),
                    (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string(), "{what}"),
                    (a, b) => panic!("{what}: {:?}, {:?}", a.err(), b.err()),
                }
                n_decoded[usize::from(recovers)] += usize::from(3 * c["launches"] > sound["launches"]);
            }
        }
    }
    println!("decoded, without and with recovering: {n_decoded:?} of 240");
    // The rest is seen to be damaged before the GPU is asked.
    assert!(n_decoded.iter().all(|&n| n >= 150), "{n_decoded:?}");
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

/// Beside a file of [`world_of`].
fn oracle_of(world: &Memory, tolerance: f64) -> Forecasts {
    let lens: Vec<usize> = world.schema.dimensions.iter().map(|d| d.len as usize).collect();
    let [steps, levels, rows, columns] = lens[..] else { unreachable!("four dimensions") };
    let of_levels: Vec<Key> = HPA[..levels].iter().map(|&hpa| Key::level("t", hpa)).collect();
    let gives = [&of_levels[..], &[Key::surface("sp")]].concat();
    let (statics, forcings, grid) = (vec![], vec![], GridNeed::Exact(world_grid([rows, columns])));
    let needs = Needs { history: 2, step_s: 6 * 3600, fields: gives.clone(), statics, forcings, gives, grid };
    let [.., Values::F32(t), Values::F64(sp)] = &world.values[..] else { unreachable!("t and sp come last") };
    let sound = |v: f64| if v.is_finite() && v.abs() < 1000.0 { v as f32 } else { 250.0 };
    let images = t.chunks(rows * columns).map(|image| image.iter().map(|&v| sound(f64::from(v))).collect());
    let images: Vec<Vec<f32>> = images.collect();
    let mut truth: BTreeMap<Key, Vec<Vec<f32>>> = BTreeMap::new();
    for (l, key) in of_levels.iter().enumerate() {
        truth.insert(key.clone(), images.iter().skip(l).step_by(levels).cloned().collect());
    }
    let of_sp = sp.chunks(rows * columns).map(|i| i.iter().map(|&v| sound(v)).collect());
    truth.insert(Key::surface("sp"), of_sp.collect());
    assert_eq!(truth[&Key::surface("sp")].len(), steps);
    let (name, digest, made_on) = ("oracle".into(), vec![1; 32], "a test".into());
    let model = Model::Forecaster(Box::new(Oracle { needs, tolerance, truth }));
    Forecasts { tolerance, name, digest, model, made_on, machine: Machine::default() }
}

/// Levels of `t`.
const HPA: [u32; 3] = [850, 500, 250];

/// `t` (f32), which says its fill value if it has one, and `sp` (f64).
fn world_of([steps, levels, rows, columns]: [usize; 4], t: Vec<f32>, sp: Vec<f64>, fill: Option<f32>) -> Memory {
    let lens = [steps, levels, rows, columns];
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
    let of_fill = |v: f32| Attribute { name: "_FillValue".into(), value: AttributeValue::F32(vec![v]) };
    let grid = world_grid([rows, columns]);
    let variables = vec![
        variable("lat", DType::F64, &[2], vec![text("units", "degrees_north")]),
        variable("lon", DType::F64, &[3], vec![text("units", "degrees_east")]),
        variable("level", DType::F64, &[1], vec![text("units", "hPa")]),
        variable("time", DType::F64, &[0], vec![text("units", "hours since 2020-01-01")]),
        variable("t", DType::F32, &[0, 1, 2, 3], fill.map(of_fill).into_iter().collect()),
        variable("sp", DType::F64, &[0, 2, 3], vec![]),
    ];
    let values = vec![
        Values::F64(grid.lat.to_vec()),
        Values::F64(grid.lon.to_vec()),
        Values::F64(HPA[..levels].iter().map(|&hpa| f64::from(hpa)).collect()),
        Values::F64((0..steps).map(|k| 6.0 * k as f64).collect()),
        Values::F32(t),
        Values::F64(sp),
    ];
    let groups = vec![Group { path: "/".into(), attributes: vec![] }];
    let schema = Schema { format: Format::NetCdf4, groups, dimensions: (0..4).map(dimension).collect(), variables };
    Memory { schema, values }
}

/// `t` on three levels (some of it missing, some far off) and `sp`.
fn world(shape: [usize; 2]) -> Memory {
    let mut noise = uniform(5);
    let [rows, columns] = shape;
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
    world_of([STEPS, 3, rows, columns], t, sp, None)
}

/// Every content of the registry, with bounds, efforts, shapes and intervals in turn: archives and values are those of the CPU.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn contents() {
    let mut random = Random(number("CUEMU_CASES", 1));
    let (mut n_beside, mut n_noted) = (0, 0);
    for kind in CONTENTS {
        for turn in 0..3 {
            let [rows, columns] = [[24, 32], [25, 33], [19, 60], [41, 50]][random.below(4)];
            let (steps, levels) = (5 + random.below(4), 1 + random.below(3));
            let shape = [steps, levels, rows, columns];
            let values = content(kind, &shape, &mut random);
            let fill = values.contains(&FILL).then_some(FILL as f32);
            // What only the model sees coming.
            let mut weather = |v: f64| {
                let is_usual = v != 0.0 && v.abs() < 900.0;
                (if is_usual { v + 6.0 * random.unit() } else { v }) as f32
            };
            let t: Vec<f32> = values.iter().map(|&v| weather(v)).collect();
            // Few that are far off: few enough not to be packed, more than are worth nothing.
            let sp = content("smooth", &[steps, rows, columns], &mut random);
            let sp = sp.into_iter().map(|v| v + 6.0 * random.unit() + if random.below(900) == 0 { 4e5 } else { 0.0 });
            let world = world_of(shape, t, sp.collect(), fill);
            let effort = [Effort::Fast, Effort::Balanced, Effort::Balanced, Effort::Best][random.below(4)];
            let bound = [Bound::abs(0.5), Bound::rel(1e-3), Bound::abs([0.2, 0.01][random.below(2)])][turn];
            let mut config = Config::new(bound).with_effort(effort).with_verify(random.below(3) == 0);
            // Tiles of all steps, of a few, of one.
            config.tile_bytes = [32 << 20, 1 << 15, 1 << 14][random.below(3)];
            config.bounds = BTreeMap::from([("sp".to_string(), Bound::abs([0.3, 0.02][random.below(2)]))]);
            let tolerance = [0.0, 1e-5][random.below(2)];
            let keyframe = [None, Some(4)][random.below(2)];
            let what = format!("{kind} {shape:?} {bound:?} {effort:?} {tolerance} {keyframe:?}");
            let source = || Memory { schema: world.schema.clone(), values: world.values.clone() };
            let archive = |forecasts: &Forecasts| {
                let mut source = source();
                let done = series::compress(&mut source, &config, forecasts, keyframe, &mut |_| ());
                let done = done.unwrap_or_else(|e| panic!("{what}: {:?}: {e}", forecasts.machine));
                let is_beside = done.values().any(|d| d.plan.forecast.is_some());
                (finish(&mut source, &config, done), is_beside)
            };
            let (expected, is_beside) = archive(&oracle_of(&world, tolerance));
            let on_device = oracle_of(&world, tolerance).on(machine());
            let (got, _) = archive(&on_device);
            let at = expected.iter().zip(&got).position(|(a, b)| a != b);
            assert!(at.is_none() && expected.len() == got.len(), "{what}: {} of {}: {at:?}", got.len(), expected.len());
            n_noted += usize::from(!on_device.machine.notes().is_empty());
            if is_beside {
                n_beside += 1;
                let wanted = restored(&expected, oracle_of(&world, tolerance)).unwrap();
                let values = restored(&expected, oracle_of(&world, tolerance).on(machine())).unwrap();
                assert!(wanted.iter().zip(&values).all(|(a, b)| a.as_bytes() == b.as_bytes()), "{what}: values differ");
            }
        }
    }
    println!("{n_beside} of {} archives beside forecasts, of {n_noted} something left to the CPU", 3 * CONTENTS.len());
    assert!(n_beside >= 20 && n_noted <= n_beside / 2, "{n_beside} {n_noted}");
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
        same(&|| world(shape), &config, &|| oracle_of(&world(shape), tolerance), None, &what);
    }
}

/// Memory of the GPU that tiles beside forecasts take, in bytes for each value.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn memory() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    let mut config = Config::new(Bound::abs(0.2));
    config.bounds = BTreeMap::from([("sp".to_string(), Bound::rel(1e-3))]);
    let of_shape = |shape: [usize; 2]| {
        let (world, model) = (|| world(shape), || oracle_of(&world(shape), 1e-4));
        let expected = archive(&mut world(), &config, &model(), None);
        let (got, coding) = counted(|| archive(&mut world(), &config, &model().on(machine()), None));
        assert!(got == expected);
        let (values, decoding) = counted(|| restored(&expected, model().on(machine())).unwrap());
        let wanted = restored(&expected, model()).unwrap();
        assert!(wanted.iter().zip(&values).all(|(a, b)| a.as_bytes() == b.as_bytes()));
        [coding["peak_bytes"], decoding["peak_bytes"]]
    };
    // What does not depend on the number of values is what a smaller field takes too.
    let (small, large) = (of_shape([240, 288]), of_shape([360, 432]));
    let n_more = 4 * STEPS * (360 * 432 - 240 * 288);
    let [coding, decoding] = [0, 1].map(|i| (large[i] - small[i]) as f64 / n_more as f64);
    println!("coding {coding:.1} bytes a value, decoding {decoding:.1}; {small:?}, {large:?}");
    // A quarter of the values are f64.
    assert!(coding <= 100.0 && decoding <= 20.0);
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
                // It says what was being done.
                Err(e) => {
                    let is_told = e.to_string().strip_prefix("tile 0: ").unwrap_or(&e.to_string()).contains(": ");
                    assert!(e.kind() == Kind::Device && is_told, "{kind} {n}: {e}");
                }
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
    // A GPU that failed is left alone: also by what comes later.
    set("lost:150");
    let forecasts = Seer::default().forecasts().on(Machine::open(Choice::Auto).unwrap().0);
    let on_both = || {
        finish(&mut series.source(), &config, {
            series::compress(&mut series.source(), &config, &forecasts, None, &mut |_| ()).unwrap()
        })
    };
    assert!(on_both() == expected);
    assert!(!forecasts.machine.notes().is_empty());
    // The driver works again from here on.
    // SAFETY: as above.
    unsafe { std::env::remove_var("CUEMU_FAIL") };
    let (again, c) = counted(on_both);
    assert!(again == expected);
    assert_eq!(c["launches"], 0, "{c:?}");
}
