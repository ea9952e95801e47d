//! Errors, grouped by who must act.
//!
//! Each error carries a [`Kind`] (which decides the exit status of the command and the code of the C interface)
//! and a message that names what was found, what was expected and what to do. Callers add where it happened with
//! [`Context::context`], outermost first when printed: `era5.nc: variable "t": …`.

use std::fmt;

/// Who must act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The call is wrong: an argument, a bound, a shape. Fix the call.
    Usage,
    /// The input file is not what it should be, or holds what we can not read. Fix the input.
    Input,
    /// The archive is damaged or was made to deceive. Distrust the file.
    Corrupt,
    /// The archive or input needs a feature or a version that this build lacks.
    Unsupported,
    /// The operating system refused: not found, no permission, disk full.
    Io,
    /// The GPU, its driver or its compiler refused or failed. Use the CPU, or mend the machine.
    Device,
    /// A model's forecast is not the one that the archive was made with. Restore where it was made, or recover what there is.
    Disagreement,
    /// A value left its bound. In an archive of ours this is a bug: please report it.
    BoundViolated,
}

impl Kind {
    /// Exit status of the command for this kind of error; documented in the README.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::BoundViolated => 1,
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Corrupt => 4,
            Kind::Unsupported => 5,
            Kind::Io => 6,
            Kind::Device | Kind::Disagreement => 7,
        }
    }
}

/// An error with its [`Kind`] and the places it passed through.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    context: Vec<String>,
}

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), context: Vec::new() }
    }

    /// The call is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The input is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// The archive is damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// This build can not do it.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// The GPU failed.
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(Kind::Device, message)
    }

    /// A forecast differs.
    pub fn disagreement(message: impl Into<String>) -> Self {
        Self::new(Kind::Disagreement, message)
    }

    /// Who must act.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in self.context.iter().rev() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::new(Kind::Io, e.to_string())
    }
}

/// Adds the place to an error on its way up.
pub trait Context<T> {
    /// Puts `place` in front of the message; `place` is only formatted if there is an error.
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| {
            let mut e = e.into();
            let place = place().to_string();
            // Layers may name the same place, each because it can be called alone.
            if e.context.last() != Some(&place) {
                e.context.push(place);
            }
            e
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once() {
        let e: Result<()> = Err(Error::input("wrong"));
        let e = e.context(|| "b").context(|| "b").context(|| "a").unwrap_err();
        assert_eq!(e.to_string(), "a: b: wrong");
    }
}
