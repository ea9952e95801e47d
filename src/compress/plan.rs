//! What is decided of a variable before its first tile: its tiles, and what its bound means.

use super::scan::{has_bits, statistics_of};
use crate::bound::{Bound, Resolved, Stats};
use crate::config::Config;
use crate::container::limits;
use crate::encode::exact;
use crate::error::Result;
use crate::field::Values;
use crate::io::Source;
use crate::plan::{Plan, Treatment};
use crate::similarity;
use crate::stages::{Stage, time};
use crate::tile::{self, Tiling};

/// Plans a variable. Gives its values too, if it read them for that and they are one tile.
pub(super) fn plan_variable(
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
pub(super) fn text_tiling(source: &mut dyn Source, variable: usize, config: &Config) -> Result<Tiling> {
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
