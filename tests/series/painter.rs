//! A codec of a few integers: it paints the weather of a step, and knows by how much it was off.

use super::{clean, scale};
use residuum::error::Error;
use residuum::forecast::series::{Forecasts, Machine};
use residuum::forecast::{FieldCodec, Frame, GridNeed, Key, Latent, LatentPart, Model, Needs};
use residuum::{Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Clone)]
pub struct Painter {
    /// Tells weights apart.
    pub id: u8,
    /// How far what it paints may be off, and the noise that is added, in units of that.
    pub tolerance: f64,
    pub noise: f64,
    pub seed: u64,
    /// Frames that were decoded.
    pub decoded: Arc<AtomicUsize>,
    pub needs: Needs,
}

impl Default for Painter {
    fn default() -> Self {
        let fields = vec![Key::level("t", 850), Key::level("t", 500), Key::surface("sp")];
        let (statics, forcings, grid) = (vec![], vec![], GridNeed::Exact(super::grid()));
        let needs = Needs { history: 1, step_s: 0, gives: fields.clone(), fields, statics, forcings, grid };
        Self { id: 0, tolerance: 0.0, noise: 0.0, seed: 0, decoded: Arc::default(), needs }
    }
}

impl Painter {
    pub fn forecasts(self) -> Forecasts {
        let made_on = format!("machine {}", self.seed);
        let (name, digest) = ("painter".into(), vec![self.id; 32]);
        Forecasts {
            tolerance: self.tolerance,
            name,
            digest,
            model: Model::FieldCodec(Box::new(self)),
            made_on,
            machine: Machine::default(),
        }
    }
}

fn level(key: &Key) -> usize {
    usize::from(key.level_hpa == Some(500))
}

impl FieldCodec for Painter {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn encode(&self, frame: &Frame) -> Result<Latent> {
        let frames = self.needs.prepare(std::slice::from_ref(frame))?;
        let step = (frame.time_unix_s - 1_577_836_800) / (6 * 3600);
        let mut values = vec![step as i32];
        for key in &self.needs.fields {
            let field = frames[0].values(key)?;
            let painted = clean(&key.name, step, level(key));
            let off = field.iter().zip(&painted).map(|(&x, p)| f64::from(x - p));
            let mean = off.sum::<f64>() / field.len() as f64 / f64::from(scale(&key.name)) * 1000.0;
            if mean.abs() > 1e6 {
                return Err(Error::input("nobody paints such weather"));
            }
            values.push(mean.round() as i32);
        }
        Ok(Latent { time_unix_s: frame.time_unix_s, parts: vec![LatentPart { name: "all", shape: vec![4], values }] })
    }

    fn decode(&self, latent: &Latent) -> Result<Frame> {
        self.decoded.fetch_add(1, Relaxed);
        let [step, means @ ..] = &latent.parts[0].values[..] else { unreachable!("as it was read") };
        let mut frame = Frame::new(latent.time_unix_s, super::grid());
        let mut noise = super::uniform(self.seed);
        for (key, &mean) in self.needs.fields.iter().zip(means) {
            let mut values = clean(&key.name, i64::from(*step), level(key));
            // The spread is 0.5 of the scale and more.
            let off = self.noise * self.tolerance * 0.5 * f64::from(scale(&key.name));
            values.iter_mut().for_each(|v| *v += mean as f32 / 1000.0 * scale(&key.name) + (off * noise()) as f32);
            frame.insert_values(key.clone(), values)?;
        }
        Ok(frame)
    }

    fn to_bytes(&self, latent: &Latent) -> Result<Vec<u8>> {
        Ok(latent.parts[0].values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn from_bytes(&self, bytes: &[u8], time_unix_s: i64) -> Result<Latent> {
        let (values, rest) = bytes.as_chunks::<4>();
        if values.len() != 4 || !rest.is_empty() {
            return Err(Error::new(Kind::Corrupt, "a latent is no four integers"));
        }
        let values = values.iter().map(|v| i32::from_le_bytes(*v)).collect();
        Ok(Latent { time_unix_s, parts: vec![LatentPart { name: "all", shape: vec![4], values }] })
    }

    fn tolerance(&self) -> f64 {
        self.tolerance
    }
}
