//! Rows of activations in host memory: what lies between the matrix products, in one pass over a cache-sized piece each.
//!
//! Every sum is taken in an order that depends on nothing but its length, so that results do not depend on threads.

use multiversion::multiversion;

/// Values that are summed side by side: a register of AVX-512. The same everywhere, so that sums do not depend on the processor.
const LANES: usize = 16;

/// Added to the variance of a row before its root is divided by.
const EPSILON: f32 = 1e-5;

/// `e^x` within 3 ulp, for x in [−87, 88]; beyond, as at the end of that range.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first with few bits, so that its product with a small integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 · 2²³ rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    // Taylor series up to r⁶/720 on |r| ≤ ln 2 / 2: the rest is below 2⁻²⁵.
    let tail = 1.0 / 120.0 + r * (1.0 / 720.0);
    let tail = 1.0 / 6.0 + r * (1.0 / 24.0 + r * tail);
    let p = 1.0 + r * (1.0 + r * (0.5 + r * tail));
    // The integer stands in the low bits of what was rounded; it goes into the exponent.
    p * f32::from_bits((rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23)
}

/// x · sigmoid(x).
#[inline(always)]
fn swish(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `row ← swish(row + bias)`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn swish_row(row: &mut [f32], bias: &[f32]) {
    for (x, b) in row.iter_mut().zip(bias) {
        *x = swish(*x + b);
    }
}

/// `out ← a + b`.
pub fn sum_of_2(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((x, a), b) in out.iter_mut().zip(a).zip(b) {
        *x = a + b;
    }
}

/// `out ← a + b + c`.
pub fn sum_of_3(out: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
    for (((x, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *x = a + b + c;
    }
}

/// `row ← row + addend`.
pub fn add(row: &mut [f32], addend: &[f32]) {
    for (x, a) in row.iter_mut().zip(addend) {
        *x += a;
    }
}

/// `out ← (x + bias, centred and divided by its standard deviation) · scale + offset`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn layer_norm(out: &mut [f32], x: &[f32], bias: &[f32], scale: &[f32], offset: &[f32]) {
    let mut sums = [0f32; LANES];
    for ((out, x), bias) in out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(bias.chunks(LANES)) {
        for (((o, x), b), sum) in out.iter_mut().zip(x).zip(bias).zip(&mut sums) {
            *o = x + b;
            *sum += *o;
        }
    }
    let n = x.len() as f32;
    let mean = total(sums) / n;
    let mut squares = [0f32; LANES];
    for out in out.chunks(LANES) {
        for (o, square) in out.iter().zip(&mut squares) {
            let d = o - mean;
            *square += d * d;
        }
    }
    let inverse = 1.0 / (total(squares) / n + EPSILON).sqrt();
    for ((o, s), t) in out.iter_mut().zip(scale).zip(offset) {
        *o = (*o - mean) * (inverse * s) + t;
    }
}

/// The sum of all lanes, by halves.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_within_3_ulp() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let ulp = f64::from(f32::EPSILON) * 2f64.powi(exact.log2().floor() as i32);
            let off = (f64::from(exp(x)) - exact).abs() / ulp;
            assert!(off <= 3.0, "exp({x}) is off by {off} ulp");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(swish(-1e30).abs() < 1e-6 && swish(1e30) == 1e30 && swish(f32::NAN).is_nan());
    }

    #[test]
    fn normalised_rows() {
        for n in [1usize, 5, 16, 33, 512] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 19) as f32) * 0.3 - 2.0).collect();
            let bias: Vec<f32> = (0..n).map(|i| (i % 3) as f32).collect();
            let (scale, offset) = (vec![1.5; n], vec![0.25; n]);
            let mut out = vec![0.0; n];
            layer_norm(&mut out, &x, &bias, &scale, &offset);
            let y: Vec<f64> = x.iter().zip(&bias).map(|(a, b)| f64::from(a + b)).collect();
            let mean = y.iter().sum::<f64>() / n as f64;
            let variance = y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            for (o, v) in out.iter().zip(y) {
                let expected = (v - mean) / (variance + 1e-5).sqrt() * 1.5 + 0.25;
                assert!((f64::from(*o) - expected).abs() < 1e-5);
            }
        }
    }
}
