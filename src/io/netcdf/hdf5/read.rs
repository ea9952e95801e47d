//! Reads NetCDF-4 files, and HDF5 files that NetCDF can make sense of.

use super::super::super::{Format, Group, Schema, Unreadable, Variable};
use super::super::{join_path, regions, values};
use super::attributes::{self, TextBytes, characters, error, until_zero};
use super::scales::{Array, Found, Scales, walk};
use super::{NOT_A_COORDINATE, RESERVED_OF_ARRAYS, RESERVED_OF_GROUPS};
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use hdf5_reader::{
    Dataset, Datatype, FileStorage, H5Type, Hdf5File, OpenOptions, SliceInfo, SliceInfoElem, Storage, StringSize,
};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Decoded chunks that are kept for the next box, which often needs the other half of them.
const CACHE_BYTES: usize = 32 << 20;

/// The largest chunk we decode. Chunks of many GiB are written by hand or by attackers.
const MAX_CHUNK_BYTES: usize = 1 << 30;

/// A NetCDF-4 file, open.
pub struct Reader {
    pub schema: Schema,
    datasets: Vec<Dataset>,
    pub unreadable: Vec<Unreadable>,
    pub warnings: Vec<String>,
    /// Variables with text that is not UTF-8, which was said already.
    not_utf8: HashSet<usize>,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let reader = Self::open_with_cache(path, CACHE_BYTES)?;
        // A chunk larger than the cache would be decoded again for every box in it.
        let largest = reader.schema.variables.iter().filter_map(chunk_bytes).max().unwrap_or(0);
        if largest > CACHE_BYTES as u64 { Self::open_with_cache(path, largest as usize) } else { Ok(reader) }
    }

    fn open_with_cache(path: &Path, cache_bytes: usize) -> Result<Self> {
        // Plain reads, not a memory map: mapped pages count as resident memory until someone else needs it.
        let storage = Arc::new(FileStorage::open(path).map_err(error)?);
        let bytes = storage.len();
        let options = OpenOptions::default().with_chunk_cache_bytes(cache_bytes).with_max_chunk_bytes(MAX_CHUNK_BYTES);
        let file = Hdf5File::from_storage_with_options(storage, options).map_err(error)?;
        // Headers come first, so that a truncated file looks whole until its last values are read.
        let end = file.superblock().eof_address;
        if bytes < end {
            return Err(Error::input(format!("the file is truncated: it has {bytes} bytes of {end}")));
        }
        let mut found = Found::default();
        walk(&file.root_group().map_err(error)?, "/", &mut found)?;
        let mut warnings = vec![];
        let mut groups = vec![];
        for (path, found) in found.groups {
            let place = format!("group {path:?}");
            let attributes =
                attributes::attributes(found, &RESERVED_OF_GROUPS, &place, &mut warnings).context(|| place)?;
            groups.push(Group { path, attributes });
        }

        let mut scales = Scales::find(&found.arrays);
        let arrays: Vec<Array> = found.arrays.into_iter().filter(|a| !a.is_dimension_only()).collect();
        // All arrays first: each may make a dimension longer.
        let dimensions: Vec<Vec<u32>> = arrays.iter().map(|a| scales.of(a)).collect();
        let mut variables = vec![];
        let mut datasets = vec![];
        let mut unreadable = vec![];
        for (array, dimensions) in arrays.into_iter().zip(dimensions) {
            let path = join_path(&array.group, array.name.strip_prefix(NOT_A_COORDINATE).unwrap_or(&array.name));
            let shape = scales.shape(&array, &dimensions);
            let name = path.trim_start_matches('/').to_string();
            match variable(array, path, shape, dimensions, &mut warnings) {
                Ok((v, dataset)) => {
                    variables.push(v);
                    datasets.push(dataset);
                }
                Err(e) if e.kind() == Kind::Unsupported => {
                    unreadable.push(Unreadable { name, reason: e.to_string() });
                }
                Err(e) => return Err(e).context(|| format!("variable {name:?}")),
            }
        }
        let schema = Schema { format: Format::NetCdf4, groups, dimensions: scales.dimensions, variables };
        Ok(Self { schema, datasets, unreadable, warnings, not_utf8: HashSet::new() })
    }

    /// The values in a box that was checked.
    pub fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let dataset = &self.datasets[variable];
        Ok(match self.schema.variables[variable].dtype {
            DType::F32 => Values::F32(slice(dataset, region)?),
            DType::F64 => Values::F64(slice(dataset, region)?),
            DType::I8 => Values::I8(slice(dataset, region)?),
            DType::I16 => Values::I16(slice(dataset, region)?),
            DType::I32 => Values::I32(slice(dataset, region)?),
            DType::I64 => Values::I64(slice(dataset, region)?),
            DType::U8 => Values::U8(slice(dataset, region)?),
            DType::U16 => Values::U16(slice(dataset, region)?),
            DType::U32 => Values::U32(slice(dataset, region)?),
            DType::U64 => Values::U64(slice(dataset, region)?),
            DType::Char => characters(slice(dataset, region)?),
            DType::Text => {
                let (texts, is_utf8) = texts(dataset, slice(dataset, region)?)?;
                if !is_utf8 && self.not_utf8.insert(variable) {
                    let name = self.schema.variables[variable].name();
                    self.warnings.push(format!("variable {name:?}: text in it {}", values::NOT_UTF8));
                }
                Values::Text(texts)
            }
        })
    }
}

/// Bytes of a decoded chunk of `v`.
fn chunk_bytes(v: &Variable) -> Option<u64> {
    let n = v.chunks.as_ref()?.iter().try_fold(1u64, |n, &c| n.checked_mul(c))?;
    n.checked_mul(v.dtype.size().max(16) as u64).filter(|&n| n <= MAX_CHUNK_BYTES as u64)
}

fn variable(
    array: Array,
    path: String,
    shape: Vec<u64>,
    dimensions: Vec<u32>,
    warnings: &mut Vec<String>,
) -> Result<(Variable, Dataset)> {
    let dataset = array.dataset;
    let dtype = attributes::dtype(dataset.dtype())?;
    if regions::checked_len(&shape, dtype.size().max(16)).is_none() {
        return Err(Error::input(format!("the shape {shape:?} is too large")));
    }
    if dtype == DType::Text && array.offset_size != 8 {
        return Err(Error::unsupported("texts in a file with short addresses are not supported"));
    }
    let place = format!("variable {:?}", path.trim_start_matches('/'));
    let attributes = attributes::attributes(array.attributes, &RESERVED_OF_ARRAYS, &place, warnings)?;
    let chunks = dataset.chunks().map(|c| c.into_iter().map(u64::from).collect());
    let dataset = dataset.with_padded_shape(&shape).map_err(error)?;
    Ok((Variable { path, dtype, shape, dimensions, attributes, chunks }, dataset))
}

fn slice<T: H5Type + Send + Sync>(dataset: &Dataset, region: &[Range<u64>]) -> Result<Vec<T>> {
    let array = if region.is_empty() {
        dataset.read_array::<T>()
    } else {
        let selections = region.iter().map(|r| SliceInfoElem::Slice { start: r.start, end: r.end, step: 1 }).collect();
        dataset.read_slice_parallel::<T>(&SliceInfo { selections })
    }
    .map_err(error)?;
    let (values, offset) = array.into_raw_vec_and_offset();
    if offset.unwrap_or(0) != 0 || values.len() as u64 != regions::len(region) {
        return Err(Error::input(format!("{} values where {} should be", values.len(), regions::len(region))));
    }
    Ok(values)
}

/// Texts from their bytes or places, and whether all are UTF-8.
fn texts(dataset: &Dataset, found: Vec<TextBytes>) -> Result<(Vec<String>, bool)> {
    let fixed = matches!(dataset.dtype(), Datatype::String { size: StringSize::Fixed(_), .. });
    let mut is_utf8 = true;
    let mut text = |bytes: Vec<u8>| {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        is_utf8 &= std::str::from_utf8(&bytes[..end]).is_ok();
        until_zero(bytes)
    };
    let texts: Result<Vec<String>> = found
        .into_iter()
        .map(|TextBytes(bytes)| match bytes[..] {
            _ if fixed => Ok(text(bytes)),
            // Address 0 is how HDF5 stores a text that was never written.
            [_, _, _, _, 0, 0, 0, 0, 0, 0, 0, 0, ..] => Ok(String::new()),
            _ => dataset.resolve_vlen_reference_bytes(&bytes, 1).map(&mut text).map_err(error),
        })
        .collect();
    texts.map(|texts| (texts, is_utf8))
}
