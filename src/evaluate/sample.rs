//! Boxes cut out of a variable, to estimate from them what the whole would cost.

use crate::tile::region_len;
use std::ops::Range;

/// Images of a box at least, where the variable has that many: predictors use earlier steps and other levels.
const MIN_IMAGES: u64 = 4;
/// Rows and columns of a box at least, as long as other axes can be cut.
const MIN_SIDE: u64 = 256;

/// Boxes of a variable of `shape` with `max_values` values together at most (but at least one each): the whole variable if that is
/// small enough, else two, a quarter and five eighths into each axis. Leading axes are cut first, so that images (the last two) stay whole.
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
    while lens.iter().fold(1u64, |n, &d| n.saturating_mul(d)) > (max_values / 2).max(1) {
        let (leading, image) = lens.split_at_mut(n_leading);
        let n_images = leading.iter().fold(1u64, |n, &d| n.saturating_mul(d));
        let longest = |axes: &[u64]| axes.iter().copied().max().unwrap_or(0);
        let side = longest(image);
        let axes = if n_images > MIN_IMAGES || (side <= MIN_SIDE && longest(leading) > 1) { leading } else { image };
        match axes.iter_mut().max() {
            Some(longest) => *longest = longest.div_ceil(2),
            None => break,
        }
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
}
