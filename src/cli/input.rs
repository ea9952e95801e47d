//! Inputs: a path or standard input, whole or some variables only, packed or unpacked.

use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use crate::io::select::Selection;
use crate::io::unpack::UnpackedSource;
use crate::io::{self, OpenOptions, Schema, Source};
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;

/// Whether a path is read front to back: standard input, pipes, devices.
pub fn is_stream(path: &Path) -> bool {
    is_pipe(path) || super::output::is_device(path)
}

/// Whether a path means standard input or output.
pub fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What to call an input in messages.
pub fn name_of(path: &Path) -> String {
    if is_pipe(path) { "standard input".into() } else { path.display().to_string() }
}

/// A source, and the copy of a pipe that it may be read from.
pub struct Input {
    /// What to read.
    pub source: Box<dyn Source>,
    /// Removed once nothing is read from it any more.
    _spool: Option<tempfile::TempDir>,
}

/// Opens a file, a Zarr folder, a pipe, or, for `-`, standard input.
///
/// # Errors
/// As [`io::open`]; without the input's name.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Input> {
    open_with(path, |_| Ok(options.clone()))
}

/// As [`open`], as raw values of this shape and type if the file has as many bytes as those, or does not say itself what it holds.
///
/// # Errors
/// As [`open`].
pub fn open_or_raw(path: &Path, shape: &[u64], dtype: DType) -> Result<Input> {
    open_with(path, |path| {
        let raw = OpenOptions { shape: Some(shape.to_vec()), dtype: Some(dtype) };
        let n = shape.iter().product::<u64>().checked_mul(dtype.size() as u64);
        let is_raw = !path.is_dir() && (n == Some(path.metadata()?.len()) || !io::describes_itself(path)?);
        Ok(if is_raw { raw } else { OpenOptions::default() })
    })
}

/// Opens a path as `options` say of a file that can be looked at as often as need be.
fn open_with(path: &Path, options: impl FnOnce(&Path) -> Result<OpenOptions>) -> Result<Input> {
    if !is_stream(path) {
        return Ok(Input { source: io::open(path, &options(path)?)?, _spool: None });
    }
    // Formats have directories at their ends and bounds need two readings: a pipe is copied to disk first.
    let spool = tempfile::tempdir()?;
    // A raw or .npy variable is named after its file.
    let copy = spool.path().join("data");
    let mut file = File::create(&copy)?;
    std::io::copy(&mut stream(path)?, &mut file).context(|| copy.display().to_string())?;
    Ok(Input { source: io::open(&copy, &options(&copy)?)?, _spool: Some(spool) })
}

/// What comes out of standard input, a pipe or a device.
fn stream(path: &Path) -> Result<Box<dyn Read>> {
    Ok(if is_pipe(path) { Box::new(std::io::stdin().lock()) } else { Box::new(File::open(path)?) })
}

/// Opens an archive for reading, from standard input for `-`; a copy of it if it can not be read but front to back.
///
/// # Errors
/// `Io`; without the file's name.
pub fn open_archive_file(path: &Path) -> Result<std::io::BufReader<File>> {
    let mut file = if is_stream(path) { tempfile::tempfile()? } else { File::open(path)? };
    if is_stream(path) {
        std::io::copy(&mut stream(path)?, &mut file)?;
        file.rewind()?;
    } else if file.metadata()?.is_dir() {
        return Err(Error::input("is a folder, not an archive"));
    }
    Ok(std::io::BufReader::new(file))
}

/// Some variables of a source.
pub struct SelectedSource {
    inner: Box<dyn Source>,
    selection: Selection,
}

impl SelectedSource {
    /// The variables `names` of `inner` (all if there are no names), with their coordinates; not those named `excluded`.
    ///
    /// # Errors
    /// `Usage` if there is no such variable, `Unsupported` if one that is selected can not be read.
    pub fn new(inner: Box<dyn Source>, names: &[String], excluded: &[String]) -> Result<Self> {
        let is_among = |names: &[String], name: &str| names.iter().any(|n| n.trim_start_matches('/') == name);
        let unreadable = inner.unreadable();
        for u in unreadable {
            let is_selected = names.is_empty() || is_among(names, &u.name);
            if is_selected && !is_among(excluded, &u.name) {
                let remedy = format!("leave the variable out with `--exclude {}`", u.name);
                return Err(Error::unsupported(format!("{}; {remedy}", u.reason)))
                    .context(|| format!("variable {:?}", u.name));
            }
        }
        let mut selection = Selection::all(inner.schema());
        let excluded: Vec<String> = excluded
            .iter()
            .filter(|name| !unreadable.iter().any(|u| u.name == name.trim_start_matches('/')))
            .cloned()
            .collect();
        selection.exclude(&excluded)?;
        if !names.is_empty() {
            selection.keep(names, true)?;
        }
        Ok(Self { inner, selection })
    }
}

impl Source for SelectedSource {
    fn schema(&self) -> &Schema {
        &self.selection.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let (inner, _) = self.selection.parts.get(variable).ok_or_else(|| Error::usage("no such variable"))?;
        self.inner.read(*inner, region)
    }

    fn warnings(&mut self) -> Vec<String> {
        self.inner.warnings()
    }
}

/// `inner` with its packed variables unpacked.
///
/// # Errors
/// As [`UnpackedSource::new`].
pub fn unpacked(inner: Box<dyn Source>) -> Result<Box<dyn Source>> {
    Ok(Box::new(UnpackedSource::new(inner)?))
}
