//! Pretrained models behind common faces: a [`Forecaster`] gives the next frame, a [`FieldCodec`] a field from a few integers.
//!
//! A frame ([`Frame`]) is the fields of one moment on one grid; [`Needs`] says what a model wants to see and complains in
//! words if it is not there; [`Rollout`] feeds predictions back. Weights are one safetensors file ([`Weights`]) whose metadata
//! names the model and holds its hyper-parameters; `residuum weights import` makes it from an official checkpoint ([`import`]).
//!
//! A model is one file in this folder and one line in [`MODELS`].

pub mod advection;
pub mod agreement;
pub mod aurora;
pub mod exact;
mod frame;
pub mod graphcast;
pub mod group;
pub mod import;
mod layers;
pub mod measure;
mod names;
mod needs;
mod ops;
mod rollout;
pub mod series;
pub mod unet;
pub mod vaeformer;
pub mod weights;

pub use frame::{Frame, Grid};
pub use layers::Probe;
pub use names::Key;
pub use needs::{GridNeed, Needs, Offer};
pub use rollout::Rollout;
pub use weights::{About, Weights};

use crate::error::{Context, Error, Result};
use candle_core::{DType, Device, Tensor};
use import::{Checkpoint, ImportOptions, Imported};
use std::collections::HashMap;
use std::path::Path;

/// A model that looks at the last frames and gives the next.
pub trait Forecaster: Send + Sync {
    /// What it needs, and the length of a step.
    fn needs(&self) -> &Needs;

    /// The frame `step_s` seconds after the last of `history`.
    ///
    /// `history` is oldest first and has at least [`Needs::history`] frames; rows and columns may run either way ([`Needs::prepare`]). `target`
    /// may hold what is known of the coming moment (solar radiation); the model computes what it does not hold. `rollout_step` counts
    /// the predictions that led to this history: 0 for a first step from observed, or decoded, frames. The frame that comes back has the fields
    /// [`Needs::gives`], in physical units, on the rows that the model uses.
    ///
    /// # Errors
    /// `Input` that lists what was found and what is needed.
    fn step(&self, history: &[Frame], target: Option<&Frame>, rollout_step: usize) -> Result<Frame>;

    /// By how much forecasts of the same history may differ between machines, devices and versions of libraries, as a part of a field's spread
    /// (root mean square difference from its mean); 0 if they never do. The default is some twenty times what
    /// GraphCast at 1° differs by between f32 here and f64 by candle's functions ([`measure`], `BENCHMARKS.md`).
    fn tolerance(&self) -> f64 {
        1e-4
    }

    /// Where it takes and leaves fields.
    fn device(&self) -> &Device {
        &Device::Cpu
    }
}

/// A model that turns a frame into a few integers and back.
pub trait FieldCodec: Send + Sync {
    /// What a frame must have; the history is that one frame.
    fn needs(&self) -> &Needs;

    /// The integers that stand for a frame.
    ///
    /// # Errors
    /// `Input` that lists what was found and what is needed.
    fn encode(&self, frame: &Frame) -> Result<Latent>;

    /// The frame that integers stand for.
    ///
    /// # Errors
    /// `Corrupt` if shapes or values are not those of this model.
    fn decode(&self, latent: &Latent) -> Result<Frame>;

    /// The integers in the model's own, entropy-coded form. It does not hold the time.
    ///
    /// # Errors
    /// `Input` if shapes are not those of this model.
    fn to_bytes(&self, latent: &Latent) -> Result<Vec<u8>>;

    /// Reads what [`FieldCodec::to_bytes`] wrote, for a frame of the given time.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are damaged.
    #[allow(clippy::wrong_self_convention)] // it is the codec that reads
    fn from_bytes(&self, bytes: &[u8], time_unix_s: i64) -> Result<Latent>;

    /// By how much frames that are decoded from the same integers may differ, as [`Forecaster::tolerance`] has it. The integers themselves
    /// are the same wherever [`FieldCodec::from_bytes`] reads them.
    fn tolerance(&self) -> f64 {
        1e-4
    }
}

/// A frame as integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latent {
    /// Valid time of the frame, seconds since 1970-01-01 00:00 UTC.
    pub time_unix_s: i64,
    /// Its parts, in the model's order.
    pub parts: Vec<LatentPart>,
}

/// An array of integers under the name that the model's authors use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatentPart {
    /// Name.
    pub name: &'static str,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Values in C order.
    pub values: Vec<i32>,
}

/// A model, ready to run.
pub enum Model {
    /// Gives the next frame.
    Forecaster(Box<dyn Forecaster>),
    /// Codes one frame.
    FieldCodec(Box<dyn FieldCodec>),
}

impl Model {
    /// What it needs.
    pub fn needs(&self) -> &Needs {
        match self {
            Model::Forecaster(model) => model.needs(),
            Model::FieldCodec(codec) => codec.needs(),
        }
    }

    /// By how much what it gives may differ between machines: [`Forecaster::tolerance`], [`FieldCodec::tolerance`].
    pub fn tolerance(&self) -> f64 {
        match self {
            Model::Forecaster(model) => model.tolerance(),
            Model::FieldCodec(codec) => codec.tolerance(),
        }
    }
}

/// Where and how a model runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Device; the CPU by default.
    pub device: Device,
    /// Type of weights and activations inside the model: f32 (default); bf16, on CUDA; f64, on the CPU, to measure what f32 costs ([`measure`]).
    pub dtype: DType,
    /// Tensors that the model would otherwise compute, under the names that its documentation gives, if those computed elsewhere must be met to
    /// the last bit.
    pub auxiliary: HashMap<String, Tensor>,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32, auxiliary: HashMap::new() }
    }
}

/// A line of the registry.
pub struct Entry {
    /// Name in the metadata of weights.
    pub name: &'static str,
    /// Builds the model. Everything in the weights is untrusted.
    pub open: fn(&Weights, &Options) -> Result<Model>,
    /// Whether it has the same bits everywhere on the CPU: there it is put to work for series, whatever codes them.
    pub is_exact_on_cpu: bool,
    /// Turns an official checkpoint into weights; `None` if the checkpoint is not of this model.
    pub import: for<'a> fn(&'a Checkpoint, &ImportOptions) -> Result<Option<Imported<'a>>>,
}

/// All models.
pub const MODELS: &[Entry] = &[aurora::ENTRY, graphcast::ENTRY, unet::ENTRY, vaeformer::ENTRY];

/// Opens the model that a safetensors file holds.
///
/// # Errors
/// `Input` if the file is not what it should be, `Unsupported` if this version does not know the model.
pub fn open(path: &Path, options: &Options) -> Result<Model> {
    open_weights(&Weights::open(path)?, options)
}

/// Opens the model that weights are of.
///
/// # Errors
/// As [`open`].
pub fn open_weights(weights: &Weights, options: &Options) -> Result<Model> {
    let name = &weights.about().model;
    let place = || weights.path().display().to_string();
    let is_known = match options.dtype {
        DType::F32 => true,
        DType::BF16 => options.device.is_cuda(),
        DType::F64 => options.device.is_cpu(),
        _ => false,
    };
    if !is_known {
        return Err(Error::usage("models run in f32; bf16 only on CUDA, f64 only on the CPU"));
    }
    let Some(entry) = MODELS.iter().find(|e| e.name == name) else {
        let known: Vec<&str> = MODELS.iter().map(|e| e.name).collect();
        let message = format!("weights of a model {name:?}; this version knows {}", known.join(", "));
        return Err(Error::unsupported(message)).context(place);
    };
    (entry.open)(weights, options).context(place)
}

/// Opens a model that gives the next frame.
///
/// # Errors
/// As [`open`]; `Usage` if the model is a codec.
pub fn open_forecaster(path: &Path, options: &Options) -> Result<Box<dyn Forecaster>> {
    match open(path, options)? {
        Model::Forecaster(model) => Ok(model),
        Model::FieldCodec(_) => Err(Error::usage(format!("{}: codes one frame, it does not forecast", path.display()))),
    }
}

/// Opens a model that codes a frame.
///
/// # Errors
/// As [`open`]; `Usage` if the model is a forecaster.
pub fn open_field_codec(path: &Path, options: &Options) -> Result<Box<dyn FieldCodec>> {
    match open(path, options)? {
        Model::FieldCodec(model) => Ok(model),
        Model::Forecaster(_) => Err(Error::usage(format!("{}: forecasts, it does not code a frame", path.display()))),
    }
}

/// What candle refuses: a shape (which checks should have caught), or whatever a GPU's driver does.
impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        fn is_of_device(e: &candle_core::Error) -> bool {
            use candle_core::Error as E;
            match e {
                E::Cuda(_) => true,
                E::Context { inner, .. } | E::WithPath { inner, .. } | E::WithBacktrace { inner, .. } => {
                    is_of_device(inner)
                }
                _ => false,
            }
        }
        let text = e.to_string();
        // A trace may follow.
        let line = text.lines().next().unwrap_or_default();
        if is_of_device(&e) {
            return Error::device(format!("the model failed on the GPU: {line}; with --device cpu it runs on the CPU"));
        }
        Error::input(format!("the model can not be run: {line}"))
    }
}
