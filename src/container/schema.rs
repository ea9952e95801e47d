//! Caps on a schema, and how it is read.

use super::limits;
use super::section::{self, kind};
use crate::encode::bytes;
use crate::error::{Error, Result};
use crate::io::Schema;
use std::io::Read;

/// Number of CBOR items, nested ones included, as far as the bytes are CBOR.
fn n_items(mut rest: &[u8]) -> usize {
    let mut n = 0;
    while let [head, tail @ ..] = rest {
        n += 1;
        let n_bytes = match head & 31 {
            0..=23 | 31 => 0,
            k @ 24..=27 => 1 << (k - 24),
            _ => break,
        };
        let Some((number, tail)) = tail.split_at_checked(n_bytes) else { break };
        let number = number.iter().fold(0, |n, &b| n << 8 | u64::from(b));
        let number = if n_bytes == 0 { u64::from(head & 31) } else { number };
        // Bytes and texts are followed by as many bytes.
        let content = if matches!(head >> 5, 2 | 3) && head & 31 != 31 { number } else { 0 };
        let Some(tail) = usize::try_from(content).ok().and_then(|c| tail.get(c..)) else { break };
        rest = tail;
    }
    n
}

/// Says if a serialized schema is beyond the caps: a byte of it may become a hundred in memory.
pub fn schema_excess(plain: &[u8]) -> Option<String> {
    use minicbor::decode::{Decoder, Error};
    if plain.len() > limits::MAX_SCHEMA_BYTES {
        return Some(format!("names and attributes of more than {} MiB", limits::MAX_SCHEMA_BYTES >> 20));
    }
    if n_items(plain) > limits::MAX_SCHEMA_ITEMS {
        return Some(format!("names, lengths and attributes of more than {} items", limits::MAX_SCHEMA_ITEMS));
    }
    let lists = || -> Result<Option<&str>, Error> {
        let mut decoder = Decoder::new(plain);
        decoder.array()?;
        decoder.skip()?;
        for list in ["groups", "dimensions", "variables"] {
            match decoder.array()? {
                Some(n) if n <= limits::MAX_SCHEMA_OBJECTS => (0..n).try_for_each(|_| decoder.skip())?,
                _ => return Ok(Some(list)),
            }
        }
        Ok(None)
    };
    match lists() {
        Ok(list) => list.map(|list| format!("more than {} {list}", limits::MAX_SCHEMA_OBJECTS)),
        Err(e) => Some(e.to_string()),
    }
}

pub fn read_schema(input: &mut impl Read) -> Result<Schema> {
    let (k, payload, _) = section::read(input, limits::MAX_SCHEMA_BYTES as u64)?;
    if k != kind::SCHEMA {
        return Err(Error::corrupt("schema is missing"));
    }
    let plain = bytes::Reader::new(&payload).packed(limits::MAX_SCHEMA_BYTES)?;
    if let Some(excess) = schema_excess(&plain) {
        return Err(Error::corrupt(format!("schema is damaged: {excess}")));
    }
    let schema: Schema = minicbor::decode(&plain).map_err(|e| Error::corrupt(format!("schema is damaged: {e}")))?;
    let total = |shape: &[u64]| shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let sound = schema.variables.iter().all(|v| {
        v.shape.len() <= 64
            && total(&v.shape).is_some()
            && v.dimensions.iter().all(|&d| (d as usize) < schema.dimensions.len())
            && (v.dimensions.is_empty() || v.dimensions.len() == v.shape.len())
    });
    if sound { Ok(schema) } else { Err(Error::corrupt("schema is damaged")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Writer;
    use crate::error::Kind;
    use crate::field::DType;
    use crate::io::Format;

    #[test]
    fn schemas_beyond_the_caps_are_refused_before_they_are_decoded() {
        let mut schema = Schema::single(Format::Raw, "x", DType::F32, &[0]);
        let size = |schema: &Schema| schema_excess(&minicbor::to_vec(schema).unwrap());
        assert_eq!(size(&schema), None);
        let one = schema.variables[0].clone();
        schema.variables = vec![one.clone(); limits::MAX_SCHEMA_OBJECTS as usize + 1];
        assert!(size(&schema).unwrap().contains("variables"));
        assert_eq!(Writer::new(Vec::new(), &schema).err().unwrap().kind(), Kind::Usage);
        schema.variables = vec![one];
        let value = crate::io::AttributeValue::Texts(vec![String::new(); limits::MAX_SCHEMA_ITEMS]);
        schema.groups[0].attributes.push(crate::io::Attribute { name: "a".into(), value });
        assert!(size(&schema).unwrap().contains("items"));
    }
}
