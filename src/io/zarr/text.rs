//! Chunks of text of any length.

use super::array_error;
use super::chunks::Overlaps;
use crate::error::{Error, Result};
use crate::io::raw::Runs;
use std::ops::Range;
use zarrs::array::{Array, ArrayError, BytesRepresentation, CodecOptions};
use zarrs::filesystem::FilesystemStore;

/// The texts of `region` in an array whose chunks are coded with `vlen-utf8` and nothing before it.
///
/// The decoder of `zarrs` for these takes the lengths in a chunk at their word and panics where they lie, so this one
/// stands in for it.
pub(super) fn read(array: &Array<FilesystemStore>, chunk: &[u64], region: &[Range<u64>]) -> Result<Vec<String>> {
    let lens: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
    let elements = super::count(lens.iter().copied())?;
    let fill = std::str::from_utf8(array.fill_value().as_ne_bytes()).map_err(|_| not_text())?;
    let mut texts = vec![fill.to_owned(); elements];
    let chunk_elements = super::count(chunk.iter().copied())?;
    for part in Overlaps::new(array.shape(), chunk, region) {
        let Some(bytes) = array.retrieve_encoded_chunk(&part.chunk).map_err(|e| array_error(e.into()))? else {
            continue;
        };
        let mut bytes = std::borrow::Cow::from(bytes);
        for codec in array.codecs().bytes_to_bytes_codecs().iter().rev() {
            let decoded = codec.decode(bytes, &BytesRepresentation::UnboundedSize, &CodecOptions::default());
            bytes = decoded.map_err(|e| array_error(ArrayError::CodecError(e)))?;
        }
        let stored = split(&bytes, chunk_elements)?;
        let indices = |runs: Runs| runs.flat_map(|(first, n)| first..first + n);
        let (from, to) = (indices(Runs::new(chunk, &part.in_chunk)?), indices(Runs::new(&lens, &part.in_box)?));
        for (from, to) in from.zip(to) {
            texts[to as usize] = std::str::from_utf8(stored[from as usize]).map_err(|_| not_text())?.to_owned();
        }
    }
    Ok(texts)
}

/// A chunk of `n` texts: their number, then for each its length and itself.
fn split(bytes: &[u8], n: usize) -> Result<Vec<&[u8]>> {
    let cut = || Error::input(format!("a chunk ends before its {n} texts do"));
    let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(cut)?;
    // Each text takes 4 bytes at least, so that what is allocated is bounded by what is there.
    if u32::from_le_bytes(*count) as usize != n || rest.len() / 4 < n {
        return Err(cut());
    }
    let mut texts = Vec::with_capacity(n);
    for _ in 0..n {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let (text, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(cut)?;
        texts.push(text);
        rest = after;
    }
    Ok(texts)
}

fn not_text() -> Error {
    Error::input("text that is not UTF-8")
}
