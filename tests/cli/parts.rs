//! Some variables, some indices.

use crate::support::*;
use residuum::Values;
use residuum::io::{self, AttributeValue, Format, OpenOptions, Variable};

#[test]
fn parts_of_netcdf() {
    let folder = Folder::new();
    let t = netcdf(&folder.path("a.nc"));
    folder.put("b.toml", "bound = \"rel:0.5\"\n[bounds]\nt = \"abs:5\"\nu = \"lossless\"\n");
    let output = folder.run("compress a.nc --bounds b.toml --bound t=abs:0.01");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--unpack"), "no word about the packed variable");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("abs:0.01") && !table.contains("abs:5"), "{table}");
    folder.works("verify a.nc a.nc.rsd");

    folder.works("decompress a.nc.rsd --var t --range time=1:3 --range lon=10: -o part.nc");
    let source = io::open(&folder.path("part.nc"), &OpenOptions::default()).unwrap();
    let names: Vec<_> = source.schema().variables.iter().map(Variable::name).collect();
    assert_eq!(names, ["time", "lat", "lon", "t"]);
    let lens: Vec<_> = source.schema().dimensions.iter().map(|d| d.len).collect();
    assert_eq!(lens, [2, 10, 10]);
    let (v, Values::F32(part)) = read(&folder.path("part.nc"), "t") else { panic!("f32") };
    assert_eq!(v.attribute("units"), Some(&AttributeValue::Text("K".into())));
    let wanted: Vec<f32> = (10..30).flat_map(|row| t[row * 20 + 10..row * 20 + 20].to_vec()).collect();
    assert_within(&wanted, &part, 0.01);
    assert_eq!(read(&folder.path("part.nc"), "time").1, Values::I64(vec![1, 2]));

    folder.works("decompress a.nc.rsd --var u -o u.npy");
    let bytes = |file: &str| read(&folder.path(file), "u").1.as_bytes().to_vec();
    assert_eq!(bytes("u.npy"), bytes("a.nc"));
    folder.works("decompress a.nc.rsd -o a.zarr --format zarr2");
    assert_eq!(bytes("a.zarr"), bytes("a.nc"));
    folder.works("compress a.nc --var u --bounds b.toml -o u.rsd");
    let table = folder.works("verify a.nc u.rsd");
    assert!(table.contains("not in the archive: time, t, packed"), "{table}");

    folder.fails("decompress a.nc.rsd -o all.npy", 2, "--var");
    folder.fails("decompress a.nc.rsd --var w -o w.nc", 2, "there are: time");
    folder.fails("decompress a.nc.rsd --range level=0:1 -o w.nc", 2, "there are: time, lat, lon");
    folder.fails("decompress a.nc.rsd --range time=0:7 -o w.nc", 2, "0:6");
    folder.fails("decompress a.nc.rsd --range time=0:1 --range time=2:3 -o w.nc", 2, "twice");
    folder.fails("compress a.nc --abs 1 --bound w=abs:1 -o w.rsd", 2, "there are: time");
}

#[test]
fn one_variable_that_is_not_read_does_not_stop_the_others() {
    let folder = Folder::new();
    file_of(&folder.path("a.zarr"), Format::Zarr2, vec![("t", Values::F32(field(50)), vec![])]);
    let odd = folder.path("a.zarr/odd");
    std::fs::create_dir(&odd).unwrap();
    let text = r#"{"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "<c8", "compressor": null, "fill_value": null,
        "order": "C", "filters": null}"#;
    std::fs::write(odd.join(".zarray"), text).unwrap();
    folder.fails("compress a.zarr --abs 1", 5, "--exclude odd");
    folder.fails("compress a.zarr --abs 1 --var odd", 5, "\"<c8\"");
    folder.fails("compress a.zarr --abs 1 --exclude odd --exclude even", 2, "no variable");
    folder.works("compress a.zarr --abs 1 --var t -o 1.rsd");
    folder.works("compress a.zarr --abs 1 --exclude odd -o 2.rsd");
    assert!(folder.works("verify a.zarr 2.rsd").contains("not in the archive: odd"));
}

/// Attributes of the type `NC_STRING`, as h5netcdf writes them, name coordinates too: those are kept exactly, and come along.
#[test]
fn coordinates_named_by_strings() {
    let folder = Folder::new();
    for value in [AttributeValue::Text("lat2d".into()), AttributeValue::Texts(vec!["lat2d".into()])] {
        let named = vec![attribute("coordinates", value)];
        let lat = field(1000);
        let variables = vec![
            ("t", Values::F32(field(1000)), named),
            ("lat2d", Values::F32(lat.clone()), vec![]),
            ("u", Values::F32(field(1000)), vec![]),
        ];
        file_of(&folder.path("a.nc"), Format::NetCdf4, variables);
        folder.works("compress a.nc --abs 0.5 --var t --force");
        folder.works("decompress a.nc.rsd -o b.nc --force");
        let source = io::open(&folder.path("b.nc"), &OpenOptions::default()).unwrap();
        assert_eq!(source.schema().variables.iter().map(Variable::name).collect::<Vec<_>>(), ["t", "lat2d"]);
        let bits = |values: Values| values.as_bytes().to_vec();
        assert!(
            bits(read(&folder.path("b.nc"), "lat2d").1) == bits(Values::F32(lat)),
            "a coordinate was not kept exactly"
        );
        assert!(bits(read(&folder.path("b.nc"), "t").1) != bits(Values::F32(field(1000))), "nothing was lossy");
        std::fs::remove_file(folder.path("a.nc")).unwrap();
    }
}
