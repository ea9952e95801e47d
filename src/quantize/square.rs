//! The mean square error of a tile, summed in a fixed order, so that every device makes the same choice.

use crate::bound::is_special;
use crate::field::Float;

/// Numbers in a block of the sum.
const BLOCK: usize = 1024;
/// Running sums in a block.
const LANES: usize = 256;

/// Mean of the squared errors where neither value is special; 0 if there are none.
///
/// Of each 1024 squares lane `l` of 256 adds squares `l`, `l + 256`, `l + 512`, `l + 768` in turn, then the upper half of the lanes is added to
/// the lower until one is left; the sums of blocks are added the same way.
pub fn mean<T: Float>(original: &[T], restored: &[T], fill: Option<T>) -> f64 {
    let mut n = 0u64;
    let mut square = |(&x, &y): (&T, &T)| {
        if is_special(x, fill) || is_special(y, fill) {
            return 0.0;
        }
        n += 1;
        let d = y.to_f64() - x.to_f64();
        d * d
    };
    let mut sums: Vec<f64> = original
        .chunks(BLOCK)
        .zip(restored.chunks(BLOCK))
        .map(|(x, y)| block_sum(x.iter().zip(y).map(&mut square)))
        .collect();
    while sums.len() > 1 {
        sums = sums.chunks(BLOCK).map(|s| block_sum(s.iter().copied())).collect();
    }
    if n == 0 { 0.0 } else { sums[0] / n as f64 }
}

fn block_sum(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = [0.0; LANES];
    for (i, v) in numbers.enumerate() {
        lanes[i % LANES] += v;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_have_a_mean() {
        let original: Vec<f64> = (0..2_500_000).map(|i| f64::from(i % 100)).collect();
        let restored: Vec<f64> = original.iter().map(|v| v + 0.5).collect();
        assert!((mean(&original, &restored, None) - 0.25).abs() < 1e-12);
        assert_eq!(mean(&[f64::NAN, 1.0, 7.0], &[0.0, 3.0, 7.0], Some(7.0)), 4.0);
        assert_eq!(mean::<f32>(&[], &[], None), 0.0);
    }
}
