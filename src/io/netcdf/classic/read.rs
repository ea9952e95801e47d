//! Reads classic files.

use super::super::super::{Attribute, Dimension, Format, Group, Schema, Variable};
use super::super::{join_path, positioned, regions, values};
use super::{Place, TAG_ATTRIBUTES, TAG_DIMENSIONS, TAG_VARIABLES, Widths, padded, record_bytes};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

/// A classic file, open.
pub struct Reader {
    pub schema: Schema,
    file: File,
    bytes: u64,
    places: Vec<Place>,
    pub warnings: Vec<String>,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let (schema, places, warnings) = Header::read(&file, bytes)?;
        Ok(Self { schema, file, bytes, places, warnings })
    }

    /// The values in a box that was checked.
    pub fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let v = &self.schema.variables[variable];
        let n = regions::len(region);
        // A box can not be larger than the file; a header that says otherwise does not make us allocate.
        if n.checked_mul(v.dtype.size() as u64).is_none_or(|n| n > self.bytes) {
            return Err(Error::input("the file ends before the values do"));
        }
        let mut values = Values::zeros(v.dtype, n as usize);
        let mut rest = values.as_bytes_mut();
        let (file, bytes) = (&mut self.file, self.bytes);
        self.places[variable].for_each_run(v, region, |offset, n| {
            if offset.checked_add(n).is_none_or(|end| end > bytes) {
                return Err(Error::input(format!("the file ends at byte {bytes}, before the values do")));
            }
            let (run, tail) = std::mem::take(&mut rest).split_at_mut(n as usize);
            rest = tail;
            positioned::read_at(file, offset, run)
        })?;
        values::from_bytes(&mut values, values::Order::Big);
        Ok(values)
    }
}

/// Where in the header we are.
struct Header<'a> {
    input: BufReader<&'a File>,
    /// Bytes left in the file: no name, list or text can be longer.
    left: u64,
    widths: Widths,
    warnings: Vec<String>,
}

impl<'a> Header<'a> {
    fn read(file: &'a File, bytes: u64) -> Result<(Schema, Vec<Place>, Vec<String>)> {
        let mut h =
            Self { input: BufReader::new(file), left: bytes, widths: Widths::of(Format::NetCdf3), warnings: vec![] };
        let magic = h.bytes(4)?;
        let format = match magic[..] {
            [b'C', b'D', b'F', 1] => Format::NetCdf3,
            [b'C', b'D', b'F', 2] => Format::NetCdf3Offset64,
            [b'C', b'D', b'F', 5] => Format::NetCdf5,
            _ => return Err(Error::input(format!("{magic:02x?} is not the start of a NetCDF file"))),
        };
        h.widths = Widths::of(format);
        let records = match h.count()? {
            // A file that was being written when its writer died: as many records as there are.
            u64::MAX => None,
            n if n == u64::from(u32::MAX) && !h.widths.wide_counts => None,
            n => Some(n),
        };
        let mut dimensions = vec![];
        for _ in 0..h.list(TAG_DIMENSIONS)? {
            let path = join_path("/", &h.name()?);
            let len = h.count()?;
            dimensions.push(Dimension { path, len, unlimited: len == 0 });
        }
        if dimensions.iter().filter(|d| d.unlimited).count() > 1 {
            return Err(Error::input("the header has several unlimited dimensions"));
        }
        let attributes = h.attributes("")?;
        let mut variables = vec![];
        let mut begins = vec![];
        for _ in 0..h.list(TAG_VARIABLES)? {
            let (v, begin) = h.variable(&dimensions)?;
            variables.push(v);
            begins.push(begin);
        }
        let warnings = h.warnings;

        let mut schema = Schema { format, groups: vec![Group { path: "/".into(), attributes }], dimensions, variables };
        let places = place(&mut schema, &begins, records, bytes)?;
        Ok((schema, places, warnings))
    }

    fn variable(&mut self, dimensions: &[Dimension]) -> Result<(Variable, u64)> {
        let name = self.name()?;
        let mut v = Variable {
            path: join_path("/", &name),
            dtype: DType::I8,
            shape: vec![],
            dimensions: vec![],
            attributes: vec![],
            chunks: None,
        };
        let place = || format!("variable {name:?}");
        for axis in 0..self.count()? {
            let index = self.count()?;
            let Some(d) = dimensions.get(index as usize).filter(|d| axis == 0 || !d.unlimited) else {
                return Err(Error::input(format!("dimension {axis} can not be dimension {index} of the file")))
                    .context(place);
            };
            v.dimensions.push(index as u32);
            v.shape.push(d.len);
        }
        v.attributes = self.attributes(&format!("{}: ", place())).context(place)?;
        v.dtype = self.dtype().context(place)?;
        // The size is not read: it follows from the shape, and has too few bits for large variables.
        self.count()?;
        let begin = self.number(self.widths.wide_places)?;
        Ok((v, begin))
    }

    /// The attributes of `owner`, with a colon.
    fn attributes(&mut self, owner: &str) -> Result<Vec<Attribute>> {
        let mut attributes = vec![];
        for _ in 0..self.list(TAG_ATTRIBUTES)? {
            let name = self.name()?;
            let dtype = self.dtype().context(|| format!("attribute {name:?}"))?;
            let n = self.count()?;
            let bytes = n.checked_mul(dtype.size() as u64).ok_or_else(Self::short)?;
            let content = self.padded_bytes(bytes)?;
            if dtype == DType::Char && std::str::from_utf8(&content).is_err() {
                self.warnings.push(format!("{owner}attribute {name:?} {}", values::NOT_UTF8));
            }
            let mut value = Values::zeros(dtype, n as usize);
            value.as_bytes_mut().copy_from_slice(&content);
            values::from_bytes(&mut value, values::Order::Big);
            attributes.push(Attribute { name, value: values::to_attribute(value) });
        }
        Ok(attributes)
    }

    fn short() -> Error {
        Error::input("the file ends in its header")
    }

    fn bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        self.left = self.left.checked_sub(n).ok_or_else(Self::short)?;
        let mut bytes = vec![0; n as usize];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn padded_bytes(&mut self, n: u64) -> Result<Vec<u8>> {
        // Some writers leave out the padding at the very end of the file.
        let mut bytes = self.bytes(padded(n.min(u64::MAX - 4)).min(self.left.max(n)))?;
        bytes.truncate(n as usize);
        Ok(bytes)
    }

    fn number(&mut self, wide: bool) -> Result<u64> {
        let bytes = self.bytes(if wide { 8 } else { 4 })?;
        Ok(bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn count(&mut self) -> Result<u64> {
        self.number(self.widths.wide_counts)
    }

    fn name(&mut self) -> Result<String> {
        let n = self.count()?;
        let bytes = self.padded_bytes(n)?;
        let is_utf8 = std::str::from_utf8(&bytes).is_ok();
        let name = values::text(bytes);
        if !is_utf8 {
            self.warnings.push(format!("the name {name:?} {}", values::NOT_UTF8));
        }
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(Error::input(format!("{name:?} is not a name")));
        }
        Ok(name)
    }

    fn dtype(&mut self) -> Result<DType> {
        let code = self.number(false)?;
        let types = self.widths.types().iter();
        types
            .clone()
            .find(|t| u64::from(t.0) == code)
            .map(|t| t.1)
            .ok_or_else(|| Error::input(format!("there is no type {code} in this format")))
    }

    /// Length of a list; both tag and length of an empty one are 0.
    fn list(&mut self, tag: u32) -> Result<u64> {
        let found = self.number(false)?;
        let n = self.count()?;
        if found != u64::from(tag) && (found != 0 || n != 0) {
            return Err(Error::input(format!("the header has {found:#x} where the list {tag:#x} should be")));
        }
        Ok(n)
    }
}

/// Gives the unlimited dimension its length and every variable its place.
fn place(schema: &mut Schema, begins: &[u64], records: Option<u64>, file_bytes: u64) -> Result<Vec<Place>> {
    let too_large =
        |v: &Variable| Error::input(format!("variable {:?}: the shape {:?} is too large", v.name(), v.shape));
    let unlimited = schema.dimensions.iter().position(|d| d.unlimited).map(|d| d as u32);
    let has_records = |v: &Variable| unlimited.is_some() && v.dimensions.first().copied() == unlimited;
    let mut slices = vec![];
    for v in schema.variables.iter().filter(|v| has_records(v)) {
        let n = regions::checked_len(&v.shape[1..], v.dtype.size()).ok_or_else(|| too_large(v))?;
        slices.push(n * v.dtype.size() as u64);
    }
    let record_bytes = record_bytes(&slices).ok_or_else(|| Error::input("the records are too large"))?;
    let first = schema.variables.iter().zip(begins).filter(|(v, _)| has_records(v)).map(|(_, &b)| b).min();
    let records = records.unwrap_or_else(|| match first {
        Some(begin) if record_bytes > 0 => file_bytes.saturating_sub(begin) / record_bytes,
        _ => 0,
    });
    if let Some(d) = unlimited {
        schema.dimensions[d as usize].len = records;
    }
    let mut places = vec![];
    for (v, &begin) in schema.variables.iter_mut().zip(begins) {
        let has_records = has_records(v);
        if has_records {
            v.shape[0] = records;
        }
        let end = records.checked_mul(record_bytes).and_then(|n| n.checked_add(begin));
        if regions::checked_len(&v.shape, v.dtype.size()).is_none() || end.is_none_or(|end| end > i64::MAX as u64) {
            return Err(too_large(v));
        }
        // The only variable with records has them back to back: like one of fixed size, with longer runs.
        let record_bytes = (has_records && slices.len() > 1).then_some(record_bytes);
        places.push(Place { begin, record_bytes });
    }
    Ok(places)
}
