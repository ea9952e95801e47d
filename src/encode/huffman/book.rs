//! Code books: lengths from counts, canonical codes from lengths, decoding tables, and the compact form of lengths.

use super::token::{self, Contexts, Meaning, N_CONTEXTS, N_TOKENS};
use super::tokenize::CONTEXT_SIZE;
use crate::encode::bits::{BitReader, BitWriter};
use crate::error::{Error, Result};

/// Longest code. 12 bits keep the four tables of a chunk within the second cache; what longer codes would gain on
/// tokens this rare is below 0.1 %.
pub const MAX_BITS: u32 = 12;

/// Code lengths of all tokens; 0 for tokens that do not occur, and for the only one that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Bits of each token's code.
    pub bits: [u8; N_TOKENS],
    /// The token, if only one occurs: it needs no bits.
    pub only: Option<u16>,
}

impl Lengths {
    /// Optimal lengths for `counts`, cut to [`MAX_BITS`].
    pub fn from_counts(counts: &[u32]) -> Self {
        let mut bits = [0; N_TOKENS];
        let mut used: Vec<(u32, u16)> = Vec::with_capacity(counts.len());
        used.extend(counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(i, &c)| (c, i as u16)));
        if used.len() < 2 {
            return Self { bits, only: used.first().map(|u| u.1) };
        }
        used.sort_unstable();
        let n_of_length = limit(tree_lengths(&used));
        // Rare tokens, which come first, get the longest codes.
        let mut tokens = used.iter();
        for length in (1..=MAX_BITS as usize).rev() {
            for &(_, id) in tokens.by_ref().take(n_of_length[length]) {
                bits[usize::from(id)] = length as u8;
            }
        }
        Self { bits, only: None }
    }

    /// Canonical codes by token, ready to be written least significant bit first:
    /// `code | its length << 16 | length with plain bits << 24`.
    pub fn codes(&self) -> Vec<u32> {
        let mut codes = vec![0; CONTEXT_SIZE];
        for (id, code) in codes[..N_TOKENS].iter_mut().enumerate() {
            let (Meaning::Run { n_extra, .. } | Meaning::Value { n_extra, .. }) = token::meaning(id);
            *code = n_extra << 24;
        }
        self.for_each_code(|id, n, reversed| codes[id] += reversed | n << 16 | n << 24);
        codes
    }

    /// Calls `f(token, length, code with its bits reversed)`, shortest codes first, then by token.
    fn for_each_code(&self, mut f: impl FnMut(usize, u32, u32)) {
        let mut first = [0u32; MAX_BITS as usize + 2];
        let mut n_of_length = [0u32; MAX_BITS as usize + 1];
        self.bits.iter().for_each(|&b| n_of_length[usize::from(b)] += 1);
        n_of_length[0] = 0;
        for n in 1..=MAX_BITS as usize {
            first[n + 1] = (first[n] + n_of_length[n]) << 1;
        }
        for (id, &bits) in self.bits.iter().enumerate().filter(|(_, b)| **b > 0) {
            let n = u32::from(bits);
            let code = &mut first[bits as usize];
            f(id, n, code.reverse_bits() >> (32 - n));
            *code += 1;
        }
    }

    /// Writes the lengths: see `container/format.md`.
    pub fn write(&self, out: &mut BitWriter) {
        if let Some(only) = self.only {
            out.put(1, 2);
            out.put(u64::from(only), 9);
            return;
        }
        let Some(last) = self.bits.iter().rposition(|&b| b > 0) else {
            out.put(0, 2);
            return;
        };
        out.put(2, 2);
        out.put(last as u64, 9);
        let mut expected = 6i32;
        let mut id = 0;
        while id <= last {
            let n = i32::from(self.bits[id]);
            if n == 0 {
                let run = self.bits[id..].iter().take_while(|&&b| b == 0).count();
                out.put(0b111, 3);
                let log2 = run.ilog2();
                out.put(u64::from(log2), 4);
                out.put(run as u64 - (1 << log2), log2);
                id += run;
                continue;
            }
            match n - expected {
                0 => out.put(0, 1),
                1 => out.put(0b001, 3),
                -1 => out.put(0b101, 3),
                _ => {
                    out.put(0b011, 3);
                    out.put(n as u64, 4);
                }
            }
            expected = n;
            id += 1;
        }
    }

    /// Reads what [`Lengths::write`] wrote.
    ///
    /// # Errors
    /// `Corrupt` if the lengths are not those of a complete prefix code.
    pub fn read(reader: &mut BitReader<'_>) -> Result<Self> {
        let bad = || Error::corrupt("code book is damaged");
        let mut bits = [0u8; N_TOKENS];
        let kind = reader.take(2);
        if kind == 0 {
            return Ok(Self { bits, only: None });
        }
        let last = reader.take(9) as usize;
        if last >= N_TOKENS || kind > 2 {
            return Err(bad());
        }
        if kind == 1 {
            return Ok(Self { bits, only: Some(last as u16) });
        }
        let mut expected = 6i32;
        let mut id = 0;
        while id <= last {
            let n = match reader.take(1) {
                0 => expected,
                _ => match reader.take(2) {
                    0b00 => expected + 1,
                    0b10 => expected - 1,
                    0b01 => reader.take(4) as i32,
                    _ => {
                        let log2 = reader.take(4);
                        id += (1 << log2) + reader.take(log2) as usize;
                        continue;
                    }
                },
            };
            if !(1..=MAX_BITS as i32).contains(&n) {
                return Err(bad());
            }
            bits[id] = n as u8;
            expected = n;
            id += 1;
        }
        let filled: u32 = bits.iter().filter(|&&b| b > 0).map(|&b| 1 << (MAX_BITS - u32::from(b))).sum();
        if id != last + 1 || filled != 1 << MAX_BITS { Err(bad()) } else { Ok(Self { bits, only: None }) }
    }
}

/// Depths of the Huffman tree's leaves, as a count per depth, from counts in ascending order.
fn tree_lengths(used: &[(u32, u16)]) -> Vec<usize> {
    let n = used.len();
    // Two queues: leaves ascending, inner nodes in order of making, which is ascending too.
    let mut weight: Vec<u64> = Vec::with_capacity(2 * n);
    weight.extend(used.iter().map(|u| u64::from(u.0)));
    let mut parent = vec![0usize; 2 * n - 1];
    let (mut leaf, mut inner) = (0, n);
    for made in n..2 * n - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let take_leaf = leaf < n && (inner >= made || weight[leaf] <= weight[inner]);
            let node = if take_leaf { &mut leaf } else { &mut inner };
            sum += weight[*node];
            parent[*node] = made;
            *node += 1;
        }
        weight.push(sum);
    }
    let mut depth = vec![0usize; 2 * n - 1];
    for node in (0..2 * n - 2).rev() {
        depth[node] = depth[parent[node]] + 1;
    }
    let mut n_of_length = vec![0; n.max(MAX_BITS as usize + 1)];
    depth[..n].iter().for_each(|&d| n_of_length[d] += 1);
    n_of_length
}

/// Cuts lengths to [`MAX_BITS`] and lengthens others until the code fits again.
fn limit(mut n_of_length: Vec<usize>) -> Vec<usize> {
    let max = MAX_BITS as usize;
    let too_long: usize = n_of_length.drain(max + 1..).sum();
    n_of_length[max] += too_long;
    let mut filled: usize = (1..=max).map(|n| n_of_length[n] << (max - n)).sum();
    while filled > 1 << max {
        // One code of the longest length goes; one shorter code becomes two, the second for it.
        n_of_length[max] -= 1;
        if let Some(n) = (1..max).rev().find(|&n| n_of_length[n] > 0) {
            n_of_length[n] -= 1;
            n_of_length[n + 1] += 2;
        }
        filled -= 1;
    }
    n_of_length
}

/// A decoding table's entry: `length | context << 4 | kind << 6 | payload << 8`.
pub mod entry {
    /// The payload is how far to go on (16 bits) and the code to write (8 bits, high).
    pub const DIRECT: u32 = 0;
    /// The payload is a token with plain bits.
    pub const EXTENDED: u32 = 1 << 6;
    /// No code looks like this.
    pub const INVALID: u32 = 2 << 6;
    /// The bits of the kind.
    pub const KIND: u32 = 3 << 6;
}

/// Entries of a context's decoding table.
pub const TABLE: usize = 1 << MAX_BITS;
/// Of all contexts, one table after the other.
pub const TABLES: usize = N_CONTEXTS * TABLE;

/// Makes the decoding table of a context, of [`TABLE`] entries.
pub fn decoding_table(lengths: &Lengths, contexts: &Contexts, table: &mut [u32]) {
    table.fill(lengths.only.map_or(entry::INVALID, |only| entry_of(usize::from(only), 0, contexts)));
    lengths.for_each_code(|id, n, reversed| {
        let entry = entry_of(id, n, contexts);
        table[reversed as usize..].iter_mut().step_by(1 << n).for_each(|e| *e = entry);
    });
}

fn entry_of(id: usize, n_bits: u32, contexts: &Contexts) -> u32 {
    let head = n_bits | (contexts.after(id as u16) as u32) << 4;
    match token::meaning(id) {
        Meaning::Run { shortest, n_extra: 0 } => head | entry::DIRECT | shortest << 8,
        Meaning::Value { smallest, n_extra: 0 } => {
            head | entry::DIRECT | 1 << 8 | u32::from(token::unfold(smallest) as i8 as u8) << 24
        }
        _ => head | entry::EXTENDED | (id as u32) << 8,
    }
}
