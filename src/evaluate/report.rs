//! The report of a suite: one HTML file without anything from elsewhere, and Markdown, from the lines of its results.

use super::suite::Suite;
use plotters::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Colours of methods; told apart in light and dark, and by people who see colours differently (Okabe and Ito).
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(140, 140, 140),
];

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; background: #fff; color: #1a1a1a; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.6rem; border-bottom: 1px solid #8884; text-align: right; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
svg { width: 100%; max-width: 44rem; height: auto; }
.wide { overflow-x: auto; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e4e4e4; } }
@media print { body { max-width: none; margin: 0; background: #fff; color: #000; } section { break-inside: avoid; } table { font-size: 0.6rem; } }
";

/// Columns of figures: heading, path in a result, digits after the point.
const COLUMNS: [(&str, &[&str], usize); 11] = [
    ("ratio", &["ratio"], 2),
    ("bits/value", &["bits_per_value"], 3),
    ("PSNR dB", &["psnr"], 1),
    ("data SSIM", &["ssim"], 5),
    ("error/bound", &["max_error_over_bound"], 4),
    ("violations", &["violations"], 0),
    ("lag-1", &["error_lag1"], 3),
    ("H0", &["structure", "entropy"], 3),
    ("H given left, up", &["structure", "entropy_given_left_and_up"], 3),
    ("Moran's I", &["structure", "moran_i"], 3),
    ("compress MB/s", &["compress_mb_per_s"], 0),
];

/// A line of the results.
struct Line {
    field: String,
    bound: String,
    method: String,
    value: Value,
}

impl Line {
    fn figure(&self, path: &[&str]) -> Option<f64> {
        path.iter().try_fold(&self.value["result"], |v, name| v.get(name))?.as_f64()
    }
}

/// Files of the report by name, from the text of the results.
pub fn files(suite: &Suite, results: &str) -> Vec<(&'static str, String)> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let lines: Vec<Line> = results
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .map(|value| Line {
            field: format!("{} {}", text(&value["dataset"]), text(&value["variable"])),
            bound: text(&value["bound"]),
            method: text(&value["method"]),
            value,
        })
        .collect();
    let fields: BTreeSet<&str> = lines.iter().map(|l| l.field.as_str()).collect();
    let charts: Vec<(&str, String)> = fields.iter().filter_map(|f| Some((*f, chart(&lines, f, suite)?))).collect();
    vec![("report.html", html(suite, &lines, &charts)), ("report.md", markdown(suite, &lines))]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Headings and rows of the table of all cells.
fn table(lines: &[Line]) -> (Vec<String>, Vec<Vec<String>>) {
    let heads = ["field", "bound", "method"].into_iter().chain(COLUMNS.iter().map(|c| c.0)).map(String::from).collect();
    let row = |l: &Line| {
        let figure = |c: &(&str, &[&str], usize)| l.figure(c.1).map_or("–".into(), |x| format!("{x:.*}", c.2));
        let name = match l.value["error"].as_str() {
            Some(error) => format!("{} (failed: {error})", l.method),
            None => l.method.clone(),
        };
        [l.field.clone(), l.bound.clone(), name].into_iter().chain(COLUMNS.iter().map(figure)).collect()
    };
    (heads, lines.iter().map(row).collect())
}

/// Ratios of whole datasets, all variables together: by bound, then method.
fn totals(lines: &[Line]) -> BTreeMap<(String, String), f64> {
    let mut sums: BTreeMap<(String, String), (f64, f64)> = BTreeMap::new();
    for l in lines {
        if let (Some(before), Some(after)) = (l.figure(&["value_bytes"]), l.figure(&["archive_bytes"])) {
            let sum = sums.entry((l.bound.clone(), l.method.clone())).or_default();
            *sum = (sum.0 + before, sum.1 + after);
        }
    }
    sums.into_iter().map(|(k, (before, after))| (k, before / after)).collect()
}

fn markdown(suite: &Suite, lines: &[Line]) -> String {
    let cell = |s: &String| s.replace('|', "\\|").replace('\n', " ");
    let mut out = format!("# {}\n\nAll variables together:\n\n| bound | method | ratio |\n|---|---|---|\n", suite.name);
    for ((bound, method), ratio) in totals(lines) {
        out += &format!("| {} | {} | {ratio:.2} |\n", cell(&bound), cell(&method));
    }
    let (heads, rows) = table(lines);
    out += &format!("\n| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for row in rows {
        out += &format!("| {} |\n", row.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    out + "\n" + NOTES + "\n"
}

const NOTES: &str = "H0 and the conditional entropy, in bits a value, and Moran's I are those of the error in eighths of the bound, of at \
most 32 images a variable. lag-1 is the autocorrelation of the error along rows. Times are of files to files, on the host named in results.jsonl.";

fn html(suite: &Suite, lines: &[Line], charts: &[(&str, String)]) -> String {
    let title = escaped(&suite.name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    out +=
        "<section>\n<h2>All variables together</h2>\n<table>\n<tr><th>bound</th><th>method</th><th>ratio</th></tr>\n";
    for ((bound, method), ratio) in totals(lines) {
        out += &format!("<tr><td>{}</td><td>{}</td><td>{ratio:.2}</td></tr>\n", escaped(&bound), escaped(&method));
    }
    out += "</table>\n</section>\n";
    for (field, svg) in charts {
        out += &format!("<section>\n<h2>{}</h2>\n{svg}\n</section>\n", escaped(field));
    }
    let (heads, rows) = table(lines);
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escaped(c))).collect()
    };
    out += &format!("<section>\n<h2>All cells</h2>\n<div class=\"wide\"><table>\n<tr>{}</tr>\n", cells("th", &heads));
    rows.iter().for_each(|row| out += &format!("<tr>{}</tr>\n", cells("td", row)));
    out + &format!("</table></div>\n<p>{NOTES}</p>\n</section>\n</body>\n</html>\n")
}

/// PSNR against bits a value, a line a method.
fn chart(lines: &[Line], field: &str, suite: &Suite) -> Option<String> {
    let points = |method: &str| -> Vec<(f64, f64)> {
        let of = lines.iter().filter(|l| l.field == field && l.method == method);
        let mut points: Vec<(f64, f64)> =
            of.filter_map(|l| Some((l.figure(&["bits_per_value"])?, l.figure(&["psnr"])?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let curves: Vec<(&str, Vec<(f64, f64)>)> =
        suite.method.iter().map(|m| (m.name.as_str(), points(&m.name))).collect();
    let all = || curves.iter().flat_map(|c| &c.1);
    let most = all().map(|p| p.0).fold(0.0, f64::max);
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.1), h.max(p.1)));
    if most <= 0.0 || low > high {
        return None;
    }
    let mut svg = String::new();
    draw(&mut svg, &curves, most * 1.05, low - 5.0, high + 5.0).ok()?;
    // Black is what the page writes in: dark pages have light text.
    Some(svg.replace("#000000", "currentColor"))
}

type Curves<'a> = [(&'a str, Vec<(f64, f64)>)];

fn draw(
    svg: &mut String,
    curves: &Curves<'_>,
    most: f64,
    low: f64,
    high: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, (700, 380)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..most, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(128, 128, 128).mix(0.3))
        .x_desc("bits a value")
        .y_desc("PSNR in dB")
        .draw()?;
    for (i, (name, points)) in curves.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).border_style(TRANSPARENT).draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_no_harm_and_nothing_is_fetched() {
        let suite = Suite::parse(
            "name = \"<script>\"\nbounds = [\"abs:1\"]\n[[dataset]]\nname = \"d\"\npaths = [\"x\"]\n[[method]]\nname = \"a|<b>\"\nresiduum = {}\n",
        )
        .unwrap();
        let line = |bits: f64, psnr: f64| {
            serde_json::json!({"dataset": "d", "variable": "<img src=x>", "bound": "abs:1", "method": "a|<b>",
                "result": {"ratio": 32.0 / bits, "bits_per_value": bits, "psnr": psnr, "value_bytes": 100, "archive_bytes": 10}})
            .to_string()
        };
        let files = files(&suite, &format!("{}\n{}\nnot json\n", line(1.0, 40.0), line(2.0, 60.0)));
        let html = &files[0].1;
        assert!(html.contains("<svg") && html.contains("currentColor") && html.contains("&lt;script&gt;"));
        for tag in ["<script", "<img", "<link", "<iframe", "@import", "url("] {
            assert!(!html.contains(tag), "{tag}");
        }
        assert!(files[1].1.contains("a\\|<b> | 10.00"), "{}", files[1].1);
    }
}
