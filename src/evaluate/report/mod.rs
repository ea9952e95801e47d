//! The report of a suite, from the lines of its results: one HTML file without anything from elsewhere, and Markdown with figures beside it.

mod bars;
mod charts;
mod html;
mod markdown;
mod style;
mod tables;

use super::run::{MAPS, results_in};
use super::suite::Suite;
use crate::error::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Folder of figures of the Markdown report.
const FIGURES: &str = "figures";

/// A field, bound and method: the first repetition, and the times of the fastest.
pub(crate) struct Cell {
    pub field: String,
    pub bound: String,
    pub method: String,
    pub value: Value,
}

impl Cell {
    pub fn figure(&self, path: &[&str]) -> Option<f64> {
        path.iter().try_fold(&self.value["result"], |v, name| v.get(name))?.as_f64()
    }

    fn list(&self, path: &[&str]) -> Option<Vec<f64>> {
        let list = path.iter().try_fold(&self.value["result"], |v, name| v.get(name))?.as_array()?;
        list.iter().map(Value::as_f64).collect()
    }
}

/// All that a report tells.
pub(crate) struct Report<'a> {
    pub suite: &'a Suite,
    pub cells: Vec<Cell>,
    /// In the order of the results.
    pub fields: Vec<String>,
    pub methods: Vec<&'a str>,
    pub bounds: Vec<&'a str>,
    /// Of the results, by name.
    pub maps: BTreeMap<String, Vec<u8>>,
}

impl<'a> Report<'a> {
    fn new(suite: &'a Suite, results: &str, maps: BTreeMap<String, Vec<u8>>) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let mut cells: Vec<Cell> = vec![];
        let several = suite.dataset.len() > 1 || suite.dataset.iter().any(|d| d.paths.len() > 1);
        for value in results.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
            let mut field = text(&value["variable"]);
            if several {
                field = format!("{} {field}", text(&value["dataset"]));
            }
            if suite.dataset.iter().any(|d| d.paths.len() > 1) {
                field = format!("{field} ({})", text(&value["path"]));
            }
            let cell = Cell { field, bound: text(&value["bound"]), method: text(&value["method"]), value };
            // Other suites may have left lines here too.
            if !suite.bounds.contains(&cell.bound) || !suite.method.iter().any(|m| m.name == cell.method) {
                continue;
            }
            let same = |c: &&mut Cell| (&c.field, &c.bound, &c.method) == (&cell.field, &cell.bound, &cell.method);
            match cells.iter_mut().find(same) {
                Some(first) => faster(first, &cell),
                None => cells.push(cell),
            }
        }
        let mut fields: Vec<String> = vec![];
        for cell in &cells {
            if !fields.contains(&cell.field) {
                fields.push(cell.field.clone());
            }
        }
        let order = |c: &Cell| {
            let place = |of: Option<usize>| of.unwrap_or(usize::MAX);
            (
                place(fields.iter().position(|f| *f == c.field)),
                place(suite.bounds.iter().position(|b| *b == c.bound)),
                place(suite.method.iter().position(|m| m.name == c.method)),
            )
        };
        cells.sort_by_key(order);
        let methods = suite.method.iter().map(|m| m.name.as_str()).collect();
        let bounds = suite.bounds.iter().map(String::as_str).collect();
        Self { suite, cells, fields, methods, bounds, maps }
    }

    fn cell(&self, field: &str, bound: &str, method: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.field == field && c.bound == bound && c.method == method)
    }

    /// A map of a cell of the mapped bound.
    fn map(&self, field: &str, method: &str, kind: &str) -> Option<(&str, &[u8])> {
        let cell = self.cell(field, self.suite.mapped_bound(), method)?;
        let name = cell.value["result"]["maps"][kind].as_str()?;
        self.maps.get_key_value(name).map(|(name, png)| (name.as_str(), &png[..]))
    }

    /// All bytes of the cells of a bound and method: before, after, and of the weights that are needed; if all fields are there.
    fn total(&self, bound: &str, method: &str) -> Option<[f64; 3]> {
        let mut sum = [0.0; 3];
        for field in &self.fields {
            let cell = self.cell(field, bound, method)?;
            sum[0] += cell.figure(&["value_bytes"])?;
            sum[1] += cell.figure(&["archive_bytes"])?;
            sum[2] = cell.figure(&["weight_bytes"]).unwrap_or(0.0).max(sum[2]);
        }
        (sum[1] > 0.0).then_some(sum)
    }
}

/// Takes over the times of another repetition if they are shorter.
fn faster(first: &mut Cell, other: &Cell) {
    for direction in ["compress", "decompress"] {
        let seconds = |c: &Cell| c.figure(&["timings", direction, "seconds"]);
        if seconds(other).is_some_and(|s| seconds(first).is_none_or(|f| s < f)) {
            first.value["result"]["timings"][direction] = other.value["result"]["timings"][direction].clone();
        }
    }
}

/// Writes report.html, report.md and its figures from the results in a folder.
///
/// # Errors
/// `Io`.
pub fn write(suite: &Suite, folder: &Path) -> Result<()> {
    let results = results_in(folder);
    let text = std::fs::read_to_string(&results).context(|| results.display().to_string())?;
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(folder.join(MAPS))? {
        let entry = entry?;
        let name = format!("{MAPS}/{}", entry.file_name().to_string_lossy());
        if text.contains(&name) {
            maps.insert(name, std::fs::read(entry.path())?);
        } else if name.ends_with(".png") {
            // Of a cell that was cut off before its line.
            std::fs::remove_file(entry.path())?;
        }
    }
    let report = Report::new(suite, &text, maps);
    let put = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).context(|| path.display().to_string())
    };
    put("report.html", &html::page(&report))?;
    let (page, figures) = markdown::page(&report);
    put("report.md", &page)?;
    std::fs::create_dir_all(folder.join(FIGURES))?;
    figures.iter().try_for_each(|(name, svg)| put(name, svg))
}

/// Text in HTML and SVG.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_no_harm_and_nothing_is_fetched() {
        let suite = Suite::parse(
            "name = \"<script>\"\nbounds = [\"abs:1\", \"abs:2\"]\n[[dataset]]\nname = \"d\"\npaths = [\"x\"]\n[[method]]\nname = \"a|<b>\"\nresiduum = []\n",
        )
        .unwrap();
        let line = |bits: f64, psnr: f64, bound: &str| {
            serde_json::json!({"dataset": "d", "variable": "<img src=x>", "bound": bound, "method": "a|<b>",
                "result": {"ratio": 32.0 / bits, "bits_per_value": bits, "psnr": psnr, "value_bytes": 100, "archive_bytes": 10,
                    "maps": {"original": "maps/1-original.png", "bits": "maps/1-bits.png"}, "timings": {"compress": {"seconds": 1.0, "stages": {"<a>": 1.0}}},
                    "bits": {"by_band": [1.0, 2.0], "by_scale": [1.0, 2.0]}}})
            .to_string()
        };
        let maps = ["maps/1-original.png", "maps/1-bits.png"].map(|name| (name.to_string(), vec![1, 2, 3])).into();
        let text = format!("{}\n{}\nnot json\n", line(1.0, 40.0, "abs:1"), line(2.0, 60.0, "abs:2"));
        let report = Report::new(&suite, &text, maps);
        let html = html::page(&report);
        assert!(html.contains("<svg") && html.contains("currentColor") && html.contains("&lt;script&gt;"));
        assert!(html.contains("src=\"data:image/png;base64,AQID\""));
        let html = html.replace("<img src=\"data:image/png;base64,", "");
        for tag in ["<script", "<img", "<link", "<iframe", "@import", "url(", "<b>", "<a>"] {
            assert!(!html.contains(tag), "{tag}");
        }
        let (page, figures) = markdown::page(&report);
        assert!(page.contains(r"a\|\<b\>") && page.contains("(maps/1-original.png)"), "{page}");
        assert!(figures.iter().all(|(name, svg)| page.contains(name) && !svg.contains("<b>")) && figures.len() >= 2);
    }
}
