//! Outputs: files that get their name only when they are complete, and streams.

use super::input::is_pipe;
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use crate::io::part::{PartFile, Purpose, folder_of};
use crate::io::{self, Format, Schema, Sink};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Refuses outputs that would overwrite one of the `inputs`, all that the call names, or anything else without `force`.
///
/// # Errors
/// `Usage`.
pub fn check(output: &Path, inputs: &[&Path], force: bool) -> Result<()> {
    let place = || output.display().to_string();
    if is_pipe(output) {
        return Ok(());
    }
    let folder = folder_of(output);
    if !folder.is_dir() {
        return Err(Error::usage(format!("there is no folder {}", folder.display()))).context(place);
    }
    if let Ok(folder) = folder.canonicalize() {
        let whole = output.canonicalize().unwrap_or_else(|_| folder.join(output.file_name().unwrap_or_default()));
        for input in inputs.iter().filter_map(|i| i.canonicalize().ok()) {
            let problem = match () {
                () if whole.starts_with(&input) => "is an input, or inside one",
                () if input.starts_with(&whole) => "is a folder that an input is in",
                () => continue,
            };
            return Err(Error::usage(format!("{problem}: choose another output with -o"))).context(place);
        }
    }
    if output.exists() && !is_device(output) && !force {
        return Err(Error::usage("is there already; --force replaces it")).context(place);
    }
    Ok(())
}

/// Devices and pipes are written to; they are not replaced.
pub fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether an output is written front to back and not replaced by a complete file: standard output, devices, pipes.
pub fn is_stream(path: &Path) -> bool {
    is_pipe(path) || is_device(path)
}

/// Refuses `folder/` where there is no such folder: it is not known whether a folder or a file was meant.
///
/// # Errors
/// `Usage`.
pub fn check_folder(path: &Path) -> Result<()> {
    let names_folder = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
    if names_folder && !path.is_dir() {
        return Err(Error::usage(format!("there is no folder {}", path.display())));
    }
    Ok(())
}

/// What to call an output in messages.
pub fn name_of(path: &Path) -> String {
    if is_pipe(path) { "standard output".into() } else { path.display().to_string() }
}

/// An archive being written. Its errors name it.
pub struct Output {
    path: PathBuf,
    target: Target,
    failure: Option<ErrorKind>,
}

enum Target {
    /// Beside its final place until it is complete; removed if it never is.
    Part(PartFile),
    Stream(Box<dyn Write + Send>),
}

impl Output {
    /// Starts writing to `path`, which [`check`] has accepted.
    ///
    /// # Errors
    /// `Usage` if that is a terminal or a folder, `Io` if the system refuses.
    pub fn create(path: &Path, force: bool) -> Result<Self> {
        let place = || path.display().to_string();
        // A link stays one: its target is replaced.
        let path = if path.is_symlink() { path.canonicalize().context(place)? } else { path.to_owned() };
        let target = if is_stream(&path) {
            Target::Stream(stream(&path)?)
        } else {
            Target::Part(PartFile::create(&path, Purpose::Archive, force).context(place)?)
        };
        Ok(Self { path, target, failure: None })
    }

    /// What went wrong with the output, if anything: then errors are its own and not the input's.
    pub fn failure(&self) -> Option<ErrorKind> {
        self.failure
    }

    /// The file as it is so far, to be read; none for streams.
    ///
    /// # Errors
    /// `Io`.
    pub fn reopen(&self) -> Result<Option<File>> {
        match &self.target {
            Target::Part(file) => Ok(Some(file.reopen().context(|| self.path.display().to_string())?)),
            Target::Stream(_) => Ok(None),
        }
    }

    /// Makes the file last and gives it its name.
    ///
    /// # Errors
    /// `Io` if the system refuses, `Usage` if a file of that name came to be meanwhile and `force` is not set.
    pub fn finish(self) -> Result<()> {
        match self.target {
            Target::Part(file) => file.finish().context(|| self.path.display().to_string()),
            Target::Stream(_) => Ok(()),
        }
    }

    fn target(&mut self) -> &mut dyn Write {
        match &mut self.target {
            Target::Part(file) => file.file_mut(),
            Target::Stream(out) => out,
        }
    }

    fn named<T>(&mut self, result: std::io::Result<T>) -> std::io::Result<T> {
        result.map_err(|e| {
            // Callers try again after an interruption.
            if e.kind() == ErrorKind::Interrupted {
                return e;
            }
            self.failure = Some(e.kind());
            std::io::Error::new(e.kind(), format!("{}: {e}", name_of(&self.path)))
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let result = self.target().write(bytes);
        self.named(result)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let result = self.target().flush();
        self.named(result)
    }
}

fn stream(path: &Path) -> Result<Box<dyn Write + Send>> {
    if !is_pipe(path) {
        let file = File::options().write(true).open(path).context(|| path.display().to_string())?;
        return Ok(Box::new(file));
    }
    let out = std::io::stdout();
    if out.is_terminal() {
        return Err(Error::usage("no binary data on a terminal: redirect standard output, or name a file with -o"));
    }
    Ok(Box::new(out))
}

/// A sink whose errors name its file, and are told from those of the archive.
pub struct NamedSink {
    inner: Inner,
    name: String,
    failed: bool,
}

enum Inner {
    File(Box<dyn Sink>),
    Stream(Box<StreamSink>),
}

impl NamedSink {
    /// A sink at `path`, or on the stream that it means.
    ///
    /// # Errors
    /// As [`io::create`]; `Usage` if `format` can not be written to a stream.
    pub fn create(path: &Path, schema: &Schema, format: Format, force: bool) -> Result<Self> {
        let name = name_of(path);
        let inner = if is_stream(path) {
            StreamSink::create(path, schema, format).map(Box::new).map(Inner::Stream)
        } else {
            // A link stays one: its target is replaced.
            let target = if path.is_symlink() { path.canonicalize().unwrap_or(path.into()) } else { path.into() };
            io::create(&target, schema, format, force).map(Inner::File)
        };
        Ok(Self { inner: inner.context(|| &name)?, name, failed: false })
    }

    /// Whether an error was the sink's, which then has its name already.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Whether whoever read the stream has left.
    pub fn is_abandoned(&self) -> bool {
        matches!(&self.inner, Inner::Stream(s) if s.is_abandoned)
    }

    /// Completes the output. Whether it is whole: not if whoever reads the stream has left.
    ///
    /// # Errors
    /// As [`Sink::finish`].
    pub fn complete(self) -> Result<bool> {
        match self.inner {
            Inner::File(sink) => sink.finish().map(|()| true),
            Inner::Stream(mut sink) => match sink.flush() {
                Err(_) if sink.is_abandoned => Ok(false),
                result => result.map(|()| true),
            },
        }
        .context(|| self.name)
    }
}

impl Sink for NamedSink {
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()> {
        let result = match &mut self.inner {
            Inner::File(sink) => sink.write(variable, region, values),
            Inner::Stream(sink) => sink.write(region, values),
        };
        self.failed = result.is_err();
        result.context(|| &self.name)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.complete().map(|_| ())
    }
}

/// Values of one variable, front to back. Boxes that do not continue what is written wait in a temporary file.
struct StreamSink {
    out: BufWriter<Box<dyn Write + Send>>,
    variable: io::Variable,
    /// Values written so far.
    n_written: u64,
    waiting: Option<io::raw::FlatValues>,
    is_abandoned: bool,
}

/// Values that are copied from the temporary file at a time.
const BLOCK_VALUES: u64 = 1 << 20;

impl StreamSink {
    fn create(path: &Path, schema: &Schema, format: Format) -> Result<Self> {
        if !matches!(format, Format::Raw | Format::Npy) {
            return Err(Error::usage(
                "NetCDF and Zarr can not be written front to back: choose --format raw or npy, or a file with -o",
            ));
        }
        let [v] = &schema.variables[..] else {
            let names: Vec<_> = schema.variables.iter().map(io::Variable::name).collect();
            return Err(Error::usage(format!("holds one variable, pick it with --var: {}", names.join(", "))));
        };
        let header = match (format, v.dtype) {
            (Format::Npy, dtype) => io::npy::header_bytes(dtype, &v.shape)?,
            (_, DType::Text) => return Err(Error::usage("text can not be written as raw values")),
            _ => vec![],
        };
        let mut out = BufWriter::new(stream(path)?);
        // Stays in the buffer: what goes wrong with the stream shows with the first values.
        out.write_all(&header)?;
        Ok(Self { out, variable: v.clone(), n_written: 0, waiting: None, is_abandoned: false })
    }

    fn write(&mut self, region: &[Range<u64>], values: &Values) -> Result<()> {
        let mut runs = io::raw::Runs::new(&self.variable.shape, region)?;
        let continues = runs.next().is_none_or(|(start, _)| start == self.n_written) && runs.next().is_none();
        if continues && self.waiting.is_none() {
            return self.append(values);
        }
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => none.insert(io::raw::FlatValues::create(tempfile::tempfile()?, 0, &self.variable)?),
        };
        waiting.write(region, values)
    }

    fn append(&mut self, values: &Values) -> Result<()> {
        self.n_written += values.len() as u64;
        let result = self.out.write_all(&io::raw::le_bytes(values));
        self.noticed(result)
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(mut waiting) = self.waiting.take() {
            let n: u64 = self.variable.shape.iter().product();
            while self.n_written < n {
                let len = BLOCK_VALUES.min(n - self.n_written);
                self.append(&waiting.read_run(self.n_written, len)?)?;
            }
        }
        let result = self.out.flush();
        self.noticed(result)
    }

    fn noticed(&mut self, result: std::io::Result<()>) -> Result<()> {
        self.is_abandoned |= result.as_ref().is_err_and(|e| e.kind() == ErrorKind::BrokenPipe);
        Ok(result?)
    }
}
