//! The geometry of the hierarchy: which passes there are, and where their values lie in the raster.

use super::{Interp, Order};

/// Most axes of a tile.
pub const MAX_AXES: usize = crate::field::MAX_FIELD_DIMS;

/// The refinement of one axis at one level.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Level, 1 is the finest; the stride after the pass is `2^(level − 1)` on refined axes.
    pub level: usize,
    /// The axis.
    pub axis: usize,
    /// The formula.
    pub order: Order,
    /// Whether the axis is a circle on this lattice.
    pub wrap: bool,
    /// Number of axes.
    pub n_axes: usize,
    /// Lengths of the lattice before the pass.
    pub before: [usize; MAX_AXES],
    /// Lengths after.
    pub after: [usize; MAX_AXES],
    /// Raster distance between lattice neighbours after the pass, for each axis.
    pub stride: [usize; MAX_AXES],
}

impl Pass {
    /// Whether new values lie between known ones of the same row.
    pub fn is_on_last_axis(&self) -> bool {
        self.axis + 1 == self.n_axes
    }

    /// Number of values of the lattice after the pass.
    pub fn n_after(&self) -> usize {
        self.after[..self.n_axes].iter().product()
    }

    /// Number of new values on the axis.
    pub fn n_odd(&self) -> usize {
        self.after[self.axis] - self.before[self.axis]
    }

    /// Number of combinations of indices of the axes before the axis.
    pub fn n_outer(&self) -> usize {
        self.after[..self.axis].iter().product()
    }

    /// Number of combinations of indices of the axes after the axis.
    pub fn n_inner(&self) -> usize {
        self.after[self.axis + 1..self.n_axes].iter().product()
    }

    /// Number of codes.
    pub fn n_codes(&self) -> usize {
        self.n_outer() * self.n_odd() * self.n_inner()
    }

    /// Length of a row: new values that follow each other on the last axis.
    pub fn row_len(&self) -> usize {
        if self.axis + 1 == self.n_axes { self.n_odd() } else { self.after[self.n_axes - 1] }
    }

    /// Raster distance between the values of a row.
    pub fn row_stride(&self) -> usize {
        let last = self.n_axes - 1;
        if self.axis == last { 2 * self.stride[last] } else { self.stride[last] }
    }

    /// Raster position of the first value of row `row`.
    pub fn row_start(&self, mut row: usize) -> usize {
        let last = self.n_axes - 1;
        let mut start = if self.axis == last { self.stride[last] } else { 0 };
        for k in (0..last).rev() {
            let n = if k == self.axis { self.n_odd() } else { self.after[k] };
            let i = row % n;
            row /= n;
            start += self.stride[k] * if k == self.axis { 2 * i + 1 } else { i };
        }
        start
    }
}

/// `n!`
pub fn factorial(n: usize) -> usize {
    (1..=n).product()
}

/// The permutation of `0..n` with the given index in lexicographic order.
pub fn permutation(n: usize, mut index: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..n).collect();
    (0..n)
        .map(|k| {
            let block = factorial(n - 1 - k);
            let i = (index / block).min(left.len() - 1);
            index %= block;
            left.remove(i)
        })
        .collect()
}

/// The index of a permutation of `0..n`, the inverse of [`permutation`].
pub fn permutation_index(order: &[usize]) -> usize {
    let n = order.len();
    (0..n).map(|k| order[k + 1..].iter().filter(|&&o| o < order[k]).count() * factorial(n - 1 - k)).sum()
}

/// Number of levels of a tile: until one value is left on every active axis.
pub fn level_count(shape: &[usize], active: u8) -> usize {
    let longest = shape.iter().enumerate().filter(|(k, _)| active >> k & 1 == 1).map(|(_, &n)| n).max().unwrap_or(1);
    longest.max(1).next_power_of_two().trailing_zeros() as usize
}

/// Values of the coarsest lattice: one a slice.
pub fn anchor_count(shape: &[usize], active: u8) -> usize {
    shape.iter().enumerate().filter(|(k, _)| active >> k & 1 == 0).map(|(_, &n)| n).product()
}

/// Raster distances between neighbours.
pub fn raster_strides(shape: &[usize]) -> [usize; MAX_AXES] {
    let mut strides = [1; MAX_AXES];
    for k in (0..shape.len().saturating_sub(1)).rev() {
        strides[k] = strides[k + 1] * shape[k + 1];
    }
    strides
}

/// Raster positions of the anchors.
pub fn anchors(shape: &[usize], active: u8) -> impl Iterator<Item = usize> {
    let strides = raster_strides(shape);
    let shape = shape.to_vec();
    (0..anchor_count(&shape, active)).map(move |mut i| {
        let mut position = 0;
        for k in (0..shape.len()).rev().filter(|k| active >> k & 1 == 0) {
            position += i % shape[k] * strides[k];
            i /= shape[k];
        }
        position
    })
}

/// The passes of one level (1 is the finest), in coding order.
pub fn level_passes(plan: &Interp, shape: &[usize], level: usize) -> Vec<Pass> {
    let n_axes = shape.len();
    let choice = plan.levels[plan.levels.len() - level];
    let raster = raster_strides(shape);
    let len_at = |k: usize, stride: usize| shape[k].div_ceil(stride);
    let is_active = |k: usize| plan.active >> k & 1 == 1;
    let (coarse, fine) = (1usize << level, 1usize << (level - 1));
    let mut lens = [1; MAX_AXES];
    let mut stride = [0; MAX_AXES];
    for k in 0..n_axes {
        let h = if is_active(k) { coarse } else { 1 };
        lens[k] = len_at(k, h);
        stride[k] = raster[k] * h;
    }
    let mut passes = Vec::new();
    for axis in permutation(n_axes, usize::from(choice.permutation)) {
        if !is_active(axis) {
            continue;
        }
        let before = lens;
        stride[axis] = raster[axis] * fine;
        lens[axis] = len_at(axis, fine);
        if lens[axis] > before[axis] {
            let wrap = plan.wrap && axis + 1 == n_axes && shape[axis].is_multiple_of(coarse);
            passes.push(Pass { level, axis, order: choice.order, wrap, n_axes, before, after: lens, stride });
        }
    }
    passes
}

/// All passes, in coding order, after the anchors.
pub fn passes(plan: &Interp, shape: &[usize]) -> Vec<Pass> {
    (1..=plan.levels.len()).rev().flat_map(|level| level_passes(plan, shape, level)).collect()
}

/// Calls `f(raster start, raster stride, length)` for all runs of values in coding order.
pub fn for_each_run(plan: &Interp, shape: &[usize], mut f: impl FnMut(usize, usize, usize)) {
    for position in anchors(shape, plan.active) {
        f(position, 1, 1);
    }
    for pass in passes(plan, shape) {
        let (len, stride) = (pass.row_len(), pass.row_stride());
        for row in 0..pass.n_codes().checked_div(len).unwrap_or(0) {
            f(pass.row_start(row), stride, len);
        }
    }
}
