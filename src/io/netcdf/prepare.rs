//! A schema of any format made ready for NetCDF: complete groups, named dimensions, typed fill values.
//!
//! Schemas come out of archives too, so nothing is taken for granted: what passes here is consistent.

use super::super::{AttributeValue, Dimension, Format, Group, Schema, Variable};
use super::{join_path, regions, split_path, values};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use std::collections::{HashMap, HashSet};

/// HDF5 arrays have at most so many dimensions (`H5S_MAX_RANK`).
const MAX_RANK: usize = 32;

/// `schema` with everything that a NetCDF file of `format` needs.
pub fn prepare(schema: &Schema, format: Format) -> Result<Schema> {
    let mut schema = schema.clone();
    schema.format = format;
    complete_groups(&mut schema);
    check_names(&schema)?;
    name_dimensions(&mut schema);
    for v in &mut schema.variables {
        let name = v.name().to_string();
        check_variable(v, &schema.dimensions).context(|| format!("variable {name:?}"))?;
        // What only a Zarr store has a place for.
        v.attributes.retain(|a| !a.name.starts_with("_zarr_"));
        for a in &mut v.attributes {
            if a.name == "_FillValue" {
                a.value = fill_of_type(&a.value, v.dtype);
            }
        }
    }
    Ok(schema)
}

/// Adds the root and all groups that paths run through, parents before children.
fn complete_groups(schema: &mut Schema) {
    let mut groups: Vec<Group> = vec![];
    let mut index: HashMap<String, usize> = HashMap::new();
    fn ensure(path: &str, groups: &mut Vec<Group>, index: &mut HashMap<String, usize>) -> usize {
        if let Some(&i) = index.get(path) {
            return i;
        }
        if path != "/" {
            ensure(split_path(path).0, groups, index);
        }
        groups.push(Group { path: path.to_string(), attributes: vec![] });
        index.insert(path.to_string(), groups.len() - 1);
        groups.len() - 1
    }
    ensure("/", &mut groups, &mut index);
    for g in &schema.groups {
        let i = ensure(if g.path.is_empty() { "/" } else { &g.path }, &mut groups, &mut index);
        groups[i].attributes.extend(g.attributes.iter().cloned());
    }
    for path in schema.dimensions.iter().map(|d| &d.path).chain(schema.variables.iter().map(|v| &v.path)) {
        ensure(split_path(path).0, &mut groups, &mut index);
    }
    schema.groups = groups;
}

/// Names are not empty, and unique among the groups and variables of a group, the dimensions of a group and the
/// attributes of an object.
fn check_names(schema: &Schema) -> Result<()> {
    let mut objects = HashSet::new();
    let mut dimensions = HashSet::new();
    for path in schema.groups.iter().skip(1).map(|g| &g.path).chain(schema.variables.iter().map(|v| &v.path)) {
        check_name(path, &mut objects)?;
    }
    for d in &schema.dimensions {
        check_name(&d.path, &mut dimensions)?;
    }
    let lists = schema.groups.iter().map(|g| (&g.path, &g.attributes));
    for (path, attributes) in lists.chain(schema.variables.iter().map(|v| (&v.path, &v.attributes))) {
        let mut names = HashSet::new();
        if let Some(a) = attributes.iter().find(|a| a.name.is_empty() || !names.insert(&a.name)) {
            return Err(Error::usage(format!("{path}: the attribute name {:?} is empty or there twice", a.name)));
        }
    }
    Ok(())
}

fn check_name<'a>(path: &'a str, seen: &mut HashSet<&'a str>) -> Result<()> {
    let name = split_path(path).1;
    if !path.starts_with('/') || name.is_empty() || name == "." || path.contains('\0') {
        return Err(Error::usage(format!("{path:?} is not the path of a NetCDF object")));
    }
    if !seen.insert(path) {
        return Err(Error::usage(format!("{path:?} is there twice")));
    }
    Ok(())
}

/// Invents dimensions `dim_0`, `dim_1`, … in the root, one for each length, for variables that have none.
fn name_dimensions(schema: &mut Schema) {
    let mut taken: HashSet<String> = schema.dimensions.iter().map(|d| d.path.clone()).collect();
    taken.extend(schema.variables.iter().map(|v| v.path.clone()));
    taken.extend(schema.groups.iter().map(|g| g.path.clone()));
    let mut of_len: HashMap<u64, u32> = HashMap::new();
    let mut next = 0;
    for v in schema.variables.iter_mut().filter(|v| v.dimensions.is_empty()) {
        for &len in &v.shape {
            let dimension = *of_len.entry(len).or_insert_with(|| {
                let path = loop {
                    let path = join_path("/", &format!("dim_{next}"));
                    next += 1;
                    if !taken.contains(&path) {
                        break path;
                    }
                };
                schema.dimensions.push(Dimension { path, len, unlimited: false });
                schema.dimensions.len() as u32 - 1
            });
            v.dimensions.push(dimension);
        }
    }
}

fn check_variable(v: &Variable, dimensions: &[Dimension]) -> Result<()> {
    if v.shape.len() > MAX_RANK {
        return Err(Error::usage(format!("{} dimensions are more than the {MAX_RANK} there can be", v.shape.len())));
    }
    // Sixteen bytes are the place of a text in a NetCDF-4 file.
    if regions::checked_len(&v.shape, v.dtype.size().max(16)).is_none() {
        return Err(Error::usage(format!("the shape {:?} is too large", v.shape)));
    }
    if v.dimensions.len() != v.shape.len() {
        return Err(Error::usage(format!("{} dimensions for the shape {:?}", v.dimensions.len(), v.shape)));
    }
    let group = split_path(&v.path).0;
    for (&d, &len) in v.dimensions.iter().zip(&v.shape) {
        let Some(d) = dimensions.get(d as usize) else {
            return Err(Error::usage(format!("there is no dimension {d}")));
        };
        let owner = split_path(&d.path).0;
        let visible = owner == "/" || group == owner || group.strip_prefix(owner).is_some_and(|g| g.starts_with('/'));
        if d.len != len || !visible {
            return Err(Error::usage(format!(
                "dimension {:?} of length {} does not fit the shape {:?} in group {group:?}",
                d.path, d.len, v.shape
            )));
        }
    }
    Ok(())
}

/// The fill value `value` in the type of its variable, as NetCDF demands, if that holds it exactly.
fn fill_of_type(value: &AttributeValue, dtype: DType) -> AttributeValue {
    let given = values::of_attribute(value);
    if given.dtype() == dtype {
        return value.clone();
    }
    let Some(number) = (match &given {
        Values::Char(text) => std::str::from_utf8(text).ok().and_then(|t| t.trim_matches('"').parse::<f64>().ok()),
        other if other.len() == 1 => values::first_as_f64(other),
        _ => None,
    }) else {
        return value.clone();
    };
    macro_rules! cast {
        ($variant:ident, $type:ty) => {
            Some(number as $type)
                .filter(|&x| x as f64 == number || number.is_nan() && (x as f64).is_nan())
                .map(|x| AttributeValue::$variant(vec![x]))
        };
    }
    match dtype {
        DType::F32 => Some(AttributeValue::F32(vec![number as f32])),
        DType::F64 => cast!(F64, f64),
        DType::I8 => cast!(I8, i8),
        DType::I16 => cast!(I16, i16),
        DType::I32 => cast!(I32, i32),
        DType::I64 => cast!(I64, i64),
        DType::U8 => cast!(U8, u8),
        DType::U16 => cast!(U16, u16),
        DType::U32 => cast!(U32, u32),
        DType::U64 => cast!(U64, u64),
        DType::Char | DType::Text => None,
    }
    .unwrap_or_else(|| value.clone())
}
