//! Where tiles are coded: on the CPU, or on a GPU that writes and reads the same bytes.
//!
//! [`Choice`] is what the user asks for, [`open`] what comes of it. The command and [`crate::compress::compress_source_with`] see a
//! [`Coder`] only. Fields that are in device memory already go through [`Gpu`] itself.
//!
//! Host code of the GPU is in the `cuda.rs` beside each `cpu.rs`, kernels are in `kernels/`, what they share is here: the device and its
//! kernels ([`Gpu`]), the layout of what both sides know (`layout`), the order of launches (`encode`, `decode`), fields in device memory
//! to archives (`fields`), tiles of the host (`host`), and tiles beside forecasts, step by step (`beside`).

#[cfg(all(feature = "cuda", feature = "forecast"))]
pub(crate) mod beside;
#[cfg(all(feature = "cuda", feature = "candle-cuda"))]
mod candle;
#[cfg(feature = "cuda")]
mod decode;
#[cfg(feature = "cuda")]
mod encode;
#[cfg(feature = "cuda")]
mod fields;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod host;
#[cfg(feature = "cuda")]
pub(crate) mod layout;
#[cfg(feature = "cuda")]
mod program;

#[cfg(feature = "cuda")]
pub(crate) use decode::Stored;
#[cfg(feature = "cuda")]
pub use fields::DeviceField;
#[cfg(feature = "cuda")]
pub(crate) use fields::{At, Target};
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub(crate) use gpu::{Caller, During, Run, memory_device};
#[cfg(all(feature = "cuda", feature = "forecast"))]
pub(crate) use host::HostTiles;
#[cfg(feature = "cuda")]
pub use program::source;

/// A GPU, of which there is none in this build.
#[cfg(not(feature = "cuda"))]
#[derive(Debug)]
pub enum Gpu {}

/// The driver's interface, of the version whose types [`Gpu`] takes and gives.
#[cfg(feature = "cuda")]
pub use cudarc;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::field::{DType, Values};
use crate::plan::Treatment;
use rayon::prelude::*;
use std::ops::Range;

/// Which device the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU where there is one and for what it can do, the CPU for the rest.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// The GPU of this number, or an error.
    Cuda(usize),
}

impl std::str::FromStr for Choice {
    type Err = Error;

    /// `auto`, `cpu`, `cuda` or `cuda:1`.
    fn from_str(text: &str) -> Result<Self> {
        let explain = || Error::usage(format!("{text:?} is no device; there are auto, cpu, cuda, cuda:N"));
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => Ok(Self::Cuda(text.strip_prefix("cuda:").and_then(|n| n.parse().ok()).ok_or_else(explain)?)),
        }
    }
}

/// A tile that is to be coded.
#[derive(Clone, Debug)]
pub struct Uncoded {
    /// Values in C order.
    pub values: Values,
    /// The box of the variable that they fill.
    pub region: Vec<Range<u64>>,
    /// What the bound means for the variable.
    pub treatment: Treatment,
}

impl Uncoded {
    /// Bytes of values; text has none.
    pub fn bytes(&self) -> u64 {
        self.values.len() as u64 * self.values.dtype().size() as u64
    }
}

/// A tile that is to be decoded.
#[derive(Clone, Debug)]
pub struct Undecoded {
    /// What [`Coder::compress`] made.
    pub coded: Vec<u8>,
    /// Type of the values.
    pub dtype: DType,
    /// The box of the variable that they fill.
    pub region: Vec<Range<u64>>,
    /// What the bound means for the variable.
    pub treatment: Treatment,
}

/// A tile of any type: floats by the coder, others exactly.
fn compress_any<C: Coder + ?Sized>(coder: &mut C, tile: &Uncoded, config: &Config) -> Result<Vec<u8>> {
    match &tile.values {
        values @ (Values::F32(_) | Values::F64(_)) => coder.compress(values, &tile.region, &tile.treatment, config),
        values => crate::compress::store_as_it_is(values),
    }
}

/// Codes tiles. Whatever the device, the bytes are the same.
pub trait Coder: Send {
    /// A tile of floats to bytes, as [`crate::compress::compress_tile`].
    ///
    /// # Errors
    /// As there; `Device` if the device fails, `Unsupported` if it can not do what `config` asks and must not leave it to the CPU.
    fn compress(
        &mut self,
        values: &Values,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>>;

    /// Several tiles, with values of any type: those that are no floats are stored exactly. The results are in the order of the tiles.
    fn compress_all(&mut self, tiles: &[Uncoded], config: &Config) -> Vec<Result<Vec<u8>>> {
        tiles.iter().map(|tile| compress_any(self, tile, config)).collect()
    }

    /// Bytes to several tiles, in their order.
    fn decompress_all(&mut self, tiles: &[Undecoded]) -> Vec<Result<Values>> {
        tiles.iter().map(|t| self.decompress(&t.coded, t.dtype, &t.treatment, &t.region)).collect()
    }

    /// Bytes to a tile, as [`crate::decompress::decompress_tile`].
    ///
    /// # Errors
    /// As there; `Device` if the device fails.
    fn decompress(
        &mut self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values>;

    /// What the user should know of what was done: tiles that the CPU took over, and why. Empty if there is nothing to tell.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Coder for Cpu {
    fn compress(
        &mut self,
        values: &Values,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        match values {
            Values::F32(v) => crate::compress::compress_tile(v, region, treatment, config),
            Values::F64(v) => crate::compress::compress_tile(v, region, treatment, config),
            other => Err(Error::usage(format!("{} is not coded within a bound", other.dtype()))),
        }
    }

    fn decompress(
        &mut self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values> {
        crate::decompress::decompress_tile(coded, dtype, treatment, region)
    }

    fn compress_all(&mut self, tiles: &[Uncoded], config: &Config) -> Vec<Result<Vec<u8>>> {
        tiles.par_iter().with_max_len(1).map(|tile| compress_any(&mut Self, tile, config)).collect()
    }

    fn decompress_all(&mut self, tiles: &[Undecoded]) -> Vec<Result<Values>> {
        tiles.par_iter().with_max_len(1).map(|t| Self.decompress(&t.coded, t.dtype, &t.treatment, &t.region)).collect()
    }
}

/// The GPU for a choice, and why there is none where one might have been used.
///
/// # Errors
/// `Device` if a GPU was asked for and there is none that works.
pub fn gpu(choice: Choice) -> Result<(Option<Gpu>, Option<String>)> {
    match choice {
        Choice::Cpu => Ok((None, None)),
        #[cfg(feature = "cuda")]
        Choice::Auto => Ok(match Gpu::open(0) {
            Ok(gpu) => (Some(gpu), None),
            Err(e) => (None, Some(format!("no GPU is used: {e}"))),
        }),
        #[cfg(feature = "cuda")]
        Choice::Cuda(n) => Ok((Some(Gpu::open(n)?), None)),
        #[cfg(not(feature = "cuda"))]
        Choice::Auto => Ok((None, Some("no GPU is used: this residuum was built without the feature cuda".into()))),
        #[cfg(not(feature = "cuda"))]
        Choice::Cuda(_) => Err(Error::device("this residuum was built without the feature cuda")),
    }
}

/// The coder for a choice. With [`Choice::Auto`] also why it is the CPU, where it is.
///
/// # Errors
/// `Device` if a GPU was asked for and there is none that works.
pub fn open(choice: Choice) -> Result<(Box<dyn Coder>, Option<String>)> {
    Ok(match gpu(choice)? {
        #[cfg(feature = "cuda")]
        (Some(gpu), why) => (Box::new(host::HostTiles::new(gpu, choice != Choice::Auto)), why),
        (_, why) => (Box::new(Cpu), why),
    })
}
