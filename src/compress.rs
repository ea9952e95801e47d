//! From values to an archive, told in order. [`mod@crate::decompress`] tells it backwards.
//!
//! [`compress`] takes a field in memory, [`compress_source`] a file of many variables. Both cut variables into tiles and call
//! [`compress_tile`] for each, which is the pipeline itself (`compress/pipeline.rs`): special values, quantizer, predictor, codes, check,
//! bytes.

use crate::config::Config;
use crate::container::Writer;
use crate::device::{Coder, Cpu, Uncoded};
use crate::error::{Context, Error, Result};
use crate::field::{Field, Float};
use crate::io::{Format, Schema, Source};
use crate::plan::Plan;
use crate::predict::fitted::Rows;
use crate::spool::Spool;
use crate::stages::{Stage, time};
use crate::tile::{self, Tiling};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;

mod flight;
mod pipeline;
mod plan;
mod scan;

use flight::Flight;
use pipeline::compress_only_tile;
pub use pipeline::compress_tile;
pub(crate) use pipeline::store_as_it_is;
#[cfg(feature = "forecast")]
pub(crate) use pipeline::{Tile, bins};
#[cfg(feature = "cuda")]
pub(crate) use pipeline::{budget, saves_enough, smaller_or_exact, store_exactly};
#[cfg(feature = "forecast")]
pub(crate) use plan::plan_of;
pub use plan::plan_treatment;
pub(crate) use plan::tiling_of;
use plan::{plan_variable, text_tiling};
#[cfg(feature = "forecast")]
pub(crate) use scan::mark;
pub use scan::statistics;
pub(crate) use scan::{has_bits, statistics_of};

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
    /// The same behind the latents of the tile's steps, which the forecasts of all variables of the group are made of.
    pub const WITH_LATENTS: u8 = 4;

    /// Whether only a model can restore a coded tile.
    pub fn needs_model(coded: &[u8]) -> bool {
        matches!(coded.first(), Some(&(BESIDE_FORECASTS | WITH_LATENTS)))
    }
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
    let tiling = Tiling::new(&shape, config.max_tile_values(T::DTYPE, &shape));
    let treat = |stats| plan_treatment(bound, Some(stats), T::DTYPE, field.fill().map(Float::to_bits));
    // The bound may be up to the range of all values, which is a pass over them: that of the only tile belongs to the work on it.
    let (treatment, only) = if tiling.count() == 1 {
        let (treatment, coded) = compress_only_tile(field.values(), field.fill(), &tiling.region(0), treat, config)?;
        (treatment, Some(coded))
    } else {
        (treat(statistics(field.values(), field.fill()))?, None)
    };
    let plan = Plan { variable: 0, treatment, tiling, forecast: None };
    let mut writer = Writer::new(out, &schema)?;
    writer.begin(&plan)?;
    if let Some(coded) = only {
        writer.tile(&coded)?;
        return writer.finish();
    }
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
