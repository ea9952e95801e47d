//! Time series beside a model's forecasts, in a closed loop: each step is forecast from *decoded* steps, which the decoder has too, so
//! that errors never add up.
//!
//! The variables that a model needs and gives ([`Group`]) are cut into tiles of as many steps, and tiles make intervals: from one keyframe to
//! the next. An interval is decoded for itself: its first steps have no forecast, each later one has, if the steps that the model looks
//! back on are in the interval. A forecast is rounded so that both ends agree ([`super::agreement`]) and becomes a side image of the fitted
//! predictor.
//!
//! A codec of frames ([`super::FieldCodec`]) stands in for a model: what it makes of the few integers that it keeps of a step is the step's
//! forecast. The integers are in the archive; no step is looked back on, and an interval is a tile.
//!
//! Tiles are coded by the CPU (`member`, `decode`) or by a GPU, with the same bytes (`gpu`, [`Machine`]); fields go to and from a model as tensors, wherever
//! those are.
//!
//! In memory are the values of one tile of all these variables with working copies, some twelve times as many bytes as f32 values; at
//! most 2^26 values, unless one step has more.

mod bare;
mod decode;
mod encode;
#[cfg(feature = "cuda")]
mod gpu;
mod latents;
mod machine;
mod member;
mod tile;
mod verify;

pub use decode::{CodedMember, Decoder};
pub use encode::{advection, compress};
pub use machine::Machine;
pub use tile::report;

use super::advection::{self, Advection};
use super::agreement::sum_in_lanes;
use super::frame::Frame;
use super::group::Group;
use super::names::Key;
use super::needs::Needs;
use super::weights::{self, Weights};
use super::{MODELS, Model, Options};
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::io::{Schema, Source};
use crate::stages::{Stage, time};
use candle_core::{Device, Tensor};
use latents::Latents;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A model at work for a compressor, or for the decoder that repeats it.
pub struct Forecasts {
    /// The model.
    pub model: Model,
    /// Its name in the registry.
    pub name: String,
    /// SHA-256 of its weights; empty for a model without.
    pub digest: Vec<u8>,
    /// Program, library and device: what has to be known where forecasts differ.
    pub made_on: String,
    /// By how much forecasts may differ between machines, as a part of a field's spread: the model's own figure, or a measured one.
    pub tolerance: f64,
    /// What codes beside them; the CPU unless it is set.
    pub machine: Machine,
}

/// Version of the library that runs models; a test compares it with `Cargo.lock`.
const CANDLE: &str = "0.11.1";

/// What runs models here.
fn made_on(device: &Device) -> String {
    let device = match device {
        Device::Cpu => cpu(),
        Device::Cuda(_) => "a CUDA GPU".to_string(),
        Device::Metal(_) => "a Metal GPU".to_string(),
    };
    format!("{}, {device}", versions())
}

/// Program and library. All that is said of an exact model: what it ran on changes no bit, nor shall it change the archive.
fn versions() -> String {
    format!("residuum {}, candle {CANDLE}", env!("CARGO_PKG_VERSION"))
}

/// The processor, as far as matrix products depend on it.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    let best = if std::is_x86_feature_detected!("avx512f") {
        " with AVX-512"
    } else if std::is_x86_feature_detected!("fma") {
        " with FMA"
    } else {
        ""
    };
    #[cfg(not(target_arch = "x86_64"))]
    let best = "";
    format!("CPU {}{best}", std::env::consts::ARCH)
}

impl Forecasts {
    /// Opens weights.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let opened = Weights::open(path)?;
        let digest = weights::sha256(path)?.to_vec();
        let (name, made_on) = (opened.about().model.clone(), made_on(&options.device));
        let model = super::open_weights(&opened, options)?;
        Ok(Self { tolerance: model.tolerance(), model, name, digest, made_on, machine: Machine::default() })
    }

    /// Opens weights for a machine: the model runs on its GPU where there is one, unless it is one that has the same bits everywhere on the CPU.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open_on(path: &Path, machine: Machine) -> Result<Self> {
        let name = Weights::open(path)?.about().model.clone();
        let is_exact = MODELS.iter().any(|entry| entry.name == name && entry.is_exact_on_cpu);
        let options = if is_exact { Options::default() } else { machine.options() };
        Ok(Self::open(path, &options)?.on(machine))
    }

    /// The same, coded on another machine.
    pub fn on(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// Where the model takes what was decoded.
    fn device(&self) -> &Device {
        match &self.model {
            Model::Forecaster(model) => model.device(),
            Model::FieldCodec(_) => &Device::Cpu,
        }
    }

    /// Advection by the winds of a group, which needs no weights.
    ///
    /// # Errors
    /// As [`Advection::new`].
    pub fn advection(group: &Group) -> Result<Self> {
        let (model, name) = (Model::Forecaster(Box::new(Advection::new(group)?)), advection::NAME.to_string());
        let made_on = made_on(&Device::Cpu);
        Ok(Self { tolerance: model.tolerance(), model, name, digest: vec![], made_on, machine: Machine::default() })
    }

    /// Opens weights that an archive holds.
    ///
    /// # Errors
    /// As [`Forecasts::open_on`]; `Io` if there is no room for a temporary file.
    pub fn of_bytes(weights: &[u8], machine: Machine) -> Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(weights)?;
        Self::open_on(file.path(), machine).context(|| "weights in the archive")
    }
}

/// What a model sees while an interval is coded or decoded.
#[derive(Clone)]
struct Past<'a> {
    model: &'a Model,
    group: &'a Group,
    /// First step of the interval.
    first: usize,
    statics: &'a [(Key, Tensor)],
    frames: BTreeMap<usize, Frame>,
    /// What a codec of frames has of the steps of the tile at work.
    latents: Latents,
}

/// Values of all variables together that a model may look back on, and that a single step may have.
const MAX_SEEN: u64 = 1 << 30;

/// Values of a tile of all variables together, at most, unless one step has more.
const MAX_VALUES: u64 = 1 << 26;

/// That so many values of a tile of all variables, of so many steps, can be at work together.
fn check_size(n: u64, steps: u64) -> Result<()> {
    let most = if steps > 1 { MAX_VALUES } else { MAX_SEEN };
    if n <= most {
        Ok(())
    } else {
        Err(Error::unsupported(format!("{n} values together beside forecasts: at most {most}")))
    }
}

/// The forecasts of a step: of each member's levels, in the file's order of rows and columns, each f32 in a row, where the model left it.
type Forecast = Arc<Vec<Vec<Option<Tensor>>>>;

impl<'a> Past<'a> {
    fn new(model: &'a Model, group: &'a Group, first: usize, statics: &'a [(Key, Tensor)]) -> Self {
        Self { model, group, first, statics, frames: BTreeMap::new(), latents: Latents::default() }
    }

    /// The steps that a forecast looks back on; `None` if the interval lacks them, or the model looks back on none.
    fn history(&self, step: usize) -> Option<Vec<usize>> {
        match self.model {
            Model::Forecaster(model) => self.group.history(model.needs(), self.first, step),
            Model::FieldCodec(_) => None,
        }
    }

    /// Whether a step has a forecast.
    fn has_forecast(&self, step: usize) -> bool {
        match self.model {
            Model::Forecaster(_) => self.history(step).is_some(),
            Model::FieldCodec(_) => self.latents.has(step),
        }
    }

    /// Takes in the values of all members at a step, each `[levels · rows · columns]`.
    fn see(&mut self, step: usize, members: &[Tensor]) -> Result<()> {
        let Model::Forecaster(model) = self.model else { return Ok(()) };
        self.frames.insert(step, frame_of(self.group, self.statics, step, members)?);
        self.frames.retain(|&s, _| self.group.is_needed(model.needs(), s, step));
        let n = members.iter().map(|m| m.elem_count() as u64).sum::<u64>();
        if n * self.frames.len() as u64 > MAX_SEEN {
            let message =
                format!("forecasts look back on {} steps of {n} values: at most {MAX_SEEN} fit", self.frames.len());
            return Err(Error::input(message));
        }
        Ok(())
    }

    /// The forecast of a step; `None` if the interval lacks what it would look back on, or there is no latent of it.
    fn forecast(&self, step: usize) -> Result<Option<Forecast>> {
        let model = match self.model {
            Model::Forecaster(model) => model,
            Model::FieldCodec(codec) => return self.latents.forecast(&**codec, self.group, step),
        };
        let Some(steps) = self.history(step) else { return Ok(None) };
        let history: Option<Vec<Frame>> = steps.iter().map(|s| self.frames.get(s).cloned()).collect();
        let Some(history) = history else { return Ok(None) };
        let history = model.needs().prepare(&history)?;
        let frame = time(Stage::Forecast, || model.step(&history, None, 0))?;
        of_members(self.group, &frame, steps.last().and_then(|s| self.frames.get(s))).map(Some)
    }
}

/// The frame of a step, from the values of all members.
fn frame_of(group: &Group, statics: &[(Key, Tensor)], step: usize, members: &[Tensor]) -> Result<Frame> {
    let (rows, columns) = group.grid.shape();
    let pixels = rows * columns;
    let mut frame = Frame::new(group.times[step], group.grid.clone());
    for (member, values) in group.members.iter().zip(members) {
        for (level, key) in member.keys.iter().enumerate() {
            if let Some(key) = key.as_ref().filter(|_| (level + 1) * pixels <= values.elem_count()) {
                frame.insert(key.clone(), values.narrow(0, level * pixels, pixels)?.reshape((rows, columns))?)?;
            }
        }
    }
    for (key, values) in statics {
        frame.insert(key.clone(), values.clone())?;
    }
    Ok(frame)
}

/// Values in memory of the host, in a row.
pub(crate) fn in_a_row(values: Vec<f32>) -> Result<Tensor> {
    let n = values.len();
    Ok(Tensor::from_vec(values, n, &Device::Cpu)?)
}

/// A field that never changes, as models take it.
pub(crate) fn static_field(group: &Group, values: Vec<f32>) -> Result<Tensor> {
    let n = values.len();
    let (rows, columns) = group.grid.shape();
    let wrong = || Error::input(format!("a field of {n} values that never change, on {}", group.grid));
    if n == rows * columns { Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?) } else { Err(wrong()) }
}

/// A static field as encoder and decoder give it to the model, from what is decoded of the variable.
pub(crate) fn static_of(group: &Group, schema: &Schema, variable: usize, decoded: &Values) -> Result<Tensor> {
    static_field(group, of_step(decoded, schema.fill_bits(variable), 0, decoded.len()))
}

/// The first frames of a file that a model can make a forecast of, or the one that a codec can code.
///
/// # Errors
/// `Input` that lists what was found and what is needed.
pub fn first_history(source: &mut dyn Source, model: &Model) -> Result<Vec<Frame>> {
    let (schema, needs) = (source.schema().clone(), model.needs());
    let mut read = |i: usize, step: Option<usize>| {
        let mut region: Vec<Range<u64>> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
        if let (Some(step), Some(axis)) = (step, region.first_mut()) {
            *axis = step as u64..step as u64 + 1;
        }
        source.read(i, &region)
    };
    let group = Group::find(&schema, needs, &mut |i| read(i, None))?;
    let steps = match model {
        Model::Forecaster(_) => group.times.iter().find_map(|last| {
            let at = |back: usize| group.times.iter().position(|t| *t == last - back as i64 * needs.step_s);
            (0..needs.history).rev().map(at).collect()
        }),
        Model::FieldCodec(_) => (!group.times.is_empty()).then(|| vec![0]),
    };
    let steps = steps.ok_or_else(|| {
        let (n, step_s) = (needs.history, needs.step_s);
        Error::input(format!("the model looks back on {n} steps {step_s} s apart, of which there are none here"))
    })?;
    let mut values = |i: usize, step: Option<usize>| -> Result<Vec<f32>> {
        let values = read(i, step)?;
        Ok(of_step(&values, schema.fill_bits(i), 0, values.len()))
    };
    let statics = group.statics.iter().map(|(i, key)| Ok((key.clone(), static_field(&group, values(*i, None)?)?)));
    let statics = statics.collect::<Result<Vec<_>>>()?;
    let frame = |step: usize| {
        let members = group.members.iter().map(|m| in_a_row(values(m.variable, Some(step))?));
        frame_of(&group, &statics, step, &members.collect::<Result<Vec<_>>>()?)
    };
    steps.into_iter().map(frame).collect()
}

/// The fields of a model's frame that members have; rows that the model does not give are those of the `last` frame.
fn of_members(group: &Group, frame: &Frame, last: Option<&Frame>) -> Result<Forecast> {
    let back = Back::new(frame, group)?;
    let mut all = vec![];
    for member in &group.members {
        let of_level = |key: &Option<Key>| match key {
            Some(key) if frame.get(key).is_some() => back.values(frame, last, key).map(Some),
            _ => Ok(None),
        };
        all.push(member.keys.iter().map(of_level).collect::<Result<_>>()?);
    }
    Ok(all.into())
}

/// From a model's rows and columns back to the file's, on the model's device.
struct Back {
    /// The model's row for each row of the file; `None` for those that it lets go.
    rows: Vec<Option<usize>>,
    columns: Vec<usize>,
}

impl Back {
    fn new(frame: &Frame, group: &Group) -> Result<Self> {
        /// Degrees; as for what models take.
        const TOLERANCE: f64 = 2e-3;
        // Sorted, so that wide grids cost no more than they are wide; longitudes from 0 to 360.
        let sorted = |all: &[f64], turned: &dyn Fn(f64) -> f64| {
            let mut all: Vec<(f64, usize)> = all.iter().map(|&x| turned(x)).zip(0..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            all
        };
        let place = |all: &[(f64, usize)], x: f64| {
            let from = all.partition_point(|at| at.0 < x - TOLERANCE);
            all.get(from).filter(|at| at.0 <= x + TOLERANCE).map(|at| at.1)
        };
        let turned = |x: f64| x.rem_euclid(360.0);
        let (lat, lon) = (sorted(&frame.grid.lat, &|x| x), sorted(&frame.grid.lon, &turned));
        let rows = group.grid.lat.iter().map(|&x| place(&lat, x)).collect();
        // 0 may be a little less than 360.
        let of_column = |&x: &f64| {
            let around = [turned(x), turned(x) - 360.0, turned(x) + 360.0];
            around.iter().find_map(|&x| place(&lon, x))
        };
        let columns = group.grid.lon.iter().map(of_column);
        let columns = columns.collect::<Option<_>>();
        let columns = columns.ok_or_else(|| Error::input(format!("the model's forecast lies on {}", frame.grid)))?;
        Ok(Self { rows, columns })
    }

    /// A field, in a row; rows that the model does not give are those of the last frame, or 0.
    fn values(&self, frame: &Frame, last: Option<&Frame>, key: &Key) -> Result<Tensor> {
        let field = Self::picked(frame.require(key)?, 1, &self.columns)?;
        let mut parts = vec![];
        for (start, run) in runs(&self.rows) {
            let given: Option<Vec<usize>> = run.iter().copied().collect();
            parts.push(match (given, last) {
                (Some(rows), _) => Self::picked(&field, 0, &rows)?,
                (None, Some(last)) => last.require(key)?.narrow(0, start, run.len())?.to_device(field.device())?,
                (None, None) => Tensor::zeros((run.len(), self.columns.len()), field.dtype(), field.device())?,
            });
        }
        let field = match &parts[..] {
            [all] => all.clone(),
            parts => Tensor::cat(parts, 0)?,
        };
        Ok(field.contiguous()?.flatten_all()?)
    }

    /// Rows or columns of a field; itself if those are all, in order.
    fn picked(field: &Tensor, axis: usize, places: &[usize]) -> Result<Tensor> {
        if places.len() == field.dim(axis)? && places.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(field.clone());
        }
        let places: Vec<u32> = places.iter().map(|&p| p as u32).collect();
        Ok(field.index_select(&Tensor::new(places, field.device())?, axis)?)
    }
}

/// Stretches of rows that the model gives, and of such that it does not, each with its first row.
fn runs(rows: &[Option<usize>]) -> impl Iterator<Item = (usize, &[Option<usize>])> {
    let mut start = 0;
    rows.chunk_by(|a, b| a.is_some() == b.is_some()).map(move |run| {
        start += run.len();
        (start - run.len(), run)
    })
}

/// The values of one step among those of some, as a model takes them: what stands for missing data is 0.
pub(crate) fn of_step(values: &Values, fill: Option<u64>, step: usize, n: usize) -> Vec<f32> {
    let sound = |x: f64, bits: u64| if x.is_finite() && Some(bits) != fill { x as f32 } else { 0.0 };
    match values {
        Values::F32(v) => v[step * n..][..n].iter().map(|x| sound(f64::from(*x), u64::from(x.to_bits()))).collect(),
        Values::F64(v) => v[step * n..][..n].iter().map(|x| sound(*x, x.to_bits())).collect(),
        _ => vec![0.0; n],
    }
}

/// A forecast in memory of the host.
fn on_host(forecast: &Tensor) -> Result<Vec<f32>> {
    Ok(forecast.to_vec1()?)
}

/// Whether a model gives the level of a member.
fn is_given(needs: &Needs, key: &Option<Key>) -> bool {
    key.as_ref().is_some_and(|k| needs.gives.contains(k))
}

/// How large the differences of a field from its mean are: the root of their mean square.
pub(super) fn spread(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = sum_in_lanes(values.len(), |i| f64::from(values[i])) / n;
    let difference = |i: usize| f64::from(values[i]) - mean;
    let spread = (sum_in_lanes(values.len(), |i| difference(i) * difference(i)) / n).sqrt();
    if spread.is_finite() { spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_candle_is_that_of_the_lock_file() {
        let lock = include_str!("../../../Cargo.lock").replace('\r', "");
        let (_, after) = lock.split_once("name = \"candle-core\"\nversion = \"").unwrap();
        assert_eq!(after.split('"').next(), Some(super::CANDLE));
    }
}
