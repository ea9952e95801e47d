//! Aurora's checkpoints (`.ckpt`): a flat dictionary of tensors, the newer ones with a kernel for each variable, the older with kernels and
//! heads of all variables stacked.

use super::{Checkpoint, ImportOptions, Imported, TensorMeta};
use crate::error::{Context, Error, Result};
use crate::forecast::aurora::{Config, LoraMode};
use crate::forecast::weights::{About, Planned, byte_len};
use serde_json::Value;
use std::collections::BTreeMap;

/// Order of variables in the stacked layout.
const STACKED_SURFACE_INPUTS: [&str; 7] = ["2t", "10u", "10v", "msl", "lsm", "z", "slt"];
const STACKED_SURFACE_OUTPUTS: [&str; 4] = ["2t", "10u", "10v", "msl"];
const STACKED_ATMOSPHERE: [&str; 5] = ["z", "u", "v", "t", "q"];

/// A tensor of the model out of one of the checkpoint.
struct Piece {
    /// Name in the checkpoint.
    from: String,
    /// Which of how many along dimension 1, if it is one of several.
    slice: Option<(usize, usize)>,
    shape: Vec<usize>,
}

/// Turns a checkpoint into Aurora's weights; `None` if it is not of Aurora.
pub(crate) fn import<'a>(checkpoint: &'a Checkpoint, options: &ImportOptions) -> Result<Option<Imported<'a>>> {
    let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
    for (from, meta) in checkpoint.tensors() {
        let name = from.strip_prefix("net.").unwrap_or(from);
        for (name, piece) in unstacked(name, from, meta)? {
            if pieces.insert(name.clone(), piece).is_some() {
                return Err(Error::input(format!("the checkpoint has {name:?} twice")));
            }
        }
    }
    if !["encoder.atmos_latents", "backbone.time_mlp.0.weight"].iter().all(|n| pieces.contains_key(*n)) {
        return Ok(None);
    }
    let shapes = Shapes { pieces: &pieces };
    let (mut config, variant) = shapes.config(&checkpoint.file_name()).context(|| "Aurora")?;
    if let Some(Value::Object(given)) = &options.config {
        merge(&mut config, given)?;
    }
    let mut json = serde_json::to_value(&config).map_err(|e| Error::input(e.to_string()))?;
    json["variant"] = variant.into();
    if !config.use_lora {
        pieces.retain(|name, _| !name.contains(".lora_"));
    }
    let about = About { model: "aurora".into(), config: json, licence: "MIT".into(), source: checkpoint.file_name() };
    let mut tensors = vec![];
    for (name, piece) in pieces {
        let meta = checkpoint.meta(&piece.from)?;
        let whole = meta.shape.clone();
        let Piece { from, slice, shape } = piece;
        let expected = byte_len(meta.dtype, &shape);
        let bytes = Box::new(move || {
            let bytes = checkpoint.bytes(&from)?;
            let Some((index, count)) = slice else { return Ok(bytes) };
            // The stacked dimension is the second of (outer, count, inner): the kernels' own, or of rows that are (points of a patch, variables).
            let rows = whole.first().copied().unwrap_or(0);
            let outer = if whole.len() > 2 { rows } else { rows / count.max(1) };
            let inner = bytes.len() / (outer * count).max(1);
            let mut out = Vec::with_capacity(outer * inner);
            for o in 0..outer {
                out.extend_from_slice(&bytes[(o * count + index) * inner..][..inner]);
            }
            Ok(out)
        });
        if expected.is_none() {
            return Err(Error::input(format!("tensor {name:?} is too large")));
        }
        tensors.push((name, Planned { dtype: meta.dtype, shape, bytes }));
    }
    Ok(Some(Imported { about, tensors }))
}

/// The tensors that one of the checkpoint holds, under the names of the newer layout.
fn unstacked(name: &str, from: &str, meta: &TensorMeta) -> Result<Vec<(String, Piece)>> {
    let (names, target, suffix): (&[&str], &str, &str) = match name {
        "encoder.surf_token_embeds.weight" => (&STACKED_SURFACE_INPUTS, "encoder.surf_token_embeds.weights", ""),
        "encoder.atmos_token_embeds.weight" => (&STACKED_ATMOSPHERE, "encoder.atmos_token_embeds.weights", ""),
        "decoder.surf_head.weight" => (&STACKED_SURFACE_OUTPUTS, "decoder.surf_heads", ".weight"),
        "decoder.surf_head.bias" => (&STACKED_SURFACE_OUTPUTS, "decoder.surf_heads", ".bias"),
        "decoder.atmos_head.weight" => (&STACKED_ATMOSPHERE, "decoder.atmos_heads", ".weight"),
        "decoder.atmos_head.bias" => (&STACKED_ATMOSPHERE, "decoder.atmos_heads", ".bias"),
        _ => {
            // Older spelling of the wave model's layer norms.
            let name = name.replace(".k_ln.", ".ln_k.").replace(".q_ln.", ".ln_q.");
            return Ok(vec![(name, Piece { from: from.to_string(), slice: None, shape: meta.shape.clone() })]);
        }
    };
    let count = names.len();
    let wrong = || {
        Error::input(format!(
            "tensor {from:?} of shape {:?} can not be that of {} variables",
            meta.shape,
            names.join(", ")
        ))
    };
    let shape = match &meta.shape[..] {
        // Kernels: [D, variables, T, P, P].
        &[d, n, t, p, q] if suffix.is_empty() && n == count => vec![d, 1, t, p, q],
        &[rows, width] if suffix == ".weight" && rows.is_multiple_of(count) => vec![rows / count, width],
        &[rows] if suffix == ".bias" && rows.is_multiple_of(count) => vec![rows / count],
        _ => return Err(wrong()),
    };
    let piece = |i| Piece { from: from.to_string(), slice: Some((i, count)), shape: shape.clone() };
    Ok(names.iter().enumerate().map(|(i, v)| (format!("{target}.{v}{suffix}"), piece(i))).collect())
}

/// Hyper-parameters that the user gave win.
fn merge(config: &mut Config, given: &serde_json::Map<String, Value>) -> Result<()> {
    let mut json = serde_json::to_value(&*config).map_err(|e| Error::input(e.to_string()))?;
    for (key, value) in given {
        json[key] = value.clone();
    }
    *config = serde_json::from_value(json).map_err(|e| Error::usage(format!("configuration: {e}")))?;
    Ok(())
}

struct Shapes<'a> {
    pieces: &'a BTreeMap<String, Piece>,
}

impl Shapes<'_> {
    fn shape(&self, name: &str) -> Result<&[usize]> {
        let piece = self.pieces.get(name).ok_or_else(|| Error::input(format!("there is no tensor {name:?}")))?;
        Ok(&piece.shape)
    }

    /// Names between `prefix` and `suffix`.
    fn between(&self, prefix: &str, suffix: &str) -> Vec<String> {
        let names = self.pieces.keys();
        names.filter_map(|n| n.strip_prefix(prefix)?.strip_suffix(suffix)).map(str::to_string).collect()
    }

    /// How many of 0, 1, 2, … stand between `prefix` and `suffix`.
    fn count(&self, prefix: &str, suffix: &str) -> usize {
        (0..).take_while(|i| self.pieces.contains_key(&format!("{prefix}{i}{suffix}"))).count()
    }

    /// What shapes say, and what all published variants share; with a name of the variant.
    fn config(&self, file_name: &str) -> Result<(Config, &'static str)> {
        let mut c = Config::default();
        let &[latents, d] = self.shape("encoder.atmos_latents")? else {
            return Err(Error::input("encoder.atmos_latents is no matrix"));
        };
        let known = |names: Vec<String>, order: &[String]| -> Vec<String> {
            let (mut first, mut rest) = (vec![], names);
            for name in order {
                if let Some(i) = rest.iter().position(|n| n == name) {
                    first.push(rest.remove(i));
                }
            }
            first.extend(rest);
            first
        };
        let inputs = self.between("encoder.surf_token_embeds.weights.", "");
        let outputs = self.between("decoder.surf_heads.", ".weight");
        let (statics, surface) = inputs.into_iter().partition(|n| !outputs.contains(n));
        c.surf_vars = known(surface, &c.surf_vars);
        c.static_vars = known(statics, &c.static_vars);
        c.atmos_vars = known(self.between("encoder.atmos_token_embeds.weights.", ""), &c.atmos_vars);
        let Some(first) = c.atmos_vars.first() else { return Err(Error::input("no variables on levels")) };
        let &[_, 1, t, p, q] = self.shape(&format!("encoder.atmos_token_embeds.weights.{first}"))? else {
            return Err(Error::unsupported("patch embeddings of another variant than those for weather"));
        };
        if p != q || d == 0 {
            return Err(Error::input(format!("patches of {p} x {q} points, tokens of width {d}")));
        }
        (c.embed_dim, c.latent_levels, c.max_history_size, c.patch_size) = (d, latents + 1, t, p);
        // All published variants have heads of 32 features in the Perceivers, of 64 in the backbone.
        c.num_heads = (d / 32).max(1);
        c.enc_depth = self.count("encoder.level_agg.layers.", ".0.to_q.weight");
        c.dec_depth = self.count("decoder.level_decoder.layers.", ".0.to_q.weight");
        let stages = self.count("backbone.encoder_layers.", ".blocks.0.attn.qkv.weight");
        let side = |side: &str| -> Vec<usize> {
            (0..stages)
                .map(|i| self.count(&format!("backbone.{side}_layers.{i}.blocks."), ".attn.qkv.weight"))
                .collect()
        };
        (c.encoder_depths, c.decoder_depths) = (side("encoder"), side("decoder"));
        let heads = |i: usize| (d.checked_shl(i as u32).unwrap_or(0) / 64).max(1);
        c.encoder_num_heads = (0..stages).map(heads).collect();
        c.decoder_num_heads = (0..stages).rev().map(heads).collect();
        let rows = |name: &str| Ok::<_, Error>(self.shape(name)?.first().copied().unwrap_or(0));
        c.mlp_ratio = rows("encoder.surf_mlp.net.0.weight")? as f64 / d as f64;
        c.dec_mlp_ratio = rows("decoder.level_decoder.layers.0.1.net.0.weight")? as f64 / (2 * d) as f64;
        c.stabilise_level_agg = self.pieces.contains_key("encoder.level_agg.layers.0.0.ln_k.weight");
        let loras = self.count("backbone.encoder_layers.0.blocks.0.attn.lora_qkv.loras.", ".lora_A");
        c.use_lora = loras > 0;
        if loras > 1 {
            (c.lora_mode, c.lora_steps) = (LoraMode::All, loras);
        }
        let twelve = file_name.contains("12h");
        c.timestep_hours = if twelve { 12 } else { 6 };
        let variant = match (d, p, &c.encoder_depths[..], c.use_lora) {
            (512, 4, [6, 10, 8], false) if twelve => "0.25°, 12 hours, pretrained",
            (512, 4, [6, 10, 8], false) => "0.25°, pretrained",
            (512, 4, [6, 10, 8], true) => "0.25°, fine-tuned",
            (256, 4, [2, 6, 2], false) => "0.25°, small, pretrained",
            (512, 10, [6, 8, 8], _) => "0.1°, fine-tuned",
            _ => "not one of those published",
        };
        Ok((c, variant))
    }
}
