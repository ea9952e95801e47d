//! The structure of what is left after prediction: two fields of the same variance may differ by a factor in size.
//!
//! Measured on whole numbers (codes, or errors in units of a part of the bound), image by image. Entropies are Shannon's, of the
//! empirical distribution, in bits a value: `H0 = −Σ p log2 p`; the conditional ones are `H(value | context) = H(value, context) −
//! H(context)`, the context a neighbour clipped to ±[`CLIP`]. With few values a joint distribution is thin and its entropy too low.
//! Moran's I is `(n / W) Σ_ij w_ij z_i z_j / Σ z_i²` (Moran 1950, doi:10.2307/2332142) with w = 1 for the four nearest neighbours.

use serde_json::{Value, json};
use std::collections::HashMap;

/// Largest magnitude of a context.
pub const CLIP: i32 = 8;

/// Counts over images.
#[derive(Default)]
pub struct Structure {
    n: u64,
    zeros: u64,
    runs: u64,
    single: HashMap<i32, u64>,
    left: Joint,
    left_up: Joint,
    before: Joint,
    sum: f64,
    sum_squares: f64,
    n_links: f64,
    link_products: f64,
    link_ends: f64,
}

/// Values with their contexts.
#[derive(Default)]
struct Joint {
    pairs: HashMap<(i32, i32), u64>,
}

impl Joint {
    fn add(&mut self, context: i32, value: i32) {
        *self.pairs.entry((context, value)).or_default() += 1;
    }

    fn entropy(&self) -> Option<f64> {
        let mut contexts: HashMap<i32, u64> = HashMap::new();
        self.pairs.iter().for_each(|(k, n)| *contexts.entry(k.0).or_default() += n);
        Some(entropy(self.pairs.values().copied())? - entropy(contexts.into_values())?)
    }
}

/// Entropy of a distribution given by counts, in bits.
fn entropy(counts: impl Iterator<Item = u64>) -> Option<f64> {
    // In the order of the counts: a hash map has none, and sums shall not differ between runs.
    let mut counts: Vec<u64> = counts.collect();
    counts.sort_unstable();
    let n = counts.iter().sum::<u64>() as f64;
    (n > 0.0).then(|| counts.iter().map(|&c| c as f64 / n).map(|p| -p * p.log2()).sum())
}

fn clip(value: i32) -> i32 {
    value.clamp(-CLIP, CLIP)
}

impl Structure {
    /// Adds an image with rows of `width` values, and the same image one step earlier if there is one.
    pub fn add(&mut self, image: &[i32], width: usize, before: Option<&[i32]>) {
        if width == 0 {
            return;
        }
        let mut in_run = false;
        for (i, &v) in image.iter().enumerate() {
            self.n += 1;
            self.zeros += u64::from(v == 0);
            self.runs += u64::from(v == 0 && !in_run);
            in_run = v == 0;
            *self.single.entry(v).or_default() += 1;
            self.sum += f64::from(v);
            self.sum_squares += f64::from(v).powi(2);
            let left = (i % width > 0).then(|| image[i - 1]);
            let up = (i >= width).then(|| image[i - width]);
            for neighbour in [left, up].into_iter().flatten() {
                self.n_links += 1.0;
                self.link_products += f64::from(v) * f64::from(neighbour);
                self.link_ends += f64::from(v) + f64::from(neighbour);
            }
            if let Some(left) = left {
                self.left.add(clip(left), v);
            }
            if let (Some(left), Some(up)) = (left, up) {
                self.left_up.add(clip(left) * (2 * CLIP + 1) + clip(up), v);
            }
            if let Some(&b) = before.and_then(|b| b.get(i)) {
                self.before.add(clip(b), v);
            }
        }
    }

    /// Moran's I; each pair of neighbours counts once, which both sums of the formula divide out.
    pub fn moran(&self) -> Option<f64> {
        let n = self.n as f64;
        let mean = self.sum / n;
        let variance = self.sum_squares / n - mean * mean;
        let covariance = (self.link_products - mean * self.link_ends) / self.n_links + mean * mean;
        (variance > 0.0 && self.n_links > 0.0).then(|| covariance / variance)
    }

    /// All figures by name; what is not defined is null.
    pub fn to_json(&self, of: &str) -> Value {
        json!({
            "of": of,
            "n": self.n,
            "entropy": entropy(self.single.values().copied()),
            "entropy_given_left": self.left.entropy(),
            "entropy_given_left_and_up": self.left_up.entropy(),
            "entropy_given_step_before": self.before.entropy(),
            "zero_share": self.zeros as f64 / self.n.max(1) as f64,
            "mean_zero_run": if self.runs > 0 { Some(self.zeros as f64 / self.runs as f64) } else { None },
            "variance": self.sum_squares / self.n as f64 - (self.sum / self.n as f64).powi(2),
            "moran_i": self.moran(),
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
        assert_eq!(figure(&s, "zero_share"), 0.5);
        // Zeros in runs of 1 and, where a row ends with 0 and the next begins with it, 2.
        assert!(figure(&s, "mean_zero_run") > 1.0);

        // 1/2, 1/4, 1/8, 1/8.
        let mut s = Structure::default();
        s.add(&[0, 0, 0, 0, 1, 1, 2, -3], 8, None);
        assert!((figure(&s, "entropy") - 1.75).abs() < 1e-12);
        assert_eq!(figure(&s, "mean_zero_run"), 4.0);
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
        assert!((s.moran().unwrap() - expected).abs() < 1e-12);
    }
}
