//! Charts with axes.

use super::Report;
use super::bars::key;
use super::style::{COLORS, css_of};
use plotters::prelude::*;

/// A line: its name, its colour, whether it is dashed, its points.
struct Line {
    name: String,
    color: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// What is drawn, and how axes are labelled.
struct Chart {
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
    size: (u32, u32),
    label_x: fn(&f64) -> String,
    label_y: fn(&f64) -> String,
    /// Whether the y axis starts at 0.
    from_zero: bool,
}

fn plain(x: &f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// The number whose binary logarithm is given.
fn power_of_two(x: &f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("{}", x.round().exp2()) } else { String::new() }
}

/// The number whose decimal logarithm is given.
fn power_of_ten(x: &f64) -> String {
    if (x - x.round()).abs() < 1e-6 { format!("1e{}", x.round()) } else { String::new() }
}

impl Report<'_> {
    /// PSNR against bits a value, a line a method.
    pub fn rate_distortion(&self, field: &str) -> Option<String> {
        let line = |i: usize, method: &str| {
            let of = self.cells.iter().filter(|c| c.field == field && c.method == method);
            let mut points: Vec<(f64, f64)> =
                of.filter_map(|c| Some((c.figure(&["bits_per_value"])?, c.figure(&["psnr"])?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line { name: method.to_string(), color: COLORS[i % COLORS.len()], dashed: false, points }
        };
        let lines = self.methods.iter().enumerate().map(|(i, m)| line(i, m)).collect();
        draw(&Chart {
            x: "bits a value",
            y: "PSNR in dB",
            lines,
            size: (460, 320),
            label_x: plain,
            label_y: plain,
            from_zero: false,
        })
    }

    /// Power of the values and of each residual by octave of the wavenumber, at the mapped bound.
    pub fn spectra(&self, field: &str) -> Option<String> {
        let octaves = |power: Vec<f64>| -> Vec<(f64, f64)> {
            let points = power.iter().enumerate().filter(|(_, p)| **p > 0.0);
            points.map(|(octave, p)| (octave as f64, p.log10())).collect()
        };
        let mut lines = vec![];
        for (i, method) in self.methods.iter().enumerate() {
            let Some(cell) = self.cell(field, self.suite.mapped_bound(), method) else { continue };
            if lines.is_empty()
                && let Some(power) = cell.list(&["power_by_octave", "original"])
            {
                let color = RGBColor(128, 128, 128);
                lines.push(Line { name: "the values".into(), color, dashed: false, points: octaves(power) });
            }
            let color = COLORS[i % COLORS.len()];
            match cell.list(&["power_by_octave", "residual"]) {
                Some(power) => {
                    lines.push(Line { name: method.to_string(), color, dashed: false, points: octaves(power) })
                }
                None => lines.extend(cell.list(&["power_by_octave", "error"]).map(|power| Line {
                    name: format!("{method} (error)"),
                    color,
                    dashed: true,
                    points: octaves(power),
                })),
            }
        }
        cut_below(&mut lines);
        draw(&Chart {
            x: "wavenumber along rows, from",
            y: "power of the octave",
            lines,
            size: (460, 320),
            label_x: power_of_two,
            label_y: power_of_ten,
            from_zero: false,
        })
    }

    /// Bits a value by latitude, or from the first row to the last.
    pub fn bits_by_latitude(&self, field: &str) -> Option<String> {
        let bound = self.suite.mapped_bound();
        let mut has_latitudes = false;
        let mut lines = vec![];
        for (i, method) in self.methods.iter().enumerate() {
            let Some(cell) = self.cell(field, bound, method) else { continue };
            let Some(bits) = cell.list(&["bits", "by_band"]) else { continue };
            let latitudes = cell.list(&["band_latitudes"]);
            has_latitudes = latitudes.is_some();
            let rows = || (0..bits.len()).map(|k| (k as f64 + 0.5) / bits.len() as f64).collect();
            let points = latitudes.unwrap_or_else(rows).into_iter().zip(bits).collect();
            lines.push(Line { name: method.to_string(), color: COLORS[i % COLORS.len()], dashed: false, points });
        }
        draw(&Chart {
            x: if has_latitudes { "latitude" } else { "first row to last" },
            y: "bits a value",
            lines,
            size: (460, 280),
            label_x: plain,
            label_y: plain,
            from_zero: true,
        })
    }

    /// Bits a value by scale.
    pub fn bits_by_scale(&self, field: &str) -> Option<String> {
        let line = |(i, method): (usize, &&str)| {
            let bits = self.cell(field, self.suite.mapped_bound(), method)?.list(&["bits", "by_scale"])?;
            let points = (0..bits.len()).map(|k| k as f64).zip(bits).collect();
            Some(Line { name: method.to_string(), color: COLORS[i % COLORS.len()], dashed: false, points })
        };
        draw(&Chart {
            x: "rows and columns that are multiples of",
            y: "bits a value",
            lines: self.methods.iter().enumerate().filter_map(line).collect(),
            size: (460, 280),
            label_x: power_of_two,
            label_y: plain,
            from_zero: true,
        })
    }
}

/// Ends the first line where it falls a decade below all others: the spectrum of a model's field drops to nothing where the model ends,
/// and the others would be flat beside it.
fn cut_below(lines: &mut [Line]) {
    let Some((first, others)) = lines.split_first_mut() else { return };
    let floor = others.iter().flat_map(|l| &l.points).map(|p| p.1).fold(f64::INFINITY, f64::min) - 1.0;
    let Some(end) = first.points.iter().position(|p| p.1 < floor) else { return };
    let (Some(&before), after) = (first.points[..end].last(), first.points[end]) else { return };
    let x = before.0 + (after.0 - before.0) * (before.1 - floor) / (before.1 - after.1);
    first.points.truncate(end);
    first.points.push((x, floor));
}

/// The chart as SVG; `None` if there are no points.
fn draw(chart: &Chart) -> Option<String> {
    let points = || chart.lines.iter().flat_map(|l| &l.points);
    let span =
        |of: &dyn Fn(&(f64, f64)) -> f64| points().map(of).fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    let ((left, right), (low, high)) = (span(&|p| p.0), span(&|p| p.1));
    if left > right || ![left, right, low, high].iter().all(|x| x.is_finite()) {
        return None;
    }
    // A single point, or points on a line, have some room around them too.
    let room = |a: f64, b: f64| if b > a { (b - a) * 0.06 } else { a.abs().max(1.0) * 0.06 };
    let across = left - room(left, right)..right + room(left, right);
    let bottom = if chart.from_zero { 0.0 } else { low - room(low, high) };
    let top = high + room(bottom, high);
    let mut svg = String::new();
    paint(&mut svg, chart, across, bottom..top).ok()?;
    // Black is what the page writes in: dark pages have light text. The size is the page's, and the key has room above.
    let (width, height) = chart.size;
    let svg = svg.replace("#000000", "currentColor");
    let (_, content) = svg.split_once('>')?;
    let names: Vec<_> =
        chart.lines.iter().filter(|l| !l.points.is_empty()).map(|l| (l.name.as_str(), css_of(l.color))).collect();
    let mut above = String::new();
    let taken = key(&mut above, &names, width.into());
    Some(format!(
        "<svg viewBox=\"0 -{taken} {width} {}\" xmlns=\"http://www.w3.org/2000/svg\"><g font-family=\"sans-serif\" font-size=\"12.5\" \
         transform=\"translate(0 -{taken})\">{above}</g>{content}",
        f64::from(height) + taken
    ))
}

fn paint(
    svg: &mut String,
    chart: &Chart,
    x: std::ops::Range<f64>,
    y: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, chart.size).into_drawing_area();
    let mut on =
        ChartBuilder::on(&root).margin(10).x_label_area_size(42).y_label_area_size(58).build_cartesian_2d(x, y)?;
    on.configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(128, 128, 128).mix(0.25))
        .axis_style(RGBColor(128, 128, 128))
        .x_desc(chart.x)
        .y_desc(chart.y)
        .x_labels(9)
        .y_labels(7)
        .x_label_formatter(&chart.label_x)
        .y_label_formatter(&chart.label_y)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for line in chart.lines.iter().filter(|l| !l.points.is_empty()) {
        let style = line.color.stroke_width(2);
        let points = line.points.iter().copied();
        if line.dashed {
            on.draw_series(DashedLineSeries::new(points, 5, 4, style))?;
        } else {
            on.draw_series(LineSeries::new(points, style).point_size(2))?;
        }
    }
    root.present()?;
    Ok(())
}
