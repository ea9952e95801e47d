//! candle's tensors on a GPU, through archives and back. Run by `tests/cuda-emulator/candle.sh` on the software driver.

use candle_core::{Device, Tensor};
use residuum::compress::{Before, compress_rest};
use residuum::container::Archive;
use residuum::device::cudarc::driver::safe::{profiler_start, profiler_stop};
use residuum::device::{Choice, Cpu, Gpu};
use residuum::forecast::series::{self, Forecasts, Machine};
use residuum::forecast::{Forecaster, Frame, Grid, GridNeed, Key, Model, Needs};
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Source, Variable};
use residuum::{Bound, Config, DType, Effort, Field, Kind, Values};
use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

#[test]
fn tensors_go_through_archives() {
    let device = Device::new_cuda(0).unwrap();
    let mut gpu = Gpu::of_candle(&device).unwrap();
    let values: Vec<f32> = (0..20 * 30 * 41).map(|i| 280.0 + (i as f32 * 0.003).sin() * 9.0).collect();
    let whole = Tensor::from_vec(values.clone(), (20, 30, 41), &device).unwrap();
    let config = Config::new(Bound::abs(0.01)).with_effort(Effort::Fast);
    // A part of a tensor, that starts in the middle of its memory.
    let part = whole.narrow(0, 3, 12).unwrap();
    let expected = &values[3 * 30 * 41..15 * 30 * 41];
    let archive = gpu.compress_tensor(&part, &config).unwrap();
    assert!(archive == residuum::compress(&Field::new(expected, &[12, 30, 41]).unwrap(), &config).unwrap());
    let restored = gpu.decompress_tensor(&archive, &device).unwrap();
    assert_eq!(restored.dims(), [12, 30, 41]);
    let back = restored.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(back.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 0.01));
    assert!(back == residuum::decompress::<f32>(&archive).unwrap().0);
    // What kernels wrote to is the tensor's memory: it is compressed again where it is.
    assert_eq!(gpu.compress_tensor(&restored, &config).unwrap().len(), {
        residuum::compress(&Field::new(&back, &[12, 30, 41]).unwrap(), &config).unwrap().len()
    });
    let doubles: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    let double = Tensor::from_vec(doubles.clone(), (600, 41), &device).unwrap();
    let archive = gpu.compress_tensor(&double, &config).unwrap();
    assert!(archive == residuum::compress(&Field::new(&doubles, &[600, 41]).unwrap(), &config).unwrap());
    assert_eq!(gpu.decompress_tensor(&archive, &device).unwrap().dtype(), candle_core::DType::F64);
    // What can not be done is said.
    let refused = |tensor: &Tensor, gpu: &mut Gpu| gpu.compress_tensor(tensor, &config).unwrap_err().kind();
    assert_eq!(refused(&whole.t().unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(refused(&Tensor::from_vec(vec![1u32, 2], 2, &device).unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(refused(&Tensor::from_vec(vec![1f32, 2.0], 2, &Device::Cpu).unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(Gpu::of_candle(&Device::Cpu).unwrap_err().kind(), Kind::Usage);
}

/// Knows what comes, and leaves it in the GPU's memory: no kernel of candle's is needed, which the software driver could not run.
struct Oracle {
    needs: Needs,
    device: Device,
    tolerance: f64,
    /// By step, by level, on the device.
    truth: Vec<[Tensor; 2]>,
    /// Fields that came on the GPU, and others.
    came: Arc<[AtomicUsize; 2]>,
    /// The bits of all that came, where they are asked for: it copies them.
    shown: Option<Arc<Mutex<Vec<Vec<u32>>>>>,
}

const STEPS: usize = 7;
const SHAPE: (usize, usize) = (40, 48);
const LEVELS: [u32; 2] = [850, 500];

impl Forecaster for Oracle {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn step(&self, history: &[Frame], _: Option<&Frame>, _: usize) -> residuum::Result<Frame> {
        let last = history.last().unwrap();
        let mut out = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        let now = ((last.time_unix_s - 1_577_836_800) / self.needs.step_s) as usize;
        for (key, truth) in self.needs.gives.iter().zip(&self.truth[now + 1]) {
            let is_there = last.require(key)?.device().is_cuda();
            self.came[usize::from(!is_there)].fetch_add(1, Relaxed);
            out.insert(key.clone(), truth.clone())?;
            for frame in history.iter().filter(|_| self.shown.is_some()) {
                let bits = frame
                    .require(key)?
                    .flatten_all()?
                    .to_vec1::<f32>()?
                    .iter()
                    .map(|v| v.to_bits())
                    .collect::<Vec<u32>>();
                self.shown.iter().for_each(|shown| shown.lock().unwrap().push(bits.clone()));
            }
        }
        Ok(out)
    }

    fn tolerance(&self) -> f64 {
        self.tolerance
    }

    fn device(&self) -> &Device {
        &self.device
    }
}

/// A file of one variable of two levels.
struct Memory {
    schema: Schema,
    values: Vec<Values>,
}

impl Source for Memory {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> residuum::Result<Values> {
        let inner: u64 = self.schema.variables[variable].shape.iter().skip(1).product();
        let range = (region[0].start * inner) as usize..(region[0].end * inner) as usize;
        Ok(match &self.values[variable] {
            Values::F32(v) => Values::F32(v[range].to_vec()),
            Values::F64(v) => Values::F64(v[range].to_vec()),
            _ => unreachable!("no other types"),
        })
    }
}

/// Fields with noise by step and level, and without.
fn fields() -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut state = 7u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let (rows, columns) = SHAPE;
    let clean: Vec<Vec<f32>> = (0..STEPS * LEVELS.len())
        .map(|i| (0..rows * columns).map(|k| (280 - i % 2) as f32 + (k % columns) as f32 * 0.1 + noise()).collect())
        .collect();
    (clean.iter().flatten().map(|v| v + 0.05 * noise()).collect(), clean)
}

fn grid() -> Grid {
    let lat: Vec<f64> = (0..SHAPE.0).map(|i| 80.0 - 4.0 * i as f64).collect();
    let lon: Vec<f64> = (0..SHAPE.1).map(|j| 7.5 * j as f64).collect();
    Grid::new(lat, lon).unwrap()
}

fn source(values: Vec<f32>) -> Memory {
    let lens = [STEPS, LEVELS.len(), SHAPE.0, SHAPE.1];
    let names = ["time", "level", "lat", "lon"];
    let dimension = |k: usize| Dimension { path: format!("/{}", names[k]), len: lens[k] as u64, unlimited: false };
    let variable = |name: &str, dtype, axes: &[u32], units: &str| Variable {
        path: format!("/{name}"),
        dtype,
        shape: axes.iter().map(|&k| lens[k as usize] as u64).collect(),
        dimensions: axes.to_vec(),
        attributes: vec![Attribute { name: "units".into(), value: AttributeValue::Text(units.into()) }],
        chunks: None,
    };
    let variables = vec![
        variable("time", DType::F64, &[0], "hours since 2020-01-01"),
        variable("level", DType::F64, &[1], "hPa"),
        variable("lat", DType::F64, &[2], "degrees_north"),
        variable("lon", DType::F64, &[3], "degrees_east"),
        variable("t", DType::F32, &[0, 1, 2, 3], "K"),
    ];
    let grid = grid();
    let values = vec![
        Values::F64((0..STEPS).map(|k| 6.0 * k as f64).collect()),
        Values::F64(LEVELS.map(f64::from).to_vec()),
        Values::F64(grid.lat.to_vec()),
        Values::F64(grid.lon.to_vec()),
        Values::F32(values),
    ];
    let groups = vec![Group { path: "/".into(), attributes: vec![] }];
    let schema = Schema { format: Format::NetCdf4, groups, dimensions: (0..4).map(dimension).collect(), variables };
    Memory { schema, values }
}

/// What `work` has the driver do.
fn counted<R>(work: impl FnOnce() -> R) -> (R, HashMap<String, u64>) {
    profiler_start().unwrap();
    let result = work();
    profiler_stop().unwrap();
    let report = std::fs::read_to_string(std::env::var("CUEMU_REPORT").unwrap()).unwrap();
    let counters = report.lines().last().unwrap().split_whitespace().filter_map(|c| c.split_once('='));
    (result, counters.map(|(name, n)| (name.to_string(), n.parse().unwrap())).collect())
}

/// Forecasts that a model leaves in the GPU's memory are read there, and what is decoded is put there for it.
#[test]
fn forecasts_stay_on_the_gpu() {
    let device = Device::new_cuda_with_stream(0).unwrap();
    let (values, clean) = fields();
    let n_bytes = 4 * values.len() as u64;
    // What is verified comes to the host.
    let config = Config::new(Bound::abs(0.02)).with_verify(false);
    // All steps in a tile, and tiles of one step, which look back on those before.
    for (tolerance, tile_bytes) in [(0.0, 32 << 20), (1e-5, 32 << 20), (0.0, 1 << 14), (1e-5, 1 << 14)] {
        let config = config.clone().with_tile_bytes(tile_bytes);
        let came: Arc<[AtomicUsize; 2]> = Arc::default();
        let shown: Arc<Mutex<Vec<Vec<u32>>>> = Arc::default();
        let model = |device: &Device, is_shown: bool| {
            let (gives, statics, forcings) = (LEVELS.map(|level| Key::level("t", level)).to_vec(), vec![], vec![]);
            let grid = GridNeed::Exact(grid());
            let needs = Needs { history: 2, step_s: 6 * 3600, fields: gives.clone(), statics, forcings, gives, grid };
            let field = |v: &Vec<f32>| Tensor::from_vec(v.clone(), SHAPE, device).unwrap();
            let truth = clean.chunks(2).map(|levels| [field(&levels[0]), field(&levels[1])]).collect();
            let (device, came, shown) = (device.clone(), came.clone(), is_shown.then(|| shown.clone()));
            let model = Model::Forecaster(Box::new(Oracle { needs, device, tolerance, truth, came, shown }));
            let (name, digest, made_on) = ("oracle".into(), vec![1; 32], "a test".into());
            Forecasts { tolerance, name, digest, model, made_on, machine: Machine::default() }
        };
        let forecasts = |device: &Device| model(device, false);
        // The GPU that codes is candle's; the model is there too, or on the host.
        let there = || Machine::of_gpu(Gpu::of_candle(&device).unwrap()).unwrap();
        let coded_there = |model: &Device| forecasts(model).on(there());
        let archive = |forecasts: &Forecasts| {
            let mut source = source(values.clone());
            let done = series::compress(&mut source, &config, forecasts, None, &mut |_| ()).unwrap();
            assert!(done[&4].plan.forecast.is_some(), "no forecast is of use");
            assert!(forecasts.machine.notes().is_empty(), "{:?}", forecasts.machine.notes());
            compress_rest(&mut source, vec![], &config, &mut Cpu, Before { done, weights: None }, &mut |_| ()).unwrap()
        };
        let fields_that_came = || [came[0].swap(0, Relaxed), came[1].swap(0, Relaxed)];
        let expected = archive(&forecasts(&Device::Cpu));
        let [_, n_host] = fields_that_came();
        assert!(n_host > 0);
        let restored = |forecasts: Forecasts| {
            let mut archive = Archive::open(Cursor::new(&expected[..])).unwrap();
            archive.set_forecasts(forecasts).unwrap();
            archive.read_all(4).unwrap()
        };
        let wanted = restored(forecasts(&Device::Cpu));
        // What the model sees is the same wherever it is: in the encoder's runs, in the decoder.
        let all_shown = |on: &dyn Fn() -> Forecasts| {
            assert!(archive(&on()) == expected);
            let of_encoder = std::mem::take(&mut *shown.lock().unwrap());
            assert!(restored(on()).as_bytes() == wanted.as_bytes());
            (of_encoder, std::mem::take(&mut *shown.lock().unwrap()))
        };
        let on_host = all_shown(&|| model(&Device::Cpu, true));
        let on_gpu = all_shown(&|| model(&device, true).on(there()));
        assert!(on_host == on_gpu, "the model sees other values");
        let Values::F32(decoded) = &wanted else { panic!("another type") };
        let pixels = SHAPE.0 * SHAPE.1;
        let image = |step: usize, level: usize| &decoded[(2 * step + level) * pixels..][..pixels];
        for (k, bits) in on_gpu.1.iter().enumerate() {
            // By step, level, frame of the history.
            let expected = image(k / 4 + k % 2, k / 2 % 2);
            assert!(bits.iter().zip(expected).all(|(a, b)| *a == b.to_bits()), "field {k}");
        }
        assert_eq!(on_gpu.1.len(), 4 * (STEPS - 2));
        fields_that_came();
        if tile_bytes < 1 << 20 {
            continue;
        }
        // Bytes of the forecasts of a run, and of what is decoded in it.
        let a_step = 4 * (LEVELS.len() * pixels) as u64;
        let (n_forecasts, n_seen) = (a_step * (STEPS as u64 - 2), a_step * STEPS as u64);
        let mut copied = vec![];
        for model in [&Device::Cpu, &device] {
            let forecasts = coded_there(model);
            let (got, c) = counted(|| archive(&forecasts));
            assert!(got == expected, "{tolerance} {model:?}");
            println!("{tolerance} {model:?}: {c:?}, values of {n_bytes} bytes, archive of {}", got.len());
            copied.extend([c["htod"], c["dtoh"]]);
            let came = fields_that_came();
            assert_eq!(came, if model.is_cpu() { [0, n_host] } else { [n_host, 0] }, "where fields came");
            let forecasts = coded_there(model);
            let (values, c) = counted(|| restored(forecasts));
            println!("{tolerance} {model:?}, decoding: {c:?}");
            assert!(values.as_bytes() == wanted.as_bytes());
            copied.extend([c["htod"], c["dtoh"]]);
            fields_that_came();
        }
        let [
            in_host,
            out_host,
            decoding_in_host,
            decoding_out_host,
            in_gpu,
            out_gpu,
            decoding_in_gpu,
            decoding_out_gpu,
        ] = copied[..]
        else {
            unreachable!("two numbers for each")
        };
        // Nothing of forecasts goes in, nothing that is decoded comes out for the model: in the run that fits, in the one that counts, in the decoder's.
        assert_eq!(in_host - in_gpu, 2 * n_forecasts);
        assert_eq!(out_host - out_gpu, 2 * n_seen);
        assert_eq!([decoding_in_host - decoding_in_gpu, decoding_out_host - decoding_out_gpu], [n_forecasts, n_seen]);
        // What does is the values, for the tile with forecasts and the one without, and those two.
        let (tables, bitmaps) = (16 << 10, n_bytes / 16);
        assert!(in_gpu <= 2 * n_bytes + tables && out_gpu <= 3 * expected.len() as u64 + bitmaps + tables);
        assert!(decoding_out_gpu <= n_bytes + 4096);
    }
}

/// The machine of a choice of device: candle's GPU, for models too; or why there is none.
#[test]
fn a_machine_is_opened_for_a_choice() {
    for choice in [Choice::Auto, Choice::Cuda(0)] {
        let (machine, why) = Machine::open(choice).unwrap();
        assert!(machine.options().device.is_cuda() && why.is_none(), "{why:?}");
    }
    assert!(Machine::open(Choice::Cpu).unwrap().0.options().device.is_cpu());
    assert_eq!(Machine::open(Choice::Cuda(7)).unwrap_err().kind(), Kind::Device);
    // What candle's driver refuses is the GPU's fault, not the input's.
    let device = Device::new_cuda(0).unwrap();
    let too_large = Tensor::zeros(1 << 44, candle_core::DType::F32, &device).unwrap_err();
    assert_eq!(residuum::Error::from(too_large).kind(), Kind::Device);
}
