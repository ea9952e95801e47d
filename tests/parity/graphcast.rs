//! GraphCast.

use super::fixture::{Fixture, values, worst};
use candle_core::{DType, Tensor};
use residuum::forecast::graphcast::mesh::{Given, Graph, GraphConfig, Mesh};
use residuum::forecast::graphcast::{Config, GraphCast, forcing};
use residuum::forecast::import::{self, ImportOptions};
use residuum::forecast::{Forecaster, Frame, Grid, Key, Options, Rollout, Weights, measure, weights};
use residuum::io::{self, Dimension, Format, Group, Schema, Variable};
use residuum::{DType as FieldType, Values};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A fixture with its tensors.
struct Case {
    fixture: Fixture,
    config: Config,
    lat: Vec<f32>,
    lon: Vec<f32>,
    times: Vec<i64>,
    inputs: HashMap<String, Tensor>,
    outputs: HashMap<String, Tensor>,
    graph: HashMap<String, Tensor>,
}

impl Case {
    fn all() -> Vec<Case> {
        Fixture::all("graphcast").into_iter().map(Case::new).collect()
    }

    fn new(fixture: Fixture) -> Case {
        let inputs = fixture.tensors("inputs.safetensors");
        Case {
            config: serde_json::from_value(fixture.config.clone()).unwrap(),
            lat: values(&inputs["lat"]),
            lon: values(&inputs["lon"]),
            times: inputs["datetime_unix_s"].flatten_all().unwrap().to_vec1().unwrap(),
            outputs: fixture.tensors("outputs.safetensors"),
            graph: fixture.tensors("graph.safetensors"),
            inputs,
            fixture,
        }
    }

    fn graph_config(&self) -> GraphConfig {
        let m = &self.config.model_config;
        GraphConfig {
            mesh_size: m.mesh_size,
            radius_fraction: m.radius_query_fraction_edge_length,
            mesh2grid_divisor: m.mesh2grid_edge_normalization_factor,
        }
    }

    /// Frames that go in: all times but the forecast ones.
    fn history_len(&self) -> usize {
        self.times.len() - self.fixture.config["steps"].as_u64().unwrap() as usize
    }

    fn grid(&self) -> Grid {
        let degrees = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        Grid::new(degrees(&self.lat), degrees(&self.lon)).unwrap()
    }

    fn batch(&self) -> usize {
        self.outputs["stage.grid_features"].dim(1).unwrap()
    }

    /// Rows of nodes of one of the batch, of an array (nodes, batch, features).
    fn stage(&self, name: &str, batch: usize) -> Vec<f32> {
        let all = &self.outputs[&format!("stage.{name}")];
        values(&all.narrow(1, batch, 1).unwrap())
    }

    /// The frame of one time, of the variables whose tensors start with `prefix`.
    fn frame(&self, prefix: &str, batch: usize, time: i64, index: usize) -> Frame {
        let mut frame = Frame::new(time, self.grid());
        let (h, w) = (self.lat.len(), self.lon.len());
        for (name, tensor) in &self.inputs {
            let Some(variable) = name.strip_prefix(prefix) else { continue };
            // (batch, time, …); a static field has neither.
            let at = match tensor.rank() {
                2 if tensor.dims() == [h, w] => tensor.clone(),
                _ => tensor.get(batch).unwrap().get(index).unwrap(),
            };
            let levels = &self.config.task_config.pressure_levels;
            if at.dims() == [levels.len(), h, w] {
                for (i, &hpa) in levels.iter().enumerate() {
                    frame.insert(Key::level(variable, hpa), at.get(i).unwrap()).unwrap();
                }
            } else {
                let field = at.broadcast_as((h, w)).unwrap().contiguous().unwrap();
                frame.insert(Key::surface(variable), field).unwrap();
            }
        }
        frame
    }

    fn history(&self, batch: usize) -> Vec<Frame> {
        (0..self.history_len()).map(|i| self.frame("input.", batch, self.times[i], i)).collect()
    }

    /// Weights and statistics as one file, made by the importer.
    fn weights(&self, folder: &Path) -> Weights {
        let path = folder.join("imported.safetensors");
        let options = ImportOptions { statistics: vec![self.fixture.file("stats.safetensors")], ..Default::default() };
        import::import(&self.fixture.file("params.npz"), &path, &options, true).unwrap();
        Weights::open(&path).unwrap()
    }

    /// The model on the fixture's grid, with the original's choice between triangles at the same distance.
    fn model(&self) -> GraphCast {
        self.model_with(Options::default())
    }

    fn model_with(&self, mut options: Options) -> GraphCast {
        let scratch = tempfile::tempdir().unwrap();
        options.auxiliary.insert("lat".into(), self.inputs["lat"].clone());
        options.auxiliary.insert("lon".into(), self.inputs["lon"].clone());
        let senders = self.graph["mesh2grid.senders"].to_dtype(DType::U32).unwrap();
        options.auxiliary.insert("mesh2grid.senders".into(), senders);
        for name in ["mesh_lat", "mesh_lon"] {
            options.auxiliary.insert(name.into(), self.graph[name].clone());
        }
        GraphCast::new(&self.weights(scratch.path()), &options).unwrap()
    }
}

fn u32s(t: &Tensor) -> Vec<u32> {
    t.to_dtype(DType::U32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn near(name: &str, a: &[f32], b: &[f32], tolerance: f32) {
    let found = worst(a, b);
    println!("{name}: {found:e}");
    assert!(found <= tolerance, "{name} is off by {found:e}, at most {tolerance:e}");
}

#[test]
fn mesh_and_edges() {
    for f in Case::all() {
        let mesh = Mesh::icosahedral(f.config.model_config.mesh_size).unwrap();
        near("vertices", mesh.vertices.as_flattened(), &values(&f.graph["mesh_vertices"]), 1e-6);
        for (level, faces) in mesh.levels.iter().enumerate() {
            assert_eq!(faces.as_flattened(), u32s(&f.graph[&format!("mesh_faces_{level}")]));
        }
        let (lat, lon) = mesh.lat_lon();
        near("mesh latitudes", &lat, &values(&f.graph["mesh_lat"]), 180.0 * 1e-6);
        near("mesh longitudes", &lon, &values(&f.graph["mesh_lon"]), 360.0 * 1e-6);

        // The original's choice between triangles at the same distance, and the last bits of its angles: those of a vector library.
        let theirs = u32s(&f.graph["mesh2grid.senders"]);
        let given = Given {
            corners: Some(theirs.clone()),
            mesh_lat_lon: Some((values(&f.graph["mesh_lat"]), values(&f.graph["mesh_lon"]))),
        };
        let graph = Graph::new(f.graph_config(), &f.lat, &f.lon, &given).unwrap();
        let radius = f.graph["query_radius"].to_dtype(DType::F32).unwrap();
        near("radius", &[graph.radius], &values(&radius), 1e-6);
        near(
            "grid nodes",
            graph.grid_features.as_flattened(),
            &values(&f.graph["grid2mesh.grid_nodes_features"]),
            1e-6,
        );
        near("mesh nodes", graph.mesh_features.as_flattened(), &values(&f.graph["mesh.mesh_nodes_features"]), 1e-6);
        for (name, edges) in [("grid2mesh", &graph.grid2mesh), ("mesh", &graph.mesh), ("mesh2grid", &graph.mesh2grid)] {
            assert_eq!(edges.senders, u32s(&f.graph[&format!("{name}.senders")]), "{name}");
            assert_eq!(edges.receivers, u32s(&f.graph[&format!("{name}.receivers")]), "{name}");
            let features = values(&f.graph[&format!("{name}.edge_features")]);
            // 1e-6; on meshes finer than the fixtures' so far, what an ulp of both ends' places (f32 on the unit sphere) is of an edge.
            let tolerance = (2e-7 / graph.radius).max(1e-6);
            near(&format!("{name} edges"), edges.features.as_flattened(), &features, tolerance);
        }

        // Our own choice of triangles differs only where another is as near.
        let ours = Graph::new(f.graph_config(), &f.lat, &f.lon, &Given::default()).unwrap().mesh2grid.senders;
        let mut ties = 0;
        for (i, (a, b)) in ours.chunks(3).zip(theirs.chunks(3)).enumerate() {
            if a != b {
                let p = place(f.lat[i / f.lon.len()], f.lon[i % f.lon.len()]);
                let distance = |c: &[u32]| {
                    let corners = [0, 1, 2].map(|k| mesh.vertices[c[k] as usize].map(f64::from));
                    distance_to_triangle(p, corners)
                };
                let (ours, theirs) = (distance(a), distance(b));
                assert!((ours - theirs).abs() < 1e-6, "point {i}: {ours} from {a:?}, {theirs} from {b:?}");
                ties += 1;
            }
        }
        println!("{ties} of {} points at the same distance from another triangle", f.lat.len() * f.lon.len());
        assert!(ties * 4 < f.lat.len() * f.lon.len());
    }
}

fn place(lat: f32, lon: f32) -> [f64; 3] {
    let (lat, lon) = (f64::from(lat).to_radians(), f64::from(lon).to_radians());
    [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()]
}

/// By alternating projection onto the triangle's three edges and its plane: slow, but nothing like the code under test.
fn distance_to_triangle(p: [f64; 3], corners: [[f64; 3]; 3]) -> f64 {
    // Minimises over barycentric coordinates by repeated exact steps along each edge's direction, kept inside.
    let mut w = [1.0 / 3.0; 3];
    let at = |w: [f64; 3]| [0, 1, 2].map(|i| (0..3).map(|k| w[k] * corners[k][i]).sum::<f64>() - p[i]);
    for _ in 0..20_000 {
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let d = [0, 1, 2].map(|i| corners[b][i] - corners[a][i]);
            let r = at(w);
            let dot = |u: [f64; 3], v: [f64; 3]| u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
            let step = (-dot(r, d) / dot(d, d)).clamp(-w[b], w[a]);
            w[a] -= step;
            w[b] += step;
        }
    }
    let r = at(w);
    (r[0] * r[0] + r[1] * r[1] + r[2] * r[2]).sqrt()
}

#[test]
fn forcings() {
    for f in Case::all() {
        let tisr = values(&f.outputs["tisr"]);
        let n = f.lat.len() * f.lon.len();
        let most = tisr.iter().copied().fold(0.0, f32::max);
        for (i, &time) in f.times.iter().enumerate() {
            let ours = forcing::toa_incident_solar_radiation(time, &f.lat, &f.lon);
            near("radiation", &ours, &tisr[i * n..(i + 1) * n], 2e-6 * most);
        }
        let first = f.history_len();
        for (i, &time) in f.times.iter().enumerate() {
            let (prefix, index) = if i < first { ("input", i) } else { ("forcing", i - first) };
            let given = |name: &str| {
                f.inputs.get(&format!("{prefix}.{name}")).map(|t| values(&t.get(0).unwrap().get(index).unwrap()))
            };
            let (sin, cos) = forcing::sin_cos(forcing::year_progress(time));
            let days: Vec<_> = f.lon.iter().map(|&lon| forcing::sin_cos(forcing::day_progress(time, lon))).collect();
            let pairs = [
                ("year_progress_sin", vec![sin]),
                ("year_progress_cos", vec![cos]),
                ("day_progress_sin", days.iter().map(|d| d.0).collect()),
                ("day_progress_cos", days.iter().map(|d| d.1).collect()),
            ];
            for (name, ours) in pairs {
                if let Some(theirs) = given(name) {
                    near(name, &ours, &theirs, 1e-6);
                }
            }
        }
    }
}

#[test]
fn stages_of_one_step() {
    for f in Case::all() {
        let model = f.model();
        for batch in 0..f.batch() {
            let target = f.frame("forcing.", batch, f.times[f.history_len()], 0);
            let s = model.stages(&f.history(batch), Some(&target)).unwrap();
            near("grid_features", &s.grid_features, &f.stage("grid_features", batch), 1e-4);
            near("latent_grid_0", &s.latent_grid_0, &f.stage("latent_grid_0", batch), 1e-4);
            near("latent_mesh_0", &s.latent_mesh_0, &f.stage("latent_mesh_0", batch), 1e-4);
            near("latent_mesh_1", &s.latent_mesh_1, &f.stage("latent_mesh_1", batch), 1e-4);
            near("grid_output_norm", &s.grid_output_norm, &f.stage("grid_output_norm", batch), 1e-4);
        }
    }
}

/// Roll-out, forcings as given or as we compute them, in units of each variable's standard deviation.
#[test]
fn rollout() {
    for f in Case::all() {
        let model = f.model();
        let stats =
            candle_core::safetensors::load(f.fixture.file("stats.safetensors"), &candle_core::Device::Cpu).unwrap();
        let steps = f.fixture.config["steps"].as_u64().unwrap() as usize;
        for (given, batch) in (0..f.batch()).flat_map(|batch| [(true, batch), (false, batch)]) {
            let mut rollout = Rollout::new(&model, &f.history(batch)).unwrap();
            for step in 0..steps {
                let target = f.frame("forcing.", batch, f.times[f.history_len() + step], step);
                let frame = rollout.step(given.then_some(&target)).unwrap();
                assert_eq!(frame.time_unix_s, f.times[f.history_len() + step]);
                let mut off = 0f32;
                for variable in &f.config.task_config.target_variables {
                    let expected = f.outputs[&format!("rollout.{variable}")].get(batch).unwrap().get(step).unwrap();
                    let std = values(&stats[&format!("std.{variable}")]);
                    let levels = &f.config.task_config.pressure_levels;
                    let on_levels = expected.rank() == 3;
                    for (i, &std) in std.iter().enumerate() {
                        let (key, expected) = match on_levels {
                            true => (Key::level(variable, levels[i]), expected.get(i).unwrap()),
                            false => (Key::surface(variable), expected.clone()),
                        };
                        off = off.max(worst(&frame.values(&key).unwrap(), &values(&expected)) / std);
                    }
                }
                println!("step {}, forcings {}: {off:e}", step + 1, if given { "given" } else { "computed" });
                assert!(off <= if step == 0 { 1e-4 } else { 1e-3 }, "step {}: {off:e}", step + 1);
            }
        }
    }
}

#[test]
fn one_thread_or_many_give_the_same_bits() {
    for f in Case::all() {
        let bits = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let frame = pool.install(|| f.model().step(&f.history(0), None, 0).unwrap());
            let values = |key: &Key| frame.values(key).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            frame.fields().map(|(key, _)| (key.clone(), values(key))).collect::<Vec<_>>()
        };
        let one = bits(1);
        for threads in [2, 3, 8] {
            assert!(bits(threads) == one, "{threads} threads");
        }
    }
}

/// What the tolerance has to cover: f64 by candle's functions differs by more than another device in f32 would.
#[test]
fn the_tolerance_covers_f64() {
    for f in Case::all() {
        let model = f.model();
        let other = f.model_with(measure::f64_on_cpu());
        for batch in 0..f.batch() {
            let history = f.history(batch);
            let frames = [&model, &other].map(|m| m.step(&history, None, 0).unwrap());
            let apart = measure::apart(&frames[0], &frames[1]).unwrap();
            println!("f64 is off by {:.1e} of the spread of {}", apart[0].1, apart[0].0);
            assert!(apart[0].1 > 0.0 && 4.0 * apart[0].1 <= model.tolerance(), "{:?}", apart[0]);
        }
    }
}

#[test]
fn what_is_missing_is_listed() {
    for f in Case::all() {
        let model = f.model();
        let mut history = f.history(0);
        let missing = model.needs().fields[0].clone();
        let last = history.pop().unwrap();
        let mut poorer = Frame::new(last.time_unix_s, last.grid.clone());
        for (key, field) in last.fields().filter(|(k, _)| **k != missing) {
            poorer.insert(key.clone(), field.clone()).unwrap();
        }
        history.push(poorer);
        let e = model.step(&history, None, 0).unwrap_err().to_string();
        assert!(e.contains(&missing.to_string()) && e.contains("found"), "{e}");
    }
}

#[test]
fn the_imported_checkpoint_is_the_weights() {
    for f in Case::all() {
        let scratch = tempfile::tempdir().unwrap();
        let imported = f.weights(scratch.path());
        let original = Weights::open_as(&f.fixture.file("weights.safetensors"), "graphcast", Value::Null).unwrap();
        assert!(!original.names().is_empty());
        for name in original.names() {
            assert_eq!(imported.info(&name), original.info(&name), "{name}");
            assert_eq!(imported.bytes(&name).unwrap(), original.bytes(&name).unwrap(), "{name}");
        }
        let config: Config = imported.config().unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap()["task_config"], f.fixture.config["task_config"]);
        assert_eq!(serde_json::to_value(&config).unwrap()["model_config"], f.fixture.config["model_config"]);
    }
}

/// Statistics of all of ERA5's levels, as the official files have them, give those of the model's levels.
#[test]
fn statistics_from_netcdf() {
    for f in Case::all() {
        let scratch = tempfile::tempdir().unwrap();
        let stats =
            candle_core::safetensors::load(f.fixture.file("stats.safetensors"), &candle_core::Device::Cpu).unwrap();
        let wanted = &f.config.task_config.pressure_levels;
        let mut levels: Vec<u32> = wanted.clone();
        levels.extend((1..=1000).step_by(111).filter(|l| !wanted.contains(l)));
        levels.sort_unstable();
        let mut files = Vec::new();
        for (kind, name) in
            [("mean", "mean_by_level"), ("std", "stddev_by_level"), ("diffs_std", "diffs_stddev_by_level")]
        {
            let variable = |name: &str, dtype, shape: Vec<u64>, dimensions| Variable {
                path: format!("/{name}"),
                dtype,
                shape,
                dimensions,
                attributes: vec![],
                chunks: None,
            };
            let n = levels.len() as u64;
            let mut schema = Schema {
                format: Format::NetCdf4,
                groups: vec![Group { path: "/".into(), attributes: vec![] }],
                dimensions: vec![Dimension { path: "/level".into(), len: n, unlimited: false }],
                variables: vec![variable("level", FieldType::I32, vec![n], vec![0])],
            };
            let mut columns = vec![Values::I32(levels.iter().map(|&l| l as i32).collect())];
            let mut names: Vec<&String> = stats.keys().filter(|k| k.starts_with(&format!("{kind}."))).collect();
            names.sort();
            for name in names {
                let short = name.strip_prefix(&format!("{kind}.")).unwrap();
                let given = values(&stats[name]);
                if given.len() == wanted.len() && f.inputs.get(&format!("input.{short}")).is_some_and(|t| t.rank() == 5)
                {
                    let at = |l: &u32| wanted.iter().position(|w| w == l).map_or(f32::from(7u8), |i| given[i]);
                    schema.variables.push(variable(short, FieldType::F32, vec![n], vec![0]));
                    columns.push(Values::F32(levels.iter().map(at).collect()));
                } else {
                    schema.variables.push(variable(short, FieldType::F32, vec![], vec![]));
                    columns.push(Values::F32(given));
                }
            }
            let path = scratch.path().join(format!("{name}.nc"));
            let mut sink = io::create(&path, &schema, Format::NetCdf4, false).unwrap();
            for (i, column) in columns.iter().enumerate() {
                let region: Vec<_> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
                sink.write(i, &region, column).unwrap();
            }
            sink.finish().unwrap();
            files.push(path);
        }
        let checkpoint = f.fixture.file("params.npz");
        let path = scratch.path().join("a.safetensors");
        let options = ImportOptions { statistics: files.clone(), ..Default::default() };
        import::import(&checkpoint, &path, &options, false).unwrap();
        let (ours, expected) = (Weights::open(&path).unwrap(), f.weights(scratch.path()));
        assert_eq!(ours.names(), expected.names());
        for name in ours.names() {
            assert_eq!(ours.bytes(&name).unwrap(), expected.bytes(&name).unwrap(), "{name}");
        }
        // Two of the three are not enough, nor is one of them twice.
        let of = |statistics: Vec<PathBuf>| ImportOptions { statistics, ..Default::default() };
        let path = scratch.path().join("b.safetensors");
        let e = import::import(&checkpoint, &path, &of(files[..2].to_vec()), false).unwrap_err().to_string();
        assert!(e.contains("diffs_std."), "{e}");
        assert!(import::import(&checkpoint, &path, &of(vec![files[0].clone(), files[0].clone()]), false).is_err());
        assert!(!path.exists());
    }
}

#[test]
fn hostile_checkpoints_are_refused() {
    for f in Case::all() {
        let scratch = tempfile::tempdir().unwrap();
        let good = fs::read(f.fixture.file("params.npz")).unwrap();
        let options = ImportOptions { statistics: vec![f.fixture.file("stats.safetensors")], ..Default::default() };
        let path = scratch.path().join("bad.npz");
        let output = scratch.path().join("out.safetensors");
        let refuse = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let e = import::import(&path, &output, &options, true).expect_err(what).to_string();
            println!("{what}: {e}");
            assert!(!output.exists(), "{what}");
        };
        for cut in [0, 10, good.len() / 2, good.len() - 1] {
            refuse(&good[..cut], &format!("cut at {cut}"));
        }
        // Checksums of the archive would hide what the importer itself checks, so sizes and options are replaced by the configuration.
        fs::write(&path, &good).unwrap();
        for (what, config) in [
            ("wrong width", json!({"model_config": {"latent_size": f.config.model_config.latent_size + 1}})),
            ("huge width", json!({"model_config": {"latent_size": 1u64 << 40}})),
            ("too many steps", json!({"model_config": {"gnn_msg_steps": 1000}})),
            ("one step more", json!({"model_config": {"gnn_msg_steps": f.config.model_config.gnn_msg_steps + 1}})),
            ("huge mesh", json!({"model_config": {"mesh_size": 30}})),
            ("no resolution", json!({"model_config": {"resolution": 0.0}})),
            ("no duration", json!({"task_config": {"input_duration": "soon"}})),
            ("no such level", json!({"task_config": {"pressure_levels": [1, 2, 3, 4, 5, 6, 7]}})),
            ("no targets", json!({"task_config": {"target_variables": []}})),
        ] {
            let options = ImportOptions { config: Some(config), statistics: options.statistics.clone() };
            let e = import::import(&path, &output, &options, true).expect_err(what).to_string();
            println!("{what}: {e}");
            assert!(!output.exists(), "{what}");
        }
    }
}

/// Something done to the tensors of weights.
type Change<'a> = dyn Fn(&mut Vec<(String, weights::Planned<'_>)>) + 'a;

/// Weights whose statistics or networks do not fit their configuration are not run.
#[test]
fn damaged_weights_are_refused() {
    for f in Case::all() {
        let scratch = tempfile::tempdir().unwrap();
        let good = f.weights(scratch.path());
        let path = scratch.path().join("changed.safetensors");
        let write = |change: &Change<'_>| {
            let mut tensors: Vec<(String, weights::Planned<'_>)> = Vec::new();
            for name in good.names() {
                let (dtype, shape) = good.info(&name).map(|(d, s)| (d, s.to_vec())).unwrap();
                let bytes = good.bytes(&name).unwrap();
                tensors.push((name, weights::Planned { dtype, shape, bytes: Box::new(move || Ok(bytes.clone())) }));
            }
            change(&mut tensors);
            weights::write(&path, good.about(), &tensors, true, |_| Ok(())).unwrap();
            GraphCast::new(&Weights::open(&path).unwrap(), &Options::default()).map(drop)
        };
        write(&|_| {}).unwrap();
        assert!(write(&|t| t.retain(|(name, _)| !name.starts_with("mean."))).is_err());
        assert!(write(&|t| t.retain(|(name, _)| !name.contains("decoder"))).is_err());
        assert!(write(&|t| t.iter_mut().for_each(|(_, p)| p.shape.insert(0, 1))).is_err());
        // Standard deviations of zero would divide by it.
        let zero = |t: &mut Vec<(String, weights::Planned<'_>)>| {
            let (_, p) = t.iter_mut().find(|(name, _)| name.starts_with("std.")).unwrap();
            let n: usize = p.shape.iter().product();
            p.bytes = Box::new(move || Ok(vec![0; 4 * n]));
        };
        assert!(write(&zero).is_err());
    }
}

/// Numbers of edges at the sizes of the published models.
#[test]
fn edges_at_full_size() {
    let fixtures = Fixture::all("graphcast");
    let names = ["census_1deg.json", "census_025.json"];
    for path in fixtures.iter().flat_map(|f| names.map(|name| f.file(name))) {
        let name = path.display();
        let Ok(text) = fs::read_to_string(&path) else {
            println!("skipped: no {name}");
            continue;
        };
        let census: Value = serde_json::from_str(&text).unwrap();
        let step = census["res"].as_f64().unwrap();
        let (n_lat, n_lon) = ((180.0 / step) as usize + 1, (360.0 / step) as usize);
        let lat: Vec<f32> = (0..n_lat).map(|i| (i as f64 * step - 90.0) as f32).collect();
        let lon: Vec<f32> = (0..n_lon).map(|i| (i as f64 * step) as f32).collect();
        let mesh_size = census["splits"].as_u64().unwrap() as usize;
        let start = std::time::Instant::now();
        let config = GraphConfig { mesh_size, radius_fraction: 0.6, mesh2grid_divisor: None };
        let graph = Graph::new(config, &lat, &lon, &Given::default()).unwrap();
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        let count = |v: &Value| v.as_u64().unwrap() as usize;
        assert_eq!(graph.mesh_features.len(), count(&census["nodes"]));
        assert_eq!(graph.mesh.len(), count(&census["mesh_edges"]));
        assert_eq!(graph.grid2mesh.len(), count(&census["f32_radius"]["edges"]));
        assert_eq!(graph.mesh2grid.len(), 3 * count(&census["points"]));
        assert!((f64::from(graph.radius) / census["f32_radius"]["radius"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    }
}
