//! Streams: codes with their contexts to bytes and back.

use super::family::{self, Frequencies};
use super::token::{self, ESCAPE, N_TOKENS};
use super::{LANES, PRECISION};
use crate::encode::bits::{BitReader, BitWriter};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::scratch::Buffer;
use multiversion::multiversion;

/// States stay at or above this.
const LOW: u32 = 1 << 16;
const MASK: u32 = (1 << PRECISION) - 1;
/// What adding it to a number below 2^51 leaves of that in the lower bits: the nearest integer.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// Contexts of a stream at most, as they are coded: a power of two.
pub const MAX_TABLES: usize = 64;
/// A bucket of slots names the first token that any of them can have.
const BUCKET_SHIFT: u32 = 4;
const N_BUCKETS: usize = 1 << (PRECISION - BUCKET_SHIFT);

/// Both directions' tables of a context.
#[derive(Clone)]
pub struct Table {
    /// First slot and the one after the last, `start | end << 16`, by token.
    spans: [u32; N_TOKENS],
    /// `1 / frequency`, and a little more ([`quotient`]).
    inverses: [f64; N_TOKENS],
    /// Tokens from here on have plain bits, or no frequency, so that they are escaped.
    first_not_plain: u8,
    /// The first token of each bucket of slots.
    buckets: [u8; N_BUCKETS],
}

impl Table {
    /// The tables of distribution `id` (below [`family::N_DISTRIBUTIONS`]).
    pub fn new(id: usize) -> Self {
        let Frequencies(frequencies) = family::frequencies(id);
        let mut spans = [0; N_TOKENS];
        let inverses = frequencies.map(|f| inverse(f.max(1)));
        let mut buckets = [0u8; N_BUCKETS];
        let mut start = 0u32;
        for (t, &f) in frequencies.iter().enumerate() {
            let f = u32::from(f);
            spans[t] = start | (start + f) << 16;
            if f > 0 {
                // Buckets whose first slot is within the token; the bucket in which it starts belongs to the one before.
                let from = start.div_ceil(1 << BUCKET_SHIFT) as usize;
                let to = (start + f).div_ceil(1 << BUCKET_SHIFT) as usize;
                buckets[from..to].fill(t as u8);
            }
            start += f;
        }
        let first_not_plain =
            (1..token::FIRST_RANGE).find(|&t| frequencies[t] == 0).unwrap_or(token::FIRST_RANGE) as u8;
        Self { spans, inverses, first_not_plain, buckets }
    }

    /// The token of a slot, and its span.
    #[inline(always)]
    fn token(&self, slot: u32) -> (usize, u32) {
        // Mostly the first token of the bucket or the next one: a sum instead of a branch that nobody can foresee.
        let first = usize::from(self.buckets[(slot >> BUCKET_SHIFT) as usize % N_BUCKETS]) % N_TOKENS;
        let token = first + usize::from(slot >= self.spans[first] >> 16);
        let span = self.spans[token % N_TOKENS];
        if slot < span >> 16 { (token, span) } else { self.later_token(slot, token) }
    }

    /// The same, where buckets hold many tokens.
    #[cold]
    fn later_token(&self, slot: u32, mut token: usize) -> (usize, u32) {
        let mut span = self.spans[token % N_TOKENS];
        while slot >= span >> 16 && token < ESCAPE {
            token += 1;
            span = self.spans[token % N_TOKENS];
        }
        (token, span)
    }

    /// Takes a token out of `state`, which takes in `word` if it has become low: the token, the state, whether it did.
    #[inline(always)]
    fn take(&self, state: u32, word: [u8; 2]) -> (usize, u32, bool) {
        let slot = state & MASK;
        let (token, span) = self.token(slot);
        let (start, end) = (span & 0xffff, span >> 16);
        let next = end.wrapping_sub(start).wrapping_mul(state >> PRECISION).wrapping_add(slot.wrapping_sub(start));
        let is_low = next < LOW;
        (token, if is_low { next << 16 | u32::from(u16::from_le_bytes(word)) } else { next }, is_low)
    }
}

/// Writes a stream: `codes`, their `tokens`, and as many `buckets`, whose `contexts` are indices into `tables`.
pub fn encode(
    codes: &[i32],
    tokens: &mut [u8],
    buckets: &mut [u8],
    contexts: &[u8],
    tables: &[Table],
    out: &mut Vec<u8>,
) {
    // Plain bits go forward, states backwards: the decoder runs through both forward.
    let mut plain = BitWriter::with_capacity(codes.len() / 4);
    // By bucket: its context, and the first token that needs a second look.
    let mut of_bucket = [[0; 2]; 256];
    for (of_bucket, &context) in of_bucket.iter_mut().zip(contexts) {
        *of_bucket = [context, tables[usize::from(context)].first_not_plain];
    }
    let chunks = codes.chunks(CHUNK).zip(tokens.chunks_mut(CHUNK)).zip(buckets.chunks_mut(CHUNK));
    for ((codes, tokens), buckets) in chunks {
        let mut not_plain = to_contexts(tokens, buckets, &of_bucket);
        while not_plain != 0 {
            let k = not_plain.trailing_zeros() as usize;
            not_plain &= not_plain - 1;
            let (_, mut n, mut bits) = token::split(codes[k]);
            let span = tables[usize::from(buckets[k])].spans[usize::from(tokens[k])];
            if span >> 16 == span & 0xffff {
                tokens[k] = ESCAPE as u8;
                (n, bits) = (32, codes[k] as u32);
            }
            if n > 0 {
                plain.put(u64::from(bits), n);
            }
        }
    }
    // A code takes at most one word.
    let mut words = Buffer::<u16>::new(codes.len());
    let mut slots = Slots::new(tables);
    let n_words = slots.put(tokens, buckets, &mut words);
    let words = &words[..n_words];
    let plain = plain.finish();
    bytes::put_varint(out, plain.len() as u64);
    bytes::put_varint(out, words.len() as u64);
    slots.states.iter().for_each(|s| out.extend(s.to_le_bytes()));
    let start = out.len();
    out.resize(start + 2 * words.len(), 0);
    out[start..].as_chunks_mut().0.iter_mut().zip(words.iter().rev()).for_each(|(out, w)| *out = w.to_le_bytes());
    out.extend(plain);
}

/// Codes that are looked at together.
const CHUNK: usize = 64;

/// Turns the buckets of at most [`CHUNK`] tokens into contexts; gives a bit for each token that is not below the first one that needs a second look.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+bmi2", "x86_64+avx2+bmi2", "aarch64+neon"))]
fn to_contexts(tokens: &[u8], buckets: &mut [u8], of_bucket: &[[u8; 2]; 256]) -> u64 {
    let mut not_plain = 0u64;
    for (k, (&token, bucket)) in tokens.iter().zip(buckets).enumerate() {
        let [context, first] = of_bucket[usize::from(*bucket)];
        not_plain |= u64::from(token >= first) << (k % CHUNK);
        *bucket = context;
    }
    not_plain
}

/// What [`quotient`] multiplies by: `(1 + 2^-42) / frequency`.
fn inverse(frequency: u16) -> f64 {
    (1.0 + 1.0 / (1u64 << 42) as f64) / f64::from(frequency)
}

/// `⌊state / frequency⌋`, exact: the product is above the quotient by less than 2^-10 of the distance to the next that a state can have, which is
/// `1 / frequency`.
#[inline(always)]
fn quotient(state: u32, inverse: f64) -> u32 {
    ((f64::from(state) * inverse - 0.5) + ROUND).to_bits() as u32
}

/// The states of a stream that is written, and what they need of all tables, side by side, so that a vector of states finds its own.
struct Slots {
    spans: Box<[u32; MAX_TABLES * N_TOKENS]>,
    inverses: Box<[f64; MAX_TABLES * N_TOKENS]>,
    states: [u32; LANES],
}

impl Slots {
    fn new(tables: &[Table]) -> Self {
        let (mut spans, mut inverses) = (Box::new([0; MAX_TABLES * N_TOKENS]), Box::new([0.0; MAX_TABLES * N_TOKENS]));
        assert!(tables.len() <= MAX_TABLES, "{} contexts", tables.len());
        for ((table, spans), inverses) in tables.iter().zip(spans.as_chunks_mut().0).zip(inverses.as_chunks_mut().0) {
            (*spans, *inverses) = (table.spans, table.inverses);
        }
        Self { spans, inverses, states: [LOW; LANES] }
    }

    /// Takes in tokens in their contexts, from the last to the first; gives the number of words that leave the states meanwhile.
    fn put(&mut self, tokens: &[u8], contexts: &[u8], words: &mut [u16]) -> usize {
        let (groups, tokens) = tokens.as_chunks::<LANES>();
        let (contexts_of_groups, contexts) = contexts.as_chunks::<LANES>();
        let mut n = 0;
        for (l, (&token, &context)) in tokens.iter().zip(contexts).enumerate().rev() {
            let (state, is_full) = self.step(context, token, self.states[l]);
            words[n] = self.states[l] as u16;
            n += usize::from(is_full);
            self.states[l] = state;
        }
        put_groups(self, groups, contexts_of_groups, words, n)
    }

    /// Takes a token into a state, from which a word had to go before if it was full.
    #[inline(always)]
    fn step(&self, context: u8, token: u8, state: u32) -> (u32, bool) {
        let at = (usize::from(context) * N_TOKENS + usize::from(token)) % (MAX_TABLES * N_TOKENS);
        let (span, inverse) = (self.spans[at], self.inverses[at]);
        let start = span & 0xffff;
        let frequency = (span >> 16).wrapping_sub(start);
        let is_full = state >= frequency << (32 - PRECISION);
        let s = if is_full { state >> 16 } else { state };
        let quotient = quotient(s, inverse);
        let rest = s.wrapping_sub(quotient.wrapping_mul(frequency));
        ((quotient << PRECISION).wrapping_add(rest).wrapping_add(start), is_full)
    }
}

/// Whole groups of one token a state, the last first; `n` words are there.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn put_groups(
    slots: &mut Slots,
    tokens: &[[u8; LANES]],
    contexts: &[[u8; LANES]],
    words: &mut [u16],
    mut n: usize,
) -> usize {
    let mut states = slots.states;
    for (tokens, contexts) in tokens.iter().zip(contexts).rev() {
        let before = states;
        let mut is_full = [0u32; LANES];
        for l in 0..LANES {
            let (state, full) = slots.step(contexts[l], tokens[l], before[l]);
            (states[l], is_full[l]) = (state, u32::from(full));
        }
        let room = &mut words[n..][..LANES];
        let mut n_here = 0;
        for l in (0..LANES).rev() {
            room[n_here % LANES] = before[l] as u16;
            n_here += is_full[l] as usize;
        }
        n += n_here;
    }
    slots.states = states;
    n
}

/// Reads a stream.
pub struct Decoder<'a> {
    states: [u32; LANES],
    words: &'a [[u8; 2]],
    n_read: usize,
    /// The state of the next code.
    at: usize,
    plain: BitReader<'a>,
}

impl<'a> Decoder<'a> {
    /// A stream as [`encode`] wrote it.
    ///
    /// # Errors
    /// `Corrupt` if the lengths do not fit.
    pub fn new(reader: &mut Reader<'a>) -> Result<Self> {
        let n_plain = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let n_words = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        let mut states = [0; LANES];
        for (s, bytes) in states.iter_mut().zip(reader.take(4 * LANES)?.as_chunks::<4>().0) {
            *s = u32::from_le_bytes(*bytes);
        }
        let words = reader.take(n_words.saturating_mul(2))?.as_chunks().0;
        let plain = reader.take(n_plain)?;
        Ok(Self { states, words, n_read: 0, at: 0, plain: BitReader::new(plain, 0, plain.len()) })
    }

    /// The next codes, one for each context (an index into `tables`).
    pub fn read(&mut self, contexts: &[u8], tables: &[Table], codes: &mut [i32]) {
        let n = codes.len().min(contexts.len());
        let (mut contexts, mut codes) = (&contexts[..n], &mut codes[..n]);
        while !codes.is_empty() {
            // Up to the last state.
            let n = codes.len().min(LANES - self.at);
            let (now, later) = std::mem::take(&mut codes).split_at_mut(n);
            self.read_group(&contexts[..n], tables, now);
            (contexts, codes) = (&contexts[n..], later);
        }
    }

    /// Codes of states in a row.
    #[inline]
    fn read_group(&mut self, contexts: &[u8], tables: &[Table], codes: &mut [i32]) {
        // All words that they may take, zeros where there are none.
        let mut copy = [[0; 2]; LANES];
        let rest = self.words.get(self.n_read..).unwrap_or_default();
        let words = match rest.first_chunk::<LANES>() {
            Some(words) => words,
            None => {
                copy[..rest.len()].copy_from_slice(rest);
                &copy
            }
        };
        let mut tokens = [0u8; LANES];
        let mut n_read = 0;
        for ((token, &context), state) in tokens.iter_mut().zip(contexts).zip(&mut self.states[self.at..]) {
            let (read, next, took) = tables[usize::from(context)].take(*state, words[n_read % LANES]);
            *state = next;
            n_read += usize::from(took);
            *token = read as u8;
        }
        self.n_read += n_read;
        if token::to_codes(&tokens[..codes.len()], codes) {
            for (code, &token) in codes.iter_mut().zip(&tokens) {
                let token = usize::from(token);
                if token >= token::FIRST_RANGE {
                    *code = token::join(token, self.plain.take(token::n_plain(token)));
                }
            }
        }
        self.at = (self.at + codes.len()) % LANES;
    }

    /// Checks that the stream ended where its codes did.
    ///
    /// # Errors
    /// `Corrupt` if not.
    pub fn finish(&self) -> Result<()> {
        let whole = self.states.iter().all(|&s| s == LOW) && self.n_read == self.words.len() && self.plain.is_within();
        if whole { Ok(()) } else { Err(Error::corrupt("coded stream is damaged")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For each frequency, states on both sides of multiples of it, up to the largest.
    #[test]
    fn quotients_are_exact() {
        for frequency in 1..1u32 << PRECISION {
            let inverse = inverse(frequency as u16);
            let largest = u32::MAX / frequency;
            let middle = [1, 2, 3, largest / 3, largest / 2, largest - 1, largest];
            for multiple in middle.into_iter().map(|k| k * frequency) {
                for state in [multiple.saturating_sub(1), multiple, multiple.saturating_add(1), u32::MAX] {
                    assert_eq!(quotient(state, inverse), state / frequency, "{state} / {frequency}");
                }
            }
        }
    }

    #[test]
    fn codes_come_back() {
        let tables: Vec<Table> =
            (0..family::N_DISTRIBUTIONS).step_by(family::N_DISTRIBUTIONS / 60).map(Table::new).collect();
        let mut state = 1u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for n in [0, 1, 31, 32, 33, 5000] {
            let codes: Vec<i32> = (0..n).map(|_| random() as i32 >> (random() % 32)).collect();
            let contexts: Vec<u8> = (0..n).map(|_| (random() % tables.len() as u64) as u8).collect();
            let mut coded = Vec::new();
            let same: Vec<u8> = (0..tables.len() as u8).collect();
            let mut tokens = vec![0; n];
            token::of_codes(&codes, &mut tokens);
            encode(&codes, &mut tokens, &mut contexts.clone(), &same, &tables, &mut coded);
            let mut reader = Reader::new(&coded);
            let mut decoder = Decoder::new(&mut reader).unwrap();
            let mut back = vec![0; n];
            for (contexts, back) in contexts.chunks(13).zip(back.chunks_mut(13)) {
                decoder.read(contexts, &tables, back);
            }
            decoder.finish().unwrap();
            assert_eq!(codes, back);
        }
    }
}
