//! Time series beside forecasts: the loop is closed, archives are portable, and what does not fit is refused.
//! The models here are a few lines long; the trained one is tested in `tests/weights.rs`.

mod data;

use data::{Seer, Series, archive, decoded, open};
use residuum::compress::{Done, compress_rest};
use residuum::container::{Archive, Writer};
use residuum::device::Cpu;
use residuum::forecast::series;
use residuum::{Bound, Config, Kind, Values};
use std::collections::BTreeMap;
use std::io::Cursor;

/// Largest error of all variables in units of their bound.
fn worst(series: &Series, restored: &BTreeMap<String, Vec<f32>>, rel: f32) -> f32 {
    let mut worst = 0f32;
    for (name, values) in &series.variables {
        let (min, max) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let bound = rel * (max - min);
        for (x, y) in values.iter().zip(&restored[name]) {
            worst = worst.max((x - y).abs() / bound);
        }
    }
    worst
}

#[test]
fn every_value_is_within_its_bound_and_archives_are_smaller() {
    for rel in [1e-2, 1e-3, 1e-4] {
        let series = Series::new(24, 2);
        let config = Config::new(Bound::rel(rel)).with_verify(true);
        let with = archive(&series, &config, Some(Seer::default()), 12);
        let without = archive(&series, &config, None, 12);
        let restored = decoded(&with, Some(Seer::default())).unwrap();
        assert!(worst(&series, &restored, rel as f32) <= 1.0);
        assert!(with.len() < without.len(), "{rel}: {} bytes with forecasts, {} without", with.len(), without.len());
    }
}

#[test]
fn archives_do_not_depend_on_threads() {
    let series = Series::new(16, 2);
    let config = Config::new(Bound::rel(1e-3));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| archive(&series, &config, Some(Seer::default()), 8))
    };
    let one = on(1);
    assert!(one == on(2));
    assert!(one == on(3));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let alone = pool.install(|| decoded(&one, Some(Seer::default())).unwrap());
    assert!(alone == decoded(&one, Some(Seer::default())).unwrap());
}

#[test]
fn forecasts_that_differ_by_less_than_the_tolerance_give_the_same_bits() {
    let series = Series::new(6, 1);
    for rel in [1e-2, 1e-3] {
        let coded = archive(&series, &Config::new(Bound::rel(rel)), Some(Seer::default()), 6);
        let expected = decoded(&coded, Some(Seer::default())).unwrap();
        for seed in 1..=500 {
            let other = Seer { noise: 0.9, seed, ..Seer::default() };
            assert!(decoded(&coded, Some(other)).unwrap() == expected, "seed {seed}");
        }
    }
}

#[test]
fn forecasts_that_differ_by_more_are_noticed() {
    let series = Series::new(6, 1);
    let coded = archive(&series, &Config::new(Bound::rel(1e-3)), Some(Seer::default()), 6);
    for seed in 1..=1000 {
        let other = Seer { noise: 10.0, seed, ..Seer::default() };
        let e = decoded(&coded, Some(other)).map(|_| ()).unwrap_err();
        assert_eq!(e.kind(), Kind::Device, "{e}");
        assert!(e.to_string().contains("step 2") && e.to_string().contains("\"t\""), "{e}");
    }
}

#[test]
fn errors_do_not_add_up() {
    let series = Series::new(200, 1);
    let config = Config::new(Bound::rel(1e-2));
    let coded = archive(&series, &config, Some(Seer::default()), 200);
    let restored = decoded(&coded, Some(Seer::default())).unwrap();
    assert!(worst(&series, &restored, 1e-2) <= 1.0);
    // The error of late steps is that of early ones.
    let t = (&series.variables["t"], &restored["t"]);
    let n = t.0.len() / 200;
    let rmse = |steps: std::ops::Range<usize>| {
        let range = steps.start * n..steps.end * n;
        let sum: f64 = t.0[range.clone()].iter().zip(&t.1[range]).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        (sum / (steps.len() * n) as f64).sqrt()
    };
    let (early, late) = (rmse(10..30), rmse(180..200));
    assert!(late < 1.05 * early && late > 0.9 * early, "{early} {late}");
}

#[test]
fn what_the_archive_needs_is_said() {
    let series = Series::new(8, 1);
    let coded = archive(&series, &Config::new(Bound::rel(1e-3)), Some(Seer::default()), 8);
    let e = decoded(&coded, None).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Usage);
    assert!(e.to_string().contains("made with forecasts of seer") && e.to_string().contains("--forecast"), "{e}");
    let mut a = Archive::open(Cursor::new(&coded)).unwrap();
    assert_eq!(a.forecasts_needed().unwrap().0, "seer");
    let e = a.set_forecasts(Seer { id: 7, ..Seer::default() }.forecasts()).unwrap_err();
    assert!(e.to_string().contains("those given"), "{e}");
    let plain = archive(&series, &Config::new(Bound::rel(1e-3)), None, 8);
    let mut a = Archive::open(Cursor::new(&plain)).unwrap();
    assert!(a.set_forecasts(Seer::default().forecasts()).unwrap_err().to_string().contains("without forecasts"));
}

#[test]
fn what_does_not_fit_is_said() {
    let try_with = |series: &Series, keyframe: u64| {
        let config = Config::new(Bound::rel(1e-3));
        series::compress(&mut series.source(), &config, &Seer::default().forecasts(), keyframe, &mut |_| ())
    };
    let mut hourly = Series::new(8, 1);
    hourly.hours = (0..8).map(f64::from).collect();
    let e = try_with(&hourly, 8).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("21600 s apart") && e.to_string().contains("3600 s apart"), "{e}");
    let e = try_with(&Series::new(8, 1), 2).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("intervals of 2"), "{e}");
    let mut nameless = Series::new(8, 1);
    let t = nameless.variables.remove("t").unwrap();
    nameless.variables.insert("mystery".into(), t);
    let e = try_with(&nameless, 8).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("t@850hPa") && e.to_string().contains("mystery"), "{e}");
    let mut noleap = Series::new(8, 1);
    noleap.calendar = "noleap";
    let e = try_with(&noleap, 8).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported, "{e}");
}

#[test]
fn steps_after_a_gap_go_without() {
    let mut series = Series::new(16, 2);
    for (i, hour) in series.hours.iter_mut().enumerate() {
        *hour += if i >= 7 { 48.0 } else { 0.0 };
    }
    let config = Config::new(Bound::rel(1e-3));
    let coded = archive(&series, &config, Some(Seer::default()), 16);
    let restored = decoded(&coded, Some(Seer::default())).unwrap();
    assert!(worst(&series, &restored, 1e-3) <= 1.0);
    let mut a = Archive::open(Cursor::new(&coded)).unwrap();
    let t = a.find("t").unwrap();
    let tile = a.coded_tile(t, 0).unwrap();
    let plan = a.variable(t).unwrap().plan.clone();
    let report = residuum::decompress::inspect_tile(&tile, residuum::DType::F32, &plan.tiling.region(0)).unwrap();
    // Two levels; steps 2 to 6 and 9 to 15.
    assert!(report.predictor.ends_with("beside forecasts of 24 images"), "{}", report.predictor);
}

#[test]
fn special_values_come_back() {
    let mut series = Series::new(8, 2);
    for (i, v) in series.variables.get_mut("t").unwrap().iter_mut().enumerate() {
        if i % 768 < 40 {
            *v = f32::NAN;
        } else if i % 997 == 0 {
            *v = 1e30;
        }
    }
    let config = Config::new(Bound::abs(1e-2)).with_verify(true);
    let coded = archive(&series, &config, Some(Seer::default()), 8);
    let restored = decoded(&coded, Some(Seer::default())).unwrap();
    for (name, values) in &series.variables {
        for (x, y) in values.iter().zip(&restored[name]) {
            assert!(x.to_bits() == y.to_bits() || (x - y).abs() <= 1e-2, "{name}: {x} {y}");
        }
    }
}

/// Every byte of a tile damaged in turn, behind the checksums: an error or other values, never a panic.
#[test]
fn damaged_tiles_do_no_harm() {
    let series = Series::new(4, 1);
    let config = Config::new(Bound::rel(1e-2));
    let source = series.source();
    let forecasts = Seer::default().forecasts();
    let mut done = series::compress(&mut series.source(), &config, &forecasts, 4, &mut |_| ()).unwrap();
    let (&variable, Done { plan, tiles }) = done.iter_mut().find(|(_, d)| d.tiles[0][0] == 3).unwrap();
    let (plan, tile) = (plan.clone(), tiles.remove(0));
    let schema = residuum::io::Source::schema(&source).clone();
    let whole = compress_rest(
        &mut series.source(),
        vec![],
        &config,
        &mut Cpu,
        series::compress(&mut series.source(), &config, &forecasts, 4, &mut |_| ()).unwrap(),
        &mut |_| (),
    )
    .unwrap();
    let mut a = Archive::open(Cursor::new(&whole)).unwrap();
    for k in (0..tile.len()).step_by(1 + tile.len() / 2000) {
        for flip in [1u8, 0x80, 0xff] {
            let mut damaged = tile.clone();
            damaged[k] ^= flip;
            let mut writer = Writer::new(vec![], &schema).unwrap();
            for i in 0..schema.variables.len() {
                let stored = a.variable(i).unwrap().plan.clone();
                writer.begin(if i == variable { &plan } else { &stored }).unwrap();
                if i == variable {
                    writer.tile(&damaged).unwrap();
                } else {
                    writer.tile(&a.coded_tile(i, 0).unwrap()).unwrap();
                }
            }
            let bytes = writer.finish().unwrap();
            let mut hostile = open(&bytes, Some(Seer::default())).unwrap();
            match hostile.read_all(variable) {
                Ok(Values::F32(v)) => assert_eq!(v.len(), series.variables[schema.variables[variable].name()].len()),
                Ok(_) => panic!("another type"),
                Err(_) => {}
            }
        }
    }
}
