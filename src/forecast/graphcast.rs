//! GraphCast: the next frame from the last two, by messages between a latitude-longitude grid and an icosahedral multi-mesh.
//!
//! Lam et al., *Learning skillful medium-range global weather forecasting*, Science 382 (2023). The numbers are those of the authors'
//! implementation (`graphcast` v0.2) in f32. A step: stack and normalise all variables as channels of grid points, encode
//! (grid → mesh), process (16 rounds on the mesh), decode (mesh → grid), add what comes out, scaled, to the last frame.
//!
//! The configuration is that of the published checkpoints (`model_config`, `task_config`), so that all three published models and any
//! other of the family are read: GraphCast (0.25°, 37 levels), GraphCast_operational (0.25°, 13 levels, no precipitation going in),
//! GraphCast_small (1°, 13 levels).
//!
//! Tensors of the weights: the networks' under the names that the authors gave them, and `mean.V`, `std.V`, `diffs_std.V` of each variable V,
//! one value a level. Auxiliary tensors ([`Options::auxiliary`]): `lat` and `lon` (degrees), for a grid other than the poles-to-poles
//! one of the configured resolution; `mesh2grid.senders` (3 a grid point), for another choice between triangles at the same distance;
//! `mesh_lat` and `mesh_lon` (degrees), for other last bits of the places of mesh nodes.

mod device;
pub mod forcing;
mod host;
pub mod mesh;
mod parameters;
mod rows;

use super::frame::{Frame, Grid};
use super::names::Key;
use super::needs::{GridNeed, Needs};
use super::{Entry, Forecaster, Model, Options, Weights};
use crate::error::{Context, Error, Result};
use candle_core::{DType, Device, Tensor};
use device::OnDevice;
use host::Host;
use mesh::{Given, Graph, GraphConfig};
use parameters::{Parameters, Sizes};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

/// GraphCast's line of the registry.
pub const ENTRY: Entry =
    Entry { name: "graphcast", open, is_exact_on_cpu: false, import: super::import::graphcast::import };

fn open(weights: &Weights, options: &Options) -> Result<Model> {
    Ok(Model::Forecaster(Box::new(GraphCast::new(weights, options)?)))
}

/// Seconds of a step.
const STEP_S: i64 = 6 * 3600;

/// Variables on pressure levels; all others are of one level.
pub(super) const ON_LEVELS: [&str; 16] = [
    "potential_vorticity",
    "specific_rain_water_content",
    "specific_snow_water_content",
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "specific_humidity",
    "vertical_velocity",
    "vorticity",
    "divergence",
    "relative_humidity",
    "ozone_mass_mixing_ratio",
    "specific_cloud_liquid_water_content",
    "specific_cloud_ice_water_content",
    "fraction_of_cloud_cover",
];

/// Hyper-parameters of the networks, as in the published checkpoints.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ModelConfig {
    /// Degrees between grid points.
    pub resolution: f64,
    /// Splits of the icosahedron.
    pub mesh_size: usize,
    /// Width of all latents.
    pub latent_size: usize,
    /// Rounds of message passing on the mesh.
    pub gnn_msg_steps: usize,
    /// Hidden layers of each network of fully connected layers.
    pub hidden_layers: usize,
    /// Query radius from grid to mesh in units of the longest edge of the finest mesh.
    pub radius_query_fraction_edge_length: f64,
    /// Divisor of the features of edges from mesh to grid; the longest such edge if not given.
    #[serde(default)]
    pub mesh2grid_edge_normalization_factor: Option<f64>,
}

/// What goes in and comes out, as in the published checkpoints.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TaskConfig {
    /// Variables that go in.
    pub input_variables: Vec<String>,
    /// Variables that come out.
    pub target_variables: Vec<String>,
    /// Variables that are known of the moment to be forecast.
    pub forcing_variables: Vec<String>,
    /// hPa.
    pub pressure_levels: Vec<u32>,
    /// Time that the input frames cover, as `12h`: six hours each.
    pub input_duration: String,
}

/// A model's configuration.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Config {
    /// Of the networks.
    pub model_config: ModelConfig,
    /// Of the variables.
    pub task_config: TaskConfig,
}

/// Largest accepted of some sizes, so that a file that was made to deceive costs bounded time. Published: 512, 16, 1, 37 levels, 2 frames.
const MAX_LATENT: usize = 4096;
const MAX_STEPS: usize = 256;
const MAX_HIDDEN_LAYERS: usize = 16;
const MAX_CHANNELS: usize = 1 << 14;
const MAX_FRAMES: usize = 16;
const RESOLUTIONS: std::ops::RangeInclusive<f64> = 0.1..=90.0;

impl Config {
    /// Frames that go in.
    ///
    /// # Errors
    /// If the duration is not a positive number of steps.
    fn frames(&self) -> Result<usize> {
        let text = self.task_config.input_duration.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let hours = match text[digits..].trim() {
            "h" | "H" | "hour" | "hours" => 1,
            "d" | "D" | "day" | "days" => 24,
            _ => 0,
        };
        let hours = text[..digits].parse::<usize>().unwrap_or(0).saturating_mul(hours);
        let frames = hours / 6;
        if frames == 0 || frames > MAX_FRAMES || hours % 6 != 0 {
            return Err(Error::unsupported(format!("an input duration of {text:?}, a multiple of 6h is expected")));
        }
        Ok(frames)
    }

    fn check(&self) -> Result<()> {
        let m = &self.model_config;
        let sizes = [
            ("latent_size", m.latent_size, 1, MAX_LATENT),
            ("gnn_msg_steps", m.gnn_msg_steps, 0, MAX_STEPS),
            ("hidden_layers", m.hidden_layers, 0, MAX_HIDDEN_LAYERS),
            ("mesh_size", m.mesh_size, 0, mesh::MAX_SPLITS),
        ];
        for (name, found, least, most) in sizes {
            if found < least || found > most {
                return Err(Error::unsupported(format!("{name} is {found}, between {least} and {most} is supported")));
            }
        }
        if !RESOLUTIONS.contains(&m.resolution) {
            return Err(Error::unsupported(format!("a resolution of {}°, {RESOLUTIONS:?} is supported", m.resolution)));
        }
        if m.mesh2grid_edge_normalization_factor.is_some_and(|f| !f.is_finite() || f <= 0.0) {
            return Err(Error::input("mesh2grid_edge_normalization_factor is not a positive number"));
        }
        if !mesh::RADIUS_FRACTIONS.contains(&m.radius_query_fraction_edge_length) {
            let (found, range) = (m.radius_query_fraction_edge_length, mesh::RADIUS_FRACTIONS);
            return Err(Error::unsupported(format!("a query radius of {found} edge lengths, {range:?} is supported")));
        }
        let t = &self.task_config;
        let known = |name: &&String| is_computed(name);
        if let Some(unknown) = t.forcing_variables.iter().find(|name| !known(name) && !t.input_variables.contains(name))
        {
            return Err(Error::unsupported(format!(
                "a forcing {unknown:?} that is neither an input nor one we compute"
            )));
        }
        for names in [&t.input_variables, &t.target_variables, &t.forcing_variables] {
            if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
                return Err(Error::input(format!("variable {:?} is listed twice", twice.1)));
            }
        }
        let levels = t.pressure_levels.len().max(1);
        let variables = t.input_variables.len() * self.frames()? + t.forcing_variables.len() + t.target_variables.len();
        if variables.saturating_mul(levels) > MAX_CHANNELS || t.target_variables.is_empty() {
            return Err(Error::unsupported(format!("{variables} variables on {levels} levels")));
        }
        Ok(())
    }

    /// What the shapes of the weights follow from.
    fn sizes(&self) -> Result<Sizes> {
        let (m, t) = (&self.model_config, &self.task_config);
        let frames = self.frames()?;
        let of = |v: &String| if ON_LEVELS.contains(&v.as_str()) { t.pressure_levels.len() } else { 1 };
        let inputs: usize = t.input_variables.iter().map(|v| of(v) * if is_static(t, v) { 1 } else { frames }).sum();
        Ok(Sizes {
            channels: inputs + t.forcing_variables.iter().map(of).sum::<usize>(),
            targets: t.target_variables.iter().map(of).sum(),
            latent: m.latent_size,
            hidden_layers: m.hidden_layers,
            steps: m.gnn_msg_steps,
        })
    }

    /// Names and shapes of the networks' tensors.
    ///
    /// # Errors
    /// `Input` or `Unsupported` if the configuration is out of range.
    pub fn parameters(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.check()?;
        let mut all = Vec::new();
        Parameters::build(self.sizes()?, &mut |name, shape| {
            all.push((name.to_string(), shape.to_vec()));
            Ok(Tensor::zeros(0, DType::F32, &Device::Cpu)?)
        })?;
        Ok(all)
    }

    /// Names and shapes of the statistics that are used: one value a level.
    pub fn statistics(&self) -> Vec<(String, Vec<usize>)> {
        let t = &self.task_config;
        let names: BTreeSet<&String> =
            t.input_variables.iter().chain(&t.target_variables).chain(&t.forcing_variables).collect();
        let of = |variable: &String| {
            let is_residual = t.target_variables.contains(variable) && t.input_variables.contains(variable);
            let kinds = if is_residual { &["mean", "std", "diffs_std"][..] } else { &["mean", "std"] };
            let shape = vec![keys(variable, &t.pressure_levels).len()];
            kinds.iter().map(|kind| (format!("{kind}.{variable}"), shape.clone())).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(of).collect()
    }

    /// The grid of the configured resolution: from pole to pole, from longitude 0.
    fn grid(&self) -> (Vec<f32>, Vec<f32>) {
        let step = self.model_config.resolution;
        let (n_lat, n_lon) = ((180.0 / step).round() as usize + 1, (360.0 / step).round() as usize);
        let lat = (0..n_lat).map(|i| (i as f64 * 180.0 / (n_lat - 1) as f64 - 90.0) as f32);
        let lon = (0..n_lon).map(|i| (i as f64 * 360.0 / n_lon as f64) as f32);
        (lat.collect(), lon.collect())
    }
}

/// Whether we can compute a forcing from time and place.
fn is_computed(name: &str) -> bool {
    const KNOWN: [&str; 5] = [
        "toa_incident_solar_radiation",
        "year_progress_sin",
        "year_progress_cos",
        "day_progress_sin",
        "day_progress_cos",
    ];
    KNOWN.contains(&name)
}

/// One stacked channel: a variable at a time and a level.
#[derive(Clone, Debug)]
struct Channel {
    /// Name in the configuration.
    variable: String,
    /// Name in frames.
    key: Key,
    /// Which frame it is taken from, the oldest of the history 0, the one to be forecast after the last.
    frame: usize,
    mean: f32,
    std: f32,
}

/// One stacked target.
#[derive(Clone, Debug)]
struct Target {
    key: Key,
    scale: f32,
    /// What is added to the scaled output: `None` for the last frame's value.
    mean: Option<f32>,
}

/// GraphCast, ready to run.
pub struct GraphCast {
    needs: Needs,
    channels: Vec<Channel>,
    targets: Vec<Target>,
    lat: Vec<f32>,
    lon: Vec<f32>,
    graph: GraphConfig,
    given: Given,
    parameters: Arc<Parameters>,
    device: Device,
    dtype: DType,
    /// Made when the first step asks for it: the graph and what the networks keep of it take time and memory that a look at weights does
    /// not need.
    network: OnceLock<Box<dyn Network>>,
    preparing: Mutex<()>,
}

/// The graph networks, on some device.
trait Network: Send + Sync {
    /// Stacked targets of each grid point, normalised.
    ///
    /// `channels` writes the stacked channels of a range of grid points, a row of `n_channels + 3` each, the last three of which it leaves
    /// alone. Latents on the way are put into `stages`.
    fn forward(
        &self,
        n_channels: usize,
        channels: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
        stages: Option<&mut Stages>,
    ) -> Result<Vec<f32>>;

    /// Itself, if it takes channels where they are and leaves targets there.
    fn on_device(&self) -> Option<&OnDevice> {
        None
    }
}

/// What lies between the parts of a step, for comparison with other implementations; rows of grid points or mesh nodes.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    /// Normalised stacked channels.
    pub grid_features: Vec<f32>,
    /// Latents of mesh nodes after they have heard from the grid.
    pub latent_mesh_0: Vec<f32>,
    /// Latents of grid points.
    pub latent_grid_0: Vec<f32>,
    /// Latents of mesh nodes after all rounds.
    pub latent_mesh_1: Vec<f32>,
    /// Normalised stacked targets.
    pub grid_output_norm: Vec<f32>,
}

impl GraphCast {
    /// The model that weights are of.
    ///
    /// # Errors
    /// `Input` if something in the weights is missing or wrong, `Unsupported` if a size is out of range.
    pub fn new(weights: &Weights, options: &Options) -> Result<Self> {
        let config: Config = weights.config()?;
        config.check().context(|| "configuration")?;
        let frames = config.frames()?;
        let statistics = Statistics { weights, levels: &config.task_config.pressure_levels };
        let channels = channels(&config.task_config, frames, &statistics)?;
        let targets = targets(&config.task_config, &statistics)?;
        let m = &config.model_config;
        let parameters = Parameters::read(weights, config.sizes()?, options.dtype, &options.device)?;

        let coordinates = |name: &str| -> Result<Option<Vec<f32>>> {
            let Some(given) = options.auxiliary.get(name) else { return Ok(None) };
            Ok(Some(given.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
        };
        let (lat, lon) = config.grid();
        let (lat, lon) = (coordinates("lat")?.unwrap_or(lat), coordinates("lon")?.unwrap_or(lon));
        let senders = options.auxiliary.get("mesh2grid.senders");
        let given = Given {
            corners: senders.map(|t| t.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()).transpose()?,
            mesh_lat_lon: coordinates("mesh_lat")?.zip(coordinates("mesh_lon")?),
        };
        let graph = GraphConfig {
            mesh_size: m.mesh_size,
            radius_fraction: m.radius_query_fraction_edge_length,
            mesh2grid_divisor: m.mesh2grid_edge_normalization_factor,
        };
        let needs = needs(&config.task_config, frames, &channels, &targets, &lat, &lon)?;
        Ok(Self {
            needs,
            channels,
            targets,
            lat,
            lon,
            graph,
            given,
            parameters: Arc::new(parameters),
            device: options.device.clone(),
            dtype: options.dtype,
            network: OnceLock::new(),
            preparing: Mutex::new(()),
        })
    }

    /// Makes the graph and what of the networks depends on it alone, unless that was done: the first step does it otherwise.
    ///
    /// # Errors
    /// `Input` if the grid is none that a graph can be made of.
    pub fn prepare(&self) -> Result<()> {
        self.network().map(drop)
    }

    fn network(&self) -> Result<&dyn Network> {
        let _one_at_a_time = self.preparing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(network) = self.network.get() {
            return Ok(network.as_ref());
        }
        let graph = Graph::new(self.graph, &self.lat, &self.lon, &self.given)?;
        let parameters = self.parameters.clone();
        let network: Box<dyn Network> = if self.device.is_cpu() && self.dtype == DType::F32 {
            Box::new(Host::new(parameters, &graph)?)
        } else {
            Box::new(OnDevice::new(parameters, &graph, self.dtype, &self.device)?)
        };
        Ok(self.network.get_or_init(|| network).as_ref())
    }

    /// The parts of one step; see [`Forecaster::step`].
    ///
    /// # Errors
    /// As [`Forecaster::step`].
    pub fn stages(&self, history: &[Frame], target: Option<&Frame>) -> Result<Stages> {
        let history = self.needs.prepare(history)?;
        let inputs = self.inputs(&history, target)?;
        let mut grid_features = vec![0.0; self.lat.len() * self.lon.len() * (self.channels.len() + 3)];
        self.stack(&inputs, 0..self.lat.len() * self.lon.len(), &mut grid_features);
        let n = self.channels.len();
        let grid_features = grid_features.chunks_exact(n + 3).flat_map(|row| &row[..n]).copied().collect();
        let mut stages = Stages { grid_features, ..Stages::default() };
        let channels = |range: Range<usize>, rows: &mut [f32]| self.stack(&inputs, range, rows);
        stages.grid_output_norm = self.network()?.forward(n, &channels, Some(&mut stages))?;
        Ok(stages)
    }

    /// Values of each channel on the grid, before normalisation; one copy of those that several channels share.
    fn inputs(&self, history: &[Frame], target: Option<&Frame>) -> Result<Inputs<Vec<f32>>> {
        self.inputs_by(history, target, &|field| Ok(field.flatten_all()?.to_vec1::<f32>()?), &Ok)
    }

    /// The same in a form that `of_field` makes of a field, and `of_values` of a forcing that we compute.
    fn inputs_by<T>(
        &self,
        history: &[Frame],
        target: Option<&Frame>,
        of_field: &dyn Fn(&Tensor) -> Result<T>,
        of_values: &dyn Fn(Vec<f32>) -> Result<T>,
    ) -> Result<Inputs<T>> {
        let time = history.last().map_or(0, |f| f.time_unix_s) + self.needs.step_s;
        let target = target.map(|t| self.needs.oriented(t)).transpose()?;
        if let Some(t) = target.as_ref().filter(|t| t.time_unix_s != time) {
            let found = t.time_unix_s;
            return Err(Error::usage(format!(
                "forcings are of time {found} (s since 1970), the forecast is of {time}"
            )));
        }
        let mut values = Vec::new();
        let mut places = Vec::with_capacity(self.channels.len());
        let mut known: BTreeMap<(usize, &Key), usize> = BTreeMap::new();
        for channel in &self.channels {
            let place = match known.get(&(channel.frame, &channel.key)) {
                Some(&place) => place,
                None => {
                    let (frame, time) = match history.get(channel.frame) {
                        Some(frame) => (Some(frame), frame.time_unix_s),
                        None => (target.as_ref(), time),
                    };
                    let computed = || {
                        self.forcing(&channel.variable, time).ok_or_else(|| {
                            Error::input(format!("forcing {} is not given, and we do not compute it", channel.key))
                        })
                    };
                    values.push(match frame.and_then(|f| f.get(&channel.key)) {
                        Some(field) => of_field(field)?,
                        None => of_values(computed()?)?,
                    });
                    values.len() - 1
                }
            };
            known.insert((channel.frame, &channel.key), place);
            places.push(place);
        }
        Ok(Inputs { values, places })
    }

    /// A forcing that can be computed, on the grid.
    fn forcing(&self, name: &str, time: i64) -> Option<Vec<f32>> {
        let all_rows = |row: Vec<f32>| row.repeat(self.lat.len());
        let year = || forcing::sin_cos(forcing::year_progress(time));
        let day = |pick: fn((f32, f32)) -> f32| {
            all_rows(self.lon.iter().map(|&lon| pick(forcing::sin_cos(forcing::day_progress(time, lon)))).collect())
        };
        Some(match name {
            "toa_incident_solar_radiation" => forcing::toa_incident_solar_radiation(time, &self.lat, &self.lon),
            "year_progress_sin" => all_rows(vec![year().0; self.lon.len()]),
            "year_progress_cos" => all_rows(vec![year().1; self.lon.len()]),
            "day_progress_sin" => day(|p| p.0),
            "day_progress_cos" => day(|p| p.1),
            _ => return None,
        })
    }

    /// Writes the normalised channels of some grid points, rows of all channels and three more values, which are left alone.
    fn stack(&self, inputs: &Inputs<Vec<f32>>, points: Range<usize>, rows: &mut [f32]) {
        let width = self.channels.len() + 3;
        for (i, (channel, &place)) in self.channels.iter().zip(&inputs.places).enumerate() {
            let column = rows[i..].iter_mut().step_by(width);
            for (out, x) in column.zip(&inputs.values[place][points.clone()]) {
                *out = (x - channel.mean) / channel.std;
            }
        }
    }

    /// The frame that normalised outputs stand for.
    fn unstack(&self, outputs: &[f32], last: &Frame, target: Option<&Frame>) -> Result<Frame> {
        let mut frame = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        for (i, target) in self.targets.iter().enumerate() {
            let scaled = outputs[i..].iter().step_by(self.targets.len()).map(|x| x * target.scale);
            let values = match target.mean {
                Some(mean) => scaled.map(|x| x + mean).collect(),
                None => scaled.zip(last.values(&target.key)?).map(|(x, before)| x + before).collect(),
            };
            frame.insert_values(target.key.clone(), values)?;
        }
        self.carry_forcings(&mut frame, target)?;
        Ok(frame)
    }

    /// Forcings that were given for this moment are the next step's input.
    fn carry_forcings(&self, frame: &mut Frame, target: Option<&Frame>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        let given = self.needs.oriented(target)?;
        for key in &self.needs.forcings {
            if let Some(field) = given.get(key) {
                frame.insert(key.clone(), field.clone())?;
            }
        }
        Ok(())
    }

    /// A step whose fields are where the networks are.
    fn step_on_device(
        &self,
        network: &OnDevice,
        history: &[Frame],
        last: &Frame,
        target: Option<&Frame>,
    ) -> Result<Frame> {
        let of_field = |field: &Tensor| Ok(field.flatten_all()?.to_device(&self.device)?);
        let of_values = |values: Vec<f32>| Ok(Tensor::new(values, &self.device)?);
        let inputs = self.inputs_by(history, target, &of_field, &of_values)?;
        let channel = |(channel, &place): (&Channel, &usize)| {
            let (mean, std) = (f64::from(channel.mean), f64::from(channel.std));
            Ok(((&inputs.values[place] - mean)? / std)?)
        };
        let channels = self.channels.iter().zip(&inputs.places).map(channel).collect::<Result<Vec<_>>>()?;
        let outputs = network.targets(&channels)?;
        let shape = last.grid.shape();
        let mut frame = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        for (i, target) in self.targets.iter().enumerate() {
            let scaled = (outputs.narrow(1, i, 1)?.contiguous()?.reshape(shape)? * f64::from(target.scale))?;
            let field = match target.mean {
                Some(mean) => (scaled + f64::from(mean))?,
                None => (scaled + last.require(&target.key)?.to_device(&self.device)?)?,
            };
            frame.insert(target.key.clone(), field)?;
        }
        self.carry_forcings(&mut frame, target)?;
        Ok(frame)
    }
}

impl Forecaster for GraphCast {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The frame also has those forcings that `target` had, so that a roll-out uses them again as the model's authors do.
    fn step(&self, history: &[Frame], target: Option<&Frame>, _rollout_step: usize) -> Result<Frame> {
        let history = self.needs.prepare(history)?;
        let last = history.last().ok_or_else(|| Error::usage("no frame to start from"))?;
        let network = self.network()?;
        if let Some(network) = network.on_device() {
            return self.step_on_device(network, &history, last, target);
        }
        let inputs = self.inputs(&history, target)?;
        let channels = |range: Range<usize>, rows: &mut [f32]| self.stack(&inputs, range, rows);
        let outputs = network.forward(self.channels.len(), &channels, None)?;
        self.unstack(&outputs, last, target)
    }

    fn device(&self) -> &Device {
        &self.device
    }
}

/// Fields that channels are taken from.
struct Inputs<T> {
    /// Each of all grid points.
    values: Vec<T>,
    /// Which of them each channel is.
    places: Vec<usize>,
}

/// Means and standard deviations in the weights.
struct Statistics<'a> {
    weights: &'a Weights,
    levels: &'a [u32],
}

impl Statistics<'_> {
    /// One value a level of the variable.
    fn of(&self, kind: &str, variable: &str) -> Result<Vec<f32>> {
        let n = if ON_LEVELS.contains(&variable) { self.levels.len() } else { 1 };
        let name = format!("{kind}.{variable}");
        if !self.weights.contains(&name) {
            return Err(Error::input(format!(
                "the weights have no statistics {name:?}: import the checkpoint together with its statistics files"
            )));
        }
        let values = self.weights.f32s(&name, &[n])?;
        let bad = |v: &f32| !v.is_finite() || (kind != "mean" && *v == 0.0);
        if values.iter().any(bad) {
            return Err(Error::input(format!("statistics {name:?} have a value that is zero or not finite")));
        }
        Ok(values)
    }
}

/// Names of a variable in frames, one a level.
fn keys(variable: &str, levels: &[u32]) -> Vec<Key> {
    match ON_LEVELS.contains(&variable) {
        true => levels.iter().map(|&hpa| Key::level(variable, hpa)).collect(),
        false => vec![Key::surface(variable)],
    }
}

/// Inputs that never change: those that are neither forecast nor forced.
fn is_static(task: &TaskConfig, variable: &String) -> bool {
    !task.target_variables.contains(variable) && !task.forcing_variables.contains(variable)
}

/// All channels in their order: variables by name, each by time, then by level; the forcings of the moment to be forecast come last.
fn channels(task: &TaskConfig, frames: usize, statistics: &Statistics) -> Result<Vec<Channel>> {
    let mut all = Vec::new();
    let mut put = |variable: &String, frames: Range<usize>| -> Result<()> {
        let (means, stds) = (statistics.of("mean", variable)?, statistics.of("std", variable)?);
        for frame in frames {
            for ((key, &mean), &std) in keys(variable, &task.pressure_levels).into_iter().zip(&means).zip(&stds) {
                all.push(Channel { variable: variable.clone(), key, frame, mean, std });
            }
        }
        Ok(())
    };
    for variable in sorted(&task.input_variables) {
        // A field that never changes is one channel, from the last frame.
        put(variable, if is_static(task, variable) { frames - 1..frames } else { 0..frames })?;
    }
    for variable in sorted(&task.forcing_variables) {
        put(variable, frames..frames + 1)?;
    }
    Ok(all)
}

/// All targets in their order: variables by name, each by level.
fn targets(task: &TaskConfig, statistics: &Statistics) -> Result<Vec<Target>> {
    let mut all = Vec::new();
    for variable in sorted(&task.target_variables) {
        let is_input = task.input_variables.contains(variable);
        let scales = statistics.of(if is_input { "diffs_std" } else { "std" }, variable)?;
        let means = if is_input { None } else { Some(statistics.of("mean", variable)?) };
        for (i, key) in keys(variable, &task.pressure_levels).into_iter().enumerate() {
            all.push(Target { key, scale: scales[i], mean: means.as_ref().map(|m| m[i]) });
        }
    }
    Ok(all)
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    names
}

fn needs(
    task: &TaskConfig,
    frames: usize,
    channels: &[Channel],
    targets: &[Target],
    lat: &[f32],
    lon: &[f32],
) -> Result<Needs> {
    let all = |pick: &dyn Fn(&String) -> bool| -> Vec<Key> {
        let chosen = channels.iter().filter(|c| pick(&c.variable)).map(|c| c.key.clone());
        let unique: BTreeSet<Key> = chosen.collect();
        unique.into_iter().collect()
    };
    let is_forcing = |v: &String| task.forcing_variables.contains(v);
    let degrees = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    Ok(Needs {
        history: frames,
        step_s: STEP_S,
        fields: all(&|v| !is_static(task, v) && !is_forcing(v)),
        statics: all(&|v| is_static(task, v)),
        forcings: all(&is_forcing),
        gives: targets.iter().map(|t| t.key.clone()).collect(),
        grid: GridNeed::Exact(Grid::new(degrees(lat), degrees(lon))?),
    })
}
