//! Aurora.

use super::{Checkpoint, Entry, ImportOptions, Imported, Model, Options, Weights};
use crate::error::{Error, Result};

/// Aurora's line of the registry.
pub const ENTRY: Entry = Entry { name: "aurora", open, import };

fn open(_: &Weights, _: &Options) -> Result<Model> {
    Err(Error::unsupported("under way"))
}

fn import<'a>(_: &'a Checkpoint, _: &ImportOptions) -> Result<Option<Imported<'a>>> {
    Ok(None)
}
