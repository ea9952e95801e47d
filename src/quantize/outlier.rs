//! Values that no code can bring back within the bound: stored bit for bit, with their positions.
//!
//! Positions are raster indices within the tile, ascending. The decoder puts the values in place last, so that no
//! prediction depends on them. Serialized as varint gaps, then the values (little-endian, byte planes), both behind zstd where that is wanted.

use crate::encode::bytes::{self, Packing, Reader};
use crate::error::{Error, Result};
use crate::field::Float;

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

    /// Serialized form; empty if there are none.
    pub fn to_bytes<T: Float>(&self) -> Vec<u8> {
        self.to_bytes_in::<T>(Packing::Zstd)
    }

    /// The same, packed or not.
    pub fn to_bytes_in<T: Float>(&self, packing: Packing) -> Vec<u8> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut gaps = Vec::with_capacity(self.positions.len() * 2);
        let mut last = 0;
        for &p in &self.positions {
            bytes::put_varint(&mut gaps, u64::from(p - last));
            last = p;
        }
        let mut planes = Vec::with_capacity(self.bits.len() * T::BYTES);
        for byte in 0..T::BYTES {
            planes.extend(self.bits.iter().map(|b| (b >> (8 * byte)) as u8));
        }
        let mut out = Vec::new();
        bytes::put_varint(&mut out, self.positions.len() as u64);
        bytes::put_list(&mut out, &gaps, packing);
        bytes::put_list(&mut out, &planes, packing);
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
        let gaps = reader.packed(count.saturating_mul(5))?;
        let planes = reader.packed(count.saturating_mul(T::BYTES))?;
        if planes.len() != count * T::BYTES || !reader.is_empty() {
            return Err(bad());
        }
        let mut gaps = Reader::new(&gaps);
        let mut positions = Vec::with_capacity(count);
        let mut next = 0u64;
        for i in 0..count {
            let gap = gaps.varint()?;
            if i > 0 && gap == 0 {
                return Err(bad());
            }
            next = next.checked_add(gap).filter(|&p| p < n as u64).ok_or_else(bad)?;
            positions.push(next as u32);
        }
        let bits = (0..count)
            .map(|i| (0..T::BYTES).map(|byte| u64::from(planes[byte * count + i]) << (8 * byte)).sum())
            .collect();
        Ok(Self { positions, bits })
    }
}
