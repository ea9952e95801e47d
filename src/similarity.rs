//! Which images of a variable are more alike: those of neighbouring steps, or those of neighbouring levels.
//!
//! Tiles that have no room for both keep together what is. The result is written to the archive (where its tiles are cut).

use crate::bound::is_special;
use crate::field::{Float, Values};
use std::ops::Range;

/// Rows of the images that are looked at, from the middle.
const ROWS: u64 = 64;

/// The box that is looked at, of a variable of shape (…, steps, levels, rows, columns): two steps of two levels.
///
/// # Panics
/// If there are fewer than four axes.
pub fn sample(shape: &[u64]) -> Vec<Range<u64>> {
    let middle = |n: u64, len: u64| {
        let start = (n - len.min(n)) / 2;
        start..start + len.min(n)
    };
    let (leading, inner) = shape.split_at(shape.len() - 4);
    let mut region: Vec<Range<u64>> = leading.iter().map(|&n| middle(n, 1)).collect();
    region.extend([middle(inner[0], 2), middle(inner[1], 2), middle(inner[2], ROWS), 0..inner[3]]);
    region
}

/// Whether in [`sample`]'s box images of neighbouring steps differ less, apart from a constant, than those of neighbouring levels.
pub fn steps_are_closer(values: &Values, fill: Option<u64>) -> bool {
    match values {
        Values::F32(v) => are_closer(v, fill.map(Float::from_bits)),
        Values::F64(v) => are_closer(v, fill.map(Float::from_bits)),
        _ => false,
    }
}

fn are_closer<T: Float>(values: &[T], fill: Option<T>) -> bool {
    let len = values.len() / 4;
    let mut images = values.chunks_exact(len.max(1));
    let (Some(a), Some(b), Some(c), Some(d)) = (images.next(), images.next(), images.next(), images.next()) else {
        return false;
    };
    let difference = |x: &[T], y: &[T]| variance_of_difference(x, y, fill);
    // In C order: two levels of a step, then the same of the next.
    let (steps, levels) = (difference(a, c) + difference(b, d), difference(a, b) + difference(c, d));
    // Not `>=`: NaN, where there is nothing to compare.
    steps < levels
}

/// Variance of `x − y` over the places where both are finite and no fill value; NaN if there are none.
fn variance_of_difference<T: Float>(x: &[T], y: &[T], fill: Option<T>) -> f64 {
    let pairs = x.iter().zip(y).filter(|&(&x, &y)| !is_special(x, fill) && !is_special(y, fill));
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let d = x.to_f64() - y.to_f64();
        n += 1.0;
        sum += d;
        squares += d * d;
    }
    (squares - sum * sum / n) / n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_small_differences_is_found() {
        let shape = [5, 4, 9, 11];
        let field = |step: f64, level: f64| {
            let wave = |i: u64, scale: f64, x: u64| scale * i as f64 * (x as f64 * 0.7 + i as f64).sin();
            let mut values = vec![];
            for (t, l) in [(2, 1), (2, 2), (3, 1), (3, 2)] {
                values.extend((0..99).map(|x| (x as f64 * 0.1).cos() + wave(t, step, x) + wave(l, level, x)));
            }
            Values::F64(values)
        };
        let region = sample(&shape);
        assert_eq!(region, [1..3, 1..3, 0..9, 0..11]);
        assert!(steps_are_closer(&field(0.01, 1.0), None));
        assert!(!steps_are_closer(&field(1.0, 0.01), None));
        // A constant between levels is nothing to a predictor.
        let Values::F64(mut shifted) = field(0.1, 0.01) else { unreachable!() };
        (0..4).for_each(|k| shifted[k * 99..][..99].iter_mut().for_each(|v| *v += 100.0 * (k % 2) as f64));
        assert!(!steps_are_closer(&Values::F64(shifted), None));
        assert!(!steps_are_closer(&Values::F64(vec![f64::NAN; 396]), None));
        assert!(!steps_are_closer(&Values::F32(vec![]), None));
    }
}
