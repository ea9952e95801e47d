//! The same in Markdown, with figures as SVG files.

use super::html::{CELLS, KINDS, RESIDUALS};
use super::style::FIGURE;
use super::tables::Table;
use super::{FIGURES, Report};

/// The page, and names and contents of its figures.
pub fn page(report: &Report<'_>) -> (String, Vec<(String, String)>) {
    let mut figures: Vec<(String, String)> = vec![];
    let mut figure = |name: String, svg: String, caption: &str| {
        let name = format!("{FIGURES}/{name}.svg");
        // Styles go inside the figure.
        let end = svg.find('>').map_or(0, |at| at + 1);
        figures.push((name.clone(), format!("{}{FIGURE}{}", &svg[..end], &svg[end..])));
        format!("![{caption}]({name})\n")
    };
    let mapped = report.suite.mapped_bound();
    let mut out = format!(
        "# {}\n\n{}\n\n## Ratios\n\nAll variables together:\n\n",
        plain(&report.suite.name),
        plain(&report.about())
    );
    out += &table(&report.totals());
    if let Some(svg) = report.ratios() {
        out += &format!("\nBy variable, at {mapped}:\n\n{}", figure("ratios".into(), svg, "ratios"));
    }
    out += &format!("\n## Residuals at {mapped}\n\n{RESIDUALS}\n\n");
    out += &table(&report.residuals());
    out += &format!("\n## Time and memory at {mapped}\n\n");
    out += &table(&report.speeds());
    if let Some(svg) = report.stages() {
        out += &format!("\n{}", figure("stages".into(), svg, "time by stage"));
    }
    for (i, field) in report.fields.iter().enumerate() {
        out += &format!("\n## {}\n\n", plain(field));
        for (k, (svg, caption)) in report.charts(field).into_iter().enumerate() {
            out += &format!("{}\n{caption}\n\n", figure(format!("{i}-{k}"), svg, "chart"));
        }
        if let Some((name, _)) = report.methods.iter().find_map(|m| report.map(field, m, "original")) {
            out += &format!("![the values]({name})\n\n");
        }
        for (kind, legend) in KINDS {
            let all: Vec<_> = report.methods.iter().filter_map(|m| Some((m, report.map(field, m, kind)?.0))).collect();
            if all.is_empty() {
                continue;
            }
            out += &format!("{legend}\n\n");
            for (method, name) in all {
                let caption = plain(&report.caption(field, method, kind));
                out += &format!("![{caption}]({name})\n{caption}\n\n");
            }
        }
    }
    out += "\n## All cells\n\n";
    out += &table(&report.all());
    for failure in report.failures() {
        out += &format!("\nFailed: {}\n", plain(&failure));
    }
    (format!("{out}\n{CELLS}\n"), figures)
}

/// Text that is no markup.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '|' | '<' | '>' | '[' | ']' | '*' | '`' | '\\' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

fn table(table: &Table) -> String {
    let mut out = format!("| {} |\n|", table.heads.iter().map(|h| plain(h)).collect::<Vec<_>>().join(" | "));
    (0..table.heads.len()).for_each(|k| out += if k < table.n_names { "---|" } else { "--:|" });
    out.push('\n');
    for row in table.groups.iter().flatten() {
        out += &format!("| {} |\n", row.iter().map(|c| plain(c)).collect::<Vec<_>>().join(" | "));
    }
    out
}
