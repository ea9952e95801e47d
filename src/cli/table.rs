//! Tables and numbers as people read them.

use std::fmt;

/// Rows of cells in columns: the first ones aligned left, the others right.
pub struct Table {
    n_left: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(left: &[&str], right: &[&str]) -> Self {
        Self { n_left: left.len(), rows: vec![left.iter().chain(right).map(ToString::to_string).collect()] }
    }

    /// Adds a row. Names come out of files: what would steer a terminal is shown as `?`.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|c| c.replace(char::is_control, "?")).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let gap = if c == 0 { "" } else { "  " };
                line += &if c < self.n_left { format!("{gap}{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes: `12.30 MiB`.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

/// Four significant digits.
pub fn number(x: f64) -> String {
    let magnitude = x.abs();
    if x == 0.0 || !x.is_finite() {
        format!("{x}")
    } else if (1e-3..1e5).contains(&magnitude) {
        let decimals = (3 - magnitude.log10().floor() as i32).max(0) as usize;
        format!("{x:.decimals$}")
    } else {
        format!("{x:.3e}")
    }
}

/// A positive number with four digits, rounded down: below `x` unless it has no more digits.
pub fn number_below(x: f64) -> String {
    let text = number(x);
    if text.parse().is_ok_and(|rounded: f64| rounded < x) || x <= 0.0 || !x.is_finite() {
        return text;
    }
    // A unit of the fourth digit less.
    number(x - 10f64.powi(x.log10().floor() as i32 - 3))
}

/// A quotient with a fitting number of digits, or a dash if there is none.
pub fn quotient(a: f64, b: f64) -> String {
    if b == 0.0 || a == 0.0 { "-".into() } else { number(a / b) }
}

/// A shape: `12x181x360`.
pub fn shape(shape: &[u64]) -> String {
    if shape.is_empty() { "scalar".into() } else { shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x") }
}

/// Bytes of values in some time: `1.23 s, 456 MB/s`.
pub fn speed(n_bytes: u64, time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    let rate = n_bytes as f64 / 1e6 / seconds.max(1e-9);
    if rate < 10.0 { format!("{seconds:.2} s, {rate:.1} MB/s") } else { format!("{seconds:.2} s, {rate:.0} MB/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name"], &["n"]);
        table.row(vec!["ä".into(), "12345".into()]);
        assert_eq!(table.to_string(), "name      n\nä     12345\n");
    }

    #[test]
    fn numbers_below_are_below() {
        let texts = [9.765_625e-4, 0.012_345_6, 0.5, 1.0, 123.449, 1.0004].map(number_below);
        assert_eq!(texts, ["9.765e-4", "0.01234", "0.4999", "0.9990", "123.4", "1.000"]);
    }

    #[test]
    fn numbers_have_four_digits() {
        let texts = [0.0, 0.01, 12.345_6, 123_456.0, 1e-7, f64::INFINITY].map(number);
        assert_eq!(texts, ["0", "0.01000", "12.35", "1.235e5", "1.000e-7", "inf"]);
    }
}
