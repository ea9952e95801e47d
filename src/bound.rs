//! Error bounds: what a user may ask for, what it means for given data, and the check that no encoder shares.

use crate::error::{Error, Result};
use crate::field::{DType, Float};
use minicbor::{Decode, Encode};
use rayon::prelude::*;

/// How an error bound is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Mode {
    /// `|x̂ − x| ≤ value`, in the units of the data.
    #[n(0)]
    Abs,
    /// `|x̂ − x| ≤ value · (max − min)`, over the variable's finite values other than fill values and −0.0.
    #[n(1)]
    Rel,
    /// `|x̂ − x| ≤ value · |x|` at every point.
    #[n(2)]
    PwRel,
    /// A peak signal-to-noise ratio of at least `value` dB: `20 log10((max − min) / rmse)`.
    #[n(3)]
    Psnr,
}

/// An error bound as asked for. A value of 0 (or an infinite PSNR) is lossless.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Bound {
    /// How `value` is meant.
    #[n(0)]
    pub mode: Mode,
    /// The number.
    #[n(1)]
    pub value: f64,
}

impl Bound {
    /// Absolute bound in the units of the data.
    pub fn abs(value: f64) -> Self {
        Self { mode: Mode::Abs, value }
    }

    /// Bound relative to the range of the values.
    pub fn rel(value: f64) -> Self {
        Self { mode: Mode::Rel, value }
    }

    /// Bound relative to each value.
    pub fn pw_rel(value: f64) -> Self {
        Self { mode: Mode::PwRel, value }
    }

    /// Lowest peak signal-to-noise ratio, in dB.
    pub fn psnr(value: f64) -> Self {
        Self { mode: Mode::Psnr, value }
    }

    /// Every bit back.
    pub const LOSSLESS: Bound = Bound { mode: Mode::Abs, value: 0.0 };

    /// Whether every bit comes back.
    pub fn is_lossless(&self) -> bool {
        if self.mode == Mode::Psnr { self.value == f64::INFINITY } else { self.value == 0.0 }
    }

    /// Whether the range of all values must be known before the first is coded.
    pub fn needs_statistics(&self) -> bool {
        matches!(self.mode, Mode::Rel | Mode::Psnr) && !self.is_lossless()
    }

    /// Refuses numbers that mean nothing.
    ///
    /// # Errors
    /// `Usage`, with what would be right.
    pub fn check(&self) -> Result<()> {
        let v = self.value;
        let problem = match self.mode {
            _ if v.is_nan() => "is not a number",
            Mode::Psnr if v <= 0.0 => "must be above 0 dB",
            Mode::Psnr => return Ok(()),
            _ if v < 0.0 => "must not be negative; 0 is lossless",
            Mode::Abs if v.is_infinite() => "must be finite",
            Mode::Rel | Mode::PwRel if v >= 1.0 => "must be below 1 (1e-3 is a thousandth)",
            _ => return Ok(()),
        };
        Err(Error::usage(format!("the bound {self} {problem}")))
    }

    /// What the bound means for values of type `dtype` with these statistics.
    ///
    /// # Errors
    /// `Usage` if an absolute bound can not be represented in `dtype`: it is refused, not rounded.
    pub fn resolve(&self, stats: &Stats, dtype: DType) -> Result<Resolved> {
        self.check()?;
        let representable = |v: f64| match dtype {
            DType::F32 => v as f32 > 0.0 && (v as f32).is_finite(),
            _ => v > 0.0 && v.is_finite(),
        };
        if self.is_lossless() {
            return Ok(Resolved::Exact);
        }
        let range = stats.range();
        let absolute = match self.mode {
            Mode::Abs if !representable(self.value) => {
                return Err(Error::usage(format!(
                    "the bound {self} can not be represented in {dtype}; choose another, or 0 for lossless"
                )));
            }
            Mode::Abs => self.value,
            Mode::Rel => self.value * range,
            Mode::PwRel => return Ok(Resolved::PointWise(self.value)),
            Mode::Psnr => {
                let max_mse = (range / peak_over_rmse(self.value)).powi(2);
                let absolute = (3.0 * max_mse).sqrt();
                return Ok(if representable(absolute) && max_mse > 0.0 && range.is_finite() {
                    Resolved::MeanSquare { absolute, max_mse }
                } else {
                    Resolved::Exact
                });
            }
        };
        // A derived bound too small for the type (a constant field, denormals) is kept the only way there is.
        Ok(if representable(absolute) { Resolved::Absolute(absolute) } else { Resolved::Exact })
    }
}

/// What the range is of the root mean square error, at a PSNR of so many dB. The archive holds what follows of it, so that it has to have the
/// same bits everywhere, which the maths libraries of systems do not promise.
pub(crate) fn peak_over_rmse(psnr: f64) -> f64 {
    libm::pow(10.0, psnr / 20.0)
}

impl std::str::FromStr for Bound {
    type Err = Error;

    /// `abs:0.01`, `rel:1e-3`, `pw-rel:1e-3`, `psnr:80` or `lossless`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "lossless" {
            return Ok(Self::LOSSLESS);
        }
        let explain = || {
            Error::usage(format!("{text:?} is not a bound; write abs:0.01, rel:1e-3, pw-rel:1e-3, psnr:80 or lossless"))
        };
        let (mode, value) = text.split_once(':').ok_or_else(explain)?;
        let mode = match mode {
            "abs" => Mode::Abs,
            "rel" => Mode::Rel,
            "pw-rel" => Mode::PwRel,
            "psnr" => Mode::Psnr,
            _ => return Err(explain()),
        };
        let bound = Self { mode, value: value.parse().map_err(|_| explain())? };
        bound.check()?;
        Ok(bound)
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_lossless() {
            return f.write_str("lossless");
        }
        let mode = match self.mode {
            Mode::Abs => "abs",
            Mode::Rel => "rel",
            Mode::PwRel => "pw-rel",
            Mode::Psnr => "psnr",
        };
        // Rust writes floats without an exponent; people write small bounds with one.
        if self.value != 0.0 && (self.value.abs() < 1e-2 || self.value.abs() >= 1e6) {
            write!(f, "{mode}:{:e}", self.value)
        } else {
            write!(f, "{mode}:{}", self.value)
        }
    }
}

/// What a bound means for the data at hand.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub enum Resolved {
    /// Bit for bit.
    #[n(0)]
    Exact,
    /// `|x̂ − x| ≤ this`.
    #[n(1)]
    Absolute(#[n(0)] f64),
    /// `|x̂ − x| ≤ this · |x|`.
    #[n(2)]
    PointWise(#[n(0)] f64),
    /// A mean square error of at most `max_mse` in every tile, and so over all; each error at most `absolute`.
    #[n(3)]
    MeanSquare {
        /// Largest error.
        #[n(0)]
        absolute: f64,
        /// Largest mean square error.
        #[n(1)]
        max_mse: f64,
    },
}

impl Resolved {
    /// The largest error allowed at a point of this value.
    pub fn at(&self, value: f64) -> f64 {
        match *self {
            Resolved::Exact => 0.0,
            Resolved::Absolute(a) | Resolved::MeanSquare { absolute: a, .. } => a,
            Resolved::PointWise(r) => r * value.abs(),
        }
    }
}

/// Whether a value must come back bit for bit whatever the bound: NaN, ±Inf, −0.0 and the fill value.
#[inline]
pub fn is_special<T: Float>(value: T, fill: Option<T>) -> bool {
    let bits = value.to_bits();
    let negative_zero = 1u64 << (8 * T::BYTES - 1);
    !value.to_f64().is_finite() || bits == negative_zero || fill.is_some_and(|f| f.to_bits() == bits)
}

/// Statistics of a variable's finite values other than fill values and −0.0, which are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Encode, Decode)]
pub struct Stats {
    /// Smallest.
    #[n(0)]
    pub min: f64,
    /// Largest.
    #[n(1)]
    pub max: f64,
    /// How many there are.
    #[n(2)]
    pub n: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Self { min: f64::INFINITY, max: f64::NEG_INFINITY, n: 0 }
    }
}

impl Stats {
    /// Largest minus smallest; 0 if there are no values.
    pub fn range(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.max - self.min }
    }

    /// Largest magnitude; 0 if there are no values.
    pub fn max_magnitude(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.min.abs().max(self.max.abs()) }
    }

    /// Of these values and those.
    pub fn merged(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max), n: self.n + other.n }
    }
}

/// The comparison of restored with original values: the independent check of the bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Values compared.
    pub n: u64,
    /// Values whose error exceeds the bound, and special values that did not come back bit for bit.
    pub violations: u64,
    /// Largest error at a finite value.
    pub max_error: f64,
    /// Largest quotient of error and bound, where the bound is not 0.
    pub max_error_over_bound: f64,
    /// Sum of squared errors.
    pub sum_squares: f64,
    /// Statistics of the original values.
    pub stats: Stats,
}

impl Comparison {
    /// Compares `restored` with `original`, value by value.
    pub fn add<T: Float>(&mut self, original: &[T], restored: &[T], bound: &Resolved, fill: Option<T>) {
        /// Values of a task.
        const BLOCK: usize = 1 << 15;
        self.n += original.len() as u64;
        self.violations += original.len().abs_diff(restored.len()) as u64;
        let pairs = original.par_chunks(BLOCK).zip(restored.par_chunks(BLOCK));
        // Sums in order, whatever the number of threads.
        let blocks: Vec<Self> = pairs.map(|(x, y)| Self::of_block(x, y, bound, fill)).collect();
        blocks.iter().for_each(|b| self.merge(b));
    }

    /// Of some values, but for their number. Lanes of their own, as one running sum would wait for itself at every value.
    fn of_block<T: Float>(original: &[T], restored: &[T], bound: &Resolved, fill: Option<T>) -> Self {
        const LANES: usize = 8;
        let (mut min, mut max) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
        let (mut largest, mut over, mut squares) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let (mut plain, mut violations) = ([0u64; LANES], [0u64; LANES]);
        // An allowed error is one of the two: 0 times a finite value is 0.
        let (constant, factor) = match *bound {
            Resolved::Exact => (0.0, 0.0),
            Resolved::Absolute(a) | Resolved::MeanSquare { absolute: a, .. } => (a, 0.0),
            Resolved::PointWise(r) => (0.0, r),
        };
        let negative_zero = 1u64 << (8 * T::BYTES - 1);
        // Without a fill value the test for it repeats the one for −0.0.
        let fill = fill.map_or(negative_zero, T::to_bits);
        let mut look = |l: usize, x: T, y: T| {
            let (x_bits, y_bits) = (x.to_bits(), y.to_bits());
            let (x, y) = (x.to_f64(), y.to_f64());
            let is_plain = (x.abs() <= f64::MAX)
                & (y.abs() <= f64::MAX)
                & (x_bits != negative_zero)
                & (y_bits != negative_zero)
                & (x_bits != fill)
                & (y_bits != fill);
            let error = if is_plain { (y - x).abs() } else { 0.0 };
            let allowed = constant + factor * x.abs();
            let quotient = if allowed > 0.0 { error / allowed } else { 0.0 };
            let (least, most) = if is_plain { (x, x) } else { (f64::INFINITY, f64::NEG_INFINITY) };
            min[l] = if least < min[l] { least } else { min[l] };
            max[l] = if most > max[l] { most } else { max[l] };
            largest[l] = if error > largest[l] { error } else { largest[l] };
            over[l] = if quotient > over[l] { quotient } else { over[l] };
            squares[l] += error * error;
            plain[l] += u64::from(is_plain);
            violations[l] += u64::from((error > allowed) | (!is_plain & (x_bits != y_bits)));
        };
        let n = original.len().min(restored.len());
        let (x_blocks, x_rest) = original[..n].as_chunks::<LANES>();
        let (y_blocks, y_rest) = restored[..n].as_chunks::<LANES>();
        for (x, y) in x_blocks.iter().zip(y_blocks) {
            for l in 0..LANES {
                look(l, x[l], y[l]);
            }
        }
        x_rest.iter().zip(y_rest).enumerate().for_each(|(l, (&x, &y))| look(l, x, y));
        let largest_of = |lanes: [f64; LANES]| lanes.into_iter().fold(0.0, f64::max);
        let stats = Stats {
            min: min.into_iter().fold(f64::INFINITY, f64::min),
            max: max.into_iter().fold(f64::NEG_INFINITY, f64::max),
            n: plain.iter().sum(),
        };
        Self {
            n: 0,
            violations: violations.iter().sum(),
            max_error: largest_of(largest),
            max_error_over_bound: largest_of(over),
            sum_squares: squares.iter().sum(),
            stats,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.violations += other.violations;
        self.max_error = self.max_error.max(other.max_error);
        self.max_error_over_bound = self.max_error_over_bound.max(other.max_error_over_bound);
        self.sum_squares += other.sum_squares;
        self.stats = self.stats.merged(other.stats);
    }

    /// Root mean square error over the finite values.
    pub fn rmse(&self) -> f64 {
        if self.stats.n == 0 { 0.0 } else { (self.sum_squares / self.stats.n as f64).sqrt() }
    }

    /// Root mean square error over the range.
    pub fn nrmse(&self) -> f64 {
        if self.rmse() == 0.0 { 0.0 } else { self.rmse() / self.stats.range() }
    }

    /// Peak signal-to-noise ratio in dB; infinite without errors.
    pub fn psnr(&self) -> f64 {
        -20.0 * self.nrmse().log10()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value by value, as the definition has it.
    fn compared(original: &[f32], restored: &[f32], bound: &Resolved, fill: Option<f32>) -> Comparison {
        let mut c = Comparison { n: original.len() as u64, ..Comparison::default() };
        for (&x, &y) in original.iter().zip(restored) {
            if is_special(x, fill) || is_special(y, fill) {
                c.violations += u64::from(x.to_bits() != y.to_bits());
                continue;
            }
            let (x, y) = (f64::from(x), f64::from(y));
            let (error, allowed) = ((y - x).abs(), bound.at(x));
            c.stats = c.stats.merged(Stats { min: x, max: x, n: 1 });
            c.sum_squares += error * error;
            c.max_error = c.max_error.max(error);
            if allowed > 0.0 {
                c.max_error_over_bound = c.max_error_over_bound.max(error / allowed);
            }
            c.violations += u64::from(error > allowed);
        }
        c
    }

    #[test]
    fn comparisons_are_those_of_the_definition() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, -999.0, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for n in [0, 1, 7, 8, 9, 1000, 70_001] {
            let original: Vec<f32> = (0..n)
                .map(|_| if random() % 16 == 0 { odd[random() as usize % odd.len()] } else { random() as f32 * 1e-5 })
                .collect();
            let restored: Vec<f32> = original
                .iter()
                .map(|&x| match random() % 32 {
                    0 => odd[random() as usize % odd.len()],
                    _ => x + (random() % 5) as f32 * 0.01,
                })
                .collect();
            let mean_square = Resolved::MeanSquare { absolute: 0.02, max_mse: 1.0 };
            for bound in [Resolved::Exact, Resolved::Absolute(0.03), Resolved::PointWise(1e-3), mean_square] {
                for fill in [None, Some(-999.0)] {
                    let (mut found, wanted) = (Comparison::default(), compared(&original, &restored, &bound, fill));
                    found.add(&original, &restored, &bound, fill);
                    assert!((found.sum_squares - wanted.sum_squares).abs() <= 1e-9 * wanted.sum_squares);
                    assert_eq!(Comparison { sum_squares: wanted.sum_squares, ..found }, wanted, "{n} {bound:?}");
                }
            }
        }
        let mut longer = Comparison::default();
        longer.add(&[1.0f32; 70_000], &[1.0; 3], &Resolved::Exact, None);
        assert_eq!((longer.n, longer.violations, longer.stats.n), (70_000, 69_997, 3));
    }

    #[test]
    fn powers_have_the_same_bits_everywhere() {
        // glibc 2.36 has other last bits for all of them.
        for (psnr, bits) in [(1.35, 0x3ff2_b0c1_f727_46e4), (2.25, 0x3ff4_bb21_f97b_2a5e), (3.7, 0x3ff8_7f55_90f3_d6ee)]
        {
            assert_eq!(peak_over_rmse(psnr).to_bits(), bits, "{psnr} dB");
        }
        assert_eq!(peak_over_rmse(60.0), 1000.0);
    }
}
