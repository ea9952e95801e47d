//! Values that stand for missing data.

use crate::support::*;
use residuum::io::{AttributeValue, Format, Schema, Variable};
use residuum::{DType, Values};

#[test]
fn values_never_written_do_not_count() {
    let folder = Folder::new();
    let unwritten = 9.969_21e36_f32;
    let mut values = field(1000);
    values[500] = 285.0;
    values[..100].fill(unwritten);
    for format in [Format::NetCdf3, Format::NetCdf4] {
        file_of(&folder.path("a.nc"), format, vec![("t", Values::F32(values.clone()), vec![])]);
        folder.works("compress a.nc --rel 1e-3 --force");
        folder.works("verify a.nc a.nc.rsd");
        folder.works("decompress a.nc.rsd -o b.nc --force");
        let (_, Values::F32(restored)) = read(&folder.path("b.nc"), "t") else { panic!("f32") };
        assert_within(&values, &restored, 0.021);
        assert!(restored != values, "nothing was lossy");
        std::fs::remove_file(folder.path("a.nc")).unwrap();
    }
    // In a Zarr store of version 3 it is the array's own fill value.
    values[..100].fill(-9e9);
    let fill = attribute("_zarr_fill_value", AttributeValue::Json("-9e9".into()));
    file_of(&folder.path("a.zarr"), Format::Zarr3, vec![("t", Values::F32(values.clone()), vec![fill])]);
    folder.works("compress a.zarr --rel 1e-3");
    folder.works("decompress a.zarr.rsd -o b.zarr");
    let (_, Values::F32(restored)) = read(&folder.path("b.zarr"), "t") else { panic!("f32") };
    assert_within(&values, &restored, 0.021);
}

#[test]
fn fill_values_of_any_attribute_type() {
    let v = |attributes: &[(&str, AttributeValue)]| Variable {
        attributes: attributes.iter().map(|(n, v)| attribute(n, v.clone())).collect(),
        ..Schema::single(Format::Raw, "x", DType::F32, &[1]).variables[0].clone()
    };
    use AttributeValue as A;
    let fill = |x: f32| vec![u64::from(x.to_bits())];
    for value in [
        A::I8(vec![99]),
        A::U8(vec![99]),
        A::I16(vec![99]),
        A::U16(vec![99]),
        A::I32(vec![99]),
        A::U32(vec![99]),
        A::I64(vec![99]),
        A::U64(vec![99]),
        A::F32(vec![99.0]),
        A::F64(vec![99.0]),
        A::Text("99".into()),
        A::Texts(vec!["99.0".into()]),
        A::Json("[99]".into()),
    ] {
        assert_eq!(v(&[("missing_value", value.clone())]).fill_values(), fill(99.0), "{value:?}");
        assert!(v(&[("missing_value", value), ("_FillValue", A::F32(vec![1e20]))]).has_several_fill_values());
    }
    assert!(v(&[("missing_value", A::I32(vec![1, 2]))]).has_several_fill_values());
    assert!(!v(&[("missing_value", A::I32(vec![1, 1]))]).has_several_fill_values());
    assert!(v(&[("missing_value", A::Text("n/a".into()))]).fill_values().is_empty());
    assert!(v(&[("_FillValue", A::F32(vec![f32::NAN]))]).fill_values().is_empty());
}

/// `missing_value` alone: as netCDF4 for Python has it, what was never written is missing too, with another value. A bound relative to the
/// range must not see it, and it must come back.
#[test]
fn values_never_written_beside_a_missing_value() {
    let folder = Folder::new();
    let (missing, unwritten) = (-999.0_f32, 9.969_21e36_f32);
    let mut values = field(1000);
    values[500] = 285.0;
    values[..50].fill(missing);
    for (format, bound) in
        [(Format::NetCdf3, "--rel 1e-3"), (Format::NetCdf4, "--abs 0.02"), (Format::NetCdf4, "--rel 1e-3")]
    {
        for is_whole in [true, false] {
            let mut values = values.clone();
            if !is_whole {
                values[50..100].fill(unwritten);
            }
            let attributes = vec![attribute("missing_value", AttributeValue::F32(vec![missing]))];
            file_of(&folder.path("a.nc"), format, vec![("t", Values::F32(values.clone()), attributes)]);
            folder.works(&format!("compress a.nc {bound} --force"));
            folder.works("verify a.nc a.nc.rsd");
            folder.works("decompress a.nc.rsd -o b.nc --force");
            let (_, Values::F32(restored)) = read(&folder.path("b.nc"), "t") else { panic!("f32") };
            assert_within(&values, &restored, 0.021);
            // Exact only where both values occur.
            assert_eq!(restored == values, !is_whole, "{bound}, whole: {is_whole}");
            std::fs::remove_file(folder.path("a.nc")).unwrap();
        }
    }
}
