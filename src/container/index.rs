//! The index: where each section lies, so that any tile is one seek away.

use super::section::{self, FOOTER_BYTES, HEADER_BYTES, VERSION, kind};
use super::{advised, checksum, limits};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Kind, Result};
use std::io::{Read, Seek, SeekFrom};

/// A section without payload: kind, length, checksum.
const MIN_SECTION_BYTES: u64 = 10;

/// Where a variable's sections lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableEntry {
    /// Offset of the plan.
    pub plan: u64,
    /// `(offset, length in the file)` of each tile.
    pub tiles: Vec<(u64, u64)>,
}

/// Where all sections lie: the schema first, then weights if there are any, then each variable's plan and tiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Length in the file of the schema, which is the first section.
    pub schema_len: u64,
    /// Length in the file of the weights, in archives of the version that has them.
    pub weights_len: Option<u64>,
    /// In the order of writing, with the plan's length.
    pub variables: Vec<(u64, VariableEntry)>,
}

impl Index {
    /// Serialized: lengths only, as sections follow each other.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        bytes::put_varint(&mut out, self.schema_len);
        self.weights_len.iter().for_each(|&len| bytes::put_varint(&mut out, len));
        bytes::put_varint(&mut out, self.variables.len() as u64);
        for (plan_len, v) in &self.variables {
            bytes::put_varint(&mut out, *plan_len);
            bytes::put_varint(&mut out, v.tiles.len() as u64);
            v.tiles.iter().for_each(|t| bytes::put_varint(&mut out, t.1));
        }
        out
    }

    /// Reads what [`Index::to_bytes`] wrote, for sections that start at `start` and end at `end`, weights among them or not.
    ///
    /// # Errors
    /// `Corrupt` if the lengths do not add up.
    pub fn from_bytes(data: &[u8], start: u64, end: u64, has_weights: bool) -> Result<Self> {
        let bad = || Error::corrupt("index is damaged");
        let mut reader = Reader::new(data);
        let mut at = start;
        let mut next = |len: u64| {
            let here = at;
            at = at.checked_add(len).filter(|&a| a <= end).ok_or_else(bad)?;
            Ok::<u64, Error>(here)
        };
        let schema_len = reader.varint()?;
        next(schema_len)?;
        let weights_len = has_weights.then(|| reader.varint()).transpose()?;
        weights_len.map(&mut next).transpose()?;
        let mut variables = Vec::new();
        // So that a short index can not promise many sections.
        let section = |reader: &mut Reader<'_>| {
            reader.varint().and_then(|n| if n < MIN_SECTION_BYTES { Err(bad()) } else { Ok(n) })
        };
        let n_variables = reader.varint()?;
        if n_variables > limits::MAX_SCHEMA_OBJECTS {
            return Err(bad());
        }
        for _ in 0..n_variables {
            let plan_len = section(&mut reader)?;
            let mut entry = VariableEntry { plan: next(plan_len)?, tiles: Vec::new() };
            for _ in 0..reader.varint()? {
                let len = section(&mut reader)?;
                entry.tiles.push((next(len)?, len));
            }
            variables.push((plan_len, entry));
        }
        if at == end && reader.is_empty() { Ok(Self { schema_len, weights_len, variables }) } else { Err(bad()) }
    }
}

/// Reads the index of a complete archive: what its end says of it, then itself.
///
/// # Errors
/// `Corrupt` if the archive ends without one or it is damaged.
pub fn read_index<R: Read + Seek>(input: &mut R, file_len: u64, version: u16) -> Result<Index> {
    let incomplete = || {
        Error::corrupt(
            "archive is incomplete: it ends without an index; `residuum decompress --recover` reads what is there",
        )
    };
    let footer_at = file_len.checked_sub(FOOTER_BYTES).filter(|&a| a >= HEADER_BYTES).ok_or_else(incomplete)?;
    input.seek(SeekFrom::Start(footer_at))?;
    let mut footer = [0; FOOTER_BYTES as usize];
    input.read_exact(&mut footer)?;
    if footer[24..] != section::END_MAGIC {
        return Err(incomplete());
    }
    let word = |i: usize| u64::from_le_bytes(footer[8 * i..8 * i + 8].try_into().unwrap_or_default());
    let (index_at, index_len) = (word(0), word(1));
    let fits = index_at >= HEADER_BYTES && index_at.checked_add(index_len) == Some(footer_at);
    if checksum::of_section(kind::INDEX, &footer[..16]) != word(2) || !fits {
        return Err(advised(&Error::corrupt("end of the archive is damaged")));
    }
    input.seek(SeekFrom::Start(index_at))?;
    let (k, payload, _) = section::read(input, limits::MAX_INDEX_BYTES).map_err(|e| match e.kind() {
        Kind::Corrupt => advised(&e),
        _ => e,
    })?;
    if k != kind::INDEX {
        return Err(Error::corrupt("index is damaged"));
    }
    Index::from_bytes(&payload, HEADER_BYTES, index_at, version > VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_index_promises_little() {
        let sections = |numbers: &[u64]| {
            let mut data = vec![];
            numbers.iter().for_each(|&n| bytes::put_varint(&mut data, n));
            Index::from_bytes(&data, HEADER_BYTES, HEADER_BYTES + numbers[0] + 20, false)
        };
        assert!(sections(&[10, 1, 10, 1, 10]).is_ok());
        // Plan or tile shorter than any section.
        assert!(sections(&[10, 2, 0, 0, 20, 0]).is_err());
        assert!(sections(&[10, 1, 11, 1, 9]).is_err());
        // As many variables as no schema has.
        let mut many = vec![10, limits::MAX_SCHEMA_OBJECTS + 1];
        many.extend(std::iter::repeat_n([10, 0], many[1] as usize).flatten());
        let mut data = vec![];
        many.iter().for_each(|&n| bytes::put_varint(&mut data, n));
        let end = HEADER_BYTES + 10 + 10 * many[1];
        assert!(Index::from_bytes(&data, HEADER_BYTES, end, false).is_err());
    }
}
