//! The fits of guesses of code sizes. Class: `EncoderOnly`; results are written to the archive.

use super::plan;
use super::rows;
use super::sample::Samples;
use super::site::{GUESS_BANDS, Guess};
use crate::awake;
use crate::quantize::log::log2;
use crate::scratch::Buffer;

/// Fits the guess of sizes to those of all `samples`; `count` values will follow it.
pub fn fit_guess(samples: &[&Samples], n_features: usize, count: f64) -> Guess {
    /// Samples that are worth a thread.
    const ENOUGH: usize = 1024;
    let (n, n_samples) = (n_features + 1, samples.iter().map(|s| s.n_guess).sum::<usize>());
    let to_i16 = |w: f64| w.round_ties_even().clamp(-32_000.0, 32_000.0) as i16;
    // Features and the size.
    let tables: Vec<Vec<&[u16]>> = samples.iter().map(|s| s.feature_rows()).filter(|rows| !rows.is_empty()).collect();
    // Sums of integers are exact, in whatever order.
    let sum = |row: usize| tables.iter().map(|rows| rows::sum_of(rows[row])).sum::<u64>() as f64;
    let product =
        |i: usize, j: usize| tables.iter().map(|rows| rows::sum_of_products(rows[i], rows[j])).sum::<u64>() as f64;
    let mut w = Buffer::zeros(n);
    if n_samples >= 64 {
        let mut a = Buffer::zeros(n * n);
        let mut b = Buffer::zeros(n);
        let sums = a.chunks_exact_mut(n).zip(b.iter_mut()).enumerate();
        awake::for_each(sums, n_samples / ENOUGH, |(i, (a, b))| {
            if i < n_features {
                a[..=i].iter_mut().enumerate().for_each(|(j, a)| *a = product(i, j));
                *b = product(i, n_features);
            } else {
                a[..i].iter_mut().enumerate().for_each(|(j, a)| *a = sum(j));
                a[i] = n_samples as f64;
                *b = sum(n_features);
            }
        });
        let trace: f64 = (0..n).map(|k| a[k * n + k]).sum();
        (0..n).for_each(|k| a[k * n + k] += 1e-7 * trace + 1e-12);
        w = cholesky_solve(a, b, n);
    } else {
        w[n_features] = (sum(n_features) / n_samples.max(1) as f64).max(1.0 / 64.0);
    }
    let (constant, of_features) = w.split_last().map_or((0.0, &[][..]), |(c, f)| (*c, f));
    let of_features = of_features.iter().map(|w| to_i16(w * 1024.0));
    let weights: Vec<i16> = of_features.chain([to_i16(constant * 64.0)]).collect();
    let offsets = fit_offsets(samples, &weights, count);
    Guess { weights, offsets }
}

/// What samples say of a band of rows. Integers, whose sums are exact in whatever order, also as f64.
#[derive(Clone, Copy, Default)]
struct Band {
    /// Samples.
    n: u64,
    /// Sum of their sizes,
    sizes: u64,
    /// of what the weights say they are, in 1/1024,
    guesses: i64,
    /// and of squares of sizes.
    squares: u64,
}

/// Fits the offsets of a guess: how much larger or smaller sizes are in each band of rows than `weights` say. Nothing where that would not pay for
/// its bits in the plan.
fn fit_offsets(samples: &[&Samples], weights: &[i16], count: f64) -> Vec<i8> {
    /// So many times the size of a sample with a code (`Σ size² / Σ size`) is added to what sizes of a band sum to and to what was guessed: the few codes
    /// other than 0 that there are at loose bounds say little.
    const DOUBT: f64 = 30.0;
    /// Bits that a value costs whose guess is off by an eighth of an octave: `½ (ln 2 / 8)² / ln 2`.
    const PRICE: f64 = 0.0054;
    /// Two octaves: more is chance.
    const LARGEST: f64 = 16.0;
    let mut bands = [Band::default(); GUESS_BANDS];
    samples.iter().for_each(|samples| add_bands(samples, weights, &mut bands));
    let sum = |of: fn(&Band) -> u64| bands.iter().map(of).sum::<u64>() as f64;
    let (n, sizes, squares) = (sum(|b| b.n), sum(|b| b.sizes), sum(|b| b.squares));
    if sizes == 0.0 {
        return vec![];
    }
    let doubt = DOUBT * squares / sizes;
    let offset = |band: &Band| {
        let ratio = (band.sizes as f64 + doubt) / (band.guesses.max(0) as f64 / 1024.0 + doubt);
        (8.0 * log2(ratio)).round_ties_even().clamp(-LARGEST, LARGEST) as i8
    };
    let offsets: Vec<i8> = bands.iter().map(offset).collect();
    let squared = |(band, &offset): (&Band, &i8)| band.n as f64 * f64::from(offset) * f64::from(offset);
    let gain = bands.iter().zip(&offsets).map(squared).sum::<f64>() / n;
    let bits: u32 = offsets.iter().map(|&offset| plan::offset_len(offset)).sum();
    // Where most codes are 0 few values gain: the share of those that have about the same size.
    let share = sizes * sizes / (squares * n);
    let pays = PRICE * gain * share * count > f64::from(bits);
    if pays { offsets } else { vec![] }
}

/// Adds the samples of a chain to the bands that they are of.
fn add_bands(samples: &Samples, weights: &[i16], bands: &mut [Band; GUESS_BANDS]) {
    let rows = samples.feature_rows();
    let (Some((sizes, features)), Some((&constant, weights))) = (rows.split_last(), weights.split_last()) else {
        return;
    };
    let mut first = 0;
    for &(band, end) in &samples.guess_bands {
        let (band, n, sizes) = (&mut bands[band], end - first, &sizes[first..end]);
        let guess = |(row, &w): (&&[u16], &i16)| i64::from(w) * rows::sum_of(&row[first..end]) as i64;
        band.n += n as u64;
        band.sizes += rows::sum_of(sizes);
        band.guesses += 16 * i64::from(constant) * n as i64 + features.iter().zip(weights).map(guess).sum::<i64>();
        band.squares += rows::sum_of_products(sizes, sizes);
        first = end;
    }
}

/// Solves a symmetric positive system given by its lower triangle.
fn cholesky_solve(mut a: Buffer<f64>, mut b: Buffer<f64>, n: usize) -> Buffer<f64> {
    for j in 0..n {
        for k in 0..j {
            let ljk = a[j * n + k];
            for i in j..n {
                a[i * n + j] -= a[i * n + k] * ljk;
            }
        }
        let pivot = a[j * n + j].max(1e-12).sqrt();
        (j..n).for_each(|i| a[i * n + j] /= pivot);
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| a[i * n + k] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| a[k * n + i] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::super::encode::encode;
    use super::super::learn::Budget;
    use super::super::plan::Plan;
    use crate::encode::bytes::Reader;
    use crate::quantize::Quantizer;

    /// Waves above, white noise below: what coarse lattices say of finer ones is another thing in each half.
    #[test]
    fn rows_unlike_others_get_offsets() {
        for shape in [vec![120, 128], vec![6, 48, 64]] {
            let (ny, nx) = (shape[shape.len() - 2], shape[shape.len() - 1]);
            let value = |i: usize| {
                let (y, x) = (i / nx % ny, i % nx);
                let wave = 30.0 * (0.1 * x as f32).sin() + 10.0 * (0.2 * y as f32).cos();
                let noise = ((i as u32).wrapping_mul(0x9e37_79b9) ^ (i as u32 >> 3)).wrapping_mul(0x85eb_ca6b) >> 16;
                if 2 * y < ny { wave } else { noise as f32 * 1e-3 }
            };
            let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
            let q = Quantizer::new(0.5, 100.0);
            let plan = encode(&values, None, &shape, 0.0, &q, false, Budget::BALANCED).plan;
            let offsets: Vec<&Vec<i8>> = plan.guesses.iter().map(|g| &g.offsets).filter(|o| !o.is_empty()).collect();
            assert!(!offsets.is_empty(), "{shape:?}");
            let mut bytes = vec![];
            plan.write(&mut bytes);
            assert_eq!(Plan::read(&mut Reader::new(&bytes), &shape).unwrap(), plan);
        }
    }
}
