//! Packed variables read as the numbers they stand for.
//!
//! By the CF conventions (chapter 8.1) an integer `p` of a variable with `scale_factor` and `add_offset` stands for
//! `p · scale_factor + add_offset`. [`UnpackedSource`] shows such variables as floating-point ones, so that they can be compressed
//! within a bound: computed in f64, then rounded to the variable's new type; `_FillValue`, `missing_value` and what was never written become NaN.

use super::{Attribute, AttributeValue, Schema, Source, Unreadable, Variable};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use std::ops::Range;

/// A source whose packed variables are unpacked.
pub struct UnpackedSource {
    inner: Box<dyn Source>,
    schema: Schema,
    /// By variable; `None` for those that are not packed.
    packings: Vec<Option<Packing>>,
}

/// How integers stand for numbers.
#[derive(Clone, Debug, PartialEq)]
struct Packing {
    scale: f64,
    offset: f64,
    /// Integers that stand for missing values.
    missing: Vec<i128>,
    /// The type that the integers are to be read as: `_Unsigned` may say another than the file.
    packed: DType,
    unpacked: DType,
}

impl UnpackedSource {
    /// Shows the packed variables of `inner` unpacked.
    ///
    /// # Errors
    /// `Input` if a `scale_factor` or `add_offset` is not one finite number.
    pub fn new(inner: Box<dyn Source>) -> Result<Self> {
        let mut schema = inner.schema().clone();
        let mut packings = Vec::new();
        let unwritten: Vec<Option<Values>> = schema.variables.iter().map(|v| schema.unwritten(v)).collect();
        for (v, unwritten) in schema.variables.iter_mut().zip(unwritten) {
            let packing = Packing::of(v, unwritten).context(|| format!("variable {:?}", v.name()))?;
            if let Some(p) = &packing {
                v.attributes = p.unpacked_attributes(&v.attributes);
                v.dtype = p.unpacked;
            }
            packings.push(packing);
        }
        Ok(Self { inner, schema, packings })
    }

    /// Whether a variable holds packed numbers.
    pub fn is_packed(variable: &Variable) -> bool {
        matches!(Packing::of(variable, None), Ok(Some(_)))
    }
}

impl Source for UnpackedSource {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let values = self.inner.read(variable, region)?;
        match self.packings.get(variable) {
            Some(Some(packing)) => packing.unpack(&values),
            _ => Ok(values),
        }
    }

    fn unreadable(&self) -> &[Unreadable] {
        self.inner.unreadable()
    }

    fn warnings(&mut self) -> Vec<String> {
        self.inner.warnings()
    }
}

impl Packing {
    /// The packing of a variable, if it has one; `unwritten` stands where nothing was written.
    fn of(v: &Variable, unwritten: Option<Values>) -> Result<Option<Self>> {
        let (scale, offset) = (v.attribute("scale_factor"), v.attribute("add_offset"));
        let is_integer = !matches!(v.dtype, DType::F32 | DType::F64 | DType::Char | DType::Text);
        if !is_integer || (scale.is_none() && offset.is_none()) {
            return Ok(None);
        }
        let number = |value: Option<&AttributeValue>, name: &str, default: f64| match value {
            None => Ok(default),
            Some(value) => match value.floats()[..] {
                [x] if x.is_finite() => Ok(x),
                _ => Err(Error::input(format!("{name} is not one finite number"))),
            },
        };
        let packed = match (v.attribute("_Unsigned"), v.dtype) {
            (Some(AttributeValue::Text(t)), dtype) => reinterpreted(dtype, t.trim().eq_ignore_ascii_case("true")),
            (_, dtype) => dtype,
        };
        // The attributes' type, as CF has it; but f32 can not tell integers of 32 bits apart.
        let is_f64 = |a: Option<&AttributeValue>| matches!(a, Some(AttributeValue::F64(_)));
        let unpacked = if is_f64(scale) || is_f64(offset) || packed.size() > 2 { DType::F64 } else { DType::F32 };
        let missing = ["_FillValue", "missing_value"]
            .iter()
            .filter_map(|name| v.attribute(name))
            .flat_map(AttributeValue::integers);
        let unwritten = unwritten.and_then(|value| value.first_integer());
        Ok(Some(Self {
            scale: number(scale, "scale_factor", 1.0)?,
            offset: number(offset, "add_offset", 0.0)?,
            missing: missing.chain(unwritten).map(|m| wrapped(m, packed)).collect(),
            packed,
            unpacked,
        }))
    }

    fn unpack(&self, values: &Values) -> Result<Values> {
        macro_rules! unpack {
            ($($variant:ident $signed:ty, $unsigned:ty;)*) => {
                match values {
                    $(Values::$variant(v) => match is_unsigned(self.packed) {
                        true => self.numbers(v.iter().map(|&p| (p as $unsigned).into())),
                        false => self.numbers(v.iter().map(|&p| (p as $signed).into())),
                    },)*
                    other => return Err(Error::input(format!("{} values of a packed variable", other.dtype()))),
                }
            };
        }
        Ok(unpack! {
            I8 i8, u8; I16 i16, u16; I32 i32, u32; I64 i64, u64;
            U8 i8, u8; U16 i16, u16; U32 i32, u32; U64 i64, u64;
        })
    }

    fn numbers(&self, packed: impl Iterator<Item = i128>) -> Values {
        let numbers = packed.map(|p| if self.missing.contains(&p) { f64::NAN } else { self.number(p) });
        match self.unpacked {
            DType::F32 => Values::F32(numbers.map(|x| x as f32).collect()),
            _ => Values::F64(numbers.collect()),
        }
    }

    fn number(&self, packed: i128) -> f64 {
        packed as f64 * self.scale + self.offset
    }

    /// Attributes for the numbers: those that speak of integers leave or are unpacked too.
    fn unpacked_attributes(&self, attributes: &[Attribute]) -> Vec<Attribute> {
        let typed = |numbers: Vec<f64>| match self.unpacked {
            DType::F32 => AttributeValue::F32(numbers.into_iter().map(|x| x as f32).collect()),
            _ => AttributeValue::F64(numbers),
        };
        let mut out = Vec::new();
        for a in attributes {
            // A negative scale turns smallest into largest.
            let name = match (a.name.as_str(), self.scale < 0.0) {
                ("scale_factor" | "add_offset" | "missing_value" | "_FillValue" | "_Unsigned", _) => continue,
                ("valid_min", true) => "valid_max",
                ("valid_max", true) => "valid_min",
                (name, _) => name,
            };
            let value = if ["valid_min", "valid_max", "valid_range"].contains(&name) {
                let mut limits: Vec<f64> =
                    a.value.integers().into_iter().map(|p| self.number(wrapped(p, self.packed))).collect();
                limits.sort_by(f64::total_cmp);
                typed(limits)
            } else {
                a.value.clone()
            };
            out.push(Attribute { name: name.to_string(), value });
        }
        if !self.missing.is_empty() || attributes.iter().any(|a| a.name == "_FillValue" || a.name == "missing_value") {
            out.push(Attribute { name: "_FillValue".into(), value: typed(vec![f64::NAN]) });
        }
        out
    }
}

fn is_unsigned(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64)
}

/// The integer type of the same size, signed or unsigned.
fn reinterpreted(dtype: DType, unsigned: bool) -> DType {
    match (dtype.size(), unsigned) {
        (1, true) => DType::U8,
        (1, false) => DType::I8,
        (2, true) => DType::U16,
        (2, false) => DType::I16,
        (4, true) => DType::U32,
        (4, false) => DType::I32,
        (8, true) => DType::U64,
        (8, false) => DType::I64,
        _ => dtype,
    }
}

/// An attribute's integer as the packed type has it: −1 is 255 where bytes are unsigned.
fn wrapped(value: i128, packed: DType) -> i128 {
    let modulus = 1i128 << (8 * packed.size());
    if is_unsigned(packed) && (-modulus / 2..0).contains(&value) {
        value + modulus
    } else if !is_unsigned(packed) && (modulus / 2..modulus).contains(&value) {
        value - modulus
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Format;

    /// A source of one variable in memory.
    struct Memory(Schema, Values);

    impl Source for Memory {
        fn schema(&self) -> &Schema {
            &self.0
        }
        fn read(&mut self, _: usize, _: &[Range<u64>]) -> Result<Values> {
            Ok(self.1.clone())
        }
    }

    fn unpacked(values: Values, attributes: &[(&str, AttributeValue)]) -> (Variable, Values) {
        let mut schema = Schema::single(Format::NetCdf4, "t", values.dtype(), &[values.len() as u64]);
        schema.variables[0].attributes =
            attributes.iter().map(|(n, v)| Attribute { name: (*n).into(), value: v.clone() }).collect();
        let region = 0..values.len() as u64;
        let mut source = UnpackedSource::new(Box::new(Memory(schema, values))).unwrap();
        let values = source.read(0, &[region]).unwrap();
        (source.schema.variables.remove(0), values)
    }

    #[test]
    fn shorts_become_floats_and_fill_becomes_nan() {
        let (v, values) = unpacked(
            Values::I16(vec![-32767, 0, 100]),
            &[
                ("scale_factor", AttributeValue::F32(vec![0.5])),
                ("add_offset", AttributeValue::F32(vec![10.0])),
                ("_FillValue", AttributeValue::I16(vec![-32767])),
                ("valid_range", AttributeValue::I16(vec![-10, 200])),
                ("units", AttributeValue::Text("K".into())),
            ],
        );
        let Values::F32(values) = values else { panic!("f32") };
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [10.0, 60.0]);
        let names: Vec<_> = v.attributes.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["valid_range", "units", "_FillValue"]);
        assert_eq!(v.attributes[0].value, AttributeValue::F32(vec![5.0, 110.0]));
    }

    #[test]
    fn what_was_never_written_becomes_nan() {
        let scale = ("scale_factor", AttributeValue::F32(vec![0.5]));
        let (v, values) = unpacked(Values::I16(vec![-32767, 4]), std::slice::from_ref(&scale));
        let Values::F32(values) = values else { panic!("f32") };
        assert!(values[0].is_nan() && values[1] == 2.0);
        assert!(v.attribute("_FillValue").is_some());
        // Another value is named, and bytes have no default.
        let other = ("_FillValue", AttributeValue::I16(vec![7]));
        let (_, values) = unpacked(Values::I16(vec![-32767, 4]), &[scale.clone(), other]);
        assert_eq!(values, Values::F32(vec![-16383.5, 2.0]));
        assert_eq!(unpacked(Values::I8(vec![-127]), &[scale]).1, Values::F32(vec![-63.5]));
    }

    #[test]
    fn unsigned_bytes_and_a_negative_scale() {
        let (v, values) = unpacked(
            Values::I8(vec![-1, -2, 3]),
            &[
                ("scale_factor", AttributeValue::F64(vec![-0.1])),
                ("_Unsigned", AttributeValue::Text("true".into())),
                ("missing_value", AttributeValue::I8(vec![-1])),
                ("valid_min", AttributeValue::I8(vec![0])),
            ],
        );
        let Values::F64(values) = values else { panic!("f64") };
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [254.0 * -0.1, 3.0 * -0.1]);
        assert_eq!(v.attributes[0].name, "valid_max");
    }

    #[test]
    fn long_integers_become_f64_and_floats_stay() {
        let scale = ("scale_factor", AttributeValue::F32(vec![2.0]));
        assert_eq!(unpacked(Values::I32(vec![7]), std::slice::from_ref(&scale)).1, Values::F64(vec![14.0]));
        assert_eq!(unpacked(Values::F32(vec![7.0]), &[scale]).1, Values::F32(vec![7.0]));
        assert_eq!(unpacked(Values::I32(vec![7]), &[]).1, Values::I32(vec![7]));
    }
}
