//! Which dimensions a file has, and which of them an array has.

use super::super::super::Dimension;
use super::super::{join_path, split_path};
use super::NO_VARIABLE;
use super::attributes::error;
use super::order::as_made;
use crate::error::{Error, Result};
use hdf5_reader::Dataset;
use std::collections::{HashMap, HashSet};

/// `max_dims` of an axis that may grow.
pub const UNLIMITED: u64 = u64::MAX;

/// An array of the file.
pub struct Array {
    /// Path of its group.
    pub group: String,
    /// Its name in the group, as stored.
    pub name: String,
    pub dataset: Dataset,
    /// Its attributes, in the order in which they were made.
    pub attributes: Vec<hdf5_reader::Attribute>,
    /// Bytes of an address in the file.
    pub offset_size: u8,
}

impl Array {
    fn attribute_text(&self, name: &str) -> Option<String> {
        self.dataset.attribute(name).ok()?.read_string().ok()
    }

    pub fn is_scale(&self) -> bool {
        self.attribute_text("CLASS").is_some_and(|class| class.trim_end_matches('\0') == "DIMENSION_SCALE")
    }

    /// Whether it is a dimension only, without values.
    pub fn is_dimension_only(&self) -> bool {
        self.is_scale() && self.attribute_text("NAME").is_some_and(|name| name.starts_with(NO_VARIABLE))
    }

    fn grows(&self, axis: usize) -> bool {
        self.dataset.max_dims().and_then(|max| max.get(axis)) == Some(&UNLIMITED)
    }
}

/// The dimensions of a file.
pub struct Scales {
    pub dimensions: Vec<Dimension>,
    by_address: HashMap<u64, u32>,
    by_id: HashMap<i32, u32>,
    taken: HashSet<String>,
}

impl Scales {
    /// Finds the scales among all arrays of the file.
    pub fn find(arrays: &[Array]) -> Self {
        let mut found: Vec<_> = arrays
            .iter()
            .filter(|a| a.is_scale())
            .map(|a| (a.dataset.attribute("_Netcdf4Dimid").and_then(|id| id.read_scalar::<i32>()).ok(), a))
            .collect();
        found.sort_by_key(|(id, _)| id.unwrap_or(i32::MAX));
        let taken = arrays.iter().map(|a| join_path(&a.group, &a.name)).collect();
        let mut scales = Self { dimensions: vec![], by_address: HashMap::new(), by_id: HashMap::new(), taken };
        for (index, (id, a)) in (0u32..).zip(found) {
            scales.dimensions.push(Dimension {
                path: join_path(&a.group, &a.name),
                len: a.dataset.shape().first().copied().unwrap_or(0),
                unlimited: a.grows(0),
            });
            scales.by_address.entry(a.dataset.address()).or_insert(index);
            if let Some(id) = id {
                scales.by_id.entry(id).or_insert(index);
            }
        }
        scales
    }

    /// The dimensions of an array; those without a scale get one with an invented name, as in the NetCDF library.
    pub fn of(&mut self, array: &Array) -> Vec<u32> {
        let shape = array.dataset.shape();
        let named = self.named(array);
        let mut dimensions = vec![];
        for (axis, &len) in shape.iter().enumerate() {
            let grows = array.grows(axis);
            let fits = |d: &Dimension| d.len == len || d.unlimited && grows;
            let known = named.get(axis).copied().flatten().filter(|&d| fits(&self.dimensions[d as usize]));
            let index = known.unwrap_or_else(|| self.invent(&array.group, len, grows));
            let d = &mut self.dimensions[index as usize];
            if grows {
                d.len = d.len.max(len);
            }
            dimensions.push(index);
        }
        dimensions
    }

    /// The dimensions that the array names.
    fn named(&self, array: &Array) -> Vec<Option<u32>> {
        if array.is_scale() && array.dataset.ndim() == 1 {
            return vec![self.by_address.get(&array.dataset.address()).copied()];
        }
        let listed = self.listed(array).unwrap_or_default();
        if listed.iter().any(Option::is_some) {
            return listed;
        }
        let ids = array.dataset.attribute("_Netcdf4Coordinates").and_then(|a| a.read_1d::<i32>()).unwrap_or_default();
        ids.iter().map(|id| self.by_id.get(id).copied()).collect()
    }

    fn listed(&self, array: &Array) -> Option<Vec<Option<u32>>> {
        let list = array.dataset.attribute("DIMENSION_LIST").ok()?;
        // A length of 4 bytes, the address of a heap, an index of 4 bytes.
        let entries = list.raw_data.chunks_exact(8 + usize::from(array.offset_size));
        let first = |entry: &[u8]| {
            let bytes = array.dataset.resolve_vlen_reference_bytes(entry, usize::from(array.offset_size)).ok()?;
            let targets = hdf5_reader::reference::read_object_references(&bytes, array.offset_size).ok()?;
            self.by_address.get(targets.first()?).copied()
        };
        Some(entries.map(first).collect())
    }

    fn invent(&mut self, group: &str, len: u64, unlimited: bool) -> u32 {
        let same = |d: &Dimension| d.len == len && d.unlimited == unlimited && split_path(&d.path).0 == group;
        let invented = |d: &Dimension| split_path(&d.path).1.starts_with("phony_dim_");
        if let Some(i) = self.dimensions.iter().position(|d| same(d) && invented(d)) {
            return i as u32;
        }
        let path = (0..).map(|n| join_path(group, &format!("phony_dim_{n}"))).find(|p| self.taken.insert(p.clone()));
        self.dimensions.push(Dimension { path: path.unwrap_or_default(), len, unlimited });
        self.dimensions.len() as u32 - 1
    }

    /// The shape that an array with these dimensions is seen with: a dimension may have grown past what is stored.
    pub fn shape(&self, array: &Array, dimensions: &[u32]) -> Vec<u64> {
        dimensions
            .iter()
            .enumerate()
            .map(
                |(axis, &d)| {
                    if array.grows(axis) { self.dimensions[d as usize].len } else { array.dataset.shape()[axis] }
                },
            )
            .collect()
    }
}

/// All groups and arrays below `group`, parents before children.
pub fn walk(group: &hdf5_reader::group::Group, path: &str, found: &mut Found) -> Result<()> {
    /// Deeper nesting does not occur; a file that has it wants to exhaust our stack.
    const MAX_DEPTH: usize = 64;
    if path.split('/').count() > MAX_DEPTH {
        return Err(Error::input(format!("groups are nested more than {MAX_DEPTH} deep")));
    }
    // A group can be linked from below itself.
    if !found.seen.insert(group.address()) {
        return Ok(());
    }
    let attributes = as_made(group.attributes().map_err(error)?, group.storage(), group.address());
    found.groups.push((path.to_string(), attributes));
    let (groups, datasets) = group.members().map_err(error)?;
    for dataset in datasets {
        found.arrays.push(Array {
            attributes: as_made(dataset.attributes(), group.storage(), dataset.address()),
            group: path.to_string(),
            name: split_path(dataset.name()).1.to_string(),
            dataset,
            offset_size: group.offset_size(),
        });
    }
    for child in &groups {
        walk(child, &join_path(path, split_path(child.name()).1), found)?;
    }
    Ok(())
}

/// What [`walk`] finds.
#[derive(Default)]
pub struct Found {
    pub groups: Vec<(String, Vec<hdf5_reader::Attribute>)>,
    pub arrays: Vec<Array>,
    seen: HashSet<u64>,
}
