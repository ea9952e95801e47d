//! Tiles that the host has, coded on a GPU: what the command uses.

use super::encode::Job;
use super::fields::Piece;
use super::gpu::Gpu;
use super::layout::Outcome;
use super::{Coder, Cpu};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::field::{DType, Values};
use crate::plan::Treatment;
use crate::predict::fitted::Rows;
use crate::tile::{self, Tiling};
use std::ops::Range;

/// Compresses a tile of the host, as [`crate::compress::compress_tile`] does.
fn compress_tile<T: Rows>(
    gpu: &mut Gpu,
    values: &[T],
    region: &[Range<u64>],
    treatment: &Treatment,
    config: &Config,
) -> Result<Vec<u8>> {
    let Treatment::Lossy { asked, fill, .. } = treatment else {
        return crate::compress::compress_tile(values, region, treatment, config);
    };
    let shape: Vec<u64> = tile::coding_shape(region).iter().map(|&n| n as u64).collect();
    let at = gpu.put("values", bytemuck::cast_slice(values))?;
    let known = Some(treatment.clone());
    let jobs = [Job::new(at, Tiling::whole(&shape), &known, *asked, *fill, T::DTYPE, config)];
    let (out, outcomes) = gpu.code_tiles::<T>(&jobs, &[(0, 0)], config)?;
    match outcomes.first() {
        Some(ways) => {
            let coded = |o: &Outcome| Piece::of(out, o);
            let piece = gpu.finish_tile::<T>(&jobs[0], 0, ways, coded, treatment, config)?;
            gpu.bytes_of(piece)
        }
        None => crate::compress::compress_tile(values, region, treatment, config),
    }
}

/// Codes tiles of the host on a GPU.
pub(crate) struct HostTiles {
    gpu: Gpu,
    /// Whether what the GPU can not do is an error.
    strict: bool,
    notes: Vec<String>,
}

impl HostTiles {
    pub fn new(gpu: Gpu, strict: bool) -> Self {
        Self { gpu, strict, notes: Vec::new() }
    }

    /// The CPU takes over, unless the GPU was asked for by name. Errors of other kinds are nobody's to mend.
    fn or_cpu<R>(&mut self, result: Result<R>, cpu: impl FnOnce() -> Result<R>) -> Result<R> {
        match result {
            Err(e) if !self.strict && matches!(e.kind(), Kind::Device | Kind::Unsupported) => {
                let note = format!("the CPU took over: {e}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                cpu()
            }
            result => result,
        }
    }
}

impl Coder for HostTiles {
    fn compress(
        &mut self,
        values: &Values,
        region: &[Range<u64>],
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let result = match values {
            Values::F32(v) => compress_tile(&mut self.gpu, v, region, treatment, config),
            Values::F64(v) => compress_tile(&mut self.gpu, v, region, treatment, config),
            other => Err(Error::usage(format!("{} is not coded within a bound", other.dtype()))),
        };
        self.or_cpu(result, || Cpu.compress(values, region, treatment, config))
    }

    fn decompress(
        &mut self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values> {
        let result = self.gpu.decompress_host_tile(coded, dtype, treatment, region);
        self.or_cpu(result, || Cpu.decompress(coded, dtype, treatment, region))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
