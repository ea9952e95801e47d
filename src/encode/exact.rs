//! Values stored bit for bit: integers, text, coordinates, and fields with a bound of 0.
//!
//! The shorter of pco (numbers of 16 bits and more) and byte planes behind zstd; stored as they are if neither helps.

use super::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::field::{DType, Values};

const STORED: u8 = 0;
const ZSTD: u8 = 1;
const PCO: u8 = 2;

const ZSTD_LEVEL: i32 = 6;
/// pco's default: higher levels gain little.
const PCO_LEVEL: usize = 8;
/// Bytes of a tile of text of any length that a reader takes.
const MAX_TEXT_BYTES: usize = 1 << 28;
/// Bytes of text that a writer puts into a tile, unless one text has more.
pub const TILE_TEXT_BYTES: u64 = 1 << 26;

/// Bytes that texts take before compression; 0 for other values.
pub fn text_bytes(values: &Values) -> u64 {
    /// Of the length in front of each text, at most.
    const LENGTH_BYTES: u64 = 10;
    let Values::Text(texts) = values else { return 0 };
    texts.iter().map(|t| t.len() as u64 + LENGTH_BYTES).sum()
}

/// Refuses text that no reader would take.
///
/// # Errors
/// `Unsupported`.
pub fn check_text(values: &Values) -> Result<()> {
    match text_bytes(values) {
        n if n <= MAX_TEXT_BYTES as u64 => Ok(()),
        n => Err(Error::unsupported(format!(
            "a text of {n} bytes: there can be {MAX_TEXT_BYTES}; leave the variable out (`--exclude NAME`)"
        ))),
    }
}

/// Values to bytes.
pub fn encode(values: &Values) -> Vec<u8> {
    if let Values::Text(texts) = values {
        let mut plain = Vec::new();
        texts.iter().for_each(|t| bytes::put_bytes(&mut plain, t.as_bytes()));
        let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL).unwrap_or_default();
        return with_method(packed, plain, None);
    }
    let size = values.dtype().size();
    let le = little_endian(values);
    let planes: Vec<u8> = (0..size).flat_map(|byte| le.iter().skip(byte).step_by(size).copied()).collect();
    let packed = zstd::bulk::compress(&planes, ZSTD_LEVEL).unwrap_or_default();
    with_method(packed, le, pco(values))
}

/// Values to bytes, as they are.
pub fn as_they_are(values: &Values) -> Vec<u8> {
    [&[STORED][..], &little_endian(values)].concat()
}

fn with_method(zstd: Vec<u8>, plain: Vec<u8>, pco: Option<Vec<u8>>) -> Vec<u8> {
    let mut best = (STORED, plain);
    if !zstd.is_empty() && zstd.len() < best.1.len() {
        best = (ZSTD, zstd);
    }
    if let Some(pco) = pco.filter(|p| p.len() < best.1.len()) {
        best = (PCO, pco);
    }
    best.1.insert(0, best.0);
    best.1
}

fn little_endian(values: &Values) -> Vec<u8> {
    let mut le = values.as_bytes().to_vec();
    if cfg!(target_endian = "big") {
        le.chunks_exact_mut(values.dtype().size()).for_each(<[u8]>::reverse);
    }
    le
}

fn pco(values: &Values) -> Option<Vec<u8>> {
    let config = pco::ChunkConfig::default().with_compression_level(PCO_LEVEL);
    let compressed = match values {
        Values::F32(v) => pco::standalone::simple_compress(v, &config),
        Values::F64(v) => pco::standalone::simple_compress(v, &config),
        Values::I16(v) => pco::standalone::simple_compress(v, &config),
        Values::I32(v) => pco::standalone::simple_compress(v, &config),
        Values::I64(v) => pco::standalone::simple_compress(v, &config),
        Values::U16(v) => pco::standalone::simple_compress(v, &config),
        Values::U32(v) => pco::standalone::simple_compress(v, &config),
        Values::U64(v) => pco::standalone::simple_compress(v, &config),
        Values::I8(_) | Values::U8(_) | Values::Char(_) | Values::Text(_) => return None,
    };
    compressed.ok()
}

/// Bytes to `n` values of `dtype`.
///
/// # Errors
/// `Corrupt` if the bytes do not hold them.
pub fn decode(data: &[u8], dtype: DType, n: usize) -> Result<Values> {
    let bad = || Error::corrupt("exact values are damaged");
    let (&method, data) = data.split_first().ok_or_else(bad)?;
    if dtype == DType::Text {
        let plain = match method {
            STORED => data.to_vec(),
            ZSTD => bytes::unzstd(data, MAX_TEXT_BYTES)?,
            _ => return Err(bad()),
        };
        let mut reader = Reader::new(&plain);
        let mut texts = Vec::new();
        for _ in 0..n {
            texts.push(String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| bad())?);
        }
        return if reader.is_empty() { Ok(Values::Text(texts)) } else { Err(bad()) };
    }
    let size = dtype.size();
    let n_bytes = n.checked_mul(size).ok_or_else(bad)?;
    match method {
        STORED if data.len() == n_bytes => Values::from_le_bytes(dtype, data),
        ZSTD => {
            let planes = bytes::unzstd(data, n_bytes)?;
            if planes.len() != n_bytes {
                return Err(bad());
            }
            let le: Vec<u8> = (0..n).flat_map(|i| planes.iter().skip(i).step_by(n).copied()).collect();
            Values::from_le_bytes(dtype, &le)
        }
        PCO => unpco(data, dtype, n),
        _ => Err(bad()),
    }
}

fn unpco(data: &[u8], dtype: DType, n: usize) -> Result<Values> {
    let bad = || Error::corrupt("exact values are damaged");
    fn into<T: pco::data_types::Number>(data: &[u8], out: &mut [T]) -> Option<usize> {
        let progress = pco::standalone::simple_decompress_into(data, out).ok()?;
        progress.finished.then_some(progress.n_processed)
    }
    let mut values = Values::zeros(dtype, n);
    let done = match &mut values {
        Values::F32(v) => into(data, v),
        Values::F64(v) => into(data, v),
        Values::I16(v) => into(data, v),
        Values::I32(v) => into(data, v),
        Values::I64(v) => into(data, v),
        Values::U16(v) => into(data, v),
        Values::U32(v) => into(data, v),
        Values::U64(v) => into(data, v),
        Values::I8(_) | Values::U8(_) | Values::Char(_) | Values::Text(_) => None,
    };
    if done == Some(n) { Ok(values) } else { Err(bad()) }
}
