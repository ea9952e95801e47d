//! NetCDF: the classic formats (CDF-1, CDF-2, CDF-5) and NetCDF-4 (HDF5).
//!
//! Both families are read and written with positioned reads and writes, box by box, so memory does not grow with the
//! file. The classic formats are ours from end to end: the header is small and values lie at computed places.
//! NetCDF-4 is read with `hdf5-reader`; it is written by `hdf5`, since the crates that write HDF5 build the file in
//! memory and do not keep the order of variables.
//!
//! What a restored NetCDF-4 file does not keep: compression (chunk lengths are kept), big-endian storage, and the mark
//! of the classic model (`NETCDF4_CLASSIC`). An attribute text of more than 63 KiB becomes an `NC_STRING`.

mod classic;
mod hdf5;
mod positioned;
mod prepare;
mod regions;
mod values;

pub(super) use values::default_fill;

use super::part::{PartFile, Purpose};
use super::{Format, Schema, Sink, Source, Unreadable};
use crate::error::{Context, Error, Result};
use crate::field::Values;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// A NetCDF file to read from.
pub struct NetCdfSource {
    reader: Reader,
}

enum Reader {
    Classic(classic::read::Reader),
    Hdf5(hdf5::read::Reader),
}

impl NetCdfSource {
    /// Opens a NetCDF file of any format and reads its header.
    ///
    /// # Errors
    /// `Io` if the file can not be read, `Input` if it is damaged or not NetCDF. Variables of user-defined types are among
    /// [`Source::unreadable`]; attributes of such types are left out with a warning.
    pub fn open(path: &Path) -> Result<Self> {
        let mut magic = Vec::with_capacity(4);
        File::open(path)?.take(4).read_to_end(&mut magic)?;
        let reader = if magic.starts_with(b"CDF") {
            Reader::Classic(classic::read::Reader::open(path)?)
        } else {
            Reader::Hdf5(hdf5::read::Reader::open(path)?)
        };
        Ok(Self { reader })
    }
}

impl Source for NetCdfSource {
    fn schema(&self) -> &Schema {
        match &self.reader {
            Reader::Classic(reader) => &reader.schema,
            Reader::Hdf5(reader) => &reader.schema,
        }
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let v = regions::variable(self.schema(), variable)?;
        regions::check(&v.shape, region).context(|| format!("variable {:?}", v.name()))?;
        let name = v.name().to_string();
        match &mut self.reader {
            Reader::Classic(reader) => reader.read(variable, region),
            Reader::Hdf5(reader) => reader.read(variable, region),
        }
        .context(|| format!("variable {name:?}"))
    }

    fn unreadable(&self) -> &[Unreadable] {
        match &self.reader {
            Reader::Classic(_) => &[],
            Reader::Hdf5(reader) => &reader.unreadable,
        }
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(match &mut self.reader {
            Reader::Classic(reader) => &mut reader.warnings,
            Reader::Hdf5(reader) => &mut reader.warnings,
        })
    }
}

/// A NetCDF file to write to, under a temporary name until it is complete.
pub struct NetCdfSink {
    part: PartFile,
    schema: Schema,
    writer: Writer,
    /// Elements of each variable that are still to come.
    missing: Vec<u64>,
}

enum Writer {
    Classic(classic::write::Writer),
    Hdf5(hdf5::write::Writer),
}

impl NetCdfSink {
    /// Creates a NetCDF file of `format` that will hold what `schema` says.
    ///
    /// Dimensions without names become `dim_0`, `dim_1`, …, one for each length.
    ///
    /// # Errors
    /// `Usage` if the format can not hold the schema, `Io` if the place can not be written.
    pub fn create(path: &Path, schema: &Schema, format: Format, force: bool) -> Result<Self> {
        let schema = prepare::prepare(schema, format)?;
        let missing = schema.variables.iter().map(|v| v.len()).collect();
        let mut part = PartFile::create(path, Purpose::Restored, force)?;
        let writer = match format {
            Format::NetCdf4 => Writer::Hdf5(hdf5::write::Writer::create(part.file_mut(), &schema)?),
            _ => Writer::Classic(classic::write::Writer::create(part.file_mut(), &schema, format)?),
        };
        Ok(Self { part, schema, writer, missing })
    }
}

impl Sink for NetCdfSink {
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()> {
        let v = regions::variable(&self.schema, variable)?;
        let place = || format!("variable {:?}", v.name());
        regions::check(&v.shape, region).context(place)?;
        let n = regions::len(region);
        if values.dtype() != v.dtype || values.len() as u64 != n || n > self.missing[variable] {
            return Err(Error::usage(format!(
                "a box of {n} {} values was expected, {} {} values came with {} to go",
                v.dtype,
                values.len(),
                values.dtype(),
                self.missing[variable]
            )))
            .context(place);
        }
        let file = self.part.file_mut();
        match &mut self.writer {
            Writer::Classic(writer) => writer.write(file, variable, v, region, values),
            Writer::Hdf5(writer) => writer.write(file, variable, v, region, values),
        }
        .context(place)?;
        self.missing[variable] -= n;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if let Some(i) = self.missing.iter().position(|&n| n > 0) {
            let name = self.schema.variables[i].name();
            return Err(Error::usage(format!("variable {name:?} lacks {} values", self.missing[i])));
        }
        let file = self.part.file_mut();
        match self.writer {
            Writer::Classic(writer) => writer.finish(file)?,
            Writer::Hdf5(writer) => writer.finish(file)?,
        }
        self.part.finish()
    }
}

/// Parent group and own name of an absolute path: `/a/b` gives `/a` and `b`.
fn split_path(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => ("/", path),
    }
}

/// The path of `name` in the group `parent`.
fn join_path(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}
