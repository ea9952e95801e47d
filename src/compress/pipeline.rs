//! The pipeline of one tile: special values, quantizer, predictor, codes, check, bytes.

use super::method;
use super::scan::{BLOCK, mark, statistics};
use crate::awake;
use crate::bound::{Bound, Comparison, Resolved, Stats, is_special};
use crate::config::{Config, Effort, PredictorChoice};
use crate::encode::huffman::cpu::Packing;
use crate::encode::{bytes, exact, huffman};
use crate::error::{Error, Kind, Result};
use crate::field::{Float, Values};
use crate::plan::Treatment;
use crate::predict::fitted::Rows;
use crate::predict::fitted::learn::Budget;
use crate::predict::{self, Coded, FITTED, Method, fitted};
use crate::quantize::Quantizer;
use crate::quantize::log;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::{Found, Specials};
use crate::quantize::square;
use crate::stages::{Stage, time};
use crate::tile;
use rayon::prelude::*;
use std::ops::Range;

/// Compresses one tile of f32 or f64: a box `region` of a variable. The pipeline.
///
/// # Errors
/// `BoundViolated` if `config` asks for a check and it fails, which is a bug.
pub fn compress_tile<T: Rows>(
    values: &[T],
    region: &[Range<u64>],
    treatment: &Treatment,
    config: &Config,
) -> Result<Vec<u8>> {
    // Inside the pool, so that each parallel step starts at once.
    awake::scope(|| code_tile(values, None, region, treatment, config))
}

/// The same for a field of one tile, whose treatment is up to the statistics of its values: they too are found inside the pool, so that its threads
/// wake up once.
///
/// # Errors
/// As [`compress_tile`] and `treat`.
pub(super) fn compress_only_tile<T: Rows>(
    values: &[T],
    fill: Option<T>,
    region: &[Range<u64>],
    treat: impl FnOnce(Stats) -> Result<Treatment> + Send,
    config: &Config,
) -> Result<(Treatment, Vec<u8>)> {
    awake::scope(|| {
        let stats = statistics(values, fill);
        let treatment = treat(stats)?;
        let coded = code_tile(values, Some(stats), region, &treatment, config)?;
        Ok((treatment, coded))
    })
}

/// The work on a tile, within its scope; `stats` are those of its values where they are known.
fn code_tile<T: Rows>(
    values: &[T],
    stats: Option<Stats>,
    region: &[Range<u64>],
    treatment: &Treatment,
    config: &Config,
) -> Result<Vec<u8>> {
    let Treatment::Lossy { resolved, fill, .. } = treatment else {
        return Ok(store_exactly(values));
    };
    if matches!(resolved, Resolved::Exact) {
        return Ok(store_exactly(values));
    }
    let tile = Tile { values, stats, shape: tile::coding_shape(region), fill: fill.map(T::from_bits), config };
    let coded = tile.in_the_cheaper_way(|way| match *resolved {
        Resolved::Exact => Ok(None),
        Resolved::Absolute(bound) => tile.direct(way, bound, resolved),
        Resolved::PointWise(relative) => tile.logarithmic(way, relative, resolved),
        Resolved::MeanSquare { absolute, max_mse } => tile.mean_square(way, absolute, max_mse),
    })?;
    let is_good = |coded: &Outcome| {
        let is_near_the_resolution = coded.has_many_outliers && config.looks_again();
        saves_enough(coded.bytes.len(), std::mem::size_of_val(values)) && !is_near_the_resolution
    };
    Ok(match coded {
        Some(coded) if is_good(&coded) => coded.bytes,
        // With this effort nobody looks whether another way of storing them exactly were smaller yet.
        Some(coded) if !config.looks_again() => smaller_or_as_they_are(coded.bytes, values),
        coded => smaller_or_exact(coded.map(|c| c.bytes), values),
    })
}

/// Whether codes are so much smaller than the values that nobody needs to look whether exact storage were smaller yet.
pub(crate) fn saves_enough(coded_bytes: usize, value_bytes: usize) -> bool {
    coded_bytes * 2 <= value_bytes
}

/// No tile is larger than its exact storage.
pub(crate) fn smaller_or_exact<T: Rows>(coded: Option<Vec<u8>>, values: &[T]) -> Vec<u8> {
    let exact = store_exactly(values);
    coded.filter(|c| c.len() <= exact.len()).unwrap_or(exact)
}

/// A tile of values that no bound is for.
pub(crate) fn store_as_it_is(values: &Values) -> Result<Vec<u8>> {
    exact::check_text(values)?;
    Ok([&[method::EXACT][..], &exact::encode(values)].concat())
}

/// No tile is larger than its values as they are.
fn smaller_or_as_they_are<T: Rows>(coded: Vec<u8>, values: &[T]) -> Vec<u8> {
    if coded.len() <= 2 + std::mem::size_of_val(values) {
        return coded;
    }
    let mut out = exact::as_they_are(&T::values(values.to_vec()));
    out.insert(0, method::EXACT);
    out
}

pub(crate) fn store_exactly<T: Rows>(values: &[T]) -> Vec<u8> {
    let mut out = exact::encode(&T::values(values.to_vec()));
    out.insert(0, method::EXACT);
    out
}

/// Bins around the middle of the range; `None` if there are none for such values.
pub(crate) fn bins<T: Rows>(stats: &Stats, bound: f64) -> Option<(T, Quantizer<T>)> {
    let middle = if stats.n == 0 { 0.0 } else { stats.min / 2.0 + stats.max / 2.0 };
    let quantizer = Quantizer::new(bound, stats.max_magnitude());
    quantizer.is_usable().then(|| (T::from_f64(middle), quantizer))
}

/// Tiles of fewer values may not be worth the fits.
const LITTLE: usize = 1 << 17;

/// How a tile is coded.
#[derive(Clone, Copy)]
enum Way {
    /// With the fitted predictor, in contexts.
    Contexts(Budget),
    /// With the cheapest of the others.
    Huffman,
}

/// A coded tile.
struct Outcome {
    bytes: Vec<u8>,
    /// Bytes of codes and of what was fitted to the tile.
    codes: usize,
    plan: usize,
    has_many_outliers: bool,
}

/// What may be spent on fits to a tile of `shape`; `None` if there shall be none: the user's will, or images of a few pixels.
pub(crate) fn budget(config: &Config, shape: &[usize]) -> Option<Budget> {
    let budget = match (config.predictor, config.effort) {
        (PredictorChoice::Fitted, Effort::Fast | Effort::Balanced) => Budget::BALANCED,
        (PredictorChoice::Auto | PredictorChoice::Forecast, Effort::Balanced) => Budget::BALANCED,
        (PredictorChoice::Auto | PredictorChoice::Fitted | PredictorChoice::Forecast, Effort::Best) => Budget::BEST,
        _ => return None,
    };
    fitted::is_worthwhile(shape).then_some(budget)
}

/// Whether a tile of `n` values, which takes so many bytes with the fitted predictor, may be smaller without. Little data may not be worth the
/// fits. Where next to nothing is left, they may be most of it, or interpolation between images, which sees both sides, better.
fn is_small(n: usize, shape: &[usize], codes: usize, plan: usize) -> bool {
    let n_images = n / shape.iter().rev().take(2).product::<usize>().max(1);
    let few_bits = codes * 32 < n;
    // Of what is mostly noise fits leave as much as interpolation.
    let many_bits = codes * 2 > n;
    n < LITTLE || n < 2 * LITTLE && many_bits || few_bits && n_images > 1 || plan * 4 > codes
}

/// A tile on its way to bytes.
pub(crate) struct Tile<'a, T> {
    pub values: &'a [T],
    /// Of the values, if they were looked at before.
    pub stats: Option<Stats>,
    pub shape: Vec<usize>,
    pub fill: Option<T>,
    pub config: &'a Config,
}

/// A tile's values as codes, with all that a decoder needs to read them.
pub(super) struct Encoded<T> {
    pub base: T,
    pub quantizer: Quantizer<T>,
    pub method: Method<T>,
    /// Coded codes.
    pub bytes: Vec<u8>,
    /// Values that codes miss.
    pub outliers: Outliers,
}

impl<T: Rows> Tile<'_, T> {
    /// Whether the fitted predictor or the others, where it may be the others.
    fn in_the_cheaper_way(&self, code: impl Fn(Way) -> Result<Option<Outcome>> + Sync) -> Result<Option<Outcome>> {
        let Some(budget) = budget(self.config, &self.shape) else { return code(Way::Huffman) };
        let only_fitted = self.config.predictor == PredictorChoice::Fitted;
        let (fitted, other) = if !only_fitted && self.values.len() < LITTLE {
            // Both are tried anyway, side by side.
            awake::join(|| code(Way::Contexts(budget)), || Some(code(Way::Huffman)))
        } else {
            (code(Way::Contexts(budget)), None)
        };
        let fitted = fitted?;
        let is_small = |o: &Outcome| is_small(self.values.len(), &self.shape, o.codes, o.plan);
        if only_fitted || !fitted.as_ref().is_some_and(is_small) {
            return Ok(fitted);
        }
        let other = other.unwrap_or_else(|| code(Way::Huffman))?;
        let is_smaller = |other: &Outcome| fitted.as_ref().is_some_and(|f| other.bytes.len() < f.bytes.len());
        Ok(other.filter(is_smaller).or(fitted))
    }

    /// Codes within an absolute bound; `None` if codes make no sense for these values.
    fn direct(&self, way: Way, bound: f64, resolved: &Resolved) -> Result<Option<Outcome>> {
        // 1. Set special values apart.
        let stats = self.stats.unwrap_or_else(|| statistics(self.values, self.fill));
        let found =
            if stats.n == self.values.len() as u64 { None } else { Specials::find(self.values, self.fill, false) };
        let work = found.as_ref().map(|f| mark(self.values, &f.marks));
        let work = work.as_deref().unwrap_or(self.values);
        // 2.–4. Quantizer, predictor, codes.
        let Some(mut encoded) = self.encode(way, work, found.as_ref(), &stats, bound) else { return Ok(None) };
        // 5. Check. Always where a decoded value might pass for the fill value.
        let near_fill = self.fill.is_some_and(|f| (stats.min - bound..=stats.max + bound).contains(&f.to_f64()));
        if self.config.verify || near_fill {
            time(Stage::Check, || {
                let decoded = self.decode(&encoded, found.as_ref())?;
                self.keep_off_fill(&decoded, &mut encoded.outliers);
                self.check(decoded, &encoded.outliers, resolved)
            })?;
        }
        // 6. Bytes.
        let mut outliers = encoded.outliers.clone();
        if let Some(found) = &found {
            outliers = Outliers::merged(&outliers, Some(&found.outliers));
        }
        let specials = found.map(|f| f.specials.to_bytes(&self.shape)).unwrap_or_default();
        Ok(Some(encoded.outcome(method::DIRECT, &specials, &[], &self.listed(&outliers), self.values.len())))
    }

    /// Codes whose mean square error is bounded too: the bound is tightened until it holds.
    fn mean_square(&self, way: Way, absolute: f64, max_mse: f64) -> Result<Option<Outcome>> {
        const ATTEMPTS: usize = 6;
        let mut bound = absolute;
        for _ in 0..ATTEMPTS {
            let Some(coded) = self.direct(way, bound, &Resolved::Absolute(absolute))? else { return Ok(None) };
            let region: Vec<_> = self.shape.iter().map(|&n| 0..n as u64).collect();
            let fill = self.fill.map(Float::to_bits);
            let resolved = Resolved::Absolute(absolute);
            let treatment = Treatment::Lossy { asked: Bound::abs(absolute), resolved, fill, stats: None };
            let restored = crate::decompress::decode_tile(&coded.bytes, T::DTYPE, &treatment, &region)?;
            let mse = square::mean(self.values, T::slice(&restored).unwrap_or_default(), self.fill);
            if mse <= max_mse {
                return Ok(Some(coded));
            }
            bound *= 0.98 * (max_mse / mse).sqrt();
        }
        Ok(None)
    }

    /// Codes of logarithms, within a bound relative to each value.
    fn logarithmic(&self, way: Way, relative: f64, resolved: &Resolved) -> Result<Option<Outcome>> {
        let bound = log::bound::<T>(relative);
        if bound.is_nan() || bound <= 0.0 {
            return Ok(None);
        }
        // 1. Set special values and zeros apart.
        let found = Specials::find(self.values, self.fill, true);
        let logs = log::forward(self.values, found.as_ref().map_or(&[], |f| &f.marks));
        let stats = statistics(&logs, None);
        // 2.–4. As for other values, on the logarithms; what misses there is looked at here, in the values themselves.
        let tile =
            Tile { values: &logs, stats: Some(stats), shape: self.shape.clone(), fill: None, config: self.config };
        let Some(mut encoded) = tile.encode(way, &logs, found.as_ref(), &stats, bound) else { return Ok(None) };
        encoded.outliers = Outliers::default();
        let decoded_logs = tile.decode_codes(&encoded, found.as_ref())?;
        let signs = log::signs_to_bytes(self.values);
        let mut decoded: Vec<T> = decoded_logs.par_iter().map(|&y| log::inverse(y)).collect();
        log::apply_signs(&signs, &mut decoded)?;
        if let Some(found) = &found {
            found.specials.apply(&mut decoded);
        }
        let misses = self.values.iter().zip(&decoded).enumerate().filter(|&(i, (&x, &y))| {
            let marked = found.as_ref().is_some_and(|f| f.marks[i]);
            let (v, w) = (x.to_f64(), y.to_f64());
            // Not `>`: a NaN among the errors is a miss too.
            let within = (w - v).abs() <= relative * v.abs() && !is_special(y, self.fill);
            if marked { x.to_bits() != y.to_bits() } else { !within }
        });
        let outliers = Outliers::from_unsorted(misses.map(|(i, (x, _))| (i as u32, x.to_bits())).collect());
        // 5. Check.
        if self.config.verify {
            time(Stage::Check, || self.check(decoded, &outliers, resolved))?;
        }
        // 6. Bytes.
        let specials = found.map(|f| f.specials.to_bytes(&self.shape)).unwrap_or_default();
        encoded.outliers = outliers;
        let listed = self.listed(&encoded.outliers);
        Ok(Some(encoded.outcome(method::LOG, &specials, &signs, &listed, self.values.len())))
    }

    fn encode(&self, way: Way, work: &[T], found: Option<&Found>, stats: &Stats, bound: f64) -> Option<Encoded<T>> {
        // 2. Fix the quantizer.
        let (base, quantizer) = bins(stats, bound)?;
        // 3., 4. Choose the predictor; predict, quantize, code.
        let marks = self.marks(found);
        Some(match way {
            Way::Contexts(budget) => self.with_contexts(budget, work, marks.as_deref(), base, &quantizer),
            Way::Huffman => self.with_huffman(work, marks.as_deref(), base, &quantizer),
        })
    }

    /// Codes with contexts.
    fn with_contexts(
        &self,
        budget: Budget,
        work: &[T],
        marks: Option<&[bool]>,
        base: T,
        quantizer: &Quantizer<T>,
    ) -> Encoded<T> {
        let wrap = predict::choose::is_circle(work, &self.shape);
        let coded = fitted::encode::encode(work, marks, &self.shape, base, quantizer, wrap, budget);
        let (bytes, outliers) = (coded.bytes, coded.outliers);
        Encoded { base, quantizer: *quantizer, method: Method::Contexts(coded.plan), bytes, outliers }
    }

    /// Codes of the cheapest of the other predictors.
    fn with_huffman(&self, work: &[T], marks: Option<&[bool]>, base: T, quantizer: &Quantizer<T>) -> Encoded<T> {
        let (predictor, coded) = time(Stage::Predict, || {
            let predictor = predict::choose::choose(work, &self.shape, base, quantizer, self.config.predictor);
            let coded = predictor.encode(work, &self.shape, base, quantizer);
            (predictor, coded)
        });
        let Coded { codes, outliers } = coded;
        // Codes of values stored in runs say nothing: the decoder puts zeros there.
        let bytes = time(Stage::Encode, || match marks {
            None => huffman::cpu::encode(&codes, Packing::Plain),
            Some(marks) => {
                let marks = predictor.in_coding_order(marks, &self.shape);
                let kept: Vec<i32> = codes.iter().zip(marks).filter(|(_, m)| !m).map(|(&c, _)| c).collect();
                huffman::cpu::encode(&kept, Packing::Plain)
            }
        });
        Encoded { base, quantizer: *quantizer, method: Method::Huffman(predictor), bytes, outliers }
    }

    /// Which values are stored in runs.
    fn marks(&self, found: Option<&Found>) -> Option<Vec<bool>> {
        found.filter(|f| !f.specials.is_empty()).map(|f| f.specials.marks(self.values.len()))
    }

    /// What the decoder will make of the codes.
    fn decode_codes(&self, encoded: &Encoded<T>, found: Option<&Found>) -> Result<Vec<T>> {
        let empty = Specials::default();
        let specials = found.map_or(&empty, |f| &f.specials);
        let Encoded { base, quantizer, method, bytes, .. } = encoded;
        crate::decompress::decode_codes(method, bytes, specials, &self.shape, *base, quantizer, self.values.len())
    }

    /// What the decoder will make of the codes, but for the values stored apart one by one.
    fn decode(&self, encoded: &Encoded<T>, found: Option<&Found>) -> Result<Vec<T>> {
        let mut decoded = self.decode_codes(encoded, found)?;
        if let Some(found) = found {
            found.specials.apply(&mut decoded);
            found.outliers.apply(&mut decoded);
        }
        Ok(decoded)
    }

    /// Stores exactly what would decode to the fill value, or to −0.0, without being it.
    pub(crate) fn keep_off_fill(&self, decoded: &[T], outliers: &mut Outliers) {
        let collides = |(x, y): (&T, &T)| x.to_bits() != y.to_bits() && is_special(*y, self.fill);
        let blocks = self.values.par_chunks(BLOCK).zip(decoded.par_chunks(BLOCK)).enumerate();
        let of_block = |(b, (values, decoded)): (usize, (&[T], &[T]))| {
            // Hardly any block has special values; those are looked at one by one.
            let (.., any_special) = T::scan(decoded, self.fill);
            let all = if any_special { values.iter().zip(decoded) } else { [].iter().zip(&[]) };
            let found = all.enumerate().filter(|&(_, pair)| collides(pair));
            found.map(|(i, (x, _))| ((b * BLOCK + i) as u32, x.to_bits())).collect::<Vec<_>>()
        };
        let mut more: Vec<(u32, u64)> = blocks.flat_map_iter(of_block).collect();
        more.retain(|(i, _)| outliers.positions.binary_search(i).is_err());
        if !more.is_empty() {
            more.extend(outliers.positions.iter().copied().zip(outliers.bits.iter().copied()));
            *outliers = Outliers::from_unsorted(more);
        }
    }

    pub(crate) fn check(&self, mut decoded: Vec<T>, outliers: &Outliers, resolved: &Resolved) -> Result<()> {
        outliers.apply(&mut decoded);
        let mut comparison = Comparison::default();
        comparison.add(self.values, &decoded, resolved, self.fill);
        if comparison.violations == 0 {
            return Ok(());
        }
        let n = comparison.violations;
        Err(Error::new(Kind::BoundViolated, format!("{n} values left their bound; this is a bug, please report it")))
    }

    /// The list of values stored one by one.
    fn listed(&self, outliers: &Outliers) -> Vec<u8> {
        outliers.to_bytes::<T>(self.config.looks_again() && outliers.are_many(self.values.len()))
    }
}

impl<T: Rows> Encoded<T> {
    /// The bytes of the tile of `n` values: method, base, step, predictor, lists of values stored apart, codes. Layout in `container/format.md`.
    fn outcome(self, method: u8, specials: &[u8], signs: &[u8], outliers: &[u8], n: usize) -> Outcome {
        let mut out = vec![method];
        out.extend_from_slice(&self.base.to_bits().to_le_bytes()[..T::BYTES]);
        out.extend_from_slice(&self.quantizer.step.to_bits().to_le_bytes()[..T::BYTES]);
        let plan = match &self.method {
            Method::Huffman(predictor) => {
                out.push(predictor.id());
                predictor.write(&mut out);
                0
            }
            Method::Contexts(plan) => {
                out.push(FITTED);
                let before = out.len();
                plan.write(&mut out);
                out.len() - before
            }
        };
        bytes::put_bytes(&mut out, specials);
        if method == method::LOG {
            bytes::put_bytes(&mut out, signs);
        }
        bytes::put_bytes(&mut out, outliers);
        // In front of the codes, which need not be copied where there is room.
        let (codes, mut bytes) = (self.bytes.len(), self.bytes);
        bytes.splice(0..0, out);
        Outcome { codes, bytes, plan, has_many_outliers: self.outliers.are_many(n) }
    }
}
