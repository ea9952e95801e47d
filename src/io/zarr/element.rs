//! Element types of Zarr arrays, and how their bytes become values.

use super::Version;
use super::json;
use crate::error::{Error, Result};
use crate::field::{DType, Values};
use crate::io::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// Longest fixed-length text, in bytes: far above any in use, far below what would exhaust memory.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// An element as the array stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// A number, or a single byte of text, of this type.
    Plain(DType),
    /// A boolean, shown as `u8`.
    Bool,
    /// An IEEE 754 binary16, shown as `f32`.
    Half,
    /// Text in that many bytes, padded with zeros.
    Bytes(usize),
    /// Text in that many UTF-32 code units, padded with zeros.
    Utf32(usize),
    /// Text of any length.
    Text,
}

impl Element {
    /// From the `dtype` and `filters` of version 2.
    pub fn from_v2(dtype: &Value, filters: &Value) -> Result<Self> {
        let name = dtype.as_str().ok_or_else(|| unsupported(dtype))?;
        if name == "|O" {
            let is_text = |f: &Value| f["id"] == "vlen-utf8";
            let text = filters.as_array().is_some_and(|f| f.len() == 1 && f.iter().all(is_text));
            return if text { Ok(Element::Text) } else { Err(Error::unsupported("elements are Python objects")) };
        }
        let bare = name.trim_start_matches(['<', '>', '|', '=']);
        match bare {
            "f2" => Ok(Element::Half),
            "b1" => Ok(Element::Bool),
            _ => {
                let plain = crate::io::npy::dtype_of_name(bare).map(Element::Plain);
                plain.or_else(|| Self::from_text_name(bare)).ok_or_else(|| unsupported(dtype))
            }
        }
    }

    /// From the `data_type` of version 3.
    pub fn from_v3(data_type: &Value) -> Result<Self> {
        let name = data_type.as_str().or_else(|| data_type["name"].as_str()).ok_or_else(|| unsupported(data_type))?;
        let bytes = || data_type["configuration"]["length_bytes"].as_u64();
        let plain = match name {
            "bool" => return Ok(Element::Bool),
            "string" => return Ok(Element::Text),
            "float16" => return Ok(Element::Half),
            "null_terminated_bytes" => {
                let name = format!("S{}", bytes().unwrap_or(0));
                return Self::from_text_name(&name).ok_or_else(|| unsupported(data_type));
            }
            "fixed_length_utf32" => {
                let name = format!("U{}", bytes().filter(|n| n % 4 == 0).unwrap_or(0) / 4);
                return Self::from_text_name(&name).ok_or_else(|| unsupported(data_type));
            }
            "float32" => DType::F32,
            "float64" => DType::F64,
            "int8" => DType::I8,
            "int16" => DType::I16,
            "int32" => DType::I32,
            "int64" => DType::I64,
            "uint8" => DType::U8,
            "uint16" => DType::U16,
            "uint32" => DType::U32,
            "uint64" => DType::U64,
            _ => return Err(unsupported(data_type)),
        };
        Ok(Element::Plain(plain))
    }

    /// For a variable of `dtype`, with its attribute `_zarr_data_type` if it has one.
    pub fn of_variable(dtype: DType, name: Option<&AttributeValue>) -> Self {
        let name = if let Some(AttributeValue::Text(name)) = name { name } else { "" };
        match (dtype, Self::from_text_name(name)) {
            (DType::U8, _) if name == "bool" => Element::Bool,
            (DType::Text, Some(text @ (Element::Bytes(_) | Element::Utf32(_)))) => text,
            (DType::Text, _) => Element::Text,
            _ => Element::Plain(dtype),
        }
    }

    /// `S5` or `U5`.
    fn from_text_name(name: &str) -> Option<Self> {
        let n: usize = name.get(1..)?.parse().ok().filter(|n| (1..=MAX_TEXT_BYTES / 4).contains(n))?;
        match name.as_bytes()[0] {
            b'S' if n == 1 => Some(Element::Plain(DType::Char)),
            b'S' => Some(Element::Bytes(n)),
            b'U' => Some(Element::Utf32(n)),
            _ => None,
        }
    }

    /// What `_zarr_data_type` says of it; none if the schema's element type says all.
    pub fn name(self) -> Option<String> {
        match self {
            Element::Bool => Some("bool".into()),
            Element::Bytes(n) => Some(format!("S{n}")),
            Element::Utf32(n) => Some(format!("U{n}")),
            Element::Plain(_) | Element::Half | Element::Text => None,
        }
    }

    /// The schema's element type.
    pub fn dtype(self) -> DType {
        match self {
            Element::Plain(dtype) => dtype,
            Element::Bool => DType::U8,
            Element::Half => DType::F32,
            Element::Bytes(_) | Element::Utf32(_) | Element::Text => DType::Text,
        }
    }

    /// Bytes of an element; 0 for text of any length.
    pub fn size(self) -> usize {
        match self {
            Element::Plain(dtype) => dtype.size(),
            Element::Bool => 1,
            Element::Half => 2,
            Element::Bytes(n) => n,
            Element::Utf32(n) => 4 * n,
            Element::Text => 0,
        }
    }

    /// Whether it is a number whose `fill_value` stands in JSON as that number.
    pub fn is_number(self) -> bool {
        matches!(self, Element::Half) || matches!(self, Element::Plain(dtype) if dtype != DType::Char)
    }

    /// The type as the metadata says it.
    pub fn metadata(self, version: Version) -> Value {
        let v3 = version == Version::V3;
        let sized = |name: &str, bytes: usize| json!({"name": name, "configuration": {"length_bytes": bytes}});
        match self {
            Element::Plain(DType::Char) if v3 => sized("null_terminated_bytes", 1),
            Element::Plain(DType::Char) => "|S1".into(),
            Element::Plain(dtype) if v3 => match dtype {
                DType::F32 => "float32",
                DType::F64 => "float64",
                DType::I8 => "int8",
                DType::I16 => "int16",
                DType::I32 => "int32",
                DType::I64 => "int64",
                DType::U16 => "uint16",
                DType::U32 => "uint32",
                DType::U64 => "uint64",
                _ => "uint8",
            }
            .into(),
            Element::Plain(dtype) => {
                let kind = match dtype {
                    DType::F32 | DType::F64 => 'f',
                    DType::I8 | DType::I16 | DType::I32 | DType::I64 => 'i',
                    _ => 'u',
                };
                let order = if dtype.size() == 1 { '|' } else { '<' };
                format!("{order}{kind}{}", dtype.size()).into()
            }
            Element::Bool => if v3 { "bool" } else { "|b1" }.into(),
            Element::Half => if v3 { "float16" } else { "<f2" }.into(),
            Element::Bytes(n) if v3 => sized("null_terminated_bytes", n),
            Element::Bytes(n) => format!("|S{n}").into(),
            Element::Utf32(n) if v3 => sized("fixed_length_utf32", 4 * n),
            Element::Utf32(n) => format!("<U{n}").into(),
            Element::Text => if v3 { "string" } else { "|O" }.into(),
        }
    }

    /// The type under which `zarrs` codes the same bytes, if it does not know this one, and a fill value for it.
    pub fn stand_in(self, version: Version) -> Option<(Value, Value)> {
        if !matches!(self, Element::Plain(DType::Char) | Element::Bytes(_)) {
            return None;
        }
        let n = self.size();
        let name = if version == Version::V3 { format!("r{}", 8 * n) } else { format!("|V{n}") };
        Some((name.into(), BASE64.encode(vec![0; n]).into()))
    }

    /// The element of missing chunks as bytes, from the metadata's `fill_value`; none if that is not text.
    pub fn text_fill(self, fill_value: &Value) -> Option<Vec<u8>> {
        let text = fill_value.as_str().unwrap_or_default();
        let mut bytes = match self {
            // In base64; but version 3 has the empty text as it is.
            Element::Plain(DType::Char) | Element::Bytes(_) => BASE64.decode(text).unwrap_or_default(),
            Element::Utf32(_) => text.chars().flat_map(|c| u32::from(c).to_ne_bytes()).collect(),
            _ => return None,
        };
        bytes.resize(self.size(), 0);
        Some(bytes)
    }

    /// Values from the bytes that `zarrs` decodes: this machine's order, `size` bytes each.
    pub fn decode(self, bytes: &[u8]) -> Result<Values> {
        let trim = |e: &[u8]| e.len() - e.iter().rev().take_while(|b| **b == 0).count();
        match self {
            Element::Half => {
                let halves = bytes.chunks_exact(2).map(|b| half_to_f32(u16::from_ne_bytes([b[0], b[1]])));
                Ok(Values::F32(halves.collect()))
            }
            Element::Bytes(n) => {
                let texts = bytes.chunks_exact(n).map(|e| String::from_utf8(e[..trim(e)].to_vec()));
                let texts: Result<_, _> = texts.collect();
                texts.map(Values::Text).map_err(|_| Error::input("byte strings that are not UTF-8"))
            }
            Element::Utf32(n) => {
                let units = |e: &[u8]| -> Option<String> {
                    let units = e.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                    let text: Option<String> = units.map(char::from_u32).collect();
                    text.map(|t| t.trim_end_matches('\0').into())
                };
                let texts: Option<_> = bytes.chunks_exact(4 * n).map(units).collect();
                texts.map(Values::Text).ok_or_else(|| Error::input("text that is not Unicode"))
            }
            Element::Plain(_) | Element::Bool | Element::Text => {
                let dtype = self.dtype();
                let mut values = Values::zeros(dtype, bytes.len() / dtype.size().max(1));
                values.as_bytes_mut().copy_from_slice(bytes);
                Ok(values)
            }
        }
    }

    /// The bytes of text of a fixed length.
    pub fn encode_texts(self, texts: &[String]) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(texts.len() * self.size());
        for (i, text) in texts.iter().enumerate() {
            match self {
                Element::Utf32(_) => bytes.extend(text.chars().flat_map(|c| u32::from(c).to_ne_bytes())),
                _ => bytes.extend(text.as_bytes()),
            }
            let end = (i + 1) * self.size();
            if bytes.len() > end {
                return Err(Error::usage(format!(
                    "text {text:?} does not fit into the {} bytes of an element",
                    self.size()
                )));
            }
            bytes.resize(end, 0);
        }
        Ok(bytes)
    }
}

fn unsupported(dtype: &Value) -> Error {
    Error::unsupported(format!("elements of type {dtype} are not read"))
}

/// Widens an IEEE 754 binary16; exact.
fn half_to_f32(half: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(half >> 15), u32::from(half >> 10 & 31), u32::from(half & 1023));
    let magnitude = match exponent {
        // Subnormal: a multiple of 2^-24, which f32 holds as a normal number.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        e => (e + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign << 31 | magnitude)
}

/// The `fill_value` that says `attribute` for elements of this number type; none if it can not say it exactly.
pub(super) fn number_fill(attribute: &AttributeValue, dtype: DType) -> Option<Value> {
    let value = json::one_number(attribute)?;
    let mut value = json::from_attribute(&json::typed(&value, dtype)?);
    json::plain_specials(&mut value);
    Some(value)
}

/// The attribute `_FillValue` that says a text `fill_value` (base64) of a `char` array.
pub(super) fn char_from_base64(fill_value: &Value) -> Option<AttributeValue> {
    match BASE64.decode(fill_value.as_str()?).ok()?[..] {
        [c] if c.is_ascii() => Some(AttributeValue::Text(char::from(c).into())),
        [c] => Some(AttributeValue::U8(vec![c])),
        _ => None,
    }
}

/// The base64 `fill_value` of a `char` array whose `_FillValue` is `attribute`.
pub(super) fn char_to_base64(attribute: &AttributeValue) -> Option<Value> {
    let byte = match attribute {
        AttributeValue::Text(s) if s.len() == 1 => s.as_bytes()[0],
        // The empty text is what is left of a null character.
        AttributeValue::Text(s) if s.is_empty() => 0,
        AttributeValue::U8(v) if v.len() == 1 => v[0],
        _ => return None,
    };
    Some(BASE64.encode([byte]).into())
}

/// xarray's `_FillValue` of version 3 floats: base64 of a little-endian f64.
pub(super) fn float_from_base64(value: &Value) -> Option<f64> {
    let bytes = BASE64.decode(value.as_str()?).ok()?;
    Some(f64::from_le_bytes(bytes.try_into().ok()?))
}

/// The same the other way.
pub(super) fn float_to_base64(value: f64) -> Value {
    BASE64.encode(value.to_le_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_widen() {
        for (half, wide) in
            [(0x0000, 0.0), (0x8000, -0.0), (0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0400, 6.103_515_6e-5)]
        {
            assert_eq!(half_to_f32(half).to_bits(), f32::to_bits(wide));
        }
        assert_eq!(half_to_f32(1), 2f32.powi(-24));
        assert_eq!(half_to_f32(0x03ff), 1023.0 * 2f32.powi(-24));
        assert_eq!(half_to_f32(0xfc00), f32::NEG_INFINITY);
        assert!(half_to_f32(0x7e00).is_nan());
    }

    #[test]
    fn fixed_texts_come_back() {
        let texts = vec!["".to_string(), "é".into(), "abc".into()];
        for element in [Element::Bytes(3), Element::Utf32(3)] {
            let bytes = element.encode_texts(&texts).unwrap();
            assert_eq!(element.decode(&bytes).unwrap(), Values::Text(texts.clone()));
            assert!(element.encode_texts(&["abcd".into()]).is_err());
        }
        assert!(Element::Utf32(1).decode(&0xd800u32.to_ne_bytes()).is_err());
        assert!(Element::Bytes(2).decode(&[0xff, 0xff]).is_err());
    }
}
