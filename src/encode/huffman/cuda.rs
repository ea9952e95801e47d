//! The Huffman coder on a GPU. Twin: [`super::cpu`]. Kernels: `huffman_*.cu`.

use super::CHUNK;
use super::book::Lengths;
use super::cpu::Head;
use super::token::{N_CONTEXTS, N_TOKENS};
use crate::device::Run;
use crate::device::layout::{BLOCK, Chunk, WIDE};
use crate::error::Result;

/// Codes to the coded section, behind what the tile has in the output already.
pub(crate) fn encode(run: &mut Run<'_>) -> Result<()> {
    let n_chunks = run.args.n.div_ceil(CHUNK as u32);
    run.once("huffman_contexts", BLOCK)?;
    run.over("huffman_count", 4 * n_chunks, 1)?;
    run.once("huffman_sets", WIDE)?;
    run.over("huffman_books", N_CONTEXTS as u32 * n_chunks, 1)?;
    run.over("huffman_sizes", n_chunks, 1)?;
    run.once("huffman_layout", WIDE)?;
    run.over("huffman_encode", 4 * n_chunks, 1)
}

/// What the host reads of a coded section for the device: chunks, lengths of codes, and the streams.
pub(crate) struct Section<'a> {
    pub thresholds: [u32; 2],
    pub chunks: Vec<Chunk>,
    /// For each book the length of each token's code, then the only token or `u32::MAX`.
    pub lengths: Vec<u32>,
    pub streams: std::borrow::Cow<'a, [u8]>,
}

impl<'a> Section<'a> {
    /// A section without chunks: streams that another coder made.
    pub fn of_streams(data: &'a [u8]) -> Self {
        Self { thresholds: [0; 2], chunks: Vec::new(), lengths: Vec::new(), streams: data.into() }
    }

    /// Reads the section of `n` codes. Chunks that are zstd frames are unpacked here.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn read(data: &'a [u8], n: usize) -> Result<Self> {
        let head = Head::read(data, n)?;
        let mut streams = std::borrow::Cow::Borrowed(head.payload);
        if head.packed {
            let unpacked: Result<Vec<_>> =
                head.places.iter().map(|p| super::cpu::unpack_chunk(head.payload, p)).collect();
            streams = unpacked?.concat().into();
        }
        let mut start = 0;
        let mut chunks = Vec::with_capacity(head.places.len());
        for place in &head.places {
            let total: usize = place.streams.iter().sum();
            let stream = place.streams.map(|s| s as u32);
            let (book, four) = (place.book as u32, u32::from(place.four));
            chunks.push(Chunk { book, four, bits: [0; 4], stream, total: total as u32, start });
            start += total as u32;
        }
        let words = |book: &Lengths| {
            let only = book.only.map_or(u32::MAX, u32::from);
            book.bits.map(u32::from).into_iter().chain([only]).collect::<Vec<_>>()
        };
        let lengths = head.books.iter().flatten().flat_map(words).collect();
        Ok(Self { thresholds: head.contexts.thresholds.map(u32::from), chunks, lengths, streams })
    }
}

/// Words that one book has in [`Section::lengths`].
pub(crate) const BOOK_WORDS: usize = N_TOKENS + 1;

/// Bytes of the decoding tables of a book.
pub(crate) const TABLE_BYTES: usize = 4 << super::book::MAX_BITS;

/// Streams to codes; chunks, lengths and streams are where `run.args` says.
pub(crate) fn decode(run: &mut Run<'_>, n_books: u32, n_chunks: u32) -> Result<()> {
    if n_books > 0 {
        run.over("huffman_tables", n_books, 1)?;
    }
    // Few threads a block, so that streams, which are few, spread over the device.
    const THREADS: u32 = 32;
    run.gpu.launch("huffman_decode", ((4 * n_chunks).div_ceil(THREADS), 1), THREADS, &run.args)
}
