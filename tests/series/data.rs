//! A travelling pattern on a small grid as a file, and a model that sees what comes.

use residuum::compress::{Before, Done, compress_rest};
use residuum::container::Archive;
use residuum::device::Cpu;
use residuum::forecast::series::{self, Forecasts, Machine};
use residuum::forecast::{Forecaster, Frame, Grid, GridNeed, Key, Model, Needs};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Source, Variable};
use residuum::{Config, DType, Result, Values};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[path = "painter.rs"]
pub mod painter;

/// Rows and columns.
const SHAPE: (usize, usize) = (24, 32);

/// Variables `t` (time, level, lat, lon) and `sp` (time, lat, lon).
pub struct Series {
    pub levels: usize,
    pub hours: Vec<f64>,
    pub calendar: &'static str,
    pub variables: BTreeMap<String, Vec<f32>>,
    /// Whether there is a mask of the land too.
    pub land: bool,
}

impl Series {
    pub fn new(steps: usize, levels: usize) -> Self {
        let mut noise = uniform(1);
        let mut field = |name: &str, levels: usize| {
            let images = (0..steps).flat_map(|t| (0..levels).map(move |l| (t, l)));
            let scale = scale(name);
            let values = images.flat_map(|(t, l)| clean(name, t as i64, l));
            values.map(|v| v + 0.01 * scale * noise() as f32).collect::<Vec<f32>>()
        };
        let variables = [("t".to_string(), field("t", levels)), ("sp".to_string(), field("sp", 1))];
        let hours = (0..steps).map(|k| 6.0 * k as f64).collect();
        Self { levels, hours, calendar: "standard", variables: variables.into(), land: false }
    }

    /// Small patterns of `t`, `u` and `v` that are carried round the Earth, on each row at the speed of its wind.
    pub fn windy(steps: usize, levels: usize) -> Self {
        let mut noise = uniform(9);
        let (grid, tau) = (grid(), std::f64::consts::TAU);
        let mut waves = || -> Vec<[f64; 4]> {
            (0..12)
                .map(|k| [f64::from(k / 2 + 1), noise() * tau, 6.0 * noise(), 1.0 / (1.0 + 0.2 * f64::from(k))])
                .collect()
        };
        let patterns = [waves(), waves(), waves()];
        let mut variables = BTreeMap::new();
        for ((name, pattern), [mean, scale]) in
            ["t", "u", "v"].iter().zip(&patterns).zip([[280.0, 10.0], [0.0, 0.6], [0.0, 0.6]])
        {
            let mut values = vec![];
            for step in 0..steps {
                for level in 0..levels {
                    for lat in grid.lat.iter().map(|x| x.to_radians()) {
                        // m/s, and the angle that it turns in six hours.
                        let wind = (40.0 + 10.0 * level as f64) * (lat.cos() + (3.0 * lat).sin());
                        let turn = wind * 21_600.0 / (6_371_229.0 * lat.cos()) * step as f64;
                        for lon in grid.lon.iter().map(|x| x.to_radians() - turn) {
                            let sum: f64 = pattern
                                .iter()
                                .map(|[k, phase, rows, a]| a * (k * lon + phase + rows * lat).sin())
                                .sum();
                            let wind = if *name == "u" { wind } else { 0.0 };
                            values.push((mean + wind + scale * sum + 0.002 * scale * noise()) as f32);
                        }
                    }
                }
            }
            variables.insert((*name).to_string(), values);
        }
        let hours = (0..steps).map(|k| 6.0 * k as f64).collect();
        Self { levels, hours, calendar: "noleap", variables, land: false }
    }

    pub fn source(&self) -> Memory {
        let (rows, columns) = SHAPE;
        let lens = [self.hours.len(), self.levels, rows, columns];
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
        let grid = grid();
        let mut variables = vec![
            variable("lat", DType::F64, &[2], vec![text("units", "degrees_north")]),
            variable("lon", DType::F64, &[3], vec![text("units", "degrees_east")]),
            variable("level", DType::F64, &[1], vec![text("units", "hPa")]),
            variable(
                "time",
                DType::F64,
                &[0],
                vec![text("units", "hours since 2020-01-01"), text("calendar", self.calendar)],
            ),
        ];
        let mut values = vec![
            Values::F64(grid.lat.to_vec()),
            Values::F64(grid.lon.to_vec()),
            Values::F64((0..self.levels).map(|l| 850.0 - 350.0 * l as f64).collect()),
            Values::F64(self.hours.clone()),
        ];
        for (name, field) in &self.variables {
            let axes: &[u32] = if name == "sp" { &[0, 2, 3] } else { &[0, 1, 2, 3] };
            variables.push(variable(name, DType::F32, axes, vec![]));
            values.push(Values::F32(field.clone()));
        }
        if self.land {
            variables.push(variable("lsm", DType::F32, &[2, 3], vec![]));
            values.push(Values::F32((0..rows * columns).map(|i| (i / 7 % 2) as f32).collect()));
        }
        let schema = Schema {
            format: Format::NetCdf4,
            groups: vec![Group { path: "/".into(), attributes: vec![] }],
            dimensions: (0..4).map(dimension).collect(),
            variables,
        };
        Memory { schema, values }
    }
}

fn scale(name: &str) -> f32 {
    if name == "t" { 10.0 } else { 900.0 }
}

/// A sequence of numbers in -1..1 that looks random.
pub fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What is going on at a step: waves, and weather that nobody sees coming but the model.
fn clean(name: &str, step: i64, level: usize) -> Vec<f32> {
    let (rows, columns) = SHAPE;
    let mut weather = uniform((step as u64).wrapping_mul(1000) + level as u64 + name.len() as u64);
    let mut out = vec![];
    for i in 0..rows {
        for j in 0..columns {
            let x = j as f32 / columns as f32 * std::f32::consts::TAU;
            let y = i as f32 / rows as f32;
            let phase = step as f32 * 0.11 + level as f32 * 0.4;
            let waves = (2.0 * x - phase).sin() * y + (5.0 * x + 1.7 * phase).cos() * (1.0 - y);
            out.push(scale(name) * (20.0 + waves + 0.2 * weather() as f32));
        }
    }
    out
}

fn grid() -> Grid {
    let lat: Vec<f64> = (0..SHAPE.0).map(|i| 80.0 - 160.0 * i as f64 / (SHAPE.0 - 1) as f64).collect();
    let lon: Vec<f64> = (0..SHAPE.1).map(|j| 360.0 * j as f64 / SHAPE.1 as f64).collect();
    Grid::new(lat, lon).unwrap()
}

/// A file in memory.
pub struct Memory {
    pub schema: Schema,
    pub values: Vec<Values>,
}

impl Source for Memory {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let shape = &self.schema.variables[variable].shape;
        // Where the rows of the box begin, and how long they are.
        let (mut starts, mut len) = (vec![0usize], 1);
        for (axis, range) in region.iter().enumerate() {
            let inner = shape[axis + 1..].iter().product::<u64>() as usize;
            let is_last = axis + 1 == region.len();
            let along = if is_last { range.start..range.start + 1 } else { range.clone() };
            starts = starts.iter().flat_map(|s| along.clone().map(move |i| s + i as usize * inner)).collect();
            len = if is_last { (range.end - range.start) as usize } else { len };
        }
        let rows = starts.into_iter().map(|s| s..s + len);
        Ok(match &self.values[variable] {
            Values::F32(v) => Values::F32(rows.flat_map(|row| &v[row]).copied().collect()),
            Values::F64(v) => Values::F64(rows.flat_map(|row| &v[row]).copied().collect()),
            _ => unreachable!("no other types"),
        })
    }
}

/// What Seer's forecasts may differ by.
const TOLERANCE: f64 = 1e-5;

/// Knows what comes, and that errors fade: `clean(t) + 0.3·(x(t − 1) − clean(t − 1))`.
#[derive(Clone)]
pub struct Seer {
    /// Tells weights apart.
    pub id: u8,
    /// Noise that is added, in units of the tolerance.
    pub noise: f64,
    pub seed: u64,
    /// The step that goes wrong, if not all do.
    pub wrong_step: Option<i64>,
    /// Forecasts that were made.
    pub calls: Arc<AtomicUsize>,
    pub needs: Needs,
    /// Whether nothing is allowed for.
    pub is_exact: bool,
}

impl Default for Seer {
    fn default() -> Self {
        let fields = vec![Key::level("t", 850), Key::surface("sp")];
        let gives = vec![Key::level("t", 850), Key::level("t", 500), Key::surface("sp")];
        let (statics, forcings, grid) = (vec![], vec![], GridNeed::Exact(grid()));
        let needs = Needs { history: 2, step_s: 6 * 3600, fields, statics, forcings, gives, grid };
        Self { id: 0, noise: 0.0, seed: 0, wrong_step: None, calls: Arc::default(), needs, is_exact: false }
    }
}

impl Seer {
    pub fn forecasts(self) -> Forecasts {
        let made_on = format!("machine {}", self.seed);
        let (name, digest) = ("seer".into(), vec![self.id; 32]);
        Forecasts {
            tolerance: self.tolerance(),
            name,
            digest,
            model: Model::Forecaster(Box::new(self)),
            made_on,
            machine: Machine::default(),
        }
    }
}

impl Forecaster for Seer {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn step(&self, history: &[Frame], _: Option<&Frame>, _: usize) -> Result<Frame> {
        let [.., last] = history else { unreachable!("the history is checked") };
        self.calls.fetch_add(1, Relaxed);
        let mut out = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        let mut noise = uniform(self.seed);
        let start = 1_577_836_800;
        for key in self.needs.gives.iter().filter(|k| last.get(k).is_some()) {
            let level = usize::from(key.level_hpa == Some(500));
            let now = (last.time_unix_s - start) / self.needs.step_s;
            let (before, after) = (clean(&key.name, now, level), clean(&key.name, now + 1, level));
            let values = last.values(key)?;
            let mut next: Vec<f32> =
                values.iter().zip(before).zip(after).map(|((x, b), a)| a + 0.3 * (x - b)).collect();
            // As if it knew better over land.
            for key in &self.needs.statics {
                next.iter_mut().zip(last.values(key)?).for_each(|(x, land)| *x += 0.01 * land);
            }
            if self.wrong_step.is_some_and(|wrong| wrong != now + 1) {
                out.insert_values(key.clone(), next)?;
                continue;
            }
            let mean = next.iter().map(|&x| f64::from(x)).sum::<f64>() / next.len() as f64;
            let spread = next.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / next.len() as f64;
            for v in &mut next {
                *v = (f64::from(*v) + self.noise * TOLERANCE * spread.sqrt() * noise()) as f32;
            }
            out.insert_values(key.clone(), next)?;
        }
        Ok(out)
    }

    fn tolerance(&self) -> f64 {
        if self.is_exact { 0.0 } else { TOLERANCE }
    }
}

/// The series as an archive, beside forecasts or not.
pub fn archive(series: &Series, config: &Config, model: Option<Seer>, keyframe: Option<u64>) -> Vec<u8> {
    let mut source = series.source();
    let done = match model {
        Some(model) => series::compress(&mut source, config, &model.forecasts(), keyframe, &mut |_| ()).unwrap(),
        None => BTreeMap::new(),
    };
    finish(&mut source, config, done)
}

/// The archive of what was done before and the rest of the file.
pub fn finish(source: &mut Memory, config: &Config, done: BTreeMap<usize, Done>) -> Vec<u8> {
    let before = Before { done, weights: None };
    compress_rest(source, vec![], config, &mut Cpu, before, &mut |_| ()).unwrap()
}

/// The variables of f32 of an archive whose model is at hand.
pub fn restored(archive: &[u8]) -> BTreeMap<String, Vec<f32>> {
    all(&mut Archive::open(Cursor::new(archive)).unwrap()).unwrap()
}

/// An archive, with its model.
pub fn open(archive: &[u8], model: Option<Seer>) -> Result<Archive<Cursor<&[u8]>>> {
    let mut archive = Archive::open(Cursor::new(archive))?;
    if let Some(model) = model {
        archive.set_forecasts(model.forecasts())?;
    }
    Ok(archive)
}

/// Its variables of f32.
pub fn decoded(archive: &[u8], model: Option<Seer>) -> Result<BTreeMap<String, Vec<f32>>> {
    all(&mut open(archive, model)?)
}

pub fn all(archive: &mut Archive<Cursor<&[u8]>>) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut out = BTreeMap::new();
    for i in 0..archive.schema().variables.len() {
        let name = archive.schema().variables[i].name().to_string();
        if let Values::F32(values) = archive.read_all(i)? {
            out.insert(name, values);
        }
    }
    Ok(out)
}

/// Largest error of all variables in units of their bound.
pub fn worst(series: &Series, restored: &BTreeMap<String, Vec<f32>>, rel: f32) -> f32 {
    let mut worst = 0f32;
    for (name, values) in &series.variables {
        let (min, max) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let bound = rel * (max - min);
        for (x, y) in values.iter().zip(&restored[name]) {
            worst = worst.max((x - y).abs() / bound);
        }
    }
    worst
}
