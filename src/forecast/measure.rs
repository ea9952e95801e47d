//! How far apart what a model gives of the same frames comes out when it is run in another way: what the tolerance τ of [`super::agreement`] has
//! to cover.
//!
//! Numbers of threads change no bit. A GPU does, and so does another library of matrix products. An upper estimate that any machine can make is the
//! same model in f64 by candle's functions ([`f64_on_cpu`]): all that rounding to f32 does is in it, and sums in other orders.

use super::{Frame, Key, Latent, Model, Options};
use crate::error::{Error, Result};
use candle_core::{DType, Device};

/// What is given to each of the runs.
pub enum Given {
    /// Frames that a forecast is made of.
    History(Vec<Frame>),
    /// The integers of a frame.
    Latent(Latent),
}

impl Given {
    /// The last frames of `history`, or the integers that a codec makes of the last one.
    ///
    /// # Errors
    /// `Input` that lists what was found and what is needed.
    pub fn new(model: &Model, history: &[Frame]) -> Result<Self> {
        match model {
            Model::Forecaster(model) => Ok(Given::History(model.needs().prepare(history)?)),
            Model::FieldCodec(codec) => {
                let last = history.last().ok_or_else(|| Error::input("no frames"))?;
                Ok(Given::Latent(codec.encode(last)?))
            }
        }
    }

    /// What a model gives of it.
    ///
    /// # Errors
    /// As [`super::Forecaster::step`] and [`super::FieldCodec::decode`]; `Usage` if it was made for a model of the other kind.
    pub fn run(&self, model: &Model) -> Result<Frame> {
        match (self, model) {
            (Given::History(history), Model::Forecaster(model)) => model.step(history, None, 0),
            (Given::Latent(latent), Model::FieldCodec(codec)) => codec.decode(latent),
            _ => Err(Error::usage("a forecast and a codec can not be compared")),
        }
    }
}

/// How to run a model in f64 by candle's functions.
pub fn f64_on_cpu() -> Options {
    Options { device: Device::Cpu, dtype: DType::F64, ..Options::default() }
}

/// The largest difference between `a` and `b` in each field, as a part of the field's spread in `a` (root mean square difference from its mean), the
/// largest first.
///
/// # Errors
/// `Input` if `b` lacks a field, or a value is not finite in one of both only.
pub fn apart(a: &Frame, b: &Frame) -> Result<Vec<(Key, f64)>> {
    let mut all = vec![];
    for (key, _) in a.fields() {
        let (x, y) = (a.values(key)?, b.values(key)?);
        if x.len() != y.len() || x.iter().zip(&y).any(|(x, y)| x.is_finite() != y.is_finite()) {
            return Err(Error::input(format!("{key} came out different in kind, not in its last bits")));
        }
        let finite = x.iter().zip(&y).filter(|(x, _)| x.is_finite());
        let most = finite.map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs()).fold(0.0, f64::max);
        let spread = super::series::spread(&x);
        all.push((key.clone(), if most == 0.0 { 0.0 } else { most / spread }));
    }
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::Grid;

    fn frame(values: [f32; 4]) -> Frame {
        let mut frame = Frame::new(0, Grid::new(vec![10.0, 0.0], vec![0.0, 180.0]).unwrap());
        frame.insert_values(Key::surface("sp"), vec![1.0, -1.0, 1.0, -1.0]).unwrap();
        frame.insert_values(Key::level("t", 850), values.to_vec()).unwrap();
        frame
    }

    #[test]
    fn differences_are_parts_of_the_spread() {
        let a = frame([10.0, 14.0, 10.0, 14.0]);
        let all = apart(&a, &frame([10.0, 14.5, 9.0, 14.0])).unwrap();
        assert_eq!(all, [(Key::level("t", 850), 0.5), (Key::surface("sp"), 0.0)]);
        assert!(apart(&a, &frame([10.0, f32::NAN, 9.0, 14.0])).is_err());
    }
}
