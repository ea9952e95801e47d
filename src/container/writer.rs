//! Writing an archive, front to back.

use super::index::{Index, VariableEntry};
use super::schema::schema_excess;
use super::section::{self, HEADER_BYTES, VERSION, kind};
use super::{checksum, limits};
use crate::encode::bytes;
use crate::error::{Error, Result};
use crate::io::Schema;
use crate::plan::Plan;
use std::io::Write;

/// Writes an archive, front to back.
pub struct Writer<W: Write> {
    out: W,
    at: u64,
    index: Index,
    tiles_left: u64,
}

impl<W: Write> Writer<W> {
    /// Starts an archive of what `schema` describes.
    ///
    /// # Errors
    /// `Io` if `out` refuses, `Usage` if the schema is beyond the format's caps.
    pub fn new(out: W, schema: &Schema) -> Result<Self> {
        Self::with_weights(out, schema, None)
    }

    /// The same, with the weights (a safetensors file) of the model that variables are coded beside.
    ///
    /// # Errors
    /// As [`Writer::new`]; `Usage` if there are too many.
    pub fn with_weights(mut out: W, schema: &Schema, weights: Option<&[u8]>) -> Result<Self> {
        let plain = minicbor::to_vec(schema).map_err(|e| Error::usage(format!("schema can not be stored: {e}")))?;
        if let Some(excess) = schema_excess(&plain) {
            return Err(Error::usage(format!("{excess}: no reader would take the archive")));
        }
        let mut payload = Vec::new();
        bytes::put_packed(&mut payload, &plain);
        if let Some(weights) = weights.filter(|w| w.len() as u64 > limits::MAX_WEIGHTS_BYTES) {
            let (n, most) = (weights.len() as u64 >> 20, limits::MAX_WEIGHTS_BYTES >> 20);
            return Err(Error::usage(format!(
                "weights of {n} MiB are kept apart: an archive holds at most {most} MiB"
            )));
        }
        let version = if weights.is_some() { section::VERSION_WITH_WEIGHTS } else { VERSION };
        section::write_header(&mut out, version)?;
        let schema_len = section::write(&mut out, kind::SCHEMA, &payload)?;
        let weights_len = weights.map(|w| section::write(&mut out, kind::WEIGHTS, w)).transpose()?;
        let index = Index { schema_len, weights_len, variables: vec![] };
        Ok(Self { out, at: HEADER_BYTES + schema_len + weights_len.unwrap_or(0), index, tiles_left: 0 })
    }

    /// Starts the next variable.
    ///
    /// # Errors
    /// `Usage` if the variable before lacks tiles, `Io` if the output refuses.
    pub fn begin(&mut self, plan: &Plan) -> Result<()> {
        self.end_variable()?;
        let payload = minicbor::to_vec(plan).map_err(|e| Error::usage(format!("plan can not be stored: {e}")))?;
        if payload.len() as u64 > limits::MAX_PLAN_BYTES {
            return Err(Error::usage("a plan larger than any reader would take"));
        }
        let len = section::write(&mut self.out, kind::PLAN, &payload)?;
        self.index.variables.push((len, VariableEntry { plan: self.at, tiles: vec![] }));
        self.at += len;
        self.tiles_left = plan.tiling.count();
        Ok(())
    }

    /// Writes the next tile of the variable: what [`crate::compress::compress_tile`] made.
    ///
    /// # Errors
    /// `Usage` if the variable has all its tiles, `Io` if the output refuses.
    pub fn tile(&mut self, coded: &[u8]) -> Result<()> {
        self.tile_elsewhere(coded.len() as u64, checksum::of_section(kind::TILE, coded))?;
        self.out.write_all(coded)?;
        Ok(())
    }

    /// The same for a tile of `len` bytes that the output has from elsewhere: only what stands before them is written.
    ///
    /// # Errors
    /// As [`Writer::tile`].
    pub(crate) fn tile_elsewhere(&mut self, len: u64, checksum: u64) -> Result<()> {
        if len > limits::MAX_TILE_BYTES {
            return Err(Error::usage(format!("a tile of {len} bytes: no reader would take it")));
        }
        let Some((_, entry)) = self.index.variables.last_mut().filter(|_| self.tiles_left > 0) else {
            return Err(Error::usage("a tile too many"));
        };
        let len = section::write_head(&mut self.out, kind::TILE, len, checksum)?;
        entry.tiles.push((self.at, len));
        self.at += len;
        self.tiles_left -= 1;
        Ok(())
    }

    /// What has been written to, which may be emptied.
    #[cfg(feature = "cuda")]
    pub(crate) fn output(&mut self) -> &mut W {
        &mut self.out
    }

    fn end_variable(&self) -> Result<()> {
        if self.tiles_left > 0 {
            return Err(Error::usage(format!("{} tiles of a variable are missing", self.tiles_left)));
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing but the header was written. Never true: a writer starts with the header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes the index and returns the output.
    ///
    /// # Errors
    /// `Usage` if tiles are missing, `Io` if the output refuses.
    pub fn finish(mut self) -> Result<W> {
        self.end_variable()?;
        let index = self.index.to_bytes();
        if index.len() as u64 > limits::MAX_INDEX_BYTES {
            return Err(Error::usage("more tiles than any reader would take: choose larger ones (--tile-mib)"));
        }
        let len = section::write(&mut self.out, kind::INDEX, &index)?;
        let mut footer = [self.at.to_le_bytes(), len.to_le_bytes()].concat();
        footer.extend(checksum::of_section(kind::INDEX, &footer).to_le_bytes());
        footer.extend(section::END_MAGIC);
        self.out.write_all(&footer)?;
        self.out.flush()?;
        Ok(self.out)
    }
}
