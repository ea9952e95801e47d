//! Tiles: independent units of coding.
//!
//! A tile is a run of whole sub-arrays along one axis, so that the tiles of a variable follow each other in C order and a
//! stream of values is a stream of tiles. As much of the trailing axes as fits stays together, where prediction gains most.
//! Files whose steps are more alike than their levels are cut into boxes of several steps instead, where a tile has no room for
//! several steps of all levels ([`Tiling::in_steps`]).

use crate::config::DEFAULT_TILE_BYTES;
use crate::error::{Error, Result};
use crate::field::{DType, MAX_FIELD_DIMS};
use minicbor::{Decode, Encode};
use std::ops::Range;

/// How a variable is cut into tiles.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tiling {
    /// Lengths of the variable's axes, slowest first; empty for a scalar.
    #[n(0)]
    pub shape: Vec<u64>,
    /// The axis that is cut; axes before it have length 1 in a tile, axes after it their whole length.
    #[n(1)]
    pub axis: u32,
    /// Length of a tile along the axis; the last tile of each run may be shorter.
    #[n(2)]
    pub len: u64,
    /// Length of a tile along the axis before `axis`, if it is more than 1: tiles are boxes then, no runs of a C-order array.
    #[n(3)]
    pub steps: Option<u64>,
}

/// Steps of a box at most: whoever wants one step decodes them all.
const MAX_STEPS: u64 = 16;

impl Tiling {
    /// Tiles of at most `max_values` values (at least 1), of as equal a size as can be.
    pub fn new(shape: &[u64], max_values: u64) -> Self {
        let mut inner = 1u64;
        for axis in (0..shape.len()).rev() {
            let n = shape[axis];
            if n.saturating_mul(inner) > max_values && n > 0 {
                let most = (max_values / inner).max(1);
                return Self { shape: shape.to_vec(), axis: axis as u32, len: balanced(n, most), steps: None };
            }
            inner = inner.saturating_mul(n);
        }
        Self::whole(shape)
    }

    /// One tile.
    pub fn whole(shape: &[u64]) -> Self {
        Self { shape: shape.to_vec(), axis: 0, len: shape.first().copied().unwrap_or(1), steps: None }
    }

    /// Boxes of several steps and few levels, of at most `max_values` values, of a variable of shape (…, steps, levels, rows, columns).
    /// `None` where a tile of [`Tiling::new`] has as many steps with all their levels, or an image (rows and columns) is too large.
    pub fn in_steps(shape: &[u64], max_values: u64) -> Option<Self> {
        let &[.., n_steps, n_levels, ny, nx] = shape else { return None };
        let n_images = max_values / ny.saturating_mul(nx).max(1);
        let most = n_steps.min(MAX_STEPS).min(n_images);
        if most < 2 || n_levels.saturating_mul(most) <= n_images {
            return None;
        }
        let steps = balanced(n_steps, most);
        let len = balanced(n_levels, n_images / steps);
        Some(Self { shape: shape.to_vec(), axis: shape.len() as u32 - 3, len, steps: Some(steps) })
    }

    /// Length of a tile along the axis before `axis`.
    fn steps(&self) -> u64 {
        self.steps.unwrap_or(1)
    }

    /// Number of tiles along each axis up to the one that is cut.
    fn counts(&self) -> impl Iterator<Item = u64> {
        let axis = self.axis as usize;
        self.shape.iter().take(axis + 1).enumerate().map(move |(k, &n)| match axis - k {
            // A length of 0 is that of an empty axis.
            0 => n.div_ceil(self.len.max(1)),
            1 => n.div_ceil(self.steps()),
            _ => n,
        })
    }

    /// Refuses a tiling, read from an archive, that is impossible or whose tiles exceed `max_values`.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check(&self, max_values: u64) -> Result<()> {
        let axis = self.axis as usize;
        let total = self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let tile = self.shape.iter().skip(axis + 1).try_fold(self.len, |n, &d| n.checked_mul(d));
        let tile = tile.and_then(|n| n.checked_mul(self.steps()));
        let in_shape = axis < self.shape.len().max(1)
            && (self.len > 0 || self.shape.contains(&0))
            && self.steps.is_none_or(|n| n > 1 && axis > 0);
        match (total, tile) {
            (Some(_), Some(tile)) if in_shape && tile <= max_values => Ok(()),
            _ => Err(Error::corrupt("tiles of impossible shape")),
        }
    }

    /// Number of tiles; 0 if there are no values.
    pub fn count(&self) -> u64 {
        if self.shape.contains(&0) {
            return 0;
        }
        self.counts().product()
    }

    /// The box of tile `index`, one range an axis.
    pub fn region(&self, index: u64) -> Vec<Range<u64>> {
        let mut region: Vec<Range<u64>> = self.shape.iter().map(|&n| 0..n).collect();
        let axis = self.axis as usize;
        let mut rest = index;
        let counts: Vec<u64> = self.counts().collect();
        for (k, &n) in counts.iter().enumerate().rev() {
            let len = match axis - k {
                0 => self.len,
                1 => self.steps(),
                _ => 1,
            };
            let start = rest % n.max(1) * len;
            region[k] = start..(start + len).min(self.shape[k]);
            rest /= n.max(1);
        }
        region
    }

    /// Indices of the first axis, from 0, of which the first `n_tiles` tiles hold all values; for scalars, whether there is a tile.
    pub fn first_axis_held(&self, n_tiles: u64) -> u64 {
        let Some(&n) = self.shape.first() else { return n_tiles };
        if n_tiles >= self.count() {
            return n;
        }
        let per_block = self.counts().skip(1).product::<u64>().max(1);
        let len = match self.axis {
            0 => self.len,
            1 => self.steps(),
            _ => 1,
        };
        (n_tiles / per_block * len).min(n)
    }

    /// Refuses a box that is not within the variable.
    ///
    /// # Errors
    /// `Usage`.
    pub(crate) fn check_box(&self, region: &[Range<u64>]) -> Result<()> {
        let shape = &self.shape;
        let fits =
            region.len() == shape.len() && region.iter().zip(shape).all(|(r, &n)| r.start <= r.end && r.end <= n);
        if fits { Ok(()) } else { Err(Error::usage(format!("box {region:?} does not fit the shape {shape:?}"))) }
    }

    /// Those of the first `n_tiles` tiles that touch `region`, in order. (A damaged plan may promise more than could ever be counted.)
    pub fn touching<'a>(&'a self, n_tiles: u64, region: &'a [Range<u64>]) -> impl Iterator<Item = u64> + 'a {
        (0..n_tiles.min(self.count()))
            .filter(move |&i| self.region(i).iter().zip(region).all(|(a, b)| a.start < b.end && b.start < a.end))
    }
}

/// Values in a tile of a long series of small images at most, for the fitted predictor; `u64::MAX` for variables of other shapes. Threads have
/// nothing to share within such images, so that they need tiles to share, and whoever wants one step should not have to decode a year.
pub(crate) fn most_of_series(shape: &[u64]) -> u64 {
    /// Pixels of images that the predictor takes and threads can not share.
    const SMALL: Range<u64> = 1 << 9..1 << 12;
    /// Steps of a tile at least: its first images have none beside them, and its weights are worth one more.
    const STEPS: u64 = 64;
    /// Values of a tile, at least and about.
    const LEAST: u64 = 1 << 17;
    const ENOUGH: u64 = 1 << 20;
    let axes: Vec<u64> = shape.iter().copied().filter(|&n| n != 1).collect();
    let [steps, .., ny, nx] = axes[..] else { return u64::MAX };
    let a_step = axes[1..].iter().fold(1, |n: u64, &d| n.saturating_mul(d)).max(1);
    let is_small = SMALL.contains(&ny.saturating_mul(nx));
    if !is_small || steps < 2 * STEPS || steps.saturating_mul(a_step) < 2 * LEAST {
        return u64::MAX;
    }
    (ENOUGH / a_step).clamp(STEPS, steps.div_ceil(2)).saturating_mul(a_step)
}

/// Bytes that the values of a box count for where tiles are decoded side by side. Texts of any length count for a batch of their own:
/// what they take shows when they are decoded.
pub(crate) fn decoded_bytes(dtype: DType, region: &[Range<u64>]) -> u64 {
    if dtype == DType::Text { DEFAULT_TILE_BYTES } else { region_len(region).saturating_mul(dtype.size() as u64) }
}

/// Cuts a list of tiles of so many `bytes` into runs to be coded side by side, each of `most` bytes at most, or of a single tile.
pub(crate) fn batches(bytes: impl IntoIterator<Item = u64>, most: u64) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = vec![];
    let mut room = 0;
    for (i, n) in bytes.into_iter().enumerate() {
        match batches.last_mut().filter(|_| n <= room) {
            Some(batch) => batch.end = i + 1,
            None => {
                batches.push(i..i + 1);
                room = most;
            }
        }
        room = room.saturating_sub(n);
    }
    batches
}

/// Length of the parts of `n`, of at most `most` each, that are as equal as can be.
fn balanced(n: u64, most: u64) -> u64 {
    n.div_ceil(n.div_ceil(most.max(1)).max(1)).max(1)
}

/// The axes that a predictor sees of a box: those longer than 1, the slowest merged if there are more than five.
pub fn coding_shape(region: &[Range<u64>]) -> Vec<usize> {
    let mut shape: Vec<usize> = region.iter().map(|r| (r.end - r.start) as usize).filter(|&n| n != 1).collect();
    while shape.len() > MAX_FIELD_DIMS {
        let slowest = shape.remove(0);
        shape[0] *= slowest;
    }
    if shape.is_empty() { vec![1] } else { shape }
}

/// Values of a variable that come before tile `index`, in C order.
#[cfg(feature = "cuda")]
pub(crate) fn start(tiling: &Tiling, index: u64) -> u64 {
    let strides = tiling.shape.iter().rev().scan(1, |stride, &n| Some(std::mem::replace(stride, *stride * n)));
    tiling.region(index).iter().rev().zip(strides).map(|(r, stride)| r.start * stride).sum()
}

/// Number of values in a box.
pub fn region_len(region: &[Range<u64>]) -> u64 {
    region.iter().map(|r| r.end - r.start).product()
}

/// What two boxes share; empty ranges if they do not touch.
pub fn overlap(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let shared = |(a, b): (&Range<u64>, &Range<u64>)| {
        let start = a.start.max(b.start);
        start..a.end.min(b.end).max(start)
    };
    a.iter().zip(b).map(shared).collect()
}

/// Copies the values that two boxes share from a buffer of one (`from_region`) to a buffer of the other.
pub fn copy_overlap<T: Clone>(from: &[T], from_region: &[Range<u64>], to: &mut [T], to_region: &[Range<u64>]) {
    let shared = overlap(from_region, to_region);
    if shared.iter().any(|r| r.start >= r.end) {
        return;
    }
    if shared.is_empty() {
        to.clone_from_slice(from);
        return;
    }
    // What both boxes have whole on all axes but the first of a run lies together.
    let is_whole = |&k: &usize| from_region[k] == shared[k] && to_region[k] == shared[k];
    let (outer, run) = shared.split_at((1..shared.len()).rev().find(|k| !is_whole(k)).unwrap_or(0));
    let len = region_len(run) as usize;
    let offset = |region: &[Range<u64>], at: &[u64]| {
        region.iter().zip(at).fold(0, |o, (r, &i)| o * (r.end - r.start) + (i - r.start)) as usize
    };
    let mut at: Vec<u64> = shared.iter().map(|r| r.start).collect();
    loop {
        let (f, t) = (offset(from_region, &at), offset(to_region, &at));
        to[t..t + len].clone_from_slice(&from[f..f + len]);
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            at[axis] += 1;
            if at[axis] < outer[axis].end {
                break;
            }
            at[axis] = outer[axis].start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_series_of_small_images_are_cut() {
        for (shape, tiles) in [
            (&[240, 33, 49][..], 2),
            (&[240, 1, 33, 49], 2),
            (&[8760, 33, 49], 14),
            (&[8760, 5, 33, 49], 68),
            (&[120, 33, 49], 1),
            (&[24000, 3, 49], 1),
            (&[240, 180, 360], 1),
            (&[240, 1617], 1),
            (&[6, 10, 50, 50], 1),
            (&[u64::MAX, u64::MAX, 2, 2], 1),
        ] {
            let total = shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
            let tiling = Tiling::new(shape, most_of_series(shape));
            assert!(total == u64::MAX || tiling.count() == tiles, "{shape:?}: {}", tiling.count());
        }
    }

    #[test]
    fn batches_keep_order_and_limit() {
        assert_eq!(batches([3, 3, 3, 9, 20, 1, 0, 1], 10), [0..3, 3..4, 4..5, 5..8]);
        assert!(batches([], 10).is_empty());
    }

    #[test]
    fn tiles_cover_a_variable_in_order() {
        for (shape, max) in
            [(vec![7, 5, 3], 15), (vec![7, 5, 3], 4), (vec![7, 5, 3], 1000), (vec![9], 2), (vec![4, 0], 3)]
        {
            let tiling = Tiling::new(&shape, max);
            tiling.check(max).unwrap();
            let n: u64 = (0..tiling.count()).map(|i| region_len(&tiling.region(i))).sum();
            assert_eq!(n, shape.iter().product::<u64>());
            let all: Vec<u64> = (0..n).collect();
            let whole: Vec<_> = shape.iter().map(|&n| 0..n).collect();
            let mut seen = Vec::new();
            for i in 0..tiling.count() {
                let region = tiling.region(i);
                let mut part = vec![0; region_len(&region) as usize];
                copy_overlap(&all, &whole, &mut part, &region);
                seen.extend(part);
            }
            assert_eq!(seen, all);
        }
    }

    #[test]
    fn boxes_cover_a_variable_once() {
        for (shape, max, steps, len) in [
            (vec![12, 8, 10, 10], 800, 6, 1),
            (vec![12, 8, 10, 10], 2400, 12, 2),
            (vec![3, 40, 37, 10, 10], 4000, 14, 2),
            (vec![7, 5, 3, 2], 12, 2, 1),
        ] {
            let tiling = Tiling::in_steps(&shape, max).unwrap();
            assert_eq!((tiling.steps, tiling.len), (Some(steps), len), "{shape:?}");
            tiling.check(max).unwrap();
            assert!(tiling.check(region_len(&tiling.region(0)) - 1).is_err());
            let mut seen = vec![0u8; shape.iter().product::<u64>() as usize];
            let whole: Vec<_> = shape.iter().map(|&n| 0..n).collect();
            let mut first = None;
            for i in 0..tiling.count() {
                let region = tiling.region(i);
                assert!(region_len(&region) <= max);
                let mut part = vec![0; region_len(&region) as usize];
                copy_overlap(&seen, &whole, &mut part, &region);
                assert!(part.iter().all(|&n| n == 0));
                part.fill(1);
                copy_overlap(&part, &region, &mut seen, &whole);
                // In C order of their first values.
                let start: Vec<u64> = region.iter().map(|r| r.start).collect();
                assert!(first.as_ref() < Some(&start));
                first = Some(start);
                let held = tiling.first_axis_held(i + 1) as usize;
                let slab = seen.len() / shape[0] as usize;
                assert!(seen[..held * slab].iter().all(|&n| n == 1));
                assert!(held as u64 == shape[0] || seen[held * slab..][..slab].contains(&0));
            }
            assert!(seen.iter().all(|&n| n == 1));
        }
        for (shape, max) in [(vec![12, 8, 10, 10], 100), (vec![12, 8, 10, 10], 9600), (vec![12, 10, 10], 300)] {
            assert_eq!(Tiling::in_steps(&shape, max), None, "{shape:?}");
        }
    }

    #[test]
    fn impossible_boxes_are_refused() {
        let boxes = |axis, steps| Tiling { shape: vec![4, 4], axis, len: 1, steps };
        assert!(boxes(1, Some(4)).check(4).is_ok());
        assert!(boxes(1, Some(4)).check(3).is_err());
        assert!(boxes(0, Some(4)).check(64).is_err());
        assert!(boxes(1, Some(1)).check(64).is_err());
        assert!(boxes(1, Some(0)).check(64).is_err());
        assert!(boxes(1, Some(u64::MAX)).check(64).is_err());
    }
}
