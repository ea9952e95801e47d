//! The weights of GraphCast's three graph networks, under the names that the original gave them.

use candle_core::{DType, Device, Tensor};

use super::super::Weights;
use crate::Result;

/// A fully connected layer, `y = x·w + b`.
pub struct Linear {
    /// (inputs, outputs).
    pub w: Tensor,
    /// (outputs).
    pub b: Tensor,
    /// `b` in host memory.
    pub bias: Vec<f32>,
}

/// Scale and offset of a layer norm.
pub struct Norm {
    /// (features).
    pub scale: Tensor,
    /// (features).
    pub offset: Tensor,
    /// Both in host memory.
    pub host: (Vec<f32>, Vec<f32>),
}

/// Fully connected layers with swish between them, and a layer norm behind unless it is a decoder.
pub struct Mlp {
    /// At least one.
    pub layers: Vec<Linear>,
    /// `None` in a decoder.
    pub norm: Option<Norm>,
}

/// One step of message passing over one set of edges.
pub struct Step {
    /// Of an edge, its sender and its receiver.
    pub edges: Mlp,
    /// Of a receiver and the sum of its messages.
    pub nodes: Mlp,
}

/// All that is used of the weights.
pub struct Parameters {
    /// Width of all latents.
    pub latent: usize,
    /// Of grid points: stacked channels and three structural features.
    pub grid_encoder: Mlp,
    /// Of mesh nodes: zeros and three structural features.
    pub mesh_encoder: Mlp,
    /// Of edges from grid to mesh.
    pub grid2mesh_encoder: Mlp,
    /// Messages from grid to mesh.
    pub grid2mesh: Step,
    /// Of grid points, which hear from nobody in that step.
    pub grid_update: Mlp,
    /// Of edges of the mesh.
    pub mesh_encoder_edges: Mlp,
    /// Messages on the mesh.
    pub mesh: Vec<Step>,
    /// Of edges from mesh to grid.
    pub mesh2grid_encoder: Mlp,
    /// Messages from mesh to grid.
    pub mesh2grid: Step,
    /// From grid points to stacked targets.
    pub decoder: Mlp,
}

/// What shapes follow from.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Stacked channels of a grid point, without structural features.
    pub channels: usize,
    /// Stacked targets of a grid point.
    pub targets: usize,
    /// Width of all latents.
    pub latent: usize,
    /// Hidden layers of each network of fully connected layers.
    pub hidden_layers: usize,
    /// Steps of message passing on the mesh.
    pub steps: usize,
}

/// Gives the tensor of a name, or refuses it if its shape is another.
pub type Get<'a> = dyn FnMut(&str, &[usize]) -> Result<Tensor> + 'a;

impl Parameters {
    /// Reads the weights; their shapes must be those that `sizes` asks for.
    ///
    /// # Errors
    /// `Input` if a tensor is missing or of another shape or type.
    pub fn read(weights: &Weights, sizes: Sizes, dtype: DType, device: &Device) -> Result<Self> {
        Self::build(sizes, &mut |name, shape| weights.tensor(name, shape, dtype, device))
    }

    /// Asks `get` for each tensor by its name and shape.
    ///
    /// # Errors
    /// What `get` says.
    pub fn build(sizes: Sizes, get: &mut Get<'_>) -> Result<Self> {
        let Sizes { channels, targets, latent, hidden_layers, steps } = sizes;
        let mut read = |gnn: &str, name: &str, inputs: usize, outputs: usize, normed: bool| {
            let prefix = format!("{gnn}/~_networks_builder/{name}");
            Mlp::build(&prefix, [inputs, latent, outputs], hidden_layers, normed, get)
        };
        let mut encoder = |gnn: &str, name: &str, inputs| read(gnn, &format!("encoder_{name}"), inputs, latent, true);
        let grid_encoder = encoder("grid2mesh_gnn", "nodes_grid_nodes", channels + 3)?;
        let mesh_encoder = encoder("grid2mesh_gnn", "nodes_mesh_nodes", channels + 3)?;
        let grid2mesh_encoder = encoder("grid2mesh_gnn", "edges_grid2mesh", 4)?;
        let mesh_encoder_edges = encoder("mesh_gnn", "edges_mesh", 4)?;
        let mesh2grid_encoder = encoder("mesh2grid_gnn", "edges_mesh2grid", 4)?;
        let grid_update = read("grid2mesh_gnn", "processor_nodes_0_grid_nodes", latent, latent, true)?;
        let decoder = read("mesh2grid_gnn", "decoder_nodes_grid_nodes", latent, targets, false)?;
        let mut step = |gnn: &str, i: usize, edges: &str, nodes: &str| -> Result<Step> {
            Ok(Step {
                edges: read(gnn, &format!("processor_edges_{i}_{edges}"), 3 * latent, latent, true)?,
                nodes: read(gnn, &format!("processor_nodes_{i}_{nodes}"), 2 * latent, latent, true)?,
            })
        };
        Ok(Self {
            latent,
            grid_encoder,
            mesh_encoder,
            grid2mesh_encoder,
            grid2mesh: step("grid2mesh_gnn", 0, "grid2mesh", "mesh_nodes")?,
            grid_update,
            mesh_encoder_edges,
            mesh: (0..steps).map(|i| step("mesh_gnn", i, "mesh", "mesh_nodes")).collect::<Result<_>>()?,
            mesh2grid_encoder,
            mesh2grid: step("mesh2grid_gnn", 0, "mesh2grid", "grid_nodes")?,
            decoder,
        })
    }
}

impl Mlp {
    fn build(
        prefix: &str,
        [inputs, hidden, outputs]: [usize; 3],
        hidden_layers: usize,
        normed: bool,
        get: &mut Get<'_>,
    ) -> Result<Self> {
        let host = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.to_dtype(DType::F32)?.to_vec1()?) };
        let mut layers = Vec::with_capacity(hidden_layers + 1);
        for i in 0..=hidden_layers {
            let from = if i == 0 { inputs } else { hidden };
            let to = if i == hidden_layers { outputs } else { hidden };
            let name = format!("{prefix}_mlp/~/linear_{i}");
            let (w, b) = (get(&format!("{name}:w"), &[from, to])?, get(&format!("{name}:b"), &[to])?);
            layers.push(Linear { bias: host(&b)?, w, b });
        }
        let norm = if normed {
            let name = |part: &str| format!("{prefix}_layer_norm:{part}");
            let (scale, offset) = (get(&name("scale"), &[outputs])?, get(&name("offset"), &[outputs])?);
            Some(Norm { host: (host(&scale)?, host(&offset)?), scale, offset })
        } else {
            None
        };
        Ok(Self { layers, norm })
    }

    /// The rows of the first layer's weights that meet the `i`th of several inputs of `width` features each.
    ///
    /// # Errors
    /// `Input` if there are not so many.
    pub fn first(&self, i: usize, width: usize) -> Result<Tensor> {
        Ok(self.layers[0].w.narrow(0, i * width, width)?)
    }

    /// Features that come out.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |l| l.bias.len())
    }
}
