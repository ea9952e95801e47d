//! File formats: what a data set is, and how its values are read and written piece by piece.
//!
//! [`Schema`] describes a file of any format: groups, dimensions, variables, attributes. A [`Source`] reads boxes of
//! variables, a [`Sink`] writes them, neither ever holding a whole variable, so that memory stays bounded however
//! large the file is. A new format is one file in this folder and one line in [`open`] or [`create`].

pub mod netcdf;
pub mod npy;
pub(crate) mod part;
pub mod raw;
pub(crate) mod select;
pub mod unpack;
pub mod zarr;

use crate::error::{Error, Result};
use crate::field::{DType, Values};
use minicbor::{Decode, Encode};
use std::collections::HashSet;
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

impl AttributeValue {
    /// The numbers that it holds; also those written as text or JSON.
    pub fn floats(&self) -> Vec<f64> {
        fn all<T: Copy>(values: &[T], float: impl Fn(T) -> f64) -> Vec<f64> {
            values.iter().map(|&v| float(v)).collect()
        }
        fn parsed(text: &str) -> Vec<f64> {
            let words = text.split([' ', ',']).filter(|w| !w.is_empty()).map(|w| w.trim_matches('\0').parse());
            words.collect::<Result<_, _>>().unwrap_or_default()
        }
        match self {
            Self::Text(text) => parsed(text),
            Self::Texts(texts) => texts.iter().flat_map(|t| parsed(t)).collect(),
            Self::Json(text) => parsed(text.trim().trim_start_matches('[').trim_end_matches(']')),
            Self::F32(v) => all(v, f64::from),
            Self::F64(v) => v.clone(),
            Self::I8(v) => all(v, f64::from),
            Self::I16(v) => all(v, f64::from),
            Self::I32(v) => all(v, f64::from),
            Self::I64(v) => all(v, |v| v as f64),
            Self::U8(v) => all(v, f64::from),
            Self::U16(v) => all(v, f64::from),
            Self::U32(v) => all(v, f64::from),
            Self::U64(v) => all(v, |v| v as f64),
        }
    }

    /// The words of its text or texts, as attributes that name variables have them.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::Text(text) => std::slice::from_ref(text),
            Self::Texts(texts) => texts,
            _ => &[],
        };
        texts.iter().flat_map(|text| text.split_whitespace()).map(|word| word.trim_end_matches(':'))
    }

    /// The whole numbers among [`AttributeValue::floats`], without rounding those of 64 bits.
    pub fn integers(&self) -> Vec<i128> {
        match self {
            Self::I64(v) => v.iter().map(|&x| x.into()).collect(),
            Self::U64(v) => v.iter().map(|&x| x.into()).collect(),
            other => other.floats().into_iter().filter(|x| x.fract() == 0.0).map(|x| x as i128).collect(),
        }
    }
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

    /// Bits of the values that the attributes `_FillValue` and `missing_value` of a floating-point variable name, as the variable's type,
    /// each once, `_FillValue` first. NaN is none of them: it is special already.
    pub fn fill_values(&self) -> Vec<u64> {
        let mut found = Vec::new();
        for value in ["_FillValue", "missing_value"].iter().filter_map(|name| self.attribute(name)) {
            for number in value.floats().into_iter().filter(|v| !v.is_nan()) {
                let bits = match self.dtype {
                    DType::F32 => u64::from((number as f32).to_bits()),
                    DType::F64 => number.to_bits(),
                    _ => continue,
                };
                if !found.contains(&bits) {
                    found.push(bits);
                }
            }
        }
        found
    }

    /// Whether `_FillValue` and `missing_value` name different values, or several.
    pub fn has_several_fill_values(&self) -> bool {
        self.fill_values().len() > 1
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

/// Attributes that name the variables which locate another.
pub(crate) const LOCATING: [&str; 4] = ["coordinates", "bounds", "climatology", "grid_mapping"];

/// The last component of a path in a file.
pub(crate) fn leaf(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

impl Schema {
    /// Index of the variable with this path or name.
    ///
    /// # Errors
    /// `Usage`, with the names that there are.
    pub fn find(&self, name: &str) -> Result<usize> {
        let wanted = name.trim_start_matches('/');
        self.variables.iter().position(|v| v.name() == wanted).ok_or_else(|| {
            let names: Vec<_> = self.variables.iter().map(Variable::name).collect();
            Error::usage(format!("no variable {name:?}; there are: {}", names.join(", ")))
        })
    }

    /// For each variable, whether it locates others: it is named like its dimension, or another's `coordinates`, `bounds` or
    /// `grid_mapping` attribute names it.
    pub fn coordinates(&self) -> Vec<bool> {
        let attributes =
            self.variables.iter().flat_map(|v| &v.attributes).chain(self.groups.iter().flat_map(|g| &g.attributes));
        let named: HashSet<&str> =
            attributes.filter(|a| LOCATING.contains(&a.name.as_str())).flat_map(|a| a.value.words()).collect();
        let is_coordinate = |v: &Variable| {
            let own = leaf(&v.path);
            let of_own_dimension = matches!(v.dimensions[..], [d] if leaf(&self.dimensions[d as usize].path) == own);
            of_own_dimension || named.contains(own)
        };
        self.variables.iter().map(is_coordinate).collect()
    }

    /// Bits of the one value that stands for missing data in a floating-point variable: what its attributes name, else what the format
    /// puts where nothing was written.
    pub fn fill_bits(&self, variable: usize) -> Option<u64> {
        self.variables[variable].fill_values().first().copied().or_else(|| self.unwritten_bits(variable))
    }

    /// Bits of [`Schema::unwritten`], of a floating-point variable. Where `missing_value` names another value, both may occur.
    pub fn unwritten_bits(&self, variable: usize) -> Option<u64> {
        match self.unwritten(&self.variables[variable])? {
            Values::F32(x) => x.first().map(|x| u64::from(x.to_bits())),
            Values::F64(x) => x.first().map(|x| x.to_bits()),
            _ => None,
        }
    }

    /// The value that stands where nothing was ever written, if it is none that data would have: NetCDF's default fill value of variables
    /// without `_FillValue` (bytes have none by convention), the `fill_value` of floats in Zarr version 3 but 0.
    pub fn unwritten(&self, v: &Variable) -> Option<Values> {
        if v.attribute("_FillValue").is_some() {
            return None;
        }
        match self.format {
            Format::NetCdf3 | Format::NetCdf3Offset64 | Format::NetCdf5 | Format::NetCdf4 => {
                (v.dtype.size() > 1).then(|| netcdf::default_fill(v.dtype))
            }
            Format::Zarr3 if v.dtype.is_float() => {
                let number =
                    *v.attribute(zarr::FILL_VALUE)?.floats().first().filter(|&&x| x.is_finite() && x != 0.0)?;
                Some(if v.dtype == DType::F32 { Values::F32(vec![number as f32]) } else { Values::F64(vec![number]) })
            }
            _ => None,
        }
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

    /// Variables of the file that are not in the schema, because this version can not read values of their type.
    fn unreadable(&self) -> &[Unreadable] {
        &[]
    }

    /// What a user should know of what was read so far, a line each: attributes left out, text not kept as it is. Each is said once.
    fn warnings(&mut self) -> Vec<String> {
        vec![]
    }
}

/// A variable that can not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its path without the leading slash.
    pub name: String,
    /// Why.
    pub reason: String,
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
    match Content::of(path)? {
        Content::Npy => Ok(Box::new(npy::NpySource::open(path)?)),
        Content::NetCdf => Ok(Box::new(netcdf::NetCdfSource::open(path)?)),
        Content::Grib => Err(Error::unsupported(
            "GRIB is not read directly: convert it with `cdo -f nc4 copy` or `grib_to_netcdf` first",
        )),
        Content::Archive => Err(Error::input("is an archive of residuum already")),
        Content::Unknown => Err(Error::input(
            "not a NetCDF, .npy or Zarr input; of raw binary values compress must be told --shape and --dtype, and verify takes them from \
             an archive of one variable",
        )),
    }
}

/// Whether a file or Zarr folder says itself what it holds, so that no shape needs to be named for it.
///
/// # Errors
/// `Io` if it can not be read.
pub(crate) fn describes_itself(path: &Path) -> Result<bool> {
    Ok(path.is_dir() || !matches!(Content::of(path)?, Content::Unknown))
}

/// What the first bytes of a file are those of.
enum Content {
    Npy,
    NetCdf,
    Grib,
    Archive,
    Unknown,
}

impl Content {
    fn of(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut start = Vec::new();
        std::fs::File::open(path)?.take(8).read_to_end(&mut start)?;
        Ok(match &start[..] {
            m if m.starts_with(b"\x93NUMPY") => Self::Npy,
            m if m.starts_with(b"CDF") || m.starts_with(b"\x89HDF") => Self::NetCdf,
            m if m.starts_with(b"GRIB") => Self::Grib,
            m if m == crate::container::section::MAGIC => Self::Archive,
            _ => Self::Unknown,
        })
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
