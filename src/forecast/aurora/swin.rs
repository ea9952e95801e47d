//! Aurora's backbone: a U-Net of 3-D Swin transformer blocks over (levels, rows, columns) of tokens.
//!
//! Tokens are the rows of a matrix, level by level. A block takes them window by window, a few windows at a time: attention, residual, MLP and
//! residual are done before the next windows are looked at, so that no more than one copy of all tokens and the output exists.

use super::Config;
use crate::error::{Error, Result};
use crate::forecast::layers::{Linear, Mlp, Norm, Probe, Source};
use crate::forecast::ops::{self, NO_ROW, Workers};
use candle_core::Tensor;

/// Levels, rows and columns of tokens.
pub(super) type Extent = [usize; 3];

/// Tokens that a worker has in hand; a window more at most.
const CHUNK_TOKENS: usize = 2304;
/// On a device with its own parallelism.
const DEVICE_CHUNK_TOKENS: usize = 1 << 16;

pub(super) struct Backbone {
    time: (Linear, Linear),
    encoder: Vec<Stage>,
    decoder: Vec<Stage>,
}

struct Stage {
    blocks: Vec<Block>,
    resample: Resample,
}

/// What follows the blocks of a stage.
enum Resample {
    Nothing,
    /// Four tokens to one of twice the width.
    Merge {
        norm: Norm,
        reduction: Linear,
    },
    /// One token to four of half the width.
    Split {
        first: Linear,
        norm: Norm,
        second: Linear,
    },
}

struct Block {
    heads: usize,
    qkv: Linear,
    projection: Linear,
    qkv_lora: Lora,
    projection_lora: Lora,
    modulation: [Linear; 2],
    mlp: Mlp,
}

/// Low-rank additions to a weight, one for each step of a roll-out or one for all: pairs A (r, in), B (out, r).
struct Lora {
    pairs: Vec<(Tensor, Tensor)>,
    scale: f64,
}

impl Lora {
    fn load(s: &Source<'_>, config: &Config, prefix: &str, inputs: usize, outputs: usize) -> Result<Self> {
        let mut pairs = vec![];
        for i in 0..config.lora_count() {
            let name = |m: &str| format!("{prefix}.loras.{i}.lora_{m}");
            let rank = s.rows_of(&name("A"), 8);
            if rank == 0 || rank > inputs.min(outputs).max(8) {
                return Err(Error::input(format!("tensor {:?} is missing or of rank {rank}", name("A"))));
            }
            pairs.push((s.get(&name("A"), &[rank, inputs])?, s.get(&name("B"), &[outputs, rank])?));
        }
        Ok(Self { pairs, scale: config.lora_alpha })
    }

    /// The layer with the addition of a step folded in.
    fn folded(&self, layer: &Linear, config: &Config, step: usize) -> Result<Linear> {
        let Some((a, b)) = config.lora_index(step).and_then(|i| self.pairs.get(i)) else { return Ok(layer.clone()) };
        let addition = (b.matmul(a)? * (self.scale / a.dim(0)? as f64))?;
        Ok(Linear { weight: (&layer.weight + addition)?, bias: layer.bias.clone() })
    }
}

impl Backbone {
    pub fn load(s: &Source<'_>, config: &Config) -> Result<Self> {
        let d = config.embed_dim;
        let time = (s.linear("backbone.time_mlp.0", d, d)?, s.linear("backbone.time_mlp.2", d, d)?);
        let stages = config.encoder_depths.len();
        let mut encoder = vec![];
        for (i, (&depth, &heads)) in config.encoder_depths.iter().zip(&config.encoder_num_heads).enumerate() {
            let (prefix, width) = (format!("backbone.encoder_layers.{i}"), d << i);
            let resample = if i + 1 < stages {
                Resample::Merge {
                    norm: s.norm(&format!("{prefix}.downsample.norm"), 4 * width, 1e-5)?,
                    reduction: s.linear_no_bias(&format!("{prefix}.downsample.reduction"), 4 * width, 2 * width)?,
                }
            } else {
                Resample::Nothing
            };
            encoder.push(Stage { blocks: blocks(s, config, &prefix, width, depth, heads)?, resample });
        }
        let mut decoder = vec![];
        for (i, (&depth, &heads)) in config.decoder_depths.iter().zip(&config.decoder_num_heads).enumerate() {
            let (prefix, width) = (format!("backbone.decoder_layers.{i}"), d << (stages - 1 - i));
            let resample = if i + 1 < stages {
                Resample::Split {
                    first: s.linear_no_bias(&format!("{prefix}.upsample.lin1"), width, 2 * width)?,
                    norm: s.norm(&format!("{prefix}.upsample.norm"), width / 2, 1e-5)?,
                    second: s.linear_no_bias(&format!("{prefix}.upsample.lin2"), width / 2, width / 2)?,
                }
            } else {
                Resample::Nothing
            };
            decoder.push(Stage { blocks: blocks(s, config, &prefix, width, depth, heads)?, resample });
        }
        Ok(Self { time, encoder, decoder })
    }

    /// All tokens, of shape (tokens, width), through the network. Gives the two halves of the output's features, each of that shape.
    pub fn forward(&self, x: Tensor, extent: Extent, lead_time_code: &Tensor, run: &Run<'_>) -> Result<[Tensor; 2]> {
        let (first, second) = &self.time;
        let c = second.rows(&first.rows(lead_time_code)?.silu()?)?;
        run.probe.show("bb.time_emb", 0, &c);
        let c = c.silu()?;
        let mut x = x;
        let mut skips = vec![];
        let mut extents = vec![extent];
        for (i, stage) in self.encoder.iter().enumerate() {
            let extent = extents[i];
            for (j, block) in stage.blocks.iter().enumerate() {
                x = block.forward(&x, extent, j % 2 == 1, &c, run)?;
                run.probe.show(&format!("bb.enc_layer{i}.block{j}"), 0, &x);
            }
            if let Resample::Merge { norm, reduction } = &stage.resample {
                let merged = merge(&x, extent, norm, reduction, run)?;
                skips.push(x);
                x = merged;
                extents.push(halved(extent));
            } else if i == 0 {
                skips.push(x.clone());
            }
            run.probe.show(&format!("bb.enc_layer{i}"), 0, &x);
        }
        let n = self.decoder.len();
        for (i, stage) in self.decoder.iter().enumerate() {
            let extent = extents[n - 1 - i];
            for (j, block) in stage.blocks.iter().enumerate() {
                x = block.forward(&x, extent, j % 2 == 1, &c, run)?;
            }
            if let Resample::Split { first, norm, second } = &stage.resample {
                x = split(&x, extent, extents[n - 2 - i], first, norm, second, run)?;
            }
            run.probe.show(&format!("bb.dec_layer{i}"), 0, &x);
            // The deepest stage has no skip, the last one's is put beside its output.
            if i > 0 && i + 1 < n {
                x = ops::add(x, &skips[n - 2 - i])?;
            }
            // Skips of the deepest stages are not looked at again.
            skips.truncate((n - 1).saturating_sub(i).max(1));
        }
        let skip = skips.swap_remove(0);
        Ok([x, skip])
    }
}

/// What all blocks of a step share.
pub(super) struct Run<'a> {
    pub config: &'a Config,
    pub workers: &'a Workers,
    pub probe: &'a Probe,
    /// Predictions before this one.
    pub rollout_step: usize,
    /// Tokens that are worked on together, if it is not what is best here.
    pub chunk_tokens: Option<usize>,
}

impl Run<'_> {
    /// Items of `size` tokens that make a chunk.
    pub fn per_chunk(&self, size: usize, x: &Tensor) -> usize {
        let tokens = if x.device().is_cpu() { CHUNK_TOKENS } else { DEVICE_CHUNK_TOKENS };
        (self.chunk_tokens.unwrap_or(tokens) / size.max(1)).max(1)
    }
}

fn blocks(
    s: &Source<'_>,
    config: &Config,
    prefix: &str,
    width: usize,
    depth: usize,
    heads: usize,
) -> Result<Vec<Block>> {
    let hidden = (width as f64 * config.mlp_ratio) as usize;
    let load = |j: usize| {
        let p = format!("{prefix}.blocks.{j}");
        let modulation = |k: usize| s.linear(&format!("{p}.norm{k}.ln_modulation.1"), config.embed_dim, 2 * width);
        Ok(Block {
            heads,
            qkv: s.linear(&format!("{p}.attn.qkv"), width, 3 * width)?,
            projection: s.linear(&format!("{p}.attn.proj"), width, width)?,
            qkv_lora: Lora::load(s, config, &format!("{p}.attn.lora_qkv"), width, 3 * width)?,
            projection_lora: Lora::load(s, config, &format!("{p}.attn.lora_proj"), width, width)?,
            modulation: [modulation(1)?, modulation(2)?],
            mlp: Mlp::load(s, &format!("{p}.mlp.fc1"), &format!("{p}.mlp.fc2"), width, hidden)?,
        })
    };
    (0..depth).map(load).collect()
}

impl Block {
    /// x = x + AdaLN(attention(x)); x = x + AdaLN(MLP(x)), `c` the activated time embedding.
    fn forward(&self, x: &Tensor, extent: Extent, shifted: bool, c: &Tensor, run: &Run<'_>) -> Result<Tensor> {
        let windows = Windows::new(extent, run.config.window_size, shifted);
        let size = windows.size;
        let norms = [self.norm(0, c)?, self.norm(1, c)?];
        let qkv = self.qkv_lora.folded(&self.qkv, run.config, run.rollout_step)?;
        let projection = self.projection_lora.folded(&self.projection, run.config, run.rollout_step)?;
        let per_chunk = run.per_chunk(size, x);
        let count = windows.rows.len() / size;
        let parts = run.workers.map(count.div_ceil(per_chunk), |i| {
            let of_chunk = i * per_chunk * size..((i + 1) * per_chunk * size).min(windows.rows.len());
            let x = ops::gather_rows(x, &windows.rows[of_chunk.clone()])?;
            let ids = windows.ids.get(of_chunk).unwrap_or(&[]);
            let attended = self.attention(&qkv.rows(&x)?, size, ids)?;
            let x = ops::add(norms[0].apply_to(projection.rows(&attended)?)?, &x)?;
            ops::add(norms[1].apply_to(self.mlp.apply(&x)?)?, &x)
        })?;
        ops::gather_from(&parts, &windows.places, run.workers)
    }

    /// The adaptive layer norm: no weights of its own; shift, then scale, come from `c`. There is no 1 + scale.
    fn norm(&self, i: usize, c: &Tensor) -> Result<Norm> {
        let both = self.modulation[i].rows(c)?.squeeze(0)?;
        let width = both.dim(0)? / 2;
        let (shift, scale) = (both.narrow(0, 0, width)?, both.narrow(0, width, width)?);
        Ok(Norm { weight: scale, bias: shift, eps: 1e-5 })
    }

    /// Attention within windows of `size` tokens; `qkv` (tokens, 3 width) has features (q | k | v)(heads, d). `ids` is empty where all attend to all.
    fn attention(&self, qkv: &Tensor, size: usize, ids: &[u8]) -> Result<Tensor> {
        let (tokens, features) = qkv.dims2()?;
        let (width, heads) = (features / 3, self.heads);
        let d = width / heads;
        let scale = 1.0 / (d as f32).sqrt();
        // On the CPU one window at a time, whose parts are then views; on a device all at once.
        let together = if ops::is_plain(qkv) { 1 } else { tokens / size };
        let mut out = vec![];
        for g in 0..tokens / size / together {
            let rows = qkv.narrow(0, g * together * size, together * size)?;
            let rows = rows.reshape((together, size, 3, heads, d))?;
            let part = |i: usize| {
                let part = rows.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?;
                if together == 1 { part.squeeze(0) } else { part.contiguous()?.flatten(0, 1) }
            };
            let (q, k, v) = (part(0)?, part(1)?, part(2)?);
            let of_group = g * together * size..(g + 1) * together * size;
            let ids = ids.get(of_group).filter(|ids| ids.iter().any(|id| *id != ids[0]));
            let p = ops::softmax(q.matmul(&k.transpose(1, 2)?)?, scale, ids)?;
            let attended = p.matmul(&v)?.reshape((together, heads, size, d))?.transpose(1, 2)?;
            out.push(attended.reshape((together * size, width))?);
        }
        Ok(Tensor::cat(&out, 0)?)
    }
}

/// How the tokens of an extent fall into windows.
struct Windows {
    /// Tokens of a window.
    size: usize,
    /// For each place in each window, the token there, or [`NO_ROW`] for padding (zeros).
    rows: Vec<u32>,
    /// For each token its place.
    places: Vec<u32>,
    /// For each place the region it belongs to: only tokens of the same one attend to each other. Empty if all do.
    ids: Vec<u8>,
}

/// Region of padding in shifted blocks.
const PADDING: u8 = 27;

impl Windows {
    fn new(extent: Extent, window: Extent, shifted: bool) -> Self {
        let mut window = window;
        let mut shift = [0; 3];
        for axis in 0..3 {
            if extent[axis] <= window[axis] {
                window[axis] = extent[axis];
            } else if shifted {
                shift[axis] = window[axis] / 2;
            }
        }
        let masked = shift.iter().any(|&s| s > 0);
        // Per axis, for each window and place in it: the token's coordinate and its region; `None` in the padding, half of which is in front.
        let axes: Vec<Vec<Option<(usize, u8)>>> = (0..3)
            .map(|axis| {
                let (n, w, s) = (extent[axis], window[axis], shift[axis]);
                let padded = n.next_multiple_of(w);
                let front = (padded - n) / 2;
                (0..padded)
                    .map(|p| {
                        let rolled = p.checked_sub(front).filter(|&r| r < n)?;
                        let region = match rolled {
                            // Without a shift the last region covers the axis.
                            r if s == 0 || r >= n - s => 2,
                            r if r >= n - w => 1,
                            _ => 0,
                        };
                        // Longitudes close a circle: what is shifted over the edge attends to what is there.
                        let region = if axis == 2 && region == 1 { 2 } else { region };
                        Some(((rolled + s) % n, region))
                    })
                    .collect()
            })
            .collect();
        let size = window.iter().product();
        let total = axes.iter().map(Vec::len).product();
        let mut rows = Vec::with_capacity(total);
        let mut ids = Vec::with_capacity(if masked { total } else { 0 });
        let mut places = vec![0; extent.iter().product()];
        for c in axes[0].chunks_exact(window[0]) {
            for h in axes[1].chunks_exact(window[1]) {
                for w in axes[2].chunks_exact(window[2]) {
                    for &c in c {
                        for &h in h {
                            for &w in w {
                                let token = match (c, h, w) {
                                    (Some((c, i)), Some((h, j)), Some((w, k))) => {
                                        Some(((c * extent[1] + h) * extent[2] + w, 9 * i + 3 * j + k))
                                    }
                                    _ => None,
                                };
                                if let Some((token, _)) = token {
                                    places[token] = rows.len() as u32;
                                }
                                rows.push(token.map_or(NO_ROW, |t| t.0 as u32));
                                if masked {
                                    ids.push(token.map_or(PADDING, |t| t.1));
                                }
                            }
                        }
                    }
                }
            }
        }
        Self { size, rows, places, ids }
    }
}

/// Rows and columns of half the resolution, rounded up.
fn halved(extent: Extent) -> Extent {
    [extent[0], extent[1].div_ceil(2), extent[2].div_ceil(2)]
}

/// 2 x 2 tokens, zeros beyond the last row and column, become one of twice the width.
fn merge(x: &Tensor, extent: Extent, norm: &Norm, reduction: &Linear, run: &Run<'_>) -> Result<Tensor> {
    let [c, h, w] = halved(extent);
    let mut rows = Vec::with_capacity(c * h * w * 4);
    for c in 0..c {
        for i in 0..h * w {
            for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (y, x) = (i / w * 2 + dy, i % w * 2 + dx);
                let inside = y < extent[1] && x < extent[2];
                rows.push(if inside { ((c * extent[1] + y) * extent[2] + x) as u32 } else { NO_ROW });
            }
        }
    }
    let n = c * h * w;
    let per_chunk = run.per_chunk(4, x);
    let parts = run.workers.map(n.div_ceil(per_chunk), |i| {
        let of_chunk = i * per_chunk..((i + 1) * per_chunk).min(n);
        let four = ops::gather_rows(x, &rows[of_chunk.start * 4..of_chunk.end * 4])?;
        let merged = four.reshape((of_chunk.len(), ()))?;
        reduction.rows(&norm.apply_to(merged)?)
    })?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// A token becomes 2 x 2 of half the width; what goes beyond the `finer` extent is dropped.
fn split(
    x: &Tensor,
    extent: Extent,
    finer: Extent,
    first: &Linear,
    norm: &Norm,
    second: &Linear,
    run: &Run<'_>,
) -> Result<Tensor> {
    let n = x.dim(0)?;
    let per_chunk = run.per_chunk(4, x);
    let parts = run.workers.map(n.div_ceil(per_chunk), |i| {
        let start = i * per_chunk;
        let rows = x.narrow(0, start, per_chunk.min(n - start))?;
        let four = first.rows(&rows)?.reshape((4 * rows.dim(0)?, ()))?;
        second.rows(&norm.apply_to(four)?)
    })?;
    let [_, h, w] = extent;
    let mut places = Vec::with_capacity(finer.iter().product());
    for c in 0..finer[0] {
        for y in 0..finer[1] {
            for x in 0..finer[2] {
                let token = (c * h + y / 2) * w + x / 2;
                places.push((token * 4 + y % 2 * 2 + x % 2) as u32);
            }
        }
    }
    ops::gather_from(&parts, &places, run.workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_one_place_in_windows_of_any_size() {
        for extent in [[2, 10, 15], [4, 5, 8], [1, 1, 1], [2, 3, 4], [3, 13, 7]] {
            for window in [[2, 3, 4], [2, 6, 12], [1, 1, 1], [3, 3, 3]] {
                for shifted in [false, true] {
                    let windows = Windows::new(extent, window, shifted);
                    let n: usize = extent.iter().product();
                    assert_eq!(windows.rows.iter().filter(|&&r| r != NO_ROW).count(), n);
                    for (token, &place) in windows.places.iter().enumerate() {
                        assert_eq!(windows.rows[place as usize] as usize, token);
                    }
                    assert_eq!(windows.rows.len() % windows.size, 0);
                }
            }
        }
    }

    #[test]
    fn the_shift_joins_longitudes_but_not_poles() {
        let windows = Windows::new([1, 4, 8], [1, 2, 4], true);
        let id_of = |y: usize, x: usize| windows.ids[windows.places[y * 8 + x] as usize];
        let window_of = |y: usize, x: usize| windows.places[y * 8 + x] as usize / windows.size;
        assert_eq!(window_of(1, 0), window_of(1, 7));
        assert_eq!(id_of(1, 0), id_of(1, 7));
        assert_eq!(window_of(0, 0), window_of(3, 0));
        assert_ne!(id_of(0, 0), id_of(3, 0));
    }
}
