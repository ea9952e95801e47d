//! What was decided for a variable; stored in the archive. [`crate::config`] has what was asked.

use crate::bound::{Bound, Resolved, Stats};
use crate::error::Result;
use crate::tile::Tiling;
use minicbor::{Decode, Encode};

/// How a variable is stored.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Plan {
    /// Index into the schema's variables.
    #[n(0)]
    pub variable: u32,
    /// Within which bound.
    #[n(1)]
    pub treatment: Treatment,
    /// In which tiles.
    #[n(2)]
    pub tiling: Tiling,
}

/// Exactly or within a bound.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Treatment {
    /// Bit for bit.
    #[n(0)]
    Exact,
    /// Within a bound.
    #[n(1)]
    Lossy {
        /// The bound as asked for.
        #[n(0)]
        asked: Bound,
        /// What it means for these values.
        #[n(1)]
        resolved: Resolved,
        /// Bits of the fill value.
        #[n(2)]
        fill: Option<u64>,
        /// Statistics of the values, where the bound needed them.
        #[n(3)]
        stats: Option<Stats>,
    },
}

impl Plan {
    /// Refuses plans, read from an archive, that are out of range.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check(&self, max_tile_values: u64) -> Result<()> {
        self.tiling.check(max_tile_values)
    }
}
