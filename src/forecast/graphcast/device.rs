//! GraphCast's graph networks on any device that candle knows, in f32, bf16 or f64, by candle's own functions.
//!
//! The same splits as on the host ([`super::host`]), in larger pieces, and nothing kept that can be computed again. A sum over a
//! receiver's edges has no atomic additions and hence one order: receivers are grouped by their number of edges, so that
//! the edges of a group are a block (receivers, edges, features) that is summed over its middle.

use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::ops;
use super::mesh::{Edges, Graph};
use super::parameters::{Mlp, Parameters};
use super::{Network, Stages};
use crate::Result;

/// Edges or nodes of a piece: 128 MB a latent of 512 features.
const PIECE_ROWS: usize = 1 << 16;

const EPSILON: f64 = 1e-5;

/// The networks, with what they need of the graph.
pub struct OnDevice {
    parameters: Arc<Parameters>,
    device: Device,
    dtype: DType,
    grid_features: Vec<[f32; 3]>,
    /// Latents of mesh nodes before they hear from the grid.
    mesh_nodes: Tensor,
    grid2mesh: Incoming,
    mesh: Incoming,
    /// Latents of edges of the mesh before the first step, by piece.
    mesh_edges: Vec<Tensor>,
    mesh2grid: Incoming,
}

/// Edges by receiver.
struct Incoming {
    pieces: Vec<Piece>,
    /// Where each receiver stands among those of all pieces.
    place: Tensor,
}

/// Receivers with the same number of edges each.
struct Piece {
    /// Edges of each receiver.
    degree: usize,
    /// (receivers).
    receivers: Tensor,
    /// (receivers · degree), by receiver.
    senders: Tensor,
    /// (receivers · degree, 4).
    features: Tensor,
}

impl Incoming {
    fn new(edges: &Edges, receivers: usize, dtype: DType, device: &Device) -> Result<Self> {
        let mut of_receiver = vec![Vec::new(); receivers];
        for (edge, &r) in edges.receivers.iter().enumerate() {
            of_receiver[r as usize].push(edge);
        }
        let mut by_degree: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (r, edges) in of_receiver.iter().enumerate() {
            by_degree.entry(edges.len()).or_default().push(r as u32);
        }
        let mut place = vec![0u32; receivers];
        let mut placed = 0;
        let mut pieces = Vec::new();
        for (degree, group) in by_degree {
            for receivers in group.chunks((PIECE_ROWS / degree.max(1)).max(1)) {
                for &r in receivers {
                    place[r as usize] = placed;
                    placed += 1;
                }
                let all: Vec<usize> = receivers.iter().flat_map(|&r| &of_receiver[r as usize]).copied().collect();
                let senders = all.iter().map(|&e| edges.senders[e]).collect();
                let features = all.iter().flat_map(|&e| edges.features[e]).collect();
                pieces.push(Piece {
                    degree,
                    receivers: Tensor::from_vec(receivers.to_vec(), receivers.len(), device)?,
                    senders: Tensor::from_vec(senders, all.len(), device)?,
                    features: Tensor::from_vec::<_, f32>(features, (all.len(), 4), device)?.to_dtype(dtype)?,
                });
            }
        }
        Ok(Self { pieces, place: Tensor::from_vec(place, receivers, device)? })
    }

    /// Sums over each receiver's edges, in the order of receivers. `message` gives a piece's messages from its part of the first
    /// layer's product that senders and receivers make.
    fn sums(
        &self,
        sent: &Tensor,
        received: &Tensor,
        mut message: impl FnMut(usize, &Piece, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let z = sent.dim(1)?;
        let mut sums = Vec::with_capacity(self.pieces.len());
        for (i, piece) in self.pieces.iter().enumerate() {
            let n = piece.receivers.dim(0)?;
            if piece.degree == 0 {
                sums.push(Tensor::zeros((n, z), sent.dtype(), sent.device())?);
                continue;
            }
            let s = sent.index_select(&piece.senders, 0)?.reshape((n, piece.degree, z))?;
            let r = received.index_select(&piece.receivers, 0)?.reshape((n, 1, z))?;
            let product = s.broadcast_add(&r)?.reshape((n * piece.degree, z))?;
            let messages = message(i, piece, product)?;
            // Added up in f32 even of bf16, as the original does.
            let messages = messages.to_dtype(ops::wide(sent.dtype()))?.reshape((n, piece.degree, messages.dim(1)?))?;
            sums.push(messages.sum(1)?.to_dtype(sent.dtype())?);
        }
        Ok(Tensor::cat(&sums, 0)?.index_select(&self.place, 0)?)
    }
}

impl OnDevice {
    /// Prepares the networks for a graph; `parameters` are on `device`, of type `dtype`.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn new(parameters: Arc<Parameters>, graph: &Graph, dtype: DType, device: &Device) -> Result<Self> {
        let (n_grid, n_mesh) = (graph.grid_features.len(), graph.mesh_features.len());
        let mesh = Incoming::new(&graph.mesh, n_mesh, dtype, device)?;
        let inputs = parameters.mesh_encoder.layers[0].w.dim(0)?;
        let structural: Vec<f32> = graph
            .mesh_features
            .iter()
            .flat_map(|f| std::iter::repeat_n(0.0, inputs - 3).chain(f.iter().copied()))
            .collect();
        let structural = Tensor::from_vec(structural, (n_mesh, inputs), device)?.to_dtype(dtype)?;
        let embed = |piece: &Piece| parameters.mesh_encoder_edges.apply_on_device(&piece.features);
        Ok(Self {
            mesh_nodes: parameters.mesh_encoder.apply_on_device(&structural)?,
            grid2mesh: Incoming::new(&graph.grid2mesh, n_mesh, dtype, device)?,
            mesh_edges: mesh.pieces.iter().map(embed).collect::<Result<_>>()?,
            mesh,
            mesh2grid: Incoming::new(&graph.mesh2grid, n_grid, dtype, device)?,
            grid_features: graph.grid_features.clone(),
            device: device.clone(),
            dtype,
            parameters,
        })
    }

    /// Stacked targets of each grid point (points, targets), normalised, on the device, from normalised channels there, each of all points.
    ///
    /// # Errors
    /// If the device refuses.
    pub fn targets(&self, channels: &[Tensor]) -> Result<Tensor> {
        let structural: Vec<f32> = self.grid_features.iter().flatten().copied().collect();
        let structural = Tensor::from_vec(structural, (self.grid_features.len(), 3), &self.device)?;
        let features = |range: Range<usize>| {
            let columns = channels.iter().map(|c| c.narrow(0, range.start, range.len())?.reshape((range.len(), 1)));
            let mut columns = columns.collect::<candle_core::Result<Vec<_>>>()?;
            columns.push(structural.narrow(0, range.start, range.len())?);
            Ok(Tensor::cat(&columns, 1)?.to_dtype(self.dtype)?)
        };
        let (grid, mesh) = self.encode(&features)?;
        Ok(self.decode(&self.process(mesh)?, &grid)?.to_dtype(DType::F32)?)
    }

    /// `features` gives those of a range of grid points (points, channels and three more).
    fn encode(&self, features: &dyn Fn(Range<usize>) -> Result<Tensor>) -> Result<(Tensor, Tensor)> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let n_grid = self.grid_features.len();
        let w_sent = p.grid2mesh.edges.first(1, z)?;
        let (mut grid, mut sent) = (Vec::new(), Vec::new());
        for first in (0..n_grid).step_by(PIECE_ROWS) {
            let embedded = p.grid_encoder.apply_on_device(&features(first..(first + PIECE_ROWS).min(n_grid))?)?;
            sent.push(embedded.matmul(&w_sent)?);
            grid.push((&embedded + p.grid_update.apply_on_device(&embedded)?)?);
        }
        let (grid, sent) = (Tensor::cat(&grid, 0)?, Tensor::cat(&sent, 0)?);
        let received = self.mesh_nodes.matmul(&p.grid2mesh.edges.first(2, z)?)?;
        let w_edge = p.grid2mesh.edges.first(0, z)?;
        let sums = self.grid2mesh.sums(&sent, &received, |_, piece, product| {
            let embedded = p.grid2mesh_encoder.apply_on_device(&piece.features)?;
            p.grid2mesh.edges.finish_on_device((product + embedded.matmul(&w_edge)?)?)
        })?;
        let change = p.grid2mesh.nodes.apply_on_device(&Tensor::cat(&[&self.mesh_nodes, &sums], 1)?)?;
        Ok((grid, (&self.mesh_nodes + change)?))
    }

    fn process(&self, mut nodes: Tensor) -> Result<Tensor> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let mut edges = self.mesh_edges.clone();
        for step in &p.mesh {
            let part = |i| step.edges.first(i, z);
            let (sent, received) = (nodes.matmul(&part(1)?)?, nodes.matmul(&part(2)?)?);
            let w_edge = part(0)?;
            let sums = self.mesh.sums(&sent, &received, |i, _, product| {
                let messages = step.edges.finish_on_device((product + edges[i].matmul(&w_edge)?)?)?;
                edges[i] = (&edges[i] + &messages)?;
                Ok(messages)
            })?;
            let change = step.nodes.apply_on_device(&Tensor::cat(&[&nodes, &sums], 1)?)?;
            nodes = (nodes + change)?;
        }
        Ok(nodes)
    }

    fn decode(&self, mesh: &Tensor, grid: &Tensor) -> Result<Tensor> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let part = |i| p.mesh2grid.edges.first(i, z);
        let (sent, received) = (mesh.matmul(&part(1)?)?, grid.matmul(&part(2)?)?);
        let w_edge = part(0)?;
        let sums = self.mesh2grid.sums(&sent, &received, |_, piece, product| {
            let embedded = p.mesh2grid_encoder.apply_on_device(&piece.features)?;
            p.mesh2grid.edges.finish_on_device((product + embedded.matmul(&w_edge)?)?)
        })?;
        let n_grid = grid.dim(0)?;
        let mut outputs = Vec::new();
        for first in (0..n_grid).step_by(PIECE_ROWS) {
            let rows = PIECE_ROWS.min(n_grid - first);
            let (nodes, sums) = (grid.narrow(0, first, rows)?, sums.narrow(0, first, rows)?);
            let change = p.mesh2grid.nodes.apply_on_device(&Tensor::cat(&[&nodes, &sums], 1)?)?;
            outputs.push(p.decoder.apply_on_device(&(nodes + change)?)?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }
}

/// Writes the stacked channels of a range of grid points.
type Channels<'a> = dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a;

impl Network for OnDevice {
    fn forward(&self, n_channels: usize, channels: &Channels<'_>, stages: Option<&mut Stages>) -> Result<Vec<f32>> {
        let width = n_channels + 3;
        let features = |range: Range<usize>| {
            let mut features = vec![0.0; range.len() * width];
            channels(range.clone(), &mut features);
            for (row, f) in features.chunks_exact_mut(width).zip(&self.grid_features[range.clone()]) {
                row[n_channels..].copy_from_slice(f);
            }
            Ok(Tensor::from_vec(features, (range.len(), width), &self.device)?.to_dtype(self.dtype)?)
        };
        let (grid, mesh_0) = self.encode(&features)?;
        let mesh_1 = self.process(mesh_0.clone())?;
        let outputs = host(&self.decode(&mesh_1, &grid)?)?;
        if let Some(stages) = stages {
            stages.latent_grid_0 = host(&grid)?;
            stages.latent_mesh_0 = host(&mesh_0)?;
            stages.latent_mesh_1 = host(&mesh_1)?;
        }
        Ok(outputs)
    }

    fn on_device(&self) -> Option<&OnDevice> {
        Some(self)
    }
}

fn host(t: &Tensor) -> Result<Vec<f32>> {
    Ok(t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

impl Mlp {
    /// Applies all layers to the rows of `x`.
    fn apply_on_device(&self, x: &Tensor) -> Result<Tensor> {
        self.finish_on_device(x.matmul(&self.layers[0].w)?)
    }

    /// Applies everything behind the first layer's product.
    fn finish_on_device(&self, product: Tensor) -> Result<Tensor> {
        let mut x = product.broadcast_add(&self.layers[0].b)?;
        for layer in &self.layers[1..] {
            x = x.silu()?.matmul(&layer.w)?.broadcast_add(&layer.b)?;
        }
        match &self.norm {
            Some(norm) => ops::layer_norm(&x, &norm.scale, &norm.offset, EPSILON),
            None => Ok(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::Host;
    use super::super::mesh::{Given, GraphConfig};
    use super::super::parameters::Sizes;
    use super::*;

    /// Numbers of no pattern in [−1, 1).
    fn noise(seed: &mut u64) -> f32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn parameters(sizes: Sizes) -> Arc<Parameters> {
        let mut seed = 1;
        let get = &mut |name: &str, shape: &[usize]| -> Result<Tensor> {
            let n = shape.iter().product();
            let (around, by) = match name.rsplit(':').next() {
                Some("w") => (0.0, 1.7 / (shape[0] as f32).sqrt()),
                Some("scale") => (1.0, 0.3),
                _ => (0.0, 0.2),
            };
            let values: Vec<f32> = (0..n).map(|_| around + by * noise(&mut seed)).collect();
            Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
        };
        Arc::new(Parameters::build(sizes, get).unwrap())
    }

    /// The host's loops and candle's functions agree, for any number of hidden layers and steps.
    #[test]
    fn both_implementations_agree() {
        let config = GraphConfig { mesh_size: 2, radius_fraction: 0.7, mesh2grid_divisor: Some(0.4) };
        let lat: Vec<f32> = (0..19).map(|i| -90.0 + 10.0 * i as f32).collect();
        let lon: Vec<f32> = (0..36).map(|i| 10.0 * i as f32).collect();
        let graph = Graph::new(config, &lat, &lon, &Given::default()).unwrap();
        for (hidden_layers, steps) in [(1, 3), (2, 1), (0, 2), (1, 0)] {
            let sizes = Sizes { channels: 7, targets: 5, latent: 24, hidden_layers, steps };
            let on_host = Host::new(parameters(sizes), &graph).unwrap();
            let on_device = OnDevice::new(parameters(sizes), &graph, DType::F32, &Device::Cpu).unwrap();
            let channels = |range: Range<usize>, rows: &mut [f32]| {
                for (point, row) in range.zip(rows.chunks_exact_mut(10)) {
                    let mut seed = point as u64;
                    row[..7].iter_mut().for_each(|x| *x = 2.0 * noise(&mut seed));
                }
            };
            let (mut a, mut b) = (Stages::default(), Stages::default());
            let ours = on_host.forward(7, &channels, Some(&mut a)).unwrap();
            let theirs = on_device.forward(7, &channels, Some(&mut b)).unwrap();
            for (name, x, y) in [
                ("grid", &a.latent_grid_0, &b.latent_grid_0),
                ("mesh before", &a.latent_mesh_0, &b.latent_mesh_0),
                ("mesh after", &a.latent_mesh_1, &b.latent_mesh_1),
                ("outputs", &ours, &theirs),
            ] {
                assert_eq!(x.len(), y.len());
                let off = x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(off < 5e-5, "{name} with {hidden_layers} hidden layers, {steps} steps: {off}");
            }
            // The same from channels that are on the device.
            let n = lat.len() * lon.len();
            let mut rows = vec![0.0; n * 10];
            channels(0..n, &mut rows);
            let column = |c: usize| Tensor::from_iter(rows.chunks_exact(10).map(|row| row[c]), &Device::Cpu).unwrap();
            let columns: Vec<Tensor> = (0..7).map(column).collect();
            assert_eq!(host(&on_device.targets(&columns).unwrap()).unwrap(), theirs);
        }
    }

    /// A step whose fields are tensors gives what loops on the host give.
    #[test]
    fn steps_agree() {
        use super::super::{Channel, Config, GraphCast, ModelConfig, Network, STEP_S, Target, TaskConfig, keys, needs};
        use crate::forecast::{Forecaster, Frame, Grid};
        use std::sync::{Mutex, OnceLock};

        let names = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let task_config = TaskConfig {
            input_variables: names(&["2m_temperature", "geopotential_at_surface", "temperature"]),
            target_variables: names(&["2m_temperature", "temperature", "total_precipitation_6hr"]),
            forcing_variables: names(&["toa_incident_solar_radiation", "year_progress_sin"]),
            pressure_levels: vec![500, 850],
            input_duration: "12h".into(),
        };
        let model_config = ModelConfig {
            resolution: 10.0,
            mesh_size: 2,
            latent_size: 24,
            gnn_msg_steps: 2,
            hidden_layers: 1,
            radius_query_fraction_edge_length: 0.7,
            mesh2grid_edge_normalization_factor: Some(0.4),
        };
        let config = Config { model_config, task_config };
        let (lat, lon) = config.grid();
        let graph = GraphConfig { mesh_size: 2, radius_fraction: 0.7, mesh2grid_divisor: Some(0.4) };
        // By variable, by time, by level, in the order of the checkpoints.
        let mut channels = vec![];
        for (variable, frames) in [
            ("2m_temperature", 0..2),
            ("geopotential_at_surface", 1..2),
            ("temperature", 0..2),
            ("toa_incident_solar_radiation", 2..3),
            ("year_progress_sin", 2..3),
        ] {
            for frame in frames {
                for key in keys(variable, &config.task_config.pressure_levels) {
                    let (mean, std) = if variable.starts_with("toa") { (5e5, 1e6) } else { (270.0, 20.0) };
                    channels.push(Channel { variable: variable.into(), key, frame, mean, std });
                }
            }
        }
        let mut targets = vec![];
        for variable in ["2m_temperature", "temperature", "total_precipitation_6hr"] {
            for key in keys(variable, &config.task_config.pressure_levels) {
                let mean = variable.starts_with("total").then_some(1e-3);
                targets.push(Target { key, scale: if mean.is_some() { 1e-3 } else { 2.0 }, mean });
            }
        }
        let sizes = config.sizes().unwrap();
        assert_eq!((channels.len(), targets.len()), (sizes.channels, sizes.targets));
        let model = |is_on_host: bool| {
            let whole = Graph::new(graph, &lat, &lon, &Given::default()).unwrap();
            let network: Box<dyn Network> = if is_on_host {
                Box::new(Host::new(parameters(sizes), &whole).unwrap())
            } else {
                Box::new(OnDevice::new(parameters(sizes), &whole, DType::F32, &Device::Cpu).unwrap())
            };
            GraphCast {
                needs: needs(&config.task_config, 2, &channels, &targets, &lat, &lon).unwrap(),
                channels: channels.clone(),
                targets: targets.clone(),
                lat: lat.clone(),
                lon: lon.clone(),
                graph,
                given: Given::default(),
                parameters: parameters(sizes),
                device: Device::Cpu,
                dtype: DType::F32,
                network: OnceLock::from(network),
                preparing: Mutex::new(()),
            }
        };
        let [on_host, as_tensors] = [true, false].map(model);
        let degrees = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let grid = Grid::new(degrees(&lat), degrees(&lon)).unwrap();
        let mut seed = 3;
        let mut frame = |time: i64| {
            let mut frame = Frame::new(time, grid.clone());
            for key in on_host.needs().fields.iter().chain(&on_host.needs().statics) {
                let values = (0..lat.len() * lon.len()).map(|_| 270.0 + 20.0 * noise(&mut seed)).collect();
                frame.insert_values(key.clone(), values).unwrap();
            }
            frame
        };
        let history = [frame(1_577_836_800), frame(1_577_836_800 + STEP_S)];
        let [a, b] = [&on_host, &as_tensors].map(|model| model.step(&history, None, 0).unwrap());
        for target in &targets {
            let (x, y) = (a.values(&target.key).unwrap(), b.values(&target.key).unwrap());
            assert_eq!((x.len(), y.len()), (lat.len() * lon.len(), lat.len() * lon.len()));
            // What is added to the networks' outputs.
            let base = target.mean.map(|mean| vec![mean; x.len()]);
            let base = base.unwrap_or_else(|| history[1].values(&target.key).unwrap());
            let is_new = x.iter().zip(&base).any(|(v, base)| (v - base).abs() > 0.1 * target.scale);
            assert!(is_new, "{}: nothing new", target.key);
            let off = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(off <= 5e-5 * target.scale + 4e-7 * base[0].abs(), "{}: {off} of {}", target.key, target.scale);
        }
    }
}
