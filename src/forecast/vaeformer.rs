//! VAEformer, the model of CRA5: a variational autoencoder of vision transformers with a hyper-prior (Han et al., arXiv:2405.03376).
//!
//! A frame of 268 channels becomes 256 x 72 x 144 integers y and 256 x 18 x 36 integers z:
//!
//! ```text
//! x ─ g_a ─ y ─ h_a ─ z ─ round ─ z_sym ─ h_s ─ scales, means        y_sym = round(y − means)
//! x̂ ─ g_s ─ ŷ = y_sym + means
//! ```
//!
//! g_a: patches of 11 x 10 points every 10 points (rows of patches share a row of points), learned positions, pre-norm blocks of attention in
//! windows, every fourth over all tokens; the last block has a twin, and the means of y are a linear layer of both. g_s: the mirror image, with a
//! transposed convolution whose patches overlap. h_a and h_s: small transformers over patches of 4 x 4 tokens. Weights keep the original's names.
//!
//! ## What decides a symbol
//! Symbols of y are relative to means, and the `.bin` format chooses their tables by scales; both are floats that the reader computes again
//! from z. Here **h_s always runs in [`exact`](super::exact) arithmetic on the CPU**, whatever device runs the rest: [`VaeFormer::hyper`] gives the same bits for the same z
//! on every CPU and for any number of threads, so
//! * the indexes of tables, and anything else derived from scales and means, may serve as contexts of a coder: both sides have them;
//! * ŷ, an integer plus such a mean, has the same bits everywhere;
//! * the encoder's floats (y, z) decide only what is written.
//!
//! So no means need to be rounded to a grid, and no list of doubtful values is kept for latents. What still differs between a CPU and a GPU is g_s, that
//! is the forecast's last bits, as with every model. On the CPU the whole model runs in that arithmetic. Files of the original
//! (`.bin`) can only be read where our scales fall on the same side of each boundary as those of its writer: likely, not certain.

mod engine;
mod import;
pub mod latent;
mod network;

pub use engine::Image;

use super::{Checkpoint, Entry, FieldCodec, Frame, Grid, GridNeed, ImportOptions, Imported, Key, Latent, LatentPart};
use super::{Model, Needs, Options, Weights};
use crate::error::{Error, Result};
use engine::Patches;
use latent::{Bin, Tables};
use network::{Synthesis, Transforms};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// VAEformer's line of the registry.
pub const ENTRY: Entry = Entry { name: "vaeformer", open, is_exact_on_cpu: true, import };

fn open(weights: &Weights, options: &Options) -> Result<Model> {
    Ok(Model::FieldCodec(Box::new(Codec::new(VaeFormer::new(weights, options)?)?)))
}

fn import<'a>(checkpoint: &'a Checkpoint, options: &ImportOptions) -> Result<Option<Imported<'a>>> {
    import::import(checkpoint, options)
}

/// Hyper-parameters. Names are those of the original's constructor; the defaults are what it defaults to for CRA5.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Config {
    /// Channels of the input.
    pub in_chans: usize,
    /// Channels of the output.
    pub out_chans: usize,
    /// Rows and columns of the input.
    pub img_size: [usize; 2],
    /// Rows and columns of a patch.
    pub patch_size: [usize; 2],
    /// Rows and columns from patch to patch.
    pub patch_stride: [usize; 2],
    /// Features of a token.
    pub embed_dim: usize,
    /// Blocks of encoder and decoder together, without the twin.
    pub depth: usize,
    /// Heads of attention.
    pub num_heads: usize,
    /// Width of the hidden layer over that of tokens.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Added to variances.
    #[serde(default = "epsilon")]
    pub ln_eps: f32,
    /// Every so many blocks one attends to all tokens.
    pub interval: usize,
    /// Rows and columns of the windows of the other blocks, in turn.
    pub window_size: Vec<[usize; 2]>,
    /// Whether there are windows at all.
    #[serde(default = "yes")]
    pub window: bool,
    /// `GELU` or `QuickGELU`.
    #[serde(default)]
    pub act_layer: Activation,
    /// Whether decoders normalise last.
    #[serde(default = "yes")]
    pub ending_norm: bool,
    /// Width of a two-layer bottleneck behind the encoder and before the decoder, if there is one.
    #[serde(default)]
    pub z_dim: Option<usize>,
    /// Features that encoder and decoder exchange with the layers between: half of the encoder's.
    pub y_channels: usize,
    /// Channels of y, if [`Config::lower_dim`].
    #[serde(default)]
    pub latent_dim: Option<usize>,
    /// Channels of z.
    pub z_channels: usize,
    /// Whether 1 x 1 convolutions lie between encoder, y and decoder.
    #[serde(default = "yes")]
    pub lower_dim: bool,
    /// Whether y is drawn at random. Only `false` can be coded.
    #[serde(default)]
    pub sample_posterior: bool,
    /// The hyper-prior.
    pub prior: Prior,
    /// What the channels are. The official 268 if there are as many and nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<Channel>>,
}

/// Hyper-parameters of the hyper-prior. It attends to all tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Prior {
    /// Rows and columns of y.
    pub img_size: [usize; 2],
    /// Rows and columns of a patch, which do not overlap.
    pub patch_size: [usize; 2],
    /// Features of a token.
    pub embed_dim: usize,
    /// Blocks of both sides together.
    pub depth: usize,
    /// Heads of attention.
    pub num_heads: usize,
    /// Channels of z; those of tokens if it is missing.
    #[serde(default)]
    pub z_dim: Option<usize>,
    /// Width of the hidden layer over that of tokens.
    #[serde(default = "four")]
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    #[serde(default = "yes")]
    pub qkv_bias: bool,
    /// Whether it has windows, which this version does not know.
    #[serde(default)]
    pub window: bool,
    /// `GELU` or `QuickGELU`.
    #[serde(default)]
    pub act_layer: Activation,
    /// Whether the decoder normalises last.
    #[serde(default = "yes")]
    pub ending_norm: bool,
}

/// The function between the layers of a block's second half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Activation {
    /// Exact.
    #[default]
    #[serde(rename = "GELU")]
    Gelu,
    /// x σ(1.702 x).
    #[serde(rename = "QuickGELU")]
    QuickGelu,
}

/// A channel: what it holds, and how it is normalised: (value * factor - mean) / std.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Channel {
    /// Name.
    pub name: String,
    /// Pressure level, hPa.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_hpa: Option<u32>,
    /// Mean, after `factor`.
    pub mean: f32,
    /// Standard deviation, after `factor`.
    pub std: f32,
    /// From the unit of the field to that of the model.
    #[serde(default = "one")]
    pub factor: f32,
}

fn yes() -> bool {
    true
}
fn one() -> f32 {
    1.0
}
fn four() -> f64 {
    4.0
}
fn epsilon() -> f32 {
    1e-6
}

/// Tokens, features, patches, windows: more than any machine of today holds, and far from overflow.
const MAX_SIZE: usize = 1 << 24;

impl Config {
    /// The published model, `cra5_268v_300k.pth`.
    pub fn official() -> Self {
        Self {
            in_chans: 268,
            out_chans: 268,
            img_size: [721, 1440],
            patch_size: [11, 10],
            patch_stride: [10, 10],
            embed_dim: 1024,
            depth: 24,
            num_heads: 16,
            mlp_ratio: 4.0,
            qkv_bias: true,
            ln_eps: 1e-6,
            interval: 4,
            window_size: vec![[24, 24], [12, 48], [48, 12]],
            window: true,
            act_layer: Activation::Gelu,
            ending_norm: true,
            z_dim: None,
            y_channels: 1024,
            latent_dim: Some(256),
            z_channels: 256,
            lower_dim: true,
            sample_posterior: false,
            prior: Prior {
                img_size: [72, 144],
                patch_size: [4, 4],
                embed_dim: 360,
                depth: 8,
                num_heads: 5,
                z_dim: Some(256),
                mlp_ratio: 4.0,
                qkv_bias: true,
                window: false,
                act_layer: Activation::Gelu,
                ending_norm: true,
            },
            channels: Some(official_channels()),
        }
    }

    /// Channels of y.
    pub fn latent_channels(&self) -> usize {
        if self.lower_dim { self.latent_dim.unwrap_or(0) } else { self.y_channels }
    }

    /// Rows and columns of tokens, and of y.
    fn patches(&self) -> Patches {
        let grid = [0, 1].map(|i| self.img_size[i] / self.patch_stride[i]);
        Patches { grid, size: self.patch_size, stride: self.patch_stride }
    }

    /// Patches of y, and rows and columns of z.
    fn prior_patches(&self) -> Patches {
        let Prior { img_size, patch_size, .. } = self.prior;
        Patches { grid: [0, 1].map(|i| img_size[i] / patch_size[i]), size: patch_size, stride: patch_size }
    }

    /// What the channels are.
    fn channels(&self) -> Vec<Channel> {
        let unnamed = |i| Channel { name: format!("channel{i}"), level_hpa: None, mean: 0.0, std: 1.0, factor: 1.0 };
        match &self.channels {
            Some(channels) => channels.clone(),
            None if self.in_chans == 268 => official_channels(),
            None => (0..self.in_chans).map(unnamed).collect(),
        }
    }

    /// Refuses what no model has, before anything is computed from it.
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::input(format!("configuration of VAEformer: {what}")));
        let p = &self.prior;
        let pairs = [self.img_size, self.patch_size, self.patch_stride, p.img_size, p.patch_size];
        let pairs = pairs.iter().chain(&self.window_size).flatten();
        let widths = [self.in_chans, self.out_chans, self.embed_dim, self.depth, self.num_heads, self.interval];
        let others = [self.y_channels, self.latent_channels(), self.z_channels, p.embed_dim, p.depth, p.num_heads];
        let options = [self.z_dim.unwrap_or(1), p.z_dim.unwrap_or(1)];
        if pairs.chain(&widths).chain(&others).chain(&options).any(|n| !(1..=MAX_SIZE).contains(n)) {
            return wrong("a size is zero, missing or beyond 2^24");
        }
        let depths = self.depth.max(p.depth) <= 1024 && self.depth >= 2 && p.depth >= 2;
        if !depths || self.window_size.len() > 64 || (self.window && self.window_size.is_empty()) {
            return wrong("depths are from 2 to 1024, and there are 1 to 64 windows");
        }
        if !self.embed_dim.is_multiple_of(self.num_heads) || !p.embed_dim.is_multiple_of(p.num_heads) {
            return wrong("the width of tokens is not a multiple of the number of heads");
        }
        let ratios = [self.mlp_ratio, p.mlp_ratio].iter().all(|r| (0.001..=1000.0).contains(r));
        if !ratios || self.ln_eps < 0.0 || !self.ln_eps.is_finite() {
            return wrong("mlp_ratio or ln_eps is out of range");
        }
        if self.sample_posterior || p.window {
            return Err(Error::unsupported("a VAEformer that draws y at random, or whose hyper-prior has windows"));
        }
        if p.z_dim.unwrap_or(p.embed_dim) != self.z_channels {
            return wrong("z_channels is not the width of what the hyper-prior gives");
        }
        let z_dim_fits = |dim: usize, z: Option<usize>| z.is_none_or(|z| z <= dim);
        if self.z_dim.unwrap_or(self.embed_dim) != self.y_channels
            || !z_dim_fits(self.embed_dim, self.z_dim)
            || !z_dim_fits(p.embed_dim, p.z_dim)
        {
            return wrong("y_channels is not the width of what the encoder gives, or z_dim is too large");
        }
        for (patches, image) in [(self.patches(), self.img_size), (self.prior_patches(), p.img_size)] {
            for i in [0, 1] {
                let inside = image[i].checked_sub(patches.size[i]);
                if inside.map(|n| n / patches.stride[i] + 1) != Some(patches.grid[i]) {
                    return wrong("patches do not cover the image");
                }
            }
            if patches.len() > MAX_SIZE {
                return wrong("too many tokens");
            }
        }
        if self.prior_patches().extent() != p.img_size || p.img_size != self.patches().grid {
            return wrong("the hyper-prior's image is not the grid of tokens, in whole patches");
        }
        let grid = self.patches().grid;
        let padded = |w: &[usize; 2]| (0..2).map(|i| grid[i].next_multiple_of(w[i])).product::<usize>();
        if self.window && self.window_size.iter().any(|w| padded(w) > MAX_SIZE) {
            return wrong("a window is too large");
        }
        if self.channels().len() != self.in_chans {
            return wrong("the number of channels is not in_chans");
        }
        Ok(())
    }
}

/// Channels of the official model and their normalisation (`mean_std.json`, `mean_std_single.json` of the original, rounded to f32 as there).
pub fn official_channels() -> Vec<Channel> {
    #[derive(Deserialize)]
    struct Table {
        levels_hpa: Vec<u32>,
        levels: serde_json::Map<String, serde_json::Value>,
        surface: serde_json::Map<String, serde_json::Value>,
    }
    let table: Table = serde_json::from_str(include_str!("vaeformer/normalisation.json")).expect("a table of ours");
    let number = |v: &serde_json::Value| v.as_f64().expect("a number") as f32;
    let mut channels = Vec::new();
    for (name, v) in &table.levels {
        for (i, hpa) in table.levels_hpa.iter().enumerate() {
            let (mean, std) = (number(&v["mean"][i]), number(&v["std"][i]));
            channels.push(Channel { name: name.clone(), level_hpa: Some(*hpa), mean, std, factor: 1.0 });
        }
    }
    for (name, v) in &table.surface {
        // Precipitation is normalised in mm, fields are in m.
        let factor = if name == "tp" { 1000.0 } else { 1.0 };
        let (mean, std) = (number(&v["mean"]), number(&v["std"]));
        channels.push(Channel { name: name.clone(), level_hpa: None, mean, std, factor });
    }
    channels
}

/// Symbols of a frame: what is coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    /// z minus medians, rounded: channel, row, column.
    pub z: Vec<i32>,
    /// y minus means, rounded: channel, row, column.
    pub y: Vec<i32>,
}

/// What the hyper-prior knows of y from z. The same bits for the same z on every CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyper {
    /// Standard deviations, not bounded yet: channel, row, column.
    pub scales: Vec<f32>,
    /// Means.
    pub means: Vec<f32>,
    /// Which of the Gaussian tables is each symbol's.
    pub indexes: Vec<u16>,
}

/// The model, in normalised units.
pub struct VaeFormer {
    config: Config,
    transforms: Box<dyn Transforms>,
    synthesis: Synthesis<engine::Cpu>,
    medians: Vec<f32>,
    factorised: Tables,
    gaussian: Tables,
    scale_table: Vec<f32>,
    scale_bound: f32,
    /// Whether all of it runs in exact arithmetic.
    is_exact: bool,
}

impl VaeFormer {
    /// Builds the model. Tables of the entropy models are read where the weights hold them, else computed. On the CPU, in f32, it is exact.
    ///
    /// # Errors
    /// `Input` if weights do not fit their configuration, `Unsupported` if it asks for what this version does not know.
    pub fn new(weights: &Weights, options: &Options) -> Result<Self> {
        if !options.device.is_cpu() || options.dtype != candle_core::DType::F32 {
            return Self::on_device(weights, options);
        }
        let config = checked(weights)?;
        let network = network::Network::new(engine::Cpu, weights, &config)?;
        Self::with(weights, config, Box::new(network), true)
    }

    /// As [`VaeFormer::new`], but g_a, h_a and g_s are candle's layers on any device, the CPU among them: what a GPU runs, to be compared.
    ///
    /// # Errors
    /// As [`VaeFormer::new`], and `Input` if the device refuses.
    pub fn on_device(weights: &Weights, options: &Options) -> Result<Self> {
        let config = checked(weights)?;
        let device = engine::Device { device: options.device.clone(), dtype: options.dtype };
        let network = network::Network::new(device, weights, &config)?;
        Self::with(weights, config, Box::new(network), false)
    }

    fn with(weights: &Weights, config: Config, transforms: Box<dyn Transforms>, is_exact: bool) -> Result<Self> {
        let synthesis = Synthesis::hyper(&engine::Cpu, weights, &config)?;
        let prior = network::factorised(weights, config.z_channels)?;
        let stored = network::tables(weights, "entropy_bottleneck", config.z_channels)?;
        let factorised = match stored {
            Some(tables) => tables,
            None => Tables::factorised(&prior)?,
        };
        let (scale_table, scale_bound) = network::scales(weights)?;
        let gaussian = match network::tables(weights, "gaussian_conditional", scale_table.len())? {
            Some(tables) => tables,
            None => Tables::gaussian(&scale_table),
        };
        let medians = prior.medians();
        Ok(Self { config, transforms, synthesis, medians, factorised, gaussian, scale_table, scale_bound, is_exact })
    }

    /// Hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Channels, rows and columns of y.
    pub fn y_shape(&self) -> [usize; 3] {
        let [h, w] = self.config.patches().grid;
        [self.config.latent_channels(), h, w]
    }

    /// Channels, rows and columns of z.
    pub fn z_shape(&self) -> [usize; 3] {
        let [h, w] = self.config.prior_patches().grid;
        [self.config.z_channels, h, w]
    }

    /// Tables of the entropy models: of z, one per channel, and of y, one per scale.
    pub fn tables(&self) -> (&Tables, &Tables) {
        (&self.factorised, &self.gaussian)
    }

    /// y and z of a normalised image.
    ///
    /// # Errors
    /// `Input` if the image has another shape, or the device refuses.
    pub fn analyse(&self, x: &Image) -> Result<(Image, Image)> {
        let [h, w] = self.config.img_size;
        if x.shape != [self.config.in_chans, h, w] || x.data.len() != x.shape.iter().product::<usize>() {
            return Err(Error::input(format!("an image of {:?}, not {:?}", x.shape, [self.config.in_chans, h, w])));
        }
        self.transforms.analyse(x)
    }

    /// Symbols of y and z.
    ///
    /// # Errors
    /// `Input` if they are not finite or beyond 2^24: the input was not, or the weights are broken.
    pub fn quantise(&self, y: &Image, z: &Image) -> Result<Symbols> {
        let size = (self.z_shape()[1] * self.z_shape()[2]).max(1);
        let medians = self.medians.iter().flat_map(|m| std::iter::repeat_n(*m, size));
        let z = symbols(&z.data, medians)?;
        let hyper = self.hyper(&z)?;
        let y = symbols(&y.data, hyper.means.iter().copied())?;
        Ok(Symbols { z, y })
    }

    /// Scales, means and tables of y, from the symbols of z. The same bits on every CPU and for any number of threads.
    ///
    /// # Errors
    /// `Corrupt` if their number is not that of z.
    pub fn hyper(&self, z: &[i32]) -> Result<Hyper> {
        let shape = self.z_shape();
        if z.len() != shape.iter().product::<usize>() {
            return Err(Error::corrupt(format!("{} symbols of z, not {shape:?}", z.len())));
        }
        let size = (shape[1] * shape[2]).max(1);
        let data = z.iter().enumerate().map(|(i, s)| *s as f32 + self.medians[i / size]).collect();
        let parameters = self.synthesis.run(&engine::Cpu, &Image { shape, data })?;
        let (scales, means) = parameters.data.split_at(parameters.data.len() / 2);
        let indexes = latent::indexes(scales, &self.scale_table, self.scale_bound);
        Ok(Hyper { scales: scales.to_vec(), means: means.to_vec(), indexes })
    }

    /// ŷ: symbols plus means.
    ///
    /// # Errors
    /// `Corrupt` if the number of symbols is not that of y and z.
    pub fn dequantise(&self, symbols: &Symbols) -> Result<Image> {
        let shape = self.y_shape();
        if symbols.y.len() != shape.iter().product::<usize>() {
            return Err(Error::corrupt(format!("{} symbols of y, not {shape:?}", symbols.y.len())));
        }
        let hyper = self.hyper(&symbols.z)?;
        Ok(Image { shape, data: symbols.y.iter().zip(&hyper.means).map(|(s, m)| *s as f32 + m).collect() })
    }

    /// The normalised image of ŷ.
    ///
    /// # Errors
    /// `Input` if ŷ has another shape, or the device refuses.
    pub fn synthesise(&self, y: &Image) -> Result<Image> {
        let shape = self.y_shape();
        if y.shape != shape || y.data.len() != shape.iter().product::<usize>() {
            return Err(Error::input(format!("y of {:?}, not {shape:?}", y.shape)));
        }
        self.transforms.synthesise(y)
    }

    /// Symbols in the original's entropy-coded form.
    ///
    /// # Errors
    /// `Usage` if numbers of symbols are not the model's.
    pub fn compress(&self, symbols: &Symbols) -> Result<Bin> {
        let hyper = self.hyper(&symbols.z)?;
        let [_, h, w] = self.z_shape();
        Ok(Bin {
            z_shape: [h, w],
            y: self.gaussian.encode(&symbols.y, &hyper.indexes)?,
            z: self.factorised.encode(&symbols.z, &self.channel_indexes())?,
        })
    }

    /// Reads symbols from the original's form.
    ///
    /// # Errors
    /// `Corrupt` if shapes or strings are not those of this model.
    pub fn decompress(&self, bin: &Bin) -> Result<Symbols> {
        let [_, h, w] = self.z_shape();
        if bin.z_shape != [h, w] {
            return Err(Error::corrupt(format!(
                "a .bin latent whose z is {:?}; the model's is {:?}",
                bin.z_shape,
                [h, w]
            )));
        }
        let z = self.factorised.decode(&bin.z, &self.channel_indexes())?;
        let hyper = self.hyper(&z)?;
        Ok(Symbols { y: self.gaussian.decode(&bin.y, &hyper.indexes)?, z })
    }

    fn channel_indexes(&self) -> Vec<u16> {
        let [channels, h, w] = self.z_shape();
        (0..channels).flat_map(|c| std::iter::repeat_n(c as u16, h * w)).collect()
    }
}

fn checked(weights: &Weights) -> Result<Config> {
    let config: Config = weights.config()?;
    config.check()?;
    Ok(config)
}

/// Rounds differences to integers, halves to even.
fn symbols(values: &[f32], centers: impl Iterator<Item = f32>) -> Result<Vec<i32>> {
    let rounded = values.iter().zip(centers).map(|(x, c)| {
        let s = (x - c).round_ties_even();
        (s.abs() <= MAX_SIZE as f32).then_some(s as i32)
    });
    rounded.collect::<Option<_>>().ok_or_else(|| {
        Error::input(
            "the latent is not finite, or far out of range: are there missing values in the frame, or other units?",
        )
    })
}

/// The model as a codec of frames, in physical units.
struct Codec {
    model: VaeFormer,
    needs: Needs,
    keys: Vec<Key>,
    channels: Vec<Channel>,
    grid: Grid,
}

impl Codec {
    fn new(model: VaeFormer) -> Result<Self> {
        let config = model.config();
        let [h, w] = config.img_size;
        if config.patches().extent() != config.img_size || config.in_chans != config.out_chans {
            return Err(Error::unsupported("a VAEformer whose output is not of the shape of its input"));
        }
        let channels = config.channels();
        if channels.iter().any(|c| ![c.mean, c.std, c.factor].iter().all(|x| x.is_finite()) || c.std == 0.0) {
            return Err(Error::input("configuration of VAEformer: means and deviations must be finite, and not 0"));
        }
        let key = |c: &Channel| match c.level_hpa {
            Some(hpa) => Key::level(&c.name, hpa),
            None => Key::surface(&c.name),
        };
        let keys: Vec<Key> = channels.iter().map(key).collect();
        // Pole to pole, and round the globe from Greenwich.
        let lat: Vec<f64> = (0..h).map(|i| 90.0 - 180.0 * i as f64 / (h.max(2) - 1) as f64).collect();
        let lon: Vec<f64> = (0..w).map(|j| 360.0 * j as f64 / w as f64).collect();
        let grid = Grid::new(lat, lon)?;
        let needs = Needs {
            history: 1,
            step_s: 0,
            fields: keys.clone(),
            statics: Vec::new(),
            forcings: Vec::new(),
            gives: keys.clone(),
            grid: GridNeed::Exact(grid.clone()),
        };
        Ok(Self { model, needs, keys, channels, grid })
    }

    fn symbols(&self, latent: &Latent) -> Result<Symbols> {
        let shapes = [("z", self.model.z_shape()), ("y", self.model.y_shape())];
        let fits = latent.parts.len() == 2
            && latent.parts.iter().zip(&shapes).all(|(part, (name, shape))| {
                part.name == *name && part.shape == shape && part.values.len() == shape.iter().product::<usize>()
            });
        if !fits {
            let found: Vec<String> = latent.parts.iter().map(|p| format!("{} {:?}", p.name, p.shape)).collect();
            return Err(Error::corrupt(format!("a latent of {}; the model's is {shapes:?}", found.join(", "))));
        }
        Ok(Symbols { z: latent.parts[0].values.clone(), y: latent.parts[1].values.clone() })
    }

    fn latent(&self, symbols: Symbols, time_unix_s: i64) -> Latent {
        let part = |name, shape: [usize; 3], values| LatentPart { name, shape: shape.to_vec(), values };
        let parts = vec![part("z", self.model.z_shape(), symbols.z), part("y", self.model.y_shape(), symbols.y)];
        Latent { time_unix_s, parts }
    }
}

impl FieldCodec for Codec {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn encode(&self, frame: &Frame) -> Result<Latent> {
        let frames = self.needs.prepare(std::slice::from_ref(frame))?;
        let [frame] = &frames[..] else { return Err(Error::usage("one frame")) };
        let (h, w) = self.grid.shape();
        let mut x = Image { shape: [self.keys.len(), h, w], data: Vec::with_capacity(self.keys.len() * h * w) };
        for (key, c) in self.keys.iter().zip(&self.channels) {
            x.data.extend(frame.values(key)?.iter().map(|v| (v * c.factor - c.mean) / c.std));
        }
        let (y, z) = self.model.analyse(&x)?;
        drop(x);
        Ok(self.latent(self.model.quantise(&y, &z)?, frame.time_unix_s))
    }

    fn decode(&self, latent: &Latent) -> Result<Frame> {
        let mut x = self.model.synthesise(&self.model.dequantise(&self.symbols(latent)?)?)?;
        let (h, w) = self.grid.shape();
        x.data.par_chunks_exact_mut(h * w).zip(&self.channels).for_each(|(plane, c)| {
            plane.iter_mut().for_each(|v| *v = (*v * c.std + c.mean) / c.factor);
        });
        let mut frame = Frame::new(latent.time_unix_s, self.grid.clone());
        // From the end, so that memory is given back as it is copied.
        for (i, key) in self.keys.iter().enumerate().rev() {
            let plane = x.data[i * h * w..].to_vec();
            x.data.truncate(i * h * w);
            frame.insert_values(key.clone(), plane)?;
        }
        Ok(frame)
    }

    fn to_bytes(&self, latent: &Latent) -> Result<Vec<u8>> {
        self.model.compress(&self.symbols(latent)?)?.write()
    }

    fn from_bytes(&self, bytes: &[u8], time_unix_s: i64) -> Result<Latent> {
        Ok(self.latent(self.model.decompress(&Bin::read(bytes)?)?, time_unix_s))
    }

    /// None at all on the CPU: g_s runs in exact arithmetic there too. As cautious a guess as for other models on a GPU, where only ŷ is the same.
    fn tolerance(&self) -> f64 {
        if self.model.is_exact { 0.0 } else { 1e-4 }
    }
}
