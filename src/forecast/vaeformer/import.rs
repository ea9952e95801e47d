//! Official checkpoints: a flat dictionary whose keys begin with `backbone.`.

use super::{Config, official_channels};
use crate::error::{Error, Result};
use crate::forecast::import::{Checkpoint, ImportOptions, Imported};
use crate::forecast::weights::About;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;

/// Said of the weights by nobody: the repository carries CompressAI's licence for its code.
const LICENCE: &str = "not stated by the authors (code: BSD-3-Clause-Clear)";

/// Turns `cra5_268v_300k.pth`, or a checkpoint of the same layout with its configuration in the options, into weights.
pub(super) fn import<'a>(checkpoint: &'a Checkpoint, options: &ImportOptions) -> Result<Option<Imported<'a>>> {
    let ours = |name: &str| name.replace("backbone.", "");
    let names: BTreeMap<String, &String> = checkpoint
        .tensors()
        .keys()
        // A parameter of the training's loss; the original drops it as well.
        .filter(|name| !name.contains("kl_loss.logvar"))
        .map(|name| (ours(name), name))
        .collect();
    let Some(embed) = names.get("g_a.patch_embed.proj.weight") else { return Ok(None) };
    if !names.contains_key("h_s.final.weight") || !names.contains_key("entropy_bottleneck.quantiles") {
        return Ok(None);
    }
    let shape = &checkpoint.meta(embed)?.shape;
    let config = configuration(shape, options)?;
    config.check()?;
    let expected = tensors(&config);
    for (name, wanted) in &expected {
        let original = names.get(name).ok_or_else(|| Error::input(format!("the checkpoint lacks {name:?}")))?;
        let meta = checkpoint.meta(original)?;
        let floats = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16].contains(&meta.dtype);
        // The decoder's head may be a linear layer: see `Loader::paint`.
        let linear_head = name == "g_s.final.weight" && meta.shape.len() == 2;
        let area = config.patch_size[0] * config.patch_size[1];
        let wanted = if linear_head { &vec![config.out_chans * area, config.embed_dim] } else { wanted };
        if !floats || meta.shape != *wanted {
            return Err(Error::input(format!(
                "{name:?} has {:?} numbers of type {:?}; the configuration says {wanted:?}",
                meta.shape, meta.dtype
            )));
        }
    }
    let known = |name: &str| {
        let models = ["entropy_bottleneck.", "gaussian_conditional."];
        expected.contains_key(name) || models.iter().any(|m| name.starts_with(m)) || name.contains(".ln_pre.")
    };
    if let Some(name) = names.keys().find(|name| !known(name)) {
        return Err(Error::input(format!("{name:?} is no tensor of a VAEformer of this configuration")));
    }
    let config = serde_json::to_value(&config).map_err(|e| Error::input(e.to_string()))?;
    let about = About { model: "vaeformer".into(), config, licence: LICENCE.into(), source: checkpoint.file_name() };
    let tensors = names.iter().map(|(name, original)| Ok((name.clone(), checkpoint.copy(original)?)));
    Ok(Some(Imported { about, tensors: tensors.collect::<Result<_>>()? }))
}

/// The official configuration, or that of the options, whose fields win over the official ones if they are not all there.
fn configuration(embed: &[usize], options: &ImportOptions) -> Result<Config> {
    let official = Config::official();
    let is_official = embed == [official.embed_dim, official.in_chans, 11, 10];
    let mut value = match (&options.config, is_official) {
        (None, true) => return Ok(official),
        (None, false) => {
            return Err(Error::input(format!(
                "a VAEformer that is not the published one (its first layer has shape {embed:?}): name its configuration, a JSON file with the \
                 original's hyper-parameters (img_size, patch_stride, num_heads, interval, window_size, prior, ...)"
            )));
        }
        (Some(_), true) => serde_json::to_value(official).map_err(|e| Error::input(e.to_string()))?,
        (Some(_), false) => Value::Object(Default::default()),
    };
    if let (Some(Value::Object(given)), Value::Object(all)) = (&options.config, &mut value) {
        all.extend(given.clone());
    }
    let mut config: Config =
        serde_json::from_value(value).map_err(|e| Error::input(format!("configuration of VAEformer: {e}")))?;
    if config.in_chans == 268 && config.channels.is_none() {
        config.channels = Some(official_channels());
    }
    Ok(config)
}

/// Names and shapes of all tensors of a configuration but those of the entropy models' tables.
fn tensors(c: &Config) -> BTreeMap<String, Vec<usize>> {
    let mut all = BTreeMap::new();
    let mut add = |name: String, shape: &[usize]| {
        all.insert(name, shape.to_vec());
    };
    let layer = |add: &mut dyn FnMut(String, &[usize]), name: String, shape: &[usize], bias: bool| {
        if bias {
            add(format!("{name}.bias"), &shape[..1]);
        }
        add(format!("{name}.weight"), shape);
    };
    let norm = |add: &mut dyn FnMut(String, &[usize]), name: String, n: usize| {
        add(format!("{name}.weight"), &[n]);
        add(format!("{name}.bias"), &[n]);
    };
    let p = &c.prior;
    let half = c.depth / 2;
    let (z_dim, latent) = (p.z_dim, c.latent_channels());
    let main = (c.embed_dim, (c.embed_dim as f64 * c.mlp_ratio) as usize, c.qkv_bias);
    let prior = (p.embed_dim, (p.embed_dim as f64 * p.mlp_ratio) as usize, p.qkv_bias);
    let stacks = [
        ("g_a", half + 1, main),
        ("g_s", c.depth - half, main),
        ("h_a", p.depth / 2, prior),
        ("h_s", p.depth - p.depth / 2, prior),
    ];
    for (stack, n, (dim, hidden, bias)) in stacks {
        for name in (0..n).map(|i| format!("{stack}.blocks.{i}")) {
            norm(&mut add, format!("{name}.norm1"), dim);
            layer(&mut add, format!("{name}.attn.qkv"), &[3 * dim, dim], bias);
            layer(&mut add, format!("{name}.attn.proj"), &[dim, dim], true);
            norm(&mut add, format!("{name}.norm2"), dim);
            layer(&mut add, format!("{name}.mlp.fc1"), &[hidden, dim], true);
            layer(&mut add, format!("{name}.mlp.fc2"), &[dim, hidden], true);
        }
    }
    let ends = [("g_a", c.embed_dim, c.in_chans, c.patches()), ("h_a", p.embed_dim, latent, c.prior_patches())];
    for (stack, dim, channels, patches) in ends {
        layer(&mut add, format!("{stack}.patch_embed.proj"), &[dim, channels, patches.size[0], patches.size[1]], true);
        add(format!("{stack}.pos_embed"), &[1, patches.len(), dim]);
    }
    // The original makes the normalisation whether it is used or not.
    norm(&mut add, "g_s.norm".into(), c.embed_dim);
    norm(&mut add, "h_s.norm".into(), p.embed_dim);
    add("g_s.final.weight".into(), &[c.embed_dim, c.out_chans, c.patch_size[0], c.patch_size[1]]);
    add("h_s.final.weight".into(), &[2 * latent * p.patch_size[0] * p.patch_size[1], p.embed_dim]);
    if c.lower_dim {
        layer(&mut add, "quant_conv".into(), &[2 * latent, 2 * c.y_channels, 1, 1], true);
        layer(&mut add, "post_quant_conv".into(), &[c.y_channels, latent, 1, 1], true);
    }
    let width = super::network::hidden;
    let bottlenecks = [
        ("g_a.quan_mlp", c.z_dim.map(|z| [2 * c.embed_dim, 2 * width(c.embed_dim, z), 2 * z])),
        ("g_s.post_quan_mlp", c.z_dim.map(|z| [z, width(c.embed_dim, z), c.embed_dim])),
        ("h_a.quan_mlp", z_dim.map(|z| [p.embed_dim, width(p.embed_dim, z), z])),
        ("h_s.post_quan_mlp", z_dim.map(|z| [z, width(p.embed_dim, z), p.embed_dim])),
    ];
    for (name, widths) in bottlenecks {
        if let Some([a, b, z]) = widths {
            layer(&mut add, format!("{name}.fc1"), &[b, a], true);
            layer(&mut add, format!("{name}.fc2"), &[z, b], true);
        }
    }
    add("entropy_bottleneck.quantiles".into(), &[c.z_channels, 1, 3]);
    all
}
