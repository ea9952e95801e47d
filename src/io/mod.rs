//! File formats: what a data set is, and how its values are read and written piece by piece.
//!
//! [`Schema`] describes a file of any format: groups, dimensions, variables, attributes. A [`Source`] reads boxes of
//! variables, a [`Sink`] writes them, neither ever holding a whole variable, so that memory stays bounded however
//! large the file is. A new format is one file in this folder and one line in [`open`] or [`create`].

pub mod netcdf;
pub mod npy;
pub(crate) mod part;
pub mod raw;
pub mod unpack;
pub mod zarr;

use crate::error::{Error, Result};
use crate::field::{DType, Values};
use minicbor::{Decode, Encode};
use std::ops::Range;
use std::path::Path;

/// File formats that residuum reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Format {
    /// Raw little-endian values of one variable, without any header.
    #[n(0)]
    Raw,
    /// NumPy `.npy`, one variable.
    #[n(1)]
    Npy,
    /// NetCDF classic (CDF-1).
    #[n(2)]
    NetCdf3,
    /// NetCDF 64-bit offset (CDF-2).
    #[n(3)]
    NetCdf3Offset64,
    /// NetCDF 64-bit data (CDF-5).
    #[n(4)]
    NetCdf5,
    /// NetCDF-4 (HDF5).
    #[n(5)]
    NetCdf4,
    /// Zarr version 2 folder.
    #[n(6)]
    Zarr2,
    /// Zarr version 3 folder.
    #[n(7)]
    Zarr3,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[allow(missing_docs)] // one variant per element type
pub enum AttributeValue {
    /// One text, as stored (NetCDF `NC_CHAR`).
    #[n(0)]
    Text(#[n(0)] String),
    /// Texts (NetCDF-4 `NC_STRING`).
    #[n(1)]
    Texts(#[n(0)] Vec<String>),
    #[n(2)]
    F32(#[n(0)] Vec<f32>),
    #[n(3)]
    F64(#[n(0)] Vec<f64>),
    #[n(4)]
    I8(#[n(0)] Vec<i8>),
    #[n(5)]
    I16(#[n(0)] Vec<i16>),
    #[n(6)]
    I32(#[n(0)] Vec<i32>),
    #[n(7)]
    I64(#[n(0)] Vec<i64>),
    #[n(8)]
    U8(#[n(0)] Vec<u8>),
    #[n(9)]
    U16(#[n(0)] Vec<u16>),
    #[n(10)]
    U32(#[n(0)] Vec<u32>),
    #[n(11)]
    U64(#[n(0)] Vec<u64>),
    /// Any other value, as JSON text (Zarr attributes may be objects, lists of mixed type, booleans or null).
    #[n(12)]
    Json(#[n(0)] String),
}

/// A name with a value.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Attribute {
    /// Name, as in the file.
    #[n(0)]
    pub name: String,
    /// Value, with its type.
    #[n(1)]
    pub value: AttributeValue,
}

/// A group; the first of a schema is the root, `/`.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Group {
    /// Absolute path: `/` or `/forecast/surface`.
    #[n(0)]
    pub path: String,
    /// Attributes; those of the root are the file's global attributes.
    #[n(1)]
    pub attributes: Vec<Attribute>,
}

/// A named dimension.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Dimension {
    /// Absolute path: `/time` or `/forecast/x`.
    #[n(0)]
    pub path: String,
    /// Length.
    #[n(1)]
    pub len: u64,
    /// Whether the file may grow along it.
    #[n(2)]
    pub unlimited: bool,
}

/// A variable: type, shape and attributes, without values.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Variable {
    /// Absolute path: `/t2m` or `/forecast/t2m`.
    #[n(0)]
    pub path: String,
    /// Element type as stored in the file (packed variables: the packed integers).
    #[n(1)]
    pub dtype: DType,
    /// Lengths of the dimensions, slowest first; empty for a scalar.
    #[n(2)]
    pub shape: Vec<u64>,
    /// Indices into [`Schema::dimensions`], as many as `shape` has entries; empty if the format has no named dimensions.
    #[n(3)]
    pub dimensions: Vec<u32>,
    /// Attributes, in the file's order, `_FillValue` included.
    #[n(4)]
    pub attributes: Vec<Attribute>,
    /// Chunk lengths in the file, if it is stored in chunks: a hint for restoring it alike.
    #[n(5)]
    pub chunks: Option<Vec<u64>>,
}

impl Variable {
    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&AttributeValue> {
        self.attributes.iter().find(|a| a.name == name).map(|a| &a.value)
    }

    /// Bits of the fill value of a floating-point variable: its `_FillValue`, else its `missing_value`, as the variable's type.
    pub fn fill_bits(&self) -> Option<u64> {
        self.fill_bits_of("_FillValue").or_else(|| self.fill_bits_of("missing_value"))
    }

    /// Whether `_FillValue` and `missing_value` name two different values, or there are several of them.
    pub fn has_several_fill_values(&self) -> bool {
        let (a, b) = (self.fill_bits_of("_FillValue"), self.fill_bits_of("missing_value"));
        let several = |v: Option<&AttributeValue>| match v {
            Some(AttributeValue::F32(v)) => v.len() > 1,
            Some(AttributeValue::F64(v)) => v.len() > 1,
            _ => false,
        };
        (a.is_some() && b.is_some() && a != b) || several(self.attribute("missing_value"))
    }

    fn fill_bits_of(&self, name: &str) -> Option<u64> {
        let value = self.attribute(name)?;
        let first = match value {
            AttributeValue::F32(v) => v.first().map(|&v| f64::from(v)),
            AttributeValue::F64(v) => v.first().copied(),
            AttributeValue::I64(v) => v.first().map(|&v| v as f64),
            AttributeValue::I32(v) => v.first().map(|&v| f64::from(v)),
            AttributeValue::I16(v) => v.first().map(|&v| f64::from(v)),
            _ => None,
        };
        // All NaN are special already.
        let value = first.filter(|v| !v.is_nan())?;
        match self.dtype {
            DType::F32 => Some(u64::from((value as f32).to_bits())),
            DType::F64 => Some(value.to_bits()),
            _ => None,
        }
    }

    /// The path without the leading slash: what a user types and sees.
    pub fn name(&self) -> &str {
        self.path.trim_start_matches('/')
    }
}

/// What a file holds besides values.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Schema {
    /// The format it was read from, and the default for restoring it.
    #[n(0)]
    pub format: Format,
    /// Groups, parents before children, the root first.
    #[n(1)]
    pub groups: Vec<Group>,
    /// Dimensions of all groups.
    #[n(2)]
    pub dimensions: Vec<Dimension>,
    /// Variables of all groups, in the file's order.
    #[n(3)]
    pub variables: Vec<Variable>,
}

impl Schema {
    /// Whether a variable locates others: it is named like its dimension, or another's `coordinates`, `bounds` or `grid_mapping`
    /// attribute names it.
    pub fn is_coordinate(&self, variable: usize) -> bool {
        let v = &self.variables[variable];
        let leaf = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
        let own = leaf(&v.path);
        let of_own_dimension =
            v.dimensions.len() == 1 && v.dimensions.iter().any(|&d| leaf(&self.dimensions[d as usize].path) == own);
        let names = |a: &Attribute| match &a.value {
            AttributeValue::Text(t)
                if ["coordinates", "bounds", "climatology", "grid_mapping"].contains(&a.name.as_str()) =>
            {
                t.split_whitespace().any(|word| word.trim_end_matches(':') == own)
            }
            _ => false,
        };
        let attributes =
            self.variables.iter().flat_map(|v| &v.attributes).chain(self.groups.iter().flat_map(|g| &g.attributes));
        of_own_dimension || attributes.into_iter().any(names)
    }

    /// A schema of one variable with unnamed dimensions, as `.npy` and raw files have.
    pub fn single(format: Format, name: &str, dtype: DType, shape: &[u64]) -> Self {
        Self {
            format,
            groups: vec![Group { path: "/".into(), attributes: vec![] }],
            dimensions: vec![],
            variables: vec![Variable {
                path: format!("/{name}"),
                dtype,
                shape: shape.to_vec(),
                dimensions: vec![],
                attributes: vec![],
                chunks: None,
            }],
        }
    }
}

/// A file to read from.
pub trait Source: Send {
    /// What the file holds.
    fn schema(&self) -> &Schema;

    /// The values of variable `variable` (an index into the schema) in the box `region` (one range a dimension; empty
    /// for a scalar), in C order.
    ///
    /// # Errors
    /// `Input` or `Io` if the file can not be read there.
    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values>;
}

/// A file to write to. Nothing stands under the final name before [`Sink::finish`] returns.
pub trait Sink: Send {
    /// Writes the box `region` of variable `variable`. Boxes of one variable come in C order of their first elements and
    /// cover it exactly once; variables come one after the other, in the schema's order.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()>;

    /// Completes the file and gives it its final name.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// How to read files that do not describe themselves.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Shape of a raw file, slowest dimension first.
    pub shape: Option<Vec<u64>>,
    /// Element type of a raw file.
    pub dtype: Option<DType>,
}

/// The format that a path's ending names, if any: `.nc .nc4 .cdf .netcdf` (NetCDF-4), `.npy`, `.zarr` (version 3),
/// `.f32 .f64 .bin .raw .dat` (raw).
pub fn format_of_path(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "nc" | "nc4" | "cdf" | "netcdf" => Some(Format::NetCdf4),
        "npy" => Some(Format::Npy),
        "zarr" => Some(Format::Zarr3),
        "f32" | "f64" | "bin" | "raw" | "dat" => Some(Format::Raw),
        _ => None,
    }
}

/// Opens a file or Zarr folder for reading, by its content first and its ending second. A shape in `options` makes it raw.
///
/// # Errors
/// `Input` if the format is not known or the file is damaged, `Io` if it can not be read, `Usage` if a raw file lacks its shape.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Source>> {
    if options.shape.is_some() {
        return Ok(Box::new(raw::RawSource::open(path, options)?));
    }
    if path.is_dir() {
        return Ok(Box::new(zarr::ZarrSource::open(path)?));
    }
    let mut magic = [0u8; 8];
    let n = {
        use std::io::Read;
        let mut file = std::fs::File::open(path)?;
        let mut n = 0;
        while n < magic.len() {
            match file.read(&mut magic[n..])? {
                0 => break,
                k => n += k,
            }
        }
        n
    };
    match &magic[..n] {
        m if m.starts_with(b"\x93NUMPY") => Ok(Box::new(npy::NpySource::open(path)?)),
        m if m.starts_with(b"CDF") || m.starts_with(b"\x89HDF") => Ok(Box::new(netcdf::NetCdfSource::open(path)?)),
        m if m.starts_with(b"GRIB") => Err(Error::unsupported(
            "GRIB is not read directly: convert it with `cdo -f nc4 copy` or `grib_to_netcdf` first",
        )),
        _ => Err(Error::input("not a NetCDF, .npy or Zarr input; for raw binary values give --shape and --dtype")),
    }
}

/// Creates a file or Zarr folder of `format` that will hold what `schema` says.
///
/// # Errors
/// `Usage` if the format can not hold the schema, `Io` if the place can not be written, or exists and `force` is not set.
pub fn create(path: &Path, schema: &Schema, format: Format, force: bool) -> Result<Box<dyn Sink>> {
    if path.exists() && !force {
        return Err(Error::usage("exists already; --force overwrites it"));
    }
    match format {
        Format::Raw => Ok(Box::new(raw::RawSink::create(path, schema, force)?)),
        Format::Npy => Ok(Box::new(npy::NpySink::create(path, schema, force)?)),
        Format::NetCdf3 | Format::NetCdf3Offset64 | Format::NetCdf5 | Format::NetCdf4 => {
            Ok(Box::new(netcdf::NetCdfSink::create(path, schema, format, force)?))
        }
        Format::Zarr2 | Format::Zarr3 => Ok(Box::new(zarr::ZarrSink::create(path, schema, format, force)?)),
    }
}
