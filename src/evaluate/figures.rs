//! All figures of quality and structure of a restored variable.

use super::extract::{BLOCK_VALUES, Field};
use super::maps::Maps;
use super::metrics::Metrics;
use super::spectrum::{self, Spectrum};
use super::ssim::ssim;
use super::structure::{BANDS, Bits, Structure};
use crate::bound::{Bound, Resolved};
use crate::codes::{TileCodes, tile_codes};
use crate::compress::compress_tile;
use crate::config::{Config, Effort, PredictorChoice};
use crate::container::{Archive, copy_values};
use crate::error::{Error, Result};
use crate::field::{Float, Values};
use crate::io::Source;
use crate::plan::Treatment;
use crate::tile::{Tiling, region_len};
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;

/// Images whose structure is measured.
const MAX_IMAGES: u64 = 32;
/// Rows and columns of an image that are looked at: of larger ones, the middle.
const MAX_SIDE: u64 = 2048;
/// Bins of the error, to a side of the bound.
const ERROR_BINS: f64 = 8.0;

/// A variable as a file has it.
pub struct Place<'a> {
    /// The file.
    pub source: &'a mut dyn Source,
    /// Index of the variable.
    pub index: usize,
}

impl Place<'_> {
    fn read(&mut self, region: &[Range<u64>]) -> Result<Values> {
        self.source.read(self.index, region)
    }
}

/// The codes of a variable.
pub struct Codes {
    from: From,
    /// The tile looked at last.
    tile: Option<(u64, Option<TileCodes>)>,
}

/// Where codes come from.
enum From {
    /// A variable of an archive of ours.
    Archive(Box<Archive<BufReader<File>>>, usize),
    /// Restored values, whose compressor does not show its codes.
    Replay { source: Box<dyn Source>, tiling: Tiling, treatment: Treatment },
}

impl Codes {
    /// Of a variable in an archive.
    pub fn of_archive(archive: Archive<BufReader<File>>, variable: usize) -> Self {
        Self { from: From::Archive(Box::new(archive), variable), tile: None }
    }

    /// Of a compressor that predicts by multi-level interpolation as SZ3 does: its restored values go through our interpolation with the same
    /// bins. Where both choose the same formulas, that gives its very codes; else codes much like them.
    pub fn replayed(source: Box<dyn Source>, field: &Field, resolved: &Resolved) -> Self {
        let tiling = Tiling::new(&field.shape, (32 << 20) / field.dtype.size() as u64);
        let asked = Bound::abs(absolute(resolved).unwrap_or(0.0));
        let treatment = Treatment::Lossy { asked, resolved: *resolved, fill: field.fill, stats: None };
        Self { from: From::Replay { source, tiling, treatment }, tile: None }
    }

    /// What they are.
    fn name(&self) -> &'static str {
        match self.from {
            From::Archive(..) => "codes",
            From::Replay { .. } => "codes, replayed",
        }
    }

    /// How they are cut into tiles.
    fn tiling(&self) -> Result<(Tiling, u64)> {
        match &self.from {
            From::Archive(archive, variable) => {
                let stored = archive.variable(*variable)?;
                Ok((stored.plan.tiling.clone(), stored.n_tiles()))
            }
            From::Replay { tiling, .. } => Ok((tiling.clone(), tiling.count())),
        }
    }

    fn decode(&mut self, t: u64) -> Result<Option<TileCodes>> {
        match &mut self.from {
            From::Archive(archive, variable) => archive.codes(*variable, t),
            From::Replay { source, tiling, treatment } => {
                let region = tiling.region(t);
                let config =
                    Config::new(Bound::LOSSLESS).with_effort(Effort::Fast).with_predictor(PredictorChoice::Interp);
                let config = config.with_verify(false);
                let values = source.read(0, &region)?;
                let coded = match &values {
                    Values::F32(v) => compress_tile(v, &region, treatment, &config)?,
                    Values::F64(v) => compress_tile(v, &region, treatment, &config)?,
                    other => return Err(Error::usage(format!("{} values", other.dtype()))),
                };
                tile_codes(&coded, values.dtype(), &region)
            }
        }
    }

    /// Codes and their bits in a box; `None` if any of it is stored without.
    fn read(&mut self, region: &[Range<u64>]) -> Result<Option<(Vec<i32>, Vec<f32>)>> {
        let n = region_len(region) as usize;
        let (mut codes, mut bits) = (Values::I32(vec![0; n]), Values::F32(vec![0.0; n]));
        let (tiling, n_tiles) = self.tiling()?;
        for t in tiling.touching(n_tiles, region) {
            if self.tile.as_ref().is_none_or(|known| known.0 != t) {
                self.tile = None;
                self.tile = Some((t, self.decode(t)?));
            }
            let Some((_, Some(tile))) = &mut self.tile else { return Ok(None) };
            let from = tiling.region(t);
            // Lent to the copy, not copied: a tile has millions.
            let lent = Values::I32(std::mem::take(&mut tile.codes));
            let copied = copy_values(&lent, &from, &mut codes, region);
            if let Values::I32(lent) = lent {
                tile.codes = lent;
            }
            copied?;
            let lent = Values::F32(std::mem::take(&mut tile.bits));
            let copied = copy_values(&lent, &from, &mut bits, region);
            if let Values::F32(lent) = lent {
                tile.bits = lent;
            }
            copied?;
        }
        match (codes, bits) {
            (Values::I32(codes), Values::F32(bits)) => Ok(Some((codes, bits))),
            _ => Ok(None),
        }
    }
}

/// The largest error that a bound allows everywhere.
///
/// # Errors
/// `Unsupported` if there is none.
pub fn absolute(resolved: &Resolved) -> Result<f64> {
    match *resolved {
        Resolved::Absolute(a) | Resolved::MeanSquare { absolute: a, .. } => Ok(a),
        Resolved::Exact | Resolved::PointWise(_) => Err(Error::unsupported("this needs a bound that is absolute")),
    }
}

/// Compares `restored` with `original`, which `field` describes; `maps` are filled from one image.
///
/// # Errors
/// `Input` if values of another type came back, else as the sources.
pub fn figures(
    field: &Field,
    resolved: &Resolved,
    mut original: Place<'_>,
    mut restored: Place<'_>,
    mut codes: Option<Codes>,
    maps: Option<&mut Maps>,
) -> Result<Value> {
    let mut figures = everywhere(field, resolved, &mut original, &mut restored)?;
    let width = sides(field).1;
    let bin = error_bin(resolved);
    let mut similarities = vec![];
    let mut spectra = [0; 3].map(|_| Spectrum::new(width));
    let mut codes_spectrum = Spectrum::new(width);
    let (mut of_codes, mut of_error, mut bits) = (Structure::default(), Structure::default(), Bits::default());
    let (mut n_codes, mut n_images) = (0u64, 0u64);
    let chosen: Vec<u64> = images(field).collect();
    let mapped = chosen.get(chosen.len() / 2).copied();
    let mut maps = maps;
    // What a replay takes is not what the compressor took.
    let is_replayed = codes.as_ref().is_some_and(|c| matches!(c.from, From::Replay { .. }));
    for &index in &chosen {
        let region = image(field, index);
        let (x, y) = (field.numbers(&original.read(&region)?), field.numbers(&restored.read(&region)?));
        similarities.extend(ssim(&x, &y, width));
        let error: Vec<f64> = x.iter().zip(&y).map(|(x, y)| y - x).collect();
        for (spectrum, image) in spectra.iter_mut().zip([&x, &y, &error]) {
            for (i, row) in image.chunks(width.max(1)).enumerate() {
                spectrum.add(row, field.weight(i + first_row(field)));
            }
        }
        let bins: Option<Vec<i32>> = bin.map(|scale| error.iter().map(|e| whole(e * scale)).collect());
        let before = before(field, index).map(|b| image(field, b));
        if let Some(bins) = &bins {
            let earlier = match &before {
                Some(region) => {
                    let pair = (field.numbers(&original.read(region)?), field.numbers(&restored.read(region)?));
                    let scale = bin.unwrap_or(0.0);
                    Some(pair.0.iter().zip(&pair.1).map(|(x, y)| whole((y - x) * scale)).collect::<Vec<_>>())
                }
                None => None,
            };
            of_error.add(bins, width, earlier.as_deref());
        }
        n_images += 1;
        let own = codes.as_mut().map(|c| c.read(&region)).transpose()?.flatten();
        if let Some((own, own_bits)) = &own {
            n_codes += 1;
            let earlier = before.as_ref().and_then(|b| codes.as_mut().map(|c| c.read(b))).transpose()?.flatten();
            of_codes.add(own, width, earlier.as_ref().map(|e| &e.0[..]));
            if !is_replayed {
                bits.add(own_bits, width);
            }
            for (i, row) in own.chunks(width.max(1)).enumerate() {
                let row: Vec<f64> = row.iter().map(|&c| f64::from(c)).collect();
                codes_spectrum.add(&row, field.weight(i + first_row(field)));
            }
        }
        if mapped == Some(index)
            && let Some(maps) = maps.as_deref_mut()
        {
            let upside_down = field.latitudes.as_ref().is_some_and(|l| l.first() < l.last());
            let own = own.as_ref().map(|(codes, bits)| (&codes[..], (!is_replayed).then_some(&bits[..])));
            maps.fill(width, upside_down, &x, bins.as_deref(), own);
        }
    }
    let mean = |v: &[f64]| (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64);
    figures["n_images"] = json!(n_images);
    figures["ssim"] = json!(mean(&similarities));
    let [x, y, e] = spectra.map(|s| s.power());
    figures["log_spectral_distance_db"] =
        json!(x.as_ref().zip(y.as_ref()).and_then(|(x, y)| spectrum::log_spectral_distance(x, y)));
    let octaves = |p: &Option<Vec<f64>>| json!(p.as_ref().map(|p| spectrum::octaves(p)));
    // The residual is as large as its codes times the width of a bin, twice the bound or a little less; of a bound that is no
    // number, in bins.
    let bin_width = absolute(resolved).map_or(1.0, |a| 2.0 * a);
    let residual = codes_spectrum.power().map(|p| p.iter().map(|p| p * bin_width * bin_width).collect::<Vec<_>>());
    figures["power_by_octave"] = json!({
        "original": octaves(&x),
        "error": octaves(&e),
        "residual": octaves(&residual),
    });
    figures["error_structure"] =
        if bin.is_some() && n_images > 0 { of_error.to_json("error in eighths of the bound") } else { Value::Null };
    figures["structure"] = if n_codes > 0 && n_codes == n_images {
        of_codes.to_json(codes.as_ref().map_or("codes", Codes::name))
    } else {
        Value::Null
    };
    figures["bits"] = if n_codes > 0 && !is_replayed { bits.to_json() } else { Value::Null };
    figures["band_latitudes"] = json!(band_latitudes(field));
    Ok(figures)
}

/// What is summed up over all values.
fn everywhere(field: &Field, resolved: &Resolved, original: &mut Place<'_>, restored: &mut Place<'_>) -> Result<Value> {
    let tiling = Tiling::new(&field.shape, BLOCK_VALUES);
    let row_len = field.shape.last().copied().unwrap_or(1) as usize;
    let mut metrics = Metrics::default();
    let mut row = 0;
    for t in 0..tiling.count() {
        let region = tiling.region(t);
        // A block of part of a row has no neighbour across its end, which changes the autocorrelation by next to nothing.
        let len = region.last().map_or(1, |r| (r.end - r.start) as usize);
        let weight = |i: usize| field.weight(row + i);
        let fill = field.fill;
        let (x, y) = (original.read(&region)?, restored.read(&region)?);
        match (&x, &y) {
            (Values::F32(x), Values::F32(y)) => metrics.add(x, y, len, resolved, fill.map(Float::from_bits), weight),
            (Values::F64(x), Values::F64(y)) => metrics.add(x, y, len, resolved, fill.map(Float::from_bits), weight),
            _ => return Err(Error::input("values of another type came back")),
        }
        if len == row_len {
            row += x.len() / row_len.max(1);
        }
    }
    let mut figures = metrics.to_json();
    figures["latitude_weighted"] = json!(field.latitudes.is_some());
    figures["bias_over_bound"] = json!(absolute(resolved).ok().zip(figures["bias"].as_f64()).map(|(a, bias)| bias / a));
    Ok(figures)
}

/// What an error is multiplied by to become a number of bins.
fn error_bin(resolved: &Resolved) -> Option<f64> {
    absolute(resolved).ok().filter(|a| *a > 0.0).map(|a| ERROR_BINS / a)
}

/// Saturates; NaN (special values) becomes 0.
fn whole(x: f64) -> i32 {
    x.round_ties_even() as i32
}

/// Rows and columns of the images as they are looked at.
fn sides(field: &Field) -> (usize, usize) {
    let side = |k: usize| field.shape.iter().rev().nth(k).map_or(1, |&n| n.min(MAX_SIDE) as usize);
    (side(1), side(0))
}

/// The first row that is looked at.
fn first_row(field: &Field) -> usize {
    let rows = field.shape.iter().rev().nth(1).copied().unwrap_or(1);
    ((rows - rows.min(MAX_SIDE)) / 2) as usize
}

/// Numbers of at most [`MAX_IMAGES`] images (the last two axes), spread evenly.
fn images(field: &Field) -> impl Iterator<Item = u64> + use<> {
    let n_leading = field.shape.len().saturating_sub(2);
    let n_images: u64 = field.shape[..n_leading].iter().product();
    let n = if field.n_values() == 0 { 0 } else { n_images.min(MAX_IMAGES) };
    (0..n).map(move |k| (u128::from(k) * u128::from(n_images) / u128::from(n)) as u64)
}

/// The same image one step earlier on the first axis.
fn before(field: &Field, index: u64) -> Option<u64> {
    let n_leading = field.shape.len().saturating_sub(2);
    let per_step: u64 = field.shape[..n_leading].iter().skip(1).product();
    (n_leading > 0).then(|| index.checked_sub(per_step)).flatten()
}

/// The box of image `index`.
fn image(field: &Field, index: u64) -> Vec<Range<u64>> {
    let mut rest = index;
    let n_leading = field.shape.len().saturating_sub(2);
    let middle = |&n: &u64| (n - n.min(MAX_SIDE)) / 2..(n - n.min(MAX_SIDE)) / 2 + n.min(MAX_SIDE);
    let mut region: Vec<Range<u64>> = field.shape.iter().map(middle).collect();
    for axis in (0..n_leading).rev() {
        let i = rest % field.shape[axis];
        region[axis] = i..i + 1;
        rest /= field.shape[axis];
    }
    region
}

/// Mean latitudes of the bands of [`Bits`].
fn band_latitudes(field: &Field) -> Option<Vec<f64>> {
    let latitudes = field.latitudes.as_ref()?;
    let (height, _) = sides(field);
    let rows = latitudes.get(first_row(field)..)?.get(..height)?;
    let n = height.min(BANDS);
    let mut sums = vec![(0.0, 0.0); n];
    for (i, latitude) in rows.iter().enumerate() {
        let (sum, count) = &mut sums[i * n / height];
        *sum += latitude;
        *count += 1.0;
    }
    Some(sums.iter().map(|(sum, count)| sum / count).collect())
}
