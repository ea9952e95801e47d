//! Tables, as headings and rows of text.

use super::{Cell, Report};

/// A table: headings, and rows in groups. As many of the first columns are names.
pub struct Table {
    pub heads: Vec<String>,
    pub groups: Vec<Vec<Vec<String>>>,
    pub n_names: usize,
    /// Group, row and column of the best in their column, or row.
    pub best: Vec<(usize, usize, usize)>,
}

/// Columns of figures: heading, path in a result, digits after the point.
type Column = (&'static str, &'static [&'static str], usize);

/// Of the table of all cells.
const QUALITY: [Column; 11] = [
    ("ratio", &["ratio"], 2),
    ("bits/value", &["bits_per_value"], 3),
    ("PSNR dB", &["psnr"], 1),
    ("NRMSE", &["nrmse"], 7),
    ("data SSIM", &["ssim"], 5),
    ("spectral dB", &["log_spectral_distance_db"], 3),
    ("error/bound", &["max_error_over_bound"], 4),
    ("violations", &["violations"], 0),
    ("bias/bound", &["bias_over_bound"], 4),
    ("lag-1", &["error_lag1"], 3),
    ("H0 of error", &["error_structure", "entropy"], 3),
];

/// Of the table of residuals.
const STRUCTURE: [Column; 10] = [
    ("bits/value", &["bits_per_value"], 3),
    ("variance", &["structure", "variance"], 3),
    ("zeros %", &["structure", "zero_share"], 1),
    ("mean run", &["structure", "mean_zero_run"], 1),
    ("H0", &["structure", "entropy"], 3),
    ("H |\u{a0}left", &["structure", "entropy_given_left"], 3),
    ("H | left,\u{a0}up", &["structure", "entropy_given_left_and_up"], 3),
    ("H | step before", &["structure", "entropy_given_step_before"], 3),
    ("Moran's\u{a0}I", &["structure", "moran_i"], 3),
    ("r in time", &["structure", "autocorrelation_in_time"], 3),
];

fn number(cell: &Cell, column: &Column) -> String {
    let (head, path, digits) = column;
    let scale = if *head == "zeros %" { 100.0 } else { 1.0 };
    cell.figure(path).map_or("–".into(), |x| format!("{:.*}", digits, x * scale))
}

impl Report<'_> {
    /// Ratios of all variables together: a row a method, a column a bound. With those of the weights counted, if there are any.
    pub fn totals(&self) -> Table {
        let mut rows = vec![];
        let mut best = vec![(0, 0.0); self.bounds.len()];
        for method in &self.methods {
            let totals: Vec<_> = self.bounds.iter().map(|bound| self.total(bound, method)).collect();
            let ratio = |t: &Option<[f64; 3]>| t.map_or("–".into(), |t| format!("{:.2}", t[0] / t[1]));
            for (best, total) in best.iter_mut().zip(&totals) {
                if let Some(t) = total
                    && t[0] / t[1] > best.1
                {
                    *best = (rows.len(), t[0] / t[1]);
                }
            }
            rows.push(std::iter::once(method.to_string()).chain(totals.iter().map(ratio)).collect());
            if totals.iter().flatten().any(|t| t[2] > 0.0) {
                let counted = |t: &Option<[f64; 3]>| t.map_or("–".into(), |t| format!("{:.2}", t[0] / (t[1] + t[2])));
                let name = format!("{method}, weights counted");
                rows.push(std::iter::once(name).chain(totals.iter().map(counted)).collect());
            }
        }
        let heads = std::iter::once("method").chain(self.bounds.iter().copied()).map(String::from).collect();
        let best = best.iter().enumerate().filter(|(_, b)| b.1 > 0.0).map(|(k, b)| (0, b.0, k + 1)).collect();
        Table { heads, groups: vec![rows], n_names: 1, best }
    }

    /// All cells.
    pub fn all(&self) -> Table {
        let heads =
            ["field", "bound", "method"].into_iter().chain(QUALITY.iter().map(|c| c.0)).map(String::from).collect();
        let row = |c: &Cell| {
            let mark = if c.value["error"].is_null() { "" } else { " (failed)" };
            let names = [c.field.clone(), c.bound.clone(), format!("{}{mark}", c.method)];
            names.into_iter().chain(QUALITY.iter().map(|column| number(c, column))).collect::<Vec<_>>()
        };
        let of = |field: &String| self.cells.iter().filter(|c| c.field == *field).map(row).collect();
        Table { heads, groups: self.fields.iter().map(of).collect(), n_names: 3, best: vec![] }
    }

    /// Why cells failed, each reason once.
    pub fn failures(&self) -> Vec<String> {
        let mut all: Vec<String> = vec![];
        for cell in &self.cells {
            if let Some(error) = cell.value["error"].as_str() {
                let line = format!("{}: {error}", cell.method);
                if !all.contains(&line) {
                    all.push(line);
                }
            }
        }
        all
    }

    /// Residuals at the mapped bound.
    pub fn residuals(&self) -> Table {
        let heads = ["field", "method"].into_iter().chain(STRUCTURE.iter().map(|c| c.0)).map(String::from).collect();
        let of = |field: &String| -> Vec<Vec<String>> {
            let cells = self.methods.iter().filter_map(|m| self.cell(field, self.suite.mapped_bound(), m));
            let row = |c: &Cell| {
                let of = c.value["result"]["structure"]["of"].as_str().unwrap_or_default();
                let mark = if of.ends_with("replayed") { " (replayed)" } else { "" };
                let names = [c.field.clone(), format!("{}{mark}", c.method)];
                names.into_iter().chain(STRUCTURE.iter().map(|column| number(c, column))).collect()
            };
            cells.filter(|c| !c.value["result"].is_null()).map(row).collect()
        };
        let groups: Vec<_> = self.fields.iter().map(of).filter(|g: &Vec<Vec<String>>| !g.is_empty()).collect();
        Table { heads, groups, n_names: 2, best: vec![] }
    }

    /// Speed and memory of each method at the mapped bound, all variables together.
    pub fn speeds(&self) -> Table {
        let heads = ["method", "compress MB/s", "restore MB/s", "peak MB", "peak MB back"].map(String::from).to_vec();
        let mut rows = vec![];
        for method in &self.methods {
            let cells: Vec<&Cell> =
                self.fields.iter().filter_map(|f| self.cell(f, self.suite.mapped_bound(), method)).collect();
            // Of variables that were compressed together, each has the time of all: rates are means of the cells, by time.
            let rate = |direction| {
                let of =
                    |c: &&Cell| Some((c.figure(&["value_bytes"])?, c.figure(&["timings", direction, "mb_per_s"])?));
                let (bytes, time) =
                    cells.iter().filter_map(of).fold((0.0, 0.0), |(b, t), (bytes, rate)| (b + bytes, t + bytes / rate));
                if time > 0.0 { format!("{:.1}", bytes / time) } else { "–".into() }
            };
            let peak = |direction| {
                let most =
                    cells.iter().filter_map(|c| c.figure(&["timings", direction, "peak_bytes"])).reduce(f64::max);
                most.map_or("–".into(), |b| format!("{:.0}", b / 1e6))
            };
            rows.push(vec![
                method.to_string(),
                rate("compress"),
                rate("decompress"),
                peak("compress"),
                peak("decompress"),
            ]);
        }
        Table { heads, groups: vec![rows], n_names: 1, best: vec![] }
    }
}
