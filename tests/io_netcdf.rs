//! NetCDF files written and read back: everything a schema can say, in every format; and damaged files.
#![allow(clippy::single_range_in_vec_init)] // boxes of one axis

use residuum::io::netcdf::{NetCdfSink, NetCdfSource};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Sink, Source, Variable};
use residuum::{DType, Kind, Result, Values};
use std::ops::Range;
use std::path::Path;

const CLASSIC: [Format; 3] = [Format::NetCdf3, Format::NetCdf3Offset64, Format::NetCdf5];
const NUMBERS: [DType; 10] = [
    DType::F32,
    DType::F64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
];

fn attribute(name: &str, value: AttributeValue) -> Attribute {
    Attribute { name: name.into(), value }
}

fn text(name: &str, value: &str) -> Attribute {
    attribute(name, AttributeValue::Text(value.into()))
}

fn dimension(path: &str, len: u64, unlimited: bool) -> Dimension {
    Dimension { path: path.into(), len, unlimited }
}

/// A variable with the dimensions `dimensions` of `schema`.
fn add(schema: &mut Schema, path: &str, dtype: DType, dimensions: &[u32], attributes: Vec<Attribute>) {
    schema.variables.push(Variable {
        path: path.into(),
        dtype,
        shape: dimensions.iter().map(|&d| schema.dimensions[d as usize].len).collect(),
        dimensions: dimensions.to_vec(),
        attributes,
        chunks: None,
    });
}

fn empty(format: Format) -> Schema {
    Schema {
        format,
        groups: vec![Group { path: "/".into(), attributes: vec![] }],
        dimensions: vec![],
        variables: vec![],
    }
}

/// One value of `dtype` that depends on `i` in all its bytes.
fn fill_values(dtype: DType, n: usize, seed: u64) -> Values {
    if dtype == DType::Text {
        let one = |i: u64| if i % 5 == 3 { String::new() } else { "ä".repeat((i * 7 % 90) as usize) + &i.to_string() };
        return Values::Text((0..n as u64).map(|i| one(i + seed)).collect());
    }
    let mut values = Values::zeros(dtype, n);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    for b in values.as_bytes_mut() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Small exponents: no float is NaN, so that values can be compared.
        *b = (state >> 33) as u8 & 0x3F;
    }
    values
}

/// All boxes with lengths of at most `step`, in C order.
fn boxes(shape: &[u64], step: &[u64]) -> Vec<Vec<Range<u64>>> {
    let mut all = vec![vec![]];
    for (&n, &s) in shape.iter().zip(step) {
        let ranges: Vec<_> = (0..n).step_by(s as usize).map(|at| at..(at + s).min(n)).collect();
        all = all.iter().flat_map(|b| ranges.iter().map(move |r| [&b[..], std::slice::from_ref(r)].concat())).collect();
    }
    all
}

/// The box `region` of the array `values`.
fn cut(values: &Values, shape: &[u64], region: &[Range<u64>]) -> Values {
    let indices: Vec<usize> = boxes(&region.iter().map(|r| r.end - r.start).collect::<Vec<_>>(), &vec![1; shape.len()])
        .iter()
        .map(|b| {
            b.iter().zip(region).zip(shape).fold(0, |at, ((b, r), &n)| at * n as usize + (b.start + r.start) as usize)
        })
        .collect();
    if let Values::Text(texts) = values {
        return Values::Text(indices.iter().map(|&i| texts[i].clone()).collect());
    }
    let size = values.dtype().size();
    let mut part = Values::zeros(values.dtype(), indices.len());
    for (to, &from) in part.as_bytes_mut().chunks_exact_mut(size).zip(&indices) {
        to.copy_from_slice(&values.as_bytes()[from * size..(from + 1) * size]);
    }
    part
}

/// Writes made-up values of all variables in boxes with lengths of at most `step`; returns the values.
fn write(path: &Path, schema: &Schema, format: Format, step: u64) -> Result<Vec<Values>> {
    let mut sink = Box::new(NetCdfSink::create(path, schema, format, true)?);
    let mut all = vec![];
    for (i, v) in schema.variables.iter().enumerate() {
        let values = fill_values(v.dtype, v.len() as usize, i as u64);
        for region in boxes(&v.shape, &vec![step; v.shape.len()]) {
            sink.write(i, &region, &cut(&values, &v.shape, &region))?;
        }
        all.push(values);
    }
    assert!(!path.exists(), "the file has its name before it is complete");
    sink.finish()?;
    Ok(all)
}

/// That the file at `path` has this schema and these values, whatever boxes they are read in.
fn check(path: &Path, schema: &Schema, format: Format, values: &[Values]) {
    let mut source = NetCdfSource::open(path).unwrap();
    let mut found = source.schema().clone();
    found.variables.iter_mut().for_each(|v| v.chunks = None);
    let mut wanted = schema.clone();
    wanted.variables.iter_mut().for_each(|v| v.chunks = None);
    wanted.format = format;
    assert_eq!(found, wanted);
    for (i, v) in schema.variables.iter().enumerate() {
        let whole: Vec<_> = v.shape.iter().map(|&n| 0..n).collect();
        assert_eq!(source.read(i, &whole).unwrap(), values[i], "{}", v.path);
        for region in boxes(&v.shape, &vec![2; v.shape.len()]) {
            assert_eq!(source.read(i, &region).unwrap(), cut(&values[i], &v.shape, &region), "{} {region:?}", v.path);
        }
    }
}

fn round_trip(schema: &Schema, format: Format) {
    for step in [1, 2, 3, 100] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nc");
        let values = write(&path, schema, format, step).unwrap();
        check(&path, schema, format, &values);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files are left");
    }
}

fn attributes_of_all_types(wide: bool, texts: bool) -> Vec<Attribute> {
    let mut all = vec![
        text("zulu", "first, though its name is last"),
        text("empty", ""),
        text("unicode", "Grüße, 世界\n"),
        attribute("f32", AttributeValue::F32(vec![1.5, f32::INFINITY])),
        attribute("f64", AttributeValue::F64(vec![-0.1])),
        attribute("i8", AttributeValue::I8(vec![-1, 2, 3])),
        attribute("i16", AttributeValue::I16(vec![-300])),
        attribute("i32", AttributeValue::I32(vec![i32::MIN, 7])),
    ];
    if wide {
        all.extend([
            attribute("i64", AttributeValue::I64(vec![i64::MIN])),
            attribute("u8", AttributeValue::U8(vec![200])),
            attribute("u16", AttributeValue::U16(vec![60_000])),
            attribute("u32", AttributeValue::U32(vec![4_000_000_000])),
            attribute("u64", AttributeValue::U64(vec![u64::MAX, 0])),
        ]);
    }
    if texts {
        all.extend([
            attribute("texts", AttributeValue::Texts(vec!["a".into(), String::new(), "ö".into()])),
            attribute("one_text", AttributeValue::Texts(vec!["alone".into()])),
        ]);
    }
    all
}

/// Everything that fits a classic file.
fn classic_schema(format: Format) -> Schema {
    let wide = format == Format::NetCdf5;
    let mut s = empty(format);
    s.groups[0].attributes = attributes_of_all_types(wide, false);
    s.dimensions = vec![
        dimension("/time", 5, true),
        dimension("/lat", 3, false),
        dimension("/lon", 7, false),
        dimension("/unused", 9, false),
    ];
    add(&mut s, "/time", DType::F64, &[0], vec![text("units", "days since 2000-01-01")]);
    add(&mut s, "/lat", DType::F32, &[1], vec![]);
    add(&mut s, "/scalar", DType::I32, &[], attributes_of_all_types(wide, false));
    add(&mut s, "/t", DType::F32, &[0, 1, 2], vec![attribute("_FillValue", AttributeValue::F32(vec![-999.0]))]);
    // Records of a length that is no multiple of four.
    add(&mut s, "/bytes", DType::I8, &[0, 1], vec![]);
    add(&mut s, "/names", DType::Char, &[1, 2], vec![]);
    add(&mut s, "/record_names", DType::Char, &[0, 2], vec![]);
    add(&mut s, "/packed", DType::I16, &[1, 2], vec![attribute("_FillValue", AttributeValue::I16(vec![-32768]))]);
    if wide {
        for dtype in NUMBERS {
            add(&mut s, &format!("/n_{dtype}"), dtype, &[2, 1], vec![]);
        }
    }
    s
}

fn netcdf4_schema() -> Schema {
    let mut s = empty(Format::NetCdf4);
    s.groups[0].attributes = attributes_of_all_types(true, true);
    s.groups.push(Group { path: "/zone".into(), attributes: attributes_of_all_types(true, true) });
    s.groups.push(Group { path: "/zone/deep".into(), attributes: vec![text("history", "made")] });
    s.groups.push(Group { path: "/empty".into(), attributes: vec![] });
    s.dimensions = vec![
        dimension("/time", 5, true),
        dimension("/x", 4, false),
        dimension("/y", 3, false),
        dimension("/none", 0, true),
        dimension("/zone/x", 2, false),
        dimension("/zone/grow", 3, true),
    ];
    add(&mut s, "/time", DType::F64, &[0], vec![text("units", "days")]);
    add(&mut s, "/zz", DType::F32, &[0, 2, 1], attributes_of_all_types(true, true));
    add(&mut s, "/aa", DType::F32, &[2, 1], vec![attribute("_FillValue", AttributeValue::F32(vec![1e20]))]);
    add(&mut s, "/scalar", DType::F64, &[], vec![]);
    add(&mut s, "/nothing", DType::I16, &[3, 1], vec![]);
    add(&mut s, "/square", DType::I32, &[1, 1], vec![]);
    // Named after a dimension, but not its coordinate; and a coordinate of two dimensions.
    add(&mut s, "/x", DType::I32, &[2], vec![]);
    add(&mut s, "/y", DType::Char, &[2, 1], vec![]);
    add(&mut s, "/words", DType::Text, &[0, 1], vec![]);
    add(&mut s, "/word", DType::Text, &[], vec![]);
    add(&mut s, "/letters", DType::Char, &[0, 1], vec![]);
    for dtype in NUMBERS {
        let fill = match dtype {
            DType::U16 => AttributeValue::U16(vec![65_000]),
            _ => AttributeValue::I32(vec![1]),
        };
        let attributes = if dtype == DType::U16 { vec![attribute("_FillValue", fill)] } else { vec![] };
        add(&mut s, &format!("/n_{dtype}"), dtype, &[1, 2], attributes);
    }
    add(&mut s, "/zone/v", DType::U64, &[4, 5], vec![]);
    add(&mut s, "/zone/inherited", DType::F32, &[0, 4], vec![]);
    add(&mut s, "/zone/deep/w", DType::F64, &[5, 0, 2], vec![]);
    s
}

#[test]
fn classic_files_keep_everything() {
    for format in CLASSIC {
        round_trip(&classic_schema(format), format);
    }
}

#[test]
fn netcdf4_files_keep_everything() {
    round_trip(&netcdf4_schema(), Format::NetCdf4);
}

#[test]
fn a_classic_file_fits_netcdf4() {
    round_trip(&classic_schema(Format::NetCdf5), Format::NetCdf4);
}

#[test]
fn the_only_variable_with_records_is_not_padded() {
    for format in CLASSIC {
        for dtype in [DType::I8, DType::I16, DType::Char] {
            let mut s = empty(format);
            s.dimensions = vec![dimension("/t", 5, true), dimension("/x", 3, false)];
            add(&mut s, "/v", dtype, &[0, 1], vec![]);
            add(&mut s, "/fixed", DType::I8, &[1], vec![]);
            round_trip(&s, format);
        }
    }
}

#[test]
fn empty_files_and_empty_dimensions() {
    for format in [&CLASSIC[..], &[Format::NetCdf4]].concat() {
        round_trip(&empty(format), format);
        let mut s = empty(format);
        s.dimensions = vec![dimension("/t", 0, true), dimension("/x", 3, false)];
        add(&mut s, "/t", DType::F64, &[0], vec![]);
        add(&mut s, "/v", DType::F32, &[0, 1], vec![]);
        round_trip(&s, format);
    }
    let mut s = empty(Format::NetCdf4);
    s.dimensions = vec![dimension("/none", 0, false)];
    add(&mut s, "/v", DType::F32, &[0], vec![]);
    round_trip(&s, Format::NetCdf4);
}

#[test]
fn chunk_lengths_are_taken_over() {
    let mut s = empty(Format::NetCdf4);
    s.dimensions = vec![dimension("/t", 150, true), dimension("/y", 45, false), dimension("/x", 3, false)];
    add(&mut s, "/fixed", DType::F32, &[1, 2], vec![]);
    s.variables[0].chunks = Some(vec![10, 2]);
    // 6750 chunks make a tree of three levels.
    add(&mut s, "/many", DType::I16, &[0, 1, 2], vec![]);
    s.variables[1].chunks = Some(vec![1, 1, 3]);
    add(&mut s, "/not_divided", DType::F64, &[0, 1], vec![]);
    s.variables[2].chunks = Some(vec![40, 7]);
    add(&mut s, "/too_long", DType::F64, &[2], vec![]);
    s.variables[3].chunks = Some(vec![1 << 40]);
    add(&mut s, "/not_given", DType::F64, &[0, 2], vec![]);
    let folder = tempfile::tempdir().unwrap();
    for step in [7, 1000] {
        let path = folder.path().join(format!("{step}.nc"));
        let values = write(&path, &s, Format::NetCdf4, step).unwrap();
        let mut source = NetCdfSource::open(&path).unwrap();
        let chunks: Vec<_> = source.schema().variables.iter().map(|v| v.chunks.clone()).collect();
        assert_eq!(chunks[..4], [Some(vec![10, 2]), Some(vec![1, 1, 3]), Some(vec![40, 7]), None]);
        assert!(chunks[4].is_some());
        for (i, v) in s.variables.iter().enumerate() {
            let whole: Vec<_> = v.shape.iter().map(|&n| 0..n).collect();
            assert_eq!(source.read(i, &whole).unwrap(), values[i], "{}", v.path);
        }
    }
}

#[test]
fn many_long_texts() {
    let mut s = empty(Format::NetCdf4);
    s.dimensions = vec![dimension("/n", 70_000, false)];
    add(&mut s, "/words", DType::Text, &[0], vec![]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nc");
    let values = write(&path, &s, Format::NetCdf4, 9_999).unwrap();
    let mut source = NetCdfSource::open(&path).unwrap();
    assert_eq!(source.read(0, std::slice::from_ref(&(0..70_000))).unwrap(), values[0]);
    assert_eq!(source.read(0, &[69_000..69_010]).unwrap(), cut(&values[0], &[70_000], &[69_000..69_010]));
}

#[test]
fn a_text_too_long_for_a_header_stays_whole() {
    let long = "x".repeat(200_000);
    let mut s = empty(Format::NetCdf4);
    s.groups[0].attributes = vec![text("history", &long)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nc");
    write(&path, &s, Format::NetCdf4, 1).unwrap();
    let source = NetCdfSource::open(&path).unwrap();
    assert_eq!(source.schema().groups[0].attributes[0].value, AttributeValue::Texts(vec![long]));
}

#[test]
fn unnamed_dimensions_get_names() {
    for format in [Format::NetCdf3, Format::NetCdf4] {
        let mut s = Schema::single(Format::Npy, "dim_0", DType::F32, &[4, 3, 4]);
        s.variables[0].attributes = vec![attribute("info", AttributeValue::Json("{\"a\":[1,null]}".into()))];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nc");
        let values = write(&path, &s, format, 2).unwrap();
        let mut source = NetCdfSource::open(&path).unwrap();
        let found = source.schema().clone();
        assert_eq!(found.dimensions, [dimension("/dim_1", 4, false), dimension("/dim_2", 3, false)]);
        assert_eq!(found.variables[0].dimensions, [0, 1, 0]);
        assert_eq!(found.variables[0].attributes, [text("info", "{\"a\":[1,null]}")]);
        assert_eq!(source.read(0, &[0..4, 0..3, 0..4]).unwrap(), values[0]);
    }
}

#[test]
fn fill_values_get_the_type_of_their_variable() {
    let mut s = Schema::single(Format::Zarr3, "v", DType::I16, &[3]);
    s.variables[0].attributes = vec![attribute("_FillValue", AttributeValue::I64(vec![-999]))];
    let mut f = Schema::single(Format::Zarr3, "f", DType::F32, &[3]).variables.remove(0);
    f.attributes = vec![attribute("_FillValue", AttributeValue::F64(vec![1e20]))];
    s.variables.push(f);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nc");
    write(&path, &s, Format::NetCdf4, 3).unwrap();
    let source = NetCdfSource::open(&path).unwrap();
    let fill = |i: usize| source.schema().variables[i].attribute("_FillValue").cloned();
    assert_eq!(fill(0), Some(AttributeValue::I16(vec![-999])));
    assert_eq!(fill(1), Some(AttributeValue::F32(vec![1e20])));
}

#[test]
fn classic_formats_say_what_they_can_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |s: &Schema, format: Format, hint: &str| {
        let e = NetCdfSink::create(&folder.path().join("a.nc"), s, format, true).err().expect("refused");
        assert_eq!(e.kind(), Kind::Usage);
        assert!(e.to_string().contains(hint), "{e}");
    };
    for format in CLASSIC {
        let mut s = empty(format);
        s.dimensions = vec![dimension("/a", 2, true), dimension("/b", 2, true)];
        refuse(&s, format, "NetCDF-4");
        s.dimensions[0].unlimited = false;
        add(&mut s, "/v", DType::F32, &[0, 1], vec![]);
        refuse(&s, format, "NetCDF-4");
        let mut s = empty(format);
        s.groups.push(Group { path: "/g".into(), attributes: vec![] });
        refuse(&s, format, "NetCDF-4");
        refuse(&Schema::single(format, "s", DType::Text, &[2]), format, "NetCDF-4");
        let mut s = empty(format);
        s.groups[0].attributes = vec![attribute("t", AttributeValue::Texts(vec!["a".into()]))];
        refuse(&s, format, "NetCDF-4");
    }
    refuse(&Schema::single(Format::NetCdf3, "u", DType::U64, &[2]), Format::NetCdf3, "CDF-5");
    let mut s = Schema::single(Format::NetCdf3, "large", DType::F64, &[1 << 30]);
    s.variables.extend(Schema::single(Format::NetCdf3, "next", DType::F64, &[1]).variables);
    refuse(&s, Format::NetCdf3, "CDF-5");
    refuse(&s, Format::NetCdf3Offset64, "CDF-5");
    s.variables[0].shape[0] = 1 << 28;
    refuse(&s, Format::NetCdf3, "64-bit offset");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn inconsistent_schemas_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = netcdf4_schema();
    let refuse = |change: &dyn Fn(&mut Schema)| {
        let mut s = good.clone();
        change(&mut s);
        let e = NetCdfSink::create(&folder.path().join("a.nc"), &s, Format::NetCdf4, true).err().expect("refused");
        assert_eq!(e.kind(), Kind::Usage, "{e}");
    };
    refuse(&|s| s.variables[1].dimensions[0] = 99);
    refuse(&|s| s.variables[1].dimensions = vec![0]);
    refuse(&|s| s.variables[1].shape[0] = 6);
    refuse(&|s| s.variables[1].dimensions[1] = 4);
    refuse(&|s| s.variables[1].path = "/aa".into());
    refuse(&|s| s.variables[1].path = "/".into());
    refuse(&|s| s.variables[1].path = "/zone".into());
    refuse(&|s| s.dimensions[1].path = "/time".into());
    refuse(&|s| s.variables[1].attributes.push(text("zulu", "twice")));
    refuse(&|s| s.variables[1].attributes.push(text("DIMENSION_LIST", "reserved")));
    refuse(&|s| {
        s.variables.push(Schema::single(Format::Raw, "huge", DType::F32, &[1 << 40, 1 << 40]).variables.remove(0))
    });
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    for format in [Format::NetCdf3, Format::NetCdf4] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nc");
        let s = Schema::single(format, "v", DType::F32, &[4]);
        let half = Values::F32(vec![1.0; 2]);
        let mut sink = Box::new(NetCdfSink::create(&path, &s, format, true).unwrap());
        sink.write(0, std::slice::from_ref(&(0..2)), &half).unwrap();
        for (variable, region, values) in [
            (0, 0..3, half.clone()),
            (0, 3..5, half.clone()),
            (1, 0..2, half.clone()),
            (0, 2..4, Values::F64(vec![1.0; 2])),
        ] {
            assert_eq!(sink.write(variable, &[region], &values).unwrap_err().kind(), Kind::Usage);
        }
        assert_eq!(sink.finish().unwrap_err().kind(), Kind::Usage);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_existing_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nc");
    std::fs::write(&path, "old").unwrap();
    let s = Schema::single(Format::NetCdf4, "v", DType::F32, &[1]);
    let mut sink = Box::new(NetCdfSink::create(&path, &s, Format::NetCdf4, true).unwrap());
    sink.write(0, std::slice::from_ref(&(0..1)), &Values::F32(vec![1.0])).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    sink.finish().unwrap();
    assert!(NetCdfSource::open(&path).is_ok());
}

/// Reads all there is, in small boxes at the corners; errors are fine.
fn try_to_read(path: &Path) {
    let Ok(mut source) = NetCdfSource::open(path) else { return };
    for (i, v) in source.schema().variables.clone().iter().enumerate() {
        let front: Vec<_> = v.shape.iter().map(|&n| 0..n.min(3)).collect();
        let back: Vec<_> = v.shape.iter().map(|&n| n.saturating_sub(3)..n).collect();
        let _ = source.read(i, &front);
        let _ = source.read(i, &back);
    }
}

fn file_of(schema: &Schema, folder: &Path) -> Vec<u8> {
    let path = folder.join("good.nc");
    write(&path, schema, schema.format, 100).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    bytes
}

/// A group, a variable of fixed size, one that can grow and one of texts: as small as such a file gets.
fn small_netcdf4_schema() -> Schema {
    let mut s = empty(Format::NetCdf4);
    s.dimensions = vec![dimension("/t", 3, true), dimension("/x", 2, false)];
    add(&mut s, "/g/grows", DType::I16, &[0, 1], vec![text("units", "m")]);
    add(&mut s, "/words", DType::Text, &[1], vec![attribute("texts", AttributeValue::Texts(vec!["a".into()]))]);
    add(&mut s, "/fixed", DType::F32, &[1], vec![]);
    s
}

#[test]
fn truncated_files_give_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.nc");
    for schema in CLASSIC.map(classic_schema).iter().chain([&small_netcdf4_schema()]) {
        let good = file_of(schema, folder.path());
        for n in 0..good.len() {
            std::fs::write(&path, &good[..n]).unwrap();
            try_to_read(&path);
            assert!(schema.format != Format::NetCdf4 || NetCdfSource::open(&path).is_err(), "{n} bytes");
        }
    }
}

#[test]
fn garbled_files_give_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.nc");
    let mut state = 42u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % n
    };
    for schema in CLASSIC.map(classic_schema).iter().chain([&small_netcdf4_schema(), &netcdf4_schema()]) {
        let good = file_of(schema, folder.path());
        for round in 0..800 {
            let mut bad = good.clone();
            for _ in 0..1 + round % 4 {
                // Half of the changes near the start, where headers are.
                let at = if round % 2 == 0 { random(bad.len().min(2000)) } else { random(bad.len()) };
                bad[at] = if round % 3 == 0 { 0xFF } else { random(256) as u8 };
            }
            std::fs::write(&path, &bad).unwrap();
            try_to_read(&path);
        }
    }
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nc");
    assert_eq!(NetCdfSource::open(&path).err().unwrap().kind(), Kind::Io);
    for content in [&b""[..], b"CDF", b"CDF\x03", b"GRIB....", b"\x89HDF\r\n\x1a\n", &[0; 5000]] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(NetCdfSource::open(&path).err().unwrap().kind(), Kind::Input, "{content:?}");
    }
}
