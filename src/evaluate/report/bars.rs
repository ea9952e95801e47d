//! Bars, drawn as SVG by hand.

use super::style::css;
use super::{Report, escaped};
use crate::stages::Stage;

/// About as many as the page has pixels, so that letters are as large as elsewhere.
const WIDTH: f64 = 940.0;

/// A key to colours in one or more lines of this width; the height that it took.
pub fn key(svg: &mut String, names: &[(&str, String)], width: f64) -> f64 {
    let (mut x, mut line) = (4.0, 0.0);
    for (name, color) in names {
        let own = 28.0 + 7.2 * name.chars().count() as f64;
        if x + own > width && x > 4.0 {
            (x, line) = (4.0, line + 1.0);
        }
        let top = 2.0 + 20.0 * line;
        *svg += &format!("<rect x=\"{x:.0}\" y=\"{top:.0}\" width=\"12\" height=\"12\" fill=\"{color}\"/>");
        *svg += &text(x + 17.0, top + 10.5, "start", name);
        x += own;
    }
    20.0 * (line + 1.0) + 8.0
}

/// Names in the order of the colours.
fn colored<'n>(names: &[&'n str]) -> Vec<(&'n str, String)> {
    names.iter().enumerate().map(|(i, name)| (*name, css(i))).collect()
}

fn text(x: f64, y: f64, anchor: &str, what: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"currentColor\">{}</text>", escaped(what))
}

fn framed(content: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"12.5\">{content}</svg>"
    )
}

impl Report<'_> {
    /// Ratio of each variable at the mapped bound: a group of bars a variable, a bar a method.
    pub fn ratios(&self) -> Option<String> {
        let bound = self.suite.mapped_bound();
        let ratio = |field: &str, method: &str| self.cell(field, bound, method).and_then(|c| c.figure(&["ratio"]));
        let all = self.fields.iter().flat_map(|f| self.methods.iter().map(move |m| ratio(f, m)));
        let most = all.flatten().fold(0.0, f64::max);
        if most <= 0.0 {
            return None;
        }
        let longest = self.fields.iter().map(|f| f.chars().count()).max().unwrap_or(0);
        let left = (7.4 * longest as f64 + 12.0).min(260.0);
        let (bar, gap) = (13.0, 10.0);
        let mut svg = String::new();
        let mut y = key(&mut svg, &colored(&self.methods), WIDTH);
        for field in &self.fields {
            let height = bar * self.methods.len() as f64;
            svg += &text(left - 8.0, y + height / 2.0 + 4.0, "end", field);
            for (i, method) in self.methods.iter().enumerate() {
                if let Some(r) = ratio(field, method) {
                    let width = (WIDTH - left - 60.0) * r / most;
                    let top = y + bar * i as f64;
                    svg += &format!(
                        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{}\"/>",
                        bar - 1.5,
                        css(i)
                    );
                    svg += &text(left + width + 5.0, top + 10.0, "start", &format!("{r:.2}"));
                }
            }
            y += height + gap;
        }
        Some(framed(&svg, y))
    }

    /// Where the time goes: for each method a bar a direction, seconds of all variables at the mapped bound.
    pub fn stages(&self) -> Option<String> {
        let bound = self.suite.mapped_bound();
        let names: Vec<&str> = Stage::ALL.map(Stage::name).into_iter().chain(["other"]).collect();
        let mut bars: Vec<(String, Vec<f64>)> = vec![];
        for (method, m) in self.methods.iter().zip(&self.suite.method) {
            for direction in ["compress", "decompress"] {
                let mut sums = vec![0.0; names.len()];
                // Variables that were compressed together have the same times: they count once.
                let n = if m.forecast().is_some() { 1 } else { self.fields.len() };
                for cell in self.fields.iter().filter_map(|f| self.cell(f, bound, method)).take(n) {
                    let timing = &cell.value["result"]["timings"][direction];
                    let stage = |name: &str| timing["stages"][name].as_f64().unwrap_or(0.0);
                    let known: f64 = names.iter().map(|name| stage(name)).sum();
                    names.iter().zip(&mut sums).for_each(|(name, sum)| *sum += stage(name));
                    sums[names.len() - 1] += (timing["seconds"].as_f64().unwrap_or(0.0) - known).max(0.0);
                }
                if sums.iter().sum::<f64>() > 0.0 {
                    let label = if direction == "compress" { method.to_string() } else { "restore".to_string() };
                    bars.push((label, sums));
                }
            }
        }
        let most = bars.iter().map(|b| b.1.iter().sum::<f64>()).fold(0.0, f64::max);
        if most <= 0.0 {
            return None;
        }
        let longest = bars.iter().map(|b| b.0.chars().count()).max().unwrap_or(0);
        let left = (7.4 * longest as f64 + 12.0).min(260.0);
        let mut svg = String::new();
        let mut y = key(&mut svg, &colored(&names), WIDTH);
        for (label, sums) in &bars {
            if label != "restore" {
                y += 6.0;
            }
            svg += &text(left - 8.0, y + 11.0, "end", label);
            let mut x = left;
            for (i, seconds) in sums.iter().enumerate() {
                let width = (WIDTH - left - 70.0) * seconds / most;
                svg += &format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"{}\"/>",
                    css(i)
                );
                x += width;
            }
            svg += &text(x + 5.0, y + 11.0, "start", &format!("{:.2} s", sums.iter().sum::<f64>()));
            y += 17.0;
        }
        Some(framed(&svg, y + 4.0))
    }
}
