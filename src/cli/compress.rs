//! `residuum compress`.

use super::args::CompressArgs;
use super::input::{self, SelectedSource};
use super::output::{self, Output};
use super::progress::Bar;
use super::report::{SIZE_HEADINGS, VariableReport, total_cells};
use super::table::{self, Table};
use super::{coder, note, note_coder, print, print_error, set_threads};
use crate::bound::Bound;
use crate::compress::{Before, Progress, compress_rest};
use crate::config::{Config, PredictorChoice, UNWRITTEN};
use crate::container::Archive;
use crate::device::Coder;
use crate::error::{Context, Error, Result};
use crate::io::unpack::UnpackedSource;
use crate::io::{OpenOptions, Schema, Source, Variable};
use crate::plan::Treatment;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Compresses each input to its archive; goes on to the next after an error.
pub fn run(args: &CompressArgs) -> Result<ExitCode> {
    let config = config(args)?;
    let outputs = outputs(args)?;
    set_threads(args.common.threads)?;
    let mut coder = coder(args.device)?;
    let others = if config.bounds.is_empty() { HashSet::new() } else { names_of_several(args) };
    let mut status = ExitCode::SUCCESS;
    let mut failed = false;
    // No output may take the place of anything that the call reads, be it before or after.
    let read: Vec<&Path> = args.inputs.iter().chain(&args.bounds).chain(&args.forecast).map(PathBuf::as_path).collect();
    for (input, output) in args.inputs.iter().zip(&outputs) {
        let code = output::check(output, &read, args.force)
            .and_then(|()| compress(input, output, &config, &others, args, &mut *coder));
        let code = code.unwrap_or_else(|e| print_error(&e));
        // The first failure decides the status.
        if !failed && code != ExitCode::SUCCESS {
            (status, failed) = (code, true);
        }
    }
    note_coder(&*coder);
    Ok(status)
}

/// Names of the variables of all inputs, if there are several: a bound may be meant for one that only some have. An input that can not be opened is
/// found out in its turn.
fn names_of_several(args: &CompressArgs) -> HashSet<String> {
    let inputs = args.inputs.iter().filter(|i| args.inputs.len() > 1 && !input::is_stream(i));
    let opened = inputs.filter_map(|i| input::open(i, &options(args)).ok());
    opened.flat_map(|o| o.source.schema().variables.iter().map(|v| v.name().to_string()).collect::<Vec<_>>()).collect()
}

/// How inputs that do not describe themselves are read.
fn options(args: &CompressArgs) -> OpenOptions {
    OpenOptions { shape: args.shape.clone(), dtype: args.dtype }
}

/// The variables that the model of `--forecast` forecasts, compressed beside its forecasts.
#[cfg(feature = "forecast")]
fn forecast(
    source: &mut dyn Source,
    config: &Config,
    args: &CompressArgs,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Before> {
    use crate::forecast::{advection, series};
    let Some(weights) = &args.forecast else { return Ok(Before::default()) };
    let needs_none = weights.as_os_str() == advection::NAME;
    let machine = super::machine(args.device)?;
    let mut forecasts = if needs_none {
        let no_winds = || Error::input("no level of the file has both winds, u and v, on a grid and at times");
        series::advection(source).and_then(|f| f.ok_or_else(no_winds)).context(|| "--forecast")?.on(machine)
    } else {
        series::Forecasts::open_on(weights, machine)?
    };
    forecasts.tolerance = args.tolerance.unwrap_or(forecasts.tolerance);
    let done = series::compress(source, config, &forecasts, args.keyframe, progress).context(|| "--forecast")?;
    forecasts.machine.notes().iter().for_each(|n| note(&format!("note: {n}")));
    // Weights that are of no use are not worth their bytes.
    let is_used = done.values().any(|d| d.plan.forecast.is_some());
    let embeds = args.embed_weights && is_used && !needs_none;
    let weights = embeds.then(|| std::fs::read(weights).context(|| weights.display())).transpose()?;
    if !is_used {
        note("note: --forecast: the archive is not smaller with forecasts: it is made without");
    }
    Ok(Before { done, weights })
}

#[cfg(not(feature = "forecast"))]
fn forecast(_: &mut dyn Source, _: &Config, args: &CompressArgs, _: &mut dyn FnMut(Progress<'_>)) -> Result<Before> {
    match &args.forecast {
        Some(_) => Err(Error::unsupported("--forecast: this build has no models")),
        None => Ok(Before::default()),
    }
}

/// What was asked, on the command line and in the bounds file.
fn config(args: &CompressArgs) -> Result<Config> {
    let (in_file, of_file) = match &args.bounds {
        Some(path) => Config::read_bounds(path)?,
        None => Default::default(),
    };
    // Where each variable that is wanted has a bound of its own, no other is needed: what comes with them is kept exactly.
    let has_own = |name: &String| {
        let mut named = of_file.keys().chain(args.bound.iter().map(|(n, _)| n));
        named.any(|n| n.trim_start_matches('/') == name.trim_start_matches('/'))
    };
    let is_complete = !args.var.is_empty() && args.var.iter().all(has_own);
    let bound = args.default_bound.get().or(in_file).or(is_complete.then_some(Bound::LOSSLESS)).ok_or_else(|| {
        Error::usage("a bound is needed: one of --abs X, --rel X, --pw-rel X, --psnr DB, --lossless, or `bound` in a --bounds file")
    })?;
    bound.check()?;
    if args.predictor == PredictorChoice::Forecast && args.forecast.is_none() {
        return Err(Error::usage("--predictor forecast needs a model: --forecast WEIGHTS"));
    }
    let mut config = Config::new(bound)
        .with_predictor(args.predictor)
        .with_effort(args.effort)
        .with_tile_bytes(args.tile_mib << 20)
        .with_verify(!args.no_verify);
    for (name, bound) in of_file.iter().chain(args.bound.iter().map(|(name, bound)| (name, bound))) {
        config.bounds.insert(name.trim_start_matches('/').to_string(), *bound);
    }
    Ok(config)
}

/// Where each input goes.
fn outputs(args: &CompressArgs) -> Result<Vec<PathBuf>> {
    let pipe = || PathBuf::from("-");
    let several = args.inputs.len() > 1;
    if let Some(output) = &args.output {
        output::check_folder(output)?;
    }
    if several && args.inputs.iter().any(|i| input::is_pipe(i)) {
        return Err(Error::usage("standard input goes alone, without other inputs"));
    }
    let outputs = args.inputs.iter().map(|input| match &args.output {
        None if input::is_pipe(input) => Ok(pipe()),
        None if input::is_stream(input) => Err(no_name(input)),
        None => Ok(input.with_file_name(archive_name(input)?)),
        Some(folder) if folder.is_dir() && input::is_pipe(input) => Ok(folder.join("data.rsd")),
        Some(folder) if folder.is_dir() => Ok(folder.join(archive_name(input)?)),
        Some(output) if several => Err(Error::usage(format!(
            "{}: each input gets an archive of its own: -o must be a folder that is there",
            output.display()
        ))),
        Some(output) => Ok(output.clone()),
    });
    let outputs: Vec<PathBuf> = outputs.collect::<Result<_>>()?;
    for (i, output) in outputs.iter().enumerate() {
        if outputs[..i].contains(output) {
            return Err(Error::usage(format!("{}: several inputs would go there", output.display())));
        }
    }
    Ok(outputs)
}

/// `era5.nc.rsd` for `era5.nc`.
fn archive_name(input: &Path) -> Result<std::ffi::OsString> {
    let mut name = input.file_name().ok_or_else(|| no_name(input))?.to_os_string();
    name.push(".rsd");
    Ok(name)
}

fn no_name(input: &Path) -> Error {
    Error::usage(format!("{}: name the archive with -o", input.display()))
}

fn compress(
    path: &Path,
    target: &Path,
    config: &Config,
    others: &HashSet<String>,
    args: &CompressArgs,
    coder: &mut dyn Coder,
) -> Result<ExitCode> {
    let name = || input::name_of(path);
    let opened = input::open(path, &options(args)).context(name)?;
    let mut config = config.clone();
    let mut source = prepare(opened.source, &mut config, others, args).context(name)?;
    config.check_names(source.schema()).context(name)?;
    let warn = |source: &mut dyn Source| {
        source.warnings().iter().for_each(|w| note(&format!("warning: {}: {w}", name())));
    };
    warn(source.as_mut());

    let mut out = Output::create(target, args.force)?;
    let mut bar = Bar::new(source.schema(), args.common.quiet);
    let buffered = BufWriter::with_capacity(1 << 20, &mut out);
    let done = forecast(&mut *source, &config, args, &mut |p| bar.step(p));
    let written =
        done.and_then(|before| compress_rest(&mut *source, buffered, &config, coder, before, &mut |p| bar.step(p)));
    let result = written.and_then(|mut buffered| Ok(buffered.flush()?));
    let (value_bytes, time) = bar.finish();
    warn(source.as_mut());
    match (result, out.failure()) {
        // Whoever read it has left: nothing to say, but the archive is not whole.
        (Err(_), Some(ErrorKind::BrokenPipe)) => return Ok(ExitCode::from(crate::Kind::Io.exit_code())),
        (Err(e), Some(_)) => return Err(e),
        (result, _) => result.context(name)?,
    }
    let archive = match out.reopen()? {
        // What can not be opened shall not get a name.
        Some(file) => Some(Archive::open(BufReader::new(file)).context(|| target.display().to_string())?),
        None => None,
    };
    let table = archive.as_ref().map(|archive| summary(archive, path, target)).transpose()?;
    out.finish()?;

    if !args.common.quiet {
        let speed = table::speed(value_bytes, time);
        match table {
            Some(table) => print(&format!("{table}{speed}\n"))?,
            None => note(&format!("{} -> {}: {}, {speed}", name(), output::name_of(target), table::bytes(value_bytes))),
        }
        note_packed(source.schema(), &config, &name());
        note_exact(source.schema(), archive.as_ref(), &config, &name());
    }
    Ok(ExitCode::SUCCESS)
}

/// The source as it is to be compressed.
fn prepare(
    source: Box<dyn Source>,
    config: &mut Config,
    others: &HashSet<String>,
    args: &CompressArgs,
) -> Result<Box<dyn Source>> {
    let source = if args.unpack { input::unpacked(source)? } else { source };
    let all: Vec<String> = source.schema().variables.iter().map(|v| v.name().to_string()).collect();
    let is_whole = args.var.is_empty() && args.exclude.is_empty() && source.unreadable().is_empty();
    let source: Box<dyn Source> =
        if is_whole { source } else { Box::new(SelectedSource::new(source, &args.var, &args.exclude)?) };
    // A bounds file may serve many calls and inputs: bounds of variables that are left out, or in another input, are no misspelt names.
    let is_elsewhere = |name: &String| {
        let is_here = source.schema().variables.iter().any(|v| v.name() == name);
        !is_here && (all.contains(name) || others.contains(name))
    };
    config.bounds.retain(|name, _| !is_elsewhere(name));
    Ok(source)
}

fn summary(archive: &Archive<BufReader<File>>, input: &Path, target: &Path) -> Result<String> {
    let variables = VariableReport::all(archive)?;
    let mut table = Table::new(&["variable", "type", "shape", "bound"], &SIZE_HEADINGS);
    for v in &variables {
        let cells = [v.name.clone(), v.dtype.to_string(), table::shape(&v.shape), v.bound.clone()];
        table.row(cells.into_iter().chain(v.size_cells()).collect());
    }
    let total = ["total", "", "", ""].map(String::from);
    table.row(total.into_iter().chain(total_cells(&variables, archive.file_len())).collect());
    let files = format!("{} -> {}", input::name_of(input), output::name_of(target));
    Ok(format!("{table}{files}, "))
}

/// Packed variables are integers and kept exactly, and the bound of scaled floats is that of the numbers before scaling: seldom what
/// a bound was given for.
fn note_packed(schema: &Schema, config: &Config, name: &str) {
    let coordinates = schema.coordinates();
    let names = |is_meant: &dyn Fn(&Variable) -> bool| {
        let variables = schema.variables.iter().zip(&coordinates);
        let meant = variables.filter(|&(v, c)| !c && is_meant(v) && !config.bound_of(v.name()).is_lossless());
        meant.map(|(v, _)| v.name()).collect::<Vec<_>>().join(", ")
    };
    let scaled = names(&|v| {
        let differs = |name: &str, from: f64| v.attribute(name).is_some_and(|a| a.floats() != [from]);
        v.dtype.is_float() && (differs("scale_factor", 1.0) || differs("add_offset", 0.0))
    });
    if !scaled.is_empty() {
        note(&format!(
            "note: {name}: the bound is that of the numbers as stored, before scale_factor and add_offset ({scaled})"
        ));
    }
    let names = names(&UnpackedSource::is_packed);
    if !names.is_empty() {
        note(&format!(
            "note: {name}: packed integers are kept exactly ({names}); --unpack compresses them within the bound"
        ));
    }
}

/// Says which variables were kept exactly although a bound was named for them, and why.
fn note_exact(schema: &Schema, archive: Option<&Archive<BufReader<File>>>, config: &Config, name: &str) {
    let coordinates = schema.coordinates();
    for (i, v) in schema.variables.iter().enumerate() {
        let is_named = config.bounds.contains_key(v.name()) && !config.bound_of(v.name()).is_lossless();
        // What stands where nothing was written shows in the values, which the archive tells of.
        let stored = archive.and_then(|a| a.variable(i).ok());
        let is_exact = || stored.is_some_and(|s| s.plan.treatment == Treatment::Exact);
        let has_unwritten = || schema.unwritten_bits(i).is_some_and(|u| schema.fill_bits(i) != Some(u)) && is_exact();
        let reason = config.why_exact(v, coordinates[i]).or_else(|| has_unwritten().then_some(UNWRITTEN));
        if let Some(reason) = reason.filter(|_| is_named && v.dtype.is_float()) {
            note(&format!("note: {name}: variable {:?} is kept exactly, whatever its bound: {reason}", v.name()));
        }
    }
}
