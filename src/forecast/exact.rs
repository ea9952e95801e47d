//! The arithmetic of transformers with the same bits on every CPU and for any number of threads.
//!
//! What a model computes here may decide a symbol, so nothing is left to a library: every sum has one order, which depends neither on the
//! width of the vectors nor on blocking nor on threads; exponential and error function are polynomials of ours. Only IEEE additions,
//! multiplications, divisions and square roots remain, fused multiply-adds where products of matrices are summed, and integer steps.
//!
//! * A sum over `k` runs in blocks of [`K_BLOCK`] terms, each from zero and in order; the blocks' sums are added in order.
//! * Attention runs over keys in blocks of [`KEY_BLOCK`], with the running maximum and sum of Milakov and Gimelshein (arXiv:1805.02867), so that
//!   no matrix of tokens by tokens exists.
//!
//! A fused multiply-add is rounded once, by IEEE 754, so that it is as much the same everywhere as the others; processors without one (x86-64
//! from before 2013) compute it in software, slowly. The tiles reach several times the speed of plain loops because they stay in vector
//! registers (16 lanes with AVX-512, else 8 or 4).

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Terms of a block of a sum. Part of the definition of results.
pub const K_BLOCK: usize = 256;
/// Keys of a block of attention, a multiple of `MR` and of 8. Part of the definition of results.
pub const KEY_BLOCK: usize = 240;

/// Rows of a tile: 12 rows of two 16-lane vectors leave room in 32 registers for two vectors of `b` and an element of `a`.
const MR: usize = 12;
/// Columns of a tile, and of a panel of packed weights.
const NR: usize = 32;
/// Rows that one task takes. A block of `a` (96 x 256 floats, 98 kB) stays in the second-level cache.
const ROW_BLOCK: usize = 96;
/// Rows of a tile of values of attention: divides 64 and 72, the widths of heads.
const VR: usize = 8;
/// Panels of 32 queries that share each block of keys while it is in the cache.
const QUERY_PANELS: usize = 2;

/// A matrix in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Columns.
    pub n: usize,
    /// Values, row after row.
    pub data: Vec<f32>,
}

impl Rows {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, n: usize) -> Self {
        Self { n, data: vec![0.0; rows * n] }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.n).unwrap_or(0)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// Where the rows of a left factor come from: a matrix, patches of an image, heads.
pub trait Source: Sync {
    /// Writes elements `k0..k0 + out.len()` of a row.
    fn read(&self, row: usize, k0: usize, out: &mut [f32]);
}

impl Source for Rows {
    fn read(&self, row: usize, k0: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.n + k0..][..out.len()]);
    }
}

/// A right factor of `k` rows and `n` columns, in panels of 32 columns.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Rows: terms of each sum.
    pub k: usize,
    /// Columns.
    pub n: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs the weights of a linear layer as PyTorch stores them: `n` rows of `k`.
    pub fn from_linear(weight: &[f32], n: usize, k: usize) -> Self {
        Self::pack(weight, k, n, 1, k)
    }

    /// Packs a matrix of `k` rows of `n`.
    pub fn from_matrix(matrix: &[f32], k: usize, n: usize) -> Self {
        Self::pack(matrix, k, n, n, 1)
    }

    fn pack(values: &[f32], k: usize, n: usize, k_stride: usize, n_stride: usize) -> Self {
        assert!(values.len() == k * n, "a matrix of {k} x {n} has {} values", values.len());
        let mut panels = vec![0.0; k * n.next_multiple_of(NR)];
        panels.par_chunks_mut((k * NR).max(1)).enumerate().for_each(|(p, panel)| {
            for j in p * NR..n.min((p + 1) * NR) {
                for (i, row) in panel.chunks_exact_mut(NR).enumerate() {
                    row[j - p * NR] = values[i * k_stride + j * n_stride];
                }
            }
        });
        Self { k, n, panels }
    }
}

/// `out = a b`, `rows` rows; then `then(first row, rows)` on pieces of whole rows.
pub fn matmul(a: &dyn Source, rows: usize, b: &Packed, then: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Rows {
    let mut out = Rows::zeros(rows, b.n);
    matmul_into(a, b, &mut out.data, then);
    out
}

/// As [`matmul`], into `out`, whatever was there.
pub fn matmul_into(a: &dyn Source, b: &Packed, out: &mut [f32], then: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    if b.n == 0 {
        return;
    }
    if b.k == 0 {
        out.fill(0.0);
    }
    let arch = Arch::new();
    out.par_chunks_mut(ROW_BLOCK * b.n).enumerate().for_each(|(i, out)| {
        arch.dispatch(Block { a, row0: i * ROW_BLOCK, b, out });
        then(i * ROW_BLOCK, out);
    });
}

/// `R` x `V` vectors of the product of a panel of `a` (k x MR) and one of `b` (k x 32), from row `i0` and column `j0`.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize, const M: usize>(
    simd: S,
    a: &[[f32; M]],
    i0: usize,
    b: &[[f32; NR]],
    j0: usize,
) -> [[S::f32s; V]; R] {
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    for (a, b) in a.iter().zip(b) {
        // 32 floats are whole vectors of 1 to 16 lanes.
        let Some(b) = S::as_simd_f32s(&b[j0..]).0.first_chunk::<V>() else { return acc };
        let Some(a) = a[i0..].first_chunk::<R>() else { return acc };
        // Indexed, with bounds known when compiled: then the sums stay in registers.
        for i in 0..R {
            let x = simd.splat_f32s(a[i]);
            for v in 0..V {
                acc[i][v] = simd.mul_add_f32s(x, b[v], acc[i][v]);
            }
        }
    }
    acc
}

/// Gives `put(row, first column, vectors)` the product of a whole panel of `a` and one of `b`, in tiles that fit the registers.
#[inline(always)]
fn tiles<S: Simd, const M: usize>(
    simd: S,
    a: &[[f32; M]],
    b: &[[f32; NR]],
    mut put: impl FnMut(usize, usize, &[S::f32s]),
) {
    if S::F32_LANES == 16 {
        for (i, row) in tile::<S, M, 2, M>(simd, a, 0, b, 0).iter().enumerate() {
            put(i, 0, row);
        }
        return;
    }
    for i0 in (0..M).step_by(4) {
        for j0 in (0..NR).step_by(2 * S::F32_LANES) {
            if S::F32_LANES * 2 <= NR {
                for (i, row) in tile::<S, 4, 2, M>(simd, a, i0, b, j0).iter().enumerate() {
                    put(i0 + i, j0, row);
                }
            }
        }
    }
}

/// One task of a product: up to 96 rows, all columns.
struct Block<'a> {
    a: &'a dyn Source,
    row0: usize,
    b: &'a Packed,
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block { a, row0, b, out } = self;
        let rows = out.len() / b.n;
        let mut packed = vec![[0f32; MR]; rows.div_ceil(MR) * K_BLOCK];
        let mut line = [0f32; K_BLOCK];
        let (panels, _) = b.panels.as_chunks::<NR>();
        for k0 in (0..b.k).step_by(K_BLOCK) {
            let k = K_BLOCK.min(b.k - k0);
            // Nothing is read that was not written: a page that is read first is mapped twice, and all cores hear of it.
            let is_first = k0 == 0;
            for i in 0..rows {
                a.read(row0 + i, k0, &mut line[..k]);
                let panel = &mut packed[i / MR * K_BLOCK..][..k];
                for (p, x) in panel.iter_mut().zip(&line) {
                    p[i % MR] = *x;
                }
            }
            for (j, panel) in panels.chunks_exact(b.k).enumerate() {
                let panel = &panel[k0..k0 + k];
                let columns = NR.min(b.n - j * NR);
                for (i, a) in packed.chunks_exact(K_BLOCK).enumerate() {
                    let live = MR.min(rows - i * MR);
                    let out = &mut out[i * MR * b.n + j * NR..];
                    tiles(simd, &a[..k], panel, |r, c, vectors| {
                        if r < live && c < columns {
                            let row = &mut out[r * b.n + c..];
                            let columns = columns - c;
                            if columns >= vectors.len() * S::F32_LANES {
                                for (x, sum) in S::as_mut_simd_f32s(row).0.iter_mut().zip(vectors) {
                                    let before = if is_first { simd.splat_f32s(0.0) } else { *x };
                                    *x = simd.add_f32s(before, *sum);
                                }
                            } else {
                                let mut sums = [0f32; NR];
                                let lanes = S::as_mut_simd_f32s(&mut sums).0;
                                lanes.iter_mut().zip(vectors).for_each(|(x, sum)| *x = *sum);
                                for (x, sum) in row.iter_mut().zip(&sums).take(columns) {
                                    *x = if is_first { 0.0 } else { *x } + sum;
                                }
                            }
                        }
                    });
                }
            }
        }
    }
}

/// Adds `bias` to each row.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len().max(1)) {
        for (x, b) in row.iter_mut().zip(bias) {
            *x += b;
        }
    }
}

/// A function of a value.
trait Function {
    fn of(x: f32) -> f32;
}

/// A function of each value, compiled for the processor's vectors.
struct Each<'a, F>(&'a mut [f32], std::marker::PhantomData<F>);

impl<F: Function> WithSimd for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.0 {
            *x = F::of(*x);
        }
    }
}

/// Gaussian error linear unit, x Φ(x) with the exact Φ, of each value.
pub fn gelu(values: &mut [f32]) {
    struct Gelu;
    impl Function for Gelu {
        #[inline(always)]
        fn of(x: f32) -> f32 {
            0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
        }
    }
    Arch::new().dispatch(Each(values, std::marker::PhantomData::<Gelu>));
}

/// x σ(1.702 x) of each value.
pub fn quick_gelu(values: &mut [f32]) {
    struct QuickGelu;
    impl Function for QuickGelu {
        #[inline(always)]
        fn of(x: f32) -> f32 {
            x / (1.0 + exp(-1.702 * x))
        }
    }
    Arch::new().dispatch(Each(values, std::marker::PhantomData::<QuickGelu>));
}

/// e^x to 2 ulp; 0 below -87.3 and e^88 above 88.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with trailing zeros so that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < 88.0 { x } else { 88.0 };
    let clamped = if clamped > -87.3 { clamped } else { -87.3 };
    let t = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor to the seventh power: |r| <= 0.35, so the rest is below 6e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let scale = f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = p * scale;
    let y = if x < -87.3 { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// The error function, to 6e-8.
///
/// erf(t) = 1 - e^p(t) for t >= 0, where p is the polynomial without constant term that comes nearest to ln erfc on [0, 4] in the greatest
/// absolute error of erf (fitted by iterated weighted least squares; 2e-9 before rounding). Beyond 4, erfc is below 2e-8.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let t = x.abs();
    let t = if t < 4.0 { t } else { 4.0 };
    let p = 8.04373e-6;
    let p = p * t - 1.0602574e-4;
    let p = p * t + 5.8794714e-4;
    let p = p * t - 1.5767531e-3;
    let p = p * t + 5.877375e-5;
    let p = p * t + 1.9217148e-2;
    let p = p * t - 1.02799214e-1;
    let p = p * t - 6.366161e-1;
    let p = p * t - std::f32::consts::FRAC_2_SQRT_PI;
    let y = 1.0 - exp(p * t);
    if x < 0.0 { -y } else { y }
}

/// Layer normalisation of each row: (x - mean) / sqrt(variance + eps) * weight + bias.
pub fn layer_norm(x: &Rows, weight: &[f32], bias: &[f32], eps: f32) -> Rows {
    let n = x.n;
    let mut out = Rows::zeros(x.len(), n);
    out.data.par_chunks_mut(n.max(1)).zip(x.data.par_chunks(n.max(1))).with_min_len(64).for_each(|(out, x)| {
        let mean = sum(x.iter().copied()) / n as f32;
        let variance = sum(x.iter().map(|v| (v - mean) * (v - mean))) / n as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * w + b;
        }
    });
    out
}

/// A sum in sixteen parts, which are added in order.
#[inline(always)]
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut parts = [0f32; 16];
    for (i, x) in values.enumerate() {
        parts[i % 16] += x;
    }
    parts.iter().sum()
}

/// Groups of tokens that attend to each other: windows of a grid, or all tokens.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Tokens of a group.
    pub size: usize,
    /// For each group its tokens; [`Windows::PADDING`] stands for a token outside the grid.
    pub tokens: Vec<u32>,
    /// For each token of the grid its place in `tokens`.
    pub places: Vec<u32>,
}

impl Windows {
    /// A token outside the grid: zero after normalisation, so that its query, key and value are the bias.
    pub const PADDING: u32 = u32::MAX;

    /// Windows of `size` (rows, columns) on a grid, padded below and on the right.
    pub fn new(grid: [usize; 2], size: [usize; 2]) -> Self {
        let [h, w] = grid;
        let (down, across) = (h.div_ceil(size[0]), w.div_ceil(size[1]));
        let mut tokens = Vec::with_capacity(down * across * size[0] * size[1]);
        let mut places = vec![0; h * w];
        for (a, b) in (0..down).flat_map(|a| (0..across).map(move |b| (a, b))) {
            for (i, j) in (0..size[0]).flat_map(|i| (0..size[1]).map(move |j| (a * size[0] + i, b * size[1] + j))) {
                let inside = i < h && j < w;
                if inside {
                    places[i * w + j] = tokens.len() as u32;
                }
                tokens.push(if inside { (i * w + j) as u32 } else { Self::PADDING });
            }
        }
        Self { size: size[0] * size[1], tokens, places }
    }

    /// All tokens in one group.
    pub fn global(grid: [usize; 2]) -> Self {
        Self::new(grid, grid)
    }
}

/// What attention gives, head by head; as [`Source`], rows of tokens.
pub struct Heads<'a> {
    windows: &'a Windows,
    heads: usize,
    d: usize,
    /// Group, head, token of the group, element.
    data: Vec<f32>,
}

impl Source for Heads<'_> {
    fn read(&self, row: usize, k0: usize, out: &mut [f32]) {
        let place = self.windows.places[row] as usize;
        let (group, token) = (place / self.windows.size, place % self.windows.size);
        let mut k = k0;
        let mut out = out;
        while !out.is_empty() {
            let (head, at) = (k / self.d, k % self.d);
            let n = out.len().min(self.d - at);
            let start = ((group * self.heads + head) * self.windows.size + token) * self.d + at;
            let (now, rest) = out.split_at_mut(n);
            now.copy_from_slice(&self.data[start..start + n]);
            k += n;
            out = rest;
        }
    }
}

/// Softmax attention among the tokens of each group. `qkv` has rows [q | k | v], each (heads, d); `padding` is such a row for tokens
/// outside the grid. Queries are scaled by 1 / sqrt(d) first.
pub fn attention<'a>(qkv: &Rows, padding: &[f32], heads: usize, windows: &'a Windows) -> Heads<'a> {
    let d = qkv.n / 3 / heads;
    let width = heads * d;
    let n = windows.size;
    // In f64, as the original takes the power; a root and a division are exact to the last bit everywhere, a power is not.
    let scale = (1.0 / (d as f64).sqrt()) as f32;
    let mut data = vec![0f32; windows.tokens.len() * width];
    let row = |token: u32| match token {
        Windows::PADDING => padding,
        t => &qkv.data[t as usize * qkv.n..][..qkv.n],
    };
    let arch = Arch::new();
    data.par_chunks_mut((n * d).max(1)).enumerate().for_each(|(at, out)| {
        let (group, head) = (at / heads, at % heads);
        let tokens = &windows.tokens[group * n..][..n];
        let part = |token: u32, which: usize| &row(token)[which * width + head * d..][..d];
        let mut keys = vec![[0f32; MR]; n.div_ceil(MR) * d];
        let mut values = vec![[0f32; VR]; n * d.div_ceil(VR)];
        for (i, &token) in tokens.iter().enumerate() {
            for (panel, x) in keys[i / MR * d..].iter_mut().zip(part(token, 1)) {
                panel[i % MR] = *x;
            }
            for (j, x) in part(token, 2).iter().enumerate() {
                values[j / VR * n + i][j % VR] = *x;
            }
        }
        let step = NR * QUERY_PANELS;
        out.par_chunks_mut(step * d).enumerate().for_each(|(i, out)| {
            let mut queries = vec![[0f32; NR]; d * QUERY_PANELS];
            for (q, &token) in tokens[i * step..n.min((i + 1) * step)].iter().enumerate() {
                for (panel, x) in queries[q / NR * d..].iter_mut().zip(part(token, 0)) {
                    panel[q % NR] = x * scale;
                }
            }
            arch.dispatch(Attend { keys: &keys, values: &values, queries: &queries, n, d, out });
        });
    });
    Heads { windows, heads, d, data }
}

/// Up to 64 queries of one head against all keys of a group. Everything is transposed, so that a vector holds as many queries.
struct Attend<'a> {
    /// Panels of 12 keys: element, key.
    keys: &'a [[f32; MR]],
    /// Panels of 8 elements: key, element.
    values: &'a [[f32; VR]],
    /// Panels of 32 queries: element, query.
    queries: &'a [[f32; NR]],
    n: usize,
    d: usize,
    /// Query, element.
    out: &'a mut [f32],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Attend { keys, values, queries, n, d, out } = self;
        let elements = d.next_multiple_of(VR);
        let mut weights = [[0f32; NR]; KEY_BLOCK];
        let mut greatest = [[f32::NEG_INFINITY; NR]; QUERY_PANELS];
        let mut total = [[0f32; NR]; QUERY_PANELS];
        let mut sums = vec![[0f32; NR]; elements * QUERY_PANELS];
        let panels = (out.len() / d).div_ceil(NR);
        for k0 in (0..n).step_by(KEY_BLOCK) {
            let block = KEY_BLOCK.min(n - k0);
            for p in 0..panels {
                let queries = &queries[p * d..][..d];
                for (i, keys) in keys[k0 / MR * d..].chunks_exact(d).take(block.div_ceil(MR)).enumerate() {
                    tiles(simd, keys, queries, |r, c, vectors| {
                        let row = S::as_mut_simd_f32s(&mut weights[i * MR + r][c..]).0;
                        for (to, v) in row.iter_mut().zip(vectors) {
                            *to = *v;
                        }
                    });
                }
                let weights = &mut weights[..block];
                let greatest = S::as_mut_simd_f32s(&mut greatest[p]).0;
                let total = S::as_mut_simd_f32s(&mut total[p]).0;
                let mut shrink = [0f32; NR];
                {
                    let shrink = S::as_mut_simd_f32s(&mut shrink).0;
                    for (v, (greatest, shrink)) in greatest.iter_mut().zip(shrink.iter_mut()).enumerate() {
                        let mut now = *greatest;
                        for w in weights.iter() {
                            now = simd.max_f32s(now, S::as_simd_f32s(w).0[v]);
                        }
                        for w in weights.iter_mut() {
                            let w = &mut S::as_mut_simd_f32s(w).0[v];
                            *w = simd.sub_f32s(*w, now);
                        }
                        *shrink = simd.sub_f32s(*greatest, now);
                        *greatest = now;
                    }
                }
                // One loop over plain floats each: compilers turn it into vectors.
                for x in &mut shrink {
                    *x = exp(*x);
                }
                for x in weights.as_flattened_mut() {
                    *x = exp(*x);
                }
                let shrink = S::as_simd_f32s(&shrink).0;
                for (v, (total, shrink)) in total.iter_mut().zip(shrink).enumerate() {
                    let mut sum = simd.splat_f32s(0.0);
                    for w in weights.iter() {
                        sum = simd.add_f32s(sum, S::as_simd_f32s(w).0[v]);
                    }
                    *total = simd.add_f32s(simd.mul_f32s(*total, *shrink), sum);
                }
                let sums = &mut sums[p * elements..][..elements];
                for (j, sums) in sums.chunks_exact_mut(VR).enumerate() {
                    tiles(simd, &values[j * n + k0..][..block], weights, |r, c, vectors| {
                        let row = S::as_mut_simd_f32s(&mut sums[r][c..]).0;
                        let shrink = &shrink[c / S::F32_LANES..];
                        for ((to, v), shrink) in row.iter_mut().zip(vectors).zip(shrink) {
                            *to = simd.add_f32s(simd.mul_f32s(*to, *shrink), *v);
                        }
                    });
                }
            }
        }
        for (q, out) in out.chunks_exact_mut(d).enumerate() {
            let (p, q) = (q / NR, q % NR);
            let inverse = 1.0 / total[p][q];
            for (j, out) in out.iter_mut().enumerate() {
                *out = sums[p * elements + j][q] * inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / 8388608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The definition of a product, without vectors, tiles or threads.
    fn plain(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
        let element = |i: usize, j: usize| {
            let mut total = 0f32;
            for block in (0..k).collect::<Vec<_>>().chunks(K_BLOCK) {
                let mut sum = 0f32;
                for &l in block {
                    sum = a[i * k + l].mul_add(b[l * n + j], sum);
                }
                total += sum;
            }
            total
        };
        (0..m * n).map(|i| element(i / n, i % n)).collect()
    }

    #[test]
    fn products_have_the_bits_of_their_definition() {
        for (m, k, n) in [(1, 1, 1), (5, 3, 7), (12, 256, 32), (100, 300, 33), (97, 700, 65), (3, 0, 4)] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let rows = Rows { n: k, data: a.clone() };
            let ours = matmul(&rows, m, &Packed::from_matrix(&b, k, n), &|_, _| {});
            assert_eq!(ours.data, plain(&a, &b, m, k, n), "{m} x {k} x {n}");
            let transposed: Vec<f32> = (0..n * k).map(|i| b[i % k.max(1) * n + i / k.max(1)]).collect();
            let same = matmul(&rows, m, &Packed::from_linear(&transposed, n, k), &|_, _| {});
            assert_eq!(same, ours);
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (m, k, n) = (100, 300, 70);
        let (a, b) = (Rows { n: k, data: numbers(m * k, 1) }, Packed::from_matrix(&numbers(k * n, 2), k, n));
        let best = matmul(&a, m, &b, &|_, _| {});
        let mut scalar = Rows::zeros(96, n);
        Block { a: &a, row0: 0, b: &b, out: &mut scalar.data }.with_simd(pulp::Scalar::new());
        assert_eq!(scalar.data[..], best.data[..96 * n]);
        #[cfg(target_arch = "x86_64")]
        if let Some(v3) = pulp::x86::V3::try_new() {
            let mut narrow = Rows::zeros(96, n);
            Simd::vectorize(v3, || Block { a: &a, row0: 0, b: &b, out: &mut narrow.data }.with_simd(v3));
            assert_eq!(narrow, scalar);
        }
        let (n, d) = (500usize, 24usize);
        let keys = numbers(n.div_ceil(MR) * d * MR, 3);
        let values = numbers(n * d, 4);
        let queries = numbers(d * QUERY_PANELS * NR, 5);
        let run = |which: u8| {
            let mut out = vec![0f32; 40 * d];
            let (keys, values, queries) = (keys.as_chunks().0, values.as_chunks().0, queries.as_chunks().0);
            let task = Attend { keys, values, queries, n, d, out: &mut out };
            match which {
                0 => task.with_simd(pulp::Scalar::new()),
                _ => Arch::new().dispatch(task),
            }
            out
        };
        assert_eq!(run(0), run(1));
    }

    #[test]
    fn attention_is_softmax_of_products() {
        for (grid, window, heads, d) in [([3, 5], [2, 2], 2, 4), ([20, 30], [20, 30], 1, 9), ([4, 4], [4, 4], 3, 8)] {
            let tokens = grid[0] * grid[1];
            let width = heads * d;
            let qkv = Rows { n: 3 * width, data: numbers(tokens * 3 * width, 9).iter().map(|x| x * 3.0).collect() };
            let padding = numbers(3 * width, 5);
            let windows = Windows::new(grid, window);
            let ours = attention(&qkv, &padding, heads, &windows);
            let row =
                |t: u32| if t == Windows::PADDING { &padding[..] } else { &qkv.data[t as usize * qkv.n..][..qkv.n] };
            for t in 0..tokens {
                let group = windows.places[t] as usize / windows.size;
                let members = &windows.tokens[group * windows.size..][..windows.size];
                let mut out = vec![0f32; width];
                ours.read(t, 0, &mut out);
                for (j, out) in out.iter().enumerate() {
                    let h = j / d * d;
                    let logit = |o: &u32| -> f64 {
                        (0..d).map(|e| f64::from(row(t as u32)[h + e]) * f64::from(row(*o)[width + h + e])).sum::<f64>()
                            / (d as f64).sqrt()
                    };
                    let weights: Vec<f64> = members.iter().map(|o| logit(o).exp()).collect();
                    let mean: f64 =
                        members.iter().zip(&weights).map(|(o, w)| w * f64::from(row(*o)[2 * width + j])).sum();
                    let expected = mean / weights.iter().sum::<f64>();
                    assert!((f64::from(*out) - expected).abs() < 3e-6, "{out} {expected}");
                }
            }
        }
    }

    #[test]
    fn functions_are_near_the_true_ones() {
        for i in -9000..9000 {
            let x = i as f32 / 100.0;
            let relative = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(relative.abs() < 3e-7 || !(-87.0..88.0).contains(&x), "exp({x}) is off by {relative}");
            assert!((f64::from(erf(x / 10.0)) - libm::erf(f64::from(x / 10.0))).abs() < 1.5e-7, "erf({x})");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1000.0), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(1000.0).is_finite());
        let mut values = [0.0, 1.0, -1.0, 10.0, -10.0];
        gelu(&mut values);
        for (x, y) in values.iter().zip([0.0, 0.841_344_7, -0.158_655_25, 10.0, 0.0]) {
            assert!((x - y).abs() < 1e-6, "{x} {y}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let x = Rows { n: 96, data: numbers(400 * 96, 3) };
        let windows = Windows::new([20, 20], [7, 6]);
        let b = Packed::from_matrix(&numbers(96 * 50, 4), 96, 50);
        let run = || {
            let normal = layer_norm(&x, &numbers(96, 5), &numbers(96, 6), 1e-6);
            let mixed = attention(&normal, &numbers(96, 7), 4, &windows);
            let narrow = Packed::from_matrix(&numbers(32 * 50, 4), 32, 50);
            (matmul(&mixed, 400, &narrow, &|_, out| gelu(out)), matmul(&normal, 400, &b, &|_, _| {}))
        };
        let on = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(run);
        let one = on(1);
        assert_eq!(one, on(2));
        assert_eq!(one, on(5));
    }
}
