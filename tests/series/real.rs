//! A real model, small and with random weights: what it says is of no use, but it says it as large ones do.

use super::command::{run, works};
use super::data::{Series, all, archive, finish, worst};
use residuum::compress::{Before, compress_rest};
use residuum::container::Archive;
use residuum::device::Cpu;
use residuum::forecast::aurora::{self, Aurora};
use residuum::forecast::series::{self, Forecasts, Machine};
use residuum::forecast::{Model, Options, Weights};
use residuum::{Bound, Config, Kind, PredictorChoice};
use serde_json::json;
use std::io::Cursor;
use std::path::Path;

fn weights(path: &Path, seed: u64) {
    let config: aurora::Config = serde_json::from_value(json!({
        "surf_vars": ["sp"], "static_vars": ["lsm"], "atmos_vars": ["t"], "atmos_levels": [850, 500],
        "embed_dim": 8, "num_heads": 2, "window_size": [2, 2, 2], "encoder_depths": [1, 1], "encoder_num_heads": [1, 2],
        "decoder_depths": [1, 1], "decoder_num_heads": [2, 1], "mlp_ratio": 2.0, "patch_size": 2, "use_lora": false,
        "locations": { "sp": 18_000.0, "t_850": 200.0, "t_500": 200.0, "lsm": 0.0 },
        "scales": { "sp": 900.0, "t_850": 10.0, "t_500": 10.0, "lsm": 1.0 }
    }))
    .unwrap();
    Aurora::write_random(path, &config, seed).unwrap();
}

#[test]
fn a_network_forecasts_on_any_number_of_threads() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    weights(&path, 3);
    let open = || Forecasts::open(&path, &Options::default()).unwrap();
    assert!(open().model.tolerance() > 0.0);
    let mut series = Series::new(10, 2);
    series.land = true;
    for (rel, predictor) in [(1e-2, PredictorChoice::Forecast), (1e-2, PredictorChoice::Auto)] {
        let config = Config::new(Bound::rel(rel)).with_verify(true).with_predictor(predictor);
        let mut source = series.source();
        let done = series::compress(&mut source, &config, &open(), Some(6), &mut |_| ()).unwrap();
        let is_used = done.values().any(|d| d.plan.forecast.is_some());
        let coded = finish(&mut source, &config, done);
        let restored_by = |threads: usize, open: &(dyn Fn() -> Forecasts + Sync)| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut a = Archive::open(Cursor::new(&coded[..])).unwrap();
                if is_used {
                    a.set_forecasts(open()).unwrap();
                }
                all(&mut a).unwrap()
            })
        };
        let restored = |threads: usize| restored_by(threads, &open);
        let one = restored(1);
        assert!(worst(&series, &one, rel as f32) <= 1.0);
        assert!(restored(2) == one && restored(3) == one);
        // The model's work in other portions: by default all 192 patches at once.
        for tokens in [16, 50, 113] {
            let in_chunks = || {
                let aurora = Aurora::new(&Weights::open(&path).unwrap(), &Options::default()).unwrap();
                Forecasts { model: Model::Forecaster(Box::new(aurora.with_chunks_of(tokens))), ..open() }
            };
            assert!(restored_by(2, &in_chunks) == one, "chunks of {tokens}");
        }
        if predictor != PredictorChoice::Forecast {
            continue;
        }
        // Forecasts of a network are agreed on, and the archive says who made them.
        let mut a = Archive::open(Cursor::new(&coded[..])).unwrap();
        assert!(a.forecasts_needed().unwrap().made_on.as_ref().unwrap().contains("candle"));
        let t = a.find("t").unwrap();
        let tile = a.coded_tile(t, 0).unwrap();
        let region = a.variable(t).unwrap().plan.tiling.region(0);
        let report = residuum::decompress::inspect_tile(&tile, residuum::DType::F32, &region).unwrap();
        assert!(report.predictor.contains("in steps of"), "{}", report.predictor);
        // Other weights of the same model.
        let other = folder.path().join("other.safetensors");
        weights(&other, 4);
        let e = a.set_forecasts(Forecasts::open(&other, &Options::default()).unwrap()).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains("those given, of aurora"), "{e}");
    }
}

#[test]
fn weights_may_be_in_the_archive() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("w.safetensors");
    weights(&path, 3);
    let forecasts = Forecasts::open(&path, &Options::default()).unwrap();
    let mut series = Series::new(6, 2);
    series.land = true;
    let config = Config::new(Bound::rel(1e-2)).with_predictor(PredictorChoice::Forecast);
    let archive = |weights: Option<Vec<u8>>| {
        let mut source = series.source();
        let done = series::compress(&mut source, &config, &forecasts, Some(6), &mut |_| ()).unwrap();
        compress_rest(&mut source, vec![], &config, &mut Cpu, Before { done, weights }, &mut |_| ()).unwrap()
    };
    let file = std::fs::read(&path).unwrap();
    let (without, with) = (archive(None), archive(Some(file.clone())));
    let restored = |coded: &[u8], recover: bool| {
        let input = Cursor::new(coded);
        let mut a = if recover { Archive::recover(input) } else { Archive::open(input) }.unwrap();
        a.find_forecasts(Machine::default()).unwrap();
        (a.version(), a.weights_bytes(), a.weights().unwrap(), all(&mut a))
    };
    let (version, bytes, weights, values) = restored(&with, false);
    assert_eq!((version, weights.as_deref()), (2, Some(&file[..])));
    assert_eq!(with.len() as u64 - bytes, without.len() as u64 + 3, "three bytes more in the index");
    let values = values.unwrap();
    assert!(worst(&series, &values, 1e-2) <= 1.0);
    // Without them, whoever reads has to have them.
    let (version, bytes, weights, refused) = restored(&without, false);
    assert_eq!((version, bytes, weights), (1, 0, None));
    assert!(refused.unwrap_err().to_string().contains("--forecast"));
    // An archive that lacks its index.
    assert!(restored(&with[..with.len() - 8], true).3.unwrap() == values);
    // Damaged weights.
    let mut damaged = with.clone();
    let at = with.windows(64).position(|w| w == &file[..64]).unwrap();
    damaged[at + file.len() / 2] ^= 1;
    let mut a = Archive::open(Cursor::new(&damaged[..])).unwrap();
    assert_eq!(a.find_forecasts(Machine::default()).unwrap_err().kind(), Kind::Corrupt);
}

/// How far forecasts differ is measured on the first steps of a file, and held against the tolerance; an archive may have another one.
#[test]
fn the_doctor_measures_a_model() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    weights(&folder.join("w.safetensors"), 3);
    let mut series = Series::new(6, 2);
    series.land = true;
    std::fs::write(folder.join("x.nc.rsd"), archive(&series, &Config::new(Bound::LOSSLESS), None, None)).unwrap();
    works(folder, "decompress x.nc.rsd -o x.nc");
    let shown = works(folder, "doctor --forecast w.safetensors x.nc");
    let after = |way: &str| {
        let line = shown.lines().find(|l| l.contains(way)).unwrap_or_else(|| panic!("{way}: {shown}"));
        line[line.find(way).unwrap() + way.len()..].trim_start().split([' ', ',']).next().unwrap().to_string()
    };
    assert_eq!(after("one thread").parse::<f64>().unwrap(), 0.0, "{shown}");
    let in_f64: f64 = after("candle's functions").parse().unwrap();
    assert!(in_f64 > 0.0 && shown.contains("tolerance: 2e-4, covers all of that"), "{shown}");
    let (status, shown) = run(folder, "doctor --forecast w.safetensors --tolerance 1e-12 x.nc");
    assert!(status == 1 && shown.contains("does NOT cover that"), "{status} {shown}");
    let (status, shown) = run(folder, "doctor --forecast w.safetensors");
    assert!(status == 2 && shown.contains("<FILE>"), "{shown}");
    // Not all that the model needs.
    works(folder, "compress x.nc --rel 1e-2 --var t -o t.rsd");
    works(folder, "decompress t.rsd -o t.nc");
    let (status, shown) = run(folder, "doctor --forecast w.safetensors t.nc");
    assert!(status == 3 && shown.contains("t.nc: ") && shown.contains("which is missing"), "{status} {shown}");
    // A tolerance goes into the archive and costs what it costs.
    for tolerance in ["0", "1e-3"] {
        let line =
            "compress x.nc --rel 1e-2 --predictor forecast --forecast w.safetensors --force -o z.rsd --tolerance ";
        works(folder, &format!("{line}{tolerance}"));
        let agreed = works(folder, "inspect z.rsd").contains("in steps of");
        assert_eq!(agreed, tolerance != "0");
        works(folder, "verify x.nc z.rsd --forecast w.safetensors");
    }
}
