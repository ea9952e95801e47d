//! The coder in contexts on a GPU. Twins: [`super::family`], [`super::stream`]. Kernels: `rans_family.cu`; what reads streams is part of
//! `fitted_decode.cu`, as contexts and codes wait for each other.

use super::LANES;
use crate::device::Run;
use crate::device::layout::{BLOCK, FAMILY_BYTES, FitStream};
use crate::encode::bytes::Reader;
use crate::encode::rans::family::N_DISTRIBUTIONS;
use crate::error::{Error, Result};

/// Makes the built-in distributions known to `run`: computed on the device, once for a [`Gpu`](crate::device::Gpu).
pub(crate) fn family(run: &mut Run<'_>) -> Result<()> {
    let mut args = run.args;
    run.args.family = run.gpu.lasting_room("distributions", FAMILY_BYTES, |gpu, at| {
        args.family = at;
        gpu.launch("rans_tails", (1, 1), 32, &args)?;
        gpu.launch("rans_frequencies", ((N_DISTRIBUTIONS as u32).div_ceil(BLOCK), 1), BLOCK, &args)
    })?;
    Ok(())
}

/// Where the `n` streams of a coded section are, and their first states.
///
/// # Errors
/// `Corrupt` if lengths do not fit.
pub(crate) fn read_streams(data: &[u8], n: usize) -> Result<Vec<FitStream>> {
    let mut reader = Reader::new(data);
    let mut streams = Vec::with_capacity(n);
    for _ in 0..n {
        let stream = reader.bytes()?;
        let at = data.len() - reader.rest().len() - stream.len();
        let mut inner = Reader::new(stream);
        let n_plain = usize::try_from(inner.varint()?).unwrap_or(usize::MAX);
        let n_words = usize::try_from(inner.varint()?).unwrap_or(usize::MAX);
        let mut head = FitStream::default();
        for (s, bytes) in head.states.iter_mut().zip(inner.take(4 * LANES)?.as_chunks::<4>().0) {
            *s = u32::from_le_bytes(*bytes);
        }
        let words_at = at + stream.len() - inner.rest().len();
        inner.take(n_words.saturating_mul(2))?;
        let plain_at = at + stream.len() - inner.rest().len();
        inner.take(n_plain)?;
        (head.n_words, head.words_at) = (n_words as u32, words_at as u32);
        (head.n_plain, head.plain_at) = (n_plain as u32, plain_at as u32);
        streams.push(head);
    }
    if reader.is_empty() { Ok(streams) } else { Err(Error::corrupt("bytes after the last coded stream")) }
}
