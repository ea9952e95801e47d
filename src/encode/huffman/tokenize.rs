//! Codes to tokens, and how often each occurs.

use super::CHUNK;
use super::token::{self, Contexts, N_CONTEXTS, Token};
use crate::awake;
use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

/// Bits of a token's id.
const ID_BITS: u32 = 9;
/// Ids in a context, used or not: room for every id, so that a token and its context are one index.
pub const CONTEXT_SIZE: usize = 1 << ID_BITS;
/// Tokens in all contexts.
pub const N_INDICES: usize = N_CONTEXTS * CONTEXT_SIZE;
const INDEX_BITS: u32 = ID_BITS + 2;
const _: () = assert!(token::N_TOKENS <= CONTEXT_SIZE && N_INDICES == 1 << INDEX_BITS);

/// A token in its context: `id | context << 9 | number of plain bits << 11`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Placed(u16);

impl Placed {
    /// Token and context as one number, below [`N_INDICES`].
    #[inline(always)]
    pub fn index(self) -> usize {
        usize::from(self.0) & (N_INDICES - 1)
    }

    /// Whether it is a run of zeros with plain bits.
    #[inline(always)]
    pub fn is_long_run(self) -> bool {
        let id = self.index() % CONTEXT_SIZE;
        (SHORT_RUN..token::N_RUN).contains(&id)
    }

    /// How many plain bits follow.
    #[inline(always)]
    pub fn n_extra(self) -> u32 {
        u32::from(self.0) >> INDEX_BITS
    }
}

/// Number of plain bits of any of four tokens, not 0 if one has some.
#[inline(always)]
pub fn any_extra([a, b, c, d]: [Placed; 4]) -> bool {
    (a.0 | b.0 | c.0 | d.0) >> INDEX_BITS != 0
}

/// Runs of up to this length have tokens without plain bits.
const SHORT_RUN: usize = 16;

/// A part of a chunk as tokens.
#[derive(Default)]
pub struct Part<'a> {
    /// In order.
    pub tokens: &'a [Placed],
    /// The plain bits of those runs that have some.
    pub run_extras: Vec<u32>,
    /// The plain bits of those values that have some.
    pub value_extras: Vec<u32>,
}

/// A chunk as tokens.
pub struct Tokens<'a> {
    /// The four parts.
    pub parts: [Part<'a>; 4],
    /// Counts of tokens, by index.
    pub counts: Vec<u32>,
}

/// Where part `k` of 4 of a chunk starts and ends.
pub fn part(len: usize, k: usize) -> (usize, usize) {
    (len * k / 4, len * (k + 1) / 4)
}

/// Where the part ends in which code `at` of a chunk lies.
pub fn part_end(len: usize, at: usize) -> usize {
    (0..4).map(|k| part(len, k).1).find(|&end| at < end).unwrap_or(len)
}

/// Makes tokens of chunks, of which parts are the tasks, and what `then` makes of each chunk. `room` is as long as `codes`: a code makes at most one
/// token.
pub fn tokenize<'a, R: Send>(
    codes: &[i32],
    contexts: Contexts,
    room: &'a mut [Placed],
    then: impl Fn(Tokens<'a>) -> R + Sync,
) -> Vec<R> {
    let mut parts = Vec::with_capacity(4 * codes.len().div_ceil(CHUNK));
    for (chunk, mut room) in codes.chunks(CHUNK).zip(room.chunks_mut(CHUNK)) {
        parts.extend((0..4).map(|k| {
            let (start, end) = part(chunk.len(), k);
            let (here, later) = std::mem::take(&mut room).split_at_mut(end - start);
            room = later;
            (&chunk[start..end], here)
        }));
    }
    let mut parts = awake::map(parts, usize::MAX, |(codes, room)| tokenize_one(codes, contexts, room)).into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let of_chunks: Vec<[_; 4]> = codes.chunks(CHUNK).map(|_| std::array::from_fn(|_| next())).collect();
    awake::map(of_chunks, usize::MAX, |parts| {
        let mut counts = vec![0; N_INDICES];
        let parts = parts.map(|(part, more)| {
            counts.iter_mut().zip(more).for_each(|(s, m)| *s += u32::from(m));
            part
        });
        then(Tokens { parts, counts })
    })
}

fn tokenize_one<'a>(codes: &[i32], contexts: Contexts, room: &'a mut [Placed]) -> (Part<'a>, Vec<u16>) {
    /// About one code in so many has plain bits.
    const EXTRA: usize = 16;
    let room_of = |n: usize| Vec::with_capacity(n / EXTRA);
    let mut part = Part { run_extras: room_of(codes.len()), value_extras: room_of(codes.len()), ..Part::default() };
    let n = tokenize_part(codes, contexts, room, &mut part.run_extras, &mut part.value_extras);
    part.tokens = &room[..n];
    let counts = count(part.tokens);
    (part, counts)
}

/// Counts the tokens of a part by index.
fn count(tokens: &[Placed]) -> Vec<u16> {
    const _: () = assert!(CHUNK / 4 < 1 << 16);
    // Four counters for each index: increments of the same one in a row would wait for each other.
    let mut counts = vec![0u16; 4 * N_INDICES];
    let (a, rest) = counts.split_at_mut(N_INDICES);
    let (b, rest) = rest.split_at_mut(N_INDICES);
    let (c, d) = rest.split_at_mut(N_INDICES);
    let d = &mut d[..N_INDICES];
    let fours = tokens.chunks_exact(4);
    fours.remainder().iter().for_each(|t| a[t.index()] += 1);
    for four in fours {
        a[four[0].index()] += 1;
        b[four[1].index()] += 1;
        c[four[2].index()] += 1;
        d[four[3].index()] += 1;
    }
    for i in 0..N_INDICES {
        a[i] += b[i] + c[i] + d[i];
    }
    counts.truncate(N_INDICES);
    counts
}

/// Tokens of one part; returns how many. Works from one code other than zero to the next, found by counting zeros in a mask:
/// what follows what is hardly predictable, so that branches on it would cost more than all the rest.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl+bmi1+bmi2+lzcnt",
    "x86_64+avx2+bmi1+bmi2+lzcnt",
    "aarch64+neon"
))]
fn tokenize_part(
    codes: &[i32],
    contexts: Contexts,
    out: &mut [Placed],
    run_extras: &mut Vec<u32>,
    value_extras: &mut Vec<u32>,
) -> usize {
    let mut state =
        State { out: &mut out[..codes.len()], at: 0, context: (Contexts::FIRST as u16) << ID_BITS, next: 0 };
    let mut values = Values::default();
    for (start, block) in (0..).step_by(N_BLOCK).zip(codes.chunks(N_BLOCK)) {
        let mask = values.set(block, contexts);
        if values.any_extra {
            values.push_extras(mask, value_extras);
        }
        if mask.count_ones() < DENSE {
            state.push_some(&values, mask, start, run_extras);
            continue;
        }
        for first in (0..N_BLOCK).step_by(8) {
            let eight = mask & 0xff << first;
            if eight == 0xff << first && state.next == start + first {
                state.push_eight(&values, first);
            } else {
                state.push_some(&values, eight, start, run_extras);
            }
        }
    }
    state.push_run(codes.len(), run_extras);
    state.at
}

/// Tokens so far.
struct State<'a> {
    out: &'a mut [Placed],
    at: usize,
    /// Context of the next token, in its place.
    context: u16,
    /// The first code after the last token's.
    next: usize,
}

impl State<'_> {
    /// Tokens of the codes of a block that `mask` names, and of the runs before them. The block starts at `start`.
    #[inline(always)]
    fn push_some(&mut self, values: &Values, mut mask: u64, start: usize, run_extras: &mut Vec<u32>) {
        while mask != 0 {
            let i = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let value = values.tokens[i];
            let run = start + i - self.next;
            self.next = start + i + 1;
            let run_token = if run > SHORT_RUN { long_run(run, run_extras) } else { (run as u16).wrapping_sub(1) };
            // Written in any case, kept if there is a run.
            self.out[self.at] = Placed(run_token | self.context);
            self.at += usize::from(run > 0);
            self.context = if run > 0 { 0 } else { self.context };
            self.out[self.at] = Placed(value as u16 | self.context);
            self.at += 1;
            self.context = (value >> 16) as u16;
        }
    }

    /// Tokens of eight codes without a zero among them or right before them.
    #[inline(always)]
    fn push_eight(&mut self, values: &Values, first: usize) {
        let tokens = &values.tokens[first..first + 8];
        let mut eight = [Placed(tokens[0] as u16 | self.context); 8];
        for i in 1..8 {
            eight[i] = Placed(tokens[i] as u16 | (tokens[i - 1] >> 16) as u16);
        }
        self.out[self.at..self.at + 8].copy_from_slice(&eight);
        self.at += 8;
        self.next += 8;
        self.context = (tokens[7] >> 16) as u16;
    }

    /// The run at the end.
    fn push_run(&mut self, end: usize, run_extras: &mut Vec<u32>) {
        let run = end - self.next;
        if run > 0 {
            let token = if run > SHORT_RUN { long_run(run, run_extras) } else { run as u16 - 1 };
            self.out[self.at] = Placed(token | self.context);
            self.at += 1;
        }
    }
}

/// The token of a run, in context 0.
fn long_run(len: usize, extras: &mut Vec<u32>) -> u16 {
    let t = token::of_run(len);
    extras.push(t.extra);
    in_context_0(t)
}

#[inline(always)]
fn in_context_0(t: Token) -> u16 {
    t.id | u16::from(t.n_extra) << INDEX_BITS
}

/// Blocks with at least this many codes other than zero are searched for eights without a zero.
const DENSE: u32 = 56;

/// Codes made tokens at once.
const N_BLOCK: usize = 64;

/// Value tokens of a block of codes, in loops without branches or tables that become vector code.
struct Values {
    /// `token in context 0 | context after it << 25`; of zeros, anything.
    tokens: [u32; N_BLOCK],
    /// Folded codes less 1: what tokens and plain bits are made from.
    numbers: [u32; N_BLOCK],
    /// Whether any token may have plain bits.
    any_extra: bool,
}

impl Default for Values {
    fn default() -> Self {
        Self { tokens: [0; N_BLOCK], numbers: [0; N_BLOCK], any_extra: false }
    }
}

impl Values {
    /// Sets tokens from codes; returns a mask of the codes that are not zero.
    #[inline(always)]
    fn set(&mut self, codes: &[i32], contexts: Contexts) -> u64 {
        let mut padded = [0; N_BLOCK];
        let codes = match <&[i32; N_BLOCK]>::try_from(codes) {
            Ok(codes) => codes,
            Err(_) => {
                padded[..codes.len()].copy_from_slice(codes);
                &padded
            }
        };
        let mut flags = [0u8; N_BLOCK];
        let mut all = 0;
        for i in 0..N_BLOCK {
            let folded = token::fold(codes[i]);
            all |= folded;
            self.numbers[i] = folded.max(1) - 1;
            flags[i] = u8::from(codes[i] != 0);
        }
        self.any_extra = all > token::DIRECT_VALUES;
        if all == 0 {
            return 0;
        }
        let thresholds = contexts.thresholds.map(u32::from);
        if all <= token::MAX_SMALL {
            for i in 0..N_BLOCK {
                let (id, n_extra) = token::of_small(self.numbers[i]);
                let context = 1 + u32::from(id >= thresholds[0]) + u32::from(id >= thresholds[1]);
                self.tokens[i] = (id + token::N_RUN as u32) | n_extra << INDEX_BITS | context << (16 + ID_BITS);
            }
        } else {
            for i in (0..N_BLOCK).filter(|&i| codes[i] != 0) {
                let t = token::of_value(codes[i]);
                self.tokens[i] = u32::from(in_context_0(t)) | (contexts.after(t.id) as u32) << (16 + ID_BITS);
            }
        }
        let mut mask = 0;
        for (k, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
            // The product moves bit 8i to bit 56 + i.
            mask |= (u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * k);
        }
        mask
    }

    /// Appends the plain bits of those tokens that have some.
    #[inline(always)]
    fn push_extras(&self, mask: u64, extras: &mut Vec<u32>) {
        let mut buffer = [0; N_BLOCK];
        let mut n = 0;
        for i in 0..N_BLOCK {
            let n_extra = if mask >> i & 1 == 1 { self.tokens[i] >> INDEX_BITS & 31 } else { 0 };
            buffer[n] = self.numbers[i] & ((1 << n_extra) - 1);
            n += usize::from(n_extra > 0);
        }
        extras.extend_from_slice(&buffer[..n]);
    }
}
