//! Tiles that a device made without zstd, packed as the host packs its own.

use super::method;
use super::pipeline::Encoded;
use crate::encode::bytes::{self, Reader};
use crate::encode::huffman;
use crate::error::Result;
use crate::predict::Method;
use crate::predict::fitted::Rows;
use crate::quantize::outlier::Outliers;

/// A tile of codes of type `C` for values of type `T` in which nothing is behind zstd, packed as [`compress_tile`] would have.
///
/// # Errors
/// `Corrupt` if it is no such tile.
pub(crate) fn pack_tile<C: Rows, T: Rows>(plain: &[u8], shape: &[usize], n: usize) -> Result<Vec<u8>> {
    let mut reader = Reader::new(plain);
    let method = reader.byte()?;
    let parts = crate::decompress::Parts::<C, T>::read(reader, method == method::LOG, shape, n)?;
    let mut signs = Vec::new();
    if !parts.signs.is_empty() {
        bytes::put_packed(&mut signs, &Reader::new(parts.signs).packed(2 * n + 16)?);
    }
    let crate::decompress::Head { base, quantizer, method: by, specials } = parts.head;
    // Streams in contexts are never packed.
    let codes = match &by {
        Method::Huffman(_) => huffman::cpu::pack_section(parts.codes, n - specials.len())?,
        Method::Contexts(_) => parts.codes.to_vec(),
    };
    let encoded = Encoded { base, quantizer, method: by, bytes: codes, outliers: Outliers::default() };
    Ok(encoded.to_bytes(method, &specials.to_bytes(), &signs, &parts.outliers.to_bytes::<T>()))
}
