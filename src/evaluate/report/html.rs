//! The page.

use super::style::SHEET;
use super::tables::Table;
use super::{Report, escaped};
use base64::Engine;
use serde_json::Value;

/// What is left to say of a kind of map, and its scale.
pub const KINDS: [(&str, &str); 3] = [
    (
        "residual",
        "What is left after prediction: the quantization codes, white where the prediction hit, blue below, red above it; full colour from eight bins on.",
    ),
    ("bits", "Bits that codes took, means over 9 × 9 values, from 1/16 (dark) to 16 (bright) on a logarithmic scale."),
    ("error", "Errors of restored values, from minus to plus the bound."),
];

pub const RESIDUALS: &str = "What a predictor leaves is coded, and how small that gets depends on its structure, not its variance alone. H0 is the \
entropy of the quantization codes taken one by one, in bits a value: what a coder without contexts needs. H given neighbours, or given the same \
place one step before, is what contexts can bring it down to. Where H0 and the conditional entropies differ much, or Moran's I and the correlation \
in time are far from 0, the residual is patchy: a coder that looks at single codes wastes bits there. Runs are of zeros along rows. SZ3 does not show its codes: its restored \
values went through our interpolation with the same bins, which gives its very codes where both choose the same formulas, and codes much like \
them elsewhere (replayed). A method whose codes are not known has none of this, only the figures of its error below.";

pub const CELLS: &str = "error/bound is the largest error over the bound; bias/bound the mean error over it; lag-1 the autocorrelation of the error \
along rows; spectral dB the log-spectral distance of zonal power spectra; data SSIM the structural similarity for floating-point fields; H0 of \
error the entropy of the error in eighths of the bound. SSIM, spectra and entropies are of at most 32 images a variable. Every figure was computed from \
an archive that was written and read back; times are of files to files, on the host above. SZ3 and zfp, where they take part, are handed \
slabs of up to 64 MiB and use one thread.";

pub fn page(report: &Report<'_>) -> String {
    let title = escaped(&report.suite.name);
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{SHEET}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
        escaped(&report.about())
    );
    let mapped = escaped(report.suite.mapped_bound());
    out +=
        "<nav><a href=\"#ratios\">Ratios</a><a href=\"#residuals\">Residuals</a><a href=\"#time\">Time and memory</a>";
    for (i, field) in report.fields.iter().enumerate() {
        out += &format!("<a href=\"#field{i}\">{}</a>", escaped(field));
    }
    out += "<a href=\"#cells\">All cells</a></nav>\n";

    out += "<section id=\"ratios\">\n<h2>Ratios</h2>\n<p>All variables together: bytes of values over bytes of archives.</p>\n";
    out += &table(&report.totals());
    if let Some(svg) = report.ratios() {
        out += &format!("<h3>By variable, at {mapped}</h3>\n<figure>{svg}</figure>\n");
    }
    out += "</section>\n";

    out += &format!("<section id=\"residuals\">\n<h2>Residuals at {mapped}</h2>\n<p>{}</p>\n", escaped(RESIDUALS));
    out += &table(&report.residuals());
    out += "</section>\n";

    out += &format!("<section id=\"time\">\n<h2>Time and memory at {mapped}</h2>\n");
    out += &table(&report.speeds());
    if let Some(svg) = report.stages() {
        out += &format!(
            "<figure>{svg}<figcaption>Wall time by stage. Fits and the fitted predictor's trials are part of predict; restore is from codes, and for the fitted predictor from bytes, to values.</figcaption></figure>\n"
        );
    }
    out += "</section>\n";

    for (i, field) in report.fields.iter().enumerate() {
        out += &format!("<section id=\"field{i}\">\n<h2>{}</h2>\n<div class=\"two\">\n", escaped(field));
        for (svg, caption) in report.charts(field) {
            out += &format!("<figure>{svg}<figcaption>{caption}</figcaption></figure>\n");
        }
        out += "</div>\n";
        out += &maps(report, field);
        out += "</section>\n";
    }
    out += "<section id=\"cells\">\n<h2>All cells</h2>\n";
    out += &table(&report.all());
    for failure in report.failures() {
        out += &format!("<p class=\"soft\">Failed: {}</p>\n", escaped(&failure));
    }
    out + &format!("<p class=\"soft\">{}</p>\n</section>\n</body>\n</html>\n", escaped(CELLS))
}

/// Maps side by side: one kind a row, a method a map.
fn maps(report: &Report<'_>, field: &str) -> String {
    let image = |png: &[u8], caption: &str| {
        let data = base64::engine::general_purpose::STANDARD.encode(png);
        let caption = escaped(caption);
        format!(
            "<figure><img src=\"data:image/png;base64,{data}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>\n"
        )
    };
    let mut out = String::new();
    let original = report.methods.iter().find_map(|m| report.map(field, m, "original"));
    for (kind, legend) in KINDS {
        let all: Vec<_> = report.methods.iter().filter_map(|m| Some((m, report.map(field, m, kind)?))).collect();
        if all.is_empty() {
            continue;
        }
        let scale = if kind == "bits" { "amount" } else { "signed" };
        out += &format!(
            "<h3>Maps: {kind}</h3>\n<p class=\"soft\"><span class=\"scale {scale}\"></span>{legend}</p>\n<div class=\"maps\">\n"
        );
        if kind == "residual"
            && let Some((_, png)) = original
        {
            out += &image(png, "the values");
        }
        for (method, (_, png)) in all {
            out += &image(png, &report.caption(field, method, kind));
        }
        out += "</div>\n";
    }
    out
}

/// How many there are of what a noun says.
fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

impl Report<'_> {
    /// What was measured, in a line.
    pub fn about(&self) -> String {
        let first = self.cells.first().map(|c| &c.value);
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("?").to_string();
        let host = first.map(|v| &v["host"]);
        let of_host = |name: &str| host.and_then(|h| h.get(name));
        let threads = of_host("threads").and_then(Value::as_u64).unwrap_or(0);
        format!(
            "{}, {}, {}; residuum {}; {} of {} ({} {})",
            counted(self.fields.len() as u64, "variable"),
            counted(self.bounds.len() as u64, "bound"),
            counted(self.methods.len() as u64, "method"),
            text(first.and_then(|v| v.get("version"))),
            counted(threads, "thread"),
            text(of_host("cpu")),
            text(of_host("os")),
            text(of_host("arch")),
        )
    }

    /// Charts of a field, with captions.
    pub fn charts(&self, field: &str) -> Vec<(String, &'static str)> {
        let all = [
            (self.rate_distortion(field), "Rate and distortion: higher and further left is better."),
            (
                self.spectra(field),
                "Power spectra along rows: the values, and what each method's prediction left of them.",
            ),
            (self.bits_by_latitude(field), "Where bits go, by latitude."),
            (
                self.bits_by_scale(field),
                "Where bits go, by scale: values whose row and column are multiples of a power of 2 and of no larger one.",
            ),
        ];
        all.into_iter().filter_map(|(svg, caption)| Some((svg?, caption))).collect()
    }

    /// What to say below a map.
    pub fn caption(&self, field: &str, method: &str, kind: &str) -> String {
        let Some(cell) = self.cell(field, self.suite.mapped_bound(), method) else { return method.to_string() };
        let figure = |path: &[&str], digits: usize| cell.figure(path).map_or("–".into(), |x| format!("{x:.digits$}"));
        match kind {
            "residual" => format!(
                "{method}: H0 {}, given neighbours {}, given the step before {} bits; Moran's I {}",
                figure(&["structure", "entropy"], 2),
                figure(&["structure", "entropy_given_left_and_up"], 2),
                figure(&["structure", "entropy_given_step_before"], 2),
                figure(&["structure", "moran_i"], 2),
            ),
            "bits" => format!("{method}: {} bits a value", figure(&["bits_per_value"], 3)),
            _ => format!("{method}: PSNR {} dB, lag-1 {}", figure(&["psnr"], 1), figure(&["error_lag1"], 2)),
        }
    }
}

fn table(table: &Table) -> String {
    let class = |k: usize| if k < table.n_names { " class=\"name\"" } else { "" };
    let heads: String =
        table.heads.iter().enumerate().map(|(k, h)| format!("<th{}>{}</th>", class(k), escaped(h))).collect();
    let mut out = format!("<div class=\"wide\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n");
    for (g, group) in table.groups.iter().enumerate() {
        for (r, row) in group.iter().enumerate() {
            out += if r == 0 && g > 0 { "<tr class=\"first\">" } else { "<tr>" };
            for (k, text) in row.iter().enumerate() {
                let class = if table.best.contains(&(g, r, k)) { " class=\"best\"" } else { class(k) };
                // What the row above says already is left out.
                let is_same = k + 1 < table.n_names && r > 0 && (0..=k).all(|k| group[r - 1][k] == row[k]);
                out += &format!("<td{class}>{}</td>", if is_same { String::new() } else { escaped(text) });
            }
            out += "</tr>\n";
        }
    }
    out + "</tbody>\n</table></div>\n"
}
