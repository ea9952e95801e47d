//! `residuum doctor`: what a GPU is, whether it does as the CPU does, and how fast; how far forecasts of a model differ.

#[cfg(feature = "forecast")]
mod model;
#[cfg(all(feature = "cuda", feature = "forecast"))]
mod series;

use super::args::DoctorArgs;
use super::print;
use crate::error::Result;
use std::process::ExitCode;

/// Looks at what the arguments ask for: a model, or the GPU.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    #[cfg(feature = "forecast")]
    if let (Some(weights), Some(file)) = (&args.forecast, &args.file) {
        return model::run(weights, file, args);
    }
    run_gpu(args)
}

#[cfg(not(feature = "cuda"))]
fn run_gpu(_: &DoctorArgs) -> Result<ExitCode> {
    print(&format!("residuum {}, built without the feature cuda\n", env!("CARGO_PKG_VERSION")))?;
    Err(crate::Error::device("there is nothing to look at"))
}

#[cfg(feature = "cuda")]
fn run_gpu(args: &DoctorArgs) -> Result<ExitCode> {
    use crate::device::Gpu;
    print(&format!("residuum {} on {}\n", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH))?;
    let mut gpu = Gpu::open(args.gpu)?;
    let (text, peak) = gpu.describe()?;
    print(&format!("GPU {}: {text}\n", args.gpu))?;
    let failures = cuda::parity(&mut gpu)?;
    #[cfg(feature = "forecast")]
    let failures = failures + series::parity(args.gpu)?;
    if gpu.is_emulated() {
        print("no times: this is the software driver of the tests\n")?;
    } else {
        cuda::times(&mut gpu, args.mib, peak)?;
    }
    print(&format!("memory held: {:.1} MB\n", gpu.workspace_bytes() as f64 / 1e6))?;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(crate::Kind::BoundViolated.exit_code()) })
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::print;
    use crate::bound::Bound;
    use crate::config::{Config, Effort, PredictorChoice};
    use crate::device::cudarc::driver::DeviceRepr;
    use crate::device::{During, Gpu};
    use crate::error::Result;
    use crate::field::Field;
    use crate::predict::fitted::Rows;
    use std::time::Instant;

    const KINDS: [&str; 5] = ["smooth", "noise", "special", "spikes", "signs"];

    /// Values of a kind, from a small generator (SplitMix64).
    fn content<T: Rows>(kind: &str, shape: &[usize]) -> Vec<T> {
        let mut state = 7u64;
        let mut unit = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 11) as f64 / (1u64 << 53) as f64
        };
        let nx = shape[shape.len() - 1];
        let value = |i: usize| {
            let (x, y) = ((i % nx) as f64, (i / nx) as f64);
            let smooth = 250.0 + 30.0 * (x * 0.013).sin() + 10.0 * (y * 0.031 + x * 0.005).cos() + 0.01 * unit();
            match kind {
                "noise" => unit() * 100.0,
                "special" if i % nx > nx / 2 => f64::NAN,
                "special" if unit() < 0.01 => -999.0,
                "spikes" if unit() < 0.02 => 3e38 * (unit() - 0.5),
                "signs" => (unit() - 0.5) * 10f64.powf(unit() * 8.0 - 4.0),
                _ => smooth,
            }
        };
        (0..shape.iter().product()).map(value).map(T::from_f64).collect()
    }

    /// Archives and values of many fields, compared byte for byte with the CPU's; gives the number that differ.
    pub fn parity(gpu: &mut Gpu) -> Result<u32> {
        let shapes: [&[usize]; 5] = [&[100_003], &[301, 400], &[9, 91, 180], &[3, 4, 61, 90], &[2, 3, 5, 31, 40]];
        let bounds = [Bound::abs(0.01), Bound::rel(1e-3), Bound::rel(1e-5), Bound::pw_rel(1e-3), Bound::psnr(70.0)];
        // The effort balanced tries the fitted predictor and, on fields as small as these, the others too.
        let predictors = [
            (PredictorChoice::Auto, Effort::Fast),
            (PredictorChoice::Auto, Effort::Balanced),
            (PredictorChoice::None, Effort::Fast),
            (PredictorChoice::Lorenzo, Effort::Fast),
            (PredictorChoice::Interp, Effort::Fast),
            (PredictorChoice::Fitted, Effort::Balanced),
            (PredictorChoice::Fitted, Effort::Best),
        ];
        let (mut n, mut failures) = (0, 0);
        for (i, shape) in shapes.into_iter().enumerate() {
            for (k, kind) in KINDS.into_iter().enumerate() {
                for (b, bound) in bounds.into_iter().enumerate() {
                    let (predictor, effort) = predictors[(i + k + b) % predictors.len()];
                    let config = Config::new(bound).with_predictor(predictor).with_effort(effort);
                    let good = if (i + b) % 2 == 0 {
                        same::<f32>(gpu, kind, shape, &config)?
                    } else {
                        same::<f64>(gpu, kind, shape, &config)?
                    };
                    n += 1;
                    if !good {
                        failures += 1;
                        print(&format!("DIFFERS: {kind} {shape:?} {bound} {predictor:?}\n"))?;
                    }
                }
            }
        }
        print(&format!("parity with the CPU: {} of {n} fields byte for byte, both ways\n", n - failures))?;
        Ok(failures)
    }

    fn same<T: Rows + DeviceRepr>(gpu: &mut Gpu, kind: &str, shape: &[usize], config: &Config) -> Result<bool> {
        let values = content::<T>(kind, shape);
        let fill = (kind == "special").then(|| T::from_f64(-999.0));
        let field = Field::new(&values, shape)?;
        let expected = crate::compress(&fill.map_or(field, |f| field.with_fill(f)), config)?;
        let stream = gpu.stream().clone();
        let on_device = stream.clone_htod(&values).during("copying to the GPU")?;
        let archive = gpu.compress(&on_device, shape, fill, config)?;
        let (restored, _) = gpu.decompress::<T>(&expected)?;
        let restored = stream.clone_dtoh(&restored).during("copying from the GPU")?;
        let (wanted, _) = crate::decompress::<T>(&expected)?;
        let bits = |v: &[T]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        Ok(archive == expected && bits(&restored) == bits(&wanted))
    }

    /// Speed of whole calls, and of each kernel.
    pub fn times(gpu: &mut Gpu, mib: u64, peak: f64) -> Result<()> {
        let rows = (mib as usize) << 20 >> 2 >> 10;
        let shape = [rows.div_ceil(512), 512, 1024];
        let values = content::<f32>("smooth", &shape);
        let gigabytes = (values.len() * 4) as f64 / 1e9;
        let stream = gpu.stream().clone();
        let on_device = stream.clone_htod(&values).during("copying to the GPU")?;
        print(&format!(
            "times for {shape:?} of f32, {gigabytes:.2} GB in device memory; peak bandwidth {peak:.0} GB/s\n"
        ))?;
        for (predictor, effort, bound) in [
            (PredictorChoice::Lorenzo, Effort::Fast, Bound::rel(1e-3)),
            (PredictorChoice::Interp, Effort::Fast, Bound::rel(1e-3)),
            (PredictorChoice::Auto, Effort::Fast, Bound::rel(1e-4)),
            (PredictorChoice::Auto, Effort::Balanced, Bound::rel(1e-3)),
            (PredictorChoice::Auto, Effort::Best, Bound::rel(1e-3)),
        ] {
            let config = Config::new(bound).with_predictor(predictor).with_effort(effort);
            // The first call takes memory and loads kernels.
            let archive = gpu.compress(&on_device, &shape, None, &config)?;
            gpu.decompress::<f32>(&archive)?;
            let start = Instant::now();
            gpu.compress(&on_device, &shape, None, &config)?;
            let compress = start.elapsed().as_secs_f64();
            let start = Instant::now();
            gpu.decompress::<f32>(&archive)?;
            let decompress = start.elapsed().as_secs_f64();
            print(&format!(
                "{predictor:?} {effort:?} {bound}: ratio {:.1}, compression {:.1} GB/s, decompression {:.1} GB/s\n",
                gigabytes * 1e9 / archive.len() as f64,
                gigabytes / compress,
                gigabytes / decompress
            ))?;
            gpu.start_timing();
            gpu.compress(&on_device, &shape, None, &config)?;
            gpu.decompress::<f32>(&archive)?;
            for (kernel, n, ms) in gpu.stop_timing()? {
                let speed = gigabytes / (ms / 1e3);
                print(&format!("  {kernel:<28} {n:>5} launches {ms:>9.3} ms {speed:>8.0} GB/s of values\n"))?;
            }
        }
        Ok(())
    }
}
