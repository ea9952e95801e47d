//! The Huffman coder on the CPU: chunks are the tasks, in both directions.

use super::CHUNK;
use super::book::{self, Lengths};
use super::chunk::{Place, decode_chunk, encode_chunks};
use super::token::{self, Contexts, N_CONTEXTS, N_RUN, N_TOKENS};
use super::tokenize::{CONTEXT_SIZE, Placed, Tokens, tokenize};
use crate::awake;
use crate::encode::bits::{BitReader, BitWriter};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::scratch::{Buffer, filled_with_room};
use multiversion::multiversion;
use std::sync::Arc;

/// zstd level for coded chunks: what is left there are repeats, which a fast level finds too.
const ZSTD_LEVEL: i32 = 1;

/// Whether chunks go behind zstd, where that saves something. Fitted and interpolated codes leave it nothing; it is there for what the original pipeline does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// They stay as they are: a GPU writes the same bytes, and they leave it as they are.
    Plain,
    /// They do.
    Zstd,
}

/// Codes to bytes.
pub fn encode(codes: &[i32], packing: Packing) -> Vec<u8> {
    let contexts = choose_contexts(codes);
    let mut room = Buffer::<Placed>::new(codes.len());
    let priced = tokenize(codes, contexts, &mut room, |tokens| (cost(&tokens.counts), tokens));
    let (costs, chunks): (Vec<u64>, Vec<Tokens<'_>>) = priced.into_iter().unzip();
    let books = choose_books(&chunks, &costs);
    let of_contexts: Vec<&[u32]> = books.iter().flat_map(|(_, counts)| counts.chunks_exact(CONTEXT_SIZE)).collect();
    let lengths: Vec<(Lengths, Vec<u32>)> = awake::map(of_contexts, usize::MAX, |counts| {
        let lengths = Lengths::from_counts(counts);
        let codes = lengths.codes();
        (lengths, codes)
    });
    let mut coders = Vec::new();
    for ((n_chunks, _), of_book) in books.iter().zip(lengths.chunks_exact(N_CONTEXTS)) {
        let codes: [&[u32]; N_CONTEXTS] = std::array::from_fn(|context| &of_book[context].1[..]);
        let coder = Arc::new(codes.concat());
        coders.extend(std::iter::repeat_n(coder, *n_chunks));
    }
    let head = || {
        let mut out = vec![];
        contexts.thresholds.iter().for_each(|&t| bytes::put_varint(&mut out, u64::from(t)));
        bytes::put_varint(&mut out, books.len() as u64);
        books.iter().for_each(|(n_chunks, _)| bytes::put_varint(&mut out, *n_chunks as u64));
        let mut lengths_of_books = BitWriter::default();
        lengths.iter().for_each(|(lengths, _)| lengths.write(&mut lengths_of_books));
        bytes::put_bytes(&mut out, &lengths_of_books.finish());
        out
    };
    let (head, coded) = awake::join(head, || encode_chunks(&chunks, &coders));
    let packed = if packing == Packing::Zstd { pack_if_it_pays(&coded) } else { None };
    with_chunks(head, &coded, packed.as_deref())
}

/// Thresholds at the thirds of the values other than zero, from a sample.
fn choose_contexts(codes: &[i32]) -> Contexts {
    /// Neighbours share lines of memory, which is what a sample costs.
    const RUN: usize = 32;
    const RUNS: usize = 128;
    /// Runs of a task.
    const TASK: usize = 32;
    let runs: Vec<&[i32]> = codes.chunks(RUN).step_by((codes.len() / (RUN * RUNS)).max(1)).collect();
    let of_runs = awake::map(runs.chunks(TASK).collect(), usize::MAX, |runs: &[&[i32]]| {
        let mut counts = [0usize; N_TOKENS - N_RUN];
        for code in runs.iter().copied().flatten().filter(|&&c| c != 0) {
            counts[usize::from(token::of_value(*code).id) - N_RUN] += 1;
        }
        counts
    });
    let mut counts = [0; N_TOKENS - N_RUN];
    of_runs.iter().for_each(|more| counts.iter_mut().zip(more).for_each(|(sum, n)| *sum += n));
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

/// Sets of books for consecutive chunks: how many chunks each serves, and the counts it is made from. `costs` are those of chunks with books of their
/// own.
fn choose_books(chunks: &[Tokens<'_>], costs: &[u64]) -> Vec<(usize, Vec<u32>)> {
    let mut books: Vec<(usize, Vec<u32>, u64)> = Vec::new();
    for (chunk, &alone) in chunks.iter().zip(costs) {
        if let Some((n, counts, before)) = books.last_mut() {
            let merged: Vec<u32> = counts.iter().zip(&chunk.counts).map(|(a, b)| a + b).collect();
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
fn cost(counts: &[u32]) -> u64 {
    /// What a token adds to a book, from measurements.
    const BOOK_TOKEN_COST: u64 = 3 * 1024;
    /// Counts looked at together.
    const BLOCK: usize = 64;
    const _: () = assert!(CONTEXT_SIZE.is_multiple_of(BLOCK));
    let is_zero = |counts: &[u32]| counts.iter().fold(0, |any, &c| any | c) == 0;
    let of_book = |counts: &[u32]| {
        // Large codes are rare: most tokens behind the first ones do not occur.
        let counts = &counts[..counts.len() - counts.rchunks(BLOCK).take_while(|b| is_zero(b)).count() * BLOCK];
        entropy(counts) + counts.iter().filter(|&&c| c > 0).count() as u64 * BOOK_TOKEN_COST
    };
    counts.chunks_exact(CONTEXT_SIZE).map(of_book).sum()
}

/// Size of symbols with these counts at their entropy, in 1/1024 bits.
pub(crate) fn entropy(counts: &[u32]) -> u64 {
    let total: u32 = counts.iter().sum();
    entropy_of(counts, log2_scaled(total.max(1)))
}

/// No branches: a count of 0 adds nothing.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx512cd", "x86_64+avx2", "aarch64+neon"))]
fn entropy_of(counts: &[u32], whole: u32) -> u64 {
    counts.iter().map(|&c| u64::from(c) * u64::from(whole.saturating_sub(log2_scaled(c | u32::from(c == 0))))).sum()
}

/// `1024 · log2(n)` to about 0.01, in integers, so that every machine chooses alike.
#[inline(always)]
fn log2_scaled(n: u32) -> u32 {
    let log2 = 31 - n.leading_zeros();
    // The fraction's leading ten bits.
    let fraction = (n << (31 - log2)) >> 21 & 1023;
    // log2(1 + f) ≈ f + 0.344 f (1 − f)
    log2 * 1024 + fraction + ((352 * fraction * (1024 - fraction)) >> 20)
}

/// Chunks behind zstd, if that saves more than 1 %, first in a sample.
fn pack_if_it_pays(chunks: &[Vec<Vec<u8>>]) -> Option<Vec<Vec<u8>>> {
    const SAMPLE: usize = 1 << 14;
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, ZSTD_LEVEL).ok();
    let chunks: Vec<Vec<u8>> = chunks.iter().map(|streams| streams.concat()).collect();
    let longest = chunks.iter().max_by_key(|c| c.len())?;
    let sample = &longest[..longest.len().min(SAMPLE)];
    let packed_sample = pack(sample)?;
    if packed_sample.len() * 100 > sample.len() * 99 {
        return None;
    }
    // Should zstd fail on any chunk, all stay as they are.
    let packed = awake::map(chunks.iter().collect(), usize::MAX, |c: &Vec<u8>| pack(c));
    let packed: Vec<Vec<u8>> = packed.into_iter().collect::<Option<_>>()?;
    let plain: usize = chunks.iter().map(|c| c.len()).sum();
    (packed.iter().map(Vec::len).sum::<usize>() * 100 < plain * 99).then_some(packed)
}

/// What stands before the chunks.
pub(crate) struct Head<'a> {
    pub contexts: Contexts,
    /// Sets of books.
    pub books: Vec<[Lengths; N_CONTEXTS]>,
    /// Whether chunks are zstd frames.
    pub packed: bool,
    pub places: Vec<Place>,
    /// The chunks.
    pub payload: &'a [u8],
}

impl<'a> Head<'a> {
    /// Reads the head of `n` codes.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn read(data: &'a [u8], n: usize) -> Result<Self> {
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
        let mut books = Vec::new();
        for _ in 0..n_books {
            let mut read = || Lengths::read(&mut lengths);
            books.push([read()?, read()?, read()?, read()?]);
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
        Ok(Self { contexts, books, packed, places, payload })
    }
}

/// The head, and behind it the flag, the directory and the chunks, of one or four streams each.
fn with_chunks(mut out: Vec<u8>, chunks: &[Vec<Vec<u8>>], packed: Option<&[Vec<u8>]>) -> Vec<u8> {
    /// Bytes that are worth a thread.
    const ENOUGH: usize = 1 << 15;
    /// More than most tiles have before their codes.
    const BEFORE: usize = 256;
    out.push(u8::from(packed.is_some()));
    for (i, streams) in chunks.iter().enumerate() {
        let lens = streams.iter().map(|s| s.len() as u64);
        bytes::put_varint(&mut out, lens.clone().sum::<u64>() * 2 + u64::from(streams.len() == 4));
        lens.take(streams.len() - 1).for_each(|len| bytes::put_varint(&mut out, len));
        if let Some(packed) = packed {
            bytes::put_varint(&mut out, packed[i].len() as u64);
        }
    }
    let mut parts = vec![&out];
    match packed {
        Some(packed) => parts.extend(packed),
        None => parts.extend(chunks.iter().flatten()),
    }
    let n = parts.iter().map(|part| part.len()).sum();
    filled_with_room(n, BEFORE, |all| {
        let copies = all.parts(parts.iter().map(|part| part.len())).zip(&parts);
        awake::for_each(copies, n / ENOUGH, |(here, part)| {
            here.copy(part);
        });
    })
}

/// A chunk's streams out of its zstd frame.
pub(crate) fn unpack_chunk(payload: &[u8], place: &Place) -> Result<Vec<u8>> {
    let total = place.streams.iter().sum();
    let unpacked = bytes::unzstd(&payload[place.stored.clone()], total)?;
    if unpacked.len() == total { Ok(unpacked) } else { Err(Error::corrupt("coded chunks are damaged")) }
}

/// Bytes to `n` codes.
///
/// # Errors
/// `Corrupt` if the bytes are not what [`encode`] makes of `n` codes.
pub fn decode(data: &[u8], n: usize) -> Result<Buffer<i32>> {
    decode_with(data, n, |_| ())
}

/// The same; the codes of the first chunk, an eighth of all at most, go to `first` as soon as they are there, while other threads go on with the rest.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(data: &[u8], n: usize, first: impl FnOnce(&[i32]) + Send) -> Result<Buffer<i32>> {
    /// What one thread does alone shall take less time than the others need for the rest.
    const SHARE: usize = 8;
    let Head { contexts, books, packed, places, payload, .. } = Head::read(data, n)?;
    let mut tables = Buffer::<u32>::new(books.len() * book::TABLES);
    let of_contexts = tables.chunks_mut(book::TABLE).zip(books.iter().flatten());
    awake::for_each(of_contexts, usize::MAX, |(table, lengths)| book::decoding_table(lengths, &contexts, table));
    let mut codes = Buffer::<i32>::new(n);
    let mut first = Some(first);
    let chunks = codes.chunks_mut(CHUNK).zip(&places).map(|(codes, place)| (codes, place, first.take())).collect();
    let decoded = awake::map(chunks, usize::MAX, |(codes, place, first)| {
        let tables = &tables[place.book * book::TABLES..][..book::TABLES];
        codes.fill(0);
        if packed {
            decode_chunk(codes, tables, &unpack_chunk(payload, place)?, 0, place)?;
        } else {
            decode_chunk(codes, tables, payload, place.stored.start, place)?;
        }
        if let Some(first) = first {
            awake::alone(|| first(&codes[..codes.len().min(n / SHARE)]));
        }
        Ok(())
    });
    decoded.into_iter().collect::<Result<()>>()?;
    Ok(codes)
}

fn read_places(reader: &mut Reader<'_>, books: &[usize], n: usize, packed: bool) -> Result<Vec<Place>> {
    let bad = || Error::corrupt("directory of coded chunks is damaged");
    let mut places = Vec::with_capacity(books.len());
    let mut at = 0usize;
    for (chunk, &book) in books.iter().enumerate() {
        // A token has at most 12 + 32 bits, and stands for at least one code.
        let longest = CHUNK.min(n - chunk * CHUNK) * 6 + 4;
        let at_most = |v: u64, longest: usize| usize::try_from(v).ok().filter(|&l| l <= longest).ok_or_else(bad);
        let length = |v: u64| at_most(v, longest);
        // A zstd frame may be longer than what is in it.
        let frame = |v: u64| at_most(v, longest + longest / 256 + 64);
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
        let stored = if packed { frame(reader.varint()?)? } else { total };
        places.push(Place { book, streams, four, stored: at..at + stored });
        at += stored;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator for tests: xorshift.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Codes of several distributions, from nearly all zeros to all 32 bits.
    fn samples(n: usize) -> Vec<Vec<i32>> {
        let mut state = 88_172_645_463_325_252 + n as u64;
        let mut make = |f: &dyn Fn(u64) -> i32| -> Vec<i32> { (0..n).map(|_| f(random(&mut state))).collect() };
        let signed = |r: u64, n: u64| (r >> 8) as i32 % n as i32;
        vec![
            make(&|_| 0),
            make(&|_| 7),
            make(&|r| i32::from(r.is_multiple_of(1000))),
            make(&|r| i32::from(r % 10 == 3) - i32::from(r % 10 == 4)),
            make(&|r| signed(r, 3)),
            make(&|r| signed(r, 1 + (r & 63))),
            make(&|r| signed(r, 2000)),
            make(&|r| if r.is_multiple_of(50) { signed(r, 1 << 28) } else { signed(r, 5) }),
            make(&|r| [i32::MIN, i32::MIN + 1, i32::MAX, 1 << 24, -(1 << 24), 0][(r >> 40) as usize % 6]),
            make(&|r| r as i32),
        ]
    }

    #[test]
    fn codes_come_back() {
        for n in [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
            for (kind, codes) in samples(n).into_iter().enumerate() {
                let bytes = encode(&codes, Packing::Zstd);
                assert!(*decode(&bytes, n).unwrap() == *codes, "{n} codes of kind {kind}");
                assert!(decode(&bytes, n + CHUNK).is_err());
            }
        }
    }

    #[test]
    fn threads_change_nothing() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        for codes in samples(3 * CHUNK + 5) {
            assert!(pool.install(|| encode(&codes, Packing::Zstd)) == encode(&codes, Packing::Zstd));
        }
    }

    #[test]
    fn damage_is_an_error_or_other_codes() {
        for codes in samples(CHUNK + 100) {
            let bytes = encode(&codes, Packing::Zstd);
            let mut state = 1;
            for _ in 0..60 {
                let mut damaged = bytes.clone();
                let r = random(&mut state) as usize;
                // Half of them near the start, where lengths and books are.
                let at = if r & 8 == 0 { (r >> 8) % bytes.len() } else { (r >> 8) % bytes.len().min(200) };
                damaged[at] ^= 1 << (r & 7);
                if let Ok(other) = decode(&damaged, codes.len()) {
                    assert_eq!(other.len(), codes.len());
                }
                assert!(decode(&bytes[..at], codes.len()).is_err());
            }
        }
    }
}
