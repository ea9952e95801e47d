//! The built-in family of distributions: shapes with heavy to light tails, each at many scales, as integer frequencies of tokens.
//!
//! Shapes are `exp(−z^b)` and Student's `(1 + z²/v)^(−(v+1)/2)`; a code `k` has the probability of `[k − ½, k + ½] / scale`. All is
//! computed in f64 with additions, multiplications, divisions and square roots in a fixed order, which IEEE 754 makes the same on
//! every machine, and rounded to integers.

use super::PRECISION;
use super::token::{self, ESCAPE, N_TOKENS};
use std::sync::LazyLock;

/// Number of shapes.
pub const N_SHAPES: usize = 13;
/// Number of scales: six an octave.
pub const N_SCALES: usize = 108;
/// Number of distributions; `shape · N_SCALES + scale` is the id in the archive.
pub const N_DISTRIBUTIONS: usize = N_SHAPES * N_SCALES;

const SMALLEST_SCALE: f64 = 0.003_125;
/// 2^(1/6)
const SCALE_RATIO: f64 = 1.122_462_048_309_373;

/// Frequencies of the tokens of a distribution. 0 for those that it leaves to [`ESCAPE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies(pub [u16; N_TOKENS]);

/// The distribution with this id (below [`N_DISTRIBUTIONS`]).
pub fn frequencies(id: usize) -> Frequencies {
    let tails = &TAILS[id / N_SCALES];
    let mut scale = SMALLEST_SCALE;
    for _ in 0..id % N_SCALES {
        scale *= SCALE_RATIO;
    }
    // Probability of a magnitude of at least `m`.
    let at_least = |m: u32| tails.at((f64::from(m) - 0.5) / scale);
    let total = f64::from(1u32 << PRECISION);
    let mut out = [0u16; N_TOKENS];
    let mut left = (1u32 << PRECISION) - 1;
    out[ESCAPE] = 1;
    let mut token = 1;
    while token < ESCAPE {
        let from = token::smallest(token);
        let is_pair = token < 31;
        let next = token + if is_pair { 2 } else { 1 };
        let until = if next == ESCAPE { 1 << 20 } else { token::smallest(next) };
        let share = (at_least(from) - at_least(until)) * total * if is_pair { 0.5 } else { 1.0 };
        if share < 0.5 && f64::from(from) > scale {
            break;
        }
        let frequency = ((share + 0.5) as u32).max(1);
        for out in &mut out[token..next] {
            *out = frequency as u16;
            left = left.saturating_sub(frequency);
        }
        token = next;
    }
    // The zero takes what is left. Where rounding left nothing for it, the largest gives.
    if left == 0 {
        let largest = (1..ESCAPE).max_by_key(|&t| out[t]).unwrap_or(1);
        let sum: u32 = out.iter().map(|&f| u32::from(f)).sum();
        out[largest] -= (sum + 1 - (1 << PRECISION)) as u16;
        left = 1;
    }
    out[0] = left as u16;
    Frequencies(out)
}

/// `−log2` of the probabilities with plain bits, in 1/256 bits, of all distributions; tokens left to [`ESCAPE`] cost it and 32 bits.
pub fn costs() -> &'static [[u16; N_TOKENS]] {
    static COSTS: LazyLock<Vec<[u16; N_TOKENS]>> = LazyLock::new(|| {
        let costs = |id| {
            let Frequencies(f) = frequencies(id);
            std::array::from_fn(|t| {
                let escaped = f[t] == 0;
                let bits = log2_256(u32::from(f[if escaped { ESCAPE } else { t }]));
                let plain = if escaped { 32 } else { token::n_plain(t) };
                (256 * PRECISION - bits + 256 * plain) as u16
            })
        };
        (0..N_DISTRIBUTIONS).map(costs).collect()
    });
    &COSTS
}

/// `256 · log2(n)`, rounded down, by repeated squaring.
fn log2_256(n: u32) -> u32 {
    let log2 = n.ilog2();
    let mut x = (u64::from(n) << 31) >> log2;
    let mut bits = log2;
    for _ in 0..8 {
        x = (x * x) >> 31;
        let carry = (x >> 32) as u32;
        x >>= carry;
        bits = bits << 1 | carry;
    }
    bits
}

/// Two-sided tail probabilities of a shape on a grid of `z`.
struct Tails {
    z: Vec<f64>,
    tail: Vec<f64>,
}

impl Tails {
    fn new(density: impl Fn(f64) -> f64) -> Self {
        // 0, then 16 points an octave from 2^-10 to 2^26.
        const RATIO: f64 = 1.044_273_782_427_413_8;
        let mut z = vec![0.0];
        let mut at = 1.0 / 1024.0;
        for _ in 0..36 * 16 {
            z.push(at);
            at *= RATIO;
        }
        let d: Vec<f64> = z.iter().map(|&z| density(z)).collect();
        let mut tail = vec![0.0; z.len()];
        for i in (0..z.len() - 1).rev() {
            tail[i] = tail[i + 1] + 0.5 * (d[i] + d[i + 1]) * (z[i + 1] - z[i]);
        }
        let total = tail[0];
        tail.iter_mut().for_each(|t| *t /= total);
        Self { z, tail }
    }

    /// Linear between points.
    fn at(&self, z: f64) -> f64 {
        let i = self.z.partition_point(|&p| p <= z);
        if i >= self.z.len() {
            return 0.0;
        }
        let share = (z - self.z[i - 1]) / (self.z[i] - self.z[i - 1]);
        self.tail[i - 1] + (self.tail[i] - self.tail[i - 1]) * share
    }
}

static TAILS: LazyLock<Vec<Tails>> = LazyLock::new(|| {
    let root = f64::sqrt;
    let power: [fn(f64) -> f64; 7] = [
        |z| z.sqrt(),
        |z| z.sqrt() * z.sqrt().sqrt(),
        |z| z.sqrt() * z.sqrt().sqrt() * z.sqrt().sqrt().sqrt(),
        |z| z,
        |z| z * z.sqrt().sqrt(),
        |z| z * z.sqrt(),
        |z| z * z,
    ];
    // (v, power of the root of the root of (1 + z²/v))
    let student = [(1.5, 5), (2.0, 6), (3.0, 8), (4.0, 10), (6.0, 14), (10.0, 22)];
    let exponential = power.map(|p| Tails::new(|z| exp_minus(p(z))));
    let student = student.map(|(v, n)| {
        Tails::new(|z| {
            let r = root(root(1.0 + z * z / v));
            1.0 / (0..n).fold(1.0, |product, _| product * r)
        })
    });
    exponential.into_iter().chain(student).collect()
});

/// `exp(−x)` for `x ≥ 0`, to 14 digits.
fn exp_minus(x: f64) -> f64 {
    if x > 700.0 {
        return 0.0;
    }
    // exp(−x) = (exp(−x / 1024))^1024
    let y = -x / 1024.0;
    let mut sum = 1.0;
    for k in (1..=12).rev() {
        sum = 1.0 + sum * y / f64::from(k);
    }
    for _ in 0..10 {
        sum *= sum;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distribution_is_complete() {
        for id in 0..N_DISTRIBUTIONS {
            let Frequencies(f) = frequencies(id);
            assert_eq!(f.iter().map(|&f| u32::from(f)).sum::<u32>(), 1 << PRECISION, "{id}");
            assert!(f[0] > 0 && f[ESCAPE] > 0, "{id}: {f:?}");
        }
    }

    /// The tables are part of the format: they never change.
    #[test]
    fn frequencies_never_change() {
        let mut bytes = Vec::new();
        (0..N_DISTRIBUTIONS).for_each(|id| frequencies(id).0.iter().for_each(|f| bytes.extend(f.to_le_bytes())));
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), 11_471_214_504_037_057_347);
    }
}
