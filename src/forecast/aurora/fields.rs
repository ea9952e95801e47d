//! Fields on their way into the network and out of it: as tensors where they are, or through loops on the host.

use super::Aurora;
use super::swin::Run;
use crate::error::{Error, Result};
use crate::forecast::{Frame, Key};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// Normalised values of a variable at the times of the history; one entry if it never changes.
type History = Vec<Vec<f32>>;

/// A field that is wanted of some frames, and the name of what normalises it.
pub(super) struct Wanted<'a> {
    pub frames: &'a [Frame],
    pub key: Key,
    pub constant: String,
}

/// Normalised fields of levels.
pub(super) enum Points {
    /// By level, then by variable.
    Host(Vec<Vec<History>>),
    /// (levels, variables, times, rows, columns).
    Device(Tensor),
}

/// What heads give of some patches, fields of each with their points.
pub(super) enum Heads {
    Host(Vec<f32>),
    Device(Tensor),
}

impl Aurora {
    /// Fields of some levels, normalised.
    pub(super) fn points(&self, levels: &[Vec<Wanted<'_>>]) -> Result<Points> {
        if !self.takes_tensors {
            let of_level = |level: &Vec<Wanted<'_>>| level.iter().map(|w| self.normalised(w)).collect::<Result<_>>();
            return Ok(Points::Host(levels.iter().map(of_level).collect::<Result<_>>()?));
        }
        let mut all = vec![];
        for wanted in levels.iter().flatten() {
            let (location, scale) = self.constants(&wanted.constant);
            for time in 0..self.config.max_history_size {
                let frame = &wanted.frames[time.min(wanted.frames.len() - 1)];
                let field = frame.require(&wanted.key)?.to_device(&self.device)?;
                all.push(((field - f64::from(location))? / f64::from(scale))?);
            }
        }
        let (h, w) = all.first().map_or(Ok((0, 0)), Tensor::dims2)?;
        let variables = levels.first().map_or(0, Vec::len);
        let shape = (levels.len(), variables, self.config.max_history_size, h, w);
        let all = Tensor::stack(&all, 0)?;
        if !all.sum_all()?.to_scalar::<f32>()?.is_finite() {
            // Which it is the host finds out.
            levels.iter().flatten().try_for_each(|w| self.normalised(w).map(drop))?;
        }
        Ok(Points::Device(all.reshape(shape)?))
    }

    /// A field of each frame, normalised.
    fn normalised(&self, wanted: &Wanted<'_>) -> Result<History> {
        let Wanted { key, .. } = wanted;
        let (location, scale) = self.constants(&wanted.constant);
        let one = |frame: &Frame| {
            let values = frame.values(key)?;
            if let Some(bad) = values.iter().find(|x| !x.is_finite()) {
                return Err(Error::input(format!(
                    "{key} has values that are not finite ({bad}), which the model can not read"
                )));
            }
            Ok(values.into_iter().map(|x| (x - location) / scale).collect())
        };
        wanted.frames.iter().map(one).collect()
    }

    pub(super) fn constants(&self, name: &str) -> (f32, f32) {
        // Every name was looked up when the model was built.
        self.normalisation.get(name).copied().unwrap_or((0.0, 1.0))
    }

    /// Normalised points of some rows of patches, a row for each patch and level, `n` of them: for each variable, each time, its points row by row.
    pub(super) fn patches(&self, points: &Points, rows: Range<usize>, columns: usize, n: usize) -> Result<Tensor> {
        let p = self.config.patch_size;
        let all = match points {
            Points::Host(levels) => return self.rows(self.pixels(levels, rows, columns), n),
            Points::Device(all) => all,
        };
        let (levels, variables, times, _, _) = all.dims5()?;
        let shape = [levels, variables, times, rows.len(), p, columns, p];
        let some = all.narrow(3, rows.start * p, rows.len() * p)?.narrow(4, 0, columns * p)?.contiguous()?;
        let some = some.reshape(&shape[..])?.permute(&[3, 5, 0, 1, 2, 4, 6][..])?.contiguous()?;
        Ok(some.reshape((n, variables * times * p * p))?.to_dtype(self.dtype)?)
    }

    /// The same on the host: for each patch, each level, each variable, each time, its points row by row. A variable that never changes is the same at
    /// all times.
    fn pixels(&self, levels: &[Vec<History>], rows: Range<usize>, columns: usize) -> Vec<f32> {
        let (p, times) = (self.config.patch_size, self.config.max_history_size);
        let width = columns * p;
        let variables = levels.first().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(rows.len() * columns * levels.len() * variables * times * p * p);
        for row in rows {
            for column in 0..columns {
                for variable in levels.iter().flatten() {
                    for time in 0..times {
                        let values = &variable[time.min(variable.len() - 1)];
                        for y in 0..p {
                            out.extend_from_slice(&values[(row * p + y) * width + column * p..][..p]);
                        }
                    }
                }
            }
        }
        out
    }

    pub(super) fn heads(&self, x: &Tensor) -> Result<Heads> {
        let x = x.to_dtype(DType::F32)?;
        Ok(if self.takes_tensors { Heads::Device(x) } else { Heads::Host(x.flatten_all()?.to_vec1()?) })
    }

    /// Field `index` of `count`, normalised, out of chunks of (patches, count, points of a patch).
    pub(super) fn field(&self, chunks: &[Heads], index: usize, count: usize, patches: [usize; 2]) -> Result<Tensor> {
        let p = self.config.patch_size;
        let shape = (patches[0] * p, patches[1] * p);
        let mut on_device = vec![];
        let mut out = vec![0.0; if self.takes_tensors { 0 } else { shape.0 * shape.1 }];
        let mut first = 0;
        for chunk in chunks {
            match chunk {
                Heads::Device(heads) => {
                    let heads = heads.flatten_to(heads.rank() - 2)?;
                    let n = heads.elem_count() / (count * p * p);
                    on_device.push(heads.reshape((n, count, p, p))?.narrow(1, index, 1)?.contiguous()?);
                }
                Heads::Host(heads) => {
                    for (i, patch) in (first..).zip(heads.chunks_exact(count * p * p)) {
                        let (row, column) = (i / patches[1], i % patches[1]);
                        for (y, points) in patch[index * p * p..][..p * p].chunks_exact(p).enumerate() {
                            out[(row * p + y) * shape.1 + column * p..][..p].copy_from_slice(points);
                        }
                    }
                    first += heads.len() / (count * p * p);
                }
            }
        }
        if on_device.is_empty() {
            return Ok(Tensor::from_vec(out, shape, &Device::Cpu)?);
        }
        let all = Tensor::cat(&on_device, 0)?.reshape((patches[0], patches[1], p, p))?;
        Ok(all.permute((0, 2, 1, 3))?.contiguous()?.reshape(shape)?)
    }

    /// Puts a field into the frame in its own units.
    pub(super) fn put(&self, frame: &mut Frame, key: Key, constant: &str, field: Tensor, run: &Run<'_>) -> Result<()> {
        if run.probe.is_keeping() {
            run.probe.show(&format!("dec.norm.{key}"), 0, &field);
        }
        let (location, scale) = self.constants(constant);
        if self.takes_tensors {
            return frame.insert(key, field.affine(f64::from(scale), f64::from(location))?);
        }
        let field = field.flatten_all()?.to_vec1::<f32>()?;
        frame.insert_values(key, field.into_iter().map(|x| x * scale + location).collect())
    }
}
