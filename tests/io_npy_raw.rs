//! Raw and `.npy` files: round trips of every type and shape, boxes in any cut, damaged headers.
#![allow(clippy::single_range_in_vec_init)] // boxes of one dimension are meant

use residuum::io::{self, Format, OpenOptions, Schema, Sink, Source};
use residuum::{DType, Error, Kind, Values};
use std::ops::Range;
use std::path::Path;

const NUMBERS: [DType; 11] = [
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
];

/// Values whose bytes all differ from their neighbours'.
fn counting(dtype: DType, len: usize) -> Values {
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
                (0..n.div_ceil(c)).map(move |i| [&head[..], &[i * c..(i * c + c).min(n)]].concat())
            })
            .collect();
    }
    all
}

fn write_cut(mut sink: Box<dyn Sink>, source: &mut dyn Source, cut: &[u64]) {
    let shape = source.schema().variables[0].shape.clone();
    for region in boxes(&shape, cut) {
        sink.write(0, &region, &source.read(0, &region).unwrap()).unwrap();
    }
    sink.finish().unwrap();
}

fn refused<T>(result: Result<T, Error>, kind: Kind, part: &str) {
    let e = result.err().expect("an error");
    assert_eq!(e.kind(), kind, "{e}");
    assert!(e.to_string().contains(part), "{e}");
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn every_type_and_shape_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let shapes: [(&[u64], &[u64]); 6] = [
        (&[], &[]),
        (&[0], &[1]),
        (&[3, 0, 2], &[1, 1, 1]),
        (&[7], &[3]),
        (&[5, 6, 7], &[2, 6, 7]),
        (&[5, 6, 7, 2], &[1, 4, 3, 2]),
    ];
    for dtype in NUMBERS {
        for (shape, cut) in shapes {
            let values = counting(dtype, shape.iter().product::<u64>() as usize);
            for format in [Format::Raw, Format::Npy] {
                let (a, b) = (dir.path().join("a b.x"), dir.path().join("b.x"));
                let schema = Schema::single(format, "v", dtype, shape);
                let mut sink = io::create(&a, &schema, format, true).unwrap();
                sink.write(0, &whole(shape), &values).unwrap();
                sink.finish().unwrap();

                let options = OpenOptions {
                    shape: (format == Format::Raw).then(|| shape.to_vec()),
                    dtype: (format == Format::Raw).then_some(dtype),
                };
                let mut source = io::open(&a, &options).unwrap();
                let variable = &source.schema().variables[0];
                assert_eq!((variable.name(), variable.dtype, &variable.shape[..]), ("a b", dtype, shape));
                assert_eq!(source.schema().format, format);
                assert_eq!(source.read(0, &whole(shape)).unwrap(), values);

                write_cut(io::create(&b, &schema, format, true).unwrap(), &mut *source, cut);
                assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap(), "{dtype} {shape:?} {format:?}");
            }
        }
    }
}

#[test]
fn nothing_stands_under_the_name_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.npy");
    let schema = Schema::single(Format::Npy, "v", DType::F32, &[4]);
    for format in [Format::Raw, Format::Npy] {
        let mut sink = io::create(&path, &schema, format, false).unwrap();
        sink.write(0, &[0..2], &Values::F32(vec![1.0, 2.0])).unwrap();
        assert!(!path.exists());
        drop(sink);
        assert_eq!(entries(dir.path()), 0, "the temporary file is removed");
    }
    std::fs::write(&path, b"precious").unwrap();
    refused(io::create(&path, &schema, Format::Npy, false), Kind::Usage, "--force");
    drop(io::create(&path, &schema, Format::Npy, true).unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn wrong_calls_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.bin");
    std::fs::write(&path, [0; 24]).unwrap();
    let open = |shape: Option<&[u64]>, dtype| {
        io::raw::RawSource::open(&path, &OpenOptions { shape: shape.map(<[u64]>::to_vec), dtype })
    };
    refused(open(None, Some(DType::F32)), Kind::Usage, "--shape");
    refused(open(Some(&[6]), None), Kind::Usage, "--dtype");
    refused(open(None, None), Kind::Usage, "--shape and --dtype");
    refused(open(Some(&[2, 4]), Some(DType::F32)), Kind::Usage, "2x4 of f32 takes 32 bytes, the file has 24");
    refused(open(Some(&[u64::MAX, 2]), Some(DType::F64)), Kind::Usage, "not a shape");
    refused(open(Some(&[0, u64::MAX, u64::MAX]), Some(DType::F64)), Kind::Usage, "not a shape");
    let mut source = open(Some(&[2, 3]), Some(DType::F32)).unwrap();
    refused(source.read(0, &[0..2]), Kind::Usage, "2x3");
    refused(source.read(0, &[0..3, 0..1]), Kind::Usage, "2x3");

    let mut two = Schema::single(Format::Npy, "a", DType::F32, &[1]);
    two.variables.push(io::Variable { path: "/g/b".into(), ..two.variables[0].clone() });
    for format in [Format::Raw, Format::Npy] {
        refused(io::create(&path, &two, format, true), Kind::Usage, "2 (a, g/b): pick one with --var");
        let text = Schema::single(format, "s", DType::Text, &[1]);
        refused(io::create(&path, &text, format, true), Kind::Usage, "\"s\" is text");
        let one = Schema::single(format, "a", DType::F32, &[4]);
        let mut sink = io::create(&path, &one, format, true).unwrap();
        refused(sink.write(0, &[0..2], &Values::F32(vec![1.0])), Kind::Usage, "do not fill");
        refused(sink.write(0, &[0..1], &Values::F64(vec![1.0])), Kind::Usage, "do not fill");
    }
}

/// A `.npy` file of version 1.0.
fn npy(header: &str, values: &[u8]) -> Vec<u8> {
    let len = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), values].concat()
}

fn open_bytes(dir: &Path, bytes: &[u8]) -> Result<io::npy::NpySource, Error> {
    let path = dir.join("v.npy");
    std::fs::write(&path, bytes).unwrap();
    io::npy::NpySource::open(&path)
}

#[test]
fn headers_of_other_writers_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<u8> = [1f32, 2.0, 3.0].iter().flat_map(|v| v.to_be_bytes()).collect();
    let mut big =
        open_bytes(dir.path(), &npy("{'shape': (3,), 'descr':'>f4', \"fortran_order\": True}", &values)).unwrap();
    assert_eq!(big.read(0, &[1..3]).unwrap(), Values::F32(vec![2.0, 3.0]));

    let python2 = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2L, 1L), }  \n", &[1, 0]);
    assert_eq!(open_bytes(dir.path(), &python2).unwrap().schema().variables[0].dtype, DType::U8);

    let header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (), }\n";
    let version2 = [b"\x93NUMPY\x02\x00", &(header.len() as u32).to_le_bytes()[..], header, &[7, 1]].concat();
    assert_eq!(open_bytes(dir.path(), &version2).unwrap().read(0, &[]).unwrap(), Values::U16(vec![263]));
}

#[test]
fn fortran_order_is_transposed() {
    let dir = tempfile::tempdir().unwrap();
    let shape = [4u64, 3, 5];
    let at = |i: u64, j: u64, k: u64| (i * 100 + j * 10 + k) as i16;
    let mut bytes = vec![];
    for k in 0..5 {
        for j in 0..3 {
            for i in 0..4 {
                bytes.extend(at(i, j, k).to_be_bytes());
            }
        }
    }
    let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (4, 3, 5), }\n";
    let mut source = open_bytes(dir.path(), &npy(header, &bytes)).unwrap();
    assert_eq!(source.schema().variables[0].shape, shape);
    for region in boxes(&shape, &[3, 2, 4]) {
        let [i, j, k] = &region[..] else { unreachable!() };
        let mut expected = vec![];
        for i in i.clone() {
            for j in j.clone() {
                expected.extend(k.clone().map(|k| at(i, j, k)));
            }
        }
        assert_eq!(source.read(0, &region).unwrap(), Values::I16(expected));
    }
    let empty = "{'descr': '<f8', 'fortran_order': True, 'shape': (4, 0, 5), }\n";
    let mut source = open_bytes(dir.path(), &npy(empty, &[])).unwrap();
    assert!(source.read(0, &whole(&[4, 0, 5])).unwrap().is_empty());
}

#[test]
fn damaged_headers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |bytes: &[u8], kind, part: &str| refused(open_bytes(dir.path(), bytes), kind, part);
    let header = |descr: &str, shape: &str| {
        npy(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"), &[0; 8])
    };
    refuse(&header("'<f4'", "(3,)"), Kind::Input, "3 of f32 takes 12 bytes, the file has 8");
    refuse(&header("'<f8'", "(9223372036854775807, 9223372036854775807)"), Kind::Input, "too many");
    refuse(&header("'<f8'", "(0, 9223372036854775807, 9223372036854775807)"), Kind::Input, "too many");
    refuse(&header("'<f8'", "(99999999999999999999,)"), Kind::Input, "a length");
    refuse(&header("'<c8'", "(1,)"), Kind::Unsupported, "<c8");
    refuse(&header("'|O'", "(1,)"), Kind::Unsupported, "|O");
    refuse(&header("[('a', '<f4')]", "(2,)"), Kind::Unsupported, "records");
    refuse(&header("'<f4'", &format!("{}{}", "(".repeat(4000), ")".repeat(4000))), Kind::Input, "a length");
    refuse(&npy("{'descr': '<f4', 'shape': (2,)}", &[0; 8]), Kind::Input, "lacks");
    refuse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", Kind::Input, "claims 4294967295 bytes");
    refuse(b"\x93NUMPY\x09\x00\x00\x00{}", Kind::Unsupported, "version 9");
    refuse(b"\x93NUM", Kind::Input, "ends within");
}

#[test]
fn no_cut_or_flip_panics() {
    let dir = tempfile::tempdir().unwrap();
    let good = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", &[1; 24]);
    let try_read = |bytes: &[u8]| {
        if let Ok(mut source) = open_bytes(dir.path(), bytes) {
            let shape = source.schema().variables[0].shape.clone();
            let _ = source.read(0, &whole(&shape));
        }
    };
    for cut in 0..good.len() {
        assert!(open_bytes(dir.path(), &good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() - 24 {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            try_read(&bytes);
        }
    }
}
