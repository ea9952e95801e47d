//! Streams: codes with their contexts to bytes and back.

use super::family::{self, Frequencies};
use super::token::{self, ESCAPE, N_TOKENS};
use super::{LANES, PRECISION};
use crate::encode::bits::{BitReader, BitWriter};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::scratch::Buffer;

/// States stay at or above this.
const LOW: u32 = 1 << 16;
const MASK: u32 = (1 << PRECISION) - 1;
/// A state is below 2^32, a frequency below 2^14: with this shift the quotient is exact.
const DIVISION_SHIFT: u32 = 46;
/// A bucket of slots names the first token that any of them can have.
const BUCKET_SHIFT: u32 = 4;
const N_BUCKETS: usize = 1 << (PRECISION - BUCKET_SHIFT);

/// Both directions' tables of a context.
#[derive(Clone)]
pub struct Table {
    /// First slot and the one after the last, `start | end << 16`, by token.
    spans: [u32; N_TOKENS],
    /// `⌊2^46 / frequency⌋ + 1`: a product and a shift divide any state by the frequency.
    inverses: [u64; N_TOKENS],
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
        let inverses = frequencies.map(|f| (1 << DIVISION_SHIFT) / u64::from(f.max(1)) + 1);
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
    const CHUNK: usize = 64;
    // Plain bits go forward, states backwards: the decoder runs through both forward.
    let mut plain = BitWriter::with_capacity(codes.len() / 8);
    // By bucket: its context, and the first token that needs a second look.
    let (mut context_of, mut first_not_plain) = ([0; 256], [0; 256]);
    for ((&context, of_bucket), first) in contexts.iter().zip(&mut context_of).zip(&mut first_not_plain) {
        *of_bucket = context;
        *first = tables[usize::from(context)].first_not_plain;
    }
    let chunks = codes.chunks(CHUNK).zip(tokens.chunks_mut(CHUNK)).zip(buckets.chunks_mut(CHUNK));
    for ((codes, tokens), buckets) in chunks {
        // Which of them need it.
        let mut not_plain = 0u64;
        for (k, (&token, bucket)) in tokens.iter().zip(&mut *buckets).enumerate() {
            not_plain |= u64::from(token >= first_not_plain[usize::from(*bucket)]) << k;
            *bucket = context_of[usize::from(*bucket)];
        }
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
    let mut states = [LOW; LANES];
    // A code takes at most one word.
    let mut words = Buffer::<u16>::new(codes.len());
    let room = &mut words[..];
    let mut n_words = 0;
    // From the last to the first, in groups of one code a state.
    let groups = tokens.chunks(LANES).zip(buckets.chunks(LANES));
    for (tokens, contexts) in groups.rev() {
        let room = &mut room[n_words..][..tokens.len()];
        let mut n = 0;
        for ((&token, &context), state) in tokens.iter().zip(contexts).zip(&mut states).rev() {
            let table = &tables[usize::from(context)];
            let token = usize::from(token) % N_TOKENS;
            let (span, inverse) = (table.spans[token], table.inverses[token]);
            let start = span & 0xffff;
            let frequency = (span >> 16) - start;
            let full = *state >= frequency << (32 - PRECISION);
            room[n] = *state as u16;
            n += usize::from(full);
            let s = if full { *state >> 16 } else { *state };
            let quotient = ((u128::from(s) * u128::from(inverse)) >> DIVISION_SHIFT) as u32;
            *state = (quotient << PRECISION) + (s - quotient * frequency) + start;
        }
        n_words += n;
    }
    let words = &words[..n_words];
    let plain = plain.finish();
    bytes::put_varint(out, plain.len() as u64);
    bytes::put_varint(out, words.len() as u64);
    states.iter().for_each(|s| out.extend(s.to_le_bytes()));
    words.iter().rev().for_each(|w| out.extend(w.to_le_bytes()));
    out.extend(plain);
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

    #[test]
    fn codes_come_back() {
        let tables: Vec<Table> = (0..family::N_DISTRIBUTIONS).step_by(7).map(Table::new).collect();
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
