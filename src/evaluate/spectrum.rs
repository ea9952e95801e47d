//! Power spectra along rows: zonal wavenumbers of a global field.
//!
//! With `X(k) = Σ_j x_j e^(−2πi jk/n)` of a row of `n` values less their mean, the power at wavenumber `k = 1 … n/2` is `2 |X(k)|² / n²`
//! (`|X(k)|² / n²` at `k = n/2`), so that the powers of a row add up to its variance. Powers are means over the rows without special values.

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

/// Mean power spectrum of rows.
pub struct Spectrum {
    fft: Arc<dyn Fft<f64>>,
    n: usize,
    weights: f64,
    power: Vec<f64>,
}

impl Spectrum {
    /// Of rows of `n` values.
    pub fn new(n: usize) -> Self {
        Self { fft: FftPlanner::new().plan_fft_forward(n.max(1)), n, weights: 0.0, power: vec![0.0; n / 2] }
    }

    /// Adds a row with this weight, unless it has a value that is not finite.
    pub fn add(&mut self, row: &[f64], weight: f64) {
        if row.len() != self.n || self.n < 2 || row.iter().any(|x| !x.is_finite()) {
            return;
        }
        let mean = row.iter().sum::<f64>() / self.n as f64;
        let mut line: Vec<Complex<f64>> = row.iter().map(|x| Complex::new(x - mean, 0.0)).collect();
        self.fft.process(&mut line);
        let scale = 1.0 / (self.n as f64 * self.n as f64);
        for (k, (power, x)) in (1..).zip(self.power.iter_mut().zip(&line[1..])) {
            let both_signs = if 2 * k == self.n { 1.0 } else { 2.0 };
            *power += weight * both_signs * x.norm_sqr() * scale;
        }
        self.weights += weight;
    }

    /// Mean powers at wavenumbers 1, 2, …; none without rows.
    pub fn power(&self) -> Option<Vec<f64>> {
        (self.weights > 0.0).then(|| self.power.iter().map(|p| p / self.weights).collect())
    }
}

/// Sums of powers over octaves: wavenumbers 1, 2–3, 4–7, …
pub fn octaves(power: &[f64]) -> Vec<f64> {
    let mut out: Vec<f64> = vec![];
    for (k, p) in (1usize..).zip(power) {
        let octave = k.ilog2() as usize;
        if out.len() == octave {
            out.push(0.0);
        }
        out[octave] += p;
    }
    out
}

/// Log-spectral distance in dB: `√ mean_k (10 log10 P(k)/Q(k))²` over the wavenumbers where both have power (Gray and Markel 1976,
/// doi:10.1109/TASSP.1976.1162849).
pub fn log_spectral_distance(p: &[f64], q: &[f64]) -> Option<f64> {
    let both = p.iter().zip(q).filter(|&(&p, &q)| p > 0.0 && q > 0.0);
    let (sum, n) = both.fold((0.0, 0.0), |(s, n), (p, q)| (s + (10.0 * (p / q).log10()).powi(2), n + 1.0));
    (n > 0.0).then(|| (sum / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_have_their_power_and_the_sum_is_the_variance() {
        for n in [16usize, 15, 360] {
            let row: Vec<f64> = (0..n)
                .map(|j| {
                    let at = std::f64::consts::TAU * j as f64 / n as f64;
                    7.0 + 3.0 * (2.0 * at).cos() + 0.5 * (5.0 * at + 1.0).sin()
                })
                .collect();
            let mut s = Spectrum::new(n);
            s.add(&row, 2.0);
            s.add(&vec![f64::NAN; n], 1.0);
            let power = s.power().unwrap();
            assert!((power[1] - 4.5).abs() < 1e-12 && (power[4] - 0.125).abs() < 1e-12, "{power:?}");
            let mean = row.iter().sum::<f64>() / n as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            assert!((power.iter().sum::<f64>() - variance).abs() < 1e-12);
            let octaves = octaves(&power);
            assert!((octaves[1] - 4.5).abs() < 1e-12 && (octaves[2] - 0.125).abs() < 1e-12);
        }
        // The wave of alternating signs has one coefficient only.
        let mut s = Spectrum::new(4);
        s.add(&[1.0, -1.0, 1.0, -1.0], 1.0);
        assert_eq!(s.power().unwrap(), [0.0, 1.0]);
        assert_eq!(Spectrum::new(1).power(), None);
        assert!((log_spectral_distance(&[1.0, 10.0, 0.0], &[10.0, 10.0, 1.0]).unwrap() - 50f64.sqrt()).abs() < 1e-12);
    }
}
