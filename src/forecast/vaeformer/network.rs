//! The four transformers, from weights under the original's names.

use super::engine::{Engine, Image, Patches, Then};
use super::latent::{self, Factorised, FactorisedLayer, Tables};
use super::{Activation, Config};
use crate::error::{Error, Result};
use crate::forecast::Weights;
use crate::forecast::exact::{Rows, Windows};
use std::sync::Arc;

/// From image to latents and back.
pub(super) trait Transforms: Send + Sync {
    /// y and z.
    fn analyse(&self, x: &Image) -> Result<(Image, Image)>;
    /// The image of ŷ.
    fn synthesise(&self, y: &Image) -> Result<Image>;
}

/// g_a, h_a and g_s on an engine.
pub(super) struct Network<E: Engine> {
    engine: E,
    g_a: Analysis<E>,
    h_a: Analysis<E>,
    g_s: Synthesis<E>,
}

impl<E: Engine> Network<E> {
    pub fn new(engine: E, weights: &Weights, config: &Config) -> Result<Self> {
        let g_a = Analysis::main(&engine, weights, config)?;
        let h_a = Analysis::hyper(&engine, weights, config)?;
        let g_s = Synthesis::main(&engine, weights, config)?;
        Ok(Self { engine, g_a, h_a, g_s })
    }
}

impl<E: Engine> Transforms for Network<E> {
    fn analyse(&self, x: &Image) -> Result<(Image, Image)> {
        let y = self.g_a.run(&self.engine, x)?;
        let z = self.h_a.run(&self.engine, &y)?;
        Ok((y, z))
    }

    fn synthesise(&self, y: &Image) -> Result<Image> {
        self.g_s.run(&self.engine, y)
    }
}

/// A pre-norm block.
struct Block<E: Engine> {
    norm1: E::Norm,
    qkv: E::Linear,
    proj: E::Linear,
    norm2: E::Norm,
    mlp: Mlp<E>,
    heads: usize,
    windows: Arc<Windows>,
}

impl<E: Engine> Block<E> {
    fn run(&self, engine: &E, x: E::Tokens) -> Result<E::Tokens> {
        let qkv = engine.apply(&engine.normalise(&x, &self.norm1)?, &self.qkv, Then::Nothing)?;
        let x = engine.attend(x, (qkv, &self.qkv), &self.proj, self.heads, &self.windows)?;
        let normal = engine.normalise(&x, &self.norm2)?;
        self.mlp.run(engine, &normal, Then::Add(x))
    }
}

/// Two layers with an activation between.
struct Mlp<E: Engine> {
    fc1: E::Linear,
    fc2: E::Linear,
    activation: Activation,
}

impl<E: Engine> Mlp<E> {
    fn run(&self, engine: &E, x: &E::Tokens, then: Then<E::Tokens>) -> Result<E::Tokens> {
        let between = match self.activation {
            Activation::Gelu => Then::Gelu,
            Activation::QuickGelu => Then::QuickGelu,
        };
        engine.apply(&engine.apply(x, &self.fc1, between)?, &self.fc2, then)
    }
}

/// Patches, positions, blocks, and a last layer to latents: g_a with `quant_conv`, or h_a.
pub(super) struct Analysis<E: Engine> {
    patches: Patches,
    embed: E::Linear,
    positions: E::Tokens,
    blocks: Vec<Block<E>>,
    /// The last block's twin: features of both go on side by side.
    twin: Option<Block<E>>,
    mlp: Option<Mlp<E>>,
    last: Option<E::Linear>,
    /// Channels that are kept: means without logarithms of variances.
    channels: usize,
}

impl<E: Engine> Analysis<E> {
    fn main(engine: &E, weights: &Weights, c: &Config) -> Result<Self> {
        let load = Loader { weights, engine };
        let windows = WindowKinds::new(c, c.patches().grid);
        let half = c.depth / 2;
        let mut blocks = load.blocks("g_a", half + 1, |i| windows.of(i.min(half - 1)), &Shape::main(c))?;
        let twin = blocks.pop();
        let width = 2 * c.y_channels;
        // 2x1024 to 2x256 features; of what it gives, the first half are the means.
        let last = match c.lower_dim {
            true => Some(load.linear_rows("quant_conv", &[2 * c.latent_channels(), width, 1, 1], true)?),
            false => None,
        };
        Ok(Self {
            patches: c.patches(),
            embed: load.embed("g_a", c.embed_dim, c.in_chans, &c.patches())?,
            positions: load.positions("g_a", &c.patches(), c.embed_dim)?,
            blocks,
            twin,
            mlp: c
                .z_dim
                .map(|z| load.mlp("g_a.quan_mlp", [2 * c.embed_dim, 2 * hidden(c.embed_dim, z), 2 * z]))
                .transpose()?,
            last,
            channels: c.latent_channels(),
        })
    }

    fn hyper(engine: &E, weights: &Weights, c: &Config) -> Result<Self> {
        let load = Loader { weights, engine };
        let p = &c.prior;
        let patches = c.prior_patches();
        let all = Arc::new(Windows::global(patches.grid));
        Ok(Self {
            patches,
            embed: load.embed("h_a", p.embed_dim, c.latent_channels(), &patches)?,
            positions: load.positions("h_a", &patches, p.embed_dim)?,
            blocks: load.blocks("h_a", p.depth / 2, |_| all.clone(), &Shape::prior(c))?,
            twin: None,
            mlp: p.z_dim.map(|z| load.mlp("h_a.quan_mlp", [p.embed_dim, hidden(p.embed_dim, z), z])).transpose()?,
            last: None,
            channels: c.z_channels,
        })
    }

    pub fn run(&self, engine: &E, image: &Image) -> Result<Image> {
        let mut x = engine.embed(image, &self.patches, &self.embed, &self.positions)?;
        let (last, blocks) = match (&self.twin, self.blocks.split_last()) {
            (Some(twin), Some((last, blocks))) => (Some((last, twin)), blocks),
            _ => (None, &self.blocks[..]),
        };
        for block in blocks {
            x = block.run(engine, x)?;
        }
        if let Some((last, twin)) = last {
            x = engine.join(&last.run(engine, x.clone())?, &twin.run(engine, x)?)?;
        }
        if let Some(mlp) = &self.mlp {
            x = mlp.run(engine, &x, Then::Nothing)?;
        }
        if let Some(last) = &self.last {
            x = engine.apply(&x, last, Then::Nothing)?;
        }
        Ok(to_image(&engine.rows(x)?, self.channels, self.patches.grid))
    }
}

/// A first layer, blocks, normalisation and patches painted: g_s with `post_quant_conv`, or h_s.
pub(super) struct Synthesis<E: Engine> {
    first: Option<E::Linear>,
    mlp: Option<Mlp<E>>,
    blocks: Vec<Block<E>>,
    norm: Option<E::Norm>,
    paint: E::Linear,
    patches: Patches,
    channels: usize,
}

impl<E: Engine> Synthesis<E> {
    fn main(engine: &E, weights: &Weights, c: &Config) -> Result<Self> {
        let load = Loader { weights, engine };
        let windows = WindowKinds::new(c, c.patches().grid);
        let half = c.depth / 2;
        let first = match c.lower_dim {
            true => Some(load.linear_rows("post_quant_conv", &[c.y_channels, c.latent_channels(), 1, 1], true)?),
            false => None,
        };
        let (paint, patches) = load.paint("g_s.final.weight", c.embed_dim, c.out_chans, c.patches())?;
        Ok(Self {
            first,
            mlp: c
                .z_dim
                .map(|z| load.mlp("g_s.post_quan_mlp", [z, hidden(c.embed_dim, z), c.embed_dim]))
                .transpose()?,
            blocks: load.blocks("g_s", c.depth - half, |i| windows.of(half + i), &Shape::main(c))?,
            norm: if c.ending_norm { Some(load.norm("g_s.norm", c.embed_dim, c.ln_eps)?) } else { None },
            paint,
            patches,
            channels: c.out_chans,
        })
    }

    /// h_s: channels are scales, then means.
    pub fn hyper(engine: &E, weights: &Weights, c: &Config) -> Result<Self> {
        let load = Loader { weights, engine };
        let p = &c.prior;
        let channels = 2 * c.latent_channels();
        let all = Arc::new(Windows::global(c.prior_patches().grid));
        let (paint, patches) = load.paint("h_s.final.weight", p.embed_dim, channels, c.prior_patches())?;
        Ok(Self {
            first: None,
            mlp: p
                .z_dim
                .map(|z| load.mlp("h_s.post_quan_mlp", [z, hidden(p.embed_dim, z), p.embed_dim]))
                .transpose()?,
            blocks: load.blocks("h_s", p.depth - p.depth / 2, |_| all.clone(), &Shape::prior(c))?,
            norm: if p.ending_norm { Some(load.norm("h_s.norm", p.embed_dim, c.ln_eps)?) } else { None },
            paint,
            patches,
            channels,
        })
    }

    pub fn run(&self, engine: &E, image: &Image) -> Result<Image> {
        let mut x = engine.tokens(&to_rows(image))?;
        if let Some(first) = &self.first {
            x = engine.apply(&x, first, Then::Nothing)?;
        }
        if let Some(mlp) = &self.mlp {
            x = mlp.run(engine, &x, Then::Nothing)?;
        }
        for block in &self.blocks {
            x = block.run(engine, x)?;
        }
        if let Some(norm) = &self.norm {
            x = engine.normalise(&x, norm)?;
        }
        let [h, w] = self.patches.extent();
        engine.paint(&x, &self.patches, &self.paint, [self.channels, h, w])
    }
}

/// Width between the two layers of a bottleneck of `z` out of `dim` features.
pub(super) fn hidden(dim: usize, z: usize) -> usize {
    (dim / z).isqrt() * z
}

fn to_rows(image: &Image) -> Rows {
    let [n, h, w] = image.shape;
    let mut rows = Rows::zeros(h * w, n);
    for (c, plane) in image.data.chunks_exact((h * w).max(1)).enumerate() {
        rows.data.iter_mut().skip(c).step_by(n).zip(plane).for_each(|(x, y)| *x = *y);
    }
    rows
}

fn to_image(rows: &Rows, channels: usize, grid: [usize; 2]) -> Image {
    let data = (0..channels).flat_map(|c| rows.data.iter().skip(c).step_by(rows.n)).copied().collect();
    Image { shape: [channels, grid[0], grid[1]], data }
}

/// Windows of the blocks of a stack, shared by those of the same size.
struct WindowKinds {
    interval: usize,
    kinds: Vec<Arc<Windows>>,
    all: Arc<Windows>,
}

impl WindowKinds {
    fn new(c: &Config, grid: [usize; 2]) -> Self {
        let sizes = if c.window { &c.window_size[..] } else { &[] };
        Self {
            interval: c.interval,
            kinds: sizes.iter().map(|w| Arc::new(Windows::new(grid, *w))).collect(),
            all: Arc::new(Windows::global(grid)),
        }
    }

    /// Of block `i`, counted through encoder and decoder.
    fn of(&self, i: usize) -> Arc<Windows> {
        match self.kinds.len() {
            0 => self.all.clone(),
            _ if (i + 1).is_multiple_of(self.interval) => self.all.clone(),
            n => self.kinds[(i % self.interval).min(n - 1)].clone(),
        }
    }
}

/// What the blocks of a stack have in common.
struct Shape {
    dim: usize,
    hidden: usize,
    heads: usize,
    qkv_bias: bool,
    eps: f32,
    activation: Activation,
}

impl Shape {
    fn main(c: &Config) -> Self {
        let hidden = (c.embed_dim as f64 * c.mlp_ratio) as usize;
        let (dim, heads) = (c.embed_dim, c.num_heads);
        Self { dim, hidden, heads, qkv_bias: c.qkv_bias, eps: c.ln_eps, activation: c.act_layer }
    }

    fn prior(c: &Config) -> Self {
        let p = &c.prior;
        let hidden = (p.embed_dim as f64 * p.mlp_ratio) as usize;
        let (dim, heads) = (p.embed_dim, p.num_heads);
        Self { dim, hidden, heads, qkv_bias: p.qkv_bias, eps: c.ln_eps, activation: p.act_layer }
    }
}

/// Reads layers.
struct Loader<'a, E: Engine> {
    weights: &'a Weights,
    engine: &'a E,
}

impl<E: Engine> Loader<'_, E> {
    /// A layer whose weight has rows of outputs, whatever the dimensions behind.
    fn linear_rows(&self, name: &str, shape: &[usize], bias: bool) -> Result<E::Linear> {
        let (n, k) = (shape[0], shape[1..].iter().product());
        let weight = self.weights.f32s(&format!("{name}.weight"), shape)?;
        let bias = if bias { Some(self.weights.f32s(&format!("{name}.bias"), &[n])?) } else { None };
        self.engine.linear(weight, n, k, bias)
    }

    fn norm(&self, name: &str, n: usize, eps: f32) -> Result<E::Norm> {
        let part = |what: &str| self.weights.f32s(&format!("{name}.{what}"), &[n]);
        self.engine.norm(part("weight")?, part("bias")?, eps)
    }

    fn mlp(&self, name: &str, widths: [usize; 3]) -> Result<Mlp<E>> {
        let fc1 = self.linear_rows(&format!("{name}.fc1"), &[widths[1], widths[0]], true)?;
        let fc2 = self.linear_rows(&format!("{name}.fc2"), &[widths[2], widths[1]], true)?;
        Ok(Mlp { fc1, fc2, activation: Activation::Gelu })
    }

    fn blocks(
        &self,
        stack: &str,
        n: usize,
        windows: impl Fn(usize) -> Arc<Windows>,
        s: &Shape,
    ) -> Result<Vec<Block<E>>> {
        let block = |i: usize| {
            let name = format!("{stack}.blocks.{i}");
            let mlp = self.mlp(&format!("{name}.mlp"), [s.dim, s.hidden, s.dim])?;
            Ok(Block {
                norm1: self.norm(&format!("{name}.norm1"), s.dim, s.eps)?,
                qkv: self.linear_rows(&format!("{name}.attn.qkv"), &[3 * s.dim, s.dim], s.qkv_bias)?,
                proj: self.linear_rows(&format!("{name}.attn.proj"), &[s.dim, s.dim], true)?,
                norm2: self.norm(&format!("{name}.norm2"), s.dim, s.eps)?,
                mlp: Mlp { activation: s.activation, ..mlp },
                heads: s.heads,
                windows: windows(i),
            })
        };
        (0..n).map(block).collect()
    }

    fn embed(&self, stack: &str, dim: usize, channels: usize, p: &Patches) -> Result<E::Linear> {
        self.linear_rows(&format!("{stack}.patch_embed.proj"), &[dim, channels, p.size[0], p.size[1]], true)
    }

    fn positions(&self, stack: &str, p: &Patches, dim: usize) -> Result<E::Tokens> {
        let data = self.weights.f32s(&format!("{stack}.pos_embed"), &[1, p.len(), dim])?;
        self.engine.tokens(&Rows { n: dim, data })
    }

    /// The last layer of a decoder, without bias. Four dimensions: a transposed convolution (input, channel, row, column), whose patches may overlap. Two: a linear layer
    /// (row, column, channel) by input, whose patches lie side by side.
    fn paint(&self, name: &str, dim: usize, channels: usize, p: Patches) -> Result<(E::Linear, Patches)> {
        let area = p.size[0] * p.size[1];
        let n = channels * area;
        let dims = self.weights.info(name).map_or(0, |(_, shape)| shape.len());
        if dims == 4 {
            let weight = self.weights.f32s(name, &[dim, channels, p.size[0], p.size[1]])?;
            let mut rows = vec![0f32; n * dim];
            for (k, values) in weight.chunks_exact(n).enumerate() {
                rows.iter_mut().skip(k).step_by(dim).zip(values).for_each(|(x, y)| *x = *y);
            }
            return Ok((self.engine.linear(rows, n, dim, None)?, p));
        }
        let weight = self.weights.f32s(name, &[n, dim])?;
        let mut rows = vec![0f32; n * dim];
        for (i, values) in weight.chunks_exact(dim).enumerate() {
            let (place, channel) = (i / channels, i % channels);
            rows[(channel * area + place) * dim..][..dim].copy_from_slice(values);
        }
        Ok((self.engine.linear(rows, n, dim, None)?, Patches { stride: p.size, ..p }))
    }
}

/// Parameters of the factorised prior.
pub(super) fn factorised(weights: &Weights, channels: usize) -> Result<Factorised> {
    let name = |what: &str, i: usize| format!("entropy_bottleneck._{what}{i}");
    let quantiles = weights.f32s("entropy_bottleneck.quantiles", &[channels, 1, 3])?;
    let mut layers = Vec::new();
    let mut inputs = 1;
    while let Some((_, shape)) = weights.info(&name("matrix", layers.len())) {
        let (i, outputs) = (layers.len(), shape.get(1).copied().unwrap_or(0));
        let matrix = weights.f32s(&name("matrix", i), &[channels, outputs, inputs])?;
        let bias = weights.f32s(&name("bias", i), &[channels, outputs, 1])?;
        let factor = match weights.contains(&name("factor", i)) {
            true => Some(weights.f32s(&name("factor", i), &[channels, outputs, 1])?),
            false => None,
        };
        layers.push(FactorisedLayer { outputs, inputs, matrix, bias, factor });
        inputs = outputs;
    }
    if layers.is_empty() || inputs != 1 {
        return Err(Error::input("the factorised prior does not end in one number"));
    }
    Ok(Factorised { quantiles: quantiles.chunks_exact(3).map(|q| [q[0], q[1], q[2]]).collect(), layers })
}

/// Tables of an entropy model, if the weights hold them: a checkpoint saved before `update()` has empty ones.
pub(super) fn tables(weights: &Weights, model: &str, rows: usize) -> Result<Option<Tables>> {
    let name = |what: &str| format!("{model}._{what}");
    let Some((_, shape)) = weights.info(&name("quantized_cdf")) else { return Ok(None) };
    if shape.contains(&0) {
        return Ok(None);
    }
    let width = shape.get(1).copied().unwrap_or(0);
    let cdf = weights.i32s(&name("quantized_cdf"), &[rows, width])?;
    let lengths = weights.i32s(&name("cdf_length"), &[rows])?;
    Tables::new(&cdf, &lengths, &weights.i32s(&name("offset"), &[rows])?).map(Some)
}

/// The scales of the Gaussian tables, and the least scale.
pub(super) fn scales(weights: &Weights) -> Result<(Vec<f32>, f32)> {
    let table = match weights.info("gaussian_conditional.scale_table") {
        Some((_, &[n])) if (1..=256).contains(&n) => weights.f32s("gaussian_conditional.scale_table", &[n])?,
        None | Some((_, &[0])) => latent::scale_table(),
        Some((_, shape)) => return Err(Error::input(format!("a table of scales of {shape:?}"))),
    };
    let name = "gaussian_conditional.lower_bound_scale.bound";
    let bound = if weights.contains(name) { weights.f32s(name, &[1])?[0] } else { 0.11 };
    let rises = table.windows(2).all(|w| w[0] < w[1]);
    // 2^12: a table has some twelve entries for each unit of its scale.
    if !rises || table[0].is_nan() || table[0] <= 0.0 || table[table.len() - 1] > 4096.0 || !bound.is_finite() {
        return Err(Error::input("the table of scales does not rise from above 0 to at most 2^12"));
    }
    Ok((table, bound))
}
