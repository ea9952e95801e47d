//! What `verify`, `inspect` and notes say.

use crate::support::*;
use residuum::Values;
use residuum::io::{AttributeValue, Format};

#[test]
fn verify_finds_what_differs() {
    let folder = Folder::new();
    let path = folder.path("x.npy");
    npy(&path, &[30, 40]);
    folder.works("compress x.npy --abs 0.01");
    let mut bytes = std::fs::read(&path).unwrap();
    let value = f32::from_le_bytes(bytes[528..532].try_into().unwrap());
    bytes[528..532].copy_from_slice(&(value + 0.05).to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    folder.fails("verify x.npy x.npy.rsd", 1, "1 values beyond their bounds");
    let output = folder.run("verify x.npy x.npy.rsd --json");
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["violations"], 1);
    assert!(json["variables"][0]["max_error_over_bound"].as_f64().unwrap() > 4.0);

    netcdf(&folder.path("a.nc"));
    folder.works("compress a.nc --abs 0.01");
    folder.works("decompress a.nc.rsd --range time=0:5 -o b.nc");
    folder.fails("verify b.nc a.nc.rsd", 1, "other differences");
}

#[test]
fn inspect_tells_where_the_bytes_go() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    folder.works("compress a.nc --rel 1e-3 --bound u=pw-rel:1e-3");
    let text = folder.works("inspect a.nc.rsd");
    assert!(text.contains("format version 1") && text.contains("time,lat,lon"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&folder.works("inspect a.nc.rsd --json")).unwrap();
    let len = std::fs::metadata(folder.path("a.nc.rsd")).unwrap().len();
    assert_eq!(json["file_bytes"], len);
    assert_eq!(json["source_format"], "netcdf4");
    for v in json["variables"].as_array().unwrap() {
        let parts: u64 = v["bytes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(v["stored_bytes"], parts, "{v}");
    }
    let t = &json["variables"][3];
    assert_eq!((&t["name"], &t["bound"]["asked"]), (&"t".into(), &"rel:1e-3".into()));
    assert_eq!(t["n_special"], 1);
}

#[test]
fn notes_and_messages_name_what_is_meant() {
    let folder = Folder::new();
    let scaled = attribute("scale_factor", AttributeValue::F32(vec![0.01]));
    file_of(&folder.path("a.nc"), Format::NetCdf4, vec![("t", Values::F32(field(50)), vec![scaled])]);
    let said = |arguments: &str| String::from_utf8(folder.run(arguments).stderr).unwrap();
    assert!(said("compress a.nc --abs 1").contains("before scale_factor"));
    folder.fails("compress a.nc --abs 1 -o nowhere/", 2, "there is no folder nowhere/");
    folder.fails("decompress a.nc.rsd -o nowhere/", 2, "there is no folder nowhere/");
    std::fs::rename(folder.path("a.nc.rsd"), folder.path("a")).unwrap();
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.fails("decompress a -o out", 2, "name a file in that folder");

    // Names steer no terminal.
    file_of(&folder.path("b.zarr"), Format::Zarr3, vec![("a\u{1b}[2J", Values::Char(vec![b'x']), vec![])]);
    folder.works("compress b.zarr --abs 1");
    for arguments in ["decompress b.zarr.rsd -o b.npy --var w", "compress b.zarr --abs 1 --var w -o x.rsd"] {
        assert!(!said(arguments).contains('\u{1b}'), "{}", said(arguments));
    }
    assert!(!folder.works("verify b.zarr b.zarr.rsd").contains('\u{1b}'));
}

#[test]
fn text_of_another_encoding_is_announced() {
    let folder = Folder::new();
    let title = attribute("title", AttributeValue::Text("grad _".into()));
    file_of(&folder.path("a.nc"), Format::NetCdf3, vec![("t", Values::F32(field(50)), vec![title])]);
    let mut bytes = folder.bytes("a.nc");
    let at = bytes.windows(6).position(|w| w == b"grad _").unwrap();
    bytes[at + 5] = 0xb0;
    folder.put("a.nc", bytes);
    let output = folder.run("compress a.nc --abs 1");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("attribute \"title\" is not UTF-8"), "{said}");
}

/// Values of an archive are the same values in a file of another kind.
#[test]
fn verify_takes_arrays_and_raw_values_for_each_other() {
    let folder = Folder::new();
    let values = npy(&folder.path("x.npy"), &[30, 40]);
    folder.put("x.f32", values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    folder.works("compress x.npy --abs 0.01");
    folder.works("compress x.f32 --shape 30,40 --dtype f32 --abs 0.01");
    for archive in ["x.npy.rsd", "x.f32.rsd"] {
        for original in ["x.npy", "x.f32"] {
            folder.works(&format!("verify {original} {archive}"));
            folder.piped(&format!("verify - {archive} -q"), &folder.bytes(original));
        }
        folder.fails(&format!("verify {archive} {archive}"), 3, "an archive of residuum already");
    }
    folder.fails("verify - -", 2, "not both");
}

#[test]
fn bounds_serve_several_inputs() {
    let folder = Folder::new();
    for name in ["t", "q"] {
        file_of(&folder.path(format!("{name}.nc")), Format::NetCdf4, vec![(name, Values::F32(field(50)), vec![])]);
    }
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.put("b.toml", "bound = \"rel:1e-3\"\n[bounds]\nt = \"abs:0.5\"\nq = \"abs:0.25\"\n");
    folder.works("compress t.nc q.nc --bounds b.toml -o out");
    for (name, bound) in [("t", "abs:0.5"), ("q", "abs:0.25")] {
        assert!(folder.works(&format!("inspect out/{name}.nc.rsd")).contains(bound), "{name}");
    }
    // A name that none of them has is misspelt.
    folder.fails("compress t.nc --bounds b.toml -o out --force", 2, "a bound names \"q\"");
    folder.fails("compress t.nc q.nc --bounds b.toml --bound w=abs:1 -o out --force", 2, "a bound names \"w\"");
}

/// An archive that allows more than was asked for is found out, whatever its values.
#[test]
fn verify_finds_bounds_made_looser() {
    use residuum::bound::Resolved;
    use residuum::plan::Treatment;
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[30, 40]);
    let loosened = |bound: &str, loosen: &dyn Fn(&mut Resolved)| {
        folder.works(&format!("compress x.npy {bound} --force"));
        folder.works("verify x.npy x.npy.rsd");
        let mut archive = residuum::Archive::open(std::io::Cursor::new(folder.bytes("x.npy.rsd"))).unwrap();
        let mut plan = archive.variable(0).unwrap().plan.clone();
        let Treatment::Lossy { resolved, .. } = &mut plan.treatment else { panic!("lossy") };
        loosen(resolved);
        let mut writer = residuum::Writer::new(Vec::new(), archive.schema()).unwrap();
        writer.begin(&plan).unwrap();
        writer.tile(&archive.coded_tile(0, 0).unwrap()).unwrap();
        folder.put("x.npy.rsd", writer.finish().unwrap());
    };
    loosened("--abs 0.01", &|r| *r = Resolved::Absolute(0.02));
    folder.fails("verify x.npy x.npy.rsd", 1, "1 other differences");
    loosened("--abs 0.01", &|r| *r = Resolved::MeanSquare { absolute: 0.02, max_mse: 1e-9 });
    folder.fails("verify x.npy x.npy.rsd", 1, "other differences");
    loosened("--psnr 60", &|r| {
        if let Resolved::MeanSquare { max_mse, .. } = r {
            *max_mse *= 4.0;
        }
    });
    folder.fails("verify x.npy x.npy.rsd", 1, "1 other differences");
    loosened("--psnr 60", &|_| ());
    folder.works("verify x.npy x.npy.rsd");
}
