//! Writing: metadata first, then chunks as boxes complete them.

use super::super::part::{PartFolder, sync_folder};
use super::super::{Attribute, AttributeValue, Format, Schema, Sink, Variable, raw};
use super::chunks::{Overlaps, copy_box, fill_box};
use super::element::{self, Element};
use super::read::default_fill;
use super::slots::Slots;
use super::{ARRAY_DIMENSIONS, BATCH_BYTES, DATA_TYPE, FILL_VALUE, Version, array_error, count, halves, json};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zarrs::array::{Array, ArrayMetadata, ArraySubset, CodecOptions};
use zarrs::filesystem::FilesystemStore;

/// Bytes of a chunk where the schema does not say: large enough to compress, small enough to read one value.
const CHUNK_BYTES: u64 = 4 << 20;

/// Largest chunk that the schema's hint may ask for, so that memory stays bounded.
const MAX_CHUNK_BYTES: u64 = 32 << 20;

/// What an element of text of any length counts when chunks are chosen.
const TEXT_BYTES: usize = 64;

/// Compression of chunks, by the fastest level: the values have been through residuum's own, or will be.
const ZSTD_LEVEL: i32 = 1;

/// A Zarr folder to write to.
pub struct ZarrSink {
    part: PartFolder,
    arrays: Vec<ArrayWriter>,
    slots: Option<(usize, Slots)>,
}

struct ArrayWriter {
    name: String,
    array: Array<FilesystemStore>,
    element: Element,
    chunk: Vec<u64>,
    options: CodecOptions,
    /// Elements still to come.
    left: u64,
}

impl ZarrSink {
    /// Creates a Zarr folder at `path`, of the version that `format` says, for what `schema` says.
    ///
    /// # Errors
    /// `Usage` if Zarr can not hold the schema, `Io` if the folder can not be created.
    pub fn create(path: &Path, schema: &Schema, format: Format, force: bool) -> Result<Self> {
        let version = match format {
            Format::Zarr2 => Version::V2,
            Format::Zarr3 => Version::V3,
            other => return Err(Error::usage(format!("{other:?} is not a version of Zarr"))),
        };
        check_names(schema)?;
        let part = PartFolder::create(path, force)?;
        let root = part.folder();
        let store = FilesystemStore::new(&root).map_err(|e| Error::new(crate::Kind::Io, e.to_string()))?;
        let store = Arc::new(store);

        let mut hierarchy = Hierarchy { version, root, consolidated: Map::new() };
        for path in group_paths(schema) {
            let attributes = schema.groups.iter().find(|g| g.path == path).map_or(&[][..], |g| &g.attributes);
            hierarchy.group(&path, attributes)?;
        }
        let mut arrays = vec![];
        for variable in &schema.variables {
            let writer = hierarchy.array(schema, variable, &store);
            arrays.push(writer.context(|| format!("variable {:?}", variable.name()))?);
        }
        hierarchy.consolidate()?;
        Ok(Self { part, arrays, slots: None })
    }
}

impl Sink for ZarrSink {
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()> {
        let Some(writer) = self.arrays.get_mut(variable) else {
            return Err(Error::usage(format!("there is no variable {variable}")));
        };
        raw::check_values(&raw::Runs::new(writer.array.shape(), region)?, writer.element.dtype(), values)?;
        let slots = match &mut self.slots {
            Some((at, slots)) if *at == variable => slots,
            other => {
                incomplete(other.as_ref().is_none_or(|(_, slots)| slots.is_empty()))?;
                let slot_bytes = count(writer.chunk.iter().copied())? * writer.element.size();
                let folder = Some(self.part.scratch().to_owned());
                &mut other.insert((variable, Slots::new(slot_bytes, folder))).1
            }
        };
        writer.write(region, values, slots).context(|| format!("variable {:?}", writer.name))?;
        writer.left = writer.left.saturating_sub(values.len() as u64);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if let Some(writer) = self.arrays.iter().find(|w| w.left > 0) {
            return Err(Error::usage(format!("variable {:?} lacks {} values", writer.name, writer.left)));
        }
        incomplete(self.slots.as_ref().is_none_or(|(_, slots)| slots.is_empty()))?;
        // A chunk that a crash loses would read as the fill value without any error: make all of them last.
        sync_all(&self.part.folder())?;
        self.part.finish()
    }
}

fn incomplete(complete: bool) -> Result<()> {
    if complete { Ok(()) } else { Err(Error::usage("boxes left parts of chunks unwritten")) }
}

/// Makes all files below a folder last.
fn sync_all(folder: &Path) -> Result<()> {
    let (mut folders, mut files) = (vec![folder.to_owned()], vec![]);
    let mut at = 0;
    while let Some(folder) = folders.get(at).cloned() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
        at += 1;
    }
    files.par_iter().try_for_each(|path| File::open(path)?.sync_all())?;
    folders.par_iter().try_for_each(|path| sync_folder(path))
}

impl ArrayWriter {
    fn write(&self, region: &[Range<u64>], values: &Values, slots: &mut Slots) -> Result<()> {
        let fixed;
        let source = match values {
            Values::Text(texts) if self.element == Element::Text => {
                if texts.is_empty() {
                    return Ok(());
                }
                let subset = ArraySubset::new_with_ranges(region);
                return self.array.store_array_subset_opt(&subset, texts.clone(), &self.options).map_err(array_error);
            }
            Values::Text(texts) => {
                // Texts of a fixed length may be far longer there than they are here: write as much as fits.
                if texts.len().saturating_mul(self.element.size()) > BATCH_BYTES
                    && let Some((parts, n)) = halves(region)
                {
                    let values = [&texts[..n], &texts[n..]].map(|half| Values::Text(half.to_vec()));
                    return parts.iter().zip(values).try_for_each(|(part, half)| self.write(part, &half, slots));
                }
                fixed = self.element.encode_texts(texts)?;
                &fixed[..]
            }
            numbers => numbers.as_bytes(),
        };
        let size = self.element.size();
        let lens: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
        let chunk_bytes = count(self.chunk.iter().copied())? * size;
        let mut ready: Vec<(Vec<u64>, Vec<u8>)> = vec![];
        for part in Overlaps::new(self.array.shape(), &self.chunk, region) {
            let kept = slots.contains(&part.chunk);
            if kept {
                let part_lens: Vec<u64> = part.in_box.iter().map(|r| r.end - r.start).collect();
                let whole: Vec<Range<u64>> = part_lens.iter().map(|&n| 0..n).collect();
                let mut bytes = vec![0; part.elements as usize * size];
                copy_box(size, (source, &lens, &part.in_box), (&mut bytes, &part_lens, &whole))?;
                slots.write(&part.chunk, raw::Runs::new(&self.chunk, &part.in_chunk)?, size, &bytes)?;
                if slots.spend(&part.chunk, part.elements) {
                    let bytes = slots.take(&part.chunk)?;
                    ready.push((part.chunk, bytes));
                }
            } else {
                let mut bytes = vec![0; chunk_bytes];
                if part.elements < chunk_bytes as u64 / size as u64 {
                    // What lies beyond the array's end holds the fill value, so that a chunk of nothing else is seen.
                    let whole: Vec<Range<u64>> = self.chunk.iter().map(|&n| 0..n).collect();
                    fill_box(self.array.fill_value().as_ne_bytes(), &mut bytes, &self.chunk, &whole)?;
                }
                copy_box(size, (source, &lens, &part.in_box), (&mut bytes, &self.chunk, &part.in_chunk))?;
                if part.elements == part.chunk_elements {
                    ready.push((part.chunk, bytes));
                } else {
                    slots.insert(part.chunk, bytes, part.chunk_elements - part.elements)?;
                }
            }
            if ready.len() * chunk_bytes >= BATCH_BYTES || ready.len() >= 4096 {
                self.store(&mut ready)?;
            }
        }
        self.store(&mut ready)
    }

    /// Codes and stores whole chunks.
    fn store(&self, ready: &mut Vec<(Vec<u64>, Vec<u8>)>) -> Result<()> {
        std::mem::take(ready)
            .into_par_iter()
            .try_for_each(|(chunk, bytes)| {
                let bytes = zarrs::array::ArrayBytes::new_flen(bytes);
                self.array.store_chunk_opt(&chunk, bytes, &self.options)
            })
            .map_err(array_error)
    }
}

/// The metadata being written.
struct Hierarchy {
    version: Version,
    root: PathBuf,
    /// All documents so far, as the consolidated metadata has them.
    consolidated: Map<String, Value>,
}

impl Hierarchy {
    fn group(&mut self, path: &str, attributes: &[Attribute]) -> Result<()> {
        let attributes = attributes.iter().map(|a| (a.name.clone(), json::from_attribute(&a.value))).collect();
        match self.version {
            Version::V2 => {
                self.document(path, ".zgroup", json!({"zarr_format": 2}))?;
                self.zattrs(path, attributes)
            }
            Version::V3 => {
                let node = json!({"zarr_format": 3, "node_type": "group", "attributes": attributes});
                self.document(path, "zarr.json", node)
            }
        }
    }

    fn array(&mut self, schema: &Schema, variable: &Variable, store: &Arc<FilesystemStore>) -> Result<ArrayWriter> {
        let element = Element::of_variable(variable.dtype, variable.attribute(DATA_TYPE));
        let bytes = raw::bytes_of(&variable.shape, DType::F64);
        if bytes.is_none_or(|n| n.checked_mul(element.size().max(1) as u64).is_none()) {
            return Err(Error::usage(format!("a shape of {} is too large", raw::shape_text(&variable.shape))));
        }
        let chunk = chunk_of(variable, element);
        let dimensions = dimension_names(schema, variable);
        let (attributes, fill_value) = self.attributes(schema, variable, element);
        let own_fill = element.is_number() && !fill_value.is_null();
        let mut node = self.array_node(variable, element, &chunk, fill_value);
        let path = &variable.path;

        // `zarrs` codes the bytes of the types that it does not know as well as those of numbers.
        let mut known = node.clone();
        let stand_in = match element {
            Element::Bool => Some((Element::Plain(DType::U8).metadata(self.version), 0.into())),
            Element::Text | Element::Utf32(_) => Some((element.metadata(self.version), "".into())),
            _ => element.stand_in(self.version),
        };
        if let Some((data_type, fill)) = stand_in {
            known[if self.version == Version::V3 { "data_type" } else { "dtype" }] = data_type;
            known["fill_value"] = fill;
        }
        let array = match open(store, path, &known, self.version) {
            Ok(array) => array,
            Err(_) if own_fill => {
                // A fill value that this type can not have: it came with another format or version.
                node["fill_value"] = if self.version == Version::V3 { default_fill(element) } else { Value::Null };
                open(store, path, &node, self.version)?
            }
            Err(e) => return Err(e),
        };
        // A chunk of nothing but the fill value need not be stored, where all agree on what it is.
        let options = CodecOptions::default().with_store_empty_chunks(!own_fill);
        match self.version {
            Version::V2 => {
                self.document(path, ".zarray", node)?;
                let mut attributes = attributes;
                if let Some(names) = dimensions {
                    attributes.insert(ARRAY_DIMENSIONS.into(), names.into());
                }
                self.zattrs(path, attributes)?;
            }
            Version::V3 => {
                node["attributes"] = attributes.into();
                if let Some(names) = dimensions.filter(|names| !names.is_empty()) {
                    node["dimension_names"] = names.into();
                }
                self.document(path, "zarr.json", node)?;
            }
        }
        Ok(ArrayWriter { name: variable.name().into(), array, element, chunk, options, left: variable.len() })
    }

    /// The array's metadata without attributes and names.
    fn array_node(&self, variable: &Variable, element: Element, chunk: &[u64], fill_value: Value) -> Value {
        let text = element == Element::Text;
        match self.version {
            Version::V2 => json!({
                "zarr_format": 2,
                "shape": variable.shape,
                "chunks": chunk,
                "dtype": element.metadata(self.version),
                "compressor": {"id": "zstd", "level": ZSTD_LEVEL},
                "fill_value": fill_value,
                "order": "C",
                "filters": if text { json!([{"id": "vlen-utf8"}]) } else { Value::Null },
                "dimension_separator": ".",
            }),
            Version::V3 => {
                let bytes = if text {
                    json!({"name": "vlen-utf8", "configuration": {}})
                } else if element.size() == 1 || matches!(element, Element::Bytes(_)) {
                    json!({"name": "bytes"})
                } else {
                    json!({"name": "bytes", "configuration": {"endian": "little"}})
                };
                json!({
                    "zarr_format": 3,
                    "node_type": "array",
                    "shape": variable.shape,
                    "data_type": element.metadata(self.version),
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
                    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                    "fill_value": fill_value,
                    "codecs": [bytes, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": false}}],
                    "attributes": {},
                    "storage_transformers": [],
                })
            }
        }
    }

    /// The array's attributes and its `fill_value`.
    fn attributes(&self, schema: &Schema, variable: &Variable, element: Element) -> (Map<String, Value>, Value) {
        let version = self.version;
        let mut attributes = Map::new();
        let mut fill = if version == Version::V3 { default_fill(element) } else { Value::Null };
        // What Zarr said of itself holds for the same version of Zarr.
        let same = matches!((version, schema.format), (Version::V2, Format::Zarr2) | (Version::V3, Format::Zarr3));
        let own = match variable.attribute(FILL_VALUE) {
            Some(AttributeValue::Json(text)) if same => json::parse(text).ok(),
            _ => None,
        };
        for a in &variable.attributes {
            let value = match a.name.as_str() {
                FILL_VALUE | DATA_TYPE => continue,
                "_FillValue" if element.is_number() => match element::number_fill(&a.value, element.dtype()) {
                    Some(value) if version == Version::V2 && own.is_none() => {
                        fill = value;
                        continue;
                    }
                    Some(_) if version == Version::V3 && element.dtype().is_float() => match &a.value {
                        AttributeValue::F32(v) => element::float_to_base64(f64::from(v[0])),
                        AttributeValue::F64(v) => element::float_to_base64(v[0]),
                        other => element::float_to_base64(json::from_attribute(other).as_f64().unwrap_or(f64::NAN)),
                    },
                    _ => json::from_attribute(&a.value),
                },
                // xarray takes no `_FillValue` of `char` arrays in version 3.
                "_FillValue" if element == Element::Plain(DType::Char) => match element::char_to_base64(&a.value) {
                    Some(value) => {
                        fill = value;
                        continue;
                    }
                    None => json::from_attribute(&a.value),
                },
                _ => json::from_attribute(&a.value),
            };
            attributes.insert(a.name.clone(), value);
        }
        (attributes, own.unwrap_or(fill))
    }

    fn zattrs(&mut self, path: &str, attributes: Map<String, Value>) -> Result<()> {
        if attributes.is_empty() { Ok(()) } else { self.document(path, ".zattrs", attributes.into()) }
    }

    /// Writes a metadata document of the node at `path`.
    fn document(&mut self, path: &str, name: &str, document: Value) -> Result<()> {
        let node = path.trim_start_matches('/');
        let folder = self.root.join(node);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), json::text(&document))?;
        let key = match (self.version, node) {
            (Version::V3, _) => node.to_owned(),
            (Version::V2, "") => name.to_owned(),
            (Version::V2, _) => format!("{node}/{name}"),
        };
        self.consolidated.insert(key, document);
        Ok(())
    }

    /// Writes all metadata once more in one place, where xarray looks first.
    fn consolidate(mut self) -> Result<()> {
        match self.version {
            Version::V2 => {
                let all = json!({"zarr_consolidated_format": 1, "metadata": self.consolidated});
                fs::write(self.root.join(".zmetadata"), json::text(&all))?;
            }
            Version::V3 => {
                let Some(mut root) = self.consolidated.shift_remove("") else { return Ok(()) };
                let inline = |metadata| json!({"kind": "inline", "must_understand": false, "metadata": metadata});
                for node in self.consolidated.values_mut().filter(|n| n["node_type"] == "group") {
                    node["consolidated_metadata"] = inline(Map::new());
                }
                root["consolidated_metadata"] = inline(self.consolidated);
                fs::write(self.root.join("zarr.json"), json::text(&root))?;
            }
        }
        Ok(())
    }
}

fn open(store: &Arc<FilesystemStore>, path: &str, node: &Value, version: Version) -> Result<Array<FilesystemStore>> {
    let metadata = match version {
        Version::V2 => serde_json::from_value(node.clone()).map(ArrayMetadata::V2),
        Version::V3 => serde_json::from_value(node.clone()).map(ArrayMetadata::V3),
    };
    let metadata = metadata.map_err(|e| Error::usage(e.to_string()))?;
    Array::new_with_metadata(store.clone(), path, metadata).map_err(|e| Error::usage(e.to_string()))
}

/// Chunk lengths: the schema's hint if chunks stay small enough, else whole rows as far as they fit.
fn chunk_of(variable: &Variable, element: Element) -> Vec<u64> {
    let size = if element == Element::Text { TEXT_BYTES } else { element.size() } as u64;
    let bytes = |chunk: &[u64]| chunk.iter().try_fold(size, |n, &d| n.checked_mul(d)).unwrap_or(u64::MAX);
    let hint = variable.chunks.as_ref().filter(|c| c.len() == variable.shape.len() && !c.contains(&0));
    if let Some(hint) = hint.filter(|hint| bytes(hint) <= MAX_CHUNK_BYTES) {
        return hint.clone();
    }
    let within = |(i, &n): (usize, &u64)| hint.map_or(n, |hint| hint[i].min(n)).max(1);
    let mut chunk: Vec<u64> = variable.shape.iter().enumerate().map(within).collect();
    let most = if hint.is_some() { MAX_CHUNK_BYTES } else { CHUNK_BYTES };
    // The leading dimensions are cut first, to as many indices as fit.
    for d in 0..chunk.len() {
        if bytes(&chunk) > most {
            chunk[d] = (most / bytes(&chunk[d + 1..])).clamp(1, chunk[d]);
        }
    }
    chunk
}

/// Names of a variable's dimensions within its group; none if a Zarr array came without them.
fn dimension_names(schema: &Schema, variable: &Variable) -> Option<Vec<String>> {
    let name =
        |i: &u32| schema.dimensions.get(*i as usize).map(|d| d.path[d.path.rfind('/').map_or(0, |at| at + 1)..].into());
    if variable.dimensions.len() == variable.shape.len() {
        let names: Option<Vec<String>> = variable.dimensions.iter().map(name).collect();
        return names;
    }
    match schema.format {
        Format::Zarr2 | Format::Zarr3 => None,
        _ => Some((0..variable.shape.len()).map(|d| format!("dim_{d}")).collect()),
    }
}

/// Paths of all groups, parents before children, those included that only variables name.
fn group_paths(schema: &Schema) -> Vec<String> {
    let mut paths = vec!["/".to_owned()];
    let mut seen: BTreeSet<String> = paths.iter().cloned().collect();
    let groups = schema.groups.iter().map(|g| (&g.path, true));
    for (path, whole) in groups.chain(schema.variables.iter().map(|v| (&v.path, false))) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain(whole.then_some(path.len()));
        for end in ends.filter(|end| *end > 1) {
            if seen.insert(path[..end].to_owned()) {
                paths.push(path[..end].to_owned());
            }
        }
    }
    paths
}

/// Refuses names that are no Zarr nodes, or would lead out of the folder. They may come from an archive by a stranger.
fn check_names(schema: &Schema) -> Result<()> {
    let good = |name: &str| {
        let reserved = ["", ".", "..", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"];
        !reserved.contains(&name) && !name.starts_with("__") && !name.contains(['\\', '\0'])
    };
    let mut nodes: BTreeSet<&str> = BTreeSet::new();
    let groups = schema.groups.iter().map(|g| g.path.as_str()).filter(|p| *p != "/");
    for path in groups.chain(schema.variables.iter().map(|v| v.path.as_str())) {
        if !path.strip_prefix('/').is_some_and(|p| p.split('/').all(good)) {
            return Err(Error::usage(format!("{path:?} can not be the name of a Zarr group or array")));
        }
        if !nodes.insert(path) {
            return Err(Error::usage(format!("two groups or variables have the name {path:?}")));
        }
    }
    for variable in &schema.variables {
        let below = format!("{}/", variable.path);
        if nodes.range(below.as_str()..).next().is_some_and(|p| p.starts_with(&below)) {
            return Err(Error::usage(format!("variable {:?} has groups or variables below it", variable.name())));
        }
    }
    Ok(())
}
