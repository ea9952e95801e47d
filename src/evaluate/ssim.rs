//! Data SSIM: structural similarity of floating-point fields, after Baker et al. 2022 (arXiv 2202.02616).
//!
//! Both images are scaled to 0..1 by the smallest and largest value of the two and rounded to 256 levels; means, variances and the
//! covariance are taken in windows of 11 × 11 values under a Gaussian of σ = 1.5; with `C = 1e-8` the similarity of a window is
//! `(2 μx μy + C)(2 σxy + C) / ((μx² + μy² + C)(σx² + σy² + C))`, and the result is the mean over all windows that lie inside the image and
//! hold no special value.

/// Values from the middle of a window to its edge.
const REACH: usize = 5;
const SIGMA: f64 = 1.5;
const C: f64 = 1e-8;

fn kernel() -> [f64; 2 * REACH + 1] {
    let mut k: [f64; 2 * REACH + 1] =
        std::array::from_fn(|i| (-(i as f64 - REACH as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp());
    let sum: f64 = k.iter().sum();
    k.iter_mut().for_each(|w| *w /= sum);
    k
}

/// Similarity of two images with rows of `width` values, those that are not finite being special; `None` if no window is whole.
pub fn ssim(x: &[f64], y: &[f64], width: usize) -> Option<f64> {
    let size = 2 * REACH + 1;
    let height = x.len().checked_div(width)?;
    if width < size || height < size {
        return None;
    }
    let finite = x.iter().zip(y).filter(|(a, b)| a.is_finite() && b.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(l, h), (&a, &b)| (l.min(a).min(b), h.max(a).max(b)));
    let scale = if high > low { 255.0 / (high - low) } else { 1.0 };
    // A special value stays NaN and spoils each window that it is in.
    let level = |v: f64| ((v - low) * scale).round() / 255.0;
    let k = kernel();
    let across = width - 2 * REACH;
    // Sums along rows of x, y, x², y², xy.
    let mut rows = vec![[0.0f64; 5]; height * across];
    let mut moments = vec![[0.0f64; 5]; width];
    for (i, out) in rows.chunks_mut(across).enumerate() {
        for (m, (a, b)) in moments.iter_mut().zip(x[i * width..].iter().zip(&y[i * width..])) {
            let (a, b) = (level(*a), level(*b));
            *m = [a, b, a * a, b * b, a * b];
        }
        for (j, sums) in out.iter_mut().enumerate() {
            for (w, m) in k.iter().zip(&moments[j..]) {
                sums.iter_mut().zip(m).for_each(|(s, m)| *s += w * m);
            }
        }
    }
    let (mut sum, mut n) = (0.0, 0u64);
    for i in 0..height - 2 * REACH {
        for j in 0..across {
            let mut s = [0.0; 5];
            for (d, w) in k.iter().enumerate() {
                s.iter_mut().zip(&rows[(i + d) * across + j]).for_each(|(s, m)| *s += w * m);
            }
            let [mx, my, xx, yy, xy] = s;
            let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
            let value = (2.0 * mx * my + C) * (2.0 * cov + C) / ((mx * mx + my * my + C) * (vx + vy + C));
            if value.is_finite() {
                sum += value;
                n += 1;
            }
        }
    }
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Window by window, from centred sums.
    fn slow(x: &[f64], y: &[f64], width: usize) -> f64 {
        let all = || x.iter().chain(y).copied().filter(|v| v.is_finite());
        let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
        let level = |v: f64| ((v - low) / (high - low) * 255.0).round() / 255.0;
        let (mut sum, mut n) = (0.0, 0.0);
        for ci in 5..x.len() / width - 5 {
            for cj in 5..width - 5 {
                let mut window = vec![];
                for i in ci - 5..=ci + 5 {
                    for j in cj - 5..=cj + 5 {
                        let d2 = (i as f64 - ci as f64).powi(2) + (j as f64 - cj as f64).powi(2);
                        window.push(((-d2 / 4.5).exp(), level(x[i * width + j]), level(y[i * width + j])));
                    }
                }
                if window.iter().any(|w| !w.1.is_finite() || !w.2.is_finite()) {
                    continue;
                }
                let total: f64 = window.iter().map(|w| w.0).sum();
                let mean = |f: &dyn Fn(f64, f64) -> f64| window.iter().map(|w| w.0 * f(w.1, w.2)).sum::<f64>() / total;
                let (mx, my) = (mean(&|x, _| x), mean(&|_, y| y));
                let (vx, vy) = (mean(&|x, _| (x - mx).powi(2)), mean(&|_, y| (y - my).powi(2)));
                let cov = mean(&|x, y| (x - mx) * (y - my));
                sum += (2.0 * mx * my + 1e-8) / (mx * mx + my * my + 1e-8) * (2.0 * cov + 1e-8) / (vx + vy + 1e-8);
                n += 1.0;
            }
        }
        sum / n
    }

    #[test]
    fn as_window_by_window() {
        let (h, w) = (23, 31);
        let mut x: Vec<f64> = (0..h * w)
            .map(|i| 280.0 + ((i % w) as f64 * 0.3).sin() * 9.0 + ((i / w) as f64 * 0.2).cos() * 5.0)
            .collect();
        let mut y: Vec<f64> =
            x.iter().enumerate().map(|(i, x)| x + ((i * i * 37 % 101) as f64 / 50.0 - 1.0) * 0.8).collect();
        for _ in 0..2 {
            let (fast, slow) = (ssim(&x, &y, w).unwrap(), slow(&x, &y, w));
            assert!((fast - slow).abs() < 1e-6 && fast < 0.99, "{fast} {slow}");
            (x[100], y[100]) = (f64::NAN, f64::NAN);
        }
        assert!((ssim(&x, &x, w).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&x[..w * 10], &y[..w * 10], w), None);
        assert_eq!(ssim(&[], &[], 0), None);
    }
}
