//! How far forecasts of a model differ between ways of running it.

use super::super::args::DoctorArgs;
use super::super::{input, print};
use crate::error::{Context, Error, Kind, Result};
use crate::forecast::series::{Forecasts, first_history};
use crate::forecast::{Frame, Options, measure, open};
use crate::io::OpenOptions;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Runs the model on the first steps of a file in every way that there is here, and prints a line each.
pub fn run(weights: &Path, file: &Path, args: &DoctorArgs) -> Result<ExitCode> {
    let forecasts = Forecasts::open(weights, &Options::default())?;
    // Kept whole: the copy of a pipe goes with it.
    let mut opened = input::open(file, &OpenOptions::default()).context(|| input::name_of(file))?;
    let history = first_history(&mut *opened.source, &forecasts.model).context(|| input::name_of(file))?;
    let tolerance = args.tolerance.unwrap_or(forecasts.tolerance);
    print(&format!("model {} on {}\n", forecasts.name, forecasts.made_on))?;
    print("largest difference in any field, as a part of the field's spread:\n")?;
    // What the archive would be made with.
    let given = measure::Given::new(&forecasts.model, &history)?;
    let start = Instant::now();
    let reference = given.run(&forecasts.model)?;
    print(&format!("  {:<28} the reference, {:.1} s\n", "f32", start.elapsed().as_secs_f64()))?;
    // One model in memory at a time.
    let is_exact = forecasts.tolerance == 0.0;
    drop(forecasts);
    let mut worst = 0f64;
    let mut compare = |way: &str, run: &(dyn Fn() -> Result<Frame> + Sync)| -> Result<()> {
        let start = Instant::now();
        let apart = measure::apart(&reference, &run().context(|| way.to_string())?)?;
        let (key, most) = apart.first().ok_or_else(|| Error::input("the model gives nothing"))?;
        let seconds = start.elapsed().as_secs_f64();
        let place = if *most > 0.0 { format!(" ({key})") } else { String::new() };
        print(&format!("  {way:<28} {most:.1e}{place}, {seconds:.1} s\n"))?;
        worst = worst.max(*most);
        Ok(())
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let one = one.map_err(|e| Error::new(Kind::Io, format!("threads: {e}")))?;
    let with = |options: &Options| given.run(&open(weights, options)?);
    compare("f32, one thread", &|| one.install(|| with(&Options::default())))?;
    if is_exact {
        print("  exact arithmetic: every CPU gives the same\n")?;
    } else {
        compare("f64, candle's functions", &|| with(&measure::f64_on_cpu()))?;
    }
    #[cfg(feature = "candle-cuda")]
    {
        let device = candle_core::Device::new_cuda(args.gpu);
        let options = Options { device: device.map_err(|e| Error::device(e.to_string()))?, ..Options::default() };
        compare(&format!("f32, GPU {}", args.gpu), &|| with(&options))?;
    }
    #[cfg(not(feature = "candle-cuda"))]
    print("  not on a GPU: this build runs models on the CPU (feature candle-cuda)\n")?;
    let is_covered = worst <= tolerance;
    print(&if is_covered {
        format!("tolerance: {tolerance:.0e}, covers all of that\n")
    } else {
        format!(
            "tolerance: {tolerance:.0e}, which does NOT cover that: compress with --tolerance {:.0e}\n",
            4.0 * worst
        )
    })?;
    Ok(if is_covered { ExitCode::SUCCESS } else { ExitCode::from(Kind::BoundViolated.exit_code()) })
}
