//! The archive file: sections with checksums, an index at the end, random access. Normative text in `format.md`.
//!
//! [`Writer`] writes front to back to anything that takes bytes, one tile at a time; [`Archive`] reads any tile by one seek.
//! An archive whose writer died has no index; [`Archive::recover`] reads it up to its last whole section, and what is whole of a damaged one.

#[cfg(feature = "forecast")]
mod beside;
mod checksum;
mod index;
pub mod limits;
mod room;
mod section;

pub use room::max_archive_bytes;
pub use section::VERSION;

use crate::codes::{TileCodes, tile_codes};
use crate::compress::method;
use crate::config::DEFAULT_TILE_BYTES;
use crate::device::{Coder, Cpu, Undecoded};
use crate::encode::bytes;
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use crate::io::Schema;
use crate::plan::Plan;
use crate::stages::{Stage, time};
use crate::tile::{self, Tiling};
use index::{Index, VariableEntry};
use section::{FOOTER_BYTES, HEADER_BYTES, kind};
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

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
type Places = Vec<(u64, u64)>;

impl StoredVariable {
    /// Tiles that are there; fewer than the plan's only in a recovered archive.
    pub fn n_tiles(&self) -> u64 {
        self.tiles.len() as u64
    }
}

/// An archive open for reading. No byte of it is trusted.
pub struct Archive<R> {
    input: R,
    version: u16,
    schema: Schema,
    /// By the schema's order; `None` if a recovered archive lacks it.
    variables: Vec<Option<StoredVariable>>,
    file_len: u64,
    /// Offset and length of the section with weights.
    weights: Option<(u64, u64)>,
    /// Whether damaged tiles are no error.
    recovers: bool,
    /// Those, with the number of steps that are whole all the same.
    damaged: BTreeMap<(usize, u64), u64>,
    coder: Box<dyn Coder>,
    /// Repeats the forecasts that tiles were coded beside.
    #[cfg(feature = "forecast")]
    forecasts: Option<crate::forecast::series::Decoder>,
    /// Whether a model was looked for that is at hand.
    #[cfg(feature = "forecast")]
    has_looked: bool,
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

    /// Takes in a variable as the index has it.
    fn add_indexed(&mut self, plan_len: u64, entry: VariableEntry) -> Result<()> {
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

    fn new(input: R, version: u16, schema: Schema, file_len: u64) -> Self {
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
        }
    }

    fn add(&mut self, plan: &[u8], plan_len: u64, tiles: Places) -> Result<&StoredVariable> {
        let plan: Plan = minicbor::decode(plan).map_err(|e| Error::corrupt(format!("plan is damaged: {e}")))?;
        plan.check(limits::MAX_TILE_VALUES)?;
        let i = plan.variable as usize;
        let shape = self.schema.variables.get(i).map(|v| &v.shape);
        if shape != Some(&plan.tiling.shape) || tiles.len() as u64 > plan.tiling.count() {
            return Err(Error::corrupt("plan does not match the schema"));
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
    /// `Corrupt` if it is damaged or not there.
    pub fn coded_tile(&mut self, variable: usize, tile: u64) -> Result<Vec<u8>> {
        let stored = self.variable(variable)?;
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

    /// Variable and tile of the damaged tiles that were read as fill values, with the number of indices of the first axis that are whole all
    /// the same: of a recovered archive only.
    pub fn damaged(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        self.damaged.iter().map(|(&(variable, tile), &whole)| (variable, tile, whole))
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

    /// Stands in for `n` values that are lost.
    fn fillers(&self, variable: usize, n: usize) -> Values {
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
            Ok(tile) if tile.coded.first() == Some(&method::BESIDE_FORECASTS) => Ready::BesideForecasts,
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

    /// With the tile's box. `values` come with the number of steps that are whole; in a recovered archive fill values stand for what is damaged.
    fn or_fillers(
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
        match coded.first() {
            Some(&method::BESIDE_FORECASTS) => self.codes_beside_forecasts(variable, tile),
            _ => tile_codes(&coded, dtype, &region),
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

    /// The values of a variable in a box (one range an axis), in C order. Only tiles that the box touches are read.
    ///
    /// # Errors
    /// `Usage` if the box leaves the variable or has more than a few billion values, else as [`Archive::tile`].
    pub fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let shape = &self.variable(variable)?.plan.tiling.shape;
        let fits =
            region.len() == shape.len() && region.iter().zip(shape).all(|(r, &n)| r.start <= r.end && r.end <= n);
        if !fits {
            return Err(Error::usage(format!("box {region:?} does not fit the shape {shape:?}")));
        }
        let tiling: Tiling = self.variable(variable)?.plan.tiling.clone();
        let dtype = self.schema.variables[variable].dtype;
        let n = usize::try_from(tile::region_len(region)).map_err(|_| Error::usage("box is too large"))?;
        if n == 0 {
            return Ok(Values::zeros(dtype, 0));
        }
        let touched: Vec<u64> = tiling.touching(self.variable(variable)?.n_tiles(), region).collect();
        // Before the room for the result: tiles that are not there can not make us ask for it.
        let covered: u64 = touched.iter().map(|&t| tile::region_len(&tile::overlap(&tiling.region(t), region))).sum();
        if covered != n as u64 {
            return Err(Error::corrupt("the archive ends before this box"));
        }
        if let [tile] = touched[..]
            && tiling.region(tile) == region
        {
            return Ok(self.tile(variable, tile)?.1);
        }
        let mut out = Values::zeros(dtype, n);
        let bytes = |&t: &u64| tile::region_len(&tiling.region(t)) * dtype.size() as u64;
        for batch in tile::batches(touched.iter().map(bytes), DEFAULT_TILE_BYTES) {
            let wanted: Vec<_> = touched[batch].iter().map(|&t| (variable, t)).collect();
            for tile in self.tiles(&wanted) {
                let (from, values) = tile?;
                copy_values(&values, &from, &mut out, region)?;
            }
        }
        Ok(out)
    }

    /// All values of a variable.
    ///
    /// # Errors
    /// As [`Archive::read`].
    pub fn read_all(&mut self, variable: usize) -> Result<Values> {
        let region: Vec<_> = self.variable(variable)?.plan.tiling.shape.iter().map(|&n| 0..n).collect();
        self.read(variable, &region)
    }
}

/// The values of a box within another.
pub(crate) fn cut(from: &Values, from_region: &[Range<u64>], region: &[Range<u64>]) -> Result<Values> {
    let mut out = Values::zeros(from.dtype(), tile::region_len(region) as usize);
    copy_values(from, from_region, &mut out, region)?;
    Ok(out)
}

pub(crate) fn copy_values(
    from: &Values,
    from_region: &[Range<u64>],
    to: &mut Values,
    to_region: &[Range<u64>],
) -> Result<()> {
    macro_rules! copy {
        ($($variant:ident),*) => {
            match (from, to) {
                $((Values::$variant(f), Values::$variant(t)) => tile::copy_overlap(f, from_region, t, to_region),)*
                _ => return Err(Error::corrupt("tile of another type")),
            }
        };
    }
    copy!(F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Char, Text);
    Ok(())
}

/// An error of damage, with what can be done.
fn advised(e: &Error) -> Error {
    Error::corrupt(format!("{e}; `residuum decompress --recover` restores what is whole"))
}

fn read_index<R: Read + Seek>(input: &mut R, file_len: u64, version: u16) -> Result<Index> {
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

/// Number of CBOR items, nested ones included, as far as the bytes are CBOR.
fn n_items(mut rest: &[u8]) -> usize {
    let mut n = 0;
    while let [head, tail @ ..] = rest {
        n += 1;
        let n_bytes = match head & 31 {
            0..=23 | 31 => 0,
            k @ 24..=27 => 1 << (k - 24),
            _ => break,
        };
        let Some((number, tail)) = tail.split_at_checked(n_bytes) else { break };
        let number = number.iter().fold(0, |n, &b| n << 8 | u64::from(b));
        let number = if n_bytes == 0 { u64::from(head & 31) } else { number };
        // Bytes and texts are followed by as many bytes.
        let content = if matches!(head >> 5, 2 | 3) && head & 31 != 31 { number } else { 0 };
        let Some(tail) = usize::try_from(content).ok().and_then(|c| tail.get(c..)) else { break };
        rest = tail;
    }
    n
}

/// Says if a serialized schema is beyond the caps: a byte of it may become a hundred in memory.
fn schema_excess(plain: &[u8]) -> Option<String> {
    use minicbor::decode::{Decoder, Error};
    if plain.len() > limits::MAX_SCHEMA_BYTES {
        return Some(format!("names and attributes of more than {} MiB", limits::MAX_SCHEMA_BYTES >> 20));
    }
    if n_items(plain) > limits::MAX_SCHEMA_ITEMS {
        return Some(format!("names, lengths and attributes of more than {} items", limits::MAX_SCHEMA_ITEMS));
    }
    let lists = || -> Result<Option<&str>, Error> {
        let mut decoder = Decoder::new(plain);
        decoder.array()?;
        decoder.skip()?;
        for list in ["groups", "dimensions", "variables"] {
            match decoder.array()? {
                Some(n) if n <= limits::MAX_SCHEMA_OBJECTS => (0..n).try_for_each(|_| decoder.skip())?,
                _ => return Ok(Some(list)),
            }
        }
        Ok(None)
    };
    match lists() {
        Ok(list) => list.map(|list| format!("more than {} {list}", limits::MAX_SCHEMA_OBJECTS)),
        Err(e) => Some(e.to_string()),
    }
}

fn read_schema(input: &mut impl Read) -> Result<Schema> {
    let (k, payload, _) = section::read(input, limits::MAX_SCHEMA_BYTES as u64)?;
    if k != kind::SCHEMA {
        return Err(Error::corrupt("schema is missing"));
    }
    let plain = bytes::Reader::new(&payload).packed(limits::MAX_SCHEMA_BYTES)?;
    if let Some(excess) = schema_excess(&plain) {
        return Err(Error::corrupt(format!("schema is damaged: {excess}")));
    }
    let schema: Schema = minicbor::decode(&plain).map_err(|e| Error::corrupt(format!("schema is damaged: {e}")))?;
    let total = |shape: &[u64]| shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let sound = schema.variables.iter().all(|v| {
        v.shape.len() <= 64
            && total(&v.shape).is_some()
            && v.dimensions.iter().all(|&d| (d as usize) < schema.dimensions.len())
            && (v.dimensions.is_empty() || v.dimensions.len() == v.shape.len())
    });
    if sound { Ok(schema) } else { Err(Error::corrupt("schema is damaged")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Format;

    #[test]
    fn schemas_beyond_the_caps_are_refused_before_they_are_decoded() {
        let mut schema = Schema::single(Format::Raw, "x", DType::F32, &[0]);
        let size = |schema: &Schema| schema_excess(&minicbor::to_vec(schema).unwrap());
        assert_eq!(size(&schema), None);
        let one = schema.variables[0].clone();
        schema.variables = vec![one.clone(); limits::MAX_SCHEMA_OBJECTS as usize + 1];
        assert!(size(&schema).unwrap().contains("variables"));
        assert_eq!(Writer::new(Vec::new(), &schema).err().unwrap().kind(), Kind::Usage);
        schema.variables = vec![one];
        let value = crate::io::AttributeValue::Texts(vec![String::new(); limits::MAX_SCHEMA_ITEMS]);
        schema.groups[0].attributes.push(crate::io::Attribute { name: "a".into(), value });
        assert!(size(&schema).unwrap().contains("items"));
    }
}
