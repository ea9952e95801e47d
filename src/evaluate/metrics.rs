//! Errors of restored values, collected block by block, so that no more than a block is in memory.
//!
//! With `x` the original, `y` what came back and `e = y − x` over the values that are not special (NaN, infinities, −0.0, fill values):
//! MAE `mean |e|`, bias `mean e`, RMSE `√mean e²`, NRMSE `RMSE / (max x − min x)`, PSNR `−20 log10 NRMSE` (the definitions of Z-checker,
//! Tao et al. 2019, doi:10.1177/1094342017737147), each also weighted by the cosine of latitude. The autocorrelation of the error at
//! lag 1 is the sample autocorrelation `Σ (e_i − ē)(e_{i+1} − ē) / Σ (e_i − ē)²` (Box and Jenkins) along rows, pairs within a row only.

use crate::bound::{Comparison, Resolved, is_special};
use crate::field::Float;
use serde_json::{Value, json};

/// Sums over values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    comparison: Comparison,
    n: f64,
    sum: f64,
    sum_abs: f64,
    sum_squares: f64,
    weights: f64,
    weighted: f64,
    weighted_abs: f64,
    weighted_squares: f64,
    n_pairs: f64,
    products: f64,
    /// Sums of the first and of the second of each pair.
    ends: f64,
}

impl Metrics {
    /// Adds whole rows of `row_len` values; `weight` gives the weight of row `i` of these.
    pub fn add<T: Float>(
        &mut self,
        original: &[T],
        restored: &[T],
        row_len: usize,
        bound: &Resolved,
        fill: Option<T>,
        weight: impl Fn(usize) -> f64,
    ) {
        self.comparison.add(original, restored, bound, fill);
        let rows = original.chunks(row_len.max(1)).zip(restored.chunks(row_len.max(1)));
        for (i, (xs, ys)) in rows.enumerate() {
            let w = weight(i);
            let mut before = None;
            for (&x, &y) in xs.iter().zip(ys) {
                if is_special(x, fill) || is_special(y, fill) {
                    before = None;
                    continue;
                }
                let e = y.to_f64() - x.to_f64();
                self.n += 1.0;
                self.sum += e;
                self.sum_abs += e.abs();
                self.sum_squares += e * e;
                self.weights += w;
                self.weighted += w * e;
                self.weighted_abs += w * e.abs();
                self.weighted_squares += w * e * e;
                if let Some(b) = before {
                    self.n_pairs += 1.0;
                    self.products += b * e;
                    self.ends += b + e;
                }
                before = Some(e);
            }
        }
    }

    /// Autocorrelation of the error along rows at lag 1; `None` without pairs or errors.
    pub fn lag1(&self) -> Option<f64> {
        let mean = self.sum / self.n;
        let variance = self.sum_squares - self.n * mean * mean;
        let covariance = self.products - mean * self.ends + self.n_pairs * mean * mean;
        // Both as means, as there are fewer pairs than values.
        (variance > 0.0 && self.n_pairs > 0.0).then(|| (covariance / self.n_pairs) / (variance / self.n))
    }

    /// Values whose error is beyond the bound, special ones that did not come back included.
    pub fn violations(&self) -> u64 {
        self.comparison.violations
    }

    /// All of them by name; what is not defined is null.
    pub fn to_json(&self) -> Value {
        let c = &self.comparison;
        let range = c.stats.range();
        let rmse_weighted = (self.weighted_squares / self.weights).sqrt();
        json!({
            "max_error": c.max_error,
            "max_error_over_bound": c.max_error_over_bound,
            "violations": c.violations,
            "psnr": c.psnr(),
            "nrmse": c.nrmse(),
            "mae": self.sum_abs / self.n,
            "bias": self.sum / self.n,
            "rmse_weighted": rmse_weighted,
            "nrmse_weighted": rmse_weighted / range,
            "mae_weighted": self.weighted_abs / self.weights,
            "bias_weighted": self.weighted / self.weights,
            "error_lag1": self.lag1(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the definitions, over all values at once, for rows of which none is special.
    #[test]
    fn as_the_definitions_say() {
        let (rows, n) = (13, 37);
        let x: Vec<f64> = (0..rows * n).map(|i| 5.0 + (i as f64 * 0.37).sin() * 3.0).collect();
        let e: Vec<f64> = (0..rows * n).map(|i| 0.01 * (i as f64 * 1.7).cos() + 0.003).collect();
        let y: Vec<f64> = x.iter().zip(&e).map(|(x, e)| x + e).collect();
        let e: Vec<f64> = x.iter().zip(&y).map(|(x, y)| y - x).collect();
        let weight = |row: usize| (row as f64 * 0.1).cos();
        let mut m = Metrics::default();
        // In two pieces.
        m.add(&x[..5 * n], &y[..5 * n], n, &Resolved::Absolute(0.012), None, weight);
        m.add(&x[5 * n..], &y[5 * n..], n, &Resolved::Absolute(0.012), None, |i| weight(i + 5));
        let json = m.to_json();
        let mean = |f: &dyn Fn(usize) -> f64| (0..e.len()).map(f).sum::<f64>() / e.len() as f64;
        let weights: f64 = (0..e.len()).map(|i| weight(i / n)).sum();
        let weighted = |f: &dyn Fn(usize) -> f64| (0..e.len()).map(|i| weight(i / n) * f(i)).sum::<f64>() / weights;
        let bias = mean(&|i| e[i]);
        let variance = mean(&|i| (e[i] - bias).powi(2));
        let pairs: Vec<(f64, f64)> = e.chunks(n).flat_map(|r| r.windows(2).map(|w| (w[0], w[1]))).collect();
        let covariance = pairs.iter().map(|(a, b)| (a - bias) * (b - bias)).sum::<f64>() / pairs.len() as f64;
        let range = x.iter().copied().fold(f64::MIN, f64::max) - x.iter().copied().fold(f64::MAX, f64::min);
        let expected = [
            ("mae", mean(&|i| e[i].abs())),
            ("bias", bias),
            ("nrmse", mean(&|i| e[i] * e[i]).sqrt() / range),
            ("psnr", -20.0 * (mean(&|i| e[i] * e[i]).sqrt() / range).log10()),
            ("mae_weighted", weighted(&|i| e[i].abs())),
            ("bias_weighted", weighted(&|i| e[i])),
            ("rmse_weighted", weighted(&|i| e[i] * e[i]).sqrt()),
            ("error_lag1", covariance / variance),
        ];
        for (name, value) in expected {
            let found = json[name].as_f64().unwrap();
            assert!((found - value).abs() <= 1e-9 * value.abs().max(1e-3), "{name}: {found} {value}");
        }
        assert_eq!(m.violations(), e.iter().filter(|e| e.abs() > 0.012).count() as u64);
    }

    #[test]
    fn special_values_are_no_errors_but_must_come_back() {
        let mut m = Metrics::default();
        let x = [1.0f32, f32::NAN, 2.0, -999.0];
        m.add(&x, &[1.0, f32::NAN, 2.5, -999.0], 4, &Resolved::Absolute(1.0), Some(-999.0), |_| 1.0);
        assert_eq!((m.violations(), m.to_json()["mae"].as_f64()), (0, Some(0.25)));
        m.add(&x, &[1.0, 0.0, 2.0, -998.0], 4, &Resolved::Absolute(1.0), Some(-999.0), |_| 1.0);
        assert_eq!(m.violations(), 2);
    }
}
