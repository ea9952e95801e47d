//! Reading: the hierarchy into a [`Schema`], boxes from chunks.

use super::super::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Source, Unreadable, Variable, raw};
use super::chunks::{Overlap, Overlaps, copy_box, fill_box};
use super::element::{self, Element};
use super::slots::Slots;
use super::{
    ARRAY_DIMENSIONS, BATCH_BYTES, DATA_TYPE, FILL_VALUE, Version, array_error, count, guarded, halves, json, text,
};
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use zarrs::array::{
    Array, ArrayBytes, ArrayMetadata, ArrayShardedExt, ArrayShardedReadableExt, ArrayShardedReadableExtCache,
    ArraySubset, CodecOptions,
};
use zarrs::filesystem::FilesystemStore;

/// Deepest nesting of groups that is followed; links among folders may be circular.
const MAX_DEPTH: usize = 32;

/// Largest decoded chunk that is read: chunks are decoded whole, in memory.
const MAX_CHUNK_BYTES: u64 = 2 << 30;

/// Most shards whose index is kept.
const MAX_SHARD_INDICES: usize = 256;

/// A Zarr folder to read from.
pub struct ZarrSource {
    schema: Schema,
    arrays: Vec<ArrayReader>,
    /// Chunks of the variable that was read last, and which that is.
    slots: Option<(usize, Slots)>,
    unreadable: Vec<Unreadable>,
}

struct ArrayReader {
    array: Array<FilesystemStore>,
    element: Element,
    /// Lengths of what is decoded at once: a chunk, or a part of a shard.
    chunk: Vec<u64>,
    shards: Option<ArrayShardedReadableExtCache>,
    /// The element of missing chunks.
    fill: Vec<u8>,
    /// Whether its chunks are coded as [`text::read`] needs it.
    vlen: bool,
}

impl ZarrSource {
    /// Opens the Zarr folder at `path`: a group with all below it, or a single array.
    ///
    /// # Errors
    /// `Input` if it is not Zarr or damaged, `Io` if a file can not be read. Arrays whose type or codec is not read are
    /// among [`Source::unreadable`].
    pub fn open(path: &Path) -> Result<Self> {
        let (version, format) = if path.join("zarr.json").is_file() {
            (Version::V3, Format::Zarr3)
        } else if path.join(".zgroup").is_file() || path.join(".zarray").is_file() {
            (Version::V2, Format::Zarr2)
        } else {
            return Err(Error::input("not a Zarr folder: neither zarr.json, .zgroup nor .zarray is in it"));
        };
        let store = FilesystemStore::new(path).map_err(|e| Error::new(crate::Kind::Io, e.to_string()))?;
        let schema = Schema { format, groups: vec![], dimensions: vec![], variables: vec![] };
        let mut opener = Opener { version, store: Arc::new(store), schema, arrays: vec![], unreadable: vec![] };
        opener.node(path, "", path, 0)?;
        if opener.schema.groups.is_empty() {
            // A single array: the group around it is ours.
            opener.schema.groups.push(Group { path: "/".into(), attributes: vec![] });
        }
        Ok(Self { schema: opener.schema, arrays: opener.arrays, slots: None, unreadable: opener.unreadable })
    }
}

impl Source for ZarrSource {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let (Some(reader), Some(described)) = (self.arrays.get(variable), self.schema.variables.get(variable)) else {
            return Err(Error::usage(format!("there is no variable {variable}")));
        };
        raw::Runs::new(&described.shape, region)?;
        let slots = match &mut self.slots {
            Some((at, slots)) if *at == variable => slots,
            other => {
                let slot_bytes = count(reader.chunk.iter().copied())? * reader.element.size();
                &mut other.insert((variable, Slots::new(slot_bytes, None))).1
            }
        };
        reader.read(region, slots).context(|| format!("variable {:?}", described.name()))
    }

    fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }
}

impl ArrayReader {
    fn read(&self, region: &[Range<u64>], slots: &mut Slots) -> Result<Values> {
        let size = self.element.size();
        let elements = count(region.iter().map(|r| r.end - r.start))?;
        if self.element == Element::Text {
            if elements == 0 {
                return Ok(Values::Text(vec![]));
            }
            let subset = ArraySubset::new_with_ranges(region);
            let texts = match self.vlen {
                true => guarded(|| text::read(&self.array, &self.chunk, region))?,
                false => guarded(|| self.array.retrieve_array_subset(&subset).map_err(array_error))?,
            };
            return Ok(Values::Text(texts));
        }
        if let Element::Plain(dtype) = self.element {
            let mut values = Values::zeros(dtype, elements);
            self.read_bytes(region, slots, values.as_bytes_mut())?;
            return Ok(values);
        }
        // Texts of a fixed length may be far longer there than they are here: read as much as fits.
        if let (true, Some((parts, _))) = (elements.saturating_mul(size) > BATCH_BYTES, halves(region)) {
            let [first, second] = parts.map(|part| self.read(&part, slots));
            return match (first?, second?) {
                (Values::Text(a), Values::Text(b)) => Ok(Values::Text([a, b].concat())),
                (Values::F32(a), Values::F32(b)) => Ok(Values::F32([a, b].concat())),
                (Values::U8(a), Values::U8(b)) => Ok(Values::U8([a, b].concat())),
                _ => Err(Error::input("parts of a box differ in type")),
            };
        }
        let mut buffer = vec![0; elements * size];
        self.read_bytes(region, slots, &mut buffer)?;
        self.element.decode(&buffer)
    }

    /// Fills `target` with the elements of `region`, which it has room for.
    fn read_bytes(&self, region: &[Range<u64>], slots: &mut Slots, target: &mut [u8]) -> Result<()> {
        let size = self.element.size();
        let lens: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
        let chunk_bytes = count(self.chunk.iter().copied())? * size;
        let batch = (BATCH_BYTES / chunk_bytes.max(1)).clamp(1, 256);
        let mut overlaps = Overlaps::new(self.array.shape(), &self.chunk, region);
        loop {
            let parts: Vec<Overlap> = overlaps.by_ref().take(batch).collect();
            if parts.is_empty() {
                return Ok(());
            }
            let kept: Vec<bool> = parts.iter().map(|p| slots.contains(&p.chunk)).collect();
            let decode =
                |(part, kept): (&Overlap, &bool)| if *kept { Ok(None) } else { guarded(|| self.decode(&part.chunk)) };
            let decoded: Vec<Option<Vec<u8>>> = parts.par_iter().zip(&kept).map(decode).collect::<Result<_>>()?;
            for ((part, kept), decoded) in parts.into_iter().zip(kept).zip(decoded) {
                if kept {
                    let mut bytes = vec![0; part.elements as usize * size];
                    slots.read(&part.chunk, raw::Runs::new(&self.chunk, &part.in_chunk)?, size, &mut bytes)?;
                    let part_lens: Vec<u64> = part.in_box.iter().map(|r| r.end - r.start).collect();
                    let whole: Vec<Range<u64>> = part_lens.iter().map(|&n| 0..n).collect();
                    copy_box(size, (&bytes, &part_lens, &whole), (target, &lens, &part.in_box))?;
                    if slots.spend(&part.chunk, part.elements) {
                        slots.forget(&part.chunk);
                    }
                } else if let Some(bytes) = decoded {
                    copy_box(size, (&bytes, &self.chunk, &part.in_chunk), (target, &lens, &part.in_box))?;
                    if part.elements < part.chunk_elements {
                        // Where there is no room to keep chunks, they are decoded again.
                        if slots.insert(part.chunk, bytes, part.chunk_elements - part.elements).is_err() {
                            slots.clear();
                        }
                        slots.shrink();
                    }
                } else {
                    fill_box(&self.fill, target, &lens, &part.in_box)?;
                }
            }
        }
    }

    /// The elements of a chunk, none if it is not stored.
    fn decode(&self, chunk: &[u64]) -> Result<Option<Vec<u8>>> {
        let decoded: Option<ArrayBytes<'_>> = match &self.shards {
            Some(cache) => {
                if cache.len() > MAX_SHARD_INDICES {
                    cache.clear();
                }
                let options = CodecOptions::default();
                Some(self.array.retrieve_subchunk_opt(cache, chunk, &options).map_err(array_error)?)
            }
            None => self.array.retrieve_chunk_if_exists(chunk).map_err(array_error)?,
        };
        let Some(decoded) = decoded else { return Ok(None) };
        let bytes = decoded.into_fixed().map_err(|e| Error::input(e.to_string()))?.into_owned();
        let expected = count(self.chunk.iter().copied())? * self.element.size();
        if bytes.len() != expected {
            return Err(Error::input(format!("chunk {chunk:?} has {} bytes, {expected} expected", bytes.len())));
        }
        Ok(Some(bytes))
    }
}

/// Walks the hierarchy.
struct Opener {
    version: Version,
    store: Arc<FilesystemStore>,
    schema: Schema,
    arrays: Vec<ArrayReader>,
    unreadable: Vec<Unreadable>,
}

impl Opener {
    /// Takes in the node at `folder`, whose path in the hierarchy is `path` (empty for the root), and all below it.
    fn node(&mut self, folder: &Path, path: &str, root: &Path, depth: usize) -> Result<()> {
        let (group, array, attributes) = match self.version {
            Version::V3 => {
                let Some(mut node) = json::load(&folder.join("zarr.json"))? else { return Ok(()) };
                let attributes = node.as_object_mut().and_then(|n| n.remove("attributes"));
                match node["node_type"].as_str() {
                    Some("group") => (true, None, attributes),
                    Some("array") => (false, Some(node), attributes),
                    _ => {
                        return Err(Error::input(format!("{}/zarr.json is neither group nor array", folder.display())));
                    }
                }
            }
            Version::V2 => {
                let array = json::load(&folder.join(".zarray"))?;
                let group = array.is_none() && json::load(&folder.join(".zgroup"))?.is_some();
                (group, array, json::load(&folder.join(".zattrs"))?)
            }
        };
        let attributes = match attributes {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(Error::input(format!("the attributes of {path:?} are not a JSON object"))),
        };
        if let Some(array) = array {
            let name = if path.is_empty() { format!("/{}", raw::name_of(root)) } else { path.to_owned() };
            return match self.array(path, &name, array, attributes) {
                Err(e) if e.kind() == Kind::Unsupported => {
                    self.unreadable.push(Unreadable { name: name[1..].to_owned(), reason: e.to_string() });
                    Ok(())
                }
                result => result.context(|| format!("variable {:?}", &name[1..])),
            };
        }
        if !group {
            return Ok(());
        }
        let attributes =
            attributes.iter().map(|(n, v)| Attribute { name: n.clone(), value: json::to_attribute(v) }).collect();
        self.schema.groups.push(Group { path: if path.is_empty() { "/".into() } else { path.to_owned() }, attributes });
        if depth == MAX_DEPTH {
            return Err(Error::unsupported(format!("group {path:?} is nested deeper than {MAX_DEPTH} groups")));
        }
        let mut children = vec![];
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // Names that are not Unicode can not be Zarr nodes.
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_dir()) {
                children.push(name);
            }
        }
        children.sort_unstable();
        children.iter().try_for_each(|name| self.node(&folder.join(name), &format!("{path}/{name}"), root, depth + 1))
    }

    /// Takes in the array at `path` in the hierarchy, to be called `name`.
    fn array(&mut self, path: &str, name: &str, mut node: Value, mut attributes: Map<String, Value>) -> Result<()> {
        json::plain_specials(&mut node);
        let v3 = self.version == Version::V3;
        let element = match self.version {
            Version::V2 => Element::from_v2(&node["dtype"], &node["filters"])?,
            Version::V3 => Element::from_v3(&node["data_type"])?,
        };
        let shape = lens(&node["shape"]).ok_or_else(|| Error::input("its shape is not a list of lengths"))?;
        let chunks = if v3 { &node["chunk_grid"]["configuration"]["chunk_shape"] } else { &node["chunks"] };
        if v3 && node["chunk_grid"]["name"] != "regular" {
            return Err(Error::unsupported(format!(
                "chunks in a grid of kind {} are not read",
                node["chunk_grid"]["name"]
            )));
        }
        let chunk = lens(chunks).filter(|c| c.len() == shape.len() && !c.contains(&0));
        let chunk = chunk.ok_or_else(|| Error::input(format!("{chunks} are not chunk lengths of {shape:?}")))?;
        if raw::bytes_of(&shape, DType::F64).is_none() {
            return Err(Error::input(format!("a shape of {} is too large", raw::shape_text(&shape))));
        }

        let dimensions = match self.version {
            Version::V2 => names(attributes.shift_remove(ARRAY_DIMENSIONS).as_ref(), shape.len()),
            Version::V3 => names(node.get("dimension_names"), shape.len()),
        };
        let fill_value = node["fill_value"].clone();
        let first_codec = &node["codecs"][0];
        let vlen =
            element == Element::Text && (!v3 || first_codec["name"] == "vlen-utf8" || *first_codec == "vlen-utf8");
        let array = guarded(|| self.open(path, &mut node, element))?;
        let vlen = vlen && array.codecs().array_to_array_codecs().is_empty();
        let fill = element.text_fill(&fill_value).unwrap_or_else(|| array.fill_value().as_ne_bytes().to_vec());
        let attributes = self.attributes(element, &fill, &fill_value, attributes)?;

        let shards = array.is_exclusively_sharded().then(|| ArrayShardedReadableExtCache::new(&array));
        let part = shards.as_ref().and_then(|_| array.effective_subchunk_shape());
        let chunk = part.map_or(chunk, |part| part.iter().map(|n| n.get()).collect());
        let chunk_bytes = raw::bytes_of(&chunk, DType::U8).and_then(|n| n.checked_mul(element.size() as u64));
        if chunk_bytes.is_none_or(|n| n > MAX_CHUNK_BYTES) {
            return Err(Error::unsupported(format!(
                "chunks of {} elements are larger than {MAX_CHUNK_BYTES} bytes: store the array in smaller chunks",
                raw::shape_text(&chunk)
            )));
        }
        if element.size() > 0 && fill.len() != element.size() {
            return Err(Error::input("its fill value is not one element"));
        }
        let group = &name[..name.rfind('/').unwrap_or(0)];
        let dimensions = dimensions.iter().zip(&shape).map(|(name, len)| self.dimension(group, name, *len)).collect();
        self.schema.variables.push(Variable {
            path: name.to_owned(),
            dtype: element.dtype(),
            shape,
            dimensions,
            attributes,
            chunks: Some(chunk.clone()).filter(|c| !c.is_empty()),
        });
        self.arrays.push(ArrayReader { array, element, chunk, shards, fill, vlen });
        Ok(())
    }

    /// The array for `zarrs`: without attributes and names, which it need not know, and of a type that it knows.
    fn open(&self, path: &str, node: &mut Value, element: Element) -> Result<Array<FilesystemStore>> {
        let key = if self.version == Version::V3 { "data_type" } else { "dtype" };
        if let Some((data_type, fill)) = element.stand_in(self.version) {
            node[key] = data_type;
            node["fill_value"] = fill;
        } else if matches!(element, Element::Text | Element::Utf32(_)) && !node["fill_value"].is_string() {
            // Version 2 has null or 0 there.
            node["fill_value"] = "".into();
        }
        if let Some(node) = node.as_object_mut() {
            node.shift_remove("dimension_names");
        }
        let node = std::mem::take(node);
        let metadata = match self.version {
            Version::V2 => serde_json::from_value(node).map(ArrayMetadata::V2),
            Version::V3 => serde_json::from_value(node).map(ArrayMetadata::V3),
        };
        let metadata = metadata.map_err(|e| Error::input(format!("damaged array metadata: {e}")))?;
        let path = if path.is_empty() { "/" } else { path };
        Array::new_with_metadata(self.store.clone(), path, metadata).map_err(|e| Error::unsupported(e.to_string()))
    }

    /// Attributes of an array, among them what its `fill_value` says.
    fn attributes(
        &self,
        element: Element,
        fill: &[u8],
        fill_value: &Value,
        map: Map<String, Value>,
    ) -> Result<Vec<Attribute>> {
        let mut attributes: Vec<Attribute> = vec![];
        for (name, value) in map {
            let typed = match (name.as_str(), element) {
                ("_FillValue", Element::Plain(dtype)) => match element::float_from_base64(&value) {
                    Some(v) if dtype.is_float() => json::typed(&v.into(), dtype).or_else(|| nan(dtype)),
                    _ if dtype == DType::Char => element::char_from_base64(&value),
                    _ => json::typed(&value, dtype),
                },
                _ => None,
            };
            attributes.push(Attribute { value: typed.unwrap_or_else(|| json::to_attribute(&value)), name });
        }
        let has_own = attributes.iter().any(|a| a.name == "_FillValue");
        let own_json = || AttributeValue::Json(fill_value.to_string());
        let said = match (self.version, element) {
            (Version::V2, _) if fill_value.is_null() => None,
            (Version::V2, Element::Half | Element::Plain(_)) if !has_own => {
                let value = match element {
                    Element::Plain(DType::Char) => element::char_from_base64(fill_value),
                    _ => scalar(&element.decode(fill)?),
                };
                Some(value.map_or_else(|| (FILL_VALUE, own_json()), |value| ("_FillValue", value)))
            }
            (Version::V2, _) => Some((FILL_VALUE, own_json())),
            (Version::V3, _) => (*fill_value != default_fill(element)).then(|| (FILL_VALUE, own_json())),
        };
        let data_type = element.name().map(|name| (DATA_TYPE, AttributeValue::Text(name)));
        attributes.extend(said.into_iter().chain(data_type).map(|(n, value)| Attribute { name: n.into(), value }));
        Ok(attributes)
    }

    /// The dimension `name` of length `len` in `group`, which is new if there is none yet. Arrays of a group may
    /// disagree about a length in Zarr: then there are two of one name.
    fn dimension(&mut self, group: &str, name: &str, len: u64) -> u32 {
        let path = format!("{group}/{name}");
        let dimensions = &mut self.schema.dimensions;
        let found = dimensions.iter().position(|d| d.path == path && d.len == len);
        found.unwrap_or_else(|| {
            dimensions.push(Dimension { path, len, unlimited: false });
            dimensions.len() - 1
        }) as u32
    }
}

/// The `fill_value` of version 3 that the writer chooses by itself.
pub(super) fn default_fill(element: Element) -> Value {
    match element {
        Element::Plain(dtype) if dtype.is_float() => "NaN".into(),
        Element::Half => "NaN".into(),
        Element::Bool => false.into(),
        Element::Plain(DType::Char) | Element::Bytes(_) | Element::Utf32(_) | Element::Text => "".into(),
        Element::Plain(_) => 0.into(),
    }
}

fn nan(dtype: DType) -> Option<AttributeValue> {
    match dtype {
        DType::F32 => Some(AttributeValue::F32(vec![f32::NAN])),
        DType::F64 => Some(AttributeValue::F64(vec![f64::NAN])),
        _ => None,
    }
}

/// One value as an attribute.
fn scalar(value: &Values) -> Option<AttributeValue> {
    use AttributeValue as A;
    Some(match value {
        Values::F32(v) => A::F32(v.clone()),
        Values::F64(v) => A::F64(v.clone()),
        Values::I8(v) => A::I8(v.clone()),
        Values::I16(v) => A::I16(v.clone()),
        Values::I32(v) => A::I32(v.clone()),
        Values::I64(v) => A::I64(v.clone()),
        Values::U8(v) => A::U8(v.clone()),
        Values::U16(v) => A::U16(v.clone()),
        Values::U32(v) => A::U32(v.clone()),
        Values::U64(v) => A::U64(v.clone()),
        Values::Char(_) | Values::Text(_) => return None,
    })
}

fn lens(value: &Value) -> Option<Vec<u64>> {
    value.as_array()?.iter().map(Value::as_u64).collect()
}

/// Names of all dimensions, or no names.
fn names(value: Option<&Value>, n: usize) -> Vec<String> {
    let names: Option<Vec<String>> = value.and_then(Value::as_array).and_then(|names| {
        let usable = |s: &&str| !s.is_empty() && !s.contains('/');
        names.iter().map(|v| v.as_str().filter(usable).map(Into::into)).collect()
    });
    names.filter(|names| names.len() == n).unwrap_or_default()
}
