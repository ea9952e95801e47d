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

/// What is damaged is as good as not there. What the system refuses is no damage: an archive shall not be given up for a disk that can not
/// be read just now.
fn unless_damaged<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(what) => Ok(Some(what)),
        Err(e) if e.kind() == Kind::Corrupt => Ok(None),
        Err(e) => Err(e),
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Opens what there is of an archive. If its index is whole, that is every variable whose plan is; if not, what comes before the first
    /// section that is not whole.
    ///
    /// Tiles that turn out to be damaged read as fill values (NaN or 0 where there are none), and are among [`Archive::damaged`] then.
    ///
    /// # Errors
    /// As [`Archive::open`] if not even the schema is whole; `Io` if the input can not be read, which is no damage.
    pub fn recover(mut input: R) -> Result<Self> {
        let file_len = input.seek(SeekFrom::End(0))?;
        input.rewind()?;
        let version = section::read_header(&mut input)?;
        let index = unless_damaged(read_index(&mut input, file_len, version))?;
        input.seek(SeekFrom::Start(HEADER_BYTES))?;
        let schema = read_schema(&mut input)?;
        let mut archive = Self::new(input, version, schema, file_len);
        archive.recovers = true;
        if let Some(index) = index {
            archive.weights = index.weights_len.map(|len| (HEADER_BYTES + index.schema_len, len));
            for (plan_len, entry) in index.variables {
                unless_damaged(archive.add_indexed(plan_len, entry))?;
            }
            return Ok(archive);
        }
        let mut at = archive.input.stream_position()?;
        // Payload and length of the last plan, and the tiles since.
        let mut current: Option<(Vec<u8>, u64, Places)> = None;
        while let Some((k, payload, len)) = unless_damaged(section::read(&mut archive.input, limits::MAX_TILE_BYTES))? {
            match (k, &mut current) {
                (kind::PLAN, _) => {
                    if let Some((plan, plan_len, tiles)) = current.replace((payload, len, vec![])) {
                        unless_damaged(archive.add(&plan, plan_len, tiles))?;
                    }
                }
                (kind::TILE, Some((.., tiles))) => tiles.push((at, len)),
                (kind::WEIGHTS, None) if version > VERSION => archive.weights = Some((at, len)),
                _ => break,
            }
            at += len;
        }
        if let Some((plan, plan_len, tiles)) = current {
            unless_damaged(archive.add(&plan, plan_len, tiles))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bound, Config, Field};
    use std::io::Cursor;

    /// An archive on a disk that can not read the byte at `bad`.
    struct BadSector {
        file: Cursor<Vec<u8>>,
        bad: u64,
    }

    impl Read for BadSector {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let at = self.file.position();
            let most = self.bad.checked_sub(at).unwrap_or(u64::MAX).min(out.len() as u64);
            match self.file.read(&mut out[..most as usize])? {
                0 if at == self.bad => Err(std::io::Error::other("bad sector")),
                n => Ok(n),
            }
        }
    }

    impl Seek for BadSector {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.file.seek(to)
        }
    }

    #[test]
    fn what_can_not_be_read_is_not_given_up() {
        let values: Vec<f32> = (0..10_000).map(|i| (i as f32 * 0.1).sin()).collect();
        let config = Config::new(Bound::abs(1e-3)).with_tile_bytes(1);
        let whole = crate::compress(&Field::new(&values, &[100, 100]).unwrap(), &config).unwrap();
        let cut = whole[..whole.len() - 1].to_vec();
        for file in [whole, cut] {
            for bad in (0..file.len() as u64).step_by(7) {
                let input = BadSector { file: Cursor::new(file.clone()), bad };
                // Tiles are looked at later, if there is an index.
                let read = Archive::recover(input).and_then(|mut a| a.read_all(0));
                let kind = read.map_err(|e| e.kind());
                assert_eq!(kind.err(), Some(Kind::Io), "byte {bad} of {}", file.len());
            }
        }
    }

    #[test]
    fn one_impossible_plan_costs_itself_only() {
        use super::super::Writer;
        use crate::io::{Format, Schema};
        use crate::plan::{Plan, Treatment};
        use crate::tile::Tiling;
        let mut schema = Schema::single(Format::Raw, "x", DType::U8, &[2]);
        schema.variables.push(schema.variables[0].clone());
        let mut writer = Writer::new(Vec::new(), &schema).unwrap();
        let tile = crate::compress::store_as_it_is(&Values::U8(vec![1, 2])).unwrap();
        for (variable, n) in [(0, 3), (1, 2)] {
            let tiling = Tiling::whole(&[n]);
            writer.begin(&Plan { variable, treatment: Treatment::Exact, tiling, forecast: None }).unwrap();
            writer.tile(&tile).unwrap();
        }
        let mut archive = writer.finish().unwrap();
        for _ in 0..2 {
            let mut recovered = Archive::recover(Cursor::new(archive.clone())).unwrap();
            assert!(recovered.variable(0).is_err());
            assert_eq!(recovered.read_all(1).unwrap(), Values::U8(vec![1, 2]));
            // And without the index.
            archive.pop();
        }
    }
}
