//! From an archive to values: [`mod@crate::compress`] told backwards.

use crate::config::DEFAULT_TILE_BYTES;
use crate::container::{self, Archive};
use crate::encode::bytes::Reader;
use crate::encode::{exact, huffman};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Float, Values};
use crate::io::Sink;
use crate::plan::Treatment;
use crate::predict::fitted::Rows;
use crate::predict::{self, Method, fitted};
use crate::quantize::Quantizer;
use crate::quantize::log;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;
use crate::scratch::Buffer;
use crate::stages::{Stage, time};
use crate::{compress::Progress, compress::method, tile};
use rayon::prelude::*;
use std::io::{Cursor, Read, Seek};
use std::ops::Range;

/// Restores the first variable of an archive in memory, of f32 or f64, with its shape. The inverse of [`crate::compress`](crate::compress()).
///
/// # Errors
/// `Corrupt` if the archive is damaged, `Unsupported` if a later version wrote it, `Usage` if its values are not of type `T`.
pub fn decompress<T: Float>(archive: &[u8]) -> Result<(Vec<T>, Vec<usize>)> {
    let mut archive = Archive::open(Cursor::new(archive))?;
    let values = archive.read_all(0)?;
    let shape = archive.variable(0)?.plan.tiling.shape.iter().map(|&n| n as usize).collect();
    T::into_vec(values)
        .map(|v| (v, shape))
        .map_err(|other| Error::usage(format!("the archive holds {}, not {}", other.dtype(), T::DTYPE)))
}

/// Restores `variables` (indices into the archive's schema, each with the box wanted) into `sink`, tile by tile.
///
/// # Errors
/// As [`Archive::tile`], `Usage` if there is no such variable or box, and whatever the sink reports; messages name the variable.
pub fn decompress_to<R: Read + Seek>(
    archive: &mut Archive<R>,
    variables: &[(usize, Vec<Range<u64>>)],
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    // All tiles in order, and of which variable of the sink they are.
    let mut wanted = vec![];
    let mut sizes = vec![];
    for (out, (variable, region)) in variables.iter().enumerate() {
        let v = archive.schema().variables.get(*variable).ok_or_else(|| Error::usage("no such variable"))?;
        let place = || format!("variable {:?}", v.name());
        let stored = archive.variable(*variable).context(place)?;
        let tiling = &stored.plan.tiling;
        tiling.check_box(region).context(place)?;
        let tiles = tiling.touching(stored.n_tiles(), region).map(|t| (out, t));
        wanted.extend(tiles.inspect(|&(_, t)| sizes.push(tile::decoded_bytes(v.dtype, &tiling.region(t)))));
    }
    for batch in tile::batches(sizes, DEFAULT_TILE_BYTES) {
        let wanted = &wanted[batch];
        let tiles: Vec<(usize, u64)> = wanted.iter().map(|&(out, t)| (variables[out].0, t)).collect();
        for (&(out, _), tile) in wanted.iter().zip(archive.tiles(&tiles)) {
            let (variable, region) = &variables[out];
            let name = archive.schema().variables[*variable].name().to_string();
            let place = || format!("variable {name:?}");
            let (have, values) = tile.context(place)?;
            let part = tile::overlap(&have, region);
            let values = if part == have { values } else { container::cut(&values, &have, &part).context(place)? };
            let place_in_sink: Vec<Range<u64>> =
                part.iter().zip(region).map(|(p, w)| p.start - w.start..p.end - w.start).collect();
            time(Stage::Write, || sink.write(out, &place_in_sink, &values)).context(place)?;
            let bytes = tile::region_len(&part) * values.dtype().size() as u64;
            progress(Progress { variable: &name, bytes });
        }
    }
    Ok(())
}

/// Restores one tile: the box `region` of a variable of type `dtype`.
///
/// # Errors
/// `Corrupt` if the bytes are damaged, `Unsupported` if they need a later version.
pub fn decompress_tile(coded: &[u8], dtype: DType, treatment: &Treatment, region: &[Range<u64>]) -> Result<Values> {
    let decode = || decode_tile(coded, dtype, treatment, region);
    // Exact values are one thread's work.
    if coded.first() == Some(&method::EXACT) { decode() } else { crate::awake::scope(decode) }
}

/// As [`decompress_tile`], within the work on a tile.
pub(crate) fn decode_tile(coded: &[u8], dtype: DType, treatment: &Treatment, region: &[Range<u64>]) -> Result<Values> {
    let n = tile::region_len(region) as usize;
    if n == 0 {
        // No writer makes such a tile, and predictors count on a value.
        return Ok(Values::zeros(dtype, 0));
    }
    let mut reader = Reader::new(coded);
    let method = reader.byte()?;
    if method == method::EXACT {
        return exact::decode(reader.rest(), dtype, n);
    }
    if !matches!(treatment, Treatment::Lossy { .. }) {
        return Err(Error::corrupt("exact variable with a lossy tile"));
    }
    if method::needs_model(coded) {
        return Err(Error::usage(
            "made beside a model's forecasts: only an archive opened with its weights can restore it",
        ));
    }
    let shape = tile::coding_shape(region);
    match (method, dtype) {
        (method::DIRECT, DType::F32) => direct::<f32>(reader, &shape, n).map(Values::F32),
        (method::DIRECT, DType::F64) => direct::<f64>(reader, &shape, n).map(Values::F64),
        (method::LOG, DType::F32) => logarithmic::<f32>(reader, &shape, n).map(Values::F32),
        (method::LOG, DType::F64) => logarithmic::<f64>(reader, &shape, n).map(Values::F64),
        _ => Err(unknown_method(method, dtype)),
    }
}

/// Codes of the values themselves.
fn direct<T: Rows>(reader: Reader<'_>, shape: &[usize], n: usize) -> Result<Vec<T>> {
    let parts = Parts::<T, T>::read(reader, false, shape, n)?;
    let mut values = parts.head.decode(parts.codes, shape, n)?;
    // What was stored apart comes last: no prediction depends on it.
    parts.head.specials.apply(&mut values);
    parts.outliers.apply(&mut values);
    Ok(values)
}

/// Codes of logarithms.
fn logarithmic<T: Rows>(reader: Reader<'_>, shape: &[usize], n: usize) -> Result<Vec<T>> {
    let parts = Parts::<f64, T>::read(reader, true, shape, n)?;
    let logs = parts.head.decode(parts.codes, shape, n)?;
    let mut values: Vec<T> = logs.par_iter().with_min_len(1 << 12).map(|&y| log::inverse(y)).collect();
    log::apply_signs(parts.signs, &mut values)?;
    parts.head.specials.apply(&mut values);
    parts.outliers.apply(&mut values);
    Ok(values)
}

/// A coded tile taken apart: codes of type `C` (values or logarithms) for values of type `T`.
pub(crate) struct Parts<'a, C, T> {
    pub head: Head<C>,
    pub signs: &'a [u8],
    pub outliers: Outliers,
    pub codes: &'a [u8],
    bytes: TileBytes,
    values: std::marker::PhantomData<T>,
}

impl<'a, C: Rows, T: Rows> Parts<'a, C, T> {
    pub fn read(mut reader: Reader<'a>, with_signs: bool, shape: &[usize], n: usize) -> Result<Self> {
        // The method was read before.
        let total = reader.rest().len() + 1;
        let (head, specials_len) = Head::<C>::read(&mut reader, shape)?;
        let signs = if with_signs { reader.bytes()? } else { &[] };
        let listed = reader.bytes()?;
        let outliers = Outliers::from_bytes::<T>(listed, n)?;
        let codes = reader.rest();
        let mut bytes = TileBytes {
            head: 0,
            specials: specials_len,
            signs: signs.len(),
            outliers: listed.len(),
            codes: codes.len(),
            latents: 0,
        };
        bytes.head = total - bytes.total();
        Ok(Self { head, signs, outliers, codes, bytes, values: std::marker::PhantomData })
    }
}

/// What a tile starts with.
pub(crate) struct Head<T> {
    pub base: T,
    pub quantizer: Quantizer<T>,
    pub method: Method<T>,
    pub specials: Specials,
}

/// That codes count from a number, in steps.
///
/// # Errors
/// `Corrupt`: what comes of other numbers depends on the machine.
pub(crate) fn check_bins<T: Rows>(base: T, step: T) -> Result<()> {
    let is_sound = base.to_f64().is_finite() && step.to_f64().is_finite() && step.to_f64() > 0.0;
    if is_sound { Ok(()) } else { Err(Error::corrupt("bins that are none")) }
}

impl<T: Rows> Head<T> {
    /// Also gives the bytes that the list of special values takes.
    fn read(reader: &mut Reader<'_>, shape: &[usize]) -> Result<(Self, usize)> {
        let mut float = || {
            let mut bits = [0; 8];
            bits[..T::BYTES].copy_from_slice(reader.take(T::BYTES)?);
            Ok::<T, Error>(T::from_bits(u64::from_le_bytes(bits)))
        };
        let (base, step) = (float()?, float()?);
        check_bins(base, step)?;
        let method = predict::read(reader, shape)?;
        let listed = reader.bytes()?;
        let specials = Specials::from_bytes(listed, shape)?;
        // The decoder needs the step only; what the bound was, the check of a reader knows.
        Ok((Self { base, quantizer: Quantizer::with_step(0.0, step), method, specials }, listed.len()))
    }

    fn decode(&self, coded: &[u8], shape: &[usize], n: usize) -> Result<Vec<T>> {
        decode_codes(&self.method, coded, &self.specials, shape, self.base, &self.quantizer, n)
    }
}

/// Coded codes to values, but for those stored apart.
pub(crate) fn decode_codes<T: Rows>(
    method: &Method<T>,
    coded: &[u8],
    specials: &Specials,
    shape: &[usize],
    base: T,
    quantizer: &Quantizer<T>,
    n: usize,
) -> Result<Vec<T>> {
    let marks = (!specials.is_empty()).then(|| specials.marks(n));
    let predictor = match method {
        Method::Contexts(plan) => {
            let decode = || fitted::decode::decode(plan, coded, marks.as_deref(), shape, base, quantizer);
            return time(Stage::Restore, decode);
        }
        Method::Huffman(predictor) => predictor,
    };
    let mut begun = None;
    let codes = time(Stage::Decode, || match marks {
        None => huffman::cpu::decode_with(coded, n, |first| begun = predictor.begin(first, shape, base, quantizer)),
        Some(marks) => {
            let kept = huffman::cpu::decode(coded, n - specials.len())?;
            let marks = predictor.in_coding_order(&marks, shape);
            let mut kept = kept.iter();
            let mut codes = Buffer::new(n);
            for (code, special) in codes.iter_mut().zip(marks) {
                *code = if special { 0 } else { kept.next().copied().unwrap_or(0) };
            }
            Ok(codes)
        }
    })?;
    Ok(time(Stage::Restore, || predictor.finish(begun, &codes, shape, base, quantizer)))
}

/// What a coded tile consists of, for `inspect`.
#[derive(Clone, Debug, PartialEq)]
pub struct TileReport {
    /// `exact`, `direct` (codes of values) or `log` (codes of logarithms).
    pub method: &'static str,
    /// The predictor with its decisions in a word or two; empty for exact tiles.
    pub predictor: String,
    /// The value that codes count from; 0 for exact tiles.
    pub base: f64,
    /// Width of a bin; 0 for exact tiles.
    pub step: f64,
    /// Values in the tile.
    pub n_values: u64,
    /// Values stored in runs: NaN, fill values and the like.
    pub n_special: u64,
    /// Values stored one by one because no code brings them back.
    pub n_outliers: u64,
    /// Where the bytes go.
    pub bytes: TileBytes,
}

/// Bytes of a coded tile by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileBytes {
    /// Method, base, step, predictor, lengths.
    pub head: usize,
    /// Runs of special values.
    pub specials: usize,
    /// Signs, where logarithms are coded.
    pub signs: usize,
    /// Values stored one by one.
    pub outliers: usize,
    /// Huffman books and streams; all values of exact tiles.
    pub codes: usize,
    /// What a model's codec of frames makes its forecasts of, for all variables of the group.
    pub latents: usize,
}

impl TileBytes {
    /// All together.
    pub fn total(&self) -> usize {
        self.head + self.specials + self.signs + self.outliers + self.codes + self.latents
    }
}

/// Takes a coded tile apart without decoding its values.
///
/// # Errors
/// As [`decompress_tile`].
pub fn inspect_tile(coded: &[u8], dtype: DType, region: &[Range<u64>]) -> Result<TileReport> {
    let n = tile::region_len(region) as usize;
    let mut reader = Reader::new(coded);
    let method = reader.byte()?;
    if method == method::EXACT {
        let bytes = TileBytes { head: 1, codes: reader.rest().len(), ..TileBytes::default() };
        return Ok(TileReport {
            method: "exact",
            predictor: String::new(),
            base: 0.0,
            step: 0.0,
            n_values: n as u64,
            n_special: 0,
            n_outliers: 0,
            bytes,
        });
    }
    if method::needs_model(coded) {
        return inspect_beside_forecasts(coded, dtype, region);
    }
    let shape = tile::coding_shape(region);
    match (method, dtype) {
        (method::DIRECT, DType::F32) => Ok(Parts::<f32, f32>::read(reader, false, &shape, n)?.report("direct", n)),
        (method::DIRECT, DType::F64) => Ok(Parts::<f64, f64>::read(reader, false, &shape, n)?.report("direct", n)),
        (method::LOG, DType::F32) => Ok(Parts::<f64, f32>::read(reader, true, &shape, n)?.report("log", n)),
        (method::LOG, DType::F64) => Ok(Parts::<f64, f64>::read(reader, true, &shape, n)?.report("log", n)),
        _ => Err(unknown_method(method, dtype)),
    }
}

#[cfg(feature = "forecast")]
fn inspect_beside_forecasts(coded: &[u8], dtype: DType, region: &[Range<u64>]) -> Result<TileReport> {
    match dtype {
        DType::F32 => crate::forecast::series::report::<f32>(coded, region),
        DType::F64 => crate::forecast::series::report::<f64>(coded, region),
        _ => Err(unknown_method(method::BESIDE_FORECASTS, dtype)),
    }
}

#[cfg(not(feature = "forecast"))]
fn inspect_beside_forecasts(_: &[u8], _: DType, _: &[Range<u64>]) -> Result<TileReport> {
    Err(Error::unsupported("made beside a model's forecasts, which this build can not run"))
}

pub(crate) fn unknown_method(method: u8, dtype: DType) -> Error {
    Error::unsupported(format!("tile method {method} of {dtype}; a newer residuum may read it"))
}

impl<C: Rows, T: Rows> Parts<'_, C, T> {
    fn report(&self, method: &'static str, n: usize) -> TileReport {
        TileReport {
            method,
            predictor: self.head.method.describe(),
            base: self.head.base.to_f64(),
            step: self.head.quantizer.step.to_f64(),
            n_values: n as u64,
            n_special: self.head.specials.len() as u64,
            n_outliers: self.outliers.positions.len() as u64,
            bytes: self.bytes,
        }
    }
}
