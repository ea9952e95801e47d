//! Aurora (Bodnar et al., "A foundation model for the Earth system", Nature 2025): a Perceiver encoder from pressure levels to a few latent
//! levels of patches, a 3-D Swin transformer U-Net, and a Perceiver decoder back. Reimplemented from its published description; weights of the
//! authors' checkpoints fit (`residuum weights import`).
//!
//! The pretrained, fine-tuned (LoRA), small, 12-hour and 0.1° variants differ in [`Config`] only. Those for air pollution, waves and version 1.5 are
//! other models.
//!
//! The model normalises, cuts a grid that has one row too many (721 → 720, the southernmost), and predicts the state itself. Encoder and decoder work on a few
//! rows of patches at a time, the backbone on a few windows.
//!
//! Auxiliary tensor: `aux.root_area`, f32, one value for each patch, rows first: the root of the patch's area in km as the authors' software computes it
//! ([`root_area`] tells why the last bit matters).

mod codes;
mod fields;
mod swin;

use super::layers::{Given, Linear, Mlp, Norm, Probe, Source, random_values};
use super::ops::{self, Workers};
use super::weights::{self, About, Planned};
use super::{Entry, Forecaster, Frame, Grid, GridNeed, Key, Model, Needs, Options, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use fields::Wanted;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use swin::{Backbone, Run};

/// Aurora's line of the registry.
pub const ENTRY: Entry = Entry {
    name: "aurora",
    open: |weights, options| Ok(Model::Forecaster(Box::new(Aurora::new(weights, options)?))),
    is_exact_on_cpu: false,
    import: super::import::aurora::import,
};

/// Mean and scale of each variable (per level: `z_500`), as published in PyPI's `microsoft-aurora`.
const NORMALISATION: &str = include_str!("../../weights/aurora/normalisation.json");

/// When a roll-out adds its low-rank weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraMode {
    /// The same in all steps.
    Single,
    /// The same in all steps but the first, which has none.
    FromSecond,
    /// Others in each step.
    All,
}

/// Hyper-parameters; the defaults are those of the 0.25° model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Surface variables.
    pub surf_vars: Vec<String>,
    /// Variables that never change.
    pub static_vars: Vec<String>,
    /// Variables on pressure levels.
    pub atmos_vars: Vec<String>,
    /// Pressure levels in hPa. The weights fit any.
    pub atmos_levels: Vec<u32>,
    /// Hours that a step goes forward, and between the frames of the history.
    pub timestep_hours: u32,
    /// Grid points along a patch's side.
    pub patch_size: usize,
    /// Width of tokens in the encoder and the first stage.
    pub embed_dim: usize,
    /// Latent levels, the surface's included.
    pub latent_levels: usize,
    /// Heads of the Perceivers.
    pub num_heads: usize,
    /// Layers of the encoder's Perceiver.
    pub enc_depth: usize,
    /// Layers of the decoder's Perceiver.
    pub dec_depth: usize,
    /// Tokens of a window: levels, rows, columns.
    pub window_size: [usize; 3],
    /// Blocks of each encoder stage.
    pub encoder_depths: Vec<usize>,
    /// Heads of each encoder stage.
    pub encoder_num_heads: Vec<usize>,
    /// Blocks of each decoder stage.
    pub decoder_depths: Vec<usize>,
    /// Heads of each decoder stage.
    pub decoder_num_heads: Vec<usize>,
    /// Width of hidden layers over that of tokens.
    pub mlp_ratio: f64,
    /// The same in the decoder's Perceiver.
    pub dec_mlp_ratio: f64,
    /// Added to variances in the Perceivers' layer norms.
    pub perceiver_ln_eps: f64,
    /// Frames that a step looks back on.
    pub max_history_size: usize,
    /// Layer norms of keys and queries in the first layer of the encoder's Perceiver.
    pub stabilise_level_agg: bool,
    /// Whether there are low-rank additions.
    pub use_lora: bool,
    /// Roll-out steps from which on nothing is added.
    pub lora_steps: usize,
    /// Which addition a step takes.
    pub lora_mode: LoraMode,
    /// Additions are multiplied by this over their rank.
    pub lora_alpha: f64,
    /// Means of variables, `2t` or `z_500`, where they are not the published ones.
    pub locations: HashMap<String, f64>,
    /// Scales of variables, likewise.
    pub scales: HashMap<String, f64>,
}

/// Pressure levels whose normalisation is published, hPa.
pub(super) const LEVELS: [u32; 13] = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000];

impl Default for Config {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Self {
            surf_vars: names(&["2t", "10u", "10v", "msl"]),
            static_vars: names(&["lsm", "z", "slt"]),
            atmos_vars: names(&["z", "u", "v", "t", "q"]),
            atmos_levels: LEVELS.to_vec(),
            timestep_hours: 6,
            patch_size: 4,
            embed_dim: 512,
            latent_levels: 4,
            num_heads: 16,
            enc_depth: 1,
            dec_depth: 1,
            window_size: [2, 6, 12],
            encoder_depths: vec![6, 10, 8],
            encoder_num_heads: vec![8, 16, 32],
            decoder_depths: vec![8, 10, 6],
            decoder_num_heads: vec![32, 16, 8],
            mlp_ratio: 4.0,
            dec_mlp_ratio: 2.0,
            perceiver_ln_eps: 1e-5,
            max_history_size: 2,
            stabilise_level_agg: false,
            use_lora: false,
            lora_steps: 40,
            lora_mode: LoraMode::Single,
            lora_alpha: 8.0,
            locations: HashMap::new(),
            scales: HashMap::new(),
        }
    }
}

impl Config {
    /// That of the small model.
    pub fn small() -> Self {
        Self {
            embed_dim: 256,
            num_heads: 8,
            encoder_depths: vec![2, 6, 2],
            encoder_num_heads: vec![4, 8, 16],
            decoder_depths: vec![2, 6, 2],
            decoder_num_heads: vec![16, 8, 4],
            ..Self::default()
        }
    }

    /// Refuses what no Aurora has, so that sizes can be computed without care. Whether tensors have these sizes is seen when they are read.
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::input(format!("Aurora's configuration: {what}")));
        let d = self.embed_dim;
        let stages = self.encoder_depths.len();
        let lists = [&self.encoder_num_heads, &self.decoder_depths, &self.decoder_num_heads];
        if !(1..=8).contains(&stages) || lists.iter().any(|l| l.len() != stages) {
            return wrong("depths and heads of encoder and decoder need as many entries, 1 to 8");
        }
        let depths = self.encoder_depths.iter().chain(&self.decoder_depths);
        if depths.chain([&self.enc_depth, &self.dec_depth]).any(|n| !(1..=1000).contains(n)) {
            return wrong("1 to 1000 layers or blocks");
        }
        if !(1..=1 << 14).contains(&d)
            || !d.is_multiple_of(4)
            || !d.is_multiple_of(self.num_heads.max(1))
            || self.num_heads == 0
        {
            return wrong("embed_dim must be a multiple of 4 and of num_heads, at most 16384");
        }
        for (i, (&e, &h)) in self.encoder_num_heads.iter().zip(self.decoder_num_heads.iter().rev()).enumerate() {
            if e == 0 || h == 0 || !(d << i).is_multiple_of(e) || !(d << i).is_multiple_of(h) {
                return wrong("the width of each stage must be a multiple of its heads");
            }
        }
        if !(1..=64).contains(&self.patch_size) || self.window_size.iter().any(|w| !(1..=256).contains(w)) {
            return wrong("patches of 1 to 64 points, windows of 1 to 256 tokens a side");
        }
        if !(2..=256).contains(&self.latent_levels) || !(1..=64).contains(&self.max_history_size) {
            return wrong("2 to 256 latent levels, 1 to 64 frames of history");
        }
        if ![self.mlp_ratio, self.dec_mlp_ratio].iter().all(|r| (0.01..=64.0).contains(r)) {
            return wrong("mlp ratios from 0.01 to 64");
        }
        if !(1..=504).contains(&self.timestep_hours) || self.lora_steps > 10_000 || !self.lora_alpha.is_finite() {
            return wrong("steps of 1 to 504 hours, at most 10000 of them with low-rank additions");
        }
        let sizes = [self.surf_vars.len(), self.atmos_vars.len(), self.atmos_levels.len()];
        if sizes.iter().any(|n| !(1..=256).contains(n)) || self.static_vars.len() > 256 {
            return wrong("1 to 256 variables and levels");
        }
        Ok(())
    }

    /// Low-rank additions that the weights hold.
    fn lora_count(&self) -> usize {
        match (self.use_lora, self.lora_mode) {
            (false, _) => 0,
            (true, LoraMode::All) => self.lora_steps,
            (true, LoraMode::Single | LoraMode::FromSecond) => 1,
        }
    }

    /// Which of them a step takes.
    fn lora_index(&self, step: usize) -> Option<usize> {
        let late = step >= self.lora_steps;
        match self.lora_mode {
            _ if late || !self.use_lora => None,
            LoraMode::Single => Some(0),
            LoraMode::FromSecond => (step > 0).then_some(0),
            LoraMode::All => Some(step),
        }
    }

    fn needs(&self) -> Needs {
        let surface = |names: &[String]| names.iter().map(|n| Key::surface(n)).collect::<Vec<_>>();
        let levels = self.atmos_levels.iter();
        let atmosphere = self.atmos_vars.iter().flat_map(|n| levels.clone().map(move |&l| Key::level(n, l)));
        let fields: Vec<Key> = surface(&self.surf_vars).into_iter().chain(atmosphere).collect();
        Needs {
            history: self.max_history_size,
            step_s: i64::from(self.timestep_hours) * 3600,
            gives: fields.clone(),
            fields,
            statics: surface(&self.static_vars),
            forcings: vec![],
            grid: GridNeed::Patches { patch: self.patch_size },
        }
    }

    /// Mean and scale of each field.
    fn normalisation(&self) -> Result<HashMap<String, (f32, f32)>> {
        let published: HashMap<String, (f64, f64)> =
            serde_json::from_str(NORMALISATION).map_err(|e| Error::input(format!("normalisation: {e}")))?;
        let names = self.surf_vars.iter().chain(&self.static_vars).cloned();
        let levels = self.atmos_levels.iter();
        let names = names.chain(self.atmos_vars.iter().flat_map(|n| levels.clone().map(move |l| format!("{n}_{l}"))));
        let mut found = HashMap::new();
        let mut missing = vec![];
        for name in names {
            let known = published.get(&name);
            let location = self.locations.get(&name).copied().or(known.map(|k| k.0));
            let scale = self.scales.get(&name).copied().or(known.map(|k| k.1));
            match (location, scale) {
                (Some(location), Some(scale)) if location.is_finite() && scale.is_finite() && scale != 0.0 => {
                    found.insert(name, (location as f32, scale as f32));
                }
                _ => missing.push(name),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        Err(Error::input(format!(
            "no mean and scale for {}; published are those of 2t, 10u, 10v, msl, z, lsm, slt, and of z, u, v, t, q on {LEVELS:?} hPa",
            missing.join(", ")
        )))
    }
}

/// Aurora, ready to run.
pub struct Aurora {
    config: Config,
    needs: Needs,
    normalisation: HashMap<String, (f32, f32)>,
    device: Device,
    dtype: DType,
    /// Whether fields come and go as tensors; on the CPU in f32 loops over them are faster.
    takes_tensors: bool,
    /// Tokens that are worked on together, if it is not what is best on the device.
    chunk_tokens: Option<usize>,
    root_area: Option<Vec<f32>>,
    workers: Workers,
    encoder: Encoder,
    backbone: Backbone,
    decoder: Decoder,
}

struct Encoder {
    surface: Linear,
    surface_level: Tensor,
    surface_mlp: Mlp,
    surface_norm: Norm,
    atmosphere: Linear,
    levels: Linear,
    latents: Tensor,
    aggregation: Vec<PerceiverLayer>,
    position: Linear,
    scale: Linear,
    lead_time: Linear,
    absolute_time: Linear,
}

struct Decoder {
    levels: Linear,
    disaggregation: Vec<PerceiverLayer>,
    surface_heads: Linear,
    atmosphere_heads: Linear,
}

/// Queries look at tokens: lat += LN(attention(lat, tokens)); lat += LN(MLP(lat)).
struct PerceiverLayer {
    heads: usize,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    /// Of keys and queries, all heads together.
    stabilisers: Option<(Norm, Norm)>,
    mlp: Mlp,
    norms: [Norm; 2],
}

impl PerceiverLayer {
    fn load(s: &Source<'_>, prefix: &str, config: &Config, width: usize, ratio: f64, stable: bool) -> Result<Self> {
        let hidden = (width as f64 * ratio) as usize;
        let eps = config.perceiver_ln_eps;
        let stabiliser = |name: &str| s.norm(&format!("{prefix}.0.{name}"), width, 1e-5);
        Ok(Self {
            heads: config.num_heads,
            to_q: s.linear_no_bias(&format!("{prefix}.0.to_q"), width, width)?,
            to_kv: s.linear_no_bias(&format!("{prefix}.0.to_kv"), width, 2 * width)?,
            to_out: s.linear_no_bias(&format!("{prefix}.0.to_out"), width, width)?,
            stabilisers: if stable { Some((stabiliser("ln_k")?, stabiliser("ln_q")?)) } else { None },
            mlp: Mlp::load(s, &format!("{prefix}.1.net.0"), &format!("{prefix}.1.net.2"), width, hidden)?,
            norms: [s.norm(&format!("{prefix}.2"), width, eps)?, s.norm(&format!("{prefix}.3"), width, eps)?],
        })
    }

    /// `latents` of shape (n or 1, queries, width), `tokens` (n, tokens, width); gives (n, queries, width).
    fn apply(&self, latents: &Tensor, tokens: &Tensor) -> Result<Tensor> {
        let mut q = self.to_q.apply(latents)?;
        let mut kv = self.to_kv.apply(tokens)?;
        if let Some((of_k, of_q)) = &self.stabilisers {
            q = of_q.apply(&q)?;
            let width = kv.dim(2)? / 2;
            let k = of_k.apply(&kv.narrow(2, 0, width)?.contiguous()?)?;
            kv = Tensor::cat(&[k, kv.narrow(2, width, width)?], 2)?;
        }
        let attended = self.to_out.apply(&ops::cross_attention(&q, &kv, self.heads)?)?;
        let latents = ops::add(self.norms[0].apply_to(attended)?, latents)?;
        ops::add(self.norms[1].apply_to(self.mlp.apply(&latents)?)?, &latents)
    }
}

fn perceive(layers: &[PerceiverLayer], latents: &Tensor, tokens: &Tensor) -> Result<Tensor> {
    let mut latents = latents.unsqueeze(0)?;
    for layer in layers {
        latents = layer.apply(&latents, tokens)?;
    }
    Ok(latents)
}

impl Encoder {
    fn load(s: &Source<'_>, c: &Config) -> Result<Self> {
        let d = c.embed_dim;
        // One kernel for each variable, [D, 1, T, P, P]; side by side they are one matrix.
        let patches = |prefix: &str, names: &mut dyn Iterator<Item = &String>| -> Result<Linear> {
            let shape = [d, 1, c.max_history_size, c.patch_size, c.patch_size];
            let kernels = names.map(|n| s.get(&format!("{prefix}.weights.{n}"), &shape)).collect::<Result<Vec<_>>>()?;
            let bias = Some(s.get(&format!("{prefix}.bias"), &[d])?);
            Ok(Linear { weight: Tensor::cat(&kernels, 1)?.flatten_from(1)?, bias })
        };
        let hidden = (d as f64 * c.mlp_ratio) as usize;
        let layer = |i: usize| {
            let prefix = format!("encoder.level_agg.layers.{i}");
            PerceiverLayer::load(s, &prefix, c, d, c.mlp_ratio, i == 0 && c.stabilise_level_agg)
        };
        Ok(Self {
            surface: patches("encoder.surf_token_embeds", &mut c.surf_vars.iter().chain(&c.static_vars))?,
            surface_level: s.get("encoder.surf_level_encoding", &[d])?,
            surface_mlp: Mlp::load(s, "encoder.surf_mlp.net.0", "encoder.surf_mlp.net.2", d, hidden)?,
            surface_norm: s.norm("encoder.surf_norm", d, 1e-5)?,
            atmosphere: patches("encoder.atmos_token_embeds", &mut c.atmos_vars.iter())?,
            levels: s.linear("encoder.atmos_levels_embed", d, d)?,
            latents: s.get("encoder.atmos_latents", &[c.latent_levels - 1, d])?,
            aggregation: (0..c.enc_depth).map(layer).collect::<Result<_>>()?,
            position: s.linear("encoder.pos_embed", d, d)?,
            scale: s.linear("encoder.scale_embed", d, d)?,
            lead_time: s.linear("encoder.lead_time_embed", d, d)?,
            absolute_time: s.linear("encoder.absolute_time_embed", d, d)?,
        })
    }
}

impl Decoder {
    fn load(s: &Source<'_>, c: &Config) -> Result<Self> {
        let (width, pixels) = (2 * c.embed_dim, c.patch_size * c.patch_size);
        let heads = |prefix: &str, names: &[String]| -> Result<Linear> {
            let all: Vec<Linear> =
                names.iter().map(|n| s.linear(&format!("{prefix}.{n}"), width, pixels)).collect::<Result<_>>()?;
            let weights: Vec<&Tensor> = all.iter().map(|l| &l.weight).collect();
            let biases: Vec<&Tensor> = all.iter().filter_map(|l| l.bias.as_ref()).collect();
            Ok(Linear { weight: Tensor::cat(&weights, 0)?, bias: Some(Tensor::cat(&biases, 0)?) })
        };
        let layer = |i: usize| {
            let prefix = format!("decoder.level_decoder.layers.{i}");
            PerceiverLayer::load(s, &prefix, c, width, c.dec_mlp_ratio, false)
        };
        Ok(Self {
            levels: s.linear("decoder.atmos_levels_embed", width, width)?,
            disaggregation: (0..c.dec_depth).map(layer).collect::<Result<_>>()?,
            surface_heads: heads("decoder.surf_heads", &c.surf_vars)?,
            atmosphere_heads: heads("decoder.atmos_heads", &c.atmos_vars)?,
        })
    }
}

impl Aurora {
    /// The model that weights hold.
    ///
    /// # Errors
    /// `Input` if configuration and tensors do not fit together.
    pub fn new(weights: &Weights, options: &Options) -> Result<Self> {
        let source = Source { given: Given::File(weights), device: &options.device, dtype: options.dtype };
        Self::load(weights.config()?, &source, options)
    }

    fn load(config: Config, source: &Source<'_>, options: &Options) -> Result<Self> {
        config.check()?;
        let root_area = options.auxiliary.get("aux.root_area");
        let root_area = root_area.map(|t| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()).transpose()?;
        Ok(Self {
            needs: config.needs(),
            normalisation: config.normalisation()?,
            device: options.device.clone(),
            dtype: options.dtype,
            takes_tensors: !(options.device.is_cpu() && options.dtype == DType::F32),
            chunk_tokens: None,
            root_area,
            workers: Workers::new(&options.device)?,
            encoder: Encoder::load(source, &config)?,
            backbone: Backbone::load(source, &config)?,
            decoder: Decoder::load(source, &config)?,
            config,
        })
    }

    /// Writes random weights of a configuration to `path`: for measuring, where real ones are not at hand. The same seed gives the same file.
    ///
    /// # Errors
    /// `Input` if the configuration is unsound, `Io` if the disk refuses.
    pub fn write_random(path: &std::path::Path, config: &Config, seed: u64) -> Result<()> {
        let options = Options::default();
        let given = Given::Random { seed, asked: Default::default() };
        let source = Source { given, device: &options.device, dtype: options.dtype };
        Self::load(config.clone(), &source, &options)?;
        let Given::Random { asked, .. } = source.given else { return Ok(()) };
        let asked = asked.into_inner().unwrap_or_else(|e| e.into_inner());
        let config = serde_json::to_value(config).map_err(|e| Error::input(e.to_string()))?;
        let (licence, source) = (String::new(), format!("random, seed {seed}"));
        let tensors: Vec<(String, Planned<'_>)> = asked
            .iter()
            .map(|(name, shape)| {
                let values =
                    move || Ok(random_values(seed, name, shape).iter().flat_map(|x| x.to_le_bytes()).collect());
                let planned = Planned { dtype: safetensors::Dtype::F32, shape: shape.clone(), bytes: Box::new(values) };
                (name.clone(), planned)
            })
            .collect();
        weights::write(path, &About { model: "aurora".into(), config, licence, source }, &tensors, true, |_| Ok(()))
    }

    /// The same, with so many tokens worked on together instead of what is best on its device: memory goes with them, and last bits of what comes out.
    pub fn with_chunks_of(self, tokens: usize) -> Self {
        Self { chunk_tokens: Some(tokens), ..self }
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// [`Forecaster::step`], with a look inside: `probe` is shown the stages' outputs under the names of the parity fixtures.
    ///
    /// # Errors
    /// As [`Forecaster::step`].
    pub fn step_with(&self, history: &[Frame], rollout_step: usize, probe: &Probe) -> Result<Frame> {
        let history = self.needs.prepare(history)?;
        let Some(last) = history.last() else { return Err(Error::input("no frames")) };
        let run =
            Run { config: &self.config, workers: &self.workers, probe, rollout_step, chunk_tokens: self.chunk_tokens };
        let (h, w) = last.grid.shape();
        let patches = [h / self.config.patch_size, w / self.config.patch_size];
        let extent = [self.config.latent_levels, patches[0], patches[1]];
        let hours = f64::from(self.config.timestep_hours);
        let lead_time = codes::fourier(&[hours], self.config.embed_dim, codes::LEAD_TIME)?;
        let lead_time = self.rows(lead_time, 1)?;

        let tokens = self.encode(&history, patches, &lead_time, &run)?;
        probe.show("enc.out", 0, &tokens);
        probe.show("bb.lead_time_encode", 0, &lead_time);
        let halves = self.backbone.forward(tokens, extent, &lead_time, &run)?;
        self.decode(halves, last, patches, &run)
    }

    /// Values as a matrix of `n` rows in the model's type, where the model runs.
    fn rows(&self, values: Vec<f32>, n: usize) -> Result<Tensor> {
        let width = values.len() / n.max(1);
        Ok(Tensor::from_vec(values, (n, width), &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)?)
    }

    /// Rows of patches that make a chunk.
    fn chunk_rows(&self, patches: [usize; 2]) -> usize {
        // Points on levels, of which the decoder makes its largest arrays.
        const TOKENS: usize = 512;
        const DEVICE_TOKENS: usize = 1 << 14;
        let tokens = if self.device.is_cpu() { TOKENS } else { DEVICE_TOKENS };
        (self.chunk_tokens.unwrap_or(tokens) / patches[1]).clamp(1, patches[0])
    }

    /// Tokens (latent levels x patches, width), level by level.
    fn encode(&self, history: &[Frame], patches: [usize; 2], lead_time: &Tensor, run: &Run<'_>) -> Result<Tensor> {
        let (c, e) = (&self.config, &self.encoder);
        let Some(last) = history.last() else { return Err(Error::input("no frames")) };
        let d = c.embed_dim;
        let (now, n_levels) = (&history[history.len() - 1..], c.atmos_levels.len());
        let mut surface: Vec<Wanted<'_>> = vec![];
        for (names, frames) in [(&c.surf_vars, history), (&c.static_vars, now)] {
            surface.extend(names.iter().map(|name| Wanted { frames, key: Key::surface(name), constant: name.clone() }));
        }
        let surface = self.points(&[surface])?;
        let of_level = |&level: &u32| -> Vec<Wanted<'_>> {
            let wanted = |name: &String| Wanted {
                frames: history,
                key: Key::level(name, level),
                constant: format!("{name}_{level}"),
            };
            c.atmos_vars.iter().map(wanted).collect()
        };
        let levels = self.points(&c.atmos_levels.iter().map(of_level).collect::<Vec<_>>())?;
        let [level_codes, positions, scales] = self.place_codes(&last.grid, run)?;
        let level_codes = e.levels.rows(&level_codes)?;
        let hours = (last.time_unix_s as f64 / 3600.0) as f32;
        let absolute = self.rows(codes::fourier(&[f64::from(hours)], d, codes::ABSOLUTE_TIME)?, 1)?;
        run.probe.show("enc.abs_time_encode", 0, &absolute);
        run.probe.show("enc.lead_time_encode", 0, lead_time);
        let time = (e.lead_time.rows(lead_time)? + e.absolute_time.rows(&absolute)?)?;

        let per_chunk = self.chunk_rows(patches);
        let chunks = patches[0].div_ceil(per_chunk);
        let parts = self.workers.map(chunks, |i| {
            let rows = i * per_chunk..((i + 1) * per_chunk).min(patches[0]);
            let n = rows.len() * patches[1];
            let tokens = e.surface.rows(&self.patches(&surface, rows.clone(), patches[1], n)?)?;
            run.probe.show("enc.surf_tokens", i, &tokens);
            let tokens = ops::add(tokens, &e.surface_level)?;
            let branch = e.surface_mlp.apply(&tokens)?;
            run.probe.show("enc.surf_mlp", i, &branch);
            let tokens = ops::add(e.surface_norm.apply_to(branch)?, &tokens)?;

            let pixels = self.patches(&levels, rows.clone(), patches[1], n * n_levels)?;
            let columns = e.atmosphere.rows(&pixels)?.reshape((n, n_levels, d))?;
            run.probe.show("enc.atmos_tokens", i, &columns);
            let latents = perceive(&e.aggregation, &e.latents, &ops::add(columns, &level_codes)?)?;
            run.probe.show("enc.level_agg", i, &latents);

            let all = Tensor::cat(&[tokens.unsqueeze(1)?, latents], 1)?;
            let start = rows.start * patches[1];
            let place = e.position.rows(&positions.narrow(0, start, n)?)?;
            let place = ops::add(e.scale.rows(&scales.narrow(0, start, n)?)?, &place)?;
            let all = ops::add(ops::add_groups(all, &place, c.latent_levels)?, &time)?;
            Ok(all.reshape((n * c.latent_levels, d))?)
        })?;
        // From patch by patch to level by level.
        let (n, k) = ((patches[0] * patches[1]) as u32, c.latent_levels as u32);
        let order: Vec<u32> = (0..k).flat_map(|level| (0..n).map(move |l| l * k + level)).collect();
        ops::gather_from(&parts, &order, &self.workers)
    }

    /// Codes of levels, of positions and of patch areas.
    fn place_codes(&self, grid: &Grid, run: &Run<'_>) -> Result<[Tensor; 3]> {
        let (d, patch) = (self.config.embed_dim, self.config.patch_size);
        let levels: Vec<f64> = self.config.atmos_levels.iter().map(|&l| l.into()).collect();
        let levels = self.rows(codes::fourier(&levels, d, codes::LEVEL)?, levels.len())?;
        run.probe.show("enc.atmos_levels_encode", 0, &levels);
        let means = codes::patch_means(grid, patch);
        let n = means.len();
        let both: Vec<f64> = means.iter().flat_map(|&(lat, lon)| [lat.into(), lon.into()]).collect();
        let positions = self.rows(codes::fourier(&both, d / 2, codes::POSITION)?, n)?;
        run.probe.show("enc.pos_encode", 0, &positions);
        let areas = match &self.root_area {
            Some(areas) if areas.len() == n => areas.clone(),
            Some(areas) => {
                return Err(Error::input(format!("aux.root_area has {} values, the grid {n} patches", areas.len())));
            }
            None => codes::root_area(grid, patch),
        };
        let areas: Vec<f64> = areas.iter().map(|&x| x.into()).collect();
        let scales = self.rows(codes::fourier(&areas, d, codes::SCALE)?, n)?;
        run.probe.show("enc.scale_encode", 0, &scales);
        Ok([levels, positions, scales])
    }

    /// The predicted frame from the two halves of the backbone's output.
    fn decode(&self, halves: [Tensor; 2], last: &Frame, patches: [usize; 2], run: &Run<'_>) -> Result<Frame> {
        let (c, dec) = (&self.config, &self.decoder);
        let (width, n_all, k) = (2 * c.embed_dim, patches[0] * patches[1], c.latent_levels);
        let levels: Vec<f64> = c.atmos_levels.iter().map(|&l| l.into()).collect();
        let codes = self.rows(codes::fourier(&levels, width, codes::LEVEL)?, levels.len())?;
        run.probe.show("dec.atmos_levels_encode", 0, &codes);
        let queries = dec.levels.rows(&codes)?;
        if run.probe.is_keeping() {
            run.probe.show("bb.out", 0, &Tensor::cat(&halves, 1)?);
        }

        let per_chunk = self.chunk_rows(patches);
        let chunks = patches[0].div_ceil(per_chunk);
        let parts = self.workers.map(chunks, |i| {
            let rows = i * per_chunk..((i + 1) * per_chunk).min(patches[0]);
            let (start, n) = (rows.start * patches[1], rows.len() * patches[1]);
            let level = |l: usize| {
                let of_half = |half: &Tensor| half.narrow(0, l * n_all + start, n);
                Tensor::cat(&[of_half(&halves[0])?, of_half(&halves[1])?], 1)
            };
            let surface = dec.surface_heads.rows(&level(0)?)?;
            let latents = (1..k).map(level).collect::<candle_core::Result<Vec<_>>>()?;
            let columns = perceive(&dec.disaggregation, &queries, &Tensor::stack(&latents, 1)?)?;
            run.probe.show("dec.level_decoder", i, &columns);
            let columns = dec.atmosphere_heads.apply(&columns)?;
            Ok((self.heads(&surface)?, self.heads(&columns)?))
        })?;
        drop(halves);

        let time = last.time_unix_s + self.needs.step_s;
        let mut frame = Frame::new(time, last.grid.clone());
        let (surface, atmosphere): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        for (v, name) in c.surf_vars.iter().enumerate() {
            let field = self.field(&surface, v, c.surf_vars.len(), patches)?;
            self.put(&mut frame, Key::surface(name), name, field, run)?;
        }
        let n_atmos = c.atmos_vars.len();
        for (v, name) in c.atmos_vars.iter().enumerate() {
            for (l, &level) in c.atmos_levels.iter().enumerate() {
                let field = self.field(&atmosphere, l * n_atmos + v, levels.len() * n_atmos, patches)?;
                self.put(&mut frame, Key::level(name, level), &format!("{name}_{level}"), field, run)?;
            }
        }
        Ok(frame)
    }
}

impl Forecaster for Aurora {
    /// Four times what the small model at 0.25° differs by between f32 here and f64 by candle's functions.
    fn tolerance(&self) -> f64 {
        2e-4
    }

    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn step(&self, history: &[Frame], _target: Option<&Frame>, rollout_step: usize) -> Result<Frame> {
        self.step_with(history, rollout_step, &Probe::default())
    }
}

/// Root of each patch's area in km, rows of patches first, in f32: what the code of scale is made of.
///
/// The shortest wavelength of that code is about one ulp of this number, so that two libraries whose sines or roots differ in the last bit give different codes. The two
/// official grids therefore have the authors' own values; for another grid, give them to the model as `aux.root_area`.
///
/// # Errors
/// `Usage` if patches of this size do not fit the grid.
pub fn root_area(grid: &Grid, patch: usize) -> Result<Vec<f32>> {
    if patch == 0 {
        return Err(Error::usage("a patch without points"));
    }
    let rows = GridNeed::Patches { patch }.check(grid)?;
    Ok(codes::root_area(&grid.cropped(rows), patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_as_tensors_give_what_loops_on_the_host_give() {
        let config = Config {
            embed_dim: 8,
            num_heads: 2,
            window_size: [2, 2, 2],
            encoder_depths: vec![1, 1],
            encoder_num_heads: vec![1, 2],
            decoder_depths: vec![1, 1],
            decoder_num_heads: vec![2, 1],
            patch_size: 2,
            atmos_levels: vec![500, 850],
            ..Config::default()
        };
        let options = Options::default();
        let given = Given::Random { seed: 5, asked: Default::default() };
        let source = Source { given, device: &options.device, dtype: options.dtype };
        let mut model = Aurora::load(config, &source, &options).unwrap();
        // One row too many; 3 latent levels of 9 x 60 patches, several chunks of them.
        let lat: Vec<f64> = (0..19).map(|i| 90.0 - 180.0 / 18.0 * f64::from(i)).collect();
        let grid = Grid::new(lat, (0..120).map(|j| 3.0 * f64::from(j)).collect::<Vec<f64>>()).unwrap();
        let mut seed = 1u64;
        let mut frame = |time: i64| {
            let mut frame = Frame::new(time, grid.clone());
            for key in model.needs.fields.iter().chain(&model.needs.statics) {
                let name = key.level_hpa.map_or(key.name.clone(), |level| format!("{}_{level}", key.name));
                let (location, scale) = model.constants(&name);
                let mut noise = || {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
                };
                frame.insert_values(key.clone(), (0..19 * 120).map(|_| location + scale * noise()).collect()).unwrap();
            }
            frame
        };
        let mut history = vec![frame(1_577_836_800), frame(1_577_836_800 + 6 * 3600)];
        let on_host = model.step(&history, None, 0).unwrap();
        model.takes_tensors = true;
        let as_tensors = model.step(&history, None, 0).unwrap();
        for key in &model.needs.gives {
            let name = key.level_hpa.map_or(key.name.clone(), |level| format!("{}_{level}", key.name));
            let (location, scale) = model.constants(&name);
            let (a, b) = (on_host.values(key).unwrap(), as_tensors.values(key).unwrap());
            assert_eq!((a.len(), b.len()), (18 * 120, 18 * 120));
            assert!(a.iter().any(|x| (x - location).abs() > 0.1 * scale), "{key}: nothing but zeros");
            // Means and scales are applied by other operations.
            let off = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(off <= 1e-5 * scale + 2.0 * f32::EPSILON * location.abs(), "{key}: {off} of {scale}");
        }
        // Values that are no numbers are named in both ways.
        history[1].insert_values(Key::surface("msl"), vec![f32::NAN; 19 * 120]).unwrap();
        let said = model.step(&history, None, 0).unwrap_err().to_string();
        assert!(said.contains("msl") && said.contains("not finite"), "{said}");
    }
}
