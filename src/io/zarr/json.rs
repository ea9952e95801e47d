//! JSON as Python writes it, and attributes in it.

use super::super::AttributeValue;
use crate::error::{Error, Result};
use crate::field::DType;
use serde_json::{Number, Value};
use std::path::Path;

/// Largest metadata document that is read. Consolidated metadata of huge hierarchies stays below it.
const MAX_BYTES: u64 = 64 << 20;

/// Python writes NaN and infinities as bare words, which JSON does not know. Within a [`Value`] they are strings that
/// begin with a null character.
const BARE: [(&str, f64); 3] = [("NaN", f64::NAN), ("-Infinity", f64::NEG_INFINITY), ("Infinity", f64::INFINITY)];

/// The document at `path`; none if there is no such file.
pub(super) fn load(path: &Path) -> Result<Option<Value>> {
    let bytes = match std::fs::metadata(path) {
        Ok(m) if m.is_file() && m.len() <= MAX_BYTES => std::fs::read(path)?,
        Ok(m) if m.is_file() => {
            return Err(Error::input(format!("{} has {} bytes, too many for metadata", path.display(), m.len())));
        }
        Ok(_) => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::input(format!("{} is not UTF-8", path.display())))?;
    parse(text).map(Some).map_err(|e| Error::input(format!("{} is not JSON: {e}", path.display())))
}

/// Parses JSON, bare words for NaN and infinities included.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|e| {
        let quoted = quote_bare(text);
        if quoted.len() == text.len() { Err(e) } else { serde_json::from_str(&quoted) }
    })
}

/// The text of a document, with bare words for NaN and infinities.
pub(super) fn text(value: &Value) -> String {
    let mut text = format!("{value:#}");
    for (word, _) in BARE {
        text = text.replace(&format!("\"\\u0000{word}\""), word);
    }
    text
}

fn quote_bare(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some((word, _)) = BARE.iter().find(|(word, _)| rest.starts_with(word)) {
            out.push_str("\"\\u0000");
            out.push_str(word);
            out.push('"');
            rest = &rest[word.len()..];
            continue;
        }
        // A string goes over as it is.
        let mut len = c.len_utf8();
        if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            len = end.map_or(rest.len(), |end| end + 2);
        }
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    out
}

/// Makes the quoted bare words ordinary strings, as `fill_value` has them.
pub(super) fn plain_specials(value: &mut Value) {
    match value {
        Value::String(s) if s.starts_with('\0') => {
            s.remove(0);
        }
        Value::Array(values) => values.iter_mut().for_each(plain_specials),
        Value::Object(map) => map.values_mut().for_each(plain_specials),
        _ => (),
    }
}

/// A float that is a number or a quoted bare word; not an integer.
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) if n.is_f64() => n.as_f64(),
        Value::String(s) => {
            let word = s.strip_prefix('\0')?;
            BARE.iter().find(|(bare, _)| *bare == word).map(|(_, v)| *v)
        }
        _ => None,
    }
}

fn float_json(v: f64) -> Value {
    let bare = || BARE.iter().find(|(_, b)| *b == v).map_or("NaN", |(word, _)| word);
    Number::from_f64(v).map_or_else(|| Value::String(format!("\0{}", bare())), Value::Number)
}

/// An attribute's value from JSON.
pub(super) fn to_attribute(value: &Value) -> AttributeValue {
    let all = |values: &[Value]| -> Option<AttributeValue> {
        if values.iter().all(|v| v.is_string() && float(v).is_none()) && !values.is_empty() {
            return Some(AttributeValue::Texts(values.iter().filter_map(|v| v.as_str().map(Into::into)).collect()));
        }
        // A list of one number would come back as the number: it stays JSON.
        if values.len() < 2 {
            return None;
        }
        let ints: Option<Vec<i64>> = values.iter().map(Value::as_i64).collect();
        let uints = || values.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>().map(AttributeValue::U64);
        let floats = || values.iter().map(float).collect::<Option<Vec<f64>>>().map(AttributeValue::F64);
        ints.map(AttributeValue::I64).or_else(uints).or_else(floats)
    };
    let found = match value {
        Value::Array(values) => all(values),
        Value::Number(n) if !n.is_f64() => n
            .as_i64()
            .map(|v| AttributeValue::I64(vec![v]))
            .or_else(|| n.as_u64().map(|v| AttributeValue::U64(vec![v]))),
        Value::String(s) if float(value).is_none() => Some(AttributeValue::Text(s.clone())),
        _ => float(value).map(|v| AttributeValue::F64(vec![v])),
    };
    found.unwrap_or_else(|| AttributeValue::Json(text(value)))
}

/// An attribute's value as JSON.
pub(super) fn from_attribute(value: &AttributeValue) -> Value {
    fn list<T: Copy>(values: &[T], json: impl Fn(T) -> Value) -> Value {
        match values {
            [one] => json(*one),
            many => Value::Array(many.iter().map(|&v| json(v)).collect()),
        }
    }
    match value {
        AttributeValue::Text(s) => Value::String(s.clone()),
        AttributeValue::Texts(v) => Value::Array(v.iter().cloned().map(Value::String).collect()),
        AttributeValue::F32(v) => list(v, |v| float_json(f64::from(v))),
        AttributeValue::F64(v) => list(v, float_json),
        AttributeValue::I8(v) => list(v, Value::from),
        AttributeValue::I16(v) => list(v, Value::from),
        AttributeValue::I32(v) => list(v, Value::from),
        AttributeValue::I64(v) => list(v, Value::from),
        AttributeValue::U8(v) => list(v, Value::from),
        AttributeValue::U16(v) => list(v, Value::from),
        AttributeValue::U32(v) => list(v, Value::from),
        AttributeValue::U64(v) => list(v, Value::from),
        AttributeValue::Json(s) => parse(s).unwrap_or_else(|_| Value::String(s.clone())),
    }
}

/// The one number that an attribute holds: a JSON number, or a quoted bare word.
pub(super) fn one_number(value: &AttributeValue) -> Option<Value> {
    match value {
        AttributeValue::Text(_) | AttributeValue::Texts(_) | AttributeValue::Json(_) => None,
        other => Some(from_attribute(other)).filter(|v| !v.is_array()),
    }
}

/// A JSON number (or quoted bare word) as an attribute of type `dtype`; none if it is not exactly of that type.
pub(super) fn typed(value: &Value, dtype: DType) -> Option<AttributeValue> {
    use AttributeValue as A;
    let real = || float(value).or_else(|| value.as_f64());
    // Integers may be written as `1.0`.
    let int = || {
        let whole = real().filter(|v| v.fract() == 0.0 && v.abs() <= 2f64.powi(53));
        value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)).or(whole.map(|v| v as i128))
    };
    Some(match dtype {
        DType::F32 => A::F32(vec![real()? as f32]),
        DType::F64 => A::F64(vec![real()?]),
        DType::I8 => A::I8(vec![int()?.try_into().ok()?]),
        DType::I16 => A::I16(vec![int()?.try_into().ok()?]),
        DType::I32 => A::I32(vec![int()?.try_into().ok()?]),
        DType::I64 => A::I64(vec![int()?.try_into().ok()?]),
        DType::U8 => A::U8(vec![int()?.try_into().ok()?]),
        DType::U16 => A::U16(vec![int()?.try_into().ok()?]),
        DType::U32 => A::U32(vec![int()?.try_into().ok()?]),
        DType::U64 => A::U64(vec![int()?.try_into().ok()?]),
        DType::Char | DType::Text => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back() {
        for json in [
            "1",
            "-1",
            "18446744073709551615",
            "1.0",
            "0.1",
            "1e+300",
            "NaN",
            "Infinity",
            "-Infinity",
            "\"NaN\"",
            "\"\"",
            "\"a \\\" NaN \\\\\"",
            "[]",
            "[1]",
            "[1.5]",
            "[1,2]",
            "[1,18446744073709551615]",
            "[1,2.5]",
            "[1.5,NaN]",
            "[NaN,-Infinity]",
            "[\"NaN\"]",
            "[\"a\",\"b\"]",
            "[\"a\",NaN]",
            "{\"a\":[NaN,null,true]}",
            "true",
            "null",
            "[[1,2],[3]]",
        ] {
            let value = parse(json).unwrap();
            let back = text(&from_attribute(&to_attribute(&value)));
            assert_eq!(back.replace([' ', '\n'], ""), json.replace(' ', ""), "{:?}", to_attribute(&value));
        }
        assert_eq!(to_attribute(&parse("5").unwrap()), AttributeValue::I64(vec![5]));
        assert_eq!(to_attribute(&parse("[1.0,2.5]").unwrap()), AttributeValue::F64(vec![1.0, 2.5]));
    }

    #[test]
    fn wrong_json_is_refused() {
        for json in ["", "NaNNaN", "[NaN", "{\"a\": nan}", "\"NaN", "Infinit", &"[".repeat(100_000)] {
            assert!(parse(json).is_err());
        }
    }
}
