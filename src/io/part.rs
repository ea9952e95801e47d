//! Outputs under way: beside their final place, under a temporary name until they are complete.
//!
//! The one place that names and renames outputs. `NAME` is the final name, `XXXXXX` random:
//!
//! | output | temporary name | if the process is killed |
//! |---|---|---|
//! | archive | `.NAME.XXXXXX.part` | `decompress --recover` restores its whole tiles |
//! | restored file or Zarr folder | `.NAME.XXXXXX.tmp` | of no use: delete it, but see below |
//!
//! A Zarr store that another replaces (`force`) is for a moment `old` within `.NAME.XXXXXX.tmp`: if the process is killed right then, it is
//! still there. Folders can not take each other's place at once on all systems.
//!
//! Without `force` an output never takes the place of anything, not even of what came to be since it was begun.

use crate::error::{Error, Kind, Result};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile, TempDir};

/// What an output will be, which its temporary name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Archive,
    Restored,
}

/// Calls `make` with a builder of temporary names for `path`.
fn with_name<T>(path: &Path, purpose: Purpose, make: impl FnOnce(&mut Builder<'_, '_>) -> T) -> T {
    /// Characters of the name that are kept: names have at most 255 bytes on most systems.
    const KEPT_CHARACTERS: usize = 50;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{}.", name.chars().take(KEPT_CHARACTERS).collect::<String>());
    let suffix = if purpose == Purpose::Archive { ".part" } else { ".tmp" };
    make(Builder::new().prefix(&prefix).suffix(suffix))
}

/// The folder that a path's last component stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder last, where the system can.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        // Some file systems refuse to sync a folder; the names then last as well as they do there for anyone.
        let _ = File::open(folder)?.sync_all();
    }
    Ok(())
}

fn came_meanwhile() -> Error {
    Error::usage("came to be meanwhile; --force replaces it")
}

/// A file that takes its final place in [`PartFile::finish`]; dropped before that, it is removed.
pub(crate) struct PartFile {
    temporary: NamedTempFile,
    path: PathBuf,
    force: bool,
}

impl PartFile {
    /// A new file in the folder of `path`.
    ///
    /// # Errors
    /// `Usage` if `path` is a folder, `Io` if the system refuses.
    pub(crate) fn create(path: &Path, purpose: Purpose, force: bool) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::usage("is a folder"));
        }
        let temporary = with_name(path, purpose, |builder| {
            // Temporary files are private by default; this one becomes an ordinary file, so the umask alone decides.
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            builder.tempfile_in(folder_of(path))
        })?;
        Ok(Self { temporary, path: path.to_owned(), force })
    }

    pub(crate) fn file_mut(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// A second handle of the file, with the same position.
    pub(crate) fn file(&self) -> Result<File> {
        Ok(self.temporary.as_file().try_clone()?)
    }

    /// The file as it is so far, to be read from its start.
    pub(crate) fn reopen(&self) -> Result<File> {
        Ok(self.temporary.reopen()?)
    }

    /// Makes the file last and gives it its name; over a file of that name only by `force`.
    ///
    /// # Errors
    /// `Io` if the system refuses, `Usage` if a file of that name came to be meanwhile and `force` is not set.
    pub(crate) fn finish(self) -> Result<()> {
        self.temporary.as_file().sync_all()?;
        if self.force {
            self.temporary.persist(&self.path).map_err(|e| e.error)?;
        } else if let Err(e) = self.temporary.persist_noclobber(&self.path) {
            // File systems without links can not rename that way: look first, then rename.
            if e.error.kind() == ErrorKind::AlreadyExists || self.path.symlink_metadata().is_ok() {
                return Err(came_meanwhile());
            }
            e.file.persist(&self.path).map_err(|e| e.error)?;
        }
        sync_folder(folder_of(&self.path))
    }
}

/// A folder that takes its final place in [`PartFolder::finish`]; dropped before that, it is removed.
pub(crate) struct PartFolder {
    /// Holds the folder itself, and what is needed only until it is complete.
    temporary: TempDir,
    path: PathBuf,
    force: bool,
}

/// Name of the folder within the temporary one: that one is private, this one gets the ordinary permissions.
const WITHIN: &str = "store";

impl PartFolder {
    /// A new folder beside `path`.
    ///
    /// # Errors
    /// `Usage` if `path` is a folder that is not to be replaced, `Io` if the system refuses.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self> {
        check_replaceable(path)?;
        let temporary = with_name(path, Purpose::Restored, |builder| builder.tempdir_in(folder_of(path)))?;
        fs::create_dir(temporary.path().join(WITHIN))?;
        Ok(Self { temporary, path: path.to_owned(), force })
    }

    /// The folder to fill.
    pub(crate) fn folder(&self) -> PathBuf {
        self.temporary.path().join(WITHIN)
    }

    /// A place for files that do not belong to the output.
    pub(crate) fn scratch(&self) -> &Path {
        self.temporary.path()
    }

    /// Gives the folder its name; in place of a Zarr store or file of that name only by `force`.
    ///
    /// # Errors
    /// `Io` if the system refuses, `Usage` if something of that name came to be meanwhile and is not to be replaced.
    pub(crate) fn finish(self) -> Result<()> {
        let (new, old) = (self.folder(), self.temporary.path().join("old"));
        if !self.force {
            // Takes the place of nothing but an empty folder.
            fs::rename(&new, &self.path)
                .map_err(|e| if self.path.symlink_metadata().is_ok() { came_meanwhile() } else { e.into() })?;
            return sync_folder(folder_of(&self.path));
        }
        check_replaceable(&self.path)?;
        match replace(&new, &self.path, &old) {
            Ok(()) => sync_folder(folder_of(&self.path)),
            Err(e) if old.symlink_metadata().is_ok() => {
                // What was to be replaced has lost its name: it must not go with the temporary folder.
                let kept = self.temporary.keep().join("old");
                Err(Error::new(Kind::Io, format!("{e}; what was there before is now {}", kept.display())))
            }
            Err(e) => Err(e.into()),
        }
        // The temporary folder goes, and what was replaced with it.
    }
}

/// Puts `new` in place of `path`, if there is anything, which is moved to `old`. If that fails all is as before, unless `old` is there.
fn replace(new: &Path, path: &Path, old: &Path) -> std::io::Result<()> {
    match fs::rename(path, old) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => return fs::rename(new, path),
        Err(e) => return Err(e),
    }
    fs::rename(new, path).inspect_err(|_| {
        // If this fails too, the caller finds `old`.
        let _ = fs::rename(old, path);
    })
}

/// Whether a folder is a Zarr store.
pub(crate) fn is_zarr_store(folder: &Path) -> bool {
    ["zarr.json", ".zgroup", ".zarray"].iter().any(|f| folder.join(f).is_file())
}

/// Refuses to replace folders that are neither Zarr stores nor empty: whatever their name, they are someone's.
fn check_replaceable(path: &Path) -> Result<()> {
    if path.is_dir() && !is_zarr_store(path) && fs::read_dir(path)?.next().is_some() {
        return Err(Error::usage(
            "is a folder, not a Zarr store, and not empty: it is not replaced, remove it yourself",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_takes_the_place_of_nothing_unforced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rsd");
        let part = PartFile::create(&path, Purpose::Archive, false).unwrap();
        let name = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with(".a.rsd.") && name.ends_with(".part"), "{name}");
        fs::write(&path, "precious").unwrap();
        assert_eq!(part.finish().unwrap_err().kind(), crate::Kind::Usage);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        PartFile::create(&path, Purpose::Archive, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // Long names have a temporary one too.
        let long = folder.path().join("é".repeat(125));
        PartFile::create(&long, Purpose::Archive, false).unwrap().finish().unwrap();
        assert!(long.exists());
    }

    #[test]
    fn a_store_that_can_not_be_replaced_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zarr");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("zarr.json"), "precious").unwrap();
        let part = PartFolder::create(&path, true).unwrap();
        // What was to take its place is gone.
        fs::remove_dir(part.folder()).unwrap();
        assert_eq!(part.finish().unwrap_err().kind(), Kind::Io);
        assert_eq!(fs::read(path.join("zarr.json")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary folder is left");
        let part = PartFolder::create(&path, true).unwrap();
        fs::write(part.folder().join("zarr.json"), "new").unwrap();
        part.finish().unwrap();
        assert_eq!(fs::read(path.join("zarr.json")).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the old store is left");
    }

    #[test]
    fn a_store_that_lost_its_name_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (new, path, old) = (folder.path().join("new"), folder.path().join("a"), folder.path().join("old"));
        fs::create_dir(&path).unwrap();
        assert!(replace(&new, &path, &old).is_err());
        assert!(path.exists() && !old.exists());
        fs::remove_dir(&path).unwrap();
        fs::create_dir(&new).unwrap();
        replace(&new, &path, &old).unwrap();
        assert!(path.exists() && !old.exists() && !new.exists());
    }
}
