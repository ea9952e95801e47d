//! Zarr folders: round trips of every type and shape through both versions, boxes across chunks, hostile folders.
#![allow(clippy::single_range_in_vec_init)] // boxes of one dimension are meant

use residuum::io::zarr::{ZarrSink, ZarrSource};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Sink, Source, Variable};
use residuum::{DType, Error, Kind, Values};
use std::fs;
use std::ops::Range;
use std::path::Path;

const VERSIONS: [Format; 2] = [Format::Zarr2, Format::Zarr3];

const TYPES: [DType; 12] = [
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
    DType::Char,
    DType::Text,
];

/// Values that differ from their neighbours; text of many lengths, none among them.
fn counting(dtype: DType, len: usize) -> Values {
    if dtype == DType::Text {
        return Values::Text((0..len).map(|i| "é".repeat(i % 5)).collect());
    }
    let bytes: Vec<u8> = (0..len * dtype.size()).map(|i| (i * 37 % 251) as u8).collect();
    Values::from_le_bytes(dtype, &bytes).unwrap()
}

fn whole(shape: &[u64]) -> Vec<Range<u64>> {
    shape.iter().map(|&n| 0..n).collect()
}

/// Boxes of at most `cut` indices a dimension, in C order.
fn boxes(shape: &[u64], cut: &[u64]) -> Vec<Vec<Range<u64>>> {
    let mut all = vec![vec![]];
    for (&n, &c) in shape.iter().zip(cut) {
        all = all
            .iter()
            .flat_map(|head: &Vec<Range<u64>>| {
                let part = move |i: u64| i * c..(i * c + c).min(n);
                (0..n.div_ceil(c)).map(move |i| head.iter().cloned().chain([part(i)]).collect())
            })
            .collect();
    }
    all
}

fn attribute(name: &str, value: AttributeValue) -> Attribute {
    Attribute { name: name.into(), value }
}

fn variable(path: &str, dtype: DType, shape: &[u64], chunks: Option<&[u64]>) -> Variable {
    Variable {
        path: path.into(),
        dtype,
        shape: shape.to_vec(),
        dimensions: vec![],
        attributes: vec![],
        chunks: chunks.map(<[u64]>::to_vec),
    }
}

fn schema(format: Format, variables: Vec<Variable>) -> Schema {
    let groups = vec![Group { path: "/".into(), attributes: vec![] }];
    Schema { format, groups, dimensions: vec![], variables }
}

/// Writes counting values to all variables, each in one box.
fn write_all(path: &Path, schema: &Schema, format: Format) {
    let mut sink = Box::new(ZarrSink::create(path, schema, format, true).unwrap());
    for (i, v) in schema.variables.iter().enumerate() {
        sink.write(i, &whole(&v.shape), &counting(v.dtype, v.len() as usize)).unwrap();
    }
    sink.finish().unwrap();
}

fn refused<T>(result: Result<T, Error>, kind: Kind, part: &str) {
    let e = result.err().expect("an error");
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(part), "{e}");
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_type_and_shape_comes_back_in_boxes_of_any_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.zarr"), dir.path().join("b.zarr"));
    type Lens = &'static [u64];
    let shapes: [(Lens, Option<Lens>, [Lens; 2]); 7] = [
        (&[], None, [&[], &[]]),
        (&[0], None, [&[1], &[1]]),
        (&[3, 0, 2], Some(&[2, 1, 2]), [&[1, 1, 1], &[3, 1, 2]]),
        (&[7], Some(&[3]), [&[2], &[7]]),
        (&[5, 6, 7], Some(&[2, 4, 3]), [&[1, 6, 7], &[3, 2, 5]]),
        (&[5, 6, 7], None, [&[2, 6, 7], &[1, 1, 7]]),
        (&[4, 3, 2, 3, 2], Some(&[9, 2, 1, 2, 2]), [&[1, 1, 2, 3, 2], &[3, 3, 2, 3, 2]]),
    ];
    for format in VERSIONS {
        for dtype in TYPES {
            // All shapes for one type of each kind; making files last takes its time.
            let few = !matches!(dtype, DType::F32 | DType::Text);
            for (shape, chunks, cuts) in shapes.into_iter().skip(if few { 4 } else { 0 }).take(if few { 1 } else { 7 })
            {
                let schema = schema(format, vec![variable("/v", dtype, shape, chunks)]);
                let values = counting(dtype, shape.iter().product::<u64>() as usize);
                write_all(&a, &schema, format);
                for cut in cuts {
                    let mut source = ZarrSource::open(&a).unwrap();
                    let mut sink = Box::new(ZarrSink::create(&b, &schema, format, true).unwrap());
                    for region in boxes(shape, cut) {
                        sink.write(0, &region, &source.read(0, &region).unwrap()).unwrap();
                    }
                    sink.finish().unwrap();
                    let mut back = ZarrSource::open(&b).unwrap();
                    let found = &back.schema().variables[0];
                    assert_eq!((found.dtype, &found.shape[..]), (dtype, shape));
                    if chunks.is_some() {
                        assert_eq!(found.chunks.as_deref(), chunks);
                    }
                    assert_eq!(back.read(0, &whole(shape)).unwrap(), values, "{format:?} {dtype} {shape:?} {cut:?}");
                }
            }
        }
    }
}

#[test]
fn boxes_may_be_read_again_and_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.zarr");
    let shape = [6u64, 10];
    let two =
        vec![variable("/a", DType::I32, &shape, Some(&[4, 3])), variable("/b", DType::I32, &shape, Some(&[6, 10]))];
    write_all(&path, &schema(Format::Zarr3, two), Format::Zarr3);
    let Values::I32(all) = counting(DType::I32, 60) else { unreachable!() };
    let mut source = ZarrSource::open(&path).unwrap();
    for _ in 0..2 {
        for region in boxes(&shape, &[5, 4]).into_iter().rev() {
            for v in [0, 1, 1] {
                let rows = region[0].clone().flat_map(|i| region[1].clone().map(move |j| (i * 10 + j) as usize));
                let expected: Vec<i32> = rows.map(|at| all[at]).collect();
                assert_eq!(source.read(v, &region).unwrap(), Values::I32(expected));
            }
        }
    }
}

/// A schema as a NetCDF file would give it, with all that Zarr has to find a place for.
fn rich() -> Schema {
    use AttributeValue as A;
    let dimension = |path: &str, len| Dimension { path: path.into(), len, unlimited: false };
    let mut t = variable("/g/h/t", DType::F32, &[3, 4], Some(&[2, 3]));
    t.dimensions = vec![0, 1];
    t.attributes = vec![
        attribute("units", A::Text("K".into())),
        attribute("_FillValue", A::F32(vec![1e20])),
        attribute("range", A::F32(vec![0.5, f32::INFINITY])),
        attribute("nothing", A::F64(vec![f64::NAN])),
    ];
    let mut i = variable("/i", DType::I16, &[4], Some(&[4]));
    i.dimensions = vec![2];
    i.attributes = vec![attribute("_FillValue", A::I16(vec![-9])), attribute("scale_factor", A::F64(vec![0.25]))];
    let mut c = variable("/c", DType::Char, &[4], Some(&[4]));
    c.dimensions = vec![2];
    Schema {
        format: Format::NetCdf4,
        groups: vec![
            Group {
                path: "/".into(),
                attributes: vec![
                    attribute("texts", A::Texts(vec!["a".into(), "b".into()])),
                    attribute("one text", A::Texts(vec!["a".into()])),
                    attribute("json", A::Json("{\"b\": [1, null], \"a\": NaN}".into())),
                    attribute("i8", A::I8(vec![-1])),
                    attribute("u64", A::U64(vec![u64::MAX, 1])),
                ],
            },
            Group { path: "/g".into(), attributes: vec![] },
            Group {
                path: "/g/h".into(),
                attributes: vec![attribute("b", A::I64(vec![1])), attribute("a", A::I64(vec![2]))],
            },
        ],
        dimensions: vec![dimension("/g/h/y", 3), dimension("/g/h/x", 4), dimension("/x", 4)],
        variables: vec![t, i, c],
    }
}

#[test]
fn a_rich_schema_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.zarr");
    for format in VERSIONS {
        write_all(&path, &rich(), format);
        let source = ZarrSource::open(&path).unwrap();
        let found = source.schema();
        assert_eq!(found.format, format);
        let paths: Vec<&str> = found.groups.iter().map(|g| g.path.as_str()).collect();
        assert_eq!(paths, ["/", "/g", "/g/h"]);
        // By name, which is the order of the folder.
        let variables: Vec<&str> = found.variables.iter().map(Variable::name).collect();
        assert_eq!(variables, ["c", "g/h/t", "i"]);
        let t = &found.variables[1];
        let names: Vec<&str> = t.dimensions.iter().map(|&d| found.dimensions[d as usize].path.as_str()).collect();
        assert_eq!(names, ["/g/h/y", "/g/h/x"]);
        assert_eq!(t.attribute("_FillValue"), Some(&AttributeValue::F32(vec![1e20])));
        assert_eq!(t.attribute("range"), Some(&AttributeValue::F64(vec![0.5, f64::INFINITY])));
        assert!(matches!(t.attribute("nothing"), Some(AttributeValue::F64(v)) if v[0].is_nan()));
        assert_eq!(t.attribute("_ARRAY_DIMENSIONS"), None);
        assert_eq!(found.variables[2].attribute("_FillValue"), Some(&AttributeValue::I16(vec![-9])));
        let root: Vec<&str> = found.groups[0].attributes.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(root, ["texts", "one text", "json", "i8", "u64"]);
        assert_eq!(found.groups[0].attributes[4].value, AttributeValue::U64(vec![u64::MAX, 1]));
        assert_eq!(found.groups[2].attributes[0].name, "b");

        // Once it is Zarr, nothing changes any more; NaN is unequal to itself, so its text is compared.
        let again = dir.path().join("again.zarr");
        write_all(&again, found, format);
        assert_eq!(format!("{:?}", ZarrSource::open(&again).unwrap().schema()), format!("{found:?}"));
        let documents = |p: &Path| if format == Format::Zarr2 { p.join("i/.zarray") } else { p.join("i/zarr.json") };
        assert_eq!(fs::read_to_string(documents(&again)).unwrap(), fs::read_to_string(documents(&path)).unwrap());
    }
}

#[test]
fn dimensions_without_names_get_some_unless_zarr_had_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.zarr");
    for format in VERSIONS {
        write_all(&path, &Schema::single(Format::Npy, "v", DType::F32, &[2, 3]), format);
        let names: Vec<String> =
            ZarrSource::open(&path).unwrap().schema().dimensions.iter().map(|d| d.path.clone()).collect();
        assert_eq!(names, ["/dim_0", "/dim_1"]);
        write_all(&path, &Schema::single(format, "v", DType::F32, &[2, 3]), format);
        assert_eq!(ZarrSource::open(&path).unwrap().schema().dimensions, []);
    }
}

#[test]
fn fill_values_come_back_and_fill_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, back) = (dir.path().join("a.zarr"), dir.path().join("b.zarr"));
    let array = |fill: &str, dtype: &str| {
        let codec = if dtype == "\"string\"" { "vlen-utf8" } else { "bytes" };
        format!(
            r#"{{"zarr_format": 3, "node_type": "array", "shape": [4], "data_type": {dtype}, "fill_value": {fill},
            "chunk_grid": {{"name": "regular", "configuration": {{"chunk_shape": [2]}}}}, "codecs": ["{codec}"],
            "chunk_key_encoding": {{"name": "default"}}}}"#
        )
    };
    let u2 = r#"{"name": "fixed_length_utf32", "configuration": {"length_bytes": 8}}"#;
    let text = |t: &str| Values::Text(vec![t.into(); 4]);
    let cases = [
        ("0.0", "\"float32\"", Values::F32(vec![0.0; 4])),
        ("-0.0", "\"float64\"", Values::F64(vec![-0.0; 4])),
        ("1.5", "\"float16\"", Values::F32(vec![1.5; 4])),
        ("\"-Infinity\"", "\"float64\"", Values::F64(vec![f64::NEG_INFINITY; 4])),
        ("7", "\"int64\"", Values::I64(vec![7; 4])),
        ("true", "\"bool\"", Values::U8(vec![1; 4])),
        ("\"ab\"", "\"string\"", text("ab")),
        ("\"é\"", u2, text("é")),
    ];
    for (fill, dtype, values) in cases {
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("zarr.json"), array(fill, dtype)).unwrap();
        let mut source = ZarrSource::open(&path).unwrap();
        let found = source.read(0, &[0..4]).unwrap();
        assert_eq!(found.as_bytes(), values.as_bytes());
        assert_eq!(found, values);
        let mut sink = Box::new(ZarrSink::create(&back, source.schema(), Format::Zarr3, true).unwrap());
        sink.write(0, &[0..4], &values).unwrap();
        sink.finish().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&fs::read(back.join("a/zarr.json")).unwrap()).unwrap();
        assert_eq!(document["fill_value"], serde_json::from_str::<serde_json::Value>(fill).unwrap());
        let same_type = document["data_type"] == serde_json::from_str::<serde_json::Value>(dtype).unwrap();
        assert!(same_type || dtype == "\"float16\"");
        assert_eq!(document["attributes"], serde_json::json!({}));
        assert_eq!(ZarrSource::open(&back).unwrap().read(0, &[0..4]).unwrap(), values);
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn nothing_stands_under_the_name_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.zarr");
    let one = schema(Format::Zarr3, vec![variable("/v", DType::F32, &[4], Some(&[3]))]);
    let mut sink = Box::new(ZarrSink::create(&path, &one, Format::Zarr3, true).unwrap());
    sink.write(0, &[0..2], &Values::F32(vec![1.0, 2.0])).unwrap();
    assert!(!path.exists());
    drop(sink);
    assert!(names_in(dir.path()).is_empty(), "the temporary folder is removed");

    let mut sink = Box::new(ZarrSink::create(&path, &one, Format::Zarr3, true).unwrap());
    sink.write(0, &[0..2], &Values::F32(vec![1.0, 2.0])).unwrap();
    refused(sink.finish(), Kind::Usage, "\"v\" lacks 2 values");
    assert!(names_in(dir.path()).is_empty());

    fs::create_dir(&path).unwrap();
    fs::write(path.join("old"), "").unwrap();
    refused(ZarrSink::create(&path, &one, Format::Zarr2, true), Kind::Usage, "not a Zarr store");
    assert!(path.join("old").exists());
    fs::write(path.join(".zgroup"), "{}").unwrap();
    write_all(&path, &one, Format::Zarr2);
    assert_eq!(names_in(dir.path()), ["v.zarr"]);
    assert!(!path.join("old").exists() && path.join(".zmetadata").exists());
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    write_all(&path, &one, Format::Zarr3);
    assert!(path.join("zarr.json").exists());
}

#[test]
fn names_that_lead_astray_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let bad = [
        "v",
        "/",
        "//v",
        "/../v",
        "/g/../../v",
        "/./v",
        "/v/",
        "/g//v",
        "/.zarray",
        "/zarr.json",
        "/__v",
        "/a\\b",
        "/a\0",
    ];
    for format in VERSIONS {
        for path in bad {
            let one = schema(format, vec![variable(path, DType::U8, &[1], None)]);
            refused(ZarrSink::create(&inside.join("x.zarr"), &one, format, true), Kind::Usage, "can not be the name");
            let mut group = schema(format, vec![]);
            if path != "/" {
                group.groups.push(Group { path: path.into(), attributes: vec![] });
                refused(
                    ZarrSink::create(&inside.join("x.zarr"), &group, format, true),
                    Kind::Usage,
                    "can not be the name",
                );
            }
        }
        let v = |path| variable(path, DType::U8, &[1], None);
        for (paths, part) in
            [(["/a", "/a"], "two groups"), (["/a", "/a/b"], "below it"), (["/a/b/c", "/a"], "below it")]
        {
            let two = schema(format, paths.map(v).to_vec());
            refused(ZarrSink::create(&inside.join("x.zarr"), &two, format, true), Kind::Usage, part);
        }
        let huge = schema(format, vec![variable("/v", DType::F64, &[0, u64::MAX, u64::MAX], None)]);
        refused(ZarrSink::create(&inside.join("x.zarr"), &huge, format, true), Kind::Usage, "too large");
    }
    assert_eq!(names_in(dir.path()), ["inside"]);
    assert!(names_in(&inside).is_empty());
}

#[test]
fn what_is_not_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    refused(ZarrSource::open(dir.path()), Kind::Input, "not a Zarr folder");
    let document = |change: &[(&str, &str)]| {
        let mut text = r#"{"zarr_format": 2, "shape": [4, 5], "chunks": [2, 5], "dtype": "<f4", "compressor": null,
            "fill_value": null, "order": "C", "filters": null}"#
            .to_owned();
        for (from, to) in change {
            assert!(text.contains(from));
            text = text.replace(from, to);
        }
        fs::create_dir_all(dir.path().join("a")).unwrap();
        fs::write(dir.path().join(".zgroup"), r#"{"zarr_format": 2}"#).unwrap();
        fs::write(dir.path().join("a/.zarray"), text).unwrap();
        ZarrSource::open(dir.path())
    };
    assert_eq!(document(&[]).unwrap().read(0, &[0..4, 1..2]).unwrap(), Values::F32(vec![0.0; 4]));
    let unreadable = |change: (&str, &str), part: &str| {
        let source = document(&[change]).unwrap();
        assert!(source.schema().variables.is_empty());
        let [u] = source.unreadable() else { panic!("{part}: {:?}", source.unreadable()) };
        assert!(u.name == "a" && u.reason.contains(part), "{u:?}");
    };
    unreadable(("<f4", "<c8"), "elements of type \"<c8\"");
    unreadable(("\"<f4\"", "[[\"x\", \"<f4\"]]"), "elements of type");
    unreadable(("<f4", "|O"), "Python objects");
    unreadable(("<f4", "<U99999999"), "<U99999999");
    unreadable(("\"compressor\": null", "\"compressor\": {\"id\": \"lzma\"}"), "lzma");
    unreadable(("[2, 5]", "[2000000000, 5]"), "smaller chunks");
    refused(document(&[("[2, 5]", "[0, 5]")]), Kind::Input, "chunk lengths");
    refused(document(&[("[2, 5]", "[2]")]), Kind::Input, "chunk lengths");
    refused(document(&[("[4, 5]", "[9223372036854775807, 5]")]), Kind::Input, "too large");
    refused(document(&[("[4, 5]", "[0, 9223372036854775807, 9]"), ("[2, 5]", "[1, 1, 1]")]), Kind::Input, "too large");
    refused(document(&[("[4, 5]", "[-4, 5]")]), Kind::Input, "list of lengths");
    refused(document(&[("null,", "")]), Kind::Input, "not JSON");
    refused(document(&[("\"order\": \"C\",", "")]), Kind::Input, "damaged");

    // An array as large as the numbers allow, of which nothing is stored: its boxes cost no more than others.
    let mut huge = document(&[("[4, 5]", "[1000000000, 1000000]"), ("[2, 5]", "[1000, 1000]")]).unwrap();
    let region = [999_999_990..1_000_000_000, 0..3];
    assert_eq!(huge.read(0, &region).unwrap(), Values::F32(vec![0.0; 30]));
}

/// Opens and reads a little of everything.
fn try_read(path: &Path) {
    if let Ok(mut source) = ZarrSource::open(path) {
        for i in 0..source.schema().variables.len() {
            let region: Vec<_> = source.schema().variables[i].shape.iter().map(|&n| 0..n.min(6)).collect();
            let _ = source.read(i, &region);
        }
    }
}

#[test]
fn no_cut_or_flip_panics() {
    let dir = tempfile::tempdir().unwrap();
    for format in VERSIONS {
        let path = dir.path().join(format!("{format:?}.zarr"));
        let variables = vec![
            variable("/f", DType::F32, &[5, 6], Some(&[2, 4])),
            variable("/t", DType::Text, &[5], None),
            variable("/c", DType::Char, &[5], None),
        ];
        write_all(&path, &schema(format, variables), format);
        // One flip per byte, of a bit that moves on.
        let documents = if format == Format::Zarr2 {
            vec!["f/.zarray", "t/.zarray", "c/.zarray", "f/.zattrs", ".zgroup", "f/0.0", "t/0", "c/0"]
        } else {
            vec!["zarr.json", "f/zarr.json", "t/zarr.json", "c/zarr.json", "f/c/0/0", "t/c/0", "c/c/0"]
        };
        for document in documents.iter().map(|d| path.join(d)).filter(|d| d.exists()) {
            let good = fs::read(&document).unwrap();
            let put = |bytes: &[u8]| {
                // Some file systems write at once what replaces a file in place.
                fs::remove_file(&document).unwrap();
                fs::write(&document, bytes).unwrap();
            };
            for at in 0..good.len() {
                put(&good[..at]);
                try_read(&path);
                let mut bytes = good.clone();
                bytes[at] ^= 1 << (at % 8);
                put(&bytes);
                try_read(&path);
            }
            put(&good);
        }
    }
}
