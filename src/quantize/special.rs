//! Values that come back bit for bit whatever the bound: NaN, ±Inf, −0.0, fill values; and, where logarithms are coded, zeros.
//!
//! They come in patches (land, missing swaths) and in few bit patterns, so they are stored as runs: how many others before,
//! how many of them, which pattern. Where that takes fewer runs (land, which stays where it is) runs say where the marks of an image differ from those
//! of the image before, or of the step before. In the working copy special values are NaN: predictors fill such places with their prediction and
//! their codes are left out of the coded stream.

use super::outlier::Outliers;
use crate::bound;
use crate::encode::bytes::{self, Reader};
use crate::encode::numbers;
use crate::error::{Error, Result};
use crate::field::Float;

/// More patterns than this are not a mask: the others are stored one by one, as outliers.
const MAX_PATTERNS: usize = 16;

/// Runs of special values of a tile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Specials {
    /// Bit patterns.
    patterns: Vec<u64>,
    /// `(others before, length, pattern)`.
    runs: Vec<(u32, u32, u8)>,
}

/// What [`Specials::find`] finds: the runs, special values of too many patterns, and a mark for each value of either kind.
pub struct Found {
    /// Runs of the frequent patterns.
    pub specials: Specials,
    /// The other special values.
    pub outliers: Outliers,
    /// Whether a value is special, in raster order.
    pub marks: Vec<bool>,
}

impl Specials {
    /// Looks for special values; `None` if there are none. With `zeros`, +0.0 is special too.
    pub fn find<T: Float>(values: &[T], fill: Option<T>, zeros: bool) -> Option<Found> {
        let special = |v: T| bound::is_special(v, fill) || (zeros && v.to_bits() == 0);
        if !values.iter().any(|&v| special(v)) {
            return None;
        }
        let mut found =
            Found { specials: Self::default(), outliers: Outliers::default(), marks: vec![false; values.len()] };
        let Self { patterns, runs } = &mut found.specials;
        let mut end = 0;
        let mut open = false;
        for (i, &v) in values.iter().enumerate() {
            if !special(v) {
                open = false;
                continue;
            }
            found.marks[i] = true;
            let bits = v.to_bits();
            let pattern = patterns.iter().position(|&p| p == bits).or_else(|| {
                patterns.push(bits);
                (patterns.len() <= MAX_PATTERNS).then_some(patterns.len() - 1)
            });
            let Some(pattern) = pattern else {
                patterns.pop();
                found.outliers.positions.push(i as u32);
                found.outliers.bits.push(bits);
                open = false;
                continue;
            };
            match runs.last_mut() {
                Some((_, len, p)) if open && usize::from(*p) == pattern => *len += 1,
                _ => runs.push(((i - end) as u32, 1, pattern as u8)),
            }
            open = true;
            end = i + 1;
        }
        Some(found)
    }

    /// The bit patterns.
    pub fn patterns(&self) -> &[u64] {
        &self.patterns
    }

    /// Raster positions of the runs, ascending, with the index of their pattern.
    pub fn ranges(&self) -> impl Iterator<Item = (std::ops::Range<u32>, u8)> + '_ {
        let mut end = 0;
        self.runs.iter().map(move |&(before, len, pattern)| {
            let start = end + before;
            end = start + len;
            (start..end, pattern)
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of special values.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|r| r.1 as usize).sum()
    }

    /// Calls `f(range of raster positions, bits)` for each run.
    pub fn for_each_run(&self, mut f: impl FnMut(std::ops::Range<usize>, u64)) {
        let mut at = 0;
        for &(before, len, pattern) in &self.runs {
            at += before as usize;
            f(at..at + len as usize, self.patterns[usize::from(pattern)]);
            at += len as usize;
        }
    }

    /// Puts the special values into `values`.
    pub fn apply<T: Float>(&self, values: &mut [T]) {
        self.for_each_run(|range, bits| values[range].fill(T::from_bits(bits)));
    }

    /// Marks of special values, raster order.
    pub fn marks(&self, n: usize) -> Vec<bool> {
        let mut marks = vec![false; n];
        self.for_each_run(|range, _| marks[range].fill(true));
        marks
    }

    /// Serialized form, of a tile of `shape`; empty if there are none.
    pub fn to_bytes(&self, shape: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_empty() {
            return out;
        }
        bytes::put_varint(&mut out, self.patterns.len() as u64);
        self.patterns.iter().for_each(|p| out.extend(p.to_le_bytes()));
        let (way, runs) = self.fewest_runs(shape);
        bytes::put_varint(&mut out, runs.len() as u64);
        out.push(IN_BLOCKS);
        out.push(way);
        let has_patterns = self.patterns.len() > 1;
        let mut list = Vec::with_capacity(3 * runs.len());
        for &(before, len, pattern) in &runs {
            list.extend([before, len - 1]);
            if has_patterns {
                list.push(u32::from(pattern));
            }
        }
        out.extend(numbers::encode(&list, 2 + usize::from(has_patterns)));
        out
    }

    /// How to say where special values are, and the runs that say it.
    fn fewest_runs(&self, shape: &[usize]) -> (u8, Vec<(u32, u32, u8)>) {
        let own = (0, self.runs.clone());
        if self.patterns.len() > 1 {
            return own;
        }
        let n = shape.iter().product::<usize>() as u32;
        let ways = distances(shape).into_iter().zip(1..).filter(|&(distance, _)| distance > 0);
        let apart = ways.map(|(distance, way)| (way, self.changes(distance as u32, n)));
        // Of several the first.
        std::iter::once(own).chain(apart).min_by_key(|(_, runs)| runs.len()).unwrap_or_default()
    }

    /// Runs of places among `n` that are special where those `distance` before are not, or the reverse.
    fn changes(&self, distance: u32, n: u32) -> Vec<(u32, u32, u8)> {
        let ends = self.ranges().flat_map(|(r, _)| [r.start, r.end]).filter(|&e| e < n).collect::<Vec<_>>();
        let mut own = ends.iter().copied().peekable();
        let mut before = ends.iter().map(|e| e + distance).filter(|&e| e < n).peekable();
        let mut open = None;
        let (mut runs, mut last) = (vec![], 0);
        loop {
            let next = match (own.peek(), before.peek()) {
                (Some(a), Some(b)) if a == b => {
                    own.next();
                    before.next();
                    continue;
                }
                (Some(a), Some(b)) if a < b => own.next(),
                (Some(_), None) => own.next(),
                _ => before.next(),
            };
            match (open.take(), next) {
                (None, Some(start)) => open = Some(start),
                (Some(start), end) => {
                    let end = end.unwrap_or(n);
                    runs.push((start - last, end - start, 0));
                    last = end;
                }
                (None, None) => break,
            }
        }
        runs
    }

    /// The runs of special values, from those where their marks change: the reverse of [`Specials::changes`].
    fn from_changes(changes: &[(u32, u32, u8)], distance: usize, n: usize) -> Vec<(u32, u32, u8)> {
        let mut marks = vec![false; n];
        let mut at = 0;
        for &(before, len, _) in changes {
            at += before as usize;
            marks[at..at + len as usize].fill(true);
            at += len as usize;
        }
        for i in distance..n {
            marks[i] ^= marks[i - distance];
        }
        let n_runs = marks.windows(2).filter(|w| w[1] && !w[0]).count() + usize::from(marks.first() == Some(&true));
        let mut runs = Vec::with_capacity(n_runs);
        let (mut at, mut end) = (0, 0);
        for alike in marks.chunk_by(|a, b| a == b) {
            let start = at;
            at += alike.len() as u32;
            if alike[0] {
                runs.push((start - end, at - start, 0));
                end = at;
            }
        }
        runs
    }

    /// Reads what [`Specials::to_bytes`] wrote for a tile of `shape`.
    ///
    /// # Errors
    /// `Corrupt` if runs leave the tile.
    pub fn from_bytes(data: &[u8], shape: &[usize]) -> Result<Self> {
        if data.is_empty() {
            return Ok(Self::default());
        }
        let n = shape.iter().product::<usize>();
        let bad = || Error::corrupt("list of special values is damaged");
        let mut reader = Reader::new(data);
        let n_patterns = usize::try_from(reader.varint()?).ok().filter(|&p| (1..=MAX_PATTERNS).contains(&p));
        let n_patterns = n_patterns.ok_or_else(bad)?;
        let mut patterns = Vec::new();
        for _ in 0..n_patterns {
            patterns.push(u64::from_le_bytes(reader.take(8)?.try_into().map_err(|_| bad())?));
        }
        let n_runs = usize::try_from(reader.varint()?).ok().filter(|&r| r <= n).ok_or_else(bad)?;
        let has_patterns = n_patterns > 1;
        let (way, list) = match reader.rest().first() {
            Some(&IN_BLOCKS) => {
                let way = reader.take(2)?[1];
                (way, numbers::decode(reader.rest(), n_runs, 2 + usize::from(has_patterns))?)
            }
            _ => (0, plain_list(&mut reader, n_runs, has_patterns)?),
        };
        let distance = match way {
            0 => 0,
            _ if has_patterns => 0,
            way => *distances(shape).get(usize::from(way) - 1).ok_or_else(bad)?,
        };
        if way > 0 && distance == 0 {
            return Err(bad());
        }
        let mut runs = Vec::with_capacity(n_runs);
        let mut left = n as u64;
        for run in list.chunks(2 + usize::from(has_patterns)) {
            let (before, len) = (run[0], u64::from(run[1]) + 1);
            let pattern = run.get(2).copied().unwrap_or(0);
            let used = Some(u64::from(before) + len).filter(|&u| u <= left).ok_or_else(bad)?;
            left -= used;
            if pattern as usize >= n_patterns {
                return Err(bad());
            }
            runs.push((before, len as u32, pattern as u8));
        }
        if way > 0 {
            runs = Self::from_changes(&runs, distance, n);
        }
        Ok(Self { patterns, runs })
    }
}

/// Stands where older archives have the length of the list of runs, which is never 0.
pub(super) const IN_BLOCKS: u8 = 0;

/// How far before a value the one of the image before is, and the one of the step before; 0 where there is no such.
fn distances(shape: &[usize]) -> [usize; 2] {
    match shape {
        [_, ny, nx] => [ny * nx, 0],
        [_, inner @ .., ny, nx] => {
            let image = ny * nx;
            let step = inner.iter().product::<usize>() * image;
            [image, if step > image { step } else { 0 }]
        }
        _ => [0; 2],
    }
}

/// A list of runs as older archives have it: bytes, perhaps behind zstd.
fn plain_list(reader: &mut Reader<'_>, n_runs: usize, has_patterns: bool) -> Result<Vec<u32>> {
    let bad = || Error::corrupt("list of special values is damaged");
    let packed = reader.packed(n_runs.saturating_mul(11))?;
    let mut rest = Reader::new(&packed);
    let mut list = Vec::new();
    let number = |v: u64| u32::try_from(v).map_err(|_| bad());
    for _ in 0..n_runs {
        list.push(number(rest.varint()?)?);
        list.push(number(rest.varint()?.checked_sub(1).ok_or_else(bad)?)?);
        if has_patterns {
            list.push(u32::from(rest.byte()?));
        }
    }
    if rest.is_empty() && reader.is_empty() { Ok(list) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(marks: &[u8], shape: &[usize]) -> (Specials, usize) {
        let values: Vec<f32> = marks.iter().map(|&m| [1.0, f32::NAN, f32::INFINITY][usize::from(m)]).collect();
        let specials = Specials::find(&values, None, false).map(|f| f.specials).unwrap_or_default();
        let bytes = specials.to_bytes(shape);
        assert_eq!(Specials::from_bytes(&bytes, shape).unwrap(), specials, "{shape:?}");
        for n in 0..bytes.len() {
            assert!(Specials::from_bytes(&bytes[..n], shape).is_ok_and(|s| s.is_empty()) == (n == 0));
        }
        (specials, bytes.len())
    }

    #[test]
    fn runs_come_back() {
        let mut state = 7u32;
        let mut random = |n: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % n
        };
        for shape in [&[60][..], &[6, 10], &[3, 4, 5], &[2, 3, 2, 5], &[2, 1, 6, 5], &[2, 2, 1, 5, 3]] {
            for kinds in [2u32, 3] {
                for _ in 0..50 {
                    let image = shape.iter().rev().take(2).product::<usize>();
                    let mut marks: Vec<u8> =
                        (0..60).map(|_| (random(3) * random(kinds)).min(kinds - 1) as u8).collect();
                    // Often the same in each image, but for one.
                    if random(2) == 0 {
                        (image..60).for_each(|i| marks[i] = marks[i - image]);
                        let odd = random(60) as usize;
                        marks[odd] = (marks[odd] + 1) % kinds as u8;
                    }
                    through(&marks, shape);
                }
            }
        }
    }

    #[test]
    fn land_that_stays_is_said_once() {
        let (ny, nx) = (40, 50);
        let land = |i: usize| u8::from((i / nx + i % nx).is_multiple_of(7) || i % nx > 41);
        let once: Vec<u8> = (0..ny * nx).map(land).collect();
        let (_, alone) = through(&once, &[ny, nx]);
        let (_, often) = through(&once.repeat(30), &[30, ny, nx]);
        assert!(often <= alone + 8, "{often} bytes instead of {alone}");
        // Levels differ, steps do not.
        let other: Vec<u8> = once.iter().rev().copied().collect();
        let levels = [&once[..], &other].concat();
        let (_, one) = through(&levels, &[2, ny, nx]);
        let (_, often) = through(&levels.repeat(20), &[20, 2, ny, nx]);
        assert!(often <= one + 8, "{often} bytes instead of {one}");
    }

    #[test]
    fn what_no_writer_makes_is_refused() {
        let list = |patterns: u64, runs: &[[u32; 2]], way: u8, indices: &[u32]| {
            let mut out = vec![];
            bytes::put_varint(&mut out, patterns);
            (0..patterns).for_each(|p| out.extend((0x7fc0_0000 + p).to_le_bytes()));
            bytes::put_varint(&mut out, runs.len() as u64);
            out.extend([IN_BLOCKS, way]);
            let item =
                |(i, run): (usize, &[u32; 2])| run.iter().copied().chain(indices.get(i).copied()).collect::<Vec<_>>();
            let numbers: Vec<u32> = runs.iter().enumerate().flat_map(item).collect();
            out.extend(numbers::encode(&numbers, 2 + usize::from(patterns > 1)));
            out
        };
        let (flat, series, levels) = (&[6usize, 10][..], &[3usize, 4, 5][..], &[2usize, 3, 2, 5][..]);
        let runs = &[[3, 1], [0, 0]][..];
        for (patterns, way, indices, shape, good) in [
            (1, 0, &[][..], flat, true),
            (1, 1, &[], flat, false),
            (1, 1, &[], series, true),
            (1, 2, &[], series, false),
            (1, 1, &[], levels, true),
            (1, 2, &[], levels, true),
            (1, 3, &[], levels, false),
            (2, 0, &[1, 0], levels, true),
            (2, 1, &[1, 0], levels, false),
            (2, 0, &[1, 2], levels, false),
            (0, 0, &[], levels, false),
            (17, 0, &[1, 0], levels, false),
        ] {
            let read = Specials::from_bytes(&list(patterns, runs, way, indices), shape);
            assert_eq!(read.is_ok(), good, "{patterns} patterns, way {way}, {shape:?}: {read:?}");
        }
        assert!(Specials::from_bytes(&list(1, &[[58, 1]], 0, &[]), flat).is_ok());
        assert!(Specials::from_bytes(&list(1, &[[59, 1]], 0, &[]), flat).is_err());
        assert!(Specials::from_bytes(&list(1, &[[0, u32::MAX]], 0, &[]), flat).is_err());
        // As older archives have them, with two patterns.
        let mut old = vec![2];
        (0..2u64).for_each(|p| old.extend((0x7fc0_0000 + p).to_le_bytes()));
        old.push(2);
        bytes::put_packed(&mut old, &[3, 2, 1, 0, 1, 0]);
        let new = Specials::from_bytes(&list(2, &[[3, 1], [0, 0]], 0, &[1, 0]), flat).unwrap();
        assert_eq!(Specials::from_bytes(&old, flat).unwrap(), new);
    }
}
