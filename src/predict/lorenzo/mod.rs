//! First-order Lorenzo prediction of pre-quantized integers.
//!
//! Every value is first counted in bins from the tile's base, `k = round((x − base) / step)`; the code is the mixed difference of
//! these integers along the last `n` axes (1 to 3): `k[i] − k[i−1]` in one dimension, the alternating sum over the corners of the
//! unit cube in more; what lies outside the tile counts as 0. Integers wrap around at 32 bits, in both directions alike. So both
//! directions are parallel: differences one way, running sums along one axis after the other the other way. Codes in raster
//! order. Class: `BitExact`.

pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use super::{Begun, Coded, Predictor};
use crate::encode::bytes::Reader;
use crate::error::{Error, Result};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;

/// Most axes that differences are taken along.
pub const MAX_AXES: usize = 3;

/// Lorenzo prediction along the last `axes` axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lorenzo {
    /// Number of axes, 1 to 3.
    pub axes: u8,
}

impl Lorenzo {
    /// Reads what [`Predictor::write`] wrote, for a tile of `shape`.
    ///
    /// # Errors
    /// `Corrupt` if the number of axes is out of range.
    pub fn read(reader: &mut Reader<'_>, shape: &[usize]) -> Result<Self> {
        let axes = reader.byte()?;
        if axes == 0 || usize::from(axes) > shape.len().min(MAX_AXES) {
            return Err(Error::corrupt("plan of the Lorenzo predictor is damaged"));
        }
        Ok(Self { axes })
    }
}

impl<T: Kernels> Predictor<T> for Lorenzo {
    fn id(&self) -> u8 {
        super::LORENZO
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.axes);
    }

    fn encode(&self, values: &[T], shape: &[usize], base: T, q: &Quantizer<T>) -> Coded {
        cpu::encode(usize::from(self.axes), values, shape, base, q)
    }

    fn finish(&self, _begun: Option<Begun<T>>, codes: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T> {
        cpu::decode(usize::from(self.axes), codes, shape, base, q)
    }

    fn describe(&self) -> String {
        format!("lorenzo ({}-D)", self.axes)
    }
}
