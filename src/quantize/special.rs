//! Values that come back bit for bit whatever the bound: NaN, ±Inf, −0.0, fill values; and, where logarithms are coded, zeros.
//!
//! They come in patches (land, missing swaths) and in few bit patterns, so they are stored as runs: how many others before,
//! how many of them, which pattern. In the working copy they are NaN: predictors fill such places with their prediction and
//! their codes are left out of the coded stream.

use super::outlier::Outliers;
use crate::bound;
use crate::encode::bytes::{self, Packing, Reader};
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

    /// Serialized form; empty if there are none.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_in(Packing::Zstd)
    }

    /// The same, packed or not.
    pub fn to_bytes_in(&self, packing: Packing) -> Vec<u8> {
        let mut out = Vec::new();
        if self.is_empty() {
            return out;
        }
        bytes::put_varint(&mut out, self.patterns.len() as u64);
        self.patterns.iter().for_each(|p| out.extend(p.to_le_bytes()));
        bytes::put_varint(&mut out, self.runs.len() as u64);
        let mut runs = Vec::new();
        for &(before, len, pattern) in &self.runs {
            bytes::put_varint(&mut runs, u64::from(before));
            bytes::put_varint(&mut runs, u64::from(len));
            if self.patterns.len() > 1 {
                runs.push(pattern);
            }
        }
        bytes::put_list(&mut out, &runs, packing);
        out
    }

    /// Reads what [`Specials::to_bytes`] wrote for a tile of `n` values.
    ///
    /// # Errors
    /// `Corrupt` if runs leave the tile.
    pub fn from_bytes(data: &[u8], n: usize) -> Result<Self> {
        if data.is_empty() {
            return Ok(Self::default());
        }
        let bad = || Error::corrupt("list of special values is damaged");
        let mut reader = Reader::new(data);
        let n_patterns = usize::try_from(reader.varint()?).ok().filter(|&p| (1..=MAX_PATTERNS).contains(&p));
        let n_patterns = n_patterns.ok_or_else(bad)?;
        let mut patterns = Vec::new();
        for _ in 0..n_patterns {
            patterns.push(u64::from_le_bytes(reader.take(8)?.try_into().map_err(|_| bad())?));
        }
        let n_runs = usize::try_from(reader.varint()?).ok().filter(|&r| r <= n).ok_or_else(bad)?;
        let packed = reader.packed(n_runs.saturating_mul(11))?;
        let mut rest = Reader::new(&packed);
        let mut runs = Vec::new();
        let mut left = n as u64;
        for _ in 0..n_runs {
            let (before, len) = (rest.varint()?, rest.varint()?);
            let pattern = if n_patterns > 1 { rest.byte()? } else { 0 };
            let used = before.checked_add(len).filter(|&u| len > 0 && u <= left).ok_or_else(bad)?;
            left -= used;
            if usize::from(pattern) >= n_patterns {
                return Err(bad());
            }
            runs.push((before as u32, len as u32, pattern));
        }
        if rest.is_empty() && reader.is_empty() { Ok(Self { patterns, runs }) } else { Err(bad()) }
    }
}
