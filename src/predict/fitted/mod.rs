//! The fitted predictor: least-squares stencils on a hierarchy of lattices, with the decoded values of other images (earlier
//! steps, neighbouring levels) as side information, and codes in contexts.
//!
//! The last two axes are an image, the others number the images; they are coded from the middle of the tile outwards (`schedule.rs`),
//! by two threads (`course.rs`). An image is refined lattice by lattice and phase by phase (`lattice.rs`). A phase is predicted from
//! taps, neighbours in the image and in its side images, whose weights were fitted to the tile and are in the archive:
//! `p = Σ v_t · tap_t`, in the order of the taps. Images with the same kinds of side images (`kind`) share their weights. The magnitude of each code is guessed from what is known before the phase (sizes of codes
//! around, differences of the taps); the guess selects the context of the entropy coder ([`crate::encode::rans`]).
//!
//! Class: `BitExact`; the fits are `EncoderOnly`. Byte layout in `container/format.md`.

mod course;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod decode;
pub mod encode;
mod fit;
mod guess;
mod lattice;
mod layout;
pub mod learn;
mod plan;
mod rows;
mod sample;
mod schedule;
mod site;
mod stand_in;

pub use layout::Layout;
pub use plan::Plan;
pub use rows::Rows;

/// Whether a tile of `shape` may be coded this way: images of a few pixels cost more than they gain.
pub fn is_worthwhile(shape: &[usize]) -> bool {
    const PIXELS: usize = 512;
    shape.iter().rev().take(2).product::<usize>() >= PIXELS
}
