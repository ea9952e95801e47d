//! The structure of what is left after prediction: two residuals of the same variance may differ by a factor in size.
//!
//! Measured on whole numbers (quantization codes, or errors in parts of the bound), image by image. With `v` a value clipped to ±[`MAX`]:
//! - entropies are Shannon's, of the empirical distribution, in bits a value: `H0 = −Σ p log2 p`; the conditional ones are
//!   `H(value | context) = H(value, context) − H(context)` over the values that have the context, a neighbour clipped to ±[`CLIP`]. With
//!   few values a joint distribution is thin and its entropy too low;
//! - Moran's I is `(n / W) Σ_ij w_ij z_i z_j / Σ z_i²` (Moran 1950, doi:10.2307/2332142) with w = 1 for the four nearest neighbours;
//! - the autocorrelation at a lag is the mean of `z_i z_(i+lag)` over the pairs there are, over the mean of `z²`; `z` is `v` less its mean;
//! - runs of zeros follow rows, from the end of one to the start of the next, and end with their image.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Largest magnitude of a context.
pub const CLIP: i32 = 8;
/// Largest magnitude of a value; what is larger counts as this.
pub const MAX: i32 = 4096;
/// Lags of the autocorrelation.
const LAGS: [usize; 5] = [1, 2, 4, 8, 16];
/// Values of a context.
const N_CLIPPED: usize = 2 * CLIP as usize + 1;
const N_VALUES: usize = 2 * MAX as usize + 1;

/// Counts over images.
pub struct Structure {
    n: u64,
    zeros: u64,
    /// Number of runs by octave of their length.
    runs: BTreeMap<u32, u64>,
    single: Joint,
    left: Joint,
    left_up: Joint,
    before: Joint,
    sum: f64,
    sum_squares: f64,
    links: Pairs,
    along_rows: [Pairs; LAGS.len()],
    along_columns: [Pairs; LAGS.len()],
    in_time: Pairs,
}

/// Pairs of values.
#[derive(Clone, Copy, Default)]
struct Pairs {
    n: f64,
    products: f64,
    ends: f64,
}

impl Pairs {
    fn add(&mut self, a: i32, b: i32) {
        self.n += 1.0;
        self.products += f64::from(a) * f64::from(b);
        self.ends += f64::from(a) + f64::from(b);
    }

    /// Mean product of differences from `mean`, over `variance`.
    fn correlation(&self, mean: f64, variance: f64) -> Option<f64> {
        let covariance = (self.products - mean * self.ends) / self.n + mean * mean;
        (variance > 0.0 && self.n > 0.0).then(|| covariance / variance)
    }
}

/// How often each value occurs in each context.
struct Joint {
    counts: Vec<u32>,
}

impl Joint {
    fn new(n_contexts: usize) -> Self {
        Self { counts: vec![0; n_contexts * N_VALUES] }
    }

    fn add(&mut self, context: usize, value: i32) {
        self.counts[context * N_VALUES + (value + MAX) as usize] += 1;
    }

    /// Of values given their context.
    fn entropy(&self) -> Option<f64> {
        let contexts = self.counts.chunks(N_VALUES).map(|c| c.iter().map(|&n| u64::from(n)).sum());
        Some(entropy(self.counts.iter().map(|&n| u64::from(n)))? - entropy(contexts)?)
    }
}

/// Entropy of a distribution given by counts, in bits.
fn entropy(counts: impl Iterator<Item = u64> + Clone) -> Option<f64> {
    let n = counts.clone().sum::<u64>() as f64;
    let bits = |c: u64| -(c as f64 / n) * (c as f64 / n).log2();
    (n > 0.0).then(|| counts.filter(|&c| c > 0).map(bits).sum::<f64>().max(0.0))
}

fn context(value: i32) -> usize {
    (value.clamp(-CLIP, CLIP) + CLIP) as usize
}

impl Default for Structure {
    fn default() -> Self {
        Self {
            n: 0,
            zeros: 0,
            runs: BTreeMap::new(),
            single: Joint::new(1),
            left: Joint::new(N_CLIPPED),
            left_up: Joint::new(N_CLIPPED * N_CLIPPED),
            before: Joint::new(N_CLIPPED),
            sum: 0.0,
            sum_squares: 0.0,
            links: Pairs::default(),
            along_rows: Default::default(),
            along_columns: Default::default(),
            in_time: Pairs::default(),
        }
    }
}

impl Structure {
    /// Adds an image with rows of `width` values, and the same image one step earlier if there is one.
    pub fn add(&mut self, image: &[i32], width: usize, before: Option<&[i32]>) {
        if width == 0 {
            return;
        }
        let clip = |v: i32| v.clamp(-MAX, MAX);
        let mut run = 0u64;
        for (i, &v) in image.iter().enumerate() {
            let v = clip(v);
            self.n += 1;
            if v == 0 {
                self.zeros += 1;
                run += 1;
            } else {
                self.end_run(&mut run);
            }
            self.single.add(0, v);
            self.sum += f64::from(v);
            self.sum_squares += f64::from(v).powi(2);
            let column = i % width;
            let left = |lag: usize| (column >= lag).then(|| clip(image[i - lag]));
            let up = |lag: usize| (i / width >= lag).then(|| clip(image[i - lag * width]));
            for (k, &lag) in LAGS.iter().enumerate() {
                left(lag).into_iter().for_each(|w| self.along_rows[k].add(w, v));
                up(lag).into_iter().for_each(|w| self.along_columns[k].add(w, v));
            }
            left(1).into_iter().chain(up(1)).for_each(|w| self.links.add(w, v));
            if let Some(left) = left(1) {
                self.left.add(context(left), v);
                if let Some(up) = up(1) {
                    self.left_up.add(context(left) * N_CLIPPED + context(up), v);
                }
            }
            if let Some(&b) = before.and_then(|b| b.get(i)) {
                self.before.add(context(b), v);
                self.in_time.add(clip(b), v);
            }
        }
        self.end_run(&mut run);
    }

    fn end_run(&mut self, run: &mut u64) {
        if *run > 0 {
            *self.runs.entry(run.ilog2()).or_default() += 1;
            *run = 0;
        }
    }

    /// All figures by name; what is not defined is null. `of` says what the values are.
    pub fn to_json(&self, of: &str) -> Value {
        let n = self.n as f64;
        let mean = self.sum / n;
        let variance = self.sum_squares / n - mean * mean;
        let of_pairs = |pairs: &Pairs| pairs.correlation(mean, variance);
        let by_lag = |pairs: &[Pairs]| -> Map<String, Value> {
            LAGS.iter().zip(pairs).map(|(lag, p)| (lag.to_string(), json!(of_pairs(p)))).collect()
        };
        let n_runs: u64 = self.runs.values().sum();
        let octaves = self.runs.keys().max().map_or(0, |m| m + 1);
        let runs: Vec<u64> = (0..octaves).map(|o| self.runs.get(&o).copied().unwrap_or(0)).collect();
        json!({
            "of": of,
            "n": self.n,
            "entropy": self.single.entropy(),
            "entropy_given_left": self.left.entropy(),
            "entropy_given_left_and_up": self.left_up.entropy(),
            "entropy_given_step_before": self.before.entropy(),
            "zero_share": self.zeros as f64 / n,
            "mean_zero_run": (n_runs > 0).then(|| self.zeros as f64 / n_runs as f64),
            "zero_runs_by_octave": runs,
            "variance": variance,
            "moran_i": of_pairs(&self.links),
            "autocorrelation_along_rows": by_lag(&self.along_rows),
            "autocorrelation_along_columns": by_lag(&self.along_columns),
            "autocorrelation_in_time": of_pairs(&self.in_time),
        })
    }
}

/// Bits by place: in bands of rows, and by scale.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    bands: BTreeMap<usize, (f64, f64)>,
    scales: BTreeMap<u32, (f64, f64)>,
}

/// Most bands of rows.
pub const BANDS: usize = 18;
/// Scales above 2^this are one.
const MAX_SCALE: u32 = 6;

impl Bits {
    /// Adds an image: bits that each value took.
    pub fn add(&mut self, bits: &[f32], width: usize) {
        let height = bits.len().checked_div(width).unwrap_or(0);
        for (i, row) in bits.chunks(width.max(1)).enumerate() {
            let band = self.bands.entry(i * height.min(BANDS) / height.max(1)).or_default();
            row.iter().for_each(|&b| *band = (band.0 + f64::from(b), band.1 + 1.0));
            for (j, &b) in row.iter().enumerate() {
                let scale = self.scales.entry((i | j).trailing_zeros().min(MAX_SCALE)).or_default();
                *scale = (scale.0 + f64::from(b), scale.1 + 1.0);
            }
        }
    }

    /// Mean bits a value by band, from the first row on; and by scale: of values whose row and column are multiples of 1, 2, 4, … and of
    /// no larger power of 2, with the share of all bits that they take.
    pub fn to_json(&self) -> Value {
        let mean = |(sum, n): &(f64, f64)| json!(sum / n);
        let total: f64 = self.scales.values().map(|s| s.0).sum();
        let share = |(sum, _): &(f64, f64)| json!(sum / total);
        json!({
            "by_band": self.bands.values().map(mean).collect::<Vec<_>>(),
            "by_scale": self.scales.values().map(mean).collect::<Vec<_>>(),
            "share_of_scale": self.scales.values().map(share).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(s: &Structure, name: &str) -> f64 {
        s.to_json("codes")[name].as_f64().unwrap()
    }

    #[test]
    fn known_values() {
        // A chessboard: one bit a value, none once a neighbour is known, neighbours always differ.
        let board: Vec<i32> = (0..64).map(|i| (i % 8 + i / 8) % 2).collect();
        let mut s = Structure::default();
        s.add(&board, 8, Some(&board));
        assert!((figure(&s, "entropy") - 1.0).abs() < 1e-12);
        for name in ["entropy_given_left", "entropy_given_left_and_up", "entropy_given_step_before"] {
            assert!(figure(&s, name).abs() < 1e-12, "{name}");
        }
        assert!((figure(&s, "moran_i") + 1.0).abs() < 1e-12);
        assert_eq!(figure(&s, "autocorrelation_in_time"), 1.0);
        assert_eq!(figure(&s, "zero_share"), 0.5);
        // Zeros in runs of 1 and, where a row ends with 0 and the next begins with it, 2.
        assert!(figure(&s, "mean_zero_run") > 1.0);

        // 1/2, 1/4, 1/8, 1/8; the end of the range is where values beyond it are counted.
        let mut s = Structure::default();
        s.add(&[0, 0, 0, 0, 1, 1, 2, i32::MIN], 8, None);
        assert!((figure(&s, "entropy") - 1.75).abs() < 1e-12);
        assert_eq!(figure(&s, "mean_zero_run"), 4.0);
        assert_eq!(s.to_json("codes")["zero_runs_by_octave"], json!([0, 0, 1]));
        assert!(s.to_json("codes")["entropy_given_step_before"].is_null());
    }

    #[test]
    fn moran_as_the_formula_says() {
        let (h, w) = (7usize, 9usize);
        let image: Vec<i32> = (0..h * w).map(|i| ((i * i * 31) % 11) as i32 - 4 + (i / w) as i32).collect();
        let mut s = Structure::default();
        s.add(&image, w, None);
        let mean = image.iter().sum::<i32>() as f64 / image.len() as f64;
        let z = |i: usize| f64::from(image[i]) - mean;
        let (mut weights, mut products) = (0.0, 0.0);
        for i in 0..h * w {
            for j in 0..h * w {
                let distance = (i / w).abs_diff(j / w) + (i % w).abs_diff(j % w);
                if distance == 1 {
                    weights += 1.0;
                    products += z(i) * z(j);
                }
            }
        }
        let squares: f64 = (0..h * w).map(|i| z(i) * z(i)).sum();
        let expected = image.len() as f64 / weights * products / squares;
        // Border values have fewer links: the mean over links is of the values, so both agree exactly.
        assert!((figure(&s, "moran_i") - expected).abs() < 1e-12);
    }

    #[test]
    fn bits_go_to_bands_and_scales() {
        // 36 rows of 16: row 0 and column 0 are multiples of everything.
        let bits: Vec<f32> = (0..36 * 16).map(|i| if i / 16 < 2 { 3.0 } else { 1.0 }).collect();
        let mut b = Bits::default();
        b.add(&bits, 16);
        let json = b.to_json();
        let bands: Vec<f64> = json["by_band"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!((bands.len(), bands[0], bands[1]), (18, 3.0, 1.0));
        let shares: f64 = json["share_of_scale"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-12);
        // Up to 8 within rows, 16 and 32 in the first column, and the corner, a multiple of everything.
        assert_eq!(json["by_scale"].as_array().unwrap().len(), 7);
    }
}
