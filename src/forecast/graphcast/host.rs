//! GraphCast's graph networks on the CPU.
//!
//! Work goes in chunks of receiving nodes with all their edges, small enough for a core's cache; a chunk goes through all layers before the
//! next one starts, so that nothing the size of all edges is ever written but the latents that the mesh keeps between steps.
//! The first layer of an edge's network is split, `w·[e, s, r] = w_e·e + w_s·s + w_r·r`, so that the products of senders and receivers are
//! taken once a node and not once an edge; what depends on weights and graph alone is computed when the model is opened.
//! Chunks and the order of sums depend on the graph only: any number of threads gives the same bits.

use candle_core::{Device, Tensor};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::super::ops::{Workers, with_values};
use super::mesh::{Edges, Graph};
use super::parameters::{Linear, Mlp, Parameters, Step};
use super::{Network, Stages, rows};
use crate::Result;

/// Edges or nodes of a chunk at which it is closed; measured, see BENCHMARKS.md.
const CHUNK_ROWS: usize = 512;

/// Bytes of products of edges that are kept between steps; beyond, they are computed again in each. The published 1° model needs
/// 0.6 GB, those of 0.25° some 10 GB, of which the edges from grid to mesh fit.
const KEPT_BYTES: usize = 4 << 30;

/// The networks, with what they keep of the graph.
pub struct Host {
    workers: Workers,
    parameters: Arc<Parameters>,
    grid_features: Vec<[f32; 3]>,
    /// Latents of mesh nodes before they hear from the grid.
    mesh_nodes: Vec<f32>,
    grid2mesh: Incoming,
    /// `w_e·e + w_r·r` of each edge from grid to mesh, if kept.
    grid2mesh_products: Option<Vec<f32>>,
    mesh: Incoming,
    /// Latents of edges of the mesh before the first step.
    mesh_edges: Vec<f32>,
    mesh2grid: Incoming,
    /// `w_e·e` of each edge from mesh to grid, if kept.
    mesh2grid_products: Option<Vec<f32>>,
}

/// Edges sorted by receiver, and in the order they were given among those of one receiver.
struct Incoming {
    senders: Vec<u32>,
    receivers: Vec<u32>,
    features: Vec<[f32; 4]>,
    /// Where the edges of each receiver start; one more at the end.
    starts: Vec<usize>,
    chunks: Vec<Chunk>,
}

/// Consecutive receivers and their edges.
#[derive(Clone, Debug, PartialEq)]
struct Chunk {
    nodes: Range<usize>,
    edges: Range<usize>,
}

impl Incoming {
    fn new(edges: &Edges, receivers: usize) -> Self {
        let mut order: Vec<u32> = (0..edges.len() as u32).collect();
        order.sort_by_key(|&e| edges.receivers[e as usize]);
        let mut starts = vec![0; receivers + 1];
        for &r in &edges.receivers {
            starts[r as usize + 1] += 1;
        }
        for i in 0..receivers {
            starts[i + 1] += starts[i];
        }
        let mut chunks = Vec::new();
        let mut first = 0;
        for node in 1..=receivers {
            let (n, e) = (node - first, starts[node] - starts[first]);
            if n.max(e) >= CHUNK_ROWS || node == receivers {
                chunks.push(Chunk { nodes: first..node, edges: starts[first]..starts[node] });
                first = node;
            }
        }
        Self {
            senders: order.iter().map(|&e| edges.senders[e as usize]).collect(),
            receivers: order.iter().map(|&e| edges.receivers[e as usize]).collect(),
            features: order.iter().map(|&e| edges.features[e as usize]).collect(),
            starts,
            chunks,
        }
    }

    /// Adds up the rows of `messages` (those of the chunk's edges) for each receiver of the chunk.
    fn sum(&self, chunk: &Chunk, messages: &[f32], width: usize, sums: &mut [f32]) {
        for (node, sum) in chunk.nodes.clone().zip(sums.chunks_exact_mut(width)) {
            let edges = self.starts[node] - chunk.edges.start..self.starts[node + 1] - chunk.edges.start;
            for message in messages[edges.start * width..edges.end * width].chunks_exact(width) {
                rows::add(sum, message);
            }
        }
    }
}

impl Host {
    /// Prepares the networks for a graph.
    ///
    /// # Errors
    /// If a matrix product is refused.
    pub fn new(parameters: Arc<Parameters>, graph: &Graph) -> Result<Self> {
        let (n_grid, n_mesh) = (graph.grid_features.len(), graph.mesh_features.len());
        let z = parameters.latent;
        let workers = Workers::new(&Device::Cpu)?;
        let grid2mesh = Incoming::new(&graph.grid2mesh, n_mesh);
        let mesh = Incoming::new(&graph.mesh, n_mesh);
        let mesh2grid = Incoming::new(&graph.mesh2grid, n_grid);

        let inputs = parameters.mesh_encoder.layers[0].w.dim(0)?;
        let mut structural = vec![0.0; n_mesh * inputs];
        for (row, f) in structural.chunks_exact_mut(inputs).zip(&graph.mesh_features) {
            row[inputs - 3..].copy_from_slice(f);
        }
        let mesh_nodes = by_rows(&workers, n_mesh, z, |range, out| {
            let features = &structural[range.start * inputs..range.end * inputs];
            parameters.mesh_encoder.apply(features, out)
        })?;
        let mesh_edges = by_rows(&workers, mesh.senders.len(), z, |range, out| {
            parameters.mesh_encoder_edges.apply(mesh.features[range].as_flattened(), out)
        })?;

        let mut host = Self {
            workers,
            parameters,
            grid_features: graph.grid_features.clone(),
            mesh_nodes,
            grid2mesh,
            grid2mesh_products: None,
            mesh,
            mesh_edges,
            mesh2grid,
            mesh2grid_products: None,
        };
        let bytes = |edges: &Incoming| edges.senders.len().saturating_mul(z * size_of::<f32>());
        let mut left = KEPT_BYTES;
        if bytes(&host.grid2mesh) <= left {
            left -= bytes(&host.grid2mesh);
            let received = host.received_from_grid()?;
            let n = host.grid2mesh.senders.len();
            host.grid2mesh_products =
                Some(by_rows(&host.workers, n, z, |edges, out| host.products_of_grid2mesh(edges, &received, out))?);
        }
        if bytes(&host.mesh2grid) <= left {
            let n = host.mesh2grid.senders.len();
            host.mesh2grid_products =
                Some(by_rows(&host.workers, n, z, |edges, out| host.products_of_mesh2grid(edges, out))?);
        }
        Ok(host)
    }

    /// `w_r·r` of mesh nodes as they are before they hear from the grid.
    fn received_from_grid(&self) -> Result<Vec<f32>> {
        let z = self.parameters.latent;
        let w = self.parameters.grid2mesh.edges.first(2, z)?;
        by_rows(&self.workers, self.mesh_nodes.len() / z, z, |range, out| {
            product(&self.mesh_nodes[range.start * z..range.end * z], &w, |y| out.copy_from_slice(y))
        })
    }

    /// `w_e·e + w_r·r` of edges from grid to mesh.
    fn products_of_grid2mesh(&self, edges: Range<usize>, received: &[f32], out: &mut [f32]) -> Result<()> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let mut embedded = vec![0.0; edges.len() * z];
        p.grid2mesh_encoder.apply(self.grid2mesh.features[edges.clone()].as_flattened(), &mut embedded)?;
        product(&embedded, &p.grid2mesh.edges.first(0, z)?, |y| {
            let receivers = &self.grid2mesh.receivers[edges];
            for ((out, y), &r) in out.chunks_exact_mut(z).zip(y.chunks_exact(z)).zip(receivers) {
                rows::sum_of_2(out, y, row(received, r, z));
            }
        })
    }

    /// `w_e·e` of edges from mesh to grid.
    fn products_of_mesh2grid(&self, edges: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let mut embedded = vec![0.0; edges.len() * z];
        p.mesh2grid_encoder.apply(self.mesh2grid.features[edges].as_flattened(), &mut embedded)?;
        product(&embedded, &p.mesh2grid.edges.first(0, z)?, |y| out.copy_from_slice(y))
    }

    /// Latents of grid points and of mesh nodes after these have heard from the grid.
    ///
    /// Grid points have their own update in it: their encoder, that update and their part in messages are one pass.
    fn encode(
        &self,
        n_channels: usize,
        channels: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let n_grid = self.grid_features.len();
        let width = n_channels + 3;
        let w_sent = p.grid2mesh.edges.first(1, z)?;
        let mut grid = vec![0.0; n_grid * z];
        let mut sent = vec![0.0; n_grid * z];
        let pieces = grid.chunks_mut(CHUNK_ROWS * z).zip(sent.chunks_mut(CHUNK_ROWS * z)).collect();
        each(&self.workers, pieces, |i, (grid, sent)| {
            let first = i * CHUNK_ROWS;
            let range = first..first + grid.len() / z;
            let mut features = vec![0.0; range.len() * width];
            channels(range.clone(), &mut features);
            for (row, f) in features.chunks_exact_mut(width).zip(&self.grid_features[range]) {
                row[n_channels..].copy_from_slice(f);
            }
            p.grid_encoder.apply(&features, grid)?;
            product(grid, &w_sent, |y| sent.copy_from_slice(y))?;
            let mut change = vec![0.0; grid.len()];
            p.grid_update.apply(grid, &mut change)?;
            rows::add(grid, &change);
            Ok(())
        })?;

        let received = if self.grid2mesh_products.is_none() { Some(self.received_from_grid()?) } else { None };
        let mut mesh = self.mesh_nodes.clone();
        let pieces = split(&mut mesh, self.grid2mesh.chunks.iter().map(|c| c.nodes.len() * z));
        each(&self.workers, pieces, |i, mesh| {
            let chunk = &self.grid2mesh.chunks[i];
            let mut fresh = Vec::new();
            let products = match (&self.grid2mesh_products, &received) {
                (Some(kept), _) => &kept[chunk.edges.start * z..chunk.edges.end * z],
                (None, received) => {
                    fresh.resize(chunk.edges.len() * z, 0.0);
                    let received = received.as_deref().unwrap_or_default();
                    self.products_of_grid2mesh(chunk.edges.clone(), received, &mut fresh)?;
                    &fresh
                }
            };
            let senders = &self.grid2mesh.senders[chunk.edges.clone()];
            let mut messages = vec![0.0; products.len()];
            p.grid2mesh.edges.finish(chunk.edges.len(), &mut messages, |i, out| {
                rows::sum_of_2(out, &products[i * z..][..z], row(&sent, senders[i], z));
            })?;
            let mut sums = vec![0.0; mesh.len()];
            self.grid2mesh.sum(chunk, &messages, z, &mut sums);
            let mut change = vec![0.0; mesh.len()];
            p.grid2mesh.nodes.apply_to_pair(mesh, &sums, &mut change)?;
            rows::add(mesh, &change);
            Ok(())
        })?;
        Ok((grid, mesh))
    }

    /// Latents of mesh nodes after all steps on the mesh.
    fn process(&self, mut nodes: Vec<f32>) -> Result<Vec<f32>> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let Some(first) = p.mesh.first() else { return Ok(nodes) };
        let n = nodes.len() / z;
        let mut edges = Vec::new();
        let mut sent = self.products_of_nodes(&nodes, &first.edges, 1)?;
        let mut received = self.products_of_nodes(&nodes, &first.edges, 2)?;
        for (i, step) in p.mesh.iter().enumerate() {
            let next = p.mesh.get(i + 1);
            let mut next_sent = vec![0.0; next.map_or(0, |_| n * z)];
            let mut next_received = next_sent.clone();
            // The first step reads the edges as they were embedded, the last one leaves no edges behind.
            let from_embedded = i == 0;
            if from_embedded && next.is_some() {
                edges = vec![0.0; self.mesh_edges.len()];
            }
            let work = self.mesh_work(&mut nodes, &mut edges, &mut next_sent, &mut next_received, next.is_some());
            each(&self.workers, work, |_, w| {
                let embedded = &self.mesh_edges[w.chunk.edges.start * z..w.chunk.edges.end * z];
                let before = from_embedded.then_some(embedded);
                self.mesh_chunk(step, next, before, &sent, &received, w)
            })?;
            sent = next_sent;
            received = next_received;
        }
        Ok(nodes)
    }

    /// The `i`th part of a step's first layer, applied to all nodes of the mesh.
    fn products_of_nodes(&self, nodes: &[f32], mlp: &Mlp, i: usize) -> Result<Vec<f32>> {
        let z = self.parameters.latent;
        let w = mlp.first(i, z)?;
        by_rows(&self.workers, nodes.len() / z, z, |range, out| {
            product(&nodes[range.start * z..range.end * z], &w, |y| out.copy_from_slice(y))
        })
    }

    /// What each chunk of the mesh writes in a step.
    fn mesh_work<'a>(
        &'a self,
        nodes: &'a mut [f32],
        edges: &'a mut [f32],
        sent: &'a mut [f32],
        received: &'a mut [f32],
        more: bool,
    ) -> Vec<MeshWork<'a>> {
        let z = self.parameters.latent;
        let chunks = &self.mesh.chunks;
        let of_nodes = |yes: bool| chunks.iter().map(move |c| if yes { c.nodes.len() * z } else { 0 });
        // Without an edge buffer (a single step) there is nothing to give out.
        let has_edges = !edges.is_empty();
        let of_edges = chunks.iter().map(move |c| if has_edges { c.edges.len() * z } else { 0 });
        let parts = split(nodes, of_nodes(true)).into_iter().zip(split(edges, of_edges));
        let parts = parts.zip(split(sent, of_nodes(more))).zip(split(received, of_nodes(more)));
        let work = chunks.iter().zip(parts);
        work.map(|(chunk, (((nodes, edges), sent), received))| MeshWork { chunk, nodes, edges, sent, received })
            .collect()
    }

    /// One chunk of a step on the mesh; `embedded` holds its edges' latents if this is the first step.
    fn mesh_chunk(
        &self,
        step: &Step,
        next: Option<&Step>,
        embedded: Option<&[f32]>,
        sent: &[f32],
        received: &[f32],
        w: &mut MeshWork<'_>,
    ) -> Result<()> {
        let z = self.parameters.latent;
        let senders = &self.mesh.senders[w.chunk.edges.clone()];
        let receivers = &self.mesh.receivers[w.chunk.edges.clone()];
        let mut messages = vec![0.0; w.chunk.edges.len() * z];
        product(embedded.unwrap_or(w.edges), &step.edges.first(0, z)?, |y| {
            step.edges.finish(w.chunk.edges.len(), &mut messages, |i, out| {
                rows::sum_of_3(out, &y[i * z..][..z], row(sent, senders[i], z), row(received, receivers[i], z));
            })
        })??;
        if next.is_some() {
            match embedded {
                Some(embedded) => rows::sum_of_2(w.edges, embedded, &messages),
                None => rows::add(w.edges, &messages),
            }
        }
        let mut sums = vec![0.0; w.nodes.len()];
        self.mesh.sum(w.chunk, &messages, z, &mut sums);
        let mut change = vec![0.0; w.nodes.len()];
        step.nodes.apply_to_pair(w.nodes, &sums, &mut change)?;
        rows::add(w.nodes, &change);
        if let Some(next) = next {
            product(w.nodes, &next.edges.first(1, z)?, |y| w.sent.copy_from_slice(y))?;
            product(w.nodes, &next.edges.first(2, z)?, |y| w.received.copy_from_slice(y))?;
        }
        Ok(())
    }

    /// Stacked targets of each grid point.
    fn decode(&self, mesh: &[f32], grid: &[f32]) -> Result<Vec<f32>> {
        let (p, z) = (&self.parameters, self.parameters.latent);
        let targets = p.decoder.outputs();
        let sent = self.products_of_nodes(mesh, &p.mesh2grid.edges, 1)?;
        let w_received = p.mesh2grid.edges.first(2, z)?;
        let mut targets_of_grid = vec![0.0; grid.len() / z * targets];
        let pieces = split(&mut targets_of_grid, self.mesh2grid.chunks.iter().map(|c| c.nodes.len() * targets));
        each(&self.workers, pieces, |i, out| {
            let chunk = &self.mesh2grid.chunks[i];
            let nodes = &grid[chunk.nodes.start * z..chunk.nodes.end * z];
            let mut fresh = Vec::new();
            let products = match &self.mesh2grid_products {
                Some(kept) => &kept[chunk.edges.start * z..chunk.edges.end * z],
                None => {
                    fresh.resize(chunk.edges.len() * z, 0.0);
                    self.products_of_mesh2grid(chunk.edges.clone(), &mut fresh)?;
                    &fresh
                }
            };
            let senders = &self.mesh2grid.senders[chunk.edges.clone()];
            let receivers = &self.mesh2grid.receivers[chunk.edges.clone()];
            let mut messages = vec![0.0; products.len()];
            product(nodes, &w_received, |received| {
                p.mesh2grid.edges.finish(chunk.edges.len(), &mut messages, |i, out| {
                    let receiver = receivers[i] - chunk.nodes.start as u32;
                    rows::sum_of_3(out, &products[i * z..][..z], row(&sent, senders[i], z), row(received, receiver, z));
                })
            })??;
            let mut sums = vec![0.0; nodes.len()];
            self.mesh2grid.sum(chunk, &messages, z, &mut sums);
            let mut updated = vec![0.0; nodes.len()];
            p.mesh2grid.nodes.apply_to_pair(nodes, &sums, &mut updated)?;
            rows::add(&mut updated, nodes);
            p.decoder.apply(&updated, out)
        })?;
        Ok(targets_of_grid)
    }
}

impl Network for Host {
    fn forward(
        &self,
        n_channels: usize,
        channels: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
        stages: Option<&mut Stages>,
    ) -> Result<Vec<f32>> {
        let (grid, mesh) = self.encode(n_channels, channels)?;
        let Some(stages) = stages else {
            return self.decode(&self.process(mesh)?, &grid);
        };
        stages.latent_mesh_0 = mesh.clone();
        stages.latent_mesh_1 = self.process(mesh)?;
        stages.latent_grid_0 = grid;
        self.decode(&stages.latent_mesh_1, &stages.latent_grid_0)
    }
}

/// A chunk of the mesh with the parts of the state that it alone writes.
struct MeshWork<'a> {
    chunk: &'a Chunk,
    nodes: &'a mut [f32],
    edges: &'a mut [f32],
    /// Products of the nodes for the next step.
    sent: &'a mut [f32],
    received: &'a mut [f32],
}

impl Mlp {
    /// Applies all layers to the rows of `x`.
    fn apply(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let first = &self.layers[0];
        let (inputs, width) = (first.w.dim(0)?, first.bias.len());
        product(x, &first.w, |y| {
            self.finish(x.len() / inputs, out, |i, row| row.copy_from_slice(&y[i * width..][..width]))
        })?
    }

    /// Applies all layers to rows that are the concatenation of those of `a` and of `b`.
    fn apply_to_pair(&self, a: &[f32], b: &[f32], out: &mut [f32]) -> Result<()> {
        let z = self.layers[0].w.dim(0)? / 2;
        let mut x = Vec::with_capacity(a.len() + b.len());
        for (a, b) in a.chunks_exact(z).zip(b.chunks_exact(z)) {
            x.extend_from_slice(a);
            x.extend_from_slice(b);
        }
        self.apply(&x, out)
    }

    /// Applies everything behind the first layer's product to `n` rows; `first` writes that product (its bias left out).
    fn finish(&self, n: usize, out: &mut [f32], first: impl Fn(usize, &mut [f32])) -> Result<()> {
        let (head, inner) = self.layers.split_first().expect("at least one layer");
        let width = head.bias.len();
        let mut x = vec![0.0; n * width];
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            first(i, row);
            if !inner.is_empty() {
                rows::swish_row(row, &head.bias);
            }
        }
        let Some((last, hidden)) = inner.split_last() else {
            self.end(&x, head, out);
            return Ok(());
        };
        for layer in hidden {
            let width = layer.bias.len();
            let mut next = vec![0.0; n * width];
            product(&x, &layer.w, |y| {
                next.copy_from_slice(y);
                next.chunks_exact_mut(width).for_each(|row| rows::swish_row(row, &layer.bias));
            })?;
            x = next;
        }
        product(&x, &last.w, |y| self.end(y, last, out))
    }

    /// Bias of the last layer, and the norm.
    fn end(&self, y: &[f32], last: &Linear, out: &mut [f32]) {
        let width = last.bias.len();
        for (out, y) in out.chunks_exact_mut(width).zip(y.chunks_exact(width)) {
            match &self.norm {
                Some(norm) => rows::layer_norm(out, y, &last.bias, &norm.host.0, &norm.host.1),
                None => rows::sum_of_2(out, y, &last.bias),
            }
        }
    }
}

/// Gives the rows of `x` times `w` to `take`.
fn product<T>(x: &[f32], w: &Tensor, take: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let inputs = w.dim(0)?;
    if x.is_empty() {
        return Ok(take(&[]));
    }
    let y = Tensor::from_slice(x, (x.len() / inputs, inputs), &Device::Cpu)?.matmul(w)?;
    with_values(&y, take)
}

/// `n` rows of `width` values, made in chunks by all threads.
fn by_rows(
    workers: &Workers,
    n: usize,
    width: usize,
    make: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let mut all = vec![0.0; n * width];
    each(workers, all.chunks_mut(CHUNK_ROWS * width).collect(), |i, out| {
        let first = i * CHUNK_ROWS;
        make(first..first + out.len() / width, out)
    })?;
    Ok(all)
}

/// Does the work of each piece, with its number, on some thread.
fn each<T: Send>(workers: &Workers, pieces: Vec<T>, work: impl Fn(usize, &mut T) -> Result<()> + Sync) -> Result<()> {
    let pieces: Vec<Mutex<T>> = pieces.into_iter().map(Mutex::new).collect();
    workers.map(pieces.len(), |i| work(i, &mut pieces[i].lock().unwrap_or_else(|e| e.into_inner())))?;
    Ok(())
}

/// Cuts a slice into pieces of these lengths.
fn split(mut all: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let cut = |length| all.split_off_mut(..length).expect("the pieces are no longer than the whole");
    lengths.map(cut).collect()
}

/// A row of a matrix of `width` columns.
fn row(matrix: &[f32], i: u32, width: usize) -> &[f32] {
    &matrix[i as usize * width..][..width]
}
