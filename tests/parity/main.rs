//! Our models against the originals: weights, inputs, outputs and values in between, as the original implementations computed them.
//!
//! The fixtures lie in `../shared/oracles`, or wherever `RESIDUUM_ORACLES` says; without them the tests say so and pass. Sizes and options
//! come from each fixture's `config.json`.
#![cfg(feature = "forecast")]

mod aurora;
mod fixture;
mod graphcast;
mod vaeformer;
