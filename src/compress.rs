//! From values to an archive, told in order. [`mod@crate::decompress`] tells it backwards.
//!
//! [`compress`] takes a field in memory, [`compress_source`] a file of many variables. Both cut variables into tiles and call
//! [`compress_tile`] for each, which is the pipeline itself: special values, quantizer, predictor, codes, check, bytes.

use crate::awake;
use crate::bound::{Bound, Comparison, Resolved, Stats, is_special};
use crate::config::{Config, Effort, PredictorChoice};
use crate::container::{Writer, limits};
use crate::device::{Coder, Cpu, Uncoded};
use crate::encode::bytes::Packing;
#[cfg(feature = "cuda")]
use crate::encode::bytes::Reader;
use crate::encode::{bytes, exact, huffman};
use crate::error::{Context, Error, Kind, Result};
use crate::field::{Field, Float, Values};
use crate::io::{Format, Schema, Source};
use crate::plan::{Plan, Treatment};
use crate::predict::fitted::Rows;
use crate::predict::fitted::learn::Budget;
use crate::predict::{self, Coded, FITTED, Method, fitted};
use crate::quantize::Quantizer;
use crate::quantize::log;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::{Found, Specials};
use crate::quantize::square;
use crate::similarity;
use crate::spool::Spool;
use crate::stages::{Stage, time};
use crate::tile::{self, Tiling};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

mod flight;

use flight::Flight;

/// First byte of a tile: how the rest is to be read.
pub(crate) mod method {
    /// Values bit for bit.
    pub const EXACT: u8 = 0;
    /// Codes of the values themselves.
    pub const DIRECT: u8 = 1;
    /// Codes of the logarithms of their magnitudes.
    pub const LOG: u8 = 2;
    /// Codes of the values themselves, predicted beside a model's forecasts.
    pub const BESIDE_FORECASTS: u8 = 3;
}

/// Compresses a field in memory to an archive in memory, within `config`'s bound. The archive's one variable is called `data`.
///
/// ```
/// use residuum::{Bound, Config, Field};
/// let values: Vec<f32> = (0..10_000).map(|i| (i as f32 * 0.01).sin()).collect();
/// let field = Field::new(&values, &[100, 100])?;
/// let archive = residuum::compress(&field, &Config::new(Bound::abs(1e-3)))?;
/// let (restored, shape) = residuum::decompress::<f32>(&archive)?;
/// assert_eq!(shape, [100, 100]);
/// assert!(values.iter().zip(&restored).all(|(a, b)| (a - b).abs() <= 1e-3));
/// # Ok::<(), residuum::Error>(())
/// ```
///
/// `T` is `f32` or `f64`: the trait is sealed.
///
/// # Errors
/// `Usage` if the bound means nothing or can not be represented in the field's type.
pub fn compress<T: Rows>(field: &Field<'_, T>, config: &Config) -> Result<Vec<u8>> {
    compress_to(field, config, Vec::new())
}

/// As [`compress()`], but writes the archive to `out`, tile by tile, and returns it. It has at most
/// [`max_archive_bytes`](crate::container::max_archive_bytes) bytes.
///
/// # Errors
/// As [`compress()`], and `Io` if `out` refuses.
pub fn compress_to<T: Rows, W: Write>(field: &Field<'_, T>, config: &Config, out: W) -> Result<W> {
    let shape: Vec<u64> = field.shape().iter().map(|&n| n as u64).collect();
    let schema = Schema::single(Format::Raw, "data", T::DTYPE, &shape);
    let bound = config.bound_of("data");
    let stats = statistics(field.values(), field.fill());
    let plan = Plan {
        variable: 0,
        treatment: plan_treatment(bound, Some(stats), T::DTYPE, field.fill().map(Float::to_bits))?,
        tiling: Tiling::new(&shape, config.max_tile_values(T::DTYPE, &shape)),
        forecast: None,
    };
    let mut writer = Writer::new(out, &schema)?;
    writer.begin(&plan)?;
    let mut rest = field.values();
    let tiles = (0..plan.tiling.count()).map(|i| {
        let region = plan.tiling.region(i);
        let (values, later) = rest.split_at(tile::region_len(&region) as usize);
        rest = later;
        (values, region)
    });
    let tiles: Vec<_> = tiles.collect();
    for batch in tile::batches(tiles.iter().map(|t| size_of_val(t.0) as u64), config.tile_bytes) {
        let compress = |(values, region): &(&[T], Vec<_>)| compress_tile(values, region, &plan.treatment, config);
        let coded: Vec<_> = tiles[batch].par_iter().with_max_len(1).map(compress).collect();
        coded.into_iter().try_for_each(|coded| writer.tile(&coded?))?;
    }
    writer.finish()
}

/// What happens while a file is compressed or restored, for progress bars.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Name of the variable at work.
    pub variable: &'a str,
    /// Bytes of values done since the last call.
    pub bytes: u64,
}

/// Compresses all variables of `source` into an archive written to `out`, tile by tile, in bounded memory.
///
/// # Errors
/// `Usage` for bounds that mean nothing (the message names the variable), `Input` if the source can not be read, `Io` if `out`
/// refuses.
pub fn compress_source<W: Write>(
    source: &mut dyn Source,
    out: W,
    config: &Config,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<W> {
    compress_source_with(source, out, config, &mut Cpu, progress)
}

/// The same with tiles coded where `coder` says. The archive does not depend on it.
///
/// # Errors
/// As [`compress_source`], and as [`Coder::compress`].
pub fn compress_source_with<W: Write>(
    source: &mut dyn Source,
    out: W,
    config: &Config,
    coder: &mut dyn Coder,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<W> {
    compress_rest(source, out, config, coder, Before::default(), progress)
}

/// A variable that was compressed before.
pub struct Done {
    /// What was decided.
    pub plan: Plan,
    /// Its tiles.
    pub tiles: Spool,
}

/// What was done before an archive is written.
#[derive(Default)]
pub struct Before {
    /// Variables by their index: those that a model forecasts together.
    pub done: BTreeMap<usize, Done>,
    /// Weights of that model that go into the archive.
    pub weights: Option<Vec<u8>>,
}

/// The same with what was done `before`.
///
/// # Errors
/// As [`compress_source_with`].
pub fn compress_rest<W: Write>(
    source: &mut dyn Source,
    out: W,
    config: &Config,
    coder: &mut dyn Coder,
    before: Before,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<W> {
    let schema = source.schema().clone();
    config.check_names(&schema)?;
    if let Some(variable) = source.unreadable().first() {
        return Err(Error::unsupported(variable.reason.clone())).context(|| format!("variable {:?}", variable.name));
    }
    let Before { mut done, weights } = before;
    let mut flight = Flight::new(Writer::with_weights(out, &schema, weights.as_deref())?, coder, config, progress);
    drop(weights);
    let coordinates = schema.coordinates();
    for (i, variable) in schema.variables.iter().enumerate() {
        let place = || format!("variable {:?}", variable.name());
        if let Some(done) = done.remove(&i) {
            flight.done(done)?;
            continue;
        }
        // 1. Resolve the bound: some need the range of all values, that is a first reading.
        let tiling = match variable.dtype {
            crate::DType::Text => text_tiling(source, i, config).context(place)?,
            _ => tiling_of(source, i, config).context(place)?,
        };
        // The values, where a first reading has them all.
        let (plan, mut only) = plan_variable(source, i, coordinates[i], tiling, config).context(place)?;
        flight.begin(plan.clone());
        for t in 0..plan.tiling.count() {
            // 2. Tiles in order. Small ones are coded side by side; within a large one all threads work.
            let region = plan.tiling.region(t);
            let read = || time(Stage::Read, || source.read(i, &region));
            let values = only.take().map_or_else(read, Ok).context(place)?;
            if values.len() as u64 != tile::region_len(&region) {
                return Err(Error::input("the file holds fewer values than it says")).context(place);
            }
            flight.tile(variable.name(), Uncoded { values, region, treatment: plan.treatment.clone() })?;
        }
    }
    flight.finish()
}

/// Plans a variable. Gives its values too, if it read them for that and they are one tile.
fn plan_variable(
    source: &mut dyn Source,
    i: usize,
    is_coordinate: bool,
    tiling: Tiling,
    config: &Config,
) -> Result<(Plan, Option<Values>)> {
    let schema = source.schema();
    let (variable, fill) = (&schema.variables[i], schema.fill_bits(i));
    let dtype = variable.dtype;
    let mut only = None;
    let treatment = if !dtype.is_float() || config.is_kept_exact(variable, is_coordinate) {
        Treatment::Exact
    } else {
        let bound = config.bound_of(variable.name());
        // `missing_value` without `_FillValue`: what was never written has a value of its own, and so do values that are missing.
        let unwritten = schema.unwritten_bits(i).filter(|&u| fill != Some(u));
        let mut stats = None;
        let mut has_unwritten = false;
        if bound.needs_statistics() || unwritten.is_some() {
            let mut all = Stats::default();
            for t in 0..tiling.count() {
                let values = time(Stage::Read, || source.read(i, &tiling.region(t)))?;
                all = all.merged(statistics_of(&values, fill));
                has_unwritten |= unwritten.is_some_and(|u| has_bits(&values, u));
                only = (tiling.count() == 1).then_some(values);
            }
            stats = Some(all);
        }
        let treatment = plan_treatment(bound, stats, dtype, fill)?;
        // As for variables that name several values: a plan has room for one.
        if has_unwritten { Treatment::Exact } else { treatment }
    };
    Ok((Plan { variable: i as u32, treatment, tiling, forecast: None }, only))
}

/// Plans a variable in these tiles.
#[cfg(feature = "forecast")]
pub(crate) fn plan_of(source: &mut dyn Source, variable: usize, tiling: Tiling, config: &Config) -> Result<Plan> {
    let is_coordinate = source.schema().coordinates()[variable];
    Ok(plan_variable(source, variable, is_coordinate, tiling, config)?.0)
}

/// Runs of a variable, or boxes of several steps where steps are more alike than levels.
pub(crate) fn tiling_of(source: &mut dyn Source, i: usize, config: &Config) -> Result<Tiling> {
    let v = &source.schema().variables[i];
    let most = config.max_tile_values(v.dtype, &v.shape);
    let runs = Tiling::new(&v.shape, most);
    let Some(boxes) = Tiling::in_steps(&v.shape, most).filter(|_| v.dtype.is_float()) else { return Ok(runs) };
    // Chunks of the file that reach across many boxes would be read as many times.
    let axis = boxes.axis as usize;
    if v.chunks.as_ref().and_then(|c| c.get(axis)).is_some_and(|&n| n > boxes.len) {
        return Ok(runs);
    }
    let fill = source.schema().fill_bits(i);
    let region = similarity::sample(&boxes.shape);
    let values = source.read(i, &region)?;
    Ok(if similarity::steps_are_closer(&values, fill) { boxes } else { runs })
}

/// Tiles of a variable of text: by a first reading, so that no tile has more bytes than a reader takes.
fn text_tiling(source: &mut dyn Source, variable: usize, config: &Config) -> Result<Tiling> {
    let shape = source.schema().variables[variable].shape.clone();
    let mut most = config.max_tile_values(crate::DType::Text, &shape).min(limits::MAX_TILE_TEXTS);
    loop {
        let tiling = Tiling::new(&shape, most);
        let mut cut = None;
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            let n = tile::region_len(&region);
            let bytes = exact::text_bytes(&source.read(variable, &region)?);
            if n > 1 && bytes > exact::TILE_TEXT_BYTES {
                cut = Some((n / bytes.div_ceil(exact::TILE_TEXT_BYTES)).clamp(1, n - 1));
                break;
            }
        }
        match cut {
            Some(fewer) => most = fewer,
            None => return Ok(tiling),
        }
    }
}

/// What a bound means for a variable. `stats` must be there if the bound needs them.
pub fn plan_treatment(bound: Bound, stats: Option<Stats>, dtype: crate::DType, fill: Option<u64>) -> Result<Treatment> {
    let resolved = bound.resolve(&stats.unwrap_or_default(), dtype)?;
    Ok(match resolved {
        Resolved::Exact => Treatment::Exact,
        resolved => {
            let stats = stats.filter(|_| bound.needs_statistics());
            Treatment::Lossy { asked: bound, resolved, fill, stats }
        }
    })
}

pub(crate) fn statistics_of(values: &Values, fill: Option<u64>) -> Stats {
    match values {
        Values::F32(v) => statistics(v, fill.map(f32_of)),
        Values::F64(v) => statistics(v, fill.map(f64::from_bits)),
        _ => Stats::default(),
    }
}

/// Whether any of the values has these bits.
pub(crate) fn has_bits(values: &Values, bits: u64) -> bool {
    match values {
        Values::F32(v) => v.par_chunks(BLOCK).any(|block| block.iter().any(|x| u64::from(x.to_bits()) == bits)),
        Values::F64(v) => v.par_chunks(BLOCK).any(|block| block.iter().any(|x| x.to_bits() == bits)),
        _ => false,
    }
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Values that a task of a scan looks at.
const BLOCK: usize = 1 << 15;

/// Statistics of the values (f32 or f64) that are not special.
pub fn statistics<T: Rows>(values: &[T], fill: Option<T>) -> Stats {
    let of_block = |values: &[T]| {
        let (min, max, any_special) = T::scan(values, fill);
        if !any_special {
            return Stats { min: min.to_f64(), max: max.to_f64(), n: values.len() as u64 };
        }
        values
            .iter()
            .filter(|&&v| !is_special(v, fill))
            .fold(Stats::default(), |s, v| s.merged(Stats { min: v.to_f64(), max: v.to_f64(), n: 1 }))
    };
    values.par_chunks(BLOCK).map(of_block).reduce(Stats::default, Stats::merged)
}

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
    let Treatment::Lossy { resolved, fill, .. } = treatment else {
        return Ok(store_exactly(values));
    };
    // Inside the pool, so that each parallel step starts at once.
    awake::scope(|| {
        if matches!(resolved, Resolved::Exact) {
            return Ok(store_exactly(values));
        }
        let tile = Tile { values, shape: tile::coding_shape(region), fill: fill.map(T::from_bits), config };
        let coded = tile.in_the_cheaper_way(|way| match *resolved {
            Resolved::Exact => Ok(None),
            Resolved::Absolute(bound) => tile.direct(way, bound, resolved),
            Resolved::PointWise(relative) => tile.logarithmic(way, relative, resolved),
            Resolved::MeanSquare { absolute, max_mse } => tile.mean_square(way, absolute, max_mse),
        })?;
        Ok(match coded {
            Some(coded) if saves_enough(coded.len(), std::mem::size_of_val(values)) => coded,
            // With this effort nobody looks whether another way of storing them exactly were smaller yet.
            Some(coded) if config.packing() == Packing::Plain => smaller_or_as_they_are(coded, values),
            coded => smaller_or_exact(coded, values),
        })
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
pub(crate) fn is_small(n: usize, shape: &[usize], codes: usize, plan: usize) -> bool {
    let n_images = n / shape.iter().rev().take(2).product::<usize>().max(1);
    let few_bits = codes * 32 < n;
    // Of what is mostly noise fits leave as much as interpolation.
    let many_bits = codes * 2 > n;
    n < LITTLE || n < 2 * LITTLE && many_bits || few_bits && n_images > 1 || plan * 4 > codes
}

/// A tile on its way to bytes.
pub(crate) struct Tile<'a, T> {
    pub values: &'a [T],
    pub shape: Vec<usize>,
    pub fill: Option<T>,
    pub config: &'a Config,
}

/// A tile's values as codes, with all that a decoder needs to read them.
struct Encoded<T> {
    base: T,
    quantizer: Quantizer<T>,
    method: Method<T>,
    /// Coded codes.
    bytes: Vec<u8>,
    /// Values that codes miss.
    outliers: Outliers,
}

impl<T: Rows> Tile<'_, T> {
    /// Whether the fitted predictor or the others, where it may be the others.
    fn in_the_cheaper_way(&self, code: impl Fn(Way) -> Result<Option<Outcome>> + Sync) -> Result<Option<Vec<u8>>> {
        let bytes = |outcome: Option<Outcome>| outcome.map(|o| o.bytes);
        let Some(budget) = budget(self.config, &self.shape) else { return code(Way::Huffman).map(bytes) };
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
            return Ok(bytes(fitted));
        }
        let (fitted, other) = (bytes(fitted), bytes(other.unwrap_or_else(|| code(Way::Huffman))?));
        let is_smaller = |other: &Vec<u8>| fitted.as_ref().is_some_and(|f| other.len() < f.len());
        Ok(other.filter(is_smaller).or(fitted))
    }

    /// Codes within an absolute bound; `None` if codes make no sense for these values.
    fn direct(&self, way: Way, bound: f64, resolved: &Resolved) -> Result<Option<Outcome>> {
        // 1. Set special values apart.
        let stats = statistics(self.values, self.fill);
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
        Ok(Some(encoded.outcome(self.to_bytes(method::DIRECT, &encoded, found.as_ref()))))
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
        let tile = Tile { values: &logs, shape: self.shape.clone(), fill: None, config: self.config };
        let Some(mut encoded) = tile.encode(way, &logs, found.as_ref(), &stats, bound) else { return Ok(None) };
        encoded.outliers = Outliers::default();
        let decoded_logs = tile.decode_codes(&encoded, found.as_ref())?;
        let packing = self.config.packing();
        let signs = log::signs_to_bytes(self.values, packing);
        let mut decoded: Vec<T> = decoded_logs.iter().map(|&y| log::inverse(y)).collect();
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
        let specials = found.map(|f| f.specials.to_bytes_in(packing)).unwrap_or_default();
        let bytes = encoded.to_bytes(method::LOG, &specials, &signs, &outliers.to_bytes_in::<T>(packing));
        Ok(Some(encoded.outcome(bytes)))
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
            None => huffman::cpu::encode(&codes, self.config.packing()),
            Some(marks) => {
                let marks = predictor.in_coding_order(marks, &self.shape);
                let kept: Vec<i32> = codes.iter().zip(marks).filter(|(_, m)| !m).map(|(&c, _)| c).collect();
                huffman::cpu::encode(&kept, self.config.packing())
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
        let mut pairs: Vec<(u32, u64)> =
            outliers.positions.iter().copied().zip(outliers.bits.iter().copied()).collect();
        let known = pairs.len();
        for (i, pair) in self.values.iter().zip(decoded).enumerate() {
            if collides(pair) && outliers.positions.binary_search(&(i as u32)).is_err() {
                pairs.push((i as u32, pair.0.to_bits()));
            }
        }
        if pairs.len() > known {
            *outliers = Outliers::from_unsorted(pairs);
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

    fn to_bytes(&self, method: u8, encoded: &Encoded<T>, found: Option<&Found>) -> Vec<u8> {
        let mut outliers = encoded.outliers.clone();
        if let Some(found) = found {
            outliers = Outliers::merged(&outliers, Some(&found.outliers));
        }
        let packing = self.config.packing();
        let specials = found.map(|f| f.specials.to_bytes_in(packing)).unwrap_or_default();
        encoded.to_bytes(method, &specials, &[], &outliers.to_bytes_in::<T>(packing))
    }
}

impl<T: Rows> Encoded<T> {
    /// With the `bytes` of the tile.
    fn outcome(&self, bytes: Vec<u8>) -> Outcome {
        Outcome { bytes, codes: self.bytes.len(), plan: self.method.plan_bytes() }
    }

    /// Method, base, step, predictor, lists of values stored apart, codes. Layout in `container/format.md`.
    fn to_bytes(&self, method: u8, specials: &[u8], signs: &[u8], outliers: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + specials.len() + signs.len() + outliers.len() + 64);
        out.push(method);
        out.extend_from_slice(&self.base.to_bits().to_le_bytes()[..T::BYTES]);
        out.extend_from_slice(&self.quantizer.step.to_bits().to_le_bytes()[..T::BYTES]);
        match &self.method {
            Method::Huffman(predictor) => {
                out.push(predictor.id());
                predictor.write(&mut out);
            }
            Method::Contexts(plan) => {
                out.push(FITTED);
                plan.write(&mut out);
            }
        }
        bytes::put_bytes(&mut out, specials);
        if method == method::LOG {
            bytes::put_bytes(&mut out, signs);
        }
        bytes::put_bytes(&mut out, outliers);
        out.extend_from_slice(&self.bytes);
        out
    }
}

/// A tile of codes of type `C` for values of type `T` in which nothing is behind zstd, packed as [`compress_tile`] would have.
///
/// # Errors
/// `Corrupt` if it is no such tile.
#[cfg(feature = "cuda")]
pub(crate) fn pack_tile<C: Rows, T: Rows>(plain: &[u8], shape: &[usize], n: usize) -> Result<Vec<u8>> {
    let mut reader = Reader::new(plain);
    let method = reader.byte()?;
    let parts = crate::decompress::Parts::<C, T>::read(reader, method == method::LOG, shape, n)?;
    let mut signs = Vec::new();
    if !parts.signs.is_empty() {
        bytes::put_packed(&mut signs, &Reader::new(parts.signs).packed(2 * n + 16)?);
    }
    let crate::decompress::Head { base, quantizer, method: by, specials } = parts.head;
    // Streams in contexts are never packed.
    let codes = match &by {
        Method::Huffman(_) => huffman::cpu::pack_section(parts.codes, n - specials.len())?,
        Method::Contexts(_) => parts.codes.to_vec(),
    };
    let encoded = Encoded { base, quantizer, method: by, bytes: codes, outliers: Outliers::default() };
    Ok(encoded.to_bytes(method, &specials.to_bytes(), &signs, &parts.outliers.to_bytes::<T>()))
}

/// A working copy with NaN in marked places.
pub(crate) fn mark<T: Rows>(values: &[T], marks: &[bool]) -> Vec<T> {
    values.iter().zip(marks).map(|(&v, &m)| if m { T::NAN } else { v }).collect()
}
