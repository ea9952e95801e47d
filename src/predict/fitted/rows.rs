//! The loops over rows: everything here becomes vector code, and follows the numerics contract (multiply and add one after
//! the other, no fused operations but in what the encoder fits by, square roots as IEEE 754 has them).
#![expect(clippy::too_many_arguments, reason = "row kernels take rows")]
// `!(a < b)` is meant: it is true for NaN.
#![allow(clippy::neg_cmp_op_on_partial_ord)]

use crate::quantize::cpu::Kernels;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

/// `4 √|code|` to the nearest integer, at most 255: the size of a code as contexts see it.
pub const SIZE_SCALE: f32 = 4.0;
/// Largest value of a root of a difference.
pub const LARGEST_ROOT: f32 = 1023.0;

/// Loops for one element type.
pub trait Rows: Kernels {
    /// `sum = weight · x`
    fn scaled(sum: &mut [Self], weight: Self, x: &[Self]);
    /// `sum += weight · x`
    fn add_scaled(sum: &mut [Self], weight: Self, x: &[Self]);
    /// Codes and decoded values of `values` around what `row` predicts; `row` becomes what is decoded. NaN gets code 0. Returns
    /// whether any value may be outside the bound.
    fn quantize(row: &mut [Self], values: &[Self], step: Self, inverse: Self, within: Self, codes: &mut [i32]) -> bool;
    /// `row + step · codes`
    fn reconstruct(row: &mut [Self], step: Self, codes: &[i32]);
    /// As [`Rows::add_scaled`] four times, one after the other.
    fn add_scaled_4(sum: &mut [Self], weights: [Self; 4], x: [&[Self]; 4]);
    /// The same, of eight.
    fn add_scaled_8(sum: &mut [Self], weights: [Self; 8], x: [&[Self]; 8]);
    /// Mean of four rows.
    fn mean(rows: [&[Self]; 4], mean: &mut [Self]);
    /// The spread of four rows and how far `x` is from their mean, both `4 √(… · inverse)`.
    fn spread_and_distance(rows: [&[Self]; 4], x: &[Self], inverse: Self, spread: &mut [u16], distance: &mut [u16]);
    /// The spread of four rows and how far `x` is from `y`.
    fn spread_and_difference(
        rows: [&[Self]; 4],
        x: &[Self],
        y: &[Self],
        inverse: Self,
        spread: &mut [u16],
        difference: &mut [u16],
    );
    /// `(x − mean) · inverse` as f32
    fn deviation(x: &[Self], mean: &[Self], inverse: Self, out: &mut [f32]);
    /// The same, times weights; what has no weight becomes 0, whatever it was.
    fn weighed_deviation(x: &[Self], mean: &[Self], inverse: Self, weights: &[f32], out: &mut [f32]);
}

/// About `4 √x`, to the nearest integer, at most `most` (below 2^16): half the exponent, and the mantissa between powers of four in
/// straight lines. Integer operations where a square root would be half of all the work; the sign does not matter, NaN gives `most`.
#[inline(always)]
fn root(x: f32, most: f32) -> u16 {
    const HALF_BIAS: u32 = 0x1fc0_0000;
    const INTEGER: f32 = (1 << 23) as f32;
    let root = SIZE_SCALE * f32::from_bits((x.abs().to_bits() >> 1) + HALF_BIAS);
    let root = if root < most { root } else { most };
    (root + INTEGER).to_bits() as u16
}

/// `x · weight`; what has no weight becomes 0, whatever it was.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn weigh(x: &mut [f32], weights: &[f32]) {
    x.iter_mut().zip(weights).for_each(|(x, &w)| *x = weighed(*x, w));
}

#[inline(always)]
fn weighed(x: f32, weight: f32) -> f32 {
    if weight > 0.0 && x.abs() <= f32::MAX { x * weight } else { 0.0 }
}

/// Largest feature: eight sizes.
const LARGEST_FEATURE: u64 = 8 * 255;
/// Values whose products are summed in 32 bits.
const SUMMED: usize = 512;
const _: () =
    assert!(LARGEST_FEATURE >= LARGEST_ROOT as u64 && SUMMED as u64 * LARGEST_FEATURE * LARGEST_FEATURE < 1 << 31);

/// `Σ x y` of features.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn sum_of_products(x: &[u16], y: &[u16]) -> u64 {
    let product = |(&x, &y): (&u16, &u16)| i32::from(x as i16) * i32::from(y as i16);
    let sum = |(x, y): (&[u16], &[u16])| x.iter().zip(y).map(product).sum::<i32>() as u64;
    x.chunks(SUMMED).zip(y.chunks(SUMMED)).map(sum).sum()
}

/// `Σ x` of features.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn sum_of(x: &[u16]) -> u64 {
    x.iter().map(|&x| u64::from(x)).sum()
}

/// Weights of values by the sum of the sizes of the nearest codes: `√(½ / (s² + ¼))`, with `s` a guess of the magnitude.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn weights_of_sizes(near: &[u16], n_near: f32, weights: &mut [f32]) {
    for (w, &near) in weights.iter_mut().zip(near) {
        let root = f32::from(near) / (SIZE_SCALE * n_near);
        let s = 1.6 * root * root;
        *w = (0.5 / (s * s + 0.25)).sqrt();
    }
}

/// `sum = Σ rows` of four rows, or `sum += Σ rows`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn sum_sizes(sum: &mut [u16], [a, b, c, d]: [&[u8]; 4], add: bool) {
    let n = sum.len();
    let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
    let keep = u16::from(add);
    for i in 0..n {
        let four = u16::from(a[i]) + u16::from(b[i]) + u16::from(c[i]) + u16::from(d[i]);
        sum[i] = sum[i] * keep + four;
    }
}

/// `sum += Σ weight · x`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn add_weighted_4(sum: &mut [i32], weights: [i32; 4], x: &[u16]) {
    let n = sum.len();
    let (a, rest) = x.split_at(n);
    let (b, rest) = rest.split_at(n);
    let (c, d) = rest.split_at(n);
    let d = &d[..n];
    for i in 0..n {
        let ab = weights[0] * i32::from(a[i]) + weights[1] * i32::from(b[i]);
        let cd = weights[2] * i32::from(c[i]) + weights[3] * i32::from(d[i]);
        sum[i] = sum[i].wrapping_add(ab).wrapping_add(cd);
    }
}

/// Sizes of codes: see [`SIZE_SCALE`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn sizes(codes: &[i32], sizes: &mut [u8]) {
    for (size, &code) in sizes.iter_mut().zip(codes) {
        *size = root((code as f32).abs(), 255.0) as u8;
    }
}

/// Number of buckets of guesses.
pub const N_BUCKETS: usize = 160;

/// Buckets of guesses, eight an octave, `offset` further up.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn buckets(guesses: &[i32], offset: i32, buckets: &mut [u8]) {
    for (bucket, &guess) in buckets.iter_mut().zip(guesses) {
        let guess = guess.clamp(1, (1 << 19) - 1) as f32;
        let exact = (guess.to_bits() >> 20) as i32 - (127 << 3);
        *bucket = (exact + offset).clamp(0, N_BUCKETS as i32 - 1) as u8;
    }
}

/// Values whose products are summed side by side.
pub const LANES: usize = 16;

/// Products of the `n` rows of `x`, each the first `len` (a multiple of [`LANES`]) of `stride` values: `g[a][b] += Σ x[a] x[b]`, for `b ≤ a`, lower triangle row by row.
pub fn products(x: &[f32], n: usize, stride: usize, len: usize, mut g: &mut [f64], quarters: &mut Quarters) {
    for a in (0..n).step_by(2) {
        let pair = g.split_off_mut(..pair_len(n, a)).unwrap_or_default();
        products_of_pair(x, n, stride, len, a, pair, quarters);
    }
}

/// Columns of the rows of a short batch, each a row.
pub type Columns = [[f32; MOST_ROWS]; LANES];

/// Before there are any.
pub const NO_COLUMNS: Columns = [[0.0; MOST_ROWS]; LANES];

/// As [`products`], to the last bit, of [`LANES`] columns; batches of small images often have no more. A vector holds rows instead of columns, so
/// that none of its lanes are summed. What is in `columns` does not matter.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn products_of_few(x: &[f32], n: usize, stride: usize, g: &mut [f64], columns: &mut Columns) {
    let row = |i: usize| x[i * stride..].first_chunk::<LANES>().unwrap_or(&[0.0; LANES]);
    for i in 0..n {
        row(i).iter().zip(columns.iter_mut()).for_each(|(&x, column)| column[i] = x);
    }
    let mut rest = g;
    for a in 0..n {
        let Some(g) = rest.split_off_mut(..=a) else { return };
        let u = row(a);
        let mut sums = [0f32; MOST_ROWS];
        for (block, sums) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate().take(a / LANES + 1) {
            let of_block: [&[f32; LANES]; LANES] = std::array::from_fn(|l| &columns[l].as_chunks().0[block]);
            for (b, sum) in sums.iter_mut().enumerate() {
                let four = |l: usize| {
                    let product = |l: usize| u[l] * of_block[l][b];
                    (product(l) + product(l + LANES / 2)) + (product(l + LANES / 4) + product(l + LANES * 3 / 4))
                };
                *sum = (four(0) + four(2)) + (four(1) + four(3));
            }
        }
        g.iter_mut().zip(&sums).for_each(|(g, &sum)| *g += f64::from(sum));
    }
}

/// Number of products of rows `a` and `a + 1`, as far as there are such.
fn pair_len(n: usize, a: usize) -> usize {
    a + 1 + if a + 1 < n { a + 2 } else { 0 }
}

/// Rows at most: as many as there are taps, and the value.
const MOST_ROWS: usize = 80;

const _: () = assert!(MOST_ROWS.is_multiple_of(LANES));

/// Quarters of the lanes of sums of two rows: their last sums, of one row after the other, would take most of the time of a short batch.
pub type Quarters = [[[f32; LANES / 4]; MOST_ROWS]; 2];

/// Before there are any.
pub const NO_QUARTERS: Quarters = [[[0.0; LANES / 4]; MOST_ROWS]; 2];

/// Those of rows `a` (even) and `a + 1`; `quarters` are room for it. Products are added as they are multiplied, rounded once (IEEE 754's fused
/// operation): only the encoder sums any.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma", "aarch64+neon"))]
fn products_of_pair(x: &[f32], n: usize, stride: usize, len: usize, a: usize, g: &mut [f64], quarters: &mut Quarters) {
    let row = |i: usize| x[i.min(n - 1) * stride..][..len].as_chunks::<LANES>().0;
    for b in (0..=(a + 1).min(n - 1)).step_by(4) {
        let (of_a, of_b) = ([row(a), row(a + 1)], [row(b), row(b + 1), row(b + 2), row(b + 3)]);
        // Eight sums of all lanes stay in registers only where there are as many as with AVX-512.
        let mut halves = [[0f32; LANES / 2]; 8];
        if target_cfg_f!(target_feature = "avx512f") {
            let sums = block_of_products::<LANES, 0>(of_a, of_b);
            for (half, sum) in halves.iter_mut().zip(&sums) {
                for l in 0..LANES / 2 {
                    half[l] = sum[l] + sum[l + LANES / 2];
                }
            }
        } else {
            let low = block_of_products::<{ LANES / 2 }, 0>(of_a, of_b);
            let high = block_of_products::<{ LANES / 2 }, { LANES / 2 }>(of_a, of_b);
            for (half, (low, high)) in halves.iter_mut().zip(low.iter().zip(&high)) {
                for l in 0..LANES / 2 {
                    half[l] = low[l] + high[l];
                }
            }
        }
        for (k, half) in halves.iter().enumerate() {
            for l in 0..LANES / 4 {
                quarters[k / 4][b + k % 4][l] = half[l] + half[l + LANES / 4];
            }
        }
    }
    // What lies beyond the diagonal is nobody's.
    let (of_first, of_second) = g.split_at_mut(a + 1);
    for (k, g) in [of_first, of_second].into_iter().enumerate() {
        g.iter_mut().zip(&quarters[k]).for_each(|(g, q)| *g += f64::from((q[0] + q[2]) + (q[1] + q[3])));
    }
}

/// Lanes `FROM..FROM + W` of the sums of products of 2 × 4 rows: blocks, so that what is loaded is used more than once.
#[inline(always)]
fn block_of_products<const W: usize, const FROM: usize>(
    a: [&[[f32; LANES]]; 2],
    b: [&[[f32; LANES]]; 4],
) -> [[f32; W]; 8] {
    let mut part = [[0f32; W]; 8];
    let rows = a[0].iter().zip(a[1]).zip(b[0]).zip(b[1]).zip(b[2]).zip(b[3]);
    for (((((a0, a1), b0), b1), b2), b3) in rows {
        for l in 0..W {
            part[0][l] = a0[FROM + l].mul_add(b0[FROM + l], part[0][l]);
            part[1][l] = a0[FROM + l].mul_add(b1[FROM + l], part[1][l]);
            part[2][l] = a0[FROM + l].mul_add(b2[FROM + l], part[2][l]);
            part[3][l] = a0[FROM + l].mul_add(b3[FROM + l], part[3][l]);
            part[4][l] = a1[FROM + l].mul_add(b0[FROM + l], part[4][l]);
            part[5][l] = a1[FROM + l].mul_add(b1[FROM + l], part[5][l]);
            part[6][l] = a1[FROM + l].mul_add(b2[FROM + l], part[6][l]);
            part[7][l] = a1[FROM + l].mul_add(b3[FROM + l], part[7][l]);
        }
    }
    part
}

macro_rules! rows {
    ($t:ident, $magic:expr) => {
        mod $t {
            use super::{LARGEST_ROOT, root, weighed};
            use crate::field::Float;
            use multiversion::multiversion;

            const MAGIC: $t = $magic;

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn scaled(sum: &mut [$t], weight: $t, x: &[$t]) {
                sum.iter_mut().zip(x).for_each(|(s, &x)| *s = weight * x);
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn add_scaled(sum: &mut [$t], weight: $t, x: &[$t]) {
                sum.iter_mut().zip(x).for_each(|(s, &x)| *s += weight * x);
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn quantize(
                row: &mut [$t],
                values: &[$t],
                step: $t,
                inverse: $t,
                within: $t,
                codes: &mut [i32],
            ) -> bool {
                let n = row.len();
                let (values, codes) = (&values[..n], &mut codes[..n]);
                let mut miss = 0;
                for i in 0..n {
                    let p = if row[i].abs() <= $t::MAX { row[i] } else { 0.0 };
                    let t = (values[i] - p) * inverse;
                    let t = if t.abs() <= $t::MAX_CODE as $t { t } else { 0.0 };
                    let shifted = t + MAGIC;
                    codes[i] = (shifted.to_bits().wrapping_sub(MAGIC.to_bits())) as i32;
                    let r = p + (shifted - MAGIC) * step;
                    row[i] = r;
                    miss |= u32::from(!((r - values[i]).abs() < within) & !values[i].is_nan());
                }
                miss != 0
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn reconstruct(row: &mut [$t], step: $t, codes: &[i32]) {
                for (r, &code) in row.iter_mut().zip(codes) {
                    let p = if r.abs() <= $t::MAX { *r } else { 0.0 };
                    *r = p + code as $t * step;
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn add_scaled_4(sum: &mut [$t], w: [$t; 4], a: &[$t], b: &[$t], c: &[$t], d: &[$t]) {
                let n = sum.len();
                let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
                for i in 0..n {
                    sum[i] = (((sum[i] + w[0] * a[i]) + w[1] * b[i]) + w[2] * c[i]) + w[3] * d[i];
                }
            }

            #[inline(always)]
            fn mean_of(a: $t, b: $t, c: $t, d: $t) -> $t {
                ((a + b) + (c + d)) * 0.25
            }

            #[inline(always)]
            fn spread_of(a: $t, b: $t, c: $t, d: $t) -> $t {
                let larger = |a: $t, b: $t| if a > b { a } else { b };
                let smaller = |a: $t, b: $t| if a < b { a } else { b };
                larger(larger(a, b), larger(c, d)) - smaller(smaller(a, b), smaller(c, d))
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn mean(a: &[$t], b: &[$t], c: &[$t], d: &[$t], mean: &mut [$t]) {
                let n = mean.len();
                let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
                for i in 0..n {
                    mean[i] = mean_of(a[i], b[i], c[i], d[i]);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn spread_and_distance(
                a: &[$t],
                b: &[$t],
                c: &[$t],
                d: &[$t],
                x: &[$t],
                inverse: $t,
                spread: &mut [u16],
                distance: &mut [u16],
            ) {
                let n = x.len();
                let (a, b, c, d) = (&a[..n], &b[..n], &c[..n], &d[..n]);
                let (spread, distance) = (&mut spread[..n], &mut distance[..n]);
                for i in 0..n {
                    let away = (x[i] - mean_of(a[i], b[i], c[i], d[i])).abs();
                    spread[i] = root((spread_of(a[i], b[i], c[i], d[i]) * inverse) as f32, LARGEST_ROOT);
                    distance[i] = root((away * inverse) as f32, LARGEST_ROOT);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn spread_and_difference(
                a: &[$t],
                b: &[$t],
                c: &[$t],
                d: &[$t],
                x: &[$t],
                y: &[$t],
                inverse: $t,
                spread: &mut [u16],
                difference: &mut [u16],
            ) {
                let n = x.len();
                let (a, b, c, d, y) = (&a[..n], &b[..n], &c[..n], &d[..n], &y[..n]);
                let (spread, difference) = (&mut spread[..n], &mut difference[..n]);
                for i in 0..n {
                    spread[i] = root((spread_of(a[i], b[i], c[i], d[i]) * inverse) as f32, LARGEST_ROOT);
                    difference[i] = root(((x[i] - y[i]).abs() * inverse) as f32, LARGEST_ROOT);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn deviation(x: &[$t], mean: &[$t], inverse: $t, out: &mut [f32]) {
                let n = out.len();
                let (x, mean) = (&x[..n], &mean[..n]);
                for i in 0..n {
                    out[i] = ((x[i] - mean[i]) * inverse) as f32;
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn weighed_deviation(x: &[$t], mean: &[$t], inverse: $t, weights: &[f32], out: &mut [f32]) {
                let n = out.len();
                let (x, mean, weights) = (&x[..n], &mean[..n], &weights[..n]);
                for i in 0..n {
                    out[i] = weighed(((x[i] - mean[i]) * inverse) as f32, weights[i]);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn add_scaled_8(sum: &mut [$t], w: [$t; 8], x: [&[$t]; 8]) {
                let n = sum.len();
                let [a, b, c, d, e, f, g, h] = x.map(|x| &x[..n]);
                for i in 0..n {
                    let half = (((sum[i] + w[0] * a[i]) + w[1] * b[i]) + w[2] * c[i]) + w[3] * d[i];
                    sum[i] = (((half + w[4] * e[i]) + w[5] * f[i]) + w[6] * g[i]) + w[7] * h[i];
                }
            }
        }

        impl Rows for $t {
            fn scaled(sum: &mut [Self], weight: Self, x: &[Self]) {
                $t::scaled(sum, weight, x);
            }
            fn add_scaled(sum: &mut [Self], weight: Self, x: &[Self]) {
                $t::add_scaled(sum, weight, x);
            }
            fn quantize(
                row: &mut [Self],
                values: &[Self],
                step: Self,
                inverse: Self,
                within: Self,
                codes: &mut [i32],
            ) -> bool {
                $t::quantize(row, values, step, inverse, within, codes)
            }
            fn reconstruct(row: &mut [Self], step: Self, codes: &[i32]) {
                $t::reconstruct(row, step, codes);
            }
            fn add_scaled_4(sum: &mut [Self], weights: [Self; 4], [a, b, c, d]: [&[Self]; 4]) {
                $t::add_scaled_4(sum, weights, a, b, c, d);
            }
            fn mean([a, b, c, d]: [&[Self]; 4], mean: &mut [Self]) {
                $t::mean(a, b, c, d, mean);
            }
            fn spread_and_distance(
                [a, b, c, d]: [&[Self]; 4],
                x: &[Self],
                inverse: Self,
                spread: &mut [u16],
                distance: &mut [u16],
            ) {
                $t::spread_and_distance(a, b, c, d, x, inverse, spread, distance);
            }
            fn spread_and_difference(
                [a, b, c, d]: [&[Self]; 4],
                x: &[Self],
                y: &[Self],
                inverse: Self,
                spread: &mut [u16],
                difference: &mut [u16],
            ) {
                $t::spread_and_difference(a, b, c, d, x, y, inverse, spread, difference);
            }
            fn deviation(x: &[Self], mean: &[Self], inverse: Self, out: &mut [f32]) {
                $t::deviation(x, mean, inverse, out);
            }
            fn weighed_deviation(x: &[Self], mean: &[Self], inverse: Self, weights: &[f32], out: &mut [f32]) {
                $t::weighed_deviation(x, mean, inverse, weights, out);
            }
            fn add_scaled_8(sum: &mut [Self], weights: [Self; 8], x: [&[Self]; 8]) {
                $t::add_scaled_8(sum, weights, x);
            }
        }
    };
}

rows!(f32, 12_582_912.0);
rows!(f64, 6_755_399_441_055_744.0);

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of both signs.
    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|k| ((k * 7919 % 1009) as f32 - 500.0) / 37.0).collect()
    }

    #[test]
    fn products_of_few_columns_are_the_same() {
        for n in [1, 2, 3, 16, 17, 57, MOST_ROWS] {
            let (x, n_pairs) = (numbers(n * 24), n * (n + 1) / 2);
            let (mut g, mut same) = (vec![0.5; n_pairs], vec![0.5; n_pairs]);
            products(&x, n, 24, LANES, &mut g, &mut NO_QUARTERS.clone());
            products_of_few(&x, n, 24, &mut same, &mut [[f32::NAN; MOST_ROWS]; LANES]);
            assert_eq!(g, same, "{n} rows");
        }
    }

    #[test]
    fn sums_of_features_are_exact() {
        for n in [0, 1, 511, 512, 513, 8192] {
            let largest = vec![LARGEST_FEATURE as u16; n];
            assert_eq!(sum_of_products(&largest, &largest), n as u64 * LARGEST_FEATURE * LARGEST_FEATURE);
            assert_eq!(sum_of(&largest), n as u64 * LARGEST_FEATURE);
        }
    }
}
