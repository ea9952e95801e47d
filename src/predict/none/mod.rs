//! No prediction: the code is the value itself, counted in bins from the tile's base. Codes in raster order. Class: `BitExact`.
//!
//! The template for other predictors.

pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use super::{Begun, Coded, Predictor};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;

/// The predictor without a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct None;

impl<T: Kernels> Predictor<T> for None {
    fn id(&self) -> u8 {
        super::NONE
    }

    fn write(&self, _out: &mut Vec<u8>) {}

    fn encode(&self, values: &[T], _shape: &[usize], base: T, q: &Quantizer<T>) -> Coded {
        cpu::encode(values, base, q)
    }

    fn finish(&self, _begun: Option<Begun<T>>, codes: &[i32], _shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T> {
        cpu::decode(codes, base, q)
    }

    fn describe(&self) -> String {
        "none".into()
    }
}
