//! `residuum evaluate`.

use super::args::{Cli, Command, EvaluateArgs, StepArgs};
use super::{note, print, set_threads};
use crate::error::{Context, Error, Result};
use crate::evaluate::method::{Worker, peak_bytes};
use crate::evaluate::run::{Setting, results_in};
use crate::evaluate::suite::{Kind, Suite};
use crate::evaluate::{report, run as cells};
use crate::stages;
use clap::Parser;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Runs what is left of a suite, then writes its report.
pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    set_threads(args.threads)?;
    let suite = Suite::read(&args.suite)?;
    for method in &suite.method {
        if let Kind::Residuum(options) = method.kind()? {
            check(options).context(|| format!("{}: method {:?}", args.suite.display(), method.name))?;
        }
    }
    let folder = &args.output;
    std::fs::create_dir_all(folder).context(|| folder.display().to_string())?;
    let command = format!("residuum evaluate {}", args.suite.file_name().unwrap_or_default().to_string_lossy());
    let worker = Worker {
        program: std::env::current_exe()?,
        folder: args.suite.parent().unwrap_or(Path::new("")).to_path_buf(),
        threads: args.threads,
    };
    let setting =
        Setting { suite_path: &args.suite, output: folder, command: &command, worker, retry_failed: args.retry_failed };
    let place = || results_in(folder).display().to_string();
    let summary = cells(&suite, &setting, &mut |m| note(&format!("failed: {m}"))).context(place)?;
    report::write(&suite, folder).context(place)?;
    print(&format!(
        "{} cells done, {} failed, {} known before; {}\n",
        summary.done,
        summary.failed,
        summary.known,
        folder.join("report.html").display()
    ))?;
    Ok(if summary.done == 0 && summary.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether these are options of `residuum compress`, beside input, output and bound.
fn check(options: &[String]) -> Result<()> {
    let start = ["residuum", "compress", "input.nc", "-o", "archive", "--abs", "1"].map(String::from);
    let cli = Cli::try_parse_from(start.iter().chain(options));
    let cli = cli.map_err(|e| Error::usage(e.to_string().lines().next().unwrap_or_default().to_string()))?;
    match cli.command {
        Command::Compress(args) if args.inputs.len() == 1 && args.var.is_empty() && args.exclude.is_empty() => Ok(()),
        _ => Err(Error::usage("a method has options only: inputs and variables are the datasets' part")),
    }
}

/// One direction of a method, in this process; what it took goes to a file.
pub fn step(args: &StepArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let code = match args.arguments.first().map(String::as_str) {
        Some("peer") => peer(&args.arguments[1..])?,
        _ => super::run(Cli::try_parse_from(&args.arguments).map_err(|e| Error::usage(e.to_string()))?)?,
    };
    let taken = stages::seconds().into_iter().filter(|s| s.1 > 0.0);
    let taken: Map<String, Value> = taken.map(|(stage, seconds)| (stage.name().to_string(), json!(seconds))).collect();
    let report = json!({
        "seconds": start.elapsed().as_secs_f64(),
        "stages": taken,
        "peak_bytes": peak_bytes("self"),
    });
    std::fs::write(&args.report, report.to_string()).context(|| args.report.display().to_string())?;
    Ok(code)
}

#[cfg(feature = "peers")]
fn peer(arguments: &[String]) -> Result<ExitCode> {
    use crate::evaluate::peers::Peer;
    use crate::field::DType;
    let bad = || Error::usage("peer NAME compress|decompress FROM TO SHAPE f32|f64 BOUND");
    let [name, direction, from, to, shape, dtype, absolute] = arguments else { return Err(bad()) };
    let peer: Peer = name.parse()?;
    let shape = shape.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| bad())?;
    let dtype = if dtype == "f32" { DType::F32 } else { DType::F64 };
    let absolute: f64 = absolute.parse().map_err(|_| bad())?;
    match direction.as_str() {
        "compress" => peer.compress(from.as_ref(), to.as_ref(), &shape, dtype, absolute)?,
        "decompress" => peer.decompress(from.as_ref(), to.as_ref(), &shape, dtype, absolute)?,
        _ => return Err(bad()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "peers"))]
fn peer(arguments: &[String]) -> Result<ExitCode> {
    let name = arguments.first().map_or("a peer", String::as_str);
    Err(Error::unsupported(format!("{name} is built in with feature `peers` only")))
}
