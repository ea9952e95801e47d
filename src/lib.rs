//! Error-bounded lossy compression of scientific fields.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod encode;
pub mod error;
pub mod field;
pub mod predict;
pub mod quantize;

pub use error::{Context, Error, Kind, Result};
pub use field::{DType, Field, Float, Values};
