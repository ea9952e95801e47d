//! Error-bounded lossy compression of scientific fields.
//!
//! Every value comes back within the bound you name; NaN, infinities, fill values and −0.0 come back bit for bit. The whole story
//! is in [`mod@compress`], read top to bottom.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod awake;
pub mod bound;
pub mod capi;
#[doc(hidden)]
pub mod cli;
pub mod codes;
pub mod compress;
pub mod config;
pub mod container;
pub mod decompress;
pub mod device;
pub mod encode;
pub mod error;
pub mod evaluate;
pub mod field;
#[cfg(feature = "forecast")]
pub mod forecast;
pub mod io;
pub mod plan;
pub mod predict;
pub mod quantize;
#[doc(hidden)]
pub mod scratch;
mod similarity;
pub mod spool;
pub mod stages;
pub mod tile;

pub use bound::Bound;
pub use compress::{compress, compress_source, compress_to};
pub use config::{Config, Effort, PredictorChoice};
pub use container::{Archive, Writer};
pub use decompress::{decompress, decompress_to};
pub use error::{Context, Error, Kind, Result};
pub use field::{DType, Field, Float, Values};
pub use plan::Plan;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
