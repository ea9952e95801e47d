//! Archives whose checksums are made right after each mutation, so that schema, plans, index and tiles are decoded as they are.
#![no_main]
use libfuzzer_sys::fuzz_target;
use residuum::Archive;
use std::io::Cursor;
use xxhash_rust::xxh3::xxh3_64;

const HEADER_BYTES: usize = 12;
const FOOTER_BYTES: usize = 32;
const INDEX: u8 = 4;

fn checksum(kind: u8, payload: &[u8]) -> [u8; 8] {
    xxh3_64(&[&[kind], payload].concat()).to_le_bytes()
}

/// Gives every section, as far as lengths lead from one to the next, and the footer the checksum that it should have. The header and the
/// end magic are made right too, and the footer points at the last section.
fn seal(archive: &mut [u8]) -> Option<()> {
    archive.get_mut(..HEADER_BYTES)?.copy_from_slice(b"\x93RSD\r\n\x1a\n\x01\0\0\0");
    let end = archive.len().checked_sub(FOOTER_BYTES)?;
    let (mut at, mut last) = (HEADER_BYTES, HEADER_BYTES);
    while at < end {
        last = at;
        let kind = archive[at];
        let (mut len, mut shift) = (0u64, 0);
        loop {
            at += 1;
            let byte = *archive.get(at)?;
            len |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let start = at + 1 + 8;
        let next = start.checked_add(usize::try_from(len).ok()?).filter(|&n| n <= end);
        let Some(next) = next else { break };
        let sum = checksum(kind, &archive[start..next]);
        archive[at + 1..start].copy_from_slice(&sum);
        at = next;
    }
    let footer = &mut archive[end..];
    footer[..8].copy_from_slice(&(last as u64).to_le_bytes());
    footer[8..16].copy_from_slice(&((end - last) as u64).to_le_bytes());
    let sum = checksum(INDEX, &footer[..16]);
    footer[16..24].copy_from_slice(&sum);
    footer[24..].copy_from_slice(b"RSD.end\n");
    Some(())
}

fn restore(archive: residuum::Result<Archive<Cursor<&[u8]>>>) {
    let Ok(mut archive) = archive else { return };
    let _ = archive.schema().coordinates();
    for i in 0..archive.schema().variables.len() {
        let n = archive.variable(i).map_or(0, |v| v.n_tiles());
        for tile in 0..n.min(4) {
            let _ = archive.tile(i, tile);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut sealed = data.to_vec();
    let _ = seal(&mut sealed);
    restore(Archive::open(Cursor::new(&sealed)));
    restore(Archive::recover(Cursor::new(&sealed)));
});
