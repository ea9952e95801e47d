//! Whole files, there and back.

use crate::support::*;
use residuum::io::{self, AttributeValue, Format, OpenOptions, Schema};
use residuum::{DType, Values};

#[test]
fn npy_there_and_back() {
    let folder = Folder::new();
    let original = npy(&folder.path("x.npy"), &[30, 40]);
    let before = folder.bytes("x.npy");
    let table = folder.works("compress x.npy --abs 0.01");
    assert!(table.contains("abs:0.01") && table.contains("30x40") && table.contains("MB/s"), "{table}");
    assert!(folder.works("verify x.npy x.npy.rsd").contains("every value is within its bound"));
    folder.works("decompress x.npy.rsd -o y.npy");
    let (_, Values::F32(restored)) = read(&folder.path("y.npy"), "y") else { panic!("f32") };
    assert_within(&original, &restored, 0.01);
    assert_eq!(folder.bytes("x.npy"), before);
    // Nothing but what was asked for is left.
    assert_eq!(folder.count(), 3);
    assert_eq!(folder.works("compress x.npy --abs 0.01 --quiet -o z.rsd"), "");
}

#[test]
fn raw_there_and_back() {
    let folder = Folder::new();
    let original = field(600);
    let bytes: Vec<u8> = original.iter().flat_map(|x| x.to_le_bytes()).collect();
    folder.put("p.f32", &bytes);
    folder.works("compress p.f32 --shape 20,30 --dtype f32 --rel 1e-3 --predictor lorenzo --threads 2");
    folder.works("verify p.f32 p.f32.rsd");
    folder.fails("decompress p.f32.rsd", 2, "--force");
    assert_eq!(folder.bytes("p.f32"), bytes);
    folder.works("decompress p.f32.rsd --range 0=5:10 --range 1=:3 -o part.bin");
    let part = floats(&folder.bytes("part.bin"));
    let wanted: Vec<f32> = (5..10).flat_map(|i| original[i * 30..i * 30 + 3].to_vec()).collect();
    assert_within(&wanted, &part, 0.02);
    folder.fails("compress p.f32 --shape 20,31 --dtype f32 --rel 1e-3 --force", 2, "2480 bytes");
}

#[test]
fn packed_integers_as_numbers() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    folder.fails("compress a.nc --lossless --bound packed=abs:0.001", 2, "--unpack");
    folder.works("compress a.nc --lossless --bound packed=abs:0.001 --unpack");
    folder.works("verify a.nc a.nc.rsd");
    folder.works("decompress a.nc.rsd -o b.nc");
    let (v, Values::F32(numbers)) = read(&folder.path("b.nc"), "packed") else { panic!("f32") };
    assert!(v.attribute("scale_factor").is_none());
    assert!(numbers[0].is_nan());
    assert!(numbers[1..].iter().enumerate().all(|(i, x)| (x - (5.0 + 0.01 * i as f32)).abs() <= 0.0011));
}

#[test]
fn a_file_without_variables_comes_back() {
    for format in [Format::NetCdf3, Format::NetCdf4, Format::Zarr3] {
        let (a, b) = (Folder::new(), Folder::new());
        let name = if format == Format::Zarr3 { "a.zarr" } else { "a.nc" };
        let mut schema = Schema::single(format, "x", DType::F32, &[1]);
        schema.variables.clear();
        schema.groups[0].attributes.push(attribute("title", AttributeValue::Text("nothing".into())));
        write(&a.path(name), &schema, &[]);
        a.works(&format!("compress {name} --abs 1"));
        let archive = a.path(format!("{name}.rsd"));
        b.works(&format!("decompress {} -o {name}", archive.display()));
        let source = io::open(&b.path(name), &OpenOptions::default()).unwrap();
        assert_eq!(source.schema().groups, schema.groups);
        b.fails(&format!("decompress {} -o x.npy", archive.display()), 4, "nothing");
    }
}
