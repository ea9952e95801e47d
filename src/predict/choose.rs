//! The choice of a predictor by its cost on samples. Class: `EncoderOnly`; the result is written to the archive.

use super::Predictor;
use super::interp::{self, Interp};
use super::lorenzo::{self, Lorenzo};
use super::none::None;
use crate::awake;
use crate::config::PredictorChoice;
use crate::encode::huffman::cpu::entropy;
use crate::encode::huffman::token::{self, Meaning};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use multiversion::multiversion;
use std::sync::LazyLock;

/// Samples are this part of a tile, within [`SAMPLE_MIN`] and [`SAMPLE_MAX`] values each.
const SAMPLE_SHARE: usize = 32;
const SAMPLE_MIN: usize = 4096;
const SAMPLE_MAX: usize = 32768;

/// A box cut out of a tile.
pub struct Sample<T> {
    /// Values in C order.
    pub values: Vec<T>,
    /// Lengths of the axes, as many as the tile has.
    pub shape: Vec<usize>,
}

/// Estimated cost of codes: their order-0 entropy, plain bits, and values stored apart.
pub struct CodeCost {
    /// Two counters for each class: increments of the same one in a row would wait for each other.
    counts: Box<[[u32; N_CLASSES]; 2]>,
    n_outlier_bits: u64,
}

/// Zero, which counts one by one as runs come close to the entropy, and the tokens of values.
const N_CLASSES: usize = 1 + token::N_TOKENS - token::N_RUN;

/// Plain bits of each class.
static N_EXTRA: LazyLock<[u32; N_CLASSES]> = LazyLock::new(|| {
    let mut n_extra = [0; N_CLASSES];
    for (token, n) in n_extra[1..].iter_mut().enumerate() {
        let (Meaning::Run { n_extra, .. } | Meaning::Value { n_extra, .. }) = token::meaning(token::N_RUN + token);
        *n = n_extra;
    }
    n_extra
});

impl Default for CodeCost {
    fn default() -> Self {
        Self { counts: Box::new([[0; N_CLASSES]; 2]), n_outlier_bits: 0 }
    }
}

impl CodeCost {
    /// Adds codes, and a number of values of type `T` stored exactly.
    pub fn add<T: Kernels>(&mut self, codes: &[i32], n_outliers: usize) {
        for block in codes.chunks(CLASS_BLOCK) {
            let mut classes = [0; CLASS_BLOCK];
            classify(block, &mut classes);
            for pair in classes[..block.len()].chunks(2) {
                self.counts[0][usize::from(pair[0])] += 1;
                if let [_, second] = *pair {
                    self.counts[1][usize::from(second)] += 1;
                }
            }
        }
        self.n_outlier_bits += n_outliers as u64 * (8 * T::BYTES as u64 + 10);
    }

    /// Adds what another one counted.
    pub fn add_all(&mut self, other: &Self) {
        self.counts.as_flattened_mut().iter_mut().zip(other.counts.as_flattened()).for_each(|(a, b)| *a += b);
        self.n_outlier_bits += other.n_outlier_bits;
    }

    /// In 1/1024 bits.
    pub fn total(&self) -> u64 {
        let mut counts = self.counts[0];
        counts.iter_mut().zip(self.counts[1]).for_each(|(a, b)| *a += b);
        let extra: u64 = counts.iter().zip(&*N_EXTRA).map(|(&n, &n_extra)| u64::from(n) * u64::from(n_extra)).sum();
        entropy(&counts) + (extra + self.n_outlier_bits) * 1024
    }
}

/// Codes classified at once.
const CLASS_BLOCK: usize = 64;

/// Classes of at most [`CLASS_BLOCK`] codes. Very large codes count as less large.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn classify(codes: &[i32], classes: &mut [u16; CLASS_BLOCK]) {
    for (class, &code) in classes.iter_mut().zip(codes) {
        let folded = token::fold(code).min(token::MAX_SMALL);
        let (token, _) = token::of_small(folded.max(1) - 1);
        *class = if folded == 0 { 0 } else { 1 + token as u16 };
    }
}

/// The predictor to use for a tile. `asked` limits the choice.
pub fn choose<T: Kernels>(
    values: &[T],
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
    asked: PredictorChoice,
) -> Box<dyn Predictor<T>> {
    if asked == PredictorChoice::None || values.len() < 2 {
        return Box::new(None);
    }
    let samples = take_samples(values, shape);
    let lorenzo = || (asked != PredictorChoice::Interp).then(|| choose_lorenzo(&samples, shape, base, q));
    let interp = || {
        (asked != PredictorChoice::Lorenzo).then(|| {
            let (mut plan, cost) = interp::choose::choose(&samples, shape, base, q);
            plan.wrap = is_circle(values, shape);
            (plan, cost)
        })
    };
    let (interp, lorenzo) = awake::join(interp, lorenzo);
    match (lorenzo, interp) {
        (Some((lorenzo, a)), Some((_, b))) if a < b => Box::new(lorenzo),
        (_, Some((interp, _))) => boxed(interp),
        (Some((lorenzo, _)), _) => Box::new(lorenzo),
        _ => Box::new(None),
    }
}

fn boxed<T: Kernels>(plan: Interp) -> Box<dyn Predictor<T>> {
    Box::new(plan)
}

fn choose_lorenzo<T: Kernels>(samples: &[Sample<T>], shape: &[usize], base: T, q: &Quantizer<T>) -> (Lorenzo, u64) {
    let costs = awake::map((1..=shape.len().min(lorenzo::MAX_AXES)).collect(), usize::MAX, |axes| {
        let mut cost = CodeCost::default();
        for s in samples {
            let coded = lorenzo::cpu::encode(axes, &s.values, &s.shape, base, q);
            cost.add::<T>(&coded.codes, coded.outliers.positions.len());
        }
        (Lorenzo { axes: axes as u8 }, cost.total())
    });
    // Of equal ones the first.
    costs.into_iter().min_by_key(|c| c.1).unwrap_or((Lorenzo { axes: 1 }, u64::MAX))
}

/// Two boxes, a quarter and five eighths into each axis.
fn take_samples<T: Kernels>(values: &[T], shape: &[usize]) -> Vec<Sample<T>> {
    let target = (values.len() / SAMPLE_SHARE).clamp(SAMPLE_MIN, SAMPLE_MAX);
    let mut lens = shape.to_vec();
    while lens.iter().product::<usize>() > target {
        if let Some(longest) = lens.iter_mut().max() {
            *longest = longest.div_ceil(2);
        }
    }
    let n_samples = if lens == shape { 1 } else { 2 };
    let strides = interp::lattice::raster_strides(shape);
    let row_len = lens[lens.len() - 1];
    (0..n_samples)
        .map(|s| {
            let start: Vec<usize> = shape.iter().zip(&lens).map(|(&n, &l)| (n - l) * [2, 5][s] / 8).collect();
            let n: usize = lens.iter().product();
            let mut out = Vec::with_capacity(n);
            for row in 0..n / row_len {
                let mut rest = row;
                let mut at = start[lens.len() - 1];
                for k in (0..lens.len() - 1).rev() {
                    at += (start[k] + rest % lens[k]) * strides[k];
                    rest /= lens[k];
                }
                out.extend_from_slice(&values[at..at + row_len]);
            }
            Sample { values: out, shape: lens.clone() }
        })
        .collect()
}

/// Whether the last axis closes on itself: the step from its end to its start is like the steps between.
pub fn is_circle<T: Kernels>(values: &[T], shape: &[usize]) -> bool {
    const N_ROWS: usize = 64;
    /// Steps looked at in a row: all of a climate grid's, so that a long series takes no time.
    const N_STEPS: usize = 4096;
    const TURNS: usize = 8;
    let n = shape[shape.len() - 1];
    if n < 16 {
        return false;
    }
    let n_rows = values.len() / n;
    let every = ((n - 1) / N_STEPS).max(1);
    let n_steps = (n - 1).div_ceil(every);
    let step = |a: T, b: T| {
        let d = (a.to_f64() - b.to_f64()).abs();
        if d.is_finite() { d } else { 0.0 }
    };
    // Sums that wait for themselves take turns.
    let of_rows = |rows: &[usize]| {
        let rows: [&[T]; TURNS] = std::array::from_fn(|k| &values[rows[k.min(rows.len() - 1)] * n..][..n]);
        let mut within = [0.0; TURNS];
        for j in (0..n - 1).step_by(every) {
            within.iter_mut().zip(&rows).for_each(|(sum, row)| *sum += step(row[j], row[j + 1]));
        }
        (rows.map(|row| step(row[n - 1], row[0])), within.map(|sum| sum / n_steps as f64))
    };
    let rows: Vec<usize> = (0..n_rows).step_by((n_rows / N_ROWS).max(1)).collect();
    let sums = awake::map(rows.chunks(TURNS).collect(), usize::MAX, of_rows);
    let (mut across, mut within) = (0.0, 0.0);
    for (rows, (of_ends, of_steps)) in rows.chunks(TURNS).zip(sums) {
        for k in 0..rows.len() {
            across += of_ends[k];
            within += of_steps[k];
        }
    }
    across <= 2.0 * within && within > 0.0
}
