//! `residuum weights`.

use super::args::{WeightsArgs, WeightsCommand, WeightsImportArgs, WeightsInspectArgs};
use super::{note, print};
use crate::error::{Context, Error, Result};
use crate::forecast::import::{ImportOptions, import};
use crate::forecast::{About, Weights, weights};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Turns checkpoints into weights, or shows what weights are.
pub fn run(args: &WeightsArgs) -> Result<ExitCode> {
    match &args.command {
        WeightsCommand::Import(args) => run_import(args),
        WeightsCommand::Inspect(args) => run_inspect(args),
    }
}

fn run_import(args: &WeightsImportArgs) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| args.checkpoint.with_extension("safetensors"));
    let config = args.config.as_ref().map(|path| read_json(path)).transpose()?;
    let options = ImportOptions { config, statistics: args.statistics.clone() };
    let about = import(&args.checkpoint, &output, &options, args.force)?;
    if !args.quiet {
        note(&format!("{}: {}, {}", output.display(), about.model, variant(&about)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A small JSON file.
fn read_json(path: &PathBuf) -> Result<Value> {
    const MAX_BYTES: u64 = 1 << 20;
    let place = || path.display().to_string();
    let len = std::fs::metadata(path).context(place)?.len();
    if len > MAX_BYTES {
        return Err(Error::input(format!("{len} bytes of configuration; at most {MAX_BYTES}"))).context(place);
    }
    let text = std::fs::read_to_string(path).context(place)?;
    serde_json::from_str(&text).map_err(|e| Error::input(e.to_string())).context(place)
}

fn run_inspect(args: &WeightsInspectArgs) -> Result<ExitCode> {
    let opened = Weights::open(&args.weights)?;
    let about = opened.about();
    let bytes = std::fs::metadata(&args.weights)?.len();
    let digest = weights::digest(&args.weights)?;
    let tensors = opened.names().len();
    let parameters = opened.parameters();
    let text = if args.json {
        let all = json!({
            "file": args.weights.display().to_string(), "model": about.model, "variant": variant(about), "parameters": parameters,
            "tensors": tensors, "bytes": bytes, "licence": about.licence, "source": about.source, "sha256": digest,
            "config": about.config,
        });
        format!("{all:#}\n")
    } else {
        let said = |text: &str| if text.is_empty() { "not said".to_string() } else { text.to_string() };
        let rows = [
            ("model", about.model.clone()),
            ("variant", variant(about)),
            ("parameters", grouped(parameters)),
            ("tensors", tensors.to_string()),
            ("size", super::table::bytes(bytes)),
            ("licence", said(&about.licence)),
            ("source", said(&about.source)),
            ("sha256", digest),
            ("config", about.config.to_string()),
        ];
        // Texts come out of the file: what would steer a terminal is shown as `?`.
        rows.iter().map(|(name, value)| format!("{name:<12}{}\n", value.replace(char::is_control, "?"))).collect()
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the configuration calls itself.
fn variant(about: &About) -> String {
    about.config["variant"].as_str().unwrap_or("not said").to_string()
}

/// `1 256 300 176`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_right() {
        let found: Vec<String> = [0, 12, 999, 1000, 112_797_584].into_iter().map(grouped).collect();
        assert_eq!(found, ["0", "12", "999", "1 000", "112 797 584"]);
    }
}
