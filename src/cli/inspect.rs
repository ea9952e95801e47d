//! `residuum inspect`.

use super::args::{InspectArgs, format_name};
use super::report::{SIZE_HEADINGS, VariableReport, total_cells};
use super::table::{self, Table};
use super::{input, print};
use crate::bound::Resolved;
use crate::container::Archive;
use crate::decompress::{TileReport, inspect_tile};
use crate::error::{Context, Result};
use crate::plan::{Plan, Treatment};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::process::ExitCode;

/// Prints what an archive holds.
pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let name = || input::name_of(&args.archive);
    let file = input::open_archive_file(&args.archive).context(name)?;
    let mut archive = Archive::open(file).context(name)?;
    let variables = VariableReport::all(&archive).context(name)?;
    let anatomies = (0..variables.len()).map(|i| Anatomy::of(&mut archive, i)).collect::<Result<Vec<_>>>();
    let anatomies = anatomies.context(name)?;
    let text = if args.json {
        let json = to_json(&name(), &archive, &variables, &anatomies);
        format!("{json:#}\n")
    } else {
        to_text(&name(), &archive, &variables, &anatomies)
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The tiles of a variable, summed up.
struct Anatomy {
    plan: Plan,
    dimensions: Vec<String>,
    /// Tiles by method and predictor.
    tiles: BTreeMap<String, u64>,
    n_special: u64,
    n_outliers: u64,
    head: u64,
    specials: u64,
    signs: u64,
    outliers: u64,
    codes: u64,
    /// What a codec of frames made the forecasts of all variables of.
    latents: u64,
    /// The plan, and kinds, lengths and checksums of sections.
    plan_and_frames: u64,
}

impl Anatomy {
    fn of(archive: &mut Archive<BufReader<File>>, i: usize) -> Result<Self> {
        let v = &archive.schema().variables[i];
        let (name, dtype) = (v.name().to_string(), v.dtype);
        let path = |&d: &u32| archive.schema().dimensions[d as usize].path.trim_start_matches('/').to_string();
        let dimensions = v.dimensions.iter().map(path).collect();
        let place = || format!("variable {name:?}");
        let stored = archive.variable(i).context(place)?.clone();
        let mut sum = Self {
            plan: stored.plan,
            dimensions,
            tiles: BTreeMap::new(),
            n_special: 0,
            n_outliers: 0,
            head: 0,
            specials: 0,
            signs: 0,
            outliers: 0,
            codes: 0,
            latents: 0,
            plan_and_frames: stored.stored_bytes,
        };
        for t in 0..sum.plan.tiling.count() {
            let coded = archive.coded_tile(i, t).context(place)?;
            sum.add(&inspect_tile(&coded, dtype, &sum.plan.tiling.region(t)).context(place)?);
        }
        Ok(sum)
    }

    fn add(&mut self, tile: &TileReport) {
        let how = match tile.method {
            "log" => format!("log, {}", tile.predictor),
            "direct" => tile.predictor.clone(),
            method => method.to_string(),
        };
        *self.tiles.entry(how).or_default() += 1;
        self.n_special += tile.n_special;
        self.n_outliers += tile.n_outliers;
        self.head += tile.bytes.head as u64;
        self.specials += tile.bytes.specials as u64;
        self.signs += tile.bytes.signs as u64;
        self.outliers += tile.bytes.outliers as u64;
        self.codes += tile.bytes.codes as u64;
        self.latents += tile.bytes.latents as u64;
        self.plan_and_frames = self.plan_and_frames.saturating_sub(tile.bytes.total() as u64);
    }

    /// The shape of a whole tile.
    fn tile_shape(&self) -> Vec<u64> {
        if self.plan.tiling.count() == 0 {
            return vec![];
        }
        self.plan.tiling.region(0).iter().map(|r| r.end - r.start).collect()
    }

    /// What the bound means for the values.
    fn resolved(&self) -> String {
        match &self.plan.treatment {
            Treatment::Exact => "bit for bit".into(),
            Treatment::Lossy { resolved, .. } => match *resolved {
                Resolved::Exact => "bit for bit".into(),
                Resolved::Absolute(a) => format!("|error| <= {}", table::number(a)),
                Resolved::PointWise(r) => format!("|error| <= {} |x|", table::number(r)),
                Resolved::MeanSquare { max_mse, .. } => format!("rmse <= {}", table::number(max_mse.sqrt())),
            },
        }
    }

    /// Name and bytes of each part.
    fn parts(&self) -> [(&'static str, u64); 7] {
        [
            ("codes", self.codes),
            ("specials", self.specials),
            ("signs", self.signs),
            ("outliers", self.outliers),
            ("head", self.head),
            ("plan", self.plan_and_frames),
            ("latents", self.latents),
        ]
    }
}

fn to_text(
    name: &str,
    archive: &Archive<BufReader<File>>,
    variables: &[VariableReport],
    anatomies: &[Anatomy],
) -> String {
    let (version, source) = (archive.version(), format_name(archive.schema().format));
    let len = archive.file_len();
    let mut text = format!("{name}: residuum archive, format version {version}, {len} bytes, made from {source}\n\n");

    let mut sizes = Table::new(&["variable", "type", "shape", "dimensions", "bound"], &SIZE_HEADINGS);
    for (v, a) in variables.iter().zip(anatomies) {
        let dimensions = if a.dimensions.is_empty() { "-".into() } else { a.dimensions.join(",") };
        let cells = [v.name.clone(), v.dtype.to_string(), table::shape(&v.shape), dimensions, v.bound.clone()];
        sizes.row(cells.into_iter().chain(v.size_cells()).collect());
    }
    let total = ["total", "", "", "", ""].map(String::from);
    sizes.row(total.into_iter().chain(total_cells(variables, len)).collect());

    let mut decisions =
        Table::new(&["variable", "means", "tiles of", "tiles: predictor"], &["special values", "outliers"]);
    for (v, a) in variables.iter().zip(anatomies) {
        let tiles = a.tiles.iter().map(|(how, n)| format!("{n}: {how}")).collect::<Vec<_>>().join("; ");
        let tile = table::shape(&a.tile_shape());
        decisions.row(vec![
            v.name.clone(),
            a.resolved(),
            tile,
            tiles,
            a.n_special.to_string(),
            a.n_outliers.to_string(),
        ]);
    }

    let mut parts = vec!["codes", "specials", "signs", "outliers", "head", "plan"];
    // Few archives have any.
    parts.extend(anatomies.iter().any(|a| a.latents > 0).then_some("latents"));
    let mut bits = Table::new(&["bits per value"], &parts);
    for (v, a) in variables.iter().zip(anatomies) {
        let cells = a.parts().map(|(_, b)| table::quotient(b as f64 * 8.0, v.n as f64));
        bits.row([v.name.clone()].into_iter().chain(cells.into_iter().take(parts.len())).collect());
    }
    text += &format!("{sizes}\n{decisions}\n{bits}");
    text + &forecasts(archive, anatomies.iter().map(|a| a.latents).sum())
}

/// The model that variables were coded beside, its `latents` in the archive, and what its weights make of the ratio.
fn forecasts(archive: &Archive<BufReader<File>>, latents: u64) -> String {
    let Some(beside) = archive.forecasts_needed() else { return String::new() };
    let said = |text: &str| text.replace(char::is_control, "?");
    let sha256: String = beside.digest.iter().map(|b| format!("{b:02x}")).collect();
    let mut out = format!("\nforecasts of {}, in intervals of {} steps", said(&beside.model), beside.interval);
    if !sha256.is_empty() {
        out += &format!("\n  weights: SHA-256 {sha256}, ");
        let (len, weights) = (archive.file_len(), archive.weights_bytes());
        out += &match weights {
            0 => "not in the archive".to_string(),
            n => format!("{} in the archive, {} without", table::bytes(n), table::bytes(len - n)),
        };
    }
    if latents > 0 {
        out += &format!("\n  latents: {}", table::bytes(latents));
    }
    if let Some(made_on) = &beside.made_on {
        out += &format!("\n  made by: {}", said(made_on));
    }
    out + "\n"
}

fn to_json(
    name: &str,
    archive: &Archive<BufReader<File>>,
    variables: &[VariableReport],
    anatomies: &[Anatomy],
) -> Value {
    let variables: Vec<Value> = variables
        .iter()
        .zip(anatomies)
        .map(|(v, a)| {
            let parts: serde_json::Map<_, _> =
                a.parts().map(|(part, n)| (part.to_string(), json!(n))).into_iter().collect();
            json!({
                "name": v.name,
                "dtype": v.dtype.name(),
                "shape": v.shape,
                "dimensions": a.dimensions,
                "bound": treatment(&a.plan.treatment),
                "tiles": { "count": a.plan.tiling.count(), "shape": a.tile_shape(), "by_predictor": a.tiles },
                "value_bytes": v.value_bytes,
                "stored_bytes": v.stored_bytes,
                "ratio": v.ratio(),
                "bits_per_value": v.bits_per_value(),
                "n_values": v.n,
                "n_special": a.n_special,
                "n_outliers": a.n_outliers,
                "bytes": parts,
            })
        })
        .collect();
    let forecasts = archive.forecasts_needed().map(|beside| {
        json!({
            "model": beside.model,
            "sha256": beside.digest.iter().map(|b| format!("{b:02x}")).collect::<String>(),
            "interval": beside.interval,
            "made_on": beside.made_on,
            "weights_bytes": archive.weights_bytes(),
            "file_bytes_without_weights": archive.file_len() - archive.weights_bytes(),
        })
    });
    json!({
        "archive": name,
        "forecasts": forecasts,
        "file_bytes": archive.file_len(),
        "format_version": archive.version(),
        "source_format": format_name(archive.schema().format),
        "variables": variables,
    })
}

/// What was asked and what that means.
pub fn treatment(treatment: &Treatment) -> Value {
    let Treatment::Lossy { asked, resolved, stats, .. } = treatment else {
        return json!({ "asked": "exact" });
    };
    let mut out = json!({ "asked": asked.to_string() });
    match *resolved {
        Resolved::Exact => {}
        Resolved::Absolute(a) => out["absolute"] = json!(a),
        Resolved::PointWise(r) => out["point_wise"] = json!(r),
        Resolved::MeanSquare { absolute, max_mse } => {
            out["absolute"] = json!(absolute);
            out["max_mse"] = json!(max_mse);
        }
    }
    if let Some(stats) = stats {
        out["range"] = json!([stats.min, stats.max]);
    }
    out
}
