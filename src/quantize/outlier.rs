//! Values that no code can bring back within the bound: stored bit for bit, with their positions.
//!
//! Positions are raster indices within the tile, ascending. The decoder puts the values in place last, so that no
//! prediction depends on them. Serialized as places skipped, then the values (little-endian, byte planes).

use super::special::IN_BLOCKS;
use crate::encode::bytes::{self, Reader};
use crate::encode::numbers;
use crate::error::{Error, Result};
use crate::field::Float;

/// More than one value in so many is many.
const MANY: usize = 256;

/// Exact values by raster position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outliers {
    /// Raster positions, ascending.
    pub positions: Vec<u32>,
    /// Their bits.
    pub bits: Vec<u64>,
}

impl Outliers {
    /// From pairs in any order.
    pub fn from_unsorted(mut pairs: Vec<(u32, u64)>) -> Self {
        pairs.sort_unstable();
        Self { positions: pairs.iter().map(|p| p.0).collect(), bits: pairs.iter().map(|p| p.1).collect() }
    }

    /// Both together.
    pub fn merged(a: &Self, b: Option<&Self>) -> Self {
        let pairs = |o: &Self| o.positions.iter().copied().zip(o.bits.iter().copied()).collect::<Vec<_>>();
        Self::from_unsorted([pairs(a), b.map(pairs).unwrap_or_default()].concat())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Puts the exact values into `values`.
    pub fn apply<T: Float>(&self, values: &mut [T]) {
        for (&p, &b) in self.positions.iter().zip(&self.bits) {
            values[p as usize] = T::from_bits(b);
        }
    }

    /// Whether there are so many among `n` values that their bits may be worth packing.
    pub fn are_many(&self, n: usize) -> bool {
        self.positions.len() * MANY > n
    }

    /// Serialized form; empty if there are none. Their bits go behind zstd if they are to be `packed` and that saves something.
    pub fn to_bytes<T: Float>(&self, packed: bool) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut out = Vec::with_capacity(self.bits.len() * (T::BYTES + 2) + 16);
        bytes::put_varint(&mut out, self.positions.len() as u64);
        out.push(IN_BLOCKS);
        bytes::put_bytes(&mut out, &numbers::encode(&numbers::between(&self.positions), 1));
        let plane = |byte: usize| self.bits.iter().map(move |b| (b >> (8 * byte)) as u8);
        let planes: Vec<u8> = (0..T::BYTES).flat_map(plane).collect();
        if packed {
            bytes::put_packed(&mut out, &planes);
        } else {
            bytes::put_varint(&mut out, planes.len() as u64 * 2);
            out.extend(planes);
        }
        out
    }

    /// Reads what [`Outliers::to_bytes`] wrote for a tile of `n` values.
    ///
    /// # Errors
    /// `Corrupt` if positions leave the tile, do not ascend, or the lengths do not match.
    pub fn from_bytes<T: Float>(data: &[u8], n: usize) -> Result<Self> {
        if data.is_empty() {
            return Ok(Self::default());
        }
        let bad = || Error::corrupt("list of exact values is damaged");
        let mut reader = Reader::new(data);
        let count = usize::try_from(reader.varint()?).ok().filter(|&c| c <= n).ok_or_else(bad)?;
        let is_in_blocks = reader.rest().first() == Some(&IN_BLOCKS);
        let between = if is_in_blocks {
            reader.byte()?;
            numbers::decode(reader.bytes()?, count, 1)?
        } else {
            plain_list(&mut reader, count)?
        };
        let planes = reader.packed(count.saturating_mul(T::BYTES))?;
        if planes.len() != count * T::BYTES || !reader.is_empty() {
            return Err(bad());
        }
        let positions = numbers::places(&between, n).ok_or_else(bad)?;
        let bits = (0..count)
            .map(|i| (0..T::BYTES).map(|byte| u64::from(planes[byte * count + i]) << (8 * byte)).sum())
            .collect();
        Ok(Self { positions, bits })
    }
}

/// Distances as older archives have them: bytes, perhaps behind zstd. The distance to the place before, of the first from 0.
fn plain_list(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u32>> {
    let bad = || Error::corrupt("list of exact values is damaged");
    let gaps = reader.packed(count.saturating_mul(5))?;
    let mut gaps = Reader::new(&gaps);
    let mut between = Vec::new();
    for i in 0..count {
        let gap = gaps.varint()?.checked_sub(u64::from(i > 0)).ok_or_else(bad)?;
        between.push(u32::try_from(gap).map_err(|_| bad())?);
    }
    Ok(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_in_any_form() {
        for n in [1usize, 2, 63, 64, 65, 1000] {
            let positions: Vec<u32> = (0..n as u32).map(|i| i * 7 + u32::from(i > 40) * (1 << 20)).collect();
            let bits: Vec<u64> = (0..n as u64).map(|i| 0x4380_0000 + i * i).collect();
            let outliers = Outliers { positions, bits };
            let room = 1 << 21;
            for packed in [false, true] {
                let bytes = outliers.to_bytes::<f32>(packed);
                assert_eq!(Outliers::from_bytes::<f32>(&bytes, room).unwrap(), outliers);
                assert!(Outliers::from_bytes::<f32>(&bytes, outliers.positions[n - 1] as usize).is_err());
                for cut in 1..bytes.len() {
                    assert!(Outliers::from_bytes::<f32>(&bytes[..cut], room).is_err(), "{n} {packed} {cut}");
                }
            }
            // As older archives have them.
            let mut old = vec![];
            bytes::put_varint(&mut old, n as u64);
            let mut gaps = vec![];
            let before = std::iter::once(0).chain(outliers.positions.iter().copied());
            outliers
                .positions
                .iter()
                .zip(before)
                .for_each(|(p, before)| bytes::put_varint(&mut gaps, u64::from(p - before)));
            bytes::put_packed(&mut old, &gaps);
            let plane = |byte: usize| outliers.bits.iter().map(move |b| (b >> (8 * byte)) as u8);
            bytes::put_packed(&mut old, &(0..4).flat_map(plane).collect::<Vec<u8>>());
            assert_eq!(Outliers::from_bytes::<f32>(&old, room).unwrap(), outliers);
        }
        assert!(Outliers::default().to_bytes::<f64>(true).is_empty());
    }
}
