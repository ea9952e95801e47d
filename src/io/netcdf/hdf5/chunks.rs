//! Where the values of an array lie: in one piece, or in chunks with a tree that finds them.
//!
//! Only arrays with chunks can grow. Chunks are not compressed, so each has its place from the start, and boxes can be
//! written in any order.

use super::super::super::Variable;
use super::super::{positioned, regions};
use crate::error::Result;
use std::fs::File;
use std::ops::Range;

/// Children of a tree's node: twice the `K` of 32 that files without other information have.
const FANOUT: u64 = 64;

/// Chunks that we choose are between these sizes: not too many to index, not too much to read for one value.
const MIN_CHUNK_BYTES: u64 = 64 << 10;
const MAX_CHUNK_BYTES: u64 = 4 << 20;

/// Elements of a chunk of an unlimited variable of one dimension, typically time, as the NetCDF library chooses.
const MIN_LINE_CHUNK: u64 = 512;

/// More chunks than this cost more than they help, unless they are large.
const MAX_SMALL_CHUNKS: u64 = 1 << 16;

/// Larger chunks from a schema are not taken over, since readers have to hold one at least.
const MAX_HINT_BYTES: u64 = 1 << 30;

/// The values of an array.
#[derive(Clone, Debug)]
pub struct Storage {
    shape: Vec<u64>,
    unlimited: Vec<bool>,
    /// Lengths of a chunk; the shape if there is one piece only.
    pub chunk: Vec<u64>,
    element_bytes: u64,
    /// Whether there is a tree.
    pub indexed: bool,
    start: u64,
}

impl Storage {
    /// Chooses the storage of a variable whose elements have `element_bytes`.
    pub fn choose(v: &Variable, unlimited: &[bool], element_bytes: u64) -> Self {
        let storage = |chunk: Vec<u64>, indexed| Self {
            shape: v.shape.clone(),
            unlimited: unlimited.to_vec(),
            chunk,
            element_bytes,
            indexed,
            start: 0,
        };
        let grows = unlimited.contains(&true);
        let hint = v.chunks.as_deref().and_then(|hint| usable(hint, v, unlimited, element_bytes));
        if let Some(s) = hint.map(|chunk| storage(chunk, true)).filter(|s| grows || s.n_chunks() > 1) {
            let bytes = s.chunk_bytes();
            if bytes <= MAX_HINT_BYTES && (bytes >= MIN_CHUNK_BYTES || s.n_chunks() <= MAX_SMALL_CHUNKS) {
                return s;
            }
        }
        if grows { storage(invent(&v.shape, unlimited, element_bytes), true) } else { storage(v.shape.clone(), false) }
    }

    /// Gives it a place in the file, and returns where that ends.
    pub fn place(&mut self, start: u64) -> u64 {
        self.start = start;
        self.chunks_start().saturating_add(self.n_chunks().saturating_mul(self.chunk_bytes()))
    }

    /// Address for the header, of the tree or of the values; none if there are no values.
    pub fn address(&self) -> u64 {
        if self.n_chunks() == 0 { super::encode::NOWHERE } else { self.start }
    }

    /// Bytes of all values, if they are in one piece.
    pub fn bytes(&self) -> u64 {
        self.n_chunks() * self.chunk_bytes()
    }

    pub fn chunk_bytes(&self) -> u64 {
        self.chunk.iter().product::<u64>() * self.element_bytes
    }

    fn n_chunks(&self) -> u64 {
        self.shape.iter().zip(&self.chunk).map(|(&n, &c)| if n == 0 { 0 } else { n.div_ceil(c) }).product()
    }

    /// Index of the first element of chunk `i`; chunks are counted in C order.
    fn origin(&self, mut i: u64) -> Vec<u64> {
        let mut origin = vec![0; self.shape.len()];
        for d in (0..self.shape.len()).rev() {
            let n = self.shape[d].div_ceil(self.chunk[d]);
            origin[d] = i % n * self.chunk[d];
            i /= n;
        }
        origin
    }

    fn node_bytes(&self) -> u64 {
        24 + FANOUT * 8 + (FANOUT + 1) * self.key_bytes()
    }

    fn key_bytes(&self) -> u64 {
        8 + 8 * (self.shape.len() as u64 + 1)
    }

    /// Nodes of every level of the tree, the root first.
    fn levels(&self) -> Vec<u64> {
        if !self.indexed || self.n_chunks() == 0 {
            return vec![];
        }
        let mut levels = vec![self.n_chunks().div_ceil(FANOUT)];
        while levels[0] > 1 {
            levels.insert(0, levels[0].div_ceil(FANOUT));
        }
        levels
    }

    fn chunks_start(&self) -> u64 {
        self.start + self.levels().iter().sum::<u64>() * self.node_bytes()
    }

    /// Writes the tree, and `fill` where the array can grow into chunks that are there already.
    pub fn create(&self, file: &mut File, fill: &[u8]) -> Result<()> {
        let levels = self.levels();
        let mut nodes = vec![];
        let mut written = self.start;
        let mut level_start = 0;
        for (row, &width) in levels.iter().enumerate() {
            let height = (levels.len() - 1 - row) as u32;
            let below = levels.get(row + 1).copied().unwrap_or(self.n_chunks());
            let child_start = level_start + width;
            for node in 0..width {
                self.node(&mut nodes, height, node, width, level_start, below, child_start);
                if nodes.len() >= 1 << 20 {
                    positioned::write_at(file, written, &nodes)?;
                    written += nodes.len() as u64;
                    nodes.clear();
                }
            }
            level_start = child_start;
        }
        positioned::write_at(file, written, &nodes)?;
        self.fill_edges(file, fill)
    }

    /// Appends a node: number `node` of `width` in its level, with `below` nodes or chunks in the level below. Levels
    /// start with the nodes `level_start` and `child_start` of the tree.
    #[allow(clippy::too_many_arguments)] // all are about one place in the tree
    fn node(
        &self,
        out: &mut Vec<u8>,
        height: u32,
        node: u64,
        width: u64,
        level_start: u64,
        below: u64,
        child_start: u64,
    ) {
        let node_address = |i: u64| self.start + i * self.node_bytes();
        let sibling = |i: Option<u64>| i.map_or(super::encode::NOWHERE, |i| node_address(level_start + i));
        let start = out.len();
        let children = node * FANOUT..below.min((node + 1) * FANOUT);
        out.extend(b"TREE\x01");
        out.push(height as u8);
        out.extend(((children.end - children.start) as u16).to_le_bytes());
        out.extend(sibling(node.checked_sub(1)).to_le_bytes());
        out.extend(sibling(Some(node + 1).filter(|&i| i < width)).to_le_bytes());
        // Chunks below one child.
        let span = FANOUT.pow(height);
        let end = children.end;
        for child in children {
            self.key(out, child * span);
            let address = if height == 0 {
                self.chunks_start() + child * self.chunk_bytes()
            } else {
                node_address(child_start + child)
            };
            out.extend(address.to_le_bytes());
        }
        self.key(out, end * span);
        out.resize(start + self.node_bytes() as usize, 0);
    }

    /// Appends the key of chunk `i`, or one that is larger than all if there is no such chunk.
    fn key(&self, out: &mut Vec<u8>, i: u64) {
        let n = self.n_chunks();
        let (bytes, step) = if i < n { (self.chunk_bytes() as u32, 0) } else { (0, 1) };
        out.extend(bytes.to_le_bytes());
        out.extend([0; 4]);
        for (at, c) in self.origin(i.min(n - 1)).iter().zip(&self.chunk) {
            out.extend((at + step * c).to_le_bytes());
        }
        out.extend([0; 8]);
    }

    /// Chunks that reach past the end of an unlimited dimension show that part when the array grows.
    fn fill_edges(&self, file: &mut File, fill: &[u8]) -> Result<()> {
        let past_end = |d: usize| self.unlimited[d] && !self.shape[d].is_multiple_of(self.chunk[d]);
        if !self.indexed || fill.iter().all(|&b| b == 0) || !(0..self.shape.len()).any(past_end) {
            return Ok(());
        }
        let pattern = fill.repeat((self.chunk_bytes() / self.element_bytes) as usize);
        for i in 0..self.n_chunks() {
            let origin = self.origin(i);
            if (0..origin.len()).any(|d| past_end(d) && origin[d] + self.chunk[d] > self.shape[d]) {
                positioned::write_at(file, self.chunks_start() + i * self.chunk_bytes(), &pattern)?;
            }
        }
        Ok(())
    }

    /// Writes the box `region`, whose elements are `bytes`.
    pub fn write(&self, file: &mut File, region: &[Range<u64>], bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let grid: Vec<_> = region.iter().zip(&self.chunk).map(|(r, &c)| r.start / c..(r.end - 1) / c + 1).collect();
        let counts: Vec<u64> = self.shape.iter().zip(&self.chunk).map(|(&n, &c)| n.div_ceil(c)).collect();
        let box_shape: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
        let mut gathered = vec![];
        regions::for_each_run(&counts, &grid, |first, n| {
            for i in first..first + n {
                let origin = self.origin(i);
                let part: Vec<_> = (0..region.len())
                    .map(|d| region[d].start.max(origin[d])..region[d].end.min(origin[d] + self.chunk[d]))
                    .collect();
                let in_chunk: Vec<_> = part.iter().zip(&origin).map(|(p, o)| p.start - o..p.end - o).collect();
                let in_box: Vec<_> = part.iter().zip(region).map(|(p, r)| p.start - r.start..p.end - r.start).collect();
                let mut rest = self.gather(bytes, &box_shape, &in_box, &mut gathered)?;
                let start = self.chunks_start() + i * self.chunk_bytes();
                regions::for_each_run(&self.chunk, &in_chunk, |at, n| {
                    let (run, tail) = rest.split_at((n * self.element_bytes) as usize);
                    rest = tail;
                    positioned::write_at(file, start + at * self.element_bytes, run)
                })?;
            }
            Ok(())
        })
    }

    /// The part `part` of a box, in one piece.
    fn gather<'a>(
        &self,
        bytes: &'a [u8],
        box_shape: &[u64],
        part: &[Range<u64>],
        gathered: &'a mut Vec<u8>,
    ) -> Result<&'a [u8]> {
        let mut runs = 0;
        let mut only = 0..0;
        gathered.clear();
        regions::for_each_run(box_shape, part, |at, n| {
            let run = (at * self.element_bytes) as usize..((at + n) * self.element_bytes) as usize;
            // Most often there is one run, which need not be copied.
            match runs {
                0 => only = run,
                1 => {
                    gathered.extend_from_slice(&bytes[only.clone()]);
                    gathered.extend_from_slice(&bytes[run]);
                }
                _ => gathered.extend_from_slice(&bytes[run]),
            }
            runs += 1;
            Ok(())
        })?;
        Ok(if runs > 1 { &gathered[..] } else { &bytes[only] })
    }
}

/// The chunk lengths that a schema gives, made to fit; none if they can not be used.
fn usable(hint: &[u64], v: &Variable, unlimited: &[bool], element_bytes: u64) -> Option<Vec<u64>> {
    if hint.len() != v.shape.len() || hint.is_empty() || hint.contains(&0) {
        return None;
    }
    let clamp = |also_unlimited: bool| -> Vec<u64> {
        (0..hint.len())
            .map(|d| if unlimited[d] && !also_unlimited { hint[d] } else { hint[d].min(v.shape[d].max(1)) })
            .collect()
    };
    let small = |chunk: &[u64]| {
        regions::checked_len(chunk, element_bytes as usize).is_some_and(|n| n * element_bytes <= MAX_CHUNK_BYTES)
    };
    let roomy = clamp(false);
    let chunk = if small(&roomy) { roomy } else { clamp(true) };
    regions::checked_len(&chunk, element_bytes as usize).map(|_| chunk)
}

/// Chunk lengths for an array that can grow: runs of the array as it lies in memory, as far as possible.
fn invent(shape: &[u64], unlimited: &[bool], element_bytes: u64) -> Vec<u64> {
    if let [len] = shape {
        return vec![(*len).clamp(MIN_LINE_CHUNK, MIN_CHUNK_BYTES / element_bytes)];
    }
    let mut chunk: Vec<u64> = shape.iter().zip(unlimited).map(|(&n, &u)| if u { 1 } else { n.max(1) }).collect();
    let bytes = |chunk: &[u64]| chunk.iter().fold(element_bytes, |n, &c| n.saturating_mul(c));
    while bytes(&chunk) > MAX_CHUNK_BYTES {
        match chunk.iter().position(|&c| c > 1) {
            Some(d) => chunk[d] = chunk[d].div_ceil(2),
            None => break,
        }
    }
    if let Some(d) = unlimited.iter().position(|&u| u) {
        chunk[d] = (MIN_CHUNK_BYTES / bytes(&chunk)).clamp(1, shape[d].max(1));
    }
    chunk
}
