//! The command line: arguments in, files, tables and an exit status out.
//!
//! Only this module prints. Reports go to standard output, progress, notes and errors to standard error; an error is one line
//! that names the file, and its [`Kind`](crate::Kind) decides the exit status.

mod args;
mod compress;
mod decompress;
mod doctor;
mod evaluate;
mod help;
mod input;
mod inspect;
mod output;
mod progress;
mod report;
mod suggest;
mod table;
mod verify;
#[cfg(feature = "forecast")]
mod weights;

use crate::device::Choice;
use crate::error::{Error, Kind, Result};
use args::{Cli, Command};
use clap::Parser;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Runs the command that the process' arguments name.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(e) => print_error(&e),
    }
}

/// Runs a command.
fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Compress(args) => compress::run(&args),
        Command::Decompress(args) => decompress::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        #[cfg(feature = "forecast")]
        Command::Weights(args) => weights::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::EvaluateStep(args) => evaluate::step(&args),
        Command::Suggest(args) => suggest::run(&args),
    }
}

/// Says what went wrong, in one line, and gives the exit status for it.
fn print_error(e: &Error) -> ExitCode {
    // Parsers of other crates draw their messages over several lines.
    let message = e.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
    if !message.is_empty() {
        note(&format!("error: {message}"));
    }
    ExitCode::from(e.kind().exit_code())
}

/// A line on standard error. If that is closed, there is nobody to tell. Names come out of files: what would steer a terminal is shown as `?`.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", line.replace(char::is_control, "?"));
}

/// Text on standard output. A reader who has seen enough (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::new(Kind::Io, format!("standard output: {e}"))),
        _ => Ok(()),
    }
}

/// The coder for a device, and a line where there is something to say of it.
fn coder(choice: Choice) -> Result<Box<dyn crate::device::Coder>> {
    let (coder, why) = crate::device::open(choice)?;
    why.iter().for_each(|why| note(&format!("note: {why}")));
    Ok(coder)
}

/// The machine of a choice of device for what is coded beside forecasts, and a line where it is not the GPU that the coder has.
#[cfg(feature = "forecast")]
fn machine(choice: Choice) -> Result<crate::forecast::series::Machine> {
    let (machine, why) = crate::forecast::series::Machine::open(choice)?;
    // Where there is no GPU at all the coder has said so.
    if let Some(why) = why
        && crate::device::gpu(choice)?.0.is_some()
    {
        note(&format!("note: beside forecasts {why}"));
    }
    Ok(machine)
}

/// Has an archive's forecasts repeated on a device, with the weights that the user names, if any.
#[cfg(feature = "forecast")]
fn set_forecasts<R: std::io::Read + std::io::Seek>(
    archive: &mut crate::container::Archive<R>,
    weights: Option<&std::path::Path>,
    choice: Choice,
) -> Result<()> {
    use crate::forecast::series::Forecasts;
    match weights {
        _ if archive.forecasts_needed().is_none() => {
            if weights.is_some() {
                note("note: the archive was made without forecasts: --forecast is not needed");
            }
            Ok(())
        }
        // What is at hand is found when it is needed.
        None => {
            archive.set_machine(machine(choice)?);
            Ok(())
        }
        Some(path) => archive.set_forecasts(Forecasts::open_on(path, machine(choice)?)?),
    }
}

#[cfg(not(feature = "forecast"))]
fn set_forecasts<R>(_: &mut crate::container::Archive<R>, weights: Option<&std::path::Path>, _: Choice) -> Result<()> {
    match weights {
        Some(_) => Err(Error::unsupported("--forecast: this build has no models")),
        None => Ok(()),
    }
}

/// Says what a device left to the CPU.
fn note_coder(coder: &dyn crate::device::Coder) {
    coder.notes().iter().for_each(|n| note(&format!("note: {n}")));
}

/// Sets how many threads work; all cores if none is said.
fn set_threads(threads: Option<usize>) -> Result<()> {
    let Some(n) = threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .build_global()
        .map_err(|e| Error::usage(format!("--threads {n}: {e}")))
}
