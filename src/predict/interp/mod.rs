//! Multi-level interpolation: a hierarchy of lattices, coarse to fine, each refined axis by axis.
//!
//! At level `l` the lattice of stride `2^l` is known. For each axis in turn, in the order that the plan gives, the values half-way
//! between known ones are predicted from four known neighbours on that axis, `a b | c d`:
//!
//! | order | prediction | exact for |
//! |---|---|---|
//! | linear | (b + c) / 2 | straight lines |
//! | cubic | (9 (b + c) − (a + d)) / 16 | cubics |
//! | natural | (23 (b + c) − 3 (a + d)) / 40 | the natural cubic spline through four points |
//!
//! Beyond an end of the axis neighbours are extrapolated (quadratic, for `linear` straight), which gives the one-sided
//! formulas without a branch in the loop; with `wrap` the last axis is a circle (longitude) on every level whose stride divides
//! its length. Axes that are not `active` are never refined: each index is an independent slice of its own.
//! Coarse levels may use narrower bins: at level `l` bins are `min(alpha^(l−1), beta)` times narrower.
//!
//! Codes come in the order of the passes; within a pass in C order. Class: `BitExact`.

pub mod choose;
pub mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod lattice;

use super::{Begun, Coded, Predictor};
use crate::encode::bytes::Reader;
use crate::error::{Error, Result};
use crate::quantize::Quantizer;
use crate::quantize::cpu::{Kernels, Weights};

/// Which four-point formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Two points.
    Linear,
    /// Four points, Lagrange.
    Cubic,
    /// Four points, natural spline.
    Natural,
}

impl Order {
    /// All, by their id in the archive.
    pub const ALL: [Order; 3] = [Order::Linear, Order::Cubic, Order::Natural];

    /// Weights of the formula, rounded to `T`.
    pub fn weights<T: Kernels>(self) -> Weights<T> {
        let (inner, outer) = match self {
            Order::Linear => (0.5, 0.0),
            Order::Cubic => (0.5625, 0.0625),
            Order::Natural => (0.575, 0.075),
        };
        Weights { inner: T::from_f64(inner), outer: T::from_f64(outer) }
    }
}

/// What the plan says of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The formula.
    pub order: Order,
    /// Order in which the axes are refined: index of a permutation, in lexicographic order.
    pub permutation: u8,
}

/// All decisions of the interpolation of a tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interp {
    /// Bit `k` is set if axis `k` of the tile (axes of length 1 left out) is refined.
    pub active: u8,
    /// The last axis is a circle.
    pub wrap: bool,
    /// Sixteenths by which bins get narrower from each level to the next coarser one (16: not at all).
    pub alpha_sixteenths: u8,
    /// Sixteenths of the narrowest bins' factor.
    pub beta_sixteenths: u8,
    /// Per level, the coarsest first.
    pub levels: Vec<Level>,
}

impl Interp {
    /// The same choice on every level of a tile of `shape`.
    pub fn uniform(shape: &[usize], active: u8, wrap: bool, level: Level) -> Self {
        let n_levels = lattice::level_count(shape, active);
        Self { active, wrap, alpha_sixteenths: 16, beta_sixteenths: 16, levels: vec![level; n_levels] }
    }

    /// The same plan with another choice for `level` (1 is the finest).
    fn with_level(&self, level: usize, choice: Level) -> Self {
        let mut plan = self.clone();
        let n = plan.levels.len();
        plan.levels[n - level] = choice;
        plan
    }

    /// How much narrower bins are at `level` (1 is the finest).
    pub fn narrowing(&self, level: usize) -> f64 {
        let (alpha, beta) = (f64::from(self.alpha_sixteenths) / 16.0, f64::from(self.beta_sixteenths) / 16.0);
        let mut factor = 1.0;
        for _ in 1..level {
            factor *= alpha;
        }
        if factor < beta { factor } else { beta }
    }

    /// Reads what [`Predictor::write`] wrote, for a tile of `shape` (axes of length 1 left out).
    ///
    /// # Errors
    /// `Corrupt` if a field is out of range.
    pub fn read(reader: &mut Reader<'_>, shape: &[usize]) -> Result<Self> {
        let bad = || Error::corrupt("plan of the interpolation is damaged");
        let active = reader.byte()?;
        let flags = reader.byte()?;
        let (alpha, beta) = (reader.byte()?, reader.byte()?);
        if u32::from(active) >= 1 << shape.len() || flags > 1 || alpha < 16 || beta < 16 {
            return Err(bad());
        }
        let n_permutations = lattice::factorial(shape.len());
        let mut levels = Vec::new();
        for _ in 0..lattice::level_count(shape, active) {
            let b = reader.byte()?;
            let order = *Order::ALL.get(usize::from(b & 3)).ok_or_else(bad)?;
            let permutation = b >> 2;
            // Five axes have 120 permutations: only the first 64 fit, which still put any of the last four axes first.
            if usize::from(permutation) >= n_permutations {
                return Err(bad());
            }
            levels.push(Level { order, permutation });
        }
        Ok(Self { active, wrap: flags == 1, alpha_sixteenths: alpha, beta_sixteenths: beta, levels })
    }
}

impl<T: Kernels> Predictor<T> for Interp {
    fn id(&self) -> u8 {
        super::INTERP
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.active, u8::from(self.wrap), self.alpha_sixteenths, self.beta_sixteenths]);
        out.extend(self.levels.iter().map(|l| l.order as u8 | l.permutation << 2));
    }

    fn encode(&self, values: &[T], shape: &[usize], base: T, q: &Quantizer<T>) -> Coded {
        cpu::encode(self, values, shape, base, q)
    }

    fn begin(&self, first: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Option<Begun<T>> {
        cpu::begin(self, first, shape, base, q)
    }

    fn finish(&self, begun: Option<Begun<T>>, codes: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T> {
        cpu::finish(self, begun, codes, shape, base, q)
    }

    fn for_each_run(&self, shape: &[usize], f: &mut dyn FnMut(usize, usize, usize)) {
        lattice::for_each_run(self, shape, f);
    }

    fn describe(&self) -> String {
        let axes: Vec<_> = (0..8).filter(|k| self.active >> k & 1 == 1).map(|k| k.to_string()).collect();
        let finest = self.levels.last().map_or_else(String::new, |l| format!(", {:?}", l.order).to_lowercase());
        let wrap = if self.wrap { ", wrap" } else { "" };
        format!("interp (axes {}{finest}{wrap})", axes.join(","))
    }
}
