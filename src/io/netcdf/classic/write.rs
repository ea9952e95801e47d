//! Writes classic files: the header first, then values at the places it promises.

use super::super::super::{Attribute, Format, Schema, Variable};
use super::super::{positioned, regions, split_path, values};
use super::{Place, TAG_ATTRIBUTES, TAG_DIMENSIONS, TAG_VARIABLES, Widths, padded, record_bytes};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use std::fs::File;
use std::ops::Range;

/// A classic file that is being written.
pub struct Writer {
    places: Vec<Place>,
    end: u64,
}

impl Writer {
    /// Writes the header for a schema that was prepared.
    pub fn create(file: &mut File, schema: &Schema, format: Format) -> Result<Self> {
        let widths = Widths::of(format);
        let records = check(schema, widths)?;
        // The header's length does not depend on the places in it, so it is encoded once to measure and once for good.
        let mut layout = Layout { begins: vec![0; schema.variables.len()], sizes: vec![0; schema.variables.len()] };
        let header_bytes = header(schema, records, &layout, widths)?.len() as u64;
        let (places, end) = lay_out(schema, records, header_bytes, &mut layout);
        positioned::write_at(file, 0, &header(schema, records, &layout, widths)?)?;
        Ok(Self { places, end })
    }

    /// Writes a box that was checked.
    pub fn write(
        &mut self,
        file: &mut File,
        variable: usize,
        v: &Variable,
        region: &[Range<u64>],
        values: &Values,
    ) -> Result<()> {
        let bytes = values::to_bytes(values, values::Order::Big);
        let mut rest = &bytes[..];
        self.places[variable].for_each_run(v, region, |offset, n| {
            let (run, tail) = rest.split_at(n as usize);
            rest = tail;
            positioned::write_at(file, offset, run)
        })
    }

    /// Padding at the end may not have been written.
    pub fn finish(self, file: &mut File) -> Result<()> {
        Ok(file.set_len(self.end)?)
    }
}

/// First value and size of every variable, as the header has them.
struct Layout {
    begins: Vec<u64>,
    sizes: Vec<u64>,
}

/// That the format can hold the schema; and the number of records.
fn check(schema: &Schema, widths: Widths) -> Result<u64> {
    let instead = "choose NetCDF-4";
    if let Some(g) = schema.groups.get(1) {
        return Err(Error::usage(format!("classic NetCDF has no groups such as {:?}: {instead}", g.path)));
    }
    let mut unlimited = (0u32..).zip(&schema.dimensions).filter(|(_, d)| d.unlimited || d.len == 0);
    let records = unlimited.next();
    if let Some((_, d)) = unlimited.next() {
        return Err(Error::usage(format!(
            "classic NetCDF has one unlimited or empty dimension at most, not {:?} too: {instead}",
            d.path
        )));
    }
    for v in &schema.variables {
        let later = records.is_some_and(|(r, _)| v.dimensions.iter().skip(1).any(|&d| d == r));
        if later {
            return Err(Error::usage(format!(
                "variable {:?}: in classic NetCDF only the first dimension can be unlimited or empty: {instead}",
                v.name()
            )));
        }
        type_code(v.dtype, widths).context(|| format!("variable {:?}", v.name()))?;
    }
    Ok(records.map_or(0, |(_, d)| d.len))
}

fn type_code(dtype: DType, widths: Widths) -> Result<u32> {
    let instead =
        if dtype == DType::Text || widths.wide_counts { "choose NetCDF-4" } else { "choose NetCDF-4 or CDF-5" };
    widths
        .types()
        .iter()
        .find(|t| t.1 == dtype)
        .map(|t| t.0)
        .ok_or_else(|| Error::usage(format!("this classic NetCDF format has no type {dtype}: {instead}")))
}

/// Whether `v` has the unlimited dimension: in these formats, the one whose length the header gives as 0.
fn has_records(v: &Variable, schema: &Schema) -> bool {
    v.dimensions.first().is_some_and(|&d| {
        let d = &schema.dimensions[d as usize];
        d.unlimited || d.len == 0
    })
}

/// Fixed variables one after the other, then records.
fn lay_out(schema: &Schema, records: u64, header_bytes: u64, layout: &mut Layout) -> (Vec<Place>, u64) {
    let mut places = vec![Place { begin: 0, record_bytes: None }; schema.variables.len()];
    let mut at = padded(header_bytes);
    for (i, v) in schema.variables.iter().enumerate().filter(|(_, v)| !has_records(v, schema)) {
        layout.begins[i] = at;
        layout.sizes[i] = padded(v.len() * v.dtype.size() as u64);
        places[i].begin = at;
        at += layout.sizes[i];
    }
    // Without records, a slice may be of any size; none is written then.
    let of_record = |v: &Variable| regions::checked_len(&v.shape[1..], v.dtype.size()).unwrap_or(0);
    let with_records: Vec<_> = (0..).zip(&schema.variables).filter(|(_, v)| has_records(v, schema)).collect();
    let slices: Vec<u64> = with_records.iter().map(|(_, v)| of_record(v) * v.dtype.size() as u64).collect();
    // The sum of what was checked to be countable for each: at most a few dimensions' worth, so it does not overflow
    // where the file could exist; where it could not, writing fails.
    let record_bytes = record_bytes(&slices).unwrap_or(u64::MAX);
    let mut begin = at;
    for (&(i, _), &slice) in with_records.iter().zip(&slices) {
        layout.begins[i] = begin;
        layout.sizes[i] = padded(slice);
        places[i] = Place { begin, record_bytes: (slices.len() > 1).then_some(record_bytes) };
        begin = begin.saturating_add(padded(slice));
    }
    (places, at.saturating_add(records.saturating_mul(record_bytes)))
}

/// The header as bytes.
fn header(schema: &Schema, records: u64, layout: &Layout, widths: Widths) -> Result<Vec<u8>> {
    let mut h = Header { bytes: vec![b'C', b'D', b'F', widths.version], widths };
    h.count(records).context(|| "the unlimited dimension")?;
    h.list(TAG_DIMENSIONS, schema.dimensions.len())?;
    for d in &schema.dimensions {
        h.name(split_path(&d.path).1)?;
        h.count(if d.unlimited { 0 } else { d.len }).context(|| format!("dimension {:?}", d.path))?;
    }
    h.attributes(&schema.groups[0].attributes)?;
    h.list(TAG_VARIABLES, schema.variables.len())?;
    for (i, v) in schema.variables.iter().enumerate() {
        let place = || format!("variable {:?}", v.name());
        h.name(v.name())?;
        h.count(v.dimensions.len() as u64)?;
        for &d in &v.dimensions {
            h.count(u64::from(d))?;
        }
        h.attributes(&v.attributes).context(place)?;
        h.word(type_code(v.dtype, widths)?);
        h.size(i, layout, schema).context(place)?;
        h.begin(layout.begins[i]).context(place)?;
    }
    Ok(h.bytes)
}

struct Header {
    bytes: Vec<u8>,
    widths: Widths,
}

impl Header {
    fn word(&mut self, n: u32) {
        self.bytes.extend(n.to_be_bytes());
    }

    fn count(&mut self, n: u64) -> Result<()> {
        if self.widths.wide_counts {
            self.bytes.extend(n.to_be_bytes());
            return Ok(());
        }
        // The largest is the mark of a file whose writer died.
        match u32::try_from(n) {
            Ok(n) if n < u32::MAX => self.word(n),
            _ => return Err(Error::usage(format!("a length of {n} needs CDF-5 or NetCDF-4"))),
        }
        Ok(())
    }

    /// The size of a variable, or of one of its records. In CDF-1 and CDF-2 it may be larger than the field, but only
    /// for the last variable, since the place of the next one follows from it in some readers.
    fn size(&mut self, i: usize, layout: &Layout, schema: &Schema) -> Result<()> {
        const LARGEST: u64 = u32::MAX as u64 - 3;
        let n = layout.sizes[i];
        if self.widths.wide_counts || n <= LARGEST {
            return self.count(n);
        }
        let records = has_records(&schema.variables[i], schema);
        let last = schema.variables[i + 1..].iter().all(|v| has_records(v, schema) != records)
            && (records || !schema.variables.iter().any(|v| has_records(v, schema)));
        if !last {
            return Err(Error::usage("more than 4 GiB need CDF-5 or NetCDF-4, unless in the last variable"));
        }
        self.word(u32::MAX);
        Ok(())
    }

    fn begin(&mut self, n: u64) -> Result<()> {
        if self.widths.wide_places {
            self.bytes.extend(n.to_be_bytes());
        } else if n <= i32::MAX as u64 {
            self.word(n as u32);
        } else {
            return Err(Error::usage("a file of more than 2 GiB needs the 64-bit offset format, CDF-5 or NetCDF-4"));
        }
        Ok(())
    }

    fn list(&mut self, tag: u32, n: usize) -> Result<()> {
        self.word(if n == 0 { 0 } else { tag });
        self.count(n as u64)
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(padded(self.bytes.len() as u64) as usize, 0);
    }

    fn name(&mut self, name: &str) -> Result<()> {
        self.count(name.len() as u64)?;
        self.padded(name.as_bytes());
        Ok(())
    }

    fn attributes(&mut self, attributes: &[Attribute]) -> Result<()> {
        self.list(TAG_ATTRIBUTES, attributes.len())?;
        for a in attributes {
            let value = values::of_attribute(&a.value);
            self.name(&a.name)?;
            let code = type_code(value.dtype(), self.widths).context(|| format!("attribute {:?}", a.name))?;
            self.word(code);
            self.count(value.len() as u64)?;
            self.padded(&values::to_bytes(&value, values::Order::Big));
        }
        Ok(())
    }
}
