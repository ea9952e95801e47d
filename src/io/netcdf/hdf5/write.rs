//! Writes NetCDF-4 files.
//!
//! The size of everything but texts is known from the schema, so every object gets its address first, headers and trees
//! are written once, and values follow at their places. Texts are appended as they come. The superblock, which says
//! where the file ends, comes last: until then it is not an HDF5 file.

use super::super::super::{Schema, Variable};
use super::super::{positioned, values};
use super::chunks::Storage;
use super::encode::{self, NOWHERE, SUPERBLOCK_BYTES, Type};
use super::heap::Heap;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::field::Values;
use std::fs::File;
use std::ops::Range;

/// Texts are written when so many bytes have come together.
const TEXT_BUFFER_BYTES: usize = 1 << 20;

/// A NetCDF-4 file that is being written.
pub struct Writer {
    root: u64,
    storages: Vec<Storage>,
    texts: Heap,
}

impl Writer {
    /// Writes all headers for a schema that was prepared.
    pub fn create(file: &mut File, schema: &Schema) -> Result<Self> {
        let plan = Plan::new(schema)?;
        let unlimited =
            |v: &Variable| v.dimensions.iter().map(|&d| schema.dimensions[d as usize].unlimited).collect::<Vec<_>>();
        let size = |v: &Variable| u64::from(Type::Of(v.dtype).size());
        let mut storages: Vec<Storage> =
            schema.variables.iter().map(|v| Storage::choose(v, &unlimited(v), size(v))).collect();

        // 1. Measure: sizes do not depend on addresses.
        let mut heap = Heap::new(0);
        let sizes = plan.encode(&vec![0; plan.n_objects()], &storages, &mut heap)?;
        heap.close();

        // 2. Place: superblock, headers, heap, values.
        let mut at = SUPERBLOCK_BYTES;
        let mut addresses = vec![];
        for header in &sizes {
            addresses.push(at);
            at = (at + header.len() as u64).next_multiple_of(8);
        }
        let heap_address = at;
        at += heap.len() as u64;
        for storage in &mut storages {
            at = storage.place(at).next_multiple_of(8);
            // Far below what 64 bits count, and above what any disk holds.
            if at > 1 << 62 {
                return Err(Error::usage("the file would be too large"));
            }
        }

        // 3. Write.
        let mut heap = Heap::new(heap_address);
        let headers = plan.encode(&addresses, &storages, &mut heap)?;
        heap.close();
        let mut bytes = vec![];
        for (header, address) in headers.iter().zip(&addresses) {
            bytes.resize((address - SUPERBLOCK_BYTES) as usize, 0);
            bytes.extend_from_slice(header);
        }
        positioned::write_at(file, SUPERBLOCK_BYTES, &bytes)?;
        let (address, bytes) = heap.take();
        positioned::write_at(file, address, &bytes)?;
        for (v, storage) in schema.variables.iter().zip(&storages) {
            storage.create(file, &super::plan::fill_bytes(v))?;
        }
        Ok(Self { root: addresses.first().copied().unwrap_or(NOWHERE), storages, texts: Heap::new(at) })
    }

    /// Writes a box that was checked.
    pub fn write(
        &mut self,
        file: &mut File,
        variable: usize,
        v: &Variable,
        region: &[Range<u64>],
        values: &Values,
    ) -> Result<()> {
        let Values::Text(texts) = values else {
            return self.storages[variable].write(file, region, &values::to_bytes(values, values::Order::Little));
        };
        let mut references = Vec::with_capacity(texts.len() * 16);
        for text in texts {
            if text.contains('\0') || u32::try_from(text.len()).is_err() {
                return Err(Error::usage(format!("a text in {:?} has a zero in it or 4 GiB", v.name())));
            }
            references.extend(self.texts.insert_text(text));
            if self.texts.len() >= TEXT_BUFFER_BYTES {
                self.flush(file)?;
            }
        }
        self.storages[variable].write(file, region, &references)
    }

    fn flush(&mut self, file: &mut File) -> Result<()> {
        let (address, bytes) = self.texts.take();
        positioned::write_at(file, address, &bytes)
    }

    /// Completes the file.
    pub fn finish(mut self, file: &mut File) -> Result<()> {
        self.texts.close();
        self.flush(file)?;
        let end = self.texts.end();
        // What was not written at the end, padding for example, is still part of the file.
        file.set_len(end)?;
        positioned::write_at(file, 0, &encode::superblock(self.root, end))
    }
}
