//! A folder to run the command in, and files to run it on.

use residuum::io::{self, Attribute, AttributeValue, Dimension, Format, Group, OpenOptions, Schema, Variable};
use residuum::{DType, Values};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder of a test's own.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Number of files and folders.
    pub fn count(&self) -> usize {
        std::fs::read_dir(self.root()).unwrap().count()
    }

    /// The command, to be run here.
    pub fn residuum(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_residuum"));
        command.current_dir(self.root());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.residuum().args(arguments.split_whitespace()).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs the command, which must end with `status` and say `part` on standard error.
    #[track_caller]
    pub fn fails(&self, arguments: &str, status: i32, part: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments}: {said}");
        assert!(said.contains(part), "{arguments}: {said}");
        assert!(!said.contains("panicked"), "{arguments}: {said}");
    }

    /// Runs the command, which must succeed; gives what it prints.
    #[track_caller]
    pub fn works(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `input` comes out as when it is piped through the command.
    pub fn piped(&self, arguments: &str, input: &[u8]) -> Vec<u8> {
        let mut command = self.residuum();
        command.args(arguments.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments}");
        output.stdout
    }
}

/// A smooth field with a missing value.
pub fn field(n: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..n).map(|i| 280.0 + 10.0 * (i as f32 * 0.013).sin()).collect();
    values[n / 2] = f32::NAN;
    values
}

/// Numbers without any pattern, so that compressing them takes its time.
pub fn noise(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1.0 + (state >> 40) as f32
    };
    (0..n).flat_map(|_| next().to_le_bytes()).collect()
}

pub fn write(path: &Path, schema: &Schema, values: &[Values]) {
    let mut sink = io::create(path, schema, schema.format, false).unwrap();
    for (i, (v, values)) in schema.variables.iter().zip(values).enumerate() {
        sink.write(i, &v.shape.iter().map(|&n| 0..n).collect::<Vec<_>>(), values).unwrap();
    }
    sink.finish().unwrap();
}

pub fn npy(path: &Path, shape: &[u64]) -> Vec<f32> {
    let values = field(shape.iter().product::<u64>() as usize);
    let schema = Schema::single(Format::Npy, "x", DType::F32, shape);
    write(path, &schema, &[Values::F32(values.clone())]);
    values
}

pub fn read(path: &Path, name: &str) -> (Variable, Values) {
    let mut source = io::open(path, &OpenOptions::default()).unwrap();
    let i = source.schema().variables.iter().position(|v| v.name() == name).unwrap();
    let v = source.schema().variables[i].clone();
    let values = source.read(i, &v.shape.iter().map(|&n| 0..n).collect::<Vec<_>>()).unwrap();
    (v, values)
}

#[track_caller]
pub fn assert_within(original: &[f32], restored: &[f32], bound: f32) {
    assert_eq!(original.len(), restored.len());
    let is_within = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a - b).abs() <= bound;
    assert!(original.iter().zip(restored).all(is_within));
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// `time 6, lat 10, lon 20`: two fields, their coordinates, and a packed field.
pub fn netcdf(path: &Path) -> Vec<f32> {
    let text = |name: &str, value: &str| Attribute { name: name.into(), value: AttributeValue::Text(value.into()) };
    let number = |name: &str, value: AttributeValue| Attribute { name: name.into(), value };
    let lens = [("/time", 6), ("/lat", 10), ("/lon", 20)];
    let variable = |name: &str, dtype, dimensions: &[u32], attributes| Variable {
        path: format!("/{name}"),
        dtype,
        shape: dimensions.iter().map(|&d| lens[d as usize].1).collect(),
        dimensions: dimensions.to_vec(),
        attributes,
        chunks: None,
    };
    let packing = vec![
        number("scale_factor", AttributeValue::F32(vec![0.01])),
        number("add_offset", AttributeValue::F32(vec![5.0])),
        number("_FillValue", AttributeValue::I16(vec![-1])),
    ];
    let schema = Schema {
        format: Format::NetCdf4,
        groups: vec![Group { path: "/".into(), attributes: vec![text("title", "made up")] }],
        dimensions: lens.map(|(p, len)| Dimension { path: p.into(), len, unlimited: false }).to_vec(),
        variables: vec![
            variable("time", DType::I64, &[0], vec![text("units", "hours since 2000-01-01")]),
            variable("lat", DType::F64, &[1], vec![]),
            variable("lon", DType::F64, &[2], vec![]),
            variable("t", DType::F32, &[0, 1, 2], vec![text("units", "K")]),
            variable("u", DType::F32, &[1, 2], vec![]),
            variable("packed", DType::I16, &[0, 1], packing),
        ],
    };
    let t = field(1200);
    let values = [
        Values::I64((0..6).collect()),
        Values::F64((0..10).map(f64::from).collect()),
        Values::F64((0..20).map(f64::from).collect()),
        Values::F32(t.clone()),
        Values::F32(field(200)),
        Values::I16((-1..59).collect()),
    ];
    write(path, &schema, &values);
    t
}

/// A file of one group with these variables of one dimension `x`, whatever its length.
pub fn file_of(path: &Path, format: Format, variables: Vec<(&str, Values, Vec<Attribute>)>) {
    let len = variables.first().map_or(0, |v| v.1.len()) as u64;
    let schema = Schema {
        format,
        groups: vec![Group { path: "/".into(), attributes: vec![] }],
        dimensions: vec![Dimension { path: "/x".into(), len, unlimited: false }],
        variables: variables
            .iter()
            .map(|(name, values, attributes)| Variable {
                path: format!("/{name}"),
                dtype: values.dtype(),
                shape: vec![len],
                dimensions: vec![0],
                attributes: attributes.clone(),
                chunks: None,
            })
            .collect(),
    };
    write(path, &schema, &variables.into_iter().map(|v| v.1).collect::<Vec<_>>());
}

pub fn attribute(name: &str, value: AttributeValue) -> Attribute {
    Attribute { name: name.into(), value }
}
