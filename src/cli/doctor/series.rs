//! Time series beside forecasts: archives and values of the GPU are those of the CPU.

use super::print;
use crate::bound::Bound;
use crate::compress::{Before, compress_rest};
use crate::config::{Config, Effort};
use crate::container::Archive;
use crate::device::{Choice, Cpu};
use crate::error::{Error, Result};
use crate::field::{DType, Values};
use crate::forecast::series::{self, Machine};
use crate::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Source, Variable};
use std::io::Cursor;
use std::ops::Range;

const NAMES: [&str; 4] = ["time", "level", "lat", "lon"];

/// Compares archives and values; gives the number of series that differ.
///
/// # Errors
/// `Device` if the GPU fails.
pub fn parity(gpu: usize) -> Result<u32> {
    // Lattices of one block alone, and such that have launches of their own; forecasts as they are, and agreed upon.
    let cases = [
        ([8, 1, 46, 90], 1e-3, 0.0, Effort::Balanced),
        ([7, 2, 91, 120], 1e-2, 1e-5, Effort::Balanced),
        ([6, 2, 46, 90], 1e-3, 1e-5, Effort::Best),
    ];
    let mut failures = 0;
    for (shape, bound, tolerance, effort) in cases {
        let config = Config::new(Bound::rel(bound)).with_effort(effort);
        let expected = archive(shape, &config, tolerance, Machine::default())?;
        let got = archive(shape, &config, tolerance, Machine::open(Choice::Cuda(gpu))?.0)?;
        let values = restored(&expected, Machine::default())?;
        let on_gpu = restored(&expected, Machine::open(Choice::Cuda(gpu))?.0)?;
        let good = got == expected && on_gpu == values;
        if !good {
            failures += 1;
            print(&format!("DIFFERS: series {shape:?} rel {bound} tolerance {tolerance} {effort:?}\n"))?;
        }
    }
    let n = cases.len() as u32;
    print(&format!("beside forecasts: {} of {n} series byte for byte, both ways\n", n - failures))?;
    Ok(failures)
}

fn archive(shape: [usize; 4], config: &Config, tolerance: f64, machine: Machine) -> Result<Vec<u8>> {
    let mut source = Winds::new(shape);
    let none = || Error::input("no winds in a file of winds");
    let mut forecasts = series::advection(&mut source)?.ok_or_else(none)?.on(machine);
    forecasts.tolerance = tolerance;
    let done = series::compress(&mut source, config, &forecasts, None, &mut |_| ())?;
    none_left(forecasts.machine.notes())?;
    if !done.values().any(|d| d.plan.forecast.is_some()) {
        return Err(Error::input("forecasts of no use where winds carry everything"));
    }
    compress_rest(&mut source, vec![], config, &mut Cpu, Before { done, weights: None }, &mut |_| ())
}

fn restored(archive: &[u8], machine: Machine) -> Result<Vec<Vec<u8>>> {
    let mut archive = Archive::open(Cursor::new(archive))?;
    archive.set_machine(machine);
    let all = (0..archive.schema().variables.len()).map(|i| Ok(archive.read_all(i)?.as_bytes().to_vec()));
    let all = all.collect::<Result<_>>()?;
    none_left(archive.forecast_notes())?;
    Ok(all)
}

/// That the CPU did nothing of what the GPU is asked for.
fn none_left(notes: Vec<String>) -> Result<()> {
    notes.into_iter().next().map_or(Ok(()), |note| Err(Error::device(note)))
}

/// Patterns that winds carry round the Earth, on each row at the speed of its wind.
struct Winds {
    schema: Schema,
    values: Vec<Values>,
}

impl Winds {
    fn new(shape: [usize; 4]) -> Self {
        let [steps, levels, rows, columns] = shape;
        let lat: Vec<f64> = (0..rows).map(|i| 84.0 - 168.0 * i as f64 / (rows - 1) as f64).collect();
        let lon: Vec<f64> = (0..columns).map(|j| 360.0 * j as f64 / columns as f64).collect();
        let mut state = 11u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut carried = |scale: f32, is_wind: bool| {
            let mut out = vec![];
            for (step, level) in (0..steps).flat_map(|s| (0..levels).map(move |l| (s, l))) {
                for lat in lat.iter().map(|x| x.to_radians()) {
                    let wind = (40.0 + 10.0 * level as f64) * (lat.cos() + (3.0 * lat).sin());
                    // What it turns in six hours.
                    let turn = wind * 21_600.0 / (6_371_229.0 * lat.cos()) * step as f64;
                    for lon in lon.iter().map(|x| x.to_radians() - turn) {
                        let waves = (3.0 * lon + 5.0 * lat).sin() + (7.0 * lon - 9.0 * lat).cos() + (11.0 * lon).sin();
                        let wind = if is_wind { wind as f32 } else { 0.0 };
                        out.push(wind + scale * (waves as f32 + 0.01 * noise()));
                    }
                }
            }
            Values::F32(out)
        };
        let fields = [carried(10.0, false), carried(0.6, true), carried(0.6, false)];
        let text = |name: &str, value: &str| Attribute { name: name.into(), value: AttributeValue::Text(value.into()) };
        let variable = |name: &str, dtype, axes: &[usize], units: &str| Variable {
            path: format!("/{name}"),
            dtype,
            shape: axes.iter().map(|&k| shape[k] as u64).collect(),
            dimensions: axes.iter().map(|&k| k as u32).collect(),
            attributes: vec![text("units", units)],
            chunks: None,
        };
        let mut variables = vec![
            variable("time", DType::F64, &[0], "hours since 2020-01-01"),
            variable("level", DType::F64, &[1], "hPa"),
            variable("lat", DType::F64, &[2], "degrees_north"),
            variable("lon", DType::F64, &[3], "degrees_east"),
        ];
        let mut values = vec![
            Values::F64((0..steps).map(|k| 6.0 * k as f64).collect()),
            Values::F64((0..levels).map(|l| 850.0 - 350.0 * l as f64).collect()),
            Values::F64(lat.clone()),
            Values::F64(lon.clone()),
        ];
        for (name, field) in ["t", "u", "v"].into_iter().zip(fields) {
            variables.push(variable(name, DType::F32, &[0, 1, 2, 3], if name == "t" { "K" } else { "m s-1" }));
            values.push(field);
        }
        let dimension = |k: usize| Dimension { path: format!("/{}", NAMES[k]), len: shape[k] as u64, unlimited: false };
        let groups = vec![Group { path: "/".into(), attributes: vec![] }];
        let schema = Schema { format: Format::NetCdf4, groups, dimensions: (0..4).map(dimension).collect(), variables };
        Self { schema, values }
    }
}

impl Source for Winds {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        // Tiles are whole along all axes but the first.
        let inner: u64 = self.schema.variables[variable].shape.iter().skip(1).product();
        let range = region.first().map_or(0..1, |r| (r.start * inner) as usize..(r.end * inner) as usize);
        Ok(match &self.values[variable] {
            Values::F32(v) => Values::F32(v[range].to_vec()),
            Values::F64(v) => Values::F64(v[range].to_vec()),
            other => other.clone(),
        })
    }
}
