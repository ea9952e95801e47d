//! What is measured of a file, copied to a folder of its own: the variables chosen, with their coordinates, in the ranges chosen, unpacked
//! if asked for. Copied block by block: disk grows with the data, memory does not.

use super::suite::{Dataset, parse_range};
use crate::bound::Stats;
use crate::compress::statistics;
use crate::error::{Context, Error, Result};
use crate::field::{DType, Float, Values};
use crate::io::select::{NamedRange, Selection};
use crate::io::unpack::UnpackedSource;
use crate::io::{self, Format, OpenOptions, Schema, Source};
use crate::tile::Tiling;
use std::path::{Path, PathBuf};

/// Values read at once.
pub const BLOCK_VALUES: u64 = 1 << 22;

/// A file's part, in a temporary folder.
pub struct Extract {
    /// Where archives and restored files go too.
    pub folder: tempfile::TempDir,
    /// Variables to measure, and why others can not be.
    pub fields: Vec<(String, Result<Field, String>)>,
}

/// A variable.
#[derive(Clone)]
pub struct Field {
    /// Index in [`Extract::path`].
    pub index: usize,
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// f32 or f64.
    pub dtype: DType,
    /// Fill value.
    pub fill: Option<u64>,
    /// Of values that are not special.
    pub stats: Stats,
    /// Degrees of the rows of an image, if they are latitudes.
    pub latitudes: Option<Vec<f64>>,
}

/// Opens a dataset's file.
fn open(dataset: &Dataset, file: &Path) -> Result<Box<dyn Source>> {
    let source = io::open(file, &OpenOptions::default()).context(|| file.display().to_string())?;
    Ok(if dataset.unpack { Box::new(UnpackedSource::new(source)?) } else { source })
}

/// Names of the variables to measure.
///
/// # Errors
/// If they are those of a file that can not be read.
pub fn variables(dataset: &Dataset, file: &Path) -> Result<Vec<String>> {
    if !dataset.variables.is_empty() {
        return Ok(dataset.variables.clone());
    }
    let source = open(dataset, file)?;
    let coordinates = source.schema().coordinates();
    let fields = source.schema().variables.iter().zip(coordinates);
    let fields = fields.filter(|(v, c)| v.dtype.is_float() && v.shape.len() > 1 && !c);
    Ok(fields.map(|(v, _)| v.name().to_string()).collect())
}

impl Extract {
    /// Copies `names` of `file`.
    ///
    /// # Errors
    /// If the file can not be read, or none of the variables can.
    pub fn new(dataset: &Dataset, file: &Path, names: &[String]) -> Result<Self> {
        let mut source = open(dataset, file)?;
        let schema = source.schema().clone();
        let check = |name: &String| {
            let v = &schema.variables[schema.find(name)?];
            if !v.dtype.is_float() {
                return Err(Error::usage(format!("{name} is stored as {}, which is kept exactly", v.dtype)));
            }
            let unreadable = source.unreadable().iter().find(|u| u.name == v.name());
            unreadable.map_or(Ok(()), |u| Err(Error::unsupported(u.reason.clone())))
        };
        let mut failed: Vec<Option<Error>> = names.iter().map(|name| check(name).err()).collect();
        let readable: Vec<String> =
            names.iter().zip(&failed).filter(|(_, e)| e.is_none()).map(|(n, _)| n.clone()).collect();
        if readable.is_empty() {
            return Err(failed.iter_mut().find_map(Option::take).unwrap_or_else(|| Error::usage("no variables")));
        }
        let mut selection = Selection::all(&schema);
        selection.keep(&readable, true)?;
        for (dimension, range) in &dataset.ranges {
            let (start, end) = parse_range(range).unwrap_or((0, None));
            selection.crop(&NamedRange { dimension: dimension.clone(), start, end })?;
        }
        // A format that holds all of them.
        selection.schema.format = Format::NetCdf4;
        let folder = tempfile::tempdir()?;
        let mut sink = io::create(&folder.path().join(ORIGINAL), &selection.schema, Format::NetCdf4, true)?;
        let mut stats = vec![Stats::default(); selection.parts.len()];
        for (i, (v, (from, part))) in selection.schema.variables.iter().zip(&selection.parts).enumerate() {
            let fill = selection.schema.fill_bits(i);
            let tiling = Tiling::new(&v.shape, BLOCK_VALUES);
            for t in 0..tiling.count() {
                let to = tiling.region(t);
                let there: Vec<_> = to.iter().zip(part).map(|(t, p)| p.start + t.start..p.start + t.end).collect();
                let values = source.read(*from, &there).context(|| v.name())?;
                stats[i] = stats[i].merged(match &values {
                    Values::F32(v) => statistics(v, fill.map(Float::from_bits)),
                    Values::F64(v) => statistics(v, fill.map(Float::from_bits)),
                    _ => Stats::default(),
                });
                sink.write(i, &to, &values)?;
            }
        }
        sink.finish()?;
        let copy = io::open(&folder.path().join(ORIGINAL), &OpenOptions::default())?.schema().clone();
        let mut fields = vec![];
        for (name, failed) in names.iter().zip(failed) {
            let field = match failed {
                Some(e) => Err(e.to_string()),
                None => {
                    let index = copy.find(name)?;
                    let v = &copy.variables[index];
                    let of = selection.schema.find(name)?;
                    Ok(Field {
                        index,
                        name: name.clone(),
                        shape: v.shape.clone(),
                        dtype: v.dtype,
                        fill: copy.fill_bits(index),
                        stats: stats[of],
                        latitudes: latitudes(folder.path(), &copy, index),
                    })
                }
            };
            fields.push((name.clone(), field));
        }
        Ok(Self { folder, fields })
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The values of the copy.
    ///
    /// # Errors
    /// `Io`.
    pub fn original(&self) -> Result<Box<dyn Source>> {
        io::open(&self.path(ORIGINAL), &OpenOptions::default())
    }

    /// A raw file of a field's shape and type.
    ///
    /// # Errors
    /// If it has another size.
    pub fn raw(&self, name: &str, field: &Field) -> Result<Box<dyn Source>> {
        let options = OpenOptions { shape: Some(field.shape.clone()), dtype: Some(field.dtype) };
        io::open(&self.path(name), &options)
    }

    /// Writes a field's values to a raw file.
    ///
    /// # Errors
    /// `Io`.
    pub fn write_raw(&self, name: &str, field: &Field) -> Result<()> {
        let schema = Schema::single(Format::Raw, "data", field.dtype, &field.shape);
        let mut sink = io::create(&self.path(name), &schema, Format::Raw, true)?;
        let mut source = self.original()?;
        let tiling = Tiling::new(&field.shape, BLOCK_VALUES);
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            sink.write(0, &region, &source.read(field.index, &region)?)?;
        }
        sink.finish()
    }
}

/// Name of the copy.
pub const ORIGINAL: &str = "original.nc";

/// Degrees of the last axis but one.
fn latitudes(folder: &Path, schema: &Schema, index: usize) -> Option<Vec<f64>> {
    let v = &schema.variables[index];
    let axis = v.shape.len().checked_sub(2)?;
    let name = io::leaf(&schema.dimensions[*v.dimensions.get(axis)? as usize].path);
    if !name.to_lowercase().starts_with("lat") {
        return None;
    }
    let own = schema.variables.iter().position(|c| io::leaf(&c.path) == name && c.shape == [v.shape[axis]])?;
    let whole = 0..v.shape[axis];
    match io::open(&folder.join(ORIGINAL), &OpenOptions::default())
        .ok()?
        .read(own, std::slice::from_ref(&whole))
        .ok()?
    {
        Values::F32(v) => Some(v.into_iter().map(f64::from).collect()),
        Values::F64(v) => Some(v),
        _ => None,
    }
}

impl Field {
    /// Number of values.
    pub fn n_values(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes of the values.
    pub fn bytes(&self) -> u64 {
        self.n_values() * self.dtype.size() as u64
    }

    /// Weight of a row of images: the cosine of its latitude.
    pub fn weight(&self, row: usize) -> f64 {
        match &self.latitudes {
            Some(l) => l[row % l.len()].to_radians().cos().max(0.0),
            None => 1.0,
        }
    }

    /// Values as f64, NaN where they are special.
    pub fn numbers(&self, values: &Values) -> Vec<f64> {
        match values {
            Values::F32(v) => {
                let fill = self.fill.map(|bits| f32::from_bits(bits as u32));
                v.iter().map(|&x| if fill == Some(x) { f64::NAN } else { x.into() }).collect()
            }
            Values::F64(v) => {
                let fill = self.fill.map(f64::from_bits);
                v.iter().map(|&x| if fill == Some(x) { f64::NAN } else { x }).collect()
            }
            _ => vec![],
        }
    }
}
