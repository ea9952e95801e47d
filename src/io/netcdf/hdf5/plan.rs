//! What objects a NetCDF-4 file consists of, and their headers.

use super::super::super::{Attribute, Schema, Variable};
use super::super::{split_path, values};
use super::chunks::Storage;
use super::encode::{self, Message, Type};
use super::heap::Heap;
use super::{NO_VARIABLE, NOT_A_COORDINATE, RESERVED_OF_ARRAYS, RESERVED_OF_GROUPS};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use std::collections::{HashMap, HashSet};

/// The largest value of an attribute that fits its header, leaving room for name, type and shape.
const MAX_ATTRIBUTE_BYTES: usize = 63 << 10;

/// All objects: groups as in the schema, then variables, then dimensions without a variable.
pub struct Plan {
    objects: Vec<Object>,
}

struct Object {
    path: String,
    kind: Kind,
    attributes: Vec<(String, Content)>,
}

enum Kind {
    /// Names and objects.
    Group(Vec<(String, usize)>),
    /// A variable, or a dimension without one.
    Array { t: Type, shape: Vec<u64>, unlimited: Vec<bool>, fill: Vec<u8>, variable: Option<usize> },
}

/// Value of an attribute.
enum Content {
    Values(Values),
    /// A number of the machinery.
    Number(i32),
    /// For every axis, the object that is its scale.
    Scales(Vec<usize>),
    /// Objects and axes that a scale is used for.
    Uses(Vec<(usize, u32)>),
}

/// Whether `v` is the coordinate variable of dimension `d`: it has its name, and it first.
fn is_coordinate(v: &Variable, d: u32, schema: &Schema) -> bool {
    v.dimensions.first() == Some(&d) && v.path == schema.dimensions[d as usize].path
}

impl Plan {
    /// Plans the file for a schema that was prepared.
    pub fn new(schema: &Schema) -> Result<Self> {
        let group_of: HashMap<&str, usize> = schema.groups.iter().map(|g| g.path.as_str()).zip(0..).collect();
        let first_variable = schema.groups.len();
        let mut objects: Vec<Object> = schema.groups.iter().map(group).collect::<Result<_>>()?;
        for (i, v) in schema.variables.iter().enumerate() {
            objects.push(variable(i, v, schema)?);
        }
        // The object that is the scale of every dimension.
        let mut scales = vec![];
        for id in 0..schema.dimensions.len() as u32 {
            match schema.variables.iter().position(|v| is_coordinate(v, id, schema)) {
                Some(i) => scales.push(first_variable + i),
                None => {
                    scales.push(objects.len());
                    objects.push(dimension(id, schema));
                }
            }
        }
        name_scales(&mut objects[first_variable..], &schema.variables, &scales, first_variable);

        let dimension_paths: HashSet<&str> = schema.dimensions.iter().map(|d| d.path.as_str()).collect();
        // Dimensions come before the variables that use them, as if the NetCDF library had written the file.
        let first_dimension = first_variable + schema.variables.len();
        for i in (1..first_variable).chain(first_dimension..objects.len()).chain(first_variable..first_dimension) {
            let (parent, name) = split_path(&objects[i].path);
            let is_variable = (first_variable..first_dimension).contains(&i);
            let hides = is_variable && !scales.contains(&i) && dimension_paths.contains(objects[i].path.as_str());
            let name = if hides { format!("{NOT_A_COORDINATE}{name}") } else { name.to_string() };
            let parent = group_of[parent];
            if let Kind::Group(links) = &mut objects[parent].kind {
                if links.iter().any(|(other, _)| *other == name) {
                    return Err(Error::usage(format!("{name:?} is there twice in group {:?}", objects[parent].path)));
                }
                links.push((name, i));
            }
        }
        Ok(Self { objects })
    }

    /// Headers of all objects, when these are at `addresses`, and the variables' values in `storages`.
    pub fn encode(&self, addresses: &[u64], storages: &[Storage], heap: &mut Heap) -> Result<Vec<Vec<u8>>> {
        let header = |o: &Object| o.encode(addresses, storages, heap).context(|| o.path.clone());
        self.objects.iter().map(header).collect()
    }

    pub fn n_objects(&self) -> usize {
        self.objects.len()
    }
}

/// The attributes that the user sees.
fn attributes(list: &[Attribute], reserved: &[&str], path: &str) -> Result<Vec<(String, Content)>> {
    list.iter()
        .map(|a| {
            if reserved.contains(&a.name.as_str()) {
                return Err(Error::usage(format!("{path}: NetCDF-4 keeps the attribute {:?} to itself", a.name)));
            }
            let value = match values::of_attribute(&a.value) {
                // A header has no room for a longer text; as one text of any length it lies elsewhere, and reads alike.
                Values::Char(text) if text.len() > MAX_ATTRIBUTE_BYTES => Values::Text(vec![values::text(text)]),
                value => value,
            };
            if value.as_bytes().len() > MAX_ATTRIBUTE_BYTES {
                return Err(Error::usage(format!(
                    "{path}: attribute {:?} has more than {MAX_ATTRIBUTE_BYTES} bytes; choose a classic format or Zarr",
                    a.name
                )));
            }
            Ok((a.name.clone(), Content::Values(value)))
        })
        .collect()
}

fn group(g: &super::super::super::Group) -> Result<Object> {
    let mut attributes = attributes(&g.attributes, &RESERVED_OF_GROUPS, &g.path)?;
    if g.path == "/" {
        let origin = format!("version=2,residuum={}", env!("CARGO_PKG_VERSION"));
        attributes.insert(0, ("_NCProperties".into(), Content::Values(Values::Char(origin.into_bytes()))));
    }
    Ok(Object { path: g.path.clone(), kind: Kind::Group(vec![]), attributes })
}

/// The value of elements of `v` that were never written; none for texts, which are empty then.
pub fn fill_bytes(v: &Variable) -> Vec<u8> {
    let given = v.attribute("_FillValue").map(values::of_attribute).filter(|f| f.dtype() == v.dtype && f.len() == 1);
    let fill = given.unwrap_or_else(|| values::default_fill(v.dtype));
    values::to_bytes(&fill, values::Order::Little).into_owned()
}

fn variable(index: usize, v: &Variable, schema: &Schema) -> Result<Object> {
    let kind = Kind::Array {
        t: Type::Of(v.dtype),
        shape: v.shape.clone(),
        unlimited: v.dimensions.iter().map(|&d| schema.dimensions[d as usize].unlimited).collect(),
        fill: fill_bytes(v),
        variable: Some(index),
    };
    Ok(Object { path: v.path.clone(), kind, attributes: attributes(&v.attributes, &RESERVED_OF_ARRAYS, &v.path)? })
}

fn dimension(id: u32, schema: &Schema) -> Object {
    let d = &schema.dimensions[id as usize];
    let kind = Kind::Array {
        t: Type::Scale,
        shape: vec![d.len],
        unlimited: vec![d.unlimited],
        fill: vec![0; 4],
        variable: None,
    };
    let attributes = scale_attributes(&format!("{NO_VARIABLE}.{:10}", d.len), id);
    Object { path: d.path.clone(), kind, attributes }
}

/// What makes an array the scale of a dimension.
fn scale_attributes(name: &str, id: u32) -> Vec<(String, Content)> {
    let text = |s: &str| Content::Values(Values::Char([s.as_bytes(), b"\0"].concat()));
    vec![
        ("CLASS".into(), text("DIMENSION_SCALE")),
        ("NAME".into(), text(name)),
        ("_Netcdf4Dimid".into(), Content::Number(id as i32)),
    ]
}

/// Gives variables their scales, and scales the list of where they are used.
fn name_scales(objects: &mut [Object], variables: &[Variable], scales: &[usize], first: usize) {
    let mut uses: HashMap<usize, Vec<(usize, u32)>> = HashMap::new();
    for (i, v) in variables.iter().enumerate() {
        let id = v.dimensions.first().copied();
        if let Some(id) = id.filter(|&id| scales[id as usize] == first + i) {
            let mut own = scale_attributes(split_path(&v.path).1, id);
            if v.dimensions.len() > 1 {
                let ids = v.dimensions.iter().map(|&d| d as i32).collect();
                own.push(("_Netcdf4Coordinates".into(), Content::Values(Values::I32(ids))));
            }
            objects[i].attributes.splice(0..0, own);
        } else if !v.dimensions.is_empty() {
            let of_axes: Vec<usize> = v.dimensions.iter().map(|&d| scales[d as usize]).collect();
            for (axis, &scale) in (0..).zip(&of_axes) {
                uses.entry(scale).or_default().push((first + i, axis));
            }
            objects[i].attributes.insert(0, ("DIMENSION_LIST".into(), Content::Scales(of_axes)));
        }
    }
    for (scale, uses) in uses {
        // Only tools that rename or detach scales need the list; one that is too long for a header is left out.
        if uses.len() * 16 <= MAX_ATTRIBUTE_BYTES {
            objects[scale - first].attributes.push(("REFERENCE_LIST".into(), Content::Uses(uses)));
        }
    }
}

impl Object {
    fn encode(&self, addresses: &[u64], storages: &[Storage], heap: &mut Heap) -> Result<Vec<u8>> {
        let mut messages = match &self.kind {
            Kind::Group(_) => vec![],
            Kind::Array { t, shape, unlimited, fill, variable } => {
                let chunked = unlimited.contains(&true);
                let storage = variable.map(|i| &storages[i]);
                let layout = match storage {
                    Some(s) if s.indexed => encode::chunked_message(s.address(), &s.chunk, t.size()),
                    Some(s) => encode::contiguous_message(s.address(), s.bytes()),
                    None if chunked => encode::chunked_message(encode::NOWHERE, &[1], t.size()),
                    None => encode::contiguous_message(encode::NOWHERE, shape[0].saturating_mul(4)),
                };
                vec![
                    encode::shape_message(shape, unlimited),
                    encode::type_message(*t),
                    encode::fill_message(fill, storage.map_or(chunked, |s| s.indexed)),
                    layout,
                ]
            }
        };
        let n = u16::try_from(self.attributes.len()).map_err(|_| Error::usage("more than 65535 attributes"))?;
        messages.push(encode::attribute_info_message(n));
        for (order, (name, content)) in (0..n).zip(&self.attributes) {
            messages.push(content.encode(name, order, addresses, heap));
        }
        if let Kind::Group(links) = &self.kind {
            messages.push(encode::link_info_message(links.len()));
            messages.push(encode::group_info_message());
            let link = |(order, (name, object)): (usize, &(String, usize))| {
                encode::link_message(name, order, addresses[*object])
            };
            messages.extend(links.iter().enumerate().map(link));
        }
        encode::object_header(&messages)
    }
}

impl Content {
    fn encode(&self, name: &str, order: u16, addresses: &[u64], heap: &mut Heap) -> Message {
        match self {
            Content::Values(Values::Char(text)) => {
                let t = Type::FixedText { bytes: text.len().max(1) as u32, utf8: !text.is_ascii() };
                let shape = if text.is_empty() { None } else { Some(&[][..]) };
                encode::attribute_message(name, t, shape, text, order)
            }
            Content::Values(values) => {
                let data = match values {
                    Values::Text(texts) => texts.iter().flat_map(|t| heap.insert_text(t)).collect(),
                    numbers => values::to_bytes(numbers, values::Order::Little).into_owned(),
                };
                let shape = [values.len() as u64];
                let shape = if values.is_empty() { None } else { Some(&shape[..]) };
                encode::attribute_message(name, Type::Of(values.dtype()), shape, &data, order)
            }
            Content::Number(n) => {
                let t = Type::Of(DType::I32);
                encode::attribute_message(name, t, Some(&[]), &n.to_le_bytes(), order)
            }
            Content::Scales(scales) => {
                let entry = |&s: &usize| heap.insert(1, &addresses[s].to_le_bytes());
                let data: Vec<u8> = scales.iter().flat_map(entry).collect();
                encode::attribute_message(name, Type::ObjectLists, Some(&[scales.len() as u64]), &data, order)
            }
            Content::Uses(uses) => {
                let mut data = vec![];
                for &(object, axis) in uses {
                    data.extend(addresses[object].to_le_bytes());
                    data.extend(axis.to_le_bytes());
                    data.extend([0; 4]);
                }
                encode::attribute_message(name, Type::BackReference, Some(&[uses.len() as u64]), &data, order)
            }
        }
    }
}
