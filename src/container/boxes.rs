//! Values of any box, put together from tiles.

use super::reader::Archive;
use crate::config::DEFAULT_TILE_BYTES;
use crate::error::{Error, Result};
use crate::field::Values;
use crate::tile::{self, Tiling};
use std::io::{Read, Seek};
use std::ops::Range;

impl<R: Read + Seek> Archive<R> {
    /// The values of a variable in a box (one range an axis), in C order. Only tiles that the box touches are read.
    ///
    /// # Errors
    /// `Usage` if the box leaves the variable or has more than a few billion values, else as [`Archive::tile`].
    pub fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let shape = &self.variable(variable)?.plan.tiling.shape;
        let fits =
            region.len() == shape.len() && region.iter().zip(shape).all(|(r, &n)| r.start <= r.end && r.end <= n);
        if !fits {
            return Err(Error::usage(format!("box {region:?} does not fit the shape {shape:?}")));
        }
        let tiling: Tiling = self.variable(variable)?.plan.tiling.clone();
        let dtype = self.schema.variables[variable].dtype;
        let n = usize::try_from(tile::region_len(region)).map_err(|_| Error::usage("box is too large"))?;
        if n == 0 {
            return Ok(Values::zeros(dtype, 0));
        }
        let touched: Vec<u64> = tiling.touching(self.variable(variable)?.n_tiles(), region).collect();
        // Before the room for the result: tiles that are not there can not make us ask for it.
        let covered: u64 = touched.iter().map(|&t| tile::region_len(&tile::overlap(&tiling.region(t), region))).sum();
        if covered != n as u64 {
            return Err(Error::corrupt("the archive ends before this box"));
        }
        if let [tile] = touched[..]
            && tiling.region(tile) == region
        {
            return Ok(self.tile(variable, tile)?.1);
        }
        let mut out = Values::zeros(dtype, n);
        let bytes = |&t: &u64| tile::region_len(&tiling.region(t)) * dtype.size() as u64;
        for batch in tile::batches(touched.iter().map(bytes), DEFAULT_TILE_BYTES) {
            let wanted: Vec<_> = touched[batch].iter().map(|&t| (variable, t)).collect();
            for tile in self.tiles(&wanted) {
                let (from, values) = tile?;
                copy_values(&values, &from, &mut out, region)?;
            }
        }
        Ok(out)
    }

    /// All values of a variable.
    ///
    /// # Errors
    /// As [`Archive::read`].
    pub fn read_all(&mut self, variable: usize) -> Result<Values> {
        let region: Vec<_> = self.variable(variable)?.plan.tiling.shape.iter().map(|&n| 0..n).collect();
        self.read(variable, &region)
    }
}

/// The values of a box within another.
pub(crate) fn cut(from: &Values, from_region: &[Range<u64>], region: &[Range<u64>]) -> Result<Values> {
    let mut out = Values::zeros(from.dtype(), tile::region_len(region) as usize);
    copy_values(from, from_region, &mut out, region)?;
    Ok(out)
}

pub(crate) fn copy_values(
    from: &Values,
    from_region: &[Range<u64>],
    to: &mut Values,
    to_region: &[Range<u64>],
) -> Result<()> {
    macro_rules! copy {
        ($($variant:ident),*) => {
            match (from, to) {
                $((Values::$variant(f), Values::$variant(t)) => tile::copy_overlap(f, from_region, t, to_region),)*
                _ => return Err(Error::corrupt("tile of another type")),
            }
        };
    }
    copy!(F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Char, Text);
    Ok(())
}
