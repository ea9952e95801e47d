//! Values and attribute values as bytes, and texts from bytes.

use super::super::AttributeValue;
use crate::field::{DType, Values};
use crate::with_numbers;
use std::borrow::Cow;

/// The order of bytes in a number: classic files have the most significant byte first, our NetCDF-4 files last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Big,
    Little,
}

impl Order {
    fn is_native(self) -> bool {
        (self == Order::Little) == cfg!(target_endian = "little")
    }
}

/// The bytes of numbers or characters in `order`.
pub fn to_bytes(values: &Values, order: Order) -> Cow<'_, [u8]> {
    let mut bytes = Cow::Borrowed(values.as_bytes());
    if !order.is_native() && values.dtype().size() > 1 {
        swap(bytes.to_mut(), values.dtype());
    }
    bytes
}

/// Turns values that hold bytes in `order` into values.
pub fn from_bytes(values: &mut Values, order: Order) {
    let dtype = values.dtype();
    if !order.is_native() && dtype.size() > 1 {
        swap(values.as_bytes_mut(), dtype);
    }
}

fn swap(bytes: &mut [u8], dtype: DType) {
    match dtype.size() {
        2 => bytes.as_chunks_mut::<2>().0.iter_mut().for_each(|b| b.reverse()),
        4 => bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| b.reverse()),
        _ => bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|b| b.reverse()),
    }
}

/// An attribute's value as values of a variable: characters for one text.
pub fn of_attribute(value: &AttributeValue) -> Values {
    match value.clone() {
        AttributeValue::Text(text) | AttributeValue::Json(text) => Values::Char(text.into_bytes()),
        AttributeValue::Texts(texts) => Values::Text(texts),
        AttributeValue::F32(v) => Values::F32(v),
        AttributeValue::F64(v) => Values::F64(v),
        AttributeValue::I8(v) => Values::I8(v),
        AttributeValue::I16(v) => Values::I16(v),
        AttributeValue::I32(v) => Values::I32(v),
        AttributeValue::I64(v) => Values::I64(v),
        AttributeValue::U8(v) => Values::U8(v),
        AttributeValue::U16(v) => Values::U16(v),
        AttributeValue::U32(v) => Values::U32(v),
        AttributeValue::U64(v) => Values::U64(v),
    }
}

/// Values of a variable as an attribute's value.
pub fn to_attribute(values: Values) -> AttributeValue {
    match values {
        Values::Char(bytes) => AttributeValue::Text(text(bytes)),
        Values::Text(v) => AttributeValue::Texts(v),
        Values::F32(v) => AttributeValue::F32(v),
        Values::F64(v) => AttributeValue::F64(v),
        Values::I8(v) => AttributeValue::I8(v),
        Values::I16(v) => AttributeValue::I16(v),
        Values::I32(v) => AttributeValue::I32(v),
        Values::I64(v) => AttributeValue::I64(v),
        Values::U8(v) => AttributeValue::U8(v),
        Values::U16(v) => AttributeValue::U16(v),
        Values::U32(v) => AttributeValue::U32(v),
        Values::U64(v) => AttributeValue::U64(v),
    }
}

/// What to say of text of which [`text`] does not keep the bytes.
pub const NOT_UTF8: &str = "is not UTF-8: it is taken for Latin-1 and comes back as UTF-8";

/// Text from bytes that should be UTF-8. Old files hold other encodings, Latin-1 nearly always, so that is tried second.
pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| e.as_bytes().iter().map(|&b| char::from(b)).collect())
}

/// The value that stands for data never written to a variable of `dtype`, unless its `_FillValue` says otherwise
/// (`NC_FILL_BYTE` and so on of the NetCDF library).
pub fn default_fill(dtype: DType) -> Values {
    match dtype {
        DType::F32 => Values::F32(vec![9.969_21e36]),
        DType::F64 => Values::F64(vec![9.969_209_968_386_869e36]),
        DType::I8 => Values::I8(vec![-127]),
        DType::I16 => Values::I16(vec![-32767]),
        DType::I32 => Values::I32(vec![-2_147_483_647]),
        DType::I64 => Values::I64(vec![-9_223_372_036_854_775_806]),
        DType::U8 => Values::U8(vec![u8::MAX]),
        DType::U16 => Values::U16(vec![u16::MAX]),
        DType::U32 => Values::U32(vec![u32::MAX]),
        DType::U64 => Values::U64(vec![u64::MAX - 1]),
        DType::Char => Values::Char(vec![0]),
        DType::Text => Values::Text(vec![String::new()]),
    }
}

/// One value as f64, if it is a number.
pub fn first_as_f64(values: &Values) -> Option<f64> {
    macro_rules! first {
        ($v:expr) => {
            $v.first().map(|&x| x as f64)
        };
    }
    with_numbers!(values, v => first!(v), text => None)
}
