//! What was decided for a tile: weights, guesses, contexts; how it is written and read.

use super::fit::Fitted;
use super::lattice::{A, B1, B2, K};
use super::rows::{N_BUCKETS, Rows};
use super::sample::MAX_BANDS;
use super::schedule::Schedule;
use super::site::{FEATURE_SIDES, GUESS_BANDS, Guess, OWN_FEATURES, SIDE_FEATURES, Taps, Weights};
use crate::encode::bits::{BitReader, BitWriter};
use crate::encode::bytes::{self, Reader};
use crate::encode::rans::family::N_DISTRIBUTIONS;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Revision of everything that a fitted tile says and means, where images are coded forwards,
const FORWARDS: u32 = 3;
/// and where they are coded from the middle outwards.
const OUTWARDS: u32 = 4;
/// The same before guesses had offsets.
const FORWARDS_WITHOUT: u32 = 1;
const OUTWARDS_WITHOUT: u32 = 2;

/// Most streams of a tile.
pub const MAX_STREAMS: usize = 64;
/// Most contexts of the phases; two more are for the base lattice.
pub const MAX_CONTEXTS: usize = 32;
/// Bucket of base values that a side image predicts.
pub const BASE_BESIDE: u8 = N_BUCKETS as u8;
/// Bucket of base values that the one before predicts.
pub const BASE_CHAIN: u8 = BASE_BESIDE + 1;

/// All decisions of a tile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Images are coded from the middle outwards, not forwards.
    pub is_outwards: bool,
    /// Columns are a circle.
    pub wrap: bool,
    /// Each phase's rows are cut into as many blocks, coded as streams of their own.
    pub n_streams: usize,
    /// By pass: weights of taps as integers.
    pub(super) taps: Vec<Fitted>,
    /// By pass: weights of features, and offsets.
    pub(super) guesses: Vec<Guess>,
    /// First buckets of contexts 1, 2, …
    pub(super) thresholds: Vec<u8>,
    /// Distributions of the contexts, then of [`BASE_BESIDE`] and [`BASE_CHAIN`].
    pub(super) distributions: Vec<u16>,
}

/// Number of features of a kind with so many side images.
pub fn n_features(n_sides: usize) -> usize {
    OWN_FEATURES + SIDE_FEATURES * n_sides.min(FEATURE_SIDES)
}

/// The taps of each pass; most lattices have the same.
pub fn taps(schedule: &Schedule) -> Vec<Arc<Taps>> {
    let mut all: Vec<Arc<Taps>> = Vec::with_capacity(schedule.n_passes());
    let mut made: BTreeMap<(usize, u8, [bool; 4]), Arc<Taps>> = BTreeMap::new();
    for &n_sides in &schedule.sides_of_kind {
        for level in 0..schedule.lattices.levels {
            for phase in A..=B2 {
                let is_empty = |plane| {
                    let (rows, columns) = schedule.lattices.plane_size(level, plane);
                    rows == 0 || columns == 0
                };
                let key = (n_sides, phase, [K, A, B1, B2].map(is_empty));
                let taps = made.entry(key).or_insert_with(|| Arc::new(Taps::new(phase, n_sides, is_empty)));
                all.push(taps.clone());
            }
        }
    }
    all
}

impl Plan {
    /// Weights as the kernels take them, by pass.
    pub(super) fn weights<T: Rows>(&self, taps: &[Arc<Taps>]) -> Vec<Weights<T>> {
        self.taps
            .iter()
            .zip(&self.guesses)
            .zip(taps)
            .map(|((fitted, guess), taps)| fitted.weights(guess, taps))
            .collect()
    }

    /// Context of each bucket.
    pub(super) fn contexts(&self) -> [u8; N_BUCKETS + 2] {
        let n = self.thresholds.len() as u8 + 1;
        let mut contexts =
            std::array::from_fn(|b| self.thresholds.iter().filter(|&&t| usize::from(t) <= b).count() as u8);
        contexts[usize::from(BASE_BESIDE)] = n;
        contexts[usize::from(BASE_CHAIN)] = n + 1;
        contexts
    }

    /// One line for `inspect`.
    pub fn describe(&self) -> String {
        let finest: Vec<usize> = self.taps.iter().map(|f| f.bands.iter().map(Vec::len).max().unwrap_or(0)).collect();
        let n_taps = finest.iter().max().copied().unwrap_or(0);
        let wrap = if self.wrap { ", wrap" } else { "" };
        let n_offsets = self.guesses.iter().filter(|guess| !guess.offsets.is_empty()).count();
        let offsets = if n_offsets > 0 { format!(", {n_offsets} guesses by rows") } else { String::new() };
        format!("fitted (up to {n_taps} taps, {} contexts{offsets}{wrap})", self.thresholds.len() + 1)
    }

    /// Appends the plan, as [`Plan::read`] expects it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut bits = BitWriter::default();
        bits.put(u64::from(if self.is_outwards { OUTWARDS } else { FORWARDS }), 4);
        bits.put(u64::from(self.wrap), 1);
        bits.put(self.n_streams as u64 - 1, 6);
        for Fitted { shift, bands } in &self.taps {
            bits.put(u64::from(bands.len().ilog2()), 2);
            bits.put(u64::from(*shift), 4);
            for band in bands {
                put_gamma(&mut bits, band.len() as u32 + 1);
                let width = band.iter().map(|w| bits_of(w.1)).max().unwrap_or(0);
                if !band.is_empty() {
                    bits.put(u64::from(width), 4);
                }
                let mut next = 0;
                for &(tap, weight) in band {
                    put_gamma(&mut bits, u32::from(tap - next) + 1);
                    next = tap + 1;
                    bits.put(weight as u64 & ((2 << width) - 1), width + 1);
                }
            }
        }
        for Guess { weights, offsets } in &self.guesses {
            let width = weights.iter().map(|&w| bits_of(w)).max().unwrap_or(0);
            bits.put(u64::from(width), 4);
            weights.iter().for_each(|&w| bits.put(w as u64 & ((2 << width) - 1), width + 1));
            bits.put(u64::from(!offsets.is_empty()), 1);
            offsets.iter().for_each(|&offset| put_gamma(&mut bits, folded(offset)));
        }
        bits.put(self.thresholds.len() as u64, 5);
        let mut last = 0;
        for &t in &self.thresholds {
            put_gamma(&mut bits, u32::from(t - last) + 1);
            last = t;
        }
        self.distributions.iter().for_each(|&d| bits.put(u64::from(d), 11));
        bytes::put_bytes(out, &bits.finish());
    }

    /// Reads what [`Plan::write`] wrote for a tile of `shape` (axes of length 1 left out).
    ///
    /// # Errors
    /// `Corrupt` if anything is out of range.
    pub fn read(reader: &mut Reader<'_>, shape: &[usize]) -> Result<Self> {
        if !super::is_worthwhile(shape) {
            return Err(bad());
        }
        let data = reader.bytes()?;
        let mut bits = BitReader::new(data, 0, data.len());
        let revision = Revision::read(&mut bits)?;
        let is_outwards = revision.is_outwards;
        let schedule = Schedule::new(shape, is_outwards);
        // One way to say one thing.
        if is_outwards && schedule.n_before == 0 {
            return Err(bad());
        }
        Self::read_rest(bits, revision, &schedule, &taps(&schedule))
    }

    /// As [`Plan::read`], for images in this schedule, which are coded forwards.
    pub(super) fn read_for(reader: &mut Reader<'_>, schedule: &Schedule, taps: &[Arc<Taps>]) -> Result<Self> {
        let data = reader.bytes()?;
        let mut bits = BitReader::new(data, 0, data.len());
        let revision = Revision::read(&mut bits)?;
        if revision.is_outwards {
            return Err(other_revision());
        }
        Self::read_rest(bits, revision, schedule, taps)
    }

    /// What follows the revision.
    fn read_rest(mut bits: BitReader<'_>, revision: Revision, schedule: &Schedule, taps: &[Arc<Taps>]) -> Result<Self> {
        let Revision { is_outwards, has_offsets } = revision;
        let mut plan =
            Self { is_outwards, wrap: bits.take(1) == 1, n_streams: bits.take(6) as usize + 1, ..Self::default() };
        for taps in taps {
            let n_bands = 1usize << bits.take(2);
            let shift = bits.take(4) as u8;
            let mut bands = vec![];
            for _ in 0..n_bands.min(MAX_BANDS) {
                let n = take_gamma(&mut bits).ok_or_else(bad)? as usize - 1;
                if n > taps.all.len() || !bits.is_within() {
                    return Err(bad());
                }
                let width = if n > 0 { bits.take(4) } else { 0 };
                let mut band = Vec::with_capacity(n);
                let mut next = 0;
                for _ in 0..n {
                    let tap = take_gamma(&mut bits).and_then(|gap| (gap - 1).checked_add(next)).ok_or_else(bad)?;
                    if tap as usize >= taps.all.len() {
                        return Err(bad());
                    }
                    next = tap + 1;
                    band.push((tap as u8, take_signed(&mut bits, width)));
                }
                bands.push(band);
            }
            plan.taps.push(Fitted { shift, bands });
        }
        for pass in 0..taps.len() {
            let n_sides = schedule.sides_of_pass(pass);
            let width = bits.take(4);
            let weights = (0..n_features(n_sides) + 1).map(|_| take_signed(&mut bits, width)).collect();
            let mut offsets = vec![];
            if has_offsets && bits.take(1) == 1 {
                for _ in 0..GUESS_BANDS {
                    offsets.push(take_gamma(&mut bits).and_then(unfolded).ok_or_else(bad)?);
                }
                if offsets.iter().all(|&offset| offset == 0) {
                    return Err(bad());
                }
            }
            plan.guesses.push(Guess { weights, offsets });
            if !bits.is_within() {
                return Err(bad());
            }
        }
        let mut last = 0;
        for _ in 0..bits.take(5) {
            last += take_gamma(&mut bits).ok_or_else(bad)? - 1;
            plan.thresholds.push(u8::try_from(last).map_err(|_| bad())?);
        }
        for _ in 0..plan.thresholds.len() + 3 {
            let id = bits.take(11) as u16;
            if usize::from(id) >= N_DISTRIBUTIONS {
                return Err(bad());
            }
            plan.distributions.push(id);
        }
        if bits.is_within() { Ok(plan) } else { Err(bad()) }
    }
}

/// What a revision says.
#[derive(Clone, Copy)]
struct Revision {
    is_outwards: bool,
    /// Whether plans say offsets of guesses, if there are any.
    has_offsets: bool,
}

impl Revision {
    fn read(bits: &mut BitReader<'_>) -> Result<Self> {
        let (is_outwards, has_offsets) = match bits.take(4) {
            FORWARDS => (false, true),
            OUTWARDS => (true, true),
            FORWARDS_WITHOUT => (false, false),
            OUTWARDS_WITHOUT => (true, false),
            _ => return Err(other_revision()),
        };
        Ok(Self { is_outwards, has_offsets })
    }
}

fn other_revision() -> Error {
    Error::unsupported("fitted predictor of another revision; the residuum that wrote it reads it")
}

fn bad() -> Error {
    Error::corrupt("plan of the fitted predictor is damaged")
}

/// Bits of a magnitude.
fn bits_of(w: i16) -> u32 {
    u16::BITS - w.unsigned_abs().leading_zeros()
}

fn take_signed(bits: &mut BitReader<'_>, width: u32) -> i16 {
    let n = width + 1;
    ((bits.take(n) << (32 - n)) as i32 >> (32 - n)) as i16
}

/// Elias gamma code of `n ≥ 1`.
fn put_gamma(bits: &mut BitWriter, n: u32) {
    let log2 = n.ilog2();
    bits.put(1 << log2, log2 + 1);
    bits.put(u64::from(n - (1 << log2)), log2);
}

/// Bits of an offset in the plan.
pub(super) fn offset_len(offset: i8) -> u32 {
    2 * folded(offset).ilog2() + 1
}

/// A small number as one from 1 on: 0, −1, 1, −2, …
fn folded(x: i8) -> u32 {
    let x = i32::from(x);
    (if x < 0 { -2 * x } else { 1 + 2 * x }) as u32
}

fn unfolded(n: u32) -> Option<i8> {
    let half = (n / 2) as i32;
    i8::try_from(if n.is_multiple_of(2) { -half } else { half }).ok()
}

fn take_gamma(bits: &mut BitReader<'_>) -> Option<u32> {
    const LONGEST: u32 = 16;
    bits.refill();
    let log2 = (bits.peek(LONGEST + 1) | 2 << LONGEST).trailing_zeros();
    if log2 > LONGEST {
        return None;
    }
    bits.skip(log2 + 1);
    Some((1 << log2) + if log2 > 0 { bits.take(log2) } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [24, 32];

    /// A plan of one image whose first guess has these offsets, written bit by bit.
    fn written(revision: u32, offsets: Option<[u32; GUESS_BANDS]>) -> Vec<u8> {
        let schedule = Schedule::new(&SHAPE, false);
        let mut bits = BitWriter::default();
        [(u64::from(revision), 4), (0, 1), (0, 6)].into_iter().for_each(|(v, n)| bits.put(v, n));
        for _ in 0..schedule.n_passes() {
            [(0, 2), (0, 4)].into_iter().for_each(|(v, n)| bits.put(v, n));
            put_gamma(&mut bits, 1);
        }
        for pass in 0..schedule.n_passes() {
            bits.put(0, 4);
            (0..n_features(0) + 1).for_each(|_| bits.put(0, 1));
            if revision >= FORWARDS {
                let offsets = offsets.filter(|_| pass == 0);
                bits.put(u64::from(offsets.is_some()), 1);
                offsets.into_iter().flatten().for_each(|n| put_gamma(&mut bits, n));
            }
        }
        bits.put(0, 5);
        (0..3).for_each(|_| bits.put(0, 11));
        let mut out = vec![];
        bytes::put_bytes(&mut out, &bits.finish());
        out
    }

    fn read(revision: u32, offsets: Option<[u32; GUESS_BANDS]>) -> Option<Vec<i8>> {
        let written = written(revision, offsets);
        let plan = Plan::read(&mut Reader::new(&written), &SHAPE).ok()?;
        Some(plan.guesses[0].offsets.clone())
    }

    #[test]
    fn offsets_are_eight_that_fit_a_byte_and_not_all_0() {
        assert_eq!(read(FORWARDS, None), Some(vec![]));
        assert_eq!(read(FORWARDS_WITHOUT, None), Some(vec![]));
        // 0, −1, 1, −2, …
        assert_eq!(read(FORWARDS, Some([1, 2, 3, 4, 255, 256, 1, 1])), Some(vec![0, -1, 1, -2, 127, -128, 0, 0]));
        for bad in [[1; 8], [1, 1, 257, 1, 1, 1, 1, 1], [258, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 65_536]] {
            assert_eq!(read(FORWARDS, Some(bad)), None, "{bad:?}");
        }
        // One image has no middle.
        for revision in [0, OUTWARDS, OUTWARDS_WITHOUT, OUTWARDS + 1, 15] {
            assert_eq!(read(revision, None), None, "revision {revision}");
        }
        assert!((i8::MIN..=i8::MAX).all(|x| unfolded(folded(x)) == Some(x)));
    }
}
