//! What is left of an archive that is incomplete or damaged.

use super::index::read_index;
use super::limits;
use super::reader::{Archive, Places};
use super::schema::read_schema;
use super::section::{self, HEADER_BYTES, VERSION, kind};
use crate::error::{Context, Kind, Result};
use crate::field::{DType, Values};
use crate::tile;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

impl<R: Read + Seek> Archive<R> {
    /// Opens what there is of an archive. If its index is whole, that is every variable whose plan is; if not, what comes before the first
    /// section that is not whole.
    ///
    /// Tiles that turn out to be damaged read as fill values (NaN or 0 where there are none), and are among [`Archive::damaged`] then.
    ///
    /// # Errors
    /// As [`Archive::open`] if not even the schema is whole.
    pub fn recover(mut input: R) -> Result<Self> {
        let file_len = input.seek(SeekFrom::End(0))?;
        input.rewind()?;
        let version = section::read_header(&mut input)?;
        let index = read_index(&mut input, file_len, version).ok();
        input.seek(SeekFrom::Start(HEADER_BYTES))?;
        let schema = read_schema(&mut input)?;
        let mut archive = Self::new(input, version, schema, file_len);
        archive.recovers = true;
        if let Some(index) = index {
            archive.weights = index.weights_len.map(|len| (HEADER_BYTES + index.schema_len, len));
            for (plan_len, entry) in index.variables {
                // What does not fit is as good as not there.
                let _ = archive.add_indexed(plan_len, entry);
            }
            return Ok(archive);
        }
        let mut at = archive.input.stream_position()?;
        // Payload and length of the last plan, and the tiles since.
        let mut current: Option<(Vec<u8>, u64, Places)> = None;
        while let Ok((k, payload, len)) = section::read(&mut archive.input, limits::MAX_TILE_BYTES) {
            match (k, &mut current) {
                (kind::PLAN, _) => {
                    if let Some((plan, plan_len, tiles)) = current.replace((payload, len, vec![])) {
                        archive.add(&plan, plan_len, tiles)?;
                    }
                }
                (kind::TILE, Some((.., tiles))) => tiles.push((at, len)),
                (kind::WEIGHTS, None) if version > VERSION => archive.weights = Some((at, len)),
                _ => break,
            }
            at += len;
        }
        if let Some((plan, plan_len, tiles)) = current {
            archive.add(&plan, plan_len, tiles)?;
        }
        Ok(archive)
    }

    /// Variable and tile of the damaged tiles that were read as fill values, with the number of indices of the first axis that are whole all
    /// the same: of a recovered archive only.
    pub fn damaged(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        self.damaged.iter().map(|(&(variable, tile), &whole)| (variable, tile, whole))
    }

    /// Stands in for `n` values that are lost.
    pub(super) fn fillers(&self, variable: usize, n: usize) -> Values {
        let v = &self.schema.variables[variable];
        let named = || v.attribute("_FillValue").and_then(|a| a.integers().first().copied());
        let unwritten = || self.schema.unwritten(v).and_then(|u| u.first_integer());
        let integer = if v.dtype.is_float() { 0 } else { named().or_else(unwritten).unwrap_or(0) };
        let bits = self.schema.fill_bits(variable);
        match v.dtype {
            DType::F32 => Values::F32(vec![bits.map_or(f32::NAN, |b| f32::from_bits(b as u32)); n]),
            DType::F64 => Values::F64(vec![bits.map_or(f64::NAN, f64::from_bits); n]),
            DType::I8 => Values::I8(vec![integer as i8; n]),
            DType::I16 => Values::I16(vec![integer as i16; n]),
            DType::I32 => Values::I32(vec![integer as i32; n]),
            DType::I64 => Values::I64(vec![integer as i64; n]),
            DType::U8 => Values::U8(vec![integer as u8; n]),
            DType::U16 => Values::U16(vec![integer as u16; n]),
            DType::U32 => Values::U32(vec![integer as u32; n]),
            DType::U64 => Values::U64(vec![integer as u64; n]),
            DType::Char | DType::Text => Values::zeros(v.dtype, n),
        }
    }

    /// With the tile's box. `values` come with the number of steps that are whole; in a recovered archive fill values stand for what is damaged.
    pub(super) fn or_fillers(
        &mut self,
        variable: usize,
        tile: u64,
        values: Result<(Values, u64)>,
    ) -> Result<(Vec<Range<u64>>, Values)> {
        let stored = self.variable(variable)?;
        let (region, n_tiles) = (stored.plan.tiling.region(tile), stored.n_tiles());
        let n_steps = region.first().map_or(1, |r| r.end - r.start);
        match values.context(|| format!("tile {tile}")) {
            Err(e) if self.recovers && e.kind() == Kind::Corrupt && tile < n_tiles => {
                self.damaged.insert((variable, tile), 0);
                let values = self.fillers(variable, tile::region_len(&region) as usize);
                Ok((region, values))
            }
            Ok((values, whole)) => {
                if whole < n_steps {
                    self.damaged.insert((variable, tile), whole);
                }
                Ok((region, values))
            }
            Err(e) => Err(e),
        }
    }
}
