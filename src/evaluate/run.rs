//! Runs the cells of a suite: one file, variable, bound, method and repetition each; a line of JSON for each.

use super::extract::{self, Extract, Field};
use super::maps::Maps;
use super::method::{Outcome, Worker};
use super::suite::{Dataset, Method, Suite};
use crate::bound::Bound;
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What became of the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Run now, successfully.
    pub done: usize,
    /// Failed now.
    pub failed: usize,
    /// Done before.
    pub known: usize,
}

/// How a suite is run.
pub struct Setting<'a> {
    /// Where relative paths start.
    pub suite_path: &'a Path,
    /// Folder of results and maps.
    pub output: &'a Path,
    /// Recorded.
    pub command: &'a str,
    /// What runs methods: this program.
    pub worker: Worker,
    /// Whether cells that failed before are run again.
    pub retry_failed: bool,
}

/// Name of the file of results.
pub const RESULTS: &str = "results.jsonl";
/// Name of the folder of maps.
pub const MAPS: &str = "maps";

/// Runs all cells that the results have no line of yet, and appends theirs.
///
/// # Errors
/// `Io` if results can not be read or written. A cell that fails is a line with `error`.
pub fn run(suite: &Suite, setting: &Setting<'_>, say: &mut dyn FnMut(&str)) -> Result<Summary> {
    let results = setting.output.join(RESULTS);
    let known = known(&results, setting.retry_failed)?;
    std::fs::create_dir_all(setting.output.join(MAPS))?;
    let out = std::fs::OpenOptions::new().create(true).append(true).open(results)?;
    let host = host();
    let summary = Summary::default();
    let mut run = Run { suite, setting, known, out, host, summary, say };
    for dataset in &suite.dataset {
        for path in &dataset.paths {
            run.file(dataset, path)?;
        }
    }
    Ok(run.summary)
}

/// A suite being run.
struct Run<'a> {
    suite: &'a Suite,
    setting: &'a Setting<'a>,
    known: HashSet<String>,
    out: File,
    host: Value,
    summary: Summary,
    say: &'a mut dyn FnMut(&str),
}

/// Which cell.
struct Cell<'a> {
    variable: &'a str,
    bound: (Bound, &'a str),
    method: &'a Method,
    repetition: u32,
}

impl Run<'_> {
    /// All cells of a file.
    fn file(&mut self, dataset: &Dataset, path: &Path) -> Result<()> {
        let file = self.setting.suite_path.parent().unwrap_or(Path::new("")).join(path);
        let names = match extract::variables(dataset, &file) {
            Ok(names) => names,
            // Each of its cells fails for this reason, and is recorded under the names there are.
            Err(_) if dataset.variables.is_empty() => vec![String::new()],
            Err(_) => dataset.variables.clone(),
        };
        let suite = self.suite;
        let bounds: Vec<(Bound, &str)> =
            suite.bounds()?.into_iter().zip(suite.bounds.iter().map(String::as_str)).collect();
        // Made once a cell needs it.
        let mut data: Option<Result<Extract, String>> = None;
        let (together, single): (Vec<&Method>, Vec<&Method>) =
            suite.method.iter().partition(|m| m.forecast().is_some());
        let cells = |methods: &[&'_ Method], names: &[String]| -> Vec<(usize, (Bound, usize), usize, u32)> {
            let mut all = vec![];
            for v in 0..names.len() {
                for (b, bound) in bounds.iter().enumerate() {
                    for m in 0..methods.len() {
                        all.extend((0..suite.repetitions).map(|r| (v, (bound.0, b), m, r)));
                    }
                }
            }
            all
        };
        for (v, (bound, b), m, repetition) in cells(&single, &names) {
            let cell = Cell { variable: &names[v], bound: (bound, bounds[b].1), method: single[m], repetition };
            let line = self.line(dataset, path, &file, &cell);
            if self.is_known(&line) {
                continue;
            }
            let data = data.get_or_insert_with(|| Extract::new(dataset, &file, &names).map_err(|e| e.to_string()));
            let outcome = self
                .field(data, cell.variable)
                .and_then(|(data, field)| self.setting.worker.variable(data, field, bound, cell.method, suite.seed));
            self.finish(data, &cell, line, outcome)?;
        }
        // Those that a model forecasts together are compressed together: by bound, method and repetition, a line for each variable.
        for (_, (bound, b), m, repetition) in cells(&together, &[String::new()]) {
            let cell = |name| Cell { variable: name, bound: (bound, bounds[b].1), method: together[m], repetition };
            let lines: Vec<(Cell<'_>, Value)> =
                names.iter().map(|n| (cell(n), self.line(dataset, path, &file, &cell(n)))).collect();
            let todo: Vec<(Cell<'_>, Value)> = lines.into_iter().filter(|(_, line)| !self.is_known(line)).collect();
            if todo.is_empty() {
                continue;
            }
            let data = data.get_or_insert_with(|| Extract::new(dataset, &file, &names).map_err(|e| e.to_string()));
            let all = match data {
                Ok(data) => self.setting.worker.together(data, bound, together[m]).map_err(|e| e.to_string()),
                Err(e) => Err(e.clone()),
            };
            for (cell, line) in todo {
                let outcome = match &all {
                    Ok(all) => self.field(data, cell.variable).and_then(|(data, field)| all.of(data, field)),
                    Err(e) => Err(Error::input(e.clone())),
                };
                self.finish(data, &cell, line, outcome)?;
            }
        }
        Ok(())
    }

    /// A field, or why there is none.
    fn field<'d>(&self, data: &'d Result<Extract, String>, name: &str) -> Result<(&'d Extract, &'d Field)> {
        let data = data.as_ref().map_err(|e| Error::input(e.clone()))?;
        let field = data.fields.iter().find(|f| f.0 == name).map(|f| f.1.as_ref());
        match field {
            Some(Ok(field)) => Ok((data, field)),
            Some(Err(e)) => Err(Error::input(e.clone())),
            None => Err(Error::usage(format!("no variable {name:?}"))),
        }
    }

    /// What identifies a cell, with its key.
    fn line(&self, dataset: &Dataset, path: &Path, file: &Path, cell: &Cell<'_>) -> Value {
        let mut line = json!({
            "dataset": dataset.name,
            "path": path,
            "variable": cell.variable,
            "ranges": dataset.ranges,
            "unpack": dataset.unpack,
            "bound": cell.bound.1,
            "method": cell.method.name,
            "options": cell.method,
            "repetition": cell.repetition,
            "seed": self.suite.seed,
            "version": env!("CARGO_PKG_VERSION"),
            "source_bytes": std::fs::metadata(file).map(|m| m.len()).ok(),
        });
        line["key"] = json!(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(line.to_string().as_bytes())));
        line
    }

    fn is_known(&mut self, line: &Value) -> bool {
        let is_known = line["key"].as_str().is_some_and(|key| self.known.contains(key));
        self.summary.known += usize::from(is_known);
        is_known
    }

    /// Figures of an outcome; its line.
    fn finish(
        &mut self,
        data: &Result<Extract, String>,
        cell: &Cell<'_>,
        mut line: Value,
        outcome: Result<Outcome>,
    ) -> Result<()> {
        line["host"] = self.host.clone();
        line["command"] = json!(self.setting.command);
        let is_mapped = self.suite.mapped_bound() == cell.bound.1 && cell.repetition == 0;
        let mut maps = is_mapped.then(Maps::default);
        let figures = outcome.and_then(|outcome| {
            let (data, field) = self.field(data, cell.variable)?;
            outcome.figures(data, field, cell.bound.0, maps.as_mut())
        });
        match figures {
            Ok(mut figures) => {
                if let Some(maps) = maps {
                    figures["maps"] = self.write(&maps, line["key"].as_str().unwrap_or_default())?;
                }
                line["result"] = figures;
                self.summary.done += 1;
            }
            Err(e) => {
                (self.say)(&format!("{}, {}, {}: {e}", cell.variable, cell.bound.1, cell.method.name));
                line["error"] = json!(e.to_string());
                self.summary.failed += 1;
            }
        }
        // One call: what a killed run leaves is whole lines, and at most one that is cut short.
        self.out.write_all(format!("{line}\n").as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Writes maps; their names.
    fn write(&self, maps: &Maps, key: &str) -> Result<Value> {
        let mut names = json!({});
        let all =
            [("original", &maps.original), ("residual", &maps.residual), ("bits", &maps.bits), ("error", &maps.error)];
        for (kind, png) in all {
            if let Some(png) = png {
                let name = format!("{MAPS}/{key}-{kind}.png");
                std::fs::write(self.setting.output.join(&name), png)?;
                names[kind] = json!(name);
            }
        }
        Ok(names)
    }
}

/// Keys of the lines there are. A last line that was cut short is taken away, and so are those of failures that are to be tried again.
fn known(results: &Path, retry_failed: bool) -> Result<HashSet<String>> {
    if !results.exists() {
        return Ok(HashSet::new());
    }
    let text = std::fs::read_to_string(results)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        std::fs::OpenOptions::new().write(true).open(results)?.set_len(whole as u64)?;
    }
    let (mut keys, mut kept) = (HashSet::new(), String::new());
    for line in text[..whole].lines() {
        let value = serde_json::from_str::<Value>(line).unwrap_or_default();
        if retry_failed && !value["error"].is_null() {
            continue;
        }
        keys.extend(value["key"].as_str().map(String::from));
        kept.extend([line, "\n"]);
    }
    if kept.len() < whole {
        // Beside it first: whoever is cut off here loses nothing.
        let beside = results.with_extension("new");
        std::fs::write(&beside, kept)?;
        std::fs::rename(beside, results)?;
    }
    Ok(keys)
}

/// What the figures were measured on.
fn host() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).map(|m| m.trim_start_matches([' ', '\t', ':']));
    json!({
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpu": model,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "threads": rayon::current_num_threads(),
    })
}

/// The file of results in a folder.
pub fn results_in(output: &Path) -> PathBuf {
    output.join(RESULTS)
}
