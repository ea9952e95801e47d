//! The fits of taps and weights, by least squares. Class: `EncoderOnly`; results are written to the archive.

use super::rows::Rows;
use super::sample::{Equations, SAMPLES_PER_BAND, Samples};
use super::site::{Guess, Taps, Weights};
use crate::awake;
use crate::quantize::log::log2;
use crate::scratch::Buffer;
use multiversion::multiversion;

/// Bits of a tap's place and of its head, about.
const TAP_PRICE: f64 = 13.0;

/// A tap fits the noise of the sample too: what that seems to gain for each value that stands behind one sampled, in bits.
const NOISE_PRICE: f64 = 3.0;

impl Samples {
    /// Leaves only the `most` taps that seem to gain the most, so that what follows costs less, and says whether there are fewer now. To be called
    /// after [`Samples::close`].
    pub fn keep_best_taps(&mut self, most: usize) -> bool {
        let n_taps = self.candidates.len();
        // Fewer samples than that would choose by chance.
        let enough = 15.0 * n_taps as f64;
        if n_taps <= most || self.bands.iter().map(|b| b.n).sum::<f64>() < enough {
            return false;
        }
        let sum = self.sum(&self.bands);
        let mut kept = System::new(&sum, n_taps).select(most, |_, _| true).order;
        kept.sort_unstable();
        let kept: Vec<u8> = kept.iter().map(|&k| self.candidates[k]).collect();
        self.keep(&kept);
        true
    }

    /// Samples of each feature, and of the size; nothing if there are none.
    pub(super) fn feature_rows(&self) -> Vec<&[u16]> {
        self.features.chunks_exact(self.most_guess).map(|row| &row[..self.n_guess]).collect()
    }

    /// Of some of the bands.
    fn sum(&self, bands: &[Equations]) -> Equations {
        let n_rows = self.candidates.len() + 1;
        let mut sum = Equations { g: Buffer::zeros(n_rows * (n_rows + 1) / 2), n: 0.0 };
        bands.iter().for_each(|b| sum.add(b));
        sum
    }
}

/// Taps and weights of a phase as integers: what is written to the archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fitted {
    /// Fraction bits of the weights.
    pub shift: u8,
    /// For each band `(tap, weight · 2^shift)`, taps ascending.
    pub bands: Vec<Vec<(u8, i16)>>,
}

impl Fitted {
    /// Weights as the kernels take them: each band's taps ascending, the near ones with the share that is left.
    pub fn weights<T: Rows>(&self, guess: &Guess, taps: &Taps) -> Weights<T> {
        let scale = f64::from(1u32 << self.shift);
        let of_band = |band: &Vec<(u8, i16)>| {
            let sum: f64 = band.iter().map(|&(_, w)| f64::from(w) / scale).sum();
            let share = (1.0 - sum) / taps.n_near as f64;
            let mut weights = Vec::with_capacity(taps.n_near + band.len());
            weights.extend((0..taps.n_near as u8).map(|t| (t, share)));
            for &(tap, weight) in band {
                let weight = f64::from(weight) / scale;
                match weights.get_mut(usize::from(tap)).filter(|_| usize::from(tap) < taps.n_near) {
                    Some(near) => near.1 += weight,
                    None => weights.push((tap, weight)),
                }
            }
            weights.into_iter().map(|(t, w)| (t, T::from_f64(w))).collect()
        };
        Weights { bands: self.bands.iter().map(of_band).collect(), guess: guess.clone() }
    }
}

/// Fits the taps of a phase: 1, 2, 4 or 8 bands (at most `most_bands`), whatever costs the least.
pub fn fit(samples: &Samples, most_bands: usize) -> Fitted {
    let mut best: Option<(f64, Fitted)> = None;
    let mut n_bands = 1;
    let rounds = samples.n_rounds as f64;
    let total: f64 = samples.bands.iter().map(|b| b.n).sum::<f64>() / rounds;
    let mut numbers = vec![];
    // Few values can not pay for many bands.
    while n_bands <= samples.bands.len().clamp(1, most_bands)
        && (n_bands == 1 || total >= SAMPLES_PER_BAND * n_bands as f64)
    {
        numbers.push(n_bands);
        n_bands *= 2;
    }
    let groups_of = |n_bands: usize| samples.bands.chunks((samples.bands.len() / n_bands).max(1));
    let groups: Vec<&[Equations]> = numbers.iter().flat_map(|&n| groups_of(n)).collect();
    let mut solved = awake::map(groups, usize::MAX, |group| {
        let sum = samples.sum(group);
        System::new(&sum, samples.candidates.len()).solve(samples.share, rounds)
    })
    .into_iter();
    for n_bands in numbers {
        let mut cost = 0.0;
        let mut bands = Vec::new();
        for (weights, bits) in solved.by_ref().take(groups_of(n_bands).len()) {
            cost += bits;
            bands.push(weights.into_iter().map(|(t, w)| (samples.candidates[t], w)).collect::<Vec<_>>());
        }
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, to_integers(&bands)));
        }
    }
    best.map(|b| b.1).unwrap_or_else(|| Fitted { shift: 0, bands: vec![vec![]] })
}

/// Weights in 1/2^shift: at most 14 bits of fraction, fewer where weights are large.
fn to_integers(bands: &[Vec<(u8, f64)>]) -> Fitted {
    let largest = bands.iter().flatten().map(|w| w.1.abs()).fold(0.0, f64::max);
    // Ten bits of fraction: what finer ones would gain is below their cost.
    let mut shift = 10u8;
    while shift > 0 && largest * f64::from(1u32 << shift) > 32_000.0 {
        shift -= 1;
    }
    let scale = f64::from(1u32 << shift);
    let integers = |band: &Vec<(u8, f64)>| {
        let mut band: Vec<(u8, i16)> =
            band.iter().map(|&(t, w)| (t, (w * scale).round_ties_even().clamp(-32_000.0, 32_000.0) as i16)).collect();
        band.retain(|w| w.1 != 0);
        band.sort_unstable();
        band
    };
    Fitted { shift, bands: bands.iter().map(integers).collect() }
}

/// A least-squares problem.
struct System<'a> {
    equations: &'a Equations,
    n_taps: usize,
    /// Added to the diagonal.
    ridge: f64,
}

impl<'a> System<'a> {
    fn new(equations: &'a Equations, n_taps: usize) -> Self {
        let mut system = Self { equations, n_taps, ridge: 0.0 };
        let trace: f64 = (0..n_taps).map(|i| system.at(i, i)).sum();
        system.ridge = 1e-6 * trace / n_taps as f64 + 1e-30;
        system
    }

    /// The product of rows `i` and `j ≤ i`.
    fn at(&self, i: usize, j: usize) -> f64 {
        self.equations.g[i * (i + 1) / 2 + j]
    }

    /// What the products of a tap are with all.
    fn column(&self, t: usize) -> impl Iterator<Item = f64> {
        let at = move |j: usize| self.at(t.max(j), t.min(j));
        (0..self.n_taps).map(move |j| if j == t { at(j) + self.ridge } else { at(j) })
    }

    /// Bits for `n` values whose squared errors sum to `rss`, in bins, as choices between taps and bands need them; never below 0.
    fn bits(n: f64, rss: f64) -> f64 {
        let sigma = (rss / n.max(1.0)).sqrt().max(1e-9);
        // Linear for small σ, where some values have larger errors than others; towards 0 less than that, as nearly all codes are 0 then, and what bands
        // and taps seem to gain is noise. For large σ more than a Laplace distribution's log2(e σ √2), which was smaller on single fields but larger on
        // long series (BENCHMARKS.md). Not the maths library's log2, so that a GPU chooses the same taps.
        let squared = sigma * sigma;
        n * log2(1.0 + 3.0 * squared / (sigma + 0.05) + 2.0 * squared)
    }

    /// Forward selection while a tap pays; `share` values stand behind each of the samples, which `rounds` rounds repeat. Also gives
    /// the bits.
    fn solve(&self, share: f64, rounds: f64) -> (Vec<(usize, f64)>, f64) {
        let n = self.equations.n * share / rounds;
        let price = TAP_PRICE + 6.0 + NOISE_PRICE * share;
        let bits = |rss: f64| Self::bits(n, rss * share / rounds);
        let chosen = self.select(self.n_taps, |rss, left| bits(rss) - bits(left) >= price);
        let Selection { order, columns, z, rss } = chosen;
        // Back substitution.
        let mut w = Buffer::zeros(order.len());
        for (k, column) in columns.chunks_exact(self.n_taps.max(1)).take(order.len()).enumerate().rev() {
            let sum: f64 = (k + 1..order.len()).map(|j| column[order[j]] * w[j]).sum();
            w[k] = (z[k] - sum) / column[order[k]];
        }
        let cost = bits(rss) + order.len() as f64 * price;
        (order.into_iter().zip(w.iter().copied()).collect(), cost)
    }

    /// Forward selection of at most `most` taps, as long as `pays` says so of the residual sums of squares before and after.
    fn select(&self, most: usize, pays: impl Fn(f64, f64) -> bool) -> Selection {
        let n_taps = self.n_taps;
        let mut d: Vec<f64> = (0..n_taps).map(|i| self.at(i, i) + self.ridge).collect();
        let floor: Vec<f64> = d.iter().map(|d| 1e-7 * d).collect();
        let mut r: Vec<f64> = (0..n_taps).map(|j| self.at(n_taps, j)).collect();
        let yy = self.at(n_taps, n_taps);
        let most = most.min(n_taps);
        let (order, z) = (Vec::with_capacity(most), Vec::with_capacity(most));
        let mut chosen = Selection { order, columns: Buffer::new(most * n_taps), z, rss: yy };
        let mut gains = Buffer::zeros(n_taps);
        while chosen.order.len() < most {
            gains_of(&d, &r, &floor, &mut gains);
            // The last one of those that gain the most.
            let (mut t, mut gained) = (0, 0.0);
            for (k, &gain) in gains.iter().enumerate() {
                if gain >= gained {
                    (t, gained) = (k, gain);
                }
            }
            let left = (chosen.rss - gained).max(1e-9 * yy);
            if gained <= 0.0 || !pays(chosen.rss, left) {
                break;
            }
            let inverse = 1.0 / d[t].sqrt();
            let (columns, rest) = chosen.columns.split_at_mut(chosen.order.len() * n_taps);
            let column = &mut rest[..n_taps];
            column.iter_mut().zip(self.column(t)).for_each(|(to, product)| *to = product);
            columns.chunks_exact(n_taps).for_each(|c| add_scaled(column, -c[t], c));
            let zt = r[t] * inverse;
            take_off(column, inverse, zt, &mut d, &mut r);
            // Never again.
            d[t] = 0.0;
            chosen.z.push(zt);
            chosen.order.push(t);
            chosen.rss = left;
        }
        chosen
    }
}

/// What each tap gains: `r² / d`. What is not a number gains nothing: its sign is the machine's.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn gains_of(d: &[f64], r: &[f64], floor: &[f64], gains: &mut [f64]) {
    for (((gain, &d), &r), &floor) in gains.iter_mut().zip(d).zip(r).zip(floor) {
        let gained = r * r / d;
        *gain = if d > floor && gained > 0.0 { gained } else { 0.0 };
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn add_scaled(sum: &mut [f64], weight: f64, x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(s, x)| *s += x * weight);
}

/// Makes a column one of the Cholesky factor, and takes off what it explains.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn take_off(column: &mut [f64], inverse: f64, z: f64, d: &mut [f64], r: &mut [f64]) {
    for ((v, d), r) in column.iter_mut().zip(d).zip(r) {
        *v *= inverse;
        *d -= *v * *v;
        *r -= *v * z;
    }
}

/// Taps in the order in which they were selected, with the columns of the Cholesky factor, the right-hand side and what is left.
struct Selection {
    order: Vec<usize>,
    /// One after the other, room for as many as there might be.
    columns: Buffer<f64>,
    z: Vec<f64>,
    rss: f64,
}
