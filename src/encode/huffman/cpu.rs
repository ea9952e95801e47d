//! The Huffman coder on the CPU: chunks are the tasks, in both directions.

use super::bits::{BitReader, BitWriter};
use super::book::{self, Lengths, MAX_BITS, entry};
use super::token::{self, Contexts, Meaning, N_CONTEXTS, N_RUN, N_TOKENS, Token};
use super::{CHUNK, FOUR_STREAMS_FROM_BYTES};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::sync::Arc;

/// Counts of tokens, context after context.
type Counts = Vec<u32>;

/// zstd level for coded chunks: what is left there are repeats, which a fast level finds too.
const ZSTD_LEVEL: i32 = 1;

/// A chunk as tokens.
struct Tokens {
    /// `token | context << 9`.
    tokens: Vec<u16>,
    /// Plain bits of those tokens that have some: `(bits, number)`.
    extras: Vec<(u32, u8)>,
    /// Where each of the four parts ends in `tokens` and `extras`.
    ends: [(usize, usize); 4],
    counts: Counts,
}

/// Codes to bytes.
pub fn encode(codes: &[i32]) -> Vec<u8> {
    let contexts = choose_contexts(codes);
    let chunks: Vec<Tokens> = codes.par_chunks(CHUNK).map(|chunk| tokenize(chunk, contexts)).collect();
    let books = choose_books(&chunks);

    let mut out = Vec::new();
    contexts.thresholds.iter().for_each(|&t| bytes::put_varint(&mut out, u64::from(t)));
    bytes::put_varint(&mut out, books.len() as u64);
    let mut lengths_of_books = BitWriter::default();
    let mut coders = Vec::new();
    for (n_chunks, counts) in &books {
        bytes::put_varint(&mut out, *n_chunks as u64);
        let lengths: Vec<Lengths> = counts.chunks_exact(N_TOKENS).map(Lengths::from_counts).collect();
        lengths.iter().for_each(|l| l.write(&mut lengths_of_books));
        let coder: Vec<(u16, u8)> = lengths.iter().flat_map(Lengths::codes).collect();
        coders.extend(std::iter::repeat_n(Arc::new(coder), *n_chunks));
    }
    bytes::put_bytes(&mut out, &lengths_of_books.finish());

    let streams: Vec<Vec<Vec<u8>>> =
        chunks.par_iter().zip(&coders).map(|(chunk, coder)| encode_chunk(chunk, coder)).collect();
    let packed = pack_if_it_pays(&streams);
    out.push(u8::from(packed.is_some()));
    for (i, streams) in streams.iter().enumerate() {
        let total: usize = streams.iter().map(Vec::len).sum();
        bytes::put_varint(&mut out, total as u64 * 2 + u64::from(streams.len() == 4));
        streams[..streams.len() - 1].iter().for_each(|s| bytes::put_varint(&mut out, s.len() as u64));
        if let Some(packed) = &packed {
            bytes::put_varint(&mut out, packed[i].len() as u64);
        }
    }
    match packed {
        Some(packed) => packed.iter().for_each(|p| out.extend_from_slice(p)),
        None => streams.iter().flatten().for_each(|s| out.extend_from_slice(s)),
    }
    out
}

/// Thresholds at the thirds of the values other than zero, from a sample.
fn choose_contexts(codes: &[i32]) -> Contexts {
    const SAMPLES: usize = 1 << 13;
    let mut counts = [0usize; N_TOKENS - N_RUN];
    for code in codes.iter().step_by((codes.len() / SAMPLES).max(1)).filter(|&&c| c != 0) {
        counts[usize::from(token::of_value(*code).id) - N_RUN] += 1;
    }
    let total: usize = counts.iter().sum();
    let mut thresholds = [0, 0];
    for (k, t) in thresholds.iter_mut().enumerate() {
        let mut seen = 0;
        // Tokens 2i and 2i + 1 are −(i + 1) and i + 1: thresholds stay between pairs.
        let pairs = counts.chunks(2).position(|pair| {
            seen += pair.iter().sum::<usize>();
            seen * 3 >= total * (k + 1)
        });
        *t = 2 * (pairs.unwrap_or(0) as u16 + 1);
    }
    if thresholds[1] == thresholds[0] {
        thresholds[1] += 2;
    }
    Contexts { thresholds }
}

fn tokenize(chunk: &[i32], contexts: Contexts) -> Tokens {
    let mut t = Tokens {
        tokens: Vec::with_capacity(chunk.len() + 4),
        extras: Vec::new(),
        ends: [(0, 0); 4],
        counts: vec![0; N_CONTEXTS * N_TOKENS],
    };
    for (part, end) in parts(chunk.len()).zip(0..) {
        let codes = &chunk[part];
        let mut context = Contexts::FIRST;
        let mut put = |token: Token, t: &mut Tokens| {
            t.counts[context * N_TOKENS + usize::from(token.id)] += 1;
            t.tokens.push(token.id | (context as u16) << 9);
            if token.n_extra > 0 {
                t.extras.push((token.extra, token.n_extra));
            }
            context = contexts.after(token.id);
        };
        let mut i = 0;
        while i < codes.len() {
            if codes[i] != 0 {
                put(token::of_value(codes[i]), &mut t);
                i += 1;
            } else {
                let len = zeros(&codes[i..]);
                put(token::of_run(len), &mut t);
                i += len;
            }
        }
        t.ends[end] = (t.tokens.len(), t.extras.len());
    }
    t
}

/// Length of the run of zeros at the start.
#[inline]
fn zeros(codes: &[i32]) -> usize {
    let mut n = 0;
    for block in codes.chunks_exact(8) {
        if block.iter().fold(0, |any, c| any | c) != 0 {
            break;
        }
        n += 8;
    }
    n + codes[n..].iter().take_while(|&&c| c == 0).count()
}

/// The four parts of a chunk.
fn parts(len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..4).map(move |k| len * k / 4..len * (k + 1) / 4)
}

/// Sets of books for consecutive chunks: how many chunks each serves, and the counts it is made from.
fn choose_books(chunks: &[Tokens]) -> Vec<(usize, Counts)> {
    let mut books: Vec<(usize, Counts, u64)> = Vec::new();
    for chunk in chunks {
        let alone = cost(&chunk.counts);
        if let Some((n, counts, before)) = books.last_mut() {
            let merged: Counts = counts.iter().zip(&chunk.counts).map(|(a, b)| a + b).collect();
            let together = cost(&merged);
            if together <= *before + alone {
                *n += 1;
                *counts = merged;
                *before = together;
                continue;
            }
        }
        books.push((1, chunk.counts.clone(), alone));
    }
    books.into_iter().map(|(n, counts, _)| (n, counts)).collect()
}

/// Estimated size of tokens with these counts and of their books, in 1/1024 bits.
fn cost(counts: &Counts) -> u64 {
    /// What a token adds to a book, from measurements.
    const BOOK_TOKEN_COST: u64 = 3 * 1024;
    let of_book = |counts: &[u32]| entropy(counts) + counts.iter().filter(|&&c| c > 0).count() as u64 * BOOK_TOKEN_COST;
    counts.chunks_exact(N_TOKENS).map(of_book).sum()
}

/// Size of symbols with these counts at their entropy, in 1/1024 bits.
pub(crate) fn entropy(counts: &[u32]) -> u64 {
    let total: u32 = counts.iter().sum();
    let whole = log2_scaled(total.max(1));
    counts.iter().filter(|&&c| c > 0).map(|&c| u64::from(c) * u64::from(whole.saturating_sub(log2_scaled(c)))).sum()
}

/// `1024 · log2(n)` to about 0.01, in integers, so that every machine chooses alike.
#[inline]
fn log2_scaled(n: u32) -> u32 {
    let log2 = n.ilog2();
    let fraction = ((u64::from(n) << 10 >> log2) - 1024) as u32;
    // log2(1 + f) ≈ f + 0.344 f (1 − f)
    log2 * 1024 + fraction + ((352 * fraction * (1024 - fraction)) >> 20)
}

fn encode_chunk(chunk: &Tokens, coder: &[(u16, u8)]) -> Vec<Vec<u8>> {
    let n_bits: u64 = chunk.counts.iter().zip(coder).map(|(&n, &(_, bits))| u64::from(n) * u64::from(bits)).sum::<u64>()
        + chunk.extras.iter().map(|e| u64::from(e.1)).sum::<u64>();
    let n_bytes = n_bits.div_ceil(8) as usize;
    let write = |from: (usize, usize), to: (usize, usize), capacity: usize| {
        let mut writer = BitWriter::with_capacity(capacity + 8);
        let mut extras = chunk.extras[from.1..to.1].iter();
        for &token in &chunk.tokens[from.0..to.0] {
            let (id, context) = (usize::from(token & 511), usize::from(token >> 9));
            let (code, n) = coder[context * N_TOKENS + id];
            writer.put(u32::from(code), u32::from(n));
            if token::has_extra(id) {
                if let Some(&(bits, n)) = extras.next() {
                    writer.put(bits, u32::from(n));
                }
            }
        }
        writer.finish()
    };
    if n_bytes < FOUR_STREAMS_FROM_BYTES {
        return vec![write((0, 0), chunk.ends[3], n_bytes)];
    }
    let starts = [(0, 0), chunk.ends[0], chunk.ends[1], chunk.ends[2]];
    starts.iter().zip(chunk.ends).map(|(&from, to)| write(from, to, n_bytes / 3)).collect()
}

/// Chunks behind zstd, if that saves more than 1 %, first in a sample.
fn pack_if_it_pays(streams: &[Vec<Vec<u8>>]) -> Option<Vec<Vec<u8>>> {
    let len = |streams: &Vec<Vec<u8>>| streams.iter().map(Vec::len).sum::<usize>();
    let pack = |streams: &Vec<Vec<u8>>| zstd::bulk::compress(&streams.concat(), ZSTD_LEVEL).unwrap_or_default();
    let sample = streams.iter().max_by_key(|s| len(s))?;
    let packed_sample = pack(sample);
    if packed_sample.is_empty() || packed_sample.len() * 100 > len(sample) * 99 {
        return None;
    }
    let packed: Vec<Vec<u8>> = streams.par_iter().map(pack).collect();
    let plain: usize = streams.iter().map(len).sum();
    (packed.iter().map(Vec::len).sum::<usize>() * 100 < plain * 99).then_some(packed)
}

/// A chunk's place in the coded bytes.
struct Place {
    /// Set of books.
    book: usize,
    /// Lengths of the streams; unused ones are 0.
    streams: [usize; 4],
    four: bool,
    /// Bytes as stored.
    stored: std::ops::Range<usize>,
}

/// Bytes to `n` codes.
///
/// # Errors
/// `Corrupt` if the bytes are not what [`encode`] makes of `n` codes.
pub fn decode(data: &[u8], n: usize) -> Result<Vec<i32>> {
    let bad = || Error::corrupt("coded chunks are damaged");
    let n_chunks = n.div_ceil(CHUNK);
    let mut reader = Reader::new(data);
    let mut threshold = || reader.varint().and_then(|t| u16::try_from(t).map_err(|_| bad()));
    let contexts = Contexts { thresholds: [threshold()?, threshold()?] };
    let n_books = usize::try_from(reader.varint()?).ok().filter(|&b| b <= n_chunks).ok_or_else(bad)?;
    let mut book_of_chunk = Vec::new();
    for book in 0..n_books {
        let serves = usize::try_from(reader.varint()?).ok().filter(|&s| s <= n_chunks - book_of_chunk.len());
        book_of_chunk.extend(std::iter::repeat_n(book, serves.ok_or_else(bad)?));
    }
    if book_of_chunk.len() != n_chunks {
        return Err(bad());
    }
    let lengths = reader.bytes()?;
    let mut lengths = BitReader::new(lengths, 0, lengths.len());
    let mut tables = Vec::new();
    for _ in 0..n_books {
        let mut read = || Lengths::read(&mut lengths);
        tables.push(book::decoding_tables(&[read()?, read()?, read()?, read()?], &contexts));
        if !lengths.is_within() {
            return Err(bad());
        }
    }
    let packed = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err(bad()),
    };
    let places = read_places(&mut reader, &book_of_chunk, n, packed)?;
    let payload = reader.rest();
    if places.last().map_or(0, |p| p.stored.end) != payload.len() {
        return Err(bad());
    }
    let mut codes = vec![0; n];
    codes.par_chunks_mut(CHUNK).zip(&places).try_for_each(|(codes, place)| {
        let tables = &tables[place.book];
        if packed {
            let total = place.streams.iter().sum();
            let unpacked = bytes::unzstd(&payload[place.stored.clone()], total)?;
            if unpacked.len() != total { Err(bad()) } else { decode_chunk(codes, tables, &unpacked, 0, place) }
        } else {
            decode_chunk(codes, tables, payload, place.stored.start, place)
        }
    })?;
    Ok(codes)
}

fn read_places(reader: &mut Reader<'_>, books: &[usize], n: usize, packed: bool) -> Result<Vec<Place>> {
    let bad = || Error::corrupt("directory of coded chunks is damaged");
    let mut places = Vec::with_capacity(books.len());
    let mut at = 0usize;
    for (chunk, &book) in books.iter().enumerate() {
        // A token has at most 12 + 32 bits, and stands for at least one code.
        let longest = CHUNK.min(n - chunk * CHUNK) * 6 + 4;
        let length = |v: u64| usize::try_from(v).ok().filter(|&l| l <= longest).ok_or_else(bad);
        let head = reader.varint()?;
        let (total, four) = (length(head / 2)?, head & 1 == 1);
        let mut streams = [total, 0, 0, 0];
        if four {
            let mut left = total;
            for s in &mut streams[..3] {
                *s = length(reader.varint()?)?;
                left = left.checked_sub(*s).ok_or_else(bad)?;
            }
            streams[3] = left;
        }
        let stored = if packed { length(reader.varint()?)? } else { total };
        places.push(Place { book, streams, four, stored: at..at + stored });
        at += stored;
    }
    Ok(places)
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

fn decode_chunk(codes: &mut [i32], tables: &[u32], data: &[u8], start: usize, place: &Place) -> Result<()> {
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
