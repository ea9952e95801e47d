//! Outputs: files that get their name only when they are complete, and streams.

use super::input::is_pipe;
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use crate::io::{self, Format, Schema, Sink};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Refuses outputs that would overwrite an input, or anything else without `force`.
///
/// # Errors
/// `Usage`.
pub fn check(output: &Path, input: &Path, force: bool) -> Result<()> {
    let place = || output.display().to_string();
    let same = || Error::usage("is the input, or inside it: choose another output with -o");
    if is_pipe(output) {
        return Ok(());
    }
    let folder = folder_of(output);
    if !folder.is_dir() {
        return Err(Error::usage(format!("there is no folder {}", folder.display()))).context(place);
    }
    if let (Ok(input), Ok(folder)) = (input.canonicalize(), folder.canonicalize()) {
        let output = output.canonicalize().unwrap_or_else(|_| folder.join(output.file_name().unwrap_or_default()));
        if output.starts_with(input) {
            return Err(same()).context(place);
        }
    }
    if output.exists() && !is_device(output) && !force {
        return Err(Error::usage("is there already; --force replaces it")).context(place);
    }
    Ok(())
}

/// Devices and pipes are written to; they are not replaced.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether an output is written front to back and not replaced by a complete file: standard output, devices, pipes.
pub fn is_stream(path: &Path) -> bool {
    is_pipe(path) || is_device(path)
}

/// What to call an output in messages.
pub fn name_of(path: &Path) -> String {
    if is_pipe(path) { "standard output".into() } else { path.display().to_string() }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// An archive being written. Its errors name it.
pub struct Output {
    path: PathBuf,
    target: Target,
    failure: Option<ErrorKind>,
}

enum Target {
    /// Beside its final place until it is complete; removed if it never is.
    Part(NamedTempFile),
    Stream(Box<dyn Write + Send>),
}

impl Output {
    /// Starts writing to `path`, which [`check`] has accepted.
    ///
    /// # Errors
    /// `Usage` if that is a terminal or a folder, `Io` if the system refuses.
    pub fn create(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        // A link stays one: its target is replaced.
        let path = if path.is_symlink() { path.canonicalize().context(place)? } else { path.to_owned() };
        let target = if is_stream(&path) {
            Target::Stream(stream(&path)?)
        } else if path.is_dir() {
            return Err(Error::usage("is a folder")).context(place);
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let mut builder = tempfile::Builder::new();
            let prefix = format!(".{name}.");
            builder.prefix(&prefix).suffix(".part");
            // Temporary files are private by default; this one becomes an ordinary file, so the umask alone decides.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            Target::Part(builder.tempfile_in(folder_of(&path)).context(place)?)
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
    pub fn finish(self, force: bool) -> Result<()> {
        let place = || self.path.display().to_string();
        let Target::Part(file) = self.target else { return Ok(()) };
        file.as_file().sync_all().context(place)?;
        if !force && self.path.exists() {
            return Err(Error::usage("came to be meanwhile; --force replaces it")).context(place);
        }
        file.persist(&self.path).map_err(|e| e.error).context(place)?;
        // The name lasts once the folder is on disk, where the system can do that.
        #[cfg(unix)]
        if let Ok(folder) = File::open(folder_of(&self.path)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    fn target(&mut self) -> &mut dyn Write {
        match &mut self.target {
            Target::Part(file) => file.as_file_mut(),
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
    Stream(StreamSink),
}

impl NamedSink {
    /// A sink at `path`, or on the stream that it means.
    ///
    /// # Errors
    /// As [`io::create`]; `Usage` if `format` can not be written to a stream.
    pub fn create(path: &Path, schema: &Schema, format: Format, force: bool) -> Result<Self> {
        let name = name_of(path);
        let inner = if is_stream(path) {
            StreamSink::create(path, schema, format).map(Inner::Stream)
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
            Inner::Stream(sink) => sink.write(values),
        };
        self.failed = result.is_err();
        result.context(|| &self.name)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.complete().map(|_| ())
    }
}

/// Values of one variable, front to back: boxes come in C order.
struct StreamSink {
    out: BufWriter<Box<dyn Write + Send>>,
    is_abandoned: bool,
}

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
        Ok(Self { out, is_abandoned: false })
    }

    fn write(&mut self, values: &Values) -> Result<()> {
        let result = self.out.write_all(&io::raw::le_bytes(values));
        self.noticed(result)
    }

    fn flush(&mut self) -> Result<()> {
        let result = self.out.flush();
        self.noticed(result)
    }

    fn noticed(&mut self, result: std::io::Result<()>) -> Result<()> {
        self.is_abandoned |= result.as_ref().is_err_and(|e| e.kind() == ErrorKind::BrokenPipe);
        Ok(result?)
    }
}
