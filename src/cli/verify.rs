//! `residuum verify`.

mod metadata;

use super::args::VerifyArgs;
use super::inspect::treatment;
use super::progress::Bar;
use super::table::{self, Table};
use super::{input, print, set_forecasts, set_threads};
use crate::bound::{Comparison, Resolved};
use crate::compress::Progress;
use crate::container::Archive;
use crate::device::Choice;
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use crate::io::{Format, OpenOptions, Schema, Source, Variable};
use crate::plan::{Plan, Treatment};
use crate::tile;
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

/// Compares an archive with its original.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    set_threads(args.common.threads)?;
    let original_name = || input::name_of(&args.original);
    let archive_name = || input::name_of(&args.archive);
    if input::is_pipe(&args.original) && input::is_pipe(&args.archive) {
        return Err(Error::usage("standard input is the original or the archive, not both"));
    }
    let file = input::open_archive_file(&args.archive).context(archive_name)?;
    let mut archive = Archive::open(file).context(archive_name)?;
    set_forecasts(&mut archive, args.forecast.as_deref(), Choice::Cpu).context(archive_name)?;
    let opened = match as_raw(archive.schema()) {
        Some((shape, dtype)) => input::open_or_raw(&args.original, shape, dtype),
        None => input::open(&args.original, &OpenOptions::default()),
    };
    let opened = opened.context(original_name)?;
    let source = opened.source;
    let was_unpacked = archive.schema().variables.iter().any(|v| {
        let original = find(source.schema(), archive.schema(), v);
        v.dtype.is_float() && original.is_some_and(|i| !source.schema().variables[i].dtype.is_float())
    });
    let mut source = if was_unpacked { input::unpacked(source).context(original_name)? } else { source };

    let mut differences = metadata::compare(source.schema(), archive.schema());
    let mut bar = Bar::new(archive.schema(), args.common.quiet);
    let mut checks = Vec::new();
    for (i, v) in archive.schema().variables.clone().iter().enumerate() {
        let Some(original) = find(source.schema(), archive.schema(), v) else { continue };
        let o = &source.schema().variables[original];
        if o.dtype != v.dtype || o.shape != v.shape {
            // Said with the metadata already; values can not be compared.
            continue;
        }
        checks.push(Check::run(&mut archive, i, source.as_mut(), original, &mut |p| bar.step(p), args)?);
    }
    bar.finish();
    differences.extend(checks.iter().filter_map(Check::looser_than_asked));

    let n_violations: u64 = checks.iter().map(Check::violations).sum();
    let mut left_out = metadata::left_out(source.schema(), archive.schema());
    left_out.extend(source.unreadable().iter().map(|u| u.name.clone()));
    if args.json {
        let variables: Vec<Value> = checks.iter().map(Check::to_json).collect();
        let json = json!({
            "violations": n_violations,
            "differences": differences,
            "not_in_archive": left_out,
            "variables": variables,
        });
        print(&format!("{json:#}\n"))?;
    } else if !args.common.quiet {
        print(&to_text(&checks, &differences, &left_out, n_violations))?;
    }
    if n_violations == 0 && differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let message = format!("{n_violations} values beyond their bounds, {} other differences", differences.len());
    Err(Error::new(Kind::BoundViolated, message)).context(archive_name)
}

/// Shape and type of the values of an archive whose original may not say what it holds: raw values, or an array that may be there as such too.
fn as_raw(schema: &Schema) -> Option<(&[u64], DType)> {
    let [v] = &schema.variables[..] else { return None };
    matches!(schema.format, Format::Raw | Format::Npy).then_some((&v.shape, v.dtype))
}

/// The original's variable that `v` of the archive was made of. Variables of raw and .npy files are named after the file,
/// which may have another name now.
fn find(original: &Schema, archive: &Schema, v: &Variable) -> Option<usize> {
    let is_nameless = |s: &Schema| s.variables.len() == 1 && matches!(s.format, Format::Raw | Format::Npy);
    if is_nameless(original) && is_nameless(archive) {
        return Some(0);
    }
    original.variables.iter().position(|o| o.path == v.path)
}

/// The comparison of one variable.
struct Check {
    variable: Variable,
    plan: Plan,
    comparison: Comparison,
}

impl Check {
    fn run(
        archive: &mut Archive<BufReader<File>>,
        i: usize,
        source: &mut dyn Source,
        original: usize,
        progress: &mut dyn FnMut(Progress<'_>),
        args: &VerifyArgs,
    ) -> Result<Self> {
        let variable = archive.schema().variables[i].clone();
        let place = |path: &Path| format!("{}: variable {:?}", input::name_of(path), variable.name());
        let plan = archive.variable(i)?.plan.clone();
        let (bound, fill) = match &plan.treatment {
            Treatment::Exact => (Resolved::Exact, None),
            Treatment::Lossy { resolved, fill, .. } => (*resolved, *fill),
        };
        let mut comparison = Comparison::default();
        let tiles: Vec<u64> = (0..plan.tiling.count()).collect();
        for tile in archive.batches(i, &tiles)?.iter().flat_map(|batch| archive.tiles(batch)) {
            let (region, restored) = tile.context(|| place(&args.archive))?;
            let values = source.read(original, &region).context(|| place(&args.original))?;
            match (&values, &restored) {
                (Values::F32(x), Values::F32(y)) => {
                    comparison.add(x, y, &bound, fill.map(|f| f32::from_bits(f as u32)))
                }
                (Values::F64(x), Values::F64(y)) => comparison.add(x, y, &bound, fill.map(f64::from_bits)),
                (x, y) => {
                    comparison.n += x.len() as u64;
                    comparison.violations += n_different(x, y);
                }
            }
            let bytes = tile::region_len(&region) * variable.dtype.size() as u64;
            progress(Progress { variable: variable.name(), bytes });
        }
        Ok(Self { variable, plan, comparison })
    }

    /// Values beyond their bound. A mean square error that is too large makes all of them count.
    fn violations(&self) -> u64 {
        let c = &self.comparison;
        match &self.plan.treatment {
            // The encoder's sums and this one round differently.
            Treatment::Lossy { resolved: Resolved::MeanSquare { max_mse, .. }, .. }
                if c.rmse().powi(2) > max_mse * (1.0 + 1e-9) =>
            {
                c.violations.max(c.stats.n)
            }
            _ => c.violations,
        }
    }

    /// Says so if the archive's bound is not what was asked for, for the values of the original.
    fn looser_than_asked(&self) -> Option<String> {
        let Treatment::Lossy { asked, resolved, .. } = &self.plan.treatment else { return None };
        let due = asked.resolve(&self.comparison.stats, self.variable.dtype).ok()?;
        let largest = |r: &Resolved| r.at(1.0);
        // The root of the mean square error, which is no larger than the largest error.
        let mean = |r: &Resolved| match r {
            Resolved::MeanSquare { max_mse, .. } => max_mse.sqrt(),
            other => largest(other),
        };
        let is_looser = |allowed: &dyn Fn(&Resolved) -> f64| allowed(resolved) > allowed(&due) * (1.0 + 1e-12);
        let allowed: &dyn Fn(&Resolved) -> f64 = match &due {
            Resolved::MeanSquare { .. } if is_looser(&mean) => &mean,
            _ => &largest,
        };
        is_looser(allowed).then(|| {
            let (name, stored, due) = (self.variable.name(), allowed(resolved), allowed(&due));
            format!("variable {name:?}: {asked} means {due:e} for the original, the archive has {stored:e}")
        })
    }

    fn is_compared_within_bound(&self) -> bool {
        matches!(self.plan.treatment, Treatment::Lossy { .. })
    }

    fn bound(&self) -> String {
        match &self.plan.treatment {
            Treatment::Exact => "exact".into(),
            Treatment::Lossy { asked, .. } => asked.to_string(),
        }
    }

    fn to_json(&self) -> Value {
        let c = &self.comparison;
        let mut out = json!({
            "name": self.variable.name(),
            "dtype": self.variable.dtype.name(),
            "bound": treatment(&self.plan.treatment),
            "n_values": c.n,
            "violations": self.violations(),
        });
        if self.variable.dtype.is_float() {
            out["max_error"] = json!(c.max_error);
            out["max_error_over_bound"] = json!(c.max_error_over_bound);
            out["psnr"] = json!(c.psnr());
            out["nrmse"] = json!(c.nrmse());
        }
        out
    }
}

/// Values that differ in any bit.
fn n_different(a: &Values, b: &Values) -> u64 {
    let longer = a.len().abs_diff(b.len());
    let among = match (a, b) {
        (Values::Text(a), Values::Text(b)) => a.iter().zip(b).filter(|(a, b)| a != b).count(),
        _ if a.dtype() != b.dtype() => a.len(),
        _ => {
            let size = a.dtype().size().max(1);
            a.as_bytes().chunks(size).zip(b.as_bytes().chunks(size)).filter(|(a, b)| a != b).count()
        }
    };
    (longer + among) as u64
}

fn to_text(checks: &[Check], differences: &[String], left_out: &[String], n_violations: u64) -> String {
    let right = ["values", "max error", "error/bound", "PSNR", "NRMSE", "violations"];
    let mut table = Table::new(&["variable", "type", "bound"], &right);
    for check in checks {
        let c = &check.comparison;
        let float = |text: String| if check.variable.dtype.is_float() { text } else { "-".into() };
        table.row(vec![
            check.variable.name().to_string(),
            check.variable.dtype.to_string(),
            check.bound(),
            c.n.to_string(),
            float(table::number(c.max_error)),
            if check.is_compared_within_bound() { table::number(c.max_error_over_bound) } else { "-".into() },
            float(table::number(c.psnr())),
            float(table::number(c.nrmse())),
            check.violations().to_string(),
        ]);
    }
    let mut text = table.to_string();
    // Names come out of files: what would steer a terminal is shown as `?`.
    let shown = |name: &str| name.replace(char::is_control, "?");
    differences.iter().for_each(|d| text += &format!("differs: {}\n", shown(d)));
    if !left_out.is_empty() {
        text += &format!("not in the archive: {}\n", shown(&left_out.join(", ")));
    }
    if n_violations == 0 && differences.is_empty() {
        text += "every value is within its bound\n";
    }
    text
}
