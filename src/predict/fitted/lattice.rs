//! The geometry: lattices of stride 2^level, and the planes that a lattice falls into.
//!
//! The lattice of stride `h` has the points `(i·h, j·h)`. By the parity of `i` and `j` it falls into four planes: `K` (even, even),
//! the coarser lattice and known; then, in this order, `A` (odd, odd), `B1` (odd, even), `B2` (even, odd). In planes all neighbours
//! of a row of points are contiguous rows, so that no kernel gathers.

use crate::scratch::Buffer;
use bytemuck::Pod;
use std::ops::Range;

/// Planes of a lattice by parity.
pub const K: u8 = 0;
/// Odd rows, odd columns.
pub const A: u8 = 1;
/// Odd rows, even columns.
pub const B1: u8 = 2;
/// Even rows, odd columns.
pub const B2: u8 = 3;

/// Places beyond each edge that neighbours may name.
const HALO: usize = 2;

/// Lattice sizes of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lattices {
    /// Rows of the image.
    pub ny: usize,
    /// Columns.
    pub nx: usize,
    /// Number of refinements; the base lattice has stride `2^levels`.
    pub levels: usize,
}

impl Lattices {
    /// The base lattice has stride 64 where both axes are long, less where they are not.
    pub fn new(ny: usize, nx: usize) -> Self {
        const MOST: usize = 6;
        const LEAST: usize = 3;
        let short = if ny == 1 { nx } else { ny.min(nx) };
        let mut levels = MOST;
        while levels > LEAST && short < 2 << levels {
            levels -= 1;
        }
        Self { ny, nx, levels }
    }

    /// Rows and columns of the lattice of stride `2^level`.
    pub fn size(&self, level: usize) -> (usize, usize) {
        (self.ny.div_ceil(1 << level), self.nx.div_ceil(1 << level))
    }

    /// Rows and columns of a plane of the lattice of stride `2^level`.
    pub fn plane_size(&self, level: usize, plane: u8) -> (usize, usize) {
        let ((ny, nx), (ky, kx)) = (self.size(level), self.size(level + 1));
        match plane {
            K => (ky, kx),
            A => (ny - ky, nx - kx),
            B1 => (ny - ky, kx),
            _ => (ky, nx - kx),
        }
    }

    /// Distance of rows in the planes of the lattice of stride `2^level`.
    pub fn stride(&self, level: usize) -> usize {
        stride_of(self.size(level + 1).1)
    }

    /// Raster position of a plane's first point, and the distances of its rows and columns.
    pub fn raster(&self, level: usize, plane: u8) -> (usize, usize, usize) {
        let h = 1 << level;
        let (odd_row, odd_column) = (usize::from(plane == A || plane == B1), usize::from(plane == A || plane == B2));
        (odd_row * h * self.nx + odd_column * h, 2 * h * self.nx, 2 * h)
    }

    /// Whether columns are a circle on the lattice of stride `2^level`.
    pub fn wraps(&self, level: usize, periodic: bool) -> bool {
        periodic && self.nx.is_multiple_of(2 << level)
    }
}

/// A plane with a margin on all sides. All planes of a lattice have the same stride, so that a neighbour is as far away in one plane
/// as in another and several rows, with the margins between, are one run of values.
#[derive(Clone, Debug)]
pub struct Plane<T: Pod> {
    data: Buffer<T>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    stride: usize,
}

impl<T: Pod> Default for Plane<T> {
    fn default() -> Self {
        Self { data: Buffer::default(), rows: 0, columns: 0, stride: 0 }
    }
}

/// Distance of rows in planes of up to `columns` columns.
pub fn stride_of(columns: usize) -> usize {
    columns + 2 * HALO
}

impl<T: Pod> Plane<T> {
    /// A plane whose values are yet to be written.
    pub fn new((rows, columns): (usize, usize), stride: usize) -> Self {
        if rows == 0 || columns == 0 {
            return Self::default();
        }
        // A run over the rows of a plane with one row more, two rows and columns away, stays within.
        Self { data: Buffer::new((rows + 1 + 2 * HALO) * stride + 2 * HALO), rows, columns, stride }
    }

    /// Sets all values to zero.
    pub fn clear(&mut self) {
        self.data.fill(T::zeroed());
    }

    /// Whether it has no point.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Index of column `j` of row `i` in a run.
    #[inline]
    pub fn at(stride: usize, i: usize, j: usize) -> usize {
        (i + HALO) * stride + j + HALO
    }

    /// `n` values from `start` (see [`Plane::at`]), `di` rows and `dj` columns away.
    #[inline]
    pub fn run(&self, start: usize, di: i8, dj: i8, n: usize) -> &[T] {
        let away = isize::from(di) * self.stride as isize + isize::from(dj);
        &self.data[start.wrapping_add_signed(away)..][..n]
    }

    /// Row `i`.
    #[inline]
    pub fn row(&self, i: usize) -> &[T] {
        &self.data[Self::at(self.stride, i, 0)..][..self.columns]
    }

    /// Row `i`.
    #[inline]
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        &mut self.data[Self::at(self.stride, i, 0)..][..self.columns]
    }

    /// Blocks of so many `rows`, one after the other from the first on; each is a slice of whole rows with margins.
    pub fn blocks_mut(&mut self, rows: impl Iterator<Item = Range<usize>>) -> impl Iterator<Item = RowBlock<'_, T>> {
        let (stride, columns) = (self.stride, self.columns);
        let mut rest = &mut self.data[HALO * stride..];
        rows.map(move |rows| {
            let (here, later) = std::mem::take(&mut rest).split_at_mut(rows.len() * stride);
            rest = later;
            RowBlock { data: here, first: rows.start, stride, columns }
        })
    }

    /// Makes up what lies beyond the edges: the other side of a circle, or the nearest point.
    pub fn fill_margins(&mut self, wrap: bool) {
        for i in 0..self.rows {
            let start = (HALO + i) * self.stride;
            fill_margins_of(&mut self.data[start..][..self.stride], self.columns, wrap);
        }
        self.fill_outer_rows();
    }

    /// The same, where each row has its margins already (see [`RowBlock::fill_margins`]).
    pub fn fill_outer_rows(&mut self) {
        if self.is_empty() {
            return;
        }
        let stride = self.stride;
        for k in 0..HALO {
            self.data.copy_within(HALO * stride..(HALO + 1) * stride, k * stride);
        }
        let last = HALO + self.rows - 1;
        for k in 1..=HALO + 1 {
            self.data.copy_within(last * stride..(last + 1) * stride, (last + k) * stride);
        }
        let end = self.data.len() - 2 * HALO;
        self.data.copy_within(end - 2 * HALO..end, end);
    }
}

/// Makes up what lies to the left and the right of a row of `columns` values, which is given with its margins.
fn fill_margins_of<T: Copy>(row: &mut [T], columns: usize, wrap: bool) {
    for k in 0..HALO {
        let (left, right) = if wrap { (columns - 1 - k % columns, k % columns) } else { (0, columns - 1) };
        row[HALO - 1 - k] = row[HALO + left];
        row[HALO + columns + k] = row[HALO + right];
    }
    // Of narrower planes.
    let last = row[HALO + columns + HALO - 1];
    row[HALO + columns + HALO..].fill(last);
}

/// Where block `b` of `n` blocks of rows begins.
pub fn block_limit(n_rows: usize, b: usize, n: usize) -> usize {
    n_rows * b / n
}

/// Consecutive rows of a plane.
pub struct RowBlock<'a, T> {
    data: &'a mut [T],
    /// The first row.
    pub first: usize,
    stride: usize,
    columns: usize,
}

impl<T: Copy> RowBlock<'_, T> {
    /// Row `i` of the plane.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        &mut self.data[(i - self.first) * self.stride + HALO..][..self.columns]
    }

    /// `n` values from the first of row `i` on: rows with what lies between them.
    pub fn run_mut(&mut self, i: usize, n: usize) -> &mut [T] {
        &mut self.data[(i - self.first) * self.stride + HALO..][..n]
    }

    /// Makes up what lies to the left and the right of row `i`: whoever wrote it has it at hand, another thread would have to fetch it.
    pub fn fill_margins(&mut self, i: usize, wrap: bool) {
        fill_margins_of(&mut self.data[(i - self.first) * self.stride..][..self.stride], self.columns, wrap);
    }
}

/// A neighbour: which image (0 the one at work, then its side images), which plane, how many rows and columns away there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Image.
    pub image: u8,
    /// Plane.
    pub plane: u8,
    /// Rows away.
    pub di: i8,
    /// Columns away.
    pub dj: i8,
}

impl Tap {
    /// The neighbour of a point of `phase` on the opposite side.
    pub fn turned(self, phase: u8) -> Self {
        let is_odd = |plane: u8| (i8::from(plane == A || plane == B1), i8::from(plane == A || plane == B2));
        let ((ty, tx), (py, px)) = (is_odd(self.plane), is_odd(phase));
        Self { di: py - ty - self.di, dj: px - tx - self.dj, ..self }
    }
}

const fn tap(plane: u8, di: i8, dj: i8) -> Tap {
    Tap { image: 0, plane, di, dj }
}

/// The nearest known points of a phase, at most four, and those around them.
pub fn own_taps(phase: u8) -> (&'static [Tap], &'static [Tap]) {
    const NEAR_A: [Tap; 4] = [tap(K, 0, 0), tap(K, 0, 1), tap(K, 1, 0), tap(K, 1, 1)];
    const FAR_A: [Tap; 12] = [
        tap(K, 0, -1),
        tap(K, 0, 2),
        tap(K, 1, -1),
        tap(K, 1, 2),
        tap(K, -1, 0),
        tap(K, -1, 1),
        tap(K, 2, 0),
        tap(K, 2, 1),
        tap(K, -1, -1),
        tap(K, -1, 2),
        tap(K, 2, -1),
        tap(K, 2, 2),
    ];
    const NEAR_B1: [Tap; 4] = [tap(K, 0, 0), tap(K, 1, 0), tap(A, 0, -1), tap(A, 0, 0)];
    const FAR_B1: [Tap; 12] = [
        tap(K, 0, -1),
        tap(K, 0, 1),
        tap(K, 1, -1),
        tap(K, 1, 1),
        tap(A, -1, -1),
        tap(A, -1, 0),
        tap(A, 1, -1),
        tap(A, 1, 0),
        tap(K, -1, 0),
        tap(K, 2, 0),
        tap(A, 0, -2),
        tap(A, 0, 1),
    ];
    const NEAR_B2: [Tap; 4] = [tap(A, -1, 0), tap(A, 0, 0), tap(K, 0, 0), tap(K, 0, 1)];
    const FAR_B2: [Tap; 16] = [
        tap(B1, -1, 0),
        tap(B1, -1, 1),
        tap(B1, 0, 0),
        tap(B1, 0, 1),
        tap(A, -1, -1),
        tap(A, -1, 1),
        tap(A, 0, -1),
        tap(A, 0, 1),
        tap(K, -1, 0),
        tap(K, -1, 1),
        tap(K, 1, 0),
        tap(K, 1, 1),
        tap(A, -2, 0),
        tap(A, 1, 0),
        tap(K, 0, -1),
        tap(K, 0, 2),
    ];
    match phase {
        A => (&NEAR_A, &FAR_A),
        B1 => (&NEAR_B1, &FAR_B1),
        _ => (&NEAR_B2, &FAR_B2),
    }
}

/// The place itself and the eight around it, in an image that is known as a whole: place, axes, diagonals.
pub fn side_taps(phase: u8) -> [Tap; 9] {
    let (vertical, horizontal, diagonal) = match phase {
        A => (B2, B1, K),
        B1 => (K, A, B2),
        _ => (A, K, B1),
    };
    // An odd row lies between even rows 0 and 1 (in their plane), an even one between odd rows −1 and 0; so do columns.
    let (up, down) = if phase == B2 { (-1, 0) } else { (0, 1) };
    let (left, right) = if phase == B1 { (-1, 0) } else { (0, 1) };
    [
        tap(phase, 0, 0),
        tap(vertical, up, 0),
        tap(vertical, down, 0),
        tap(horizontal, 0, left),
        tap(horizontal, 0, right),
        tap(diagonal, up, left),
        tap(diagonal, up, right),
        tap(diagonal, down, left),
        tap(diagonal, down, right),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row and column of a point on its lattice.
    fn place(plane: u8, i: isize, j: isize) -> (isize, isize) {
        (2 * i + isize::from(plane == A || plane == B1), 2 * j + isize::from(plane == A || plane == B2))
    }

    #[test]
    fn taps_are_where_they_should_be() {
        for phase in [A, B1, B2] {
            let here = place(phase, 5, 5);
            let away = |t: &Tap| {
                let (y, x) = place(t.plane, 5 + t.di as isize, 5 + t.dj as isize);
                ((y - here.0).abs(), (x - here.1).abs())
            };
            let (near, far) = own_taps(phase);
            assert!(near.iter().all(|t| away(t) == if phase == A { (1, 1) } else { (away(t).0, 1 - away(t).0) }));
            assert!(far.iter().all(|t| away(t).0 <= 3 && away(t).1 <= 3 && t.plane < phase));
            let side: Vec<_> = side_taps(phase).iter().map(away).collect();
            assert_eq!(side, [(0, 0), (1, 0), (1, 0), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
        }
    }

    #[test]
    fn planes_partition_the_image() {
        for (ny, nx) in [(1, 1), (1, 9), (7, 1), (61, 120), (130, 257)] {
            let lattices = Lattices::new(ny, nx);
            let mut seen = vec![0; ny * nx];
            let base = lattices.size(lattices.levels);
            let mut mark = |(rows, columns): (usize, usize), (start, dy, dx): (usize, usize, usize)| {
                (0..rows * columns).for_each(|k| seen[start + k / columns * dy + k % columns * dx] += 1);
            };
            mark(base, (0, nx << lattices.levels, 1 << lattices.levels));
            for level in 0..lattices.levels {
                [A, B1, B2].iter().for_each(|&p| mark(lattices.plane_size(level, p), lattices.raster(level, p)));
            }
            assert!(seen.iter().all(|&n| n == 1), "{ny} × {nx}");
        }
    }
}
