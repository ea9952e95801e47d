//! Boxes cut out of a variable, to estimate from them what the whole would cost.

use crate::tile::region_len;
use std::ops::Range;

/// Steps of a box along the slowest axis at least, and along other leading axes: predictors use earlier steps and neighbouring levels.
const MIN_STEPS: u64 = 3;
const MIN_LEVELS: u64 = 2;
/// Rows and columns of a box at least, as long as other axes can be cut.
const MIN_SIDE: u64 = 256;

/// Boxes of a variable of `shape` with `max_values` values together at most (but at least one each): the whole variable if that is
/// small enough, else two, a quarter and five eighths into each axis. Leading axes are cut first, the slowest first of all, so that
/// images (the last two) stay whole and a step keeps its levels.
pub fn boxes(shape: &[u64], max_values: u64) -> Vec<Vec<Range<u64>>> {
    let whole: Vec<_> = shape.iter().map(|&n| 0..n).collect();
    let n = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    if n == 0 {
        return vec![];
    }
    if n <= max_values {
        return vec![whole];
    }
    let mut lens = shape.to_vec();
    let n_leading = lens.len().saturating_sub(2);
    let least = |axis: usize| match axis {
        _ if axis >= n_leading => MIN_SIDE,
        0 => MIN_STEPS,
        _ => MIN_LEVELS,
    };
    let order = (0..lens.len()).map(|axis| (axis, least(axis))).chain((0..lens.len()).map(|axis| (axis, 1)));
    for (axis, least) in order {
        let others = lens.iter().enumerate().filter(|&(d, _)| d != axis).fold(1u64, |n, (_, &d)| n.saturating_mul(d));
        let fits = (max_values / 2).max(1) / others;
        lens[axis] = lens[axis].min(fits.max(least));
    }
    let at = |eighths: u64| {
        let range = |(&n, &len): (&u64, &u64)| {
            let start = (u128::from(n - len) * u128::from(eighths) / 8) as u64;
            start..start + len
        };
        shape.iter().zip(&lens).map(range).collect::<Vec<_>>()
    };
    vec![at(2), at(5)]
}

/// Images (the last two axes) spread over a variable of `shape`, at most `n`, the first and the last among them: what a variable's range
/// is taken from.
pub fn spread(shape: &[u64], n: u64) -> Vec<Vec<Range<u64>>> {
    let (leading, image) = shape.split_at(shape.len().saturating_sub(2));
    let n_images = leading.iter().fold(1u64, |n, &d| n.saturating_mul(d));
    let n = n.min(n_images);
    let at = |k: u64| {
        let mut rest = (u128::from(k) * u128::from(n_images - 1) / u128::from((n - 1).max(1))) as u64;
        let mut region: Vec<Range<u64>> = image.iter().rev().map(|&len| 0..len).collect();
        for &len in leading.iter().rev() {
            region.push(rest % len..rest % len + 1);
            rest /= len;
        }
        region.reverse();
        region
    };
    (0..n).map(at).collect()
}

/// Values in these boxes.
pub fn len(boxes: &[Vec<Range<u64>>]) -> u64 {
    boxes.iter().map(|b| region_len(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_fit_and_lie_inside() {
        for shape in
            [vec![7], vec![1000, 721, 1440], vec![100, 37, 721, 1440], vec![1 << 40], vec![3, 5000, 5000], vec![]]
        {
            for max in [1, 1000, 1 << 19] {
                let boxes = boxes(&shape, max);
                assert!(len(&boxes) <= max.max(2), "{shape:?} {max}: {boxes:?}");
                assert!(boxes.iter().flatten().zip(shape.iter().cycle()).all(|(r, &n)| r.start < r.end && r.end <= n));
            }
        }
        assert_eq!(boxes(&[4, 10, 20], 800), vec![vec![0..4, 0..10, 0..20]]);
        assert_eq!(boxes(&[4, 0], 800), Vec::<Vec<Range<u64>>>::new());
    }

    #[test]
    fn images_stay_whole_where_they_can() {
        let boxes = boxes(&[1000, 181, 360], 1 << 19);
        assert_eq!(boxes[0][1..], [0..181, 0..360]);
        assert!(boxes[0][0].end - boxes[0][0].start >= 3, "{boxes:?}");
    }

    #[test]
    fn steps_keep_their_levels() {
        let boxes = boxes(&[12, 8, 96, 192], 1 << 20);
        assert_eq!(boxes, [vec![2..5, 0..8, 0..96, 0..192], vec![5..8, 0..8, 0..96, 0..192]]);
    }

    #[test]
    fn images_are_spread_over_all_leading_axes() {
        let images = spread(&[12, 8, 96, 192], 16);
        assert_eq!(images.len(), 16);
        assert_eq!(images[0], [0..1, 0..1, 0..96, 0..192]);
        assert_eq!(images[15], [11..12, 7..8, 0..96, 0..192]);
        assert_eq!(spread(&[5, 7], 16), [vec![0..5, 0..7]]);
        assert_eq!(spread(&[7], 16).concat(), std::slice::from_ref(&(0..7)));
        assert_eq!(spread(&[0, 5, 7], 16), Vec::<Vec<Range<u64>>>::new());
    }
}
