//! Reading an archive, tile by tile.

use super::index::{VariableEntry, read_index};
use super::schema::read_schema;
use super::section::{self, HEADER_BYTES, kind};
use super::{advised, limits};
use crate::codes::{TileCodes, tile_codes};
use crate::compress::method;
use crate::device::{Coder, Cpu, Undecoded};
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use crate::io::Schema;
use crate::plan::Plan;
use crate::stages::{Stage, time};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

/// A variable of an open archive.
#[derive(Clone, Debug)]
pub struct StoredVariable {
    /// What was decided for it.
    pub plan: Plan,
    /// Bytes that it takes in the file, plan and tiles.
    pub stored_bytes: u64,
    tiles: Places,
}

/// `(offset, length in the file)` of sections.
pub(super) type Places = Vec<(u64, u64)>;

impl StoredVariable {
    /// Tiles that are there; fewer than the plan's only in a recovered archive.
    pub fn n_tiles(&self) -> u64 {
        self.tiles.len() as u64
    }
}

/// An archive open for reading. No byte of it is trusted.
pub struct Archive<R> {
    pub(super) input: R,
    version: u16,
    pub(super) schema: Schema,
    /// By the schema's order; `None` if a recovered archive lacks it.
    pub(super) variables: Vec<Option<StoredVariable>>,
    file_len: u64,
    /// Offset and length of the section with weights.
    pub(super) weights: Option<(u64, u64)>,
    /// Whether damaged tiles are no error.
    pub(super) recovers: bool,
    /// Those, with the number of steps that are whole all the same.
    pub(super) damaged: BTreeMap<(usize, u64), u64>,
    coder: Box<dyn Coder>,
    /// Repeats the forecasts that tiles were coded beside.
    #[cfg(feature = "forecast")]
    pub(super) forecasts: Option<crate::forecast::series::Decoder>,
    /// Whether a model was looked for that is at hand.
    #[cfg(feature = "forecast")]
    pub(super) has_looked: bool,
    /// What repeats its forecasts.
    #[cfg(feature = "forecast")]
    pub(super) machine: crate::forecast::series::Machine,
}

impl<R: Read + Seek> Archive<R> {
    /// Decodes tiles with `coder` from now on; the CPU does it otherwise.
    pub fn set_coder(&mut self, coder: Box<dyn Coder>) {
        self.coder = coder;
    }

    /// What decodes tiles.
    pub fn coder(&self) -> &dyn Coder {
        &*self.coder
    }

    /// Opens a complete archive.
    ///
    /// # Errors
    /// `Input` if it is no archive, `Corrupt` if it is damaged or incomplete, `Unsupported` if a later version wrote it.
    pub fn open(mut input: R) -> Result<Self> {
        let file_len = input.seek(SeekFrom::End(0))?;
        input.rewind()?;
        let version = section::read_header(&mut input)?;
        let index = read_index(&mut input, file_len, version)?;
        input.seek(SeekFrom::Start(HEADER_BYTES))?;
        let schema = read_schema(&mut input)?;
        let mut archive = Self::new(input, version, schema, file_len);
        archive.weights = index.weights_len.map(|len| (HEADER_BYTES + index.schema_len, len));
        for (plan_len, entry) in index.variables {
            archive.add_indexed(plan_len, entry)?;
        }
        if archive.variables.iter().any(Option::is_none) {
            return Err(Error::corrupt("variable is missing"));
        }
        Ok(archive)
    }

    /// Takes in a variable as the index has it.
    pub(super) fn add_indexed(&mut self, plan_len: u64, entry: VariableEntry) -> Result<()> {
        self.input.seek(SeekFrom::Start(entry.plan))?;
        let (k, payload, len) = section::read(&mut self.input, limits::MAX_PLAN_BYTES)?;
        if k != kind::PLAN || len != plan_len {
            return Err(Error::corrupt("index does not match the sections"));
        }
        let n_tiles = entry.tiles.len() as u64;
        let stored = self.add(&payload, plan_len, entry.tiles)?;
        if stored.plan.tiling.count() != n_tiles {
            return Err(Error::corrupt("variable lacks tiles"));
        }
        Ok(())
    }

    pub(super) fn new(input: R, version: u16, schema: Schema, file_len: u64) -> Self {
        let variables = schema.variables.iter().map(|_| None).collect();
        Self {
            input,
            version,
            schema,
            variables,
            file_len,
            weights: None,
            recovers: false,
            damaged: BTreeMap::new(),
            coder: Box::new(Cpu),
            #[cfg(feature = "forecast")]
            forecasts: None,
            #[cfg(feature = "forecast")]
            has_looked: false,
            #[cfg(feature = "forecast")]
            machine: Default::default(),
        }
    }

    pub(super) fn add(&mut self, plan: &[u8], plan_len: u64, tiles: Places) -> Result<&StoredVariable> {
        let plan: Plan = minicbor::decode(plan).map_err(|e| Error::corrupt(format!("plan is damaged: {e}")))?;
        let i = plan.variable as usize;
        let unlike = || Error::corrupt("plan does not match the schema");
        let v = self.schema.variables.get(i).ok_or_else(unlike)?;
        plan.check(if v.dtype == DType::Text { limits::MAX_TILE_TEXTS } else { limits::MAX_TILE_VALUES })?;
        if v.shape != plan.tiling.shape || tiles.len() as u64 > plan.tiling.count() {
            return Err(unlike());
        }
        let stored_bytes = plan_len + tiles.iter().map(|t| t.1).sum::<u64>();
        match &mut self.variables[i] {
            slot @ None => Ok(slot.insert(StoredVariable { plan, stored_bytes, tiles })),
            Some(_) => Err(Error::corrupt("variable is there twice")),
        }
    }

    /// What the archive holds.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Version of the format that the archive was written in.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Length of the archive in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Plan and size of a variable (an index into the schema).
    ///
    /// # Errors
    /// `Usage` if there is no such variable, `Corrupt` if a recovered archive lacks it.
    pub fn variable(&self, variable: usize) -> Result<&StoredVariable> {
        match self.variables.get(variable) {
            Some(Some(v)) => Ok(v),
            Some(None) => Err(Error::corrupt("the archive has nothing of this variable")),
            None => Err(Error::usage("no such variable")),
        }
    }

    /// Index of the variable with this path or name.
    ///
    /// # Errors
    /// `Usage`, with the names that there are.
    pub fn find(&self, name: &str) -> Result<usize> {
        self.schema.find(name)
    }

    /// The coded bytes of a tile, checksum verified.
    ///
    /// # Errors
    /// `Usage` if the variable has no such tile, `Corrupt` if it is damaged or a recovered archive lacks it.
    pub fn coded_tile(&mut self, variable: usize, tile: u64) -> Result<Vec<u8>> {
        let stored = self.variable(variable)?;
        let n_tiles = stored.plan.tiling.count();
        if tile >= n_tiles {
            return Err(Error::usage(format!("there is no tile {tile}: the variable has {n_tiles}")));
        }
        let &(offset, len) = usize::try_from(tile)
            .ok()
            .and_then(|t| stored.tiles.get(t))
            .ok_or_else(|| Error::corrupt(format!("the archive ends before tile {tile}")))?;
        self.input.seek(SeekFrom::Start(offset))?;
        match time(Stage::Read, || section::read(&mut self.input, len.min(limits::MAX_TILE_BYTES))) {
            Ok((kind::TILE, payload, read)) if read == len => Ok(payload),
            Ok(_) => Err(Error::corrupt("index does not match the sections")),
            Err(e) if e.kind() == Kind::Corrupt => Err(advised(&e)),
            Err(e) => Err(e),
        }
        .context(|| format!("tile {tile}"))
    }

    /// The weights that the archive holds, a safetensors file; `None` if it holds none.
    ///
    /// # Errors
    /// `Corrupt` if they are damaged.
    pub fn weights(&mut self) -> Result<Option<Vec<u8>>> {
        let Some((offset, len)) = self.weights else { return Ok(None) };
        self.input.seek(SeekFrom::Start(offset))?;
        match section::read(&mut self.input, limits::MAX_WEIGHTS_BYTES)? {
            (kind::WEIGHTS, payload, read) if read == len => Ok(Some(payload)),
            _ => Err(Error::corrupt("index does not match the sections")),
        }
    }

    /// Bytes of the archive that are weights.
    pub fn weights_bytes(&self) -> u64 {
        self.weights.map_or(0, |w| w.1)
    }

    /// The box and the values of a tile.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, `Unsupported` if it needs a later version.
    pub fn tile(&mut self, variable: usize, tile: u64) -> Result<(Vec<Range<u64>>, Values)> {
        self.tiles(&[(variable, tile)]).pop().unwrap_or_else(|| Err(Error::usage("no such tile")))
    }

    /// Boxes and values of several tiles, by variable and number, decoded side by side. All are in memory together.
    ///
    /// # Errors
    /// Each as [`Archive::tile`].
    pub fn tiles(&mut self, wanted: &[(usize, u64)]) -> Vec<Result<(Vec<Range<u64>>, Values)>> {
        enum Ready {
            ForCoder,
            BesideForecasts,
            Failed(Error),
        }
        let mut undecoded = vec![];
        let mut ready = |read: Result<Undecoded>| match read {
            Ok(tile) if method::needs_model(&tile.coded) => Ready::BesideForecasts,
            Ok(tile) => {
                undecoded.push(tile);
                Ready::ForCoder
            }
            Err(e) => Ready::Failed(e),
        };
        let ready: Vec<Ready> = wanted.iter().map(|&(v, tile)| ready(self.undecoded(v, tile))).collect();
        let mut decoded = self.coder.decompress_all(&undecoded).into_iter();
        let mut result = |(&(variable, tile), ready): (&(usize, u64), Ready)| {
            let values = match ready {
                Ready::ForCoder => {
                    let values = decoded.next().unwrap_or_else(|| Err(Error::corrupt("tile is missing")));
                    values.map(|values| (values, u64::MAX))
                }
                Ready::BesideForecasts => self.beside_forecasts(variable, tile),
                Ready::Failed(e) => Err(e),
            };
            self.or_fillers(variable, tile, values)
        };
        wanted.iter().zip(ready).map(&mut result).collect()
    }

    fn undecoded(&mut self, variable: usize, tile: u64) -> Result<Undecoded> {
        let coded = self.coded_tile(variable, tile)?;
        let dtype = self.schema.variables[variable].dtype;
        let plan = &self.variable(variable)?.plan;
        Ok(Undecoded { coded, dtype, region: plan.tiling.region(tile), treatment: plan.treatment.clone() })
    }

    /// The model that variables were coded beside, if any were.
    pub fn forecasts_needed(&self) -> Option<&crate::plan::Beside> {
        self.variables.iter().flatten().find_map(|s| s.plan.forecast.as_ref())
    }

    /// The codes of a tile, for whoever studies them; `None` if it is stored exactly.
    ///
    /// # Errors
    /// As [`Archive::tile`].
    pub fn codes(&mut self, variable: usize, tile: u64) -> Result<Option<TileCodes>> {
        let coded = self.coded_tile(variable, tile)?;
        let dtype = self.schema.variables[variable].dtype;
        let region = self.variable(variable)?.plan.tiling.region(tile);
        match method::needs_model(&coded) {
            true => self.codes_beside_forecasts(variable, tile),
            false => tile_codes(&coded, dtype, &region),
        }
        .context(|| format!("tile {tile}"))
    }

    #[cfg(not(feature = "forecast"))]
    fn codes_beside_forecasts(&mut self, _: usize, _: u64) -> Result<Option<TileCodes>> {
        Err(Error::unsupported("made beside a model's forecasts, which this build can not run"))
    }

    #[cfg(not(feature = "forecast"))]
    fn beside_forecasts(&mut self, _: usize, _: u64) -> Result<(Values, u64)> {
        Err(Error::unsupported("made beside a model's forecasts, which this build can not run"))
    }
}
