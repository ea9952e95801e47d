//! What an archive says about a variable, as tables show it.

use super::table;
use crate::container::Archive;
use crate::error::{Context, Result};
use crate::field::DType;
use crate::plan::Treatment;
use std::io::{Read, Seek};

/// A variable of an archive.
pub struct VariableReport {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    /// Number of values.
    pub n: u64,
    /// The bound as asked for, or `exact`.
    pub bound: String,
    /// Bytes of the values; none for text of any length.
    pub value_bytes: Option<u64>,
    /// Bytes in the archive, plan and tiles.
    pub stored_bytes: u64,
}

impl VariableReport {
    /// Variable `i` of an archive.
    ///
    /// # Errors
    /// As [`Archive::variable`].
    pub fn new<R: Read + Seek>(archive: &Archive<R>, i: usize) -> Result<Self> {
        let v = &archive.schema().variables[i];
        let stored = archive.variable(i).context(|| format!("variable {:?}", v.name()))?;
        let bound = match &stored.plan.treatment {
            Treatment::Exact => "exact".to_string(),
            Treatment::Lossy { asked, .. } => asked.to_string(),
        };
        Ok(Self {
            name: v.name().to_string(),
            dtype: v.dtype,
            shape: v.shape.clone(),
            n: v.len(),
            bound,
            value_bytes: (v.dtype != DType::Text).then(|| v.len().saturating_mul(v.dtype.size() as u64)),
            stored_bytes: stored.stored_bytes,
        })
    }

    /// All variables of an archive.
    ///
    /// # Errors
    /// As [`VariableReport::new`].
    pub fn all<R: Read + Seek>(archive: &Archive<R>) -> Result<Vec<Self>> {
        (0..archive.schema().variables.len()).map(|i| Self::new(archive, i)).collect()
    }

    /// Bytes of values over bytes stored.
    pub fn ratio(&self) -> Option<f64> {
        self.value_bytes.filter(|&b| b > 0 && self.stored_bytes > 0).map(|b| b as f64 / self.stored_bytes as f64)
    }

    /// Bits stored for a value.
    pub fn bits_per_value(&self) -> Option<f64> {
        (self.n > 0).then(|| self.stored_bytes as f64 * 8.0 / self.n as f64)
    }

    /// Cells of the columns before, after, ratio, bits/value.
    pub fn size_cells(&self) -> [String; 4] {
        [
            self.value_bytes.map_or("-".into(), table::bytes),
            table::bytes(self.stored_bytes),
            self.ratio().map_or("-".into(), table::number),
            self.bits_per_value().map_or("-".into(), table::number),
        ]
    }
}

/// Headings of [`VariableReport::size_cells`].
pub const SIZE_HEADINGS: [&str; 4] = ["before", "after", "ratio", "bits/value"];

/// The last row: all variables together in a file of `file_len` bytes.
pub fn total_cells(variables: &[VariableReport], file_len: u64) -> [String; 4] {
    // An archive may be made to say anything.
    let before = variables.iter().filter_map(|v| v.value_bytes).fold(0, u64::saturating_add);
    [table::bytes(before), table::bytes(file_len), table::quotient(before as f64, file_len as f64), String::new()]
}
