//! What a codec of frames stores of the steps of a tile, and the forecasts that both ends make of it.
//!
//! A latent is made of the values as they are, not as they will be restored, and stands for its own step: no step is looked back on, and the
//! first of a tile has a forecast too. All variables of the group share it. So latents lie in the first tile, by the order of variables, that is
//! coded beside forecasts, in front of everything else (`method::WITH_LATENTS`); each is coded for itself.
//!
//! Places without a value (missing, or not finite) get the mean of their image before the codec sees them: what a latent is made of is for
//! the encoder alone to say. A step that lacks a whole image, or whose values the codec refuses, has no latent and no forecast.

use super::encode::Coded;
use super::{Forecast, of_members};
use crate::compress::method;
use crate::encode::bytes::{self, Reader};
use crate::error::{Context, Error, Kind, Result};
use crate::field::Values;
use crate::forecast::FieldCodec;
use crate::forecast::frame::Frame;
use crate::forecast::group::Group;
use crate::forecast::names::Key;
use crate::stages::{Stage, time};
use candle_core::Tensor;
use std::sync::Arc;

/// Latents of the steps of a tile.
#[derive(Clone, Default)]
pub(super) struct Latents {
    /// The tile's first step.
    first: usize,
    /// `None` for steps that have none.
    steps: Arc<Vec<Option<Held>>>,
}

/// A latent.
struct Held {
    bytes: Vec<u8>,
    /// What they stand for, where that is known: encoders look at it several times.
    forecast: Option<Forecast>,
}

impl Latents {
    /// Whether a step of the series has a latent.
    pub fn has(&self, step: usize) -> bool {
        self.get(step).is_some()
    }

    fn get(&self, step: usize) -> Option<&Held> {
        self.steps.get(step.checked_sub(self.first)?)?.as_ref()
    }

    /// The forecast of a step; `None` if it has no latent.
    pub fn forecast(&self, codec: &dyn FieldCodec, group: &Group, step: usize) -> Result<Option<Forecast>> {
        let Some(held) = self.get(step) else { return Ok(None) };
        match &held.forecast {
            Some(forecast) => Ok(Some(forecast.clone())),
            None => decode(codec, group, step, &held.bytes).map(Some),
        }
    }

    /// For each step the `bytes` of its latent, which are none if it has no latent.
    fn write(&self, out: &mut Vec<u8>) {
        for held in self.steps.iter() {
            bytes::put_bytes(out, held.as_ref().map_or(&[], |h| &h.bytes));
        }
    }

    /// Takes in those of a tile of `n_steps` from step `first` on. No more is allocated than the tile has bytes.
    pub fn read(&mut self, reader: &mut Reader<'_>, first: usize, n_steps: usize) -> Result<()> {
        if !self.steps.is_empty() {
            return Err(Error::corrupt("latents of the same steps in two variables"));
        }
        let mut steps = vec![];
        for _ in 0..n_steps {
            let bytes = reader.bytes()?.to_vec();
            steps.push((!bytes.is_empty()).then_some(Held { bytes, forecast: None }));
        }
        *self = Self { first, steps: steps.into() };
        Ok(())
    }

    /// Puts the latents into the first tile that is coded beside forecasts. Tiles are taken without if all are no smaller beside forecasts and latents.
    pub fn put_into(&self, tiles: &mut [Coded]) {
        let Some(holder) = tiles.iter().position(|(beside, _)| beside.is_some()) else { return };
        let mut head = vec![method::WITH_LATENTS];
        self.write(&mut head);
        // Of the method's byte there is one before and after.
        let latents = head.len() - 1;
        let beside: usize = tiles.iter().map(|(b, plain)| b.as_ref().or(plain.as_ref()).map_or(0, Vec::len)).sum();
        // `None` where nothing was made without, as forecasts were to be predictions.
        let without: Option<usize> = tiles.iter().map(|(_, plain)| plain.as_ref().map(Vec::len)).sum();
        if without.is_some_and(|without| beside + latents >= without) {
            tiles.iter_mut().for_each(|(beside, _)| *beside = None);
        } else if let Some(tile) = &mut tiles[holder].0 {
            tile.splice(..1, head);
        }
    }
}

/// Bytes of the latents of `n_steps`, which are skipped.
pub(super) fn skip(reader: &mut Reader<'_>, n_steps: usize) -> Result<usize> {
    let before = reader.rest().len();
    for _ in 0..n_steps {
        reader.bytes()?;
    }
    Ok(before - reader.rest().len())
}

/// What a latent stands for.
fn decode(codec: &dyn FieldCodec, group: &Group, step: usize, bytes: &[u8]) -> Result<Forecast> {
    let frame = time(Stage::Forecast, || codec.decode(&codec.from_bytes(bytes, group.times[step])?))?;
    of_members(group, &frame, None)
}

/// Makes the latents of a file, tile by tile.
pub(super) struct Encoder<'a> {
    codec: &'a dyn FieldCodec,
    group: &'a Group,
    statics: &'a [(Key, Tensor)],
    /// Bits that stand for missing values of each member.
    fills: Vec<Option<u64>>,
    n_latents: usize,
    /// Why the first step that has no latent has none.
    refused: Option<Error>,
}

impl<'a> Encoder<'a> {
    /// For values of a `group` whose members have these `fills`.
    ///
    /// # Errors
    /// `Input` if the grid is not the codec's.
    pub fn new(
        codec: &'a dyn FieldCodec,
        group: &'a Group,
        statics: &'a [(Key, Tensor)],
        fills: Vec<Option<u64>>,
    ) -> Result<Self> {
        // Before anything is compressed in vain.
        codec.needs().oriented(&Frame::new(0, group.grid.clone()))?;
        Ok(Self { codec, group, statics, fills, n_latents: 0, refused: None })
    }

    /// The latents of a tile: the `values` of each member at `n_steps` from step `first` on.
    ///
    /// # Errors
    /// What the codec fails with, but for frames that it refuses.
    pub fn tile(&mut self, values: &[Values], first: usize, n_steps: usize) -> Result<Latents> {
        let mut steps = vec![];
        for k in 0..n_steps {
            let held = self.step(values, first + k, k, n_steps).context(|| self.group.moment(first + k));
            steps.push(match held {
                Ok(held) => Some(held).filter(|h| !h.bytes.is_empty()),
                Err(e) if e.kind() == Kind::Input => {
                    self.refused.get_or_insert(e);
                    None
                }
                Err(e) => return Err(e),
            });
        }
        self.n_latents += steps.iter().flatten().count();
        Ok(Latents { first, steps: steps.into() })
    }

    /// After the last tile.
    ///
    /// # Errors
    /// `Input` if no step has a latent.
    pub fn finish(self) -> Result<()> {
        match self.refused {
            Some(e) if self.n_latents == 0 => Err(e).context(|| "the codec refuses every step"),
            _ => Ok(()),
        }
    }

    fn step(&self, values: &[Values], step: usize, place: usize, n_steps: usize) -> Result<Held> {
        let mut frame = Frame::new(self.group.times[step], self.group.grid.clone());
        for ((member, values), fill) in self.group.members.iter().zip(values).zip(&self.fills) {
            let pixels = values.len() / n_steps / member.keys.len().max(1);
            for (level, key) in member.keys.iter().enumerate() {
                let image = complete(values, *fill, (place * member.keys.len() + level) * pixels, pixels);
                if let (Some(key), Some(image)) = (key, image) {
                    frame.insert_values(key.clone(), image)?;
                }
            }
        }
        for (key, values) in self.statics {
            frame.insert(key.clone(), values.clone())?;
        }
        let bytes = time(Stage::Forecast, || self.codec.to_bytes(&self.codec.encode(&frame)?))?;
        // From the bytes, as a decoder does it.
        let forecast = Some(decode(self.codec, self.group, step, &bytes)?);
        Ok(Held { bytes, forecast })
    }
}

/// The `n` values from `start` on, the mean of the others for those that are missing; `None` if all are.
fn complete(values: &Values, fill: Option<u64>, start: usize, n: usize) -> Option<Vec<f32>> {
    let sound = |x: f32, bits: u64| if x.is_finite() && Some(bits) != fill { x } else { f32::NAN };
    let mut image: Vec<f32> = match values {
        Values::F32(v) => v[start..][..n].iter().map(|x| sound(*x, u64::from(x.to_bits()))).collect(),
        Values::F64(v) => v[start..][..n].iter().map(|x| sound(*x as f32, x.to_bits())).collect(),
        _ => return None,
    };
    let there = || image.iter().filter(|x| !x.is_nan());
    let (sum, count) = (there().map(|&x| f64::from(x)).sum::<f64>(), there().count());
    if count < n {
        let mean = (sum / count.max(1) as f64) as f32;
        image.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = mean);
    }
    (count > 0).then_some(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_the_mean() {
        let fill = 1e20f32;
        let values = Values::F32(vec![9.0, 1.0, f32::NAN, fill, 3.0, f32::INFINITY, f32::NAN]);
        let bits = Some(u64::from(fill.to_bits()));
        assert_eq!(complete(&values, bits, 1, 5).unwrap(), [1.0, 2.0, 2.0, 3.0, 2.0]);
        assert_eq!(complete(&values, bits, 5, 2), None);
        assert_eq!(complete(&Values::F64(vec![1.0, 1e300]), None, 0, 2).unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn latents_lie_in_the_first_tile_that_needs_them() {
        let held = |bytes: &[u8]| Some(Held { bytes: bytes.to_vec(), forecast: None });
        let latents = Latents { first: 5, steps: vec![held(&[7, 8]), None, held(&[9])].into() };
        assert!(latents.has(5) && !latents.has(6) && latents.has(7) && !latents.has(4) && !latents.has(8));
        let tile = |n: usize| Some([&[method::BESIDE_FORECASTS], &vec![1; n - 1][..]].concat());
        let mut tiles = [(None, tile(4)), (tile(10), tile(20)), (tile(10), tile(20))];
        latents.put_into(&mut tiles);
        let held = tiles[1].0.clone().unwrap();
        assert_eq!(held[..7], [method::WITH_LATENTS, 2, 7, 8, 0, 1, 9]);
        assert_eq!((held[7..].to_vec(), tiles[2].0.clone()), (vec![1; 9], tile(10)));
        let mut read = Latents::default();
        read.read(&mut Reader::new(&held[1..]), 5, 3).unwrap();
        assert!(read.has(5) && !read.has(6) && read.has(7));
        assert_eq!(skip(&mut Reader::new(&held[1..]), 3).unwrap(), 6);
        assert_eq!(read.read(&mut Reader::new(&held[1..]), 5, 3).unwrap_err().kind(), Kind::Corrupt, "twice");
        for cut in 1..7 {
            assert_eq!(skip(&mut Reader::new(&held[1..cut]), 3).unwrap_err().kind(), Kind::Corrupt);
        }
        // They cost as much as they save.
        let mut tiles = [(None, tile(4)), (tile(14), tile(20))];
        latents.put_into(&mut tiles);
        assert_eq!(tiles, [(None, tile(4)), (None, tile(20))]);
        // Without anything to compare with.
        let mut tiles = [(tile(14), None)];
        latents.put_into(&mut tiles);
        assert_eq!(tiles[0].0.as_ref().unwrap().len(), 20);
    }
}
