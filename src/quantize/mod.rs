//! From a value and its prediction to a code: the one place where precision is lost, and the owner of the bound.
//!
//! A code `q` stands for the bin of width `step` around `prediction + q · step`. Bins are a little narrower than twice the
//! bound, by the rounding error of the reconstruction, so that values at the edge of a bin are not lost to it. What a code can
//! not bring back within the bound, tested with the decoder's own arithmetic, goes to the list of [`outlier`]s, bit for bit.
//! Predictors never see a value but through [`Quantizer`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod log;
pub mod outlier;
pub mod special;
pub mod square;

use crate::field::Float;

/// Everything that fixes how values of one tile become codes.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer<T> {
    /// Largest error allowed, in the units of the (transformed) values; checked in f64.
    pub bound: f64,
    /// Width of a bin.
    pub step: T,
    /// Its inverse, used by the encoder only.
    inverse_step: T,
    /// The largest `T` not above `bound`: a difference strictly below it, rounded in `T`, is within the bound.
    surely_within: T,
}

impl<T: Float> Quantizer<T> {
    /// A quantizer for `bound` on values of magnitude up to `max_magnitude`.
    pub fn new(bound: f64, max_magnitude: f64) -> Self {
        // Half a unit in the last place of the largest value, plus a little for the rounding of q · step.
        let rounding = max_magnitude * if T::BYTES == 4 { 0.75 * f64::from(f32::EPSILON) } else { 0.75 * f64::EPSILON };
        let half = if rounding < 0.25 * bound { bound - rounding } else { bound };
        Self::with_step(bound, T::from_f64(2.0 * half))
    }

    /// The same bound with bins of width `step`: what a decoder reads from the plan.
    pub fn with_step(bound: f64, step: T) -> Self {
        let mut surely_within = T::from_f64(bound);
        if surely_within.to_f64() > bound {
            surely_within = T::from_bits(surely_within.to_bits() - 1);
        }
        Self { bound, step, inverse_step: T::from_f64(1.0 / step.to_f64()), surely_within }
    }

    /// A quantizer with bins `ratio` (at least 1) times narrower: coarse lattices, whose errors spread, may use one.
    pub fn narrowed(&self, ratio: f64) -> Self {
        Self::with_step(self.bound, T::from_f64(self.step.to_f64() / ratio))
    }

    /// `1 / step`
    pub fn inverse(&self) -> T {
        self.inverse_step
    }

    /// Differences strictly below this are within the bound.
    pub fn within(&self) -> T {
        self.surely_within
    }

    /// Whether the step is a normal number whose inverse is finite, so that quantizing makes sense at all.
    pub fn is_usable(&self) -> bool {
        let (s, i) = (self.step.to_f64(), self.inverse_step.to_f64());
        s.is_finite() && s > 0.0 && i.is_finite() && i > 0.0
    }

    /// Whether `decoded` may stand for `value`: the bound itself, in f64.
    pub fn holds(&self, value: T, decoded: T) -> bool {
        (decoded.to_f64() - value.to_f64()).abs() <= self.bound
    }
}
