//! A suite: which data, which bounds, which methods, how often. Read from TOML; what is not understood is refused.

use crate::bound::Bound;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A suite file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// What the report is called.
    pub name: String,
    /// Handed to commands as `{seed}`, and recorded.
    #[serde(default)]
    pub seed: u64,
    /// How often each cell is run; sizes must not differ, times do.
    #[serde(default = "one")]
    pub repetitions: u32,
    /// Bounds as on the command line: `rel:1e-3`, `abs:0.01`.
    pub bounds: Vec<String>,
    /// Data.
    pub dataset: Vec<Dataset>,
    /// Compressors.
    pub method: Vec<Method>,
}

fn one() -> u32 {
    1
}

/// Files of the same kind.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Name in tables.
    pub name: String,
    /// Files, relative to the suite file.
    pub paths: Vec<PathBuf>,
    /// Variables; all floating-point fields of two axes and more if there are none.
    #[serde(default)]
    pub variables: Vec<String>,
    /// Indices of dimensions, `time = "0:4"`, the end excluded.
    #[serde(default)]
    pub ranges: BTreeMap<String, String>,
    /// Whether packed integers are taken as the numbers they stand for.
    #[serde(default)]
    pub unpack: bool,
}

/// A compressor: one of the three.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Name in tables.
    pub name: String,
    /// Residuum: options of `residuum compress`, which runs in the suite's folder. With `--forecast` all variables of a file are compressed
    /// together, as their model needs them.
    pub residuum: Option<Vec<String>>,
    /// A compressor that is built in: `sz3` or `zfp`, with feature `peers`.
    pub peer: Option<String>,
    /// Any other, as commands.
    pub command: Option<CommandTemplate>,
}

/// Commands, each a program and its arguments; there is no shell. In them stand for what they say: `{input}` (raw values, little-endian,
/// C order), `{archive}`, `{output}` (raw values), `{abs}` (the largest error), `{dtype}`, `{seed}`, `{n}` (number of values); an argument
/// `{dims}` becomes one argument an axis, slowest first, `{dims_fastest_first}` the other way round.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CommandTemplate {
    /// From `{input}` to `{archive}`.
    pub compress: Vec<String>,
    /// From `{archive}` to `{output}`.
    pub decompress: Vec<String>,
    /// Seconds that one of them may take.
    #[serde(default = "hour")]
    pub timeout_s: u64,
}

fn hour() -> u64 {
    3600
}

/// What a method is.
pub enum Kind<'a> {
    /// This program, with these options.
    Residuum(&'a [String]),
    /// Built in.
    Peer(&'a str),
    /// Commands.
    Command(&'a CommandTemplate),
}

impl Suite {
    /// Reads and checks a suite file.
    ///
    /// # Errors
    /// `Usage` for what is not understood, `Io` if the file can not be read.
    pub fn read(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(path).context(place)?;
        Self::parse(&text).context(place)
    }

    /// As [`Suite::read`], from text.
    ///
    /// # Errors
    /// `Usage` for what is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let suite: Self = toml::from_str(text).map_err(|e| Error::usage(e.to_string()))?;
        suite.bounds()?;
        for m in &suite.method {
            m.kind().context(|| format!("method {:?}", m.name))?;
        }
        for d in &suite.dataset {
            for (name, range) in &d.ranges {
                parse_range(range).ok_or_else(|| {
                    Error::usage(format!("dataset {:?}: range {name} = {range:?} is not START:END", d.name))
                })?;
            }
        }
        let names: Vec<&String> = suite.method.iter().map(|m| &m.name).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(Error::usage(format!("two methods are called {:?}", twice.1)));
        }
        if suite.repetitions == 0 || suite.bounds.is_empty() || suite.method.is_empty() || suite.dataset.is_empty() {
            return Err(Error::usage("a suite needs datasets, bounds, methods and at least one repetition"));
        }
        Ok(suite)
    }

    /// The bound of which maps are drawn: the middle one.
    pub fn mapped_bound(&self) -> &str {
        &self.bounds[(self.bounds.len() - 1) / 2]
    }

    /// The bounds.
    ///
    /// # Errors
    /// `Usage` for what is no bound.
    pub fn bounds(&self) -> Result<Vec<Bound>> {
        self.bounds.iter().map(|b| b.parse()).collect()
    }
}

/// `START:END`, either of which may be missing.
pub fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (start, end) = text.split_once(':')?;
    let start = if start.is_empty() { 0 } else { start.parse().ok()? };
    let end = if end.is_empty() { None } else { Some(end.parse().ok()?) };
    end.is_none_or(|e| start < e).then_some((start, end))
}

impl Method {
    /// Which of the three it is.
    ///
    /// # Errors
    /// `Usage` if it is none or several, or a peer that is not known.
    pub fn kind(&self) -> Result<Kind<'_>> {
        match (&self.residuum, self.peer.as_deref(), &self.command) {
            (Some(options), None, None) => Ok(Kind::Residuum(options)),
            (None, Some(peer), None) if PEERS.contains(&peer) => Ok(Kind::Peer(peer)),
            (None, Some(other), None) => {
                Err(Error::usage(format!("no peer is called {other:?}; there are {}", PEERS.join(", "))))
            }
            (None, None, Some(command)) if !command.compress.is_empty() && !command.decompress.is_empty() => {
                Ok(Kind::Command(command))
            }
            (None, None, Some(_)) => Err(Error::usage("a command needs a program")),
            _ => Err(Error::usage("a method has one of: residuum = [], peer = \"sz3\", [method.command]")),
        }
    }

    /// Weights of the model whose forecasts it uses, as its options name them.
    pub fn forecast(&self) -> Option<&str> {
        let options = self.residuum.as_deref().unwrap_or_default();
        let after = options.iter().position(|o| o == "--forecast").and_then(|i| options.get(i + 1));
        after.map(String::as_str).or_else(|| options.iter().find_map(|o| o.strip_prefix("--forecast=")))
    }
}

/// Compressors that are built in.
const PEERS: [&str; 2] = ["sz3", "zfp"];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"a\"\nbounds = [\"rel:1e-3\"]\n[[dataset]]\nname = \"d\"\npaths = [\"x.nc\"]\n[[method]]\nname = \"m\"\nresiduum = [\"--effort\", \"fast\"]\n";

    #[test]
    fn suites_are_read_and_misspelt_ones_refused() {
        let suite = Suite::parse(GOOD).unwrap();
        assert_eq!((suite.repetitions, suite.bounds().unwrap()[0]), (1, Bound::rel(1e-3)));
        for (from, to) in [
            ("[\"--effort\", \"fast\"]", "{ effort = \"fast\" }"),
            ("rel:1e-3", "rel:2"),
            ("bounds", "bound"),
            ("residuum = [\"--effort\", \"fast\"]", "peer = \"zip\""),
            ("residuum = [\"--effort\", \"fast\"]", ""),
            ("paths =", "ranges = { time = \"3:3\" }\npaths ="),
        ] {
            assert_ne!(GOOD, GOOD.replace(from, to), "{from}");
            assert!(Suite::parse(&GOOD.replace(from, to)).is_err(), "{to}");
        }
        let with = |options: &str| Suite::parse(&GOOD.replace("[\"--effort\", \"fast\"]", options)).unwrap();
        assert_eq!(with("[\"--forecast\", \"w.safetensors\"]").method[0].forecast(), Some("w.safetensors"));
        assert_eq!(with("[\"--forecast=w\"]").method[0].forecast(), Some("w"));
        assert_eq!(with("[]").method[0].forecast(), None);
    }
}
