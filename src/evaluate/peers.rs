//! Peers that are built in: SZ3 and zfp.
//!
//! Values go in slabs of up to 64 MiB with four axes at most, each slab behind its length: neither streams. So memory is that of a slab,
//! several times over, whatever the size of a variable. Both run in one thread. zfp is called in C.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::field::{DType, Values};
use crate::io::{self, Format, OpenOptions, Schema};
use crate::stages::{Stage, time};
use crate::tile::{Tiling, coding_shape};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

/// A peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Interpolation and Lorenzo, whichever its tuning prefers.
    Sz3,
    /// Fixed accuracy.
    Zfp,
}

/// Bytes of a slab.
const SLAB_BYTES: u64 = 64 << 20;

impl std::str::FromStr for Peer {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "sz3" => Ok(Self::Sz3),
            "zfp" => Ok(Self::Zfp),
            _ => Err(Error::usage(format!("no peer is called {text:?}"))),
        }
    }
}

impl Peer {
    /// Compresses a raw file of this shape and type within an absolute bound.
    ///
    /// # Errors
    /// `Io`; what the peer says.
    pub fn compress(self, from: &Path, to: &Path, shape: &[u64], dtype: DType, absolute: f64) -> Result<()> {
        let mut source = io::open(from, &OpenOptions { shape: Some(shape.to_vec()), dtype: Some(dtype) })?;
        let mut out = BufWriter::new(File::create(to)?);
        let tiling = Tiling::new(shape, SLAB_BYTES / dtype.size() as u64);
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            let axes = axes(&region);
            let values = time(Stage::Read, || source.read(0, &region))?;
            let coded = time(Stage::Encode, || match (self, &values) {
                (Self::Sz3, Values::F32(v)) => sz3_compress(v, &axes, absolute),
                (Self::Sz3, Values::F64(v)) => sz3_compress(v, &axes, absolute),
                (Self::Zfp, values) => zfp_compress(values, &axes, absolute),
                (_, other) => Err(Error::usage(format!("{} values", other.dtype()))),
            })?;
            time(Stage::Write, || {
                out.write_all(&(coded.len() as u64).to_le_bytes())?;
                out.write_all(&coded)
            })?;
        }
        Ok(out.flush()?)
    }

    /// The reverse.
    ///
    /// # Errors
    /// As [`Peer::compress`].
    pub fn decompress(self, from: &Path, to: &Path, shape: &[u64], dtype: DType, absolute: f64) -> Result<()> {
        let schema = Schema::single(Format::Raw, "data", dtype, shape);
        let mut input = BufReader::new(File::open(from)?);
        let mut sink = io::create(to, &schema, Format::Raw, true)?;
        let tiling = Tiling::new(shape, SLAB_BYTES / dtype.size() as u64);
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            let coded = time(Stage::Read, || {
                let mut len = [0; 8];
                input.read_exact(&mut len)?;
                let mut coded = vec![0; u64::from_le_bytes(len) as usize];
                input.read_exact(&mut coded).map(|()| coded)
            })?;
            let values = time(Stage::Decode, || match (self, dtype) {
                (Self::Sz3, DType::F32) => sz3_decompress(&coded).map(Values::F32),
                (Self::Sz3, _) => sz3_decompress(&coded).map(Values::F64),
                (Self::Zfp, _) => zfp_decompress(&coded, &axes(&region), dtype, absolute),
            })?;
            time(Stage::Write, || sink.write(0, &region, &values))?;
        }
        sink.finish()
    }
}

/// Axes of a slab, slowest first, four at most.
fn axes(region: &[std::ops::Range<u64>]) -> Vec<usize> {
    let mut axes = coding_shape(region);
    while axes.len() > 4 {
        let slowest = axes.remove(0);
        axes[0] *= slowest;
    }
    axes
}

fn sz3_failed(e: &dyn std::fmt::Display) -> Error {
    Error::input(format!("SZ3: {e}"))
}

fn sz3_compress<T: sz3::SZ3Compressible>(values: &[T], axes: &[usize], absolute: f64) -> Result<Vec<u8>> {
    let mut builder = sz3::DimensionedData::build(&values);
    for &n in axes {
        builder = builder.dim(n).map_err(|e| sz3_failed(&e))?;
    }
    let data = builder.finish().map_err(|e| sz3_failed(&e))?;
    let config = sz3::Config::new(sz3::ErrorBound::Absolute(absolute))
        .compression_algorithm(sz3::CompressionAlgorithm::interpolation_lorenzo());
    sz3::compress_with_config(&data, &config).map_err(|e| sz3_failed(&e))
}

fn sz3_decompress<T: sz3::SZ3Compressible + Clone>(coded: &[u8]) -> Result<Vec<T>> {
    Ok(sz3::decompress::<T, _>(coded).map_err(|e| sz3_failed(&e))?.1.into_data())
}

fn zfp_failed() -> Error {
    Error::input("zfp: failed")
}

/// A zfp stream over `buffer`, and the field that `values` points to, for the time of `work`.
fn with_zfp(
    values: *mut std::ffi::c_void,
    axes: &[usize],
    dtype: DType,
    absolute: f64,
    buffer: &mut Vec<u8>,
    work: impl FnOnce(*mut zfp_sys::zfp_stream, *mut zfp_sys::zfp_field) -> usize,
) -> Result<usize> {
    let kind = if dtype == DType::F32 { zfp_sys::zfp_type_zfp_type_float } else { zfp_sys::zfp_type_zfp_type_double };
    // zfp counts axes from the fastest.
    let n = |k: usize| axes.iter().rev().nth(k).copied().unwrap_or(1);
    // SAFETY: `values` points to as many values of this type as the axes say, `buffer` is as long as zfp says that it may need, both
    // outlive the calls, and what is opened is closed.
    unsafe {
        let field = match axes.len() {
            0 | 1 => zfp_sys::zfp_field_1d(values, kind, n(0)),
            2 => zfp_sys::zfp_field_2d(values, kind, n(0), n(1)),
            3 => zfp_sys::zfp_field_3d(values, kind, n(0), n(1), n(2)),
            _ => zfp_sys::zfp_field_4d(values, kind, n(0), n(1), n(2), n(3)),
        };
        let stream = zfp_sys::zfp_stream_open(std::ptr::null_mut());
        zfp_sys::zfp_stream_set_accuracy(stream, absolute);
        let most = zfp_sys::zfp_stream_maximum_size(stream, field);
        buffer.resize(buffer.len().max(most), 0);
        let bits = zfp_sys::stream_open(buffer.as_mut_ptr().cast(), buffer.len());
        zfp_sys::zfp_stream_set_bit_stream(stream, bits);
        zfp_sys::zfp_stream_rewind(stream);
        let n_bytes = work(stream, field);
        zfp_sys::zfp_field_free(field);
        zfp_sys::zfp_stream_close(stream);
        zfp_sys::stream_close(bits);
        if n_bytes == 0 { Err(zfp_failed()) } else { Ok(n_bytes) }
    }
}

fn zfp_compress(values: &Values, axes: &[usize], absolute: f64) -> Result<Vec<u8>> {
    let pointer = match values {
        Values::F32(v) => v.as_ptr().cast_mut().cast(),
        Values::F64(v) => v.as_ptr().cast_mut().cast(),
        other => return Err(Error::usage(format!("{} values", other.dtype()))),
    };
    let mut buffer = vec![];
    // SAFETY: as above; compression only reads the values.
    let n = with_zfp(pointer, axes, values.dtype(), absolute, &mut buffer, |stream, field| unsafe {
        zfp_sys::zfp_compress(stream, field)
    })?;
    buffer.truncate(n);
    Ok(buffer)
}

fn zfp_decompress(coded: &[u8], axes: &[usize], dtype: DType, absolute: f64) -> Result<Values> {
    let mut values = Values::zeros(dtype, axes.iter().product());
    let pointer = match &mut values {
        Values::F32(v) => v.as_mut_ptr().cast(),
        Values::F64(v) => v.as_mut_ptr().cast(),
        other => return Err(Error::usage(format!("{} values", other.dtype()))),
    };
    let mut buffer = coded.to_vec();
    // SAFETY: as above; there is room for all values.
    with_zfp(pointer, axes, dtype, absolute, &mut buffer, |stream, field| unsafe {
        zfp_sys::zfp_decompress(stream, field)
    })?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_keep_an_absolute_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // Five axes, of which four are left; multiples of 4, as zfp fills up its blocks.
        let shape = [2u64, 2, 4, 40, 52];
        let n = shape.iter().product::<u64>() as usize;
        let smooth = |i: usize| ((i % 52) as f32 * 0.05).sin() * 10.0 + (i / 52 % 40) as f32 * 0.1;
        let values: Vec<f32> = (0..n).map(|i| smooth(i) + (i % 7) as f32 * 0.01).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(path("x"), &bytes).unwrap();
        for peer in [Peer::Sz3, Peer::Zfp] {
            peer.compress(&path("x"), &path("a"), &shape, DType::F32, 0.01).unwrap();
            peer.decompress(&path("a"), &path("y"), &shape, DType::F32, 0.01).unwrap();
            let back = std::fs::read(path("y")).unwrap();
            let back = back.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            let worst = values.iter().zip(back).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max);
            assert!(worst > 0.0 && worst <= 0.01, "{peer:?}: {worst}");
            assert!(std::fs::metadata(path("a")).unwrap().len() < bytes.len() as u64 / 2);
        }
    }
}
