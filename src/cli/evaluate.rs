//! `residuum evaluate`.

use super::args::EvaluateArgs;
use super::{note, print, set_threads};
use crate::error::{Context, Result};
use crate::evaluate::suite::Suite;
use crate::evaluate::{report, run as cells};
use std::process::ExitCode;

/// Runs what is left of a suite, then writes its report.
pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    set_threads(args.threads)?;
    let suite = Suite::read(&args.suite)?;
    let folder = &args.output;
    std::fs::create_dir_all(folder).context(|| folder.display().to_string())?;
    let results = folder.join("results.jsonl");
    let command = format!("residuum evaluate {}", args.suite.file_name().unwrap_or_default().to_string_lossy());
    let place = || results.display().to_string();
    let summary =
        cells::run(&suite, &args.suite, &results, &command, &mut |m| note(&format!("failed: {m}"))).context(place)?;
    let text = std::fs::read_to_string(&results).context(place)?;
    for (name, content) in report::files(&suite, &text) {
        let path = folder.join(name);
        std::fs::write(&path, content).context(|| path.display().to_string())?;
    }
    print(&format!(
        "{} cells done, {} failed, {} known before; {}\n",
        summary.done,
        summary.failed,
        summary.known,
        folder.join("report.html").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
