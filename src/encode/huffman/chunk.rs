//! A chunk's tokens to bits, and bits to codes.

use super::FOUR_STREAMS_FROM_BYTES;
use super::book::{MAX_BITS, entry};
use super::token::{self, Contexts, Meaning};
use super::tokenize::{self, N_INDICES, Placed, Tokens};
use crate::awake;
use crate::encode::bits::{BitReader, BitWriter};
use crate::error::{Error, Result};
use multiversion::multiversion;
use std::sync::Arc;

/// Writes chunks with their coders, as one or four streams each; the streams are tasks.
pub fn encode_chunks(chunks: &[Tokens<'_>], coders: &[Arc<Vec<u32>>]) -> Vec<Vec<Vec<u8>>> {
    let mut n_streams = Vec::with_capacity(chunks.len());
    let mut streams = Vec::with_capacity(4 * chunks.len());
    for (chunk, coder) in chunks.iter().zip(coders) {
        let n_bits: u64 =
            chunk.counts.iter().zip(&**coder).map(|(&n, &code)| u64::from(n) * u64::from(code >> 24)).sum();
        let n_bytes = n_bits.div_ceil(8) as usize;
        let (n, room) = if n_bytes < FOUR_STREAMS_FROM_BYTES { (1, n_bytes + 4) } else { (4, n_bytes / 3) };
        n_streams.push(n);
        streams.extend(chunk.parts.chunks(4 / n).map(|parts| (parts, coder, room)));
    }
    let stream = |(parts, coder, room): (&[tokenize::Part<'_>], &Arc<Vec<u32>>, usize)| {
        let mut writer = BitWriter::with_capacity(room);
        parts.iter().for_each(|part| write_part(part, coder, &mut writer));
        writer.finish()
    };
    let mut streams = awake::map(streams, usize::MAX, stream).into_iter();
    n_streams.into_iter().map(|n| streams.by_ref().take(n).collect()).collect()
}

/// A token's code and its length.
#[inline(always)]
fn code_of(coder: &[u32], t: Placed) -> (u64, u32) {
    let e = coder[t.index()];
    (u64::from(e & 0xffff), e >> 16 & 0xff)
}

/// Writes tokens, four at once if none has plain bits. Where many have, a branch on that costs more than it saves.
#[multiversion(targets("x86_64+bmi1+bmi2", "aarch64+neon"))]
fn write_part<'a>(part: &tokenize::Part<'a>, coder: &[u32], writer: &mut BitWriter) {
    let coder = &coder[..N_INDICES];
    // Taken out of the reference, so that its parts stay in registers.
    let mut w = std::mem::take(writer);
    let extras_are_rare = part.value_extras.len() * 16 < part.tokens.len();
    let mut n_value_extras = 0;
    let mut run_extras = part.run_extras.iter();
    for few in part.tokens.chunks(4) {
        if extras_are_rare
            && let &[a, b, c, d] = few
            && !tokenize::any_extra([a, b, c, d])
        {
            let (a, a_len) = code_of(coder, a);
            let (b, b_len) = code_of(coder, b);
            let (c, c_len) = code_of(coder, c);
            let (d, d_len) = code_of(coder, d);
            let (ab, cd) = (a | b << a_len, c | d << c_len);
            w.put(ab | cd << (a_len + b_len), a_len + b_len + c_len + d_len);
            continue;
        }
        for &t in few {
            let (code, len) = code_of(coder, t);
            let n_extra = t.n_extra();
            let mut extra = part.value_extras.get(n_value_extras).copied().unwrap_or(0) & ((1 << n_extra) - 1);
            n_value_extras += usize::from(n_extra > 0);
            if t.is_long_run() {
                n_value_extras -= 1;
                extra = run_extras.next().copied().unwrap_or(0);
            }
            w.put(code | u64::from(extra) << len, len + n_extra);
        }
    }
    *writer = w;
}

/// A chunk's place in the coded bytes.
pub struct Place {
    /// Set of books.
    pub book: usize,
    /// Lengths of the streams; unused ones are 0.
    pub streams: [usize; 4],
    /// Whether there are four.
    pub four: bool,
    /// Bytes as stored.
    pub stored: std::ops::Range<usize>,
}

/// One part of a chunk being decoded.
struct Part<'a> {
    bits: BitReader<'a>,
    codes: &'a mut [i32],
    next: usize,
    context: usize,
}

impl Part<'_> {
    fn is_done(&self) -> bool {
        self.next >= self.codes.len()
    }

    /// Decodes one token. `false`: no code looks like this, or the part is full.
    #[inline(always)]
    fn step(&mut self, tables: &[u32]) -> bool {
        self.bits.refill();
        let e = tables[self.context << MAX_BITS | self.bits.peek(MAX_BITS) as usize];
        self.bits.skip(e & 15);
        self.context = (e >> 4 & 3) as usize;
        if e & entry::KIND == entry::DIRECT {
            let Some(place) = self.codes.get_mut(self.next) else { return false };
            *place = e as i32 >> 24;
            self.next += (e >> 8 & 0xffff) as usize;
            return true;
        }
        self.extended(e)
    }

    #[inline]
    fn extended(&mut self, e: u32) -> bool {
        if e & entry::KIND != entry::EXTENDED {
            return false;
        }
        let mut plain = |n: u32| {
            let bits = self.bits.peek(n) as u32;
            self.bits.skip(n);
            bits
        };
        match token::meaning((e >> 8) as usize) {
            Meaning::Run { shortest, n_extra } => self.next += (shortest + plain(n_extra)) as usize,
            Meaning::Value { smallest, n_extra } => {
                let folded = smallest.wrapping_add(plain(n_extra));
                let Some(place) = self.codes.get_mut(self.next) else { return false };
                *place = token::unfold(folded);
                self.next += 1;
            }
        }
        true
    }

    /// Decodes to the end. `false`: as [`Part::step`], or a run leaves the part.
    fn finish(&mut self, tables: &[u32]) -> bool {
        while !self.is_done() {
            if !self.step(tables) {
                return false;
            }
        }
        self.next == self.codes.len()
    }
}

/// Reads a chunk: its streams start at `data[start]`.
///
/// # Errors
/// `Corrupt` if they do not make `codes.len()` codes.
pub fn decode_chunk(codes: &mut [i32], tables: &[u32], data: &[u8], start: usize, place: &Place) -> Result<()> {
    let bad = || Error::corrupt("coded chunk is damaged");
    let len = codes.len();
    let mut starts = [start; 4];
    for k in 1..4 {
        starts[k] = starts[k - 1] + place.streams[k - 1];
    }
    let mut rest = codes;
    let mut slices = (0..4).map(|k| {
        let (slice, later) = std::mem::take(&mut rest).split_at_mut(len * (k + 1) / 4 - len * k / 4);
        rest = later;
        slice
    });
    let reader = |k: usize| BitReader::new(data, starts[k], starts[k] + place.streams[k]);
    if place.four {
        let mut parts: Vec<Part<'_>> = slices
            .enumerate()
            .map(|(k, codes)| Part { bits: reader(k), codes, next: 0, context: Contexts::FIRST })
            .collect();
        let [a, b, c, d] = &mut parts[..] else { return Err(bad()) };
        while !(a.is_done() | b.is_done() | c.is_done() | d.is_done()) {
            if !(a.step(tables) & b.step(tables) & c.step(tables) & d.step(tables)) {
                return Err(bad());
            }
        }
        for part in &mut parts {
            if !part.finish(tables) || !part.bits.is_within() {
                return Err(bad());
            }
        }
        return Ok(());
    }
    let mut bits = reader(0);
    for codes in &mut slices {
        let mut part = Part { bits, codes, next: 0, context: Contexts::FIRST };
        if !part.finish(tables) {
            return Err(bad());
        }
        bits = part.bits;
    }
    if bits.is_within() { Ok(()) } else { Err(bad()) }
}
