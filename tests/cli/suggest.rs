//! `residuum suggest`: estimates are what compressing gives, and packing is pointed out.

use crate::support::*;
use residuum::Values;
use residuum::io::{AttributeValue, Format, Schema};

fn suggestions(folder: &Folder, arguments: &str) -> serde_json::Value {
    serde_json::from_str(&folder.works(&format!("suggest {arguments} --json"))).unwrap()
}

#[test]
fn estimates_of_whole_variables_are_what_compressing_gives() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[40, 64]);
    let text = folder.works("suggest x.npy --bound abs:0.01");
    assert!(text.contains("abs:0.01") && text.contains("all 2560 values"), "{text}");
    let json = suggestions(&folder, "x.npy --bound abs:0.01 --bound rel:1e-4");
    folder.works("compress x.npy --abs 0.01");
    let report: serde_json::Value = serde_json::from_str(&folder.works("inspect x.npy.rsd --json")).unwrap();
    let codes: f64 = report["variables"][0]["stored_bytes"].as_f64().unwrap();
    let estimates = json["variables"][0]["estimates"].as_array().unwrap();
    let estimated = 2560.0 * 4.0 / estimates[0]["ratio"].as_f64().unwrap();
    assert!(estimated <= codes && codes - estimated < 150.0, "{estimated} {codes}");
    assert!(estimates[1]["ratio"].as_f64() < estimates[0]["ratio"].as_f64());
    assert!(estimates.iter().all(|e| e["max_error_over_bound"].as_f64().unwrap() <= 1.0));
}

#[test]
fn packing_is_pointed_out() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    let json = suggestions(&folder, "a.nc");
    let names: Vec<_> = json["variables"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["t", "u", "packed"]);
    let step = json["variables"][2]["packing_step"][0].as_f64().unwrap();
    assert!((step - 0.01).abs() < 1e-6 && json["variables"][2]["packed_as"] == "integers");
    assert!(json["variables"][0]["packing_step"].is_null());
    assert!(folder.works("suggest a.nc --var packed").contains("half a step"));

    // Floats that were packed once.
    let values = (0..4000u64).map(|i| 250.0 + 0.002 * ((i * i * 7919) % 30_011) as f32).collect();
    let schema = Schema::single(Format::Npy, "x", residuum::DType::F32, &[40, 100]);
    write(&folder.path("y.npy"), &schema, &[Values::F32(values)]);
    let step = suggestions(&folder, "y.npy --bound rel:1e-3")["variables"][0]["packing_step"][0].as_f64().unwrap();
    assert!((step - 0.002).abs() < 1e-5, "{step}");
}

#[test]
fn samples_are_of_the_size_asked_for() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[30, 100, 200]);
    let json = suggestions(&folder, "x.npy --sample-mib 1 --effort fast --bound rel:1e-3");
    let v = &json["variables"][0];
    assert!(v["n_sampled"].as_u64().unwrap() <= 1 << 18 && v["n_boxes"] == 2, "{v}");
    assert!(
        folder.works("suggest x.npy --sample-mib 1 --effort fast --bound rel:1e-3").contains("estimated from 2 boxes")
    );
    folder.fails("suggest x.npy --bound rel:2", 2, "must be below 1");
    folder.fails("suggest x.npy --var y", 2, "no variable");
    let title = attribute("title", AttributeValue::Text("a".into()));
    file_of(&folder.path("b.nc"), Format::NetCdf4, vec![("n", Values::I32(vec![1, 2]), vec![title])]);
    assert_eq!(folder.works("suggest b.nc"), "");
    folder.fails("suggest b.nc --var n", 2, "kept exactly");
}

/// What `compress` keeps exactly has no other bound to choose, and a bound that was named for it is not left out in silence.
#[test]
fn what_is_kept_exactly_is_said() {
    let folder = Folder::new();
    let number = |name: &str, value: f32| attribute(name, AttributeValue::F32(vec![value]));
    let mut unwritten = field(400);
    unwritten[..50].fill(9.969_21e36);
    let variables = vec![
        ("two", Values::F32(field(400)), vec![number("_FillValue", 1e20), number("missing_value", -9999.0)]),
        ("unwritten", Values::F32(unwritten), vec![number("missing_value", -9999.0)]),
        ("one", Values::F32(field(400)), vec![number("_FillValue", 1e20)]),
    ];
    file_of(&folder.path("a.nc"), Format::NetCdf4, variables);
    let json = suggestions(&folder, "a.nc --var two --var unwritten --var one");
    let output =
        folder.run("compress a.nc --rel 1e-3 --bound two=abs:0.1 --bound unwritten=abs:0.1 --bound one=abs:0.1");
    let said = String::from_utf8_lossy(&output.stderr);
    for (i, (name, reason)) in
        [("two", Some("several fill values")), ("unwritten", Some("never written")), ("one", None)]
            .into_iter()
            .enumerate()
    {
        let v = &json["variables"][i];
        assert_eq!(v["name"], name);
        let n = v["estimates"].as_array().unwrap().len();
        let note = format!("variable {name:?} is kept exactly, whatever its bound: ");
        match reason {
            Some(reason) => {
                assert!(n == 1 && v["estimates"][0]["bound"] == "lossless", "{v}");
                assert!(v["kept_exactly"].as_str().unwrap().contains(reason), "{v}");
                assert!(said.contains(&note) && said.contains(reason), "{said}");
                assert!(folder.works(&format!("suggest a.nc --var {name}")).contains(reason));
            }
            None => assert!(n > 1 && v["kept_exactly"].is_null() && !said.contains(&note), "{v} {said}"),
        }
    }
}

#[test]
fn ranges_of_next_to_nothing_are_no_error() {
    let folder = Folder::new();
    let values = (0..4000).map(|i| f32::from_bits(i % 7000)).collect();
    let schema = Schema::single(Format::Npy, "x", residuum::DType::F32, &[40, 100]);
    write(&folder.path("x.npy"), &schema, &[Values::F32(values)]);
    assert!(suggestions(&folder, "x.npy")["variables"][0]["estimates"].as_array().unwrap().len() >= 4);
}
