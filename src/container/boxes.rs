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
    /// `Usage` if the box leaves the variable, `Unsupported` if there is no memory for its values, else as [`Archive::tile`].
    pub fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let tiling: Tiling = self.variable(variable)?.plan.tiling.clone();
        tiling.check_box(region)?;
        let dtype = self.schema.variables[variable].dtype;
        let n = usize::try_from(tile::region_len(region)).unwrap_or(usize::MAX);
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
        // Room for all when the first tiles turn out to be some: an archive's word for its size costs its writer nothing.
        let mut out = None;
        for batch in self.batches(variable, &touched)? {
            for tile in self.tiles(&batch) {
                let (from, values) = tile?;
                let out = match &mut out {
                    Some(out) => out,
                    none => none.insert(Values::try_zeros(dtype, n)?),
                };
                copy_values(&values, &from, out, region)?;
            }
        }
        Ok(out.unwrap_or_else(|| Values::zeros(dtype, 0)))
    }

    /// These tiles of a variable in lists for [`Archive::tiles`], each of which is decoded in about the memory that one tile may take.
    ///
    /// # Errors
    /// As [`Archive::variable`].
    pub(crate) fn batches(&self, variable: usize, tiles: &[u64]) -> Result<Vec<Vec<(usize, u64)>>> {
        let tiling = &self.variable(variable)?.plan.tiling;
        let dtype = self.schema.variables[variable].dtype;
        let bytes = tiles.iter().map(|&t| tile::decoded_bytes(dtype, &tiling.region(t)));
        let batches = tile::batches(bytes, DEFAULT_TILE_BYTES);
        Ok(batches.into_iter().map(|b| tiles[b].iter().map(|&t| (variable, t)).collect()).collect())
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

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // boxes of one axis
mod tests {
    use super::*;
    use crate::compress::store_as_it_is;
    use crate::config::Config;
    use crate::container::{Writer, limits};
    use crate::decompress::{decompress_tile, decompress_to};
    use crate::device::{Coder, Undecoded};
    use crate::error::Kind;
    use crate::field::DType;
    use crate::io::{Format, Schema, Sink};
    use crate::plan::{Plan, Treatment};
    use std::io::Cursor;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Decodes on the CPU and remembers the most tiles that it was given at once.
    struct Counting(Arc<AtomicUsize>);

    impl Coder for Counting {
        fn compress(&mut self, _: &Values, _: &[Range<u64>], _: &Treatment, _: &Config) -> Result<Vec<u8>> {
            unreachable!("nothing is compressed")
        }

        fn decompress(&mut self, coded: &[u8], dtype: DType, t: &Treatment, region: &[Range<u64>]) -> Result<Values> {
            decompress_tile(coded, dtype, t, region)
        }

        fn decompress_all(&mut self, tiles: &[Undecoded]) -> Vec<Result<Values>> {
            self.0.fetch_max(tiles.len(), Ordering::Relaxed);
            tiles.iter().map(|t| self.decompress(&t.coded, t.dtype, &t.treatment, &t.region)).collect()
        }
    }

    /// Takes anything.
    struct Nowhere;

    impl Sink for Nowhere {
        fn write(&mut self, _: usize, _: &[Range<u64>], _: &Values) -> Result<()> {
            Ok(())
        }

        fn finish(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    /// An archive of one variable of one axis, whose tiles of `len` values have these bytes.
    fn archive(dtype: DType, n: u64, len: u64, tile: &[u8]) -> Vec<u8> {
        let tiling = Tiling { shape: vec![n], axis: 0, len, steps: None };
        let mut writer = Writer::new(Vec::new(), &Schema::single(Format::Raw, "x", dtype, &[n])).unwrap();
        let n_tiles = tiling.count();
        writer.begin(&Plan { variable: 0, treatment: Treatment::Exact, tiling, forecast: None }).unwrap();
        (0..n_tiles).for_each(|_| writer.tile(tile).unwrap());
        writer.finish().unwrap()
    }

    #[test]
    fn tiles_are_decoded_as_many_at_once_as_memory_allows() {
        let texts = store_as_it_is(&Values::Text(vec!["a".into(), "b".into()])).unwrap();
        let bytes = store_as_it_is(&Values::U8(vec![1, 2])).unwrap();
        // What texts take is only known when they are decoded.
        for (dtype, tile, at_once) in [(DType::Text, &texts, 1), (DType::U8, &bytes, 5)] {
            let most = Arc::new(AtomicUsize::new(0));
            let mut archive = Archive::open(Cursor::new(archive(dtype, 10, 2, tile))).unwrap();
            archive.set_coder(Box::new(Counting(most.clone())));
            assert_eq!(archive.read_all(0).unwrap().len(), 10);
            assert_eq!(most.swap(0, Ordering::Relaxed), at_once, "read, {dtype}");
            decompress_to(&mut archive, &[(0, vec![0..10])], &mut Nowhere, &mut |_| {}).unwrap();
            assert_eq!(most.load(Ordering::Relaxed), at_once, "decompress_to, {dtype}");
        }
    }

    #[test]
    fn sizes_on_an_archives_word_are_not_believed() {
        // 8 TiB of values, of which there is none.
        let mut huge = Archive::open(Cursor::new(archive(DType::F64, 1 << 40, 1 << 25, &[]))).unwrap();
        assert_eq!(huge.read_all(0).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(Values::try_zeros(DType::F64, 1 << 46).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(Values::try_zeros(DType::Text, usize::MAX).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(Values::try_zeros(DType::I16, 3).unwrap(), Values::I16(vec![0; 3]));
        // More texts in a tile than any writer puts there.
        let texts = |n| Archive::open(Cursor::new(archive(DType::Text, n, n, &[0, 0])));
        assert!(texts(limits::MAX_TILE_TEXTS).is_ok());
        assert_eq!(texts(limits::MAX_TILE_TEXTS + 1).err().unwrap().kind(), Kind::Corrupt);
    }

    #[test]
    fn calls_beyond_what_there_is_are_refused() {
        let empty =
            crate::compress(&crate::Field::new(&[0f32; 0], &[0, 7]).unwrap(), &Config::new(crate::Bound::abs(0.1)));
        let mut empty = Archive::open(Cursor::new(empty.unwrap())).unwrap();
        assert_eq!(empty.tile(0, 0).unwrap_err().kind(), Kind::Usage);
        assert_eq!(empty.codes(0, 0).err().unwrap().kind(), Kind::Usage);
        let tile = store_as_it_is(&Values::U8(vec![1, 2])).unwrap();
        let mut archive = Archive::open(Cursor::new(archive(DType::U8, 10, 2, &tile))).unwrap();
        assert_eq!(archive.tile(0, 5).unwrap_err().kind(), Kind::Usage);
        for (variable, region) in [(9, vec![0..10]), (0, vec![]), (0, vec![0..11]), (0, vec![0..1, 0..1])] {
            let wanted = [(variable, region)];
            let e = decompress_to(&mut archive, &wanted, &mut Nowhere, &mut |_| {}).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{wanted:?}");
        }
    }
}
