//! The icosahedral multi-mesh of GraphCast and the edges between it and a latitude-longitude grid.
//!
//! Lam et al., *Learning skillful medium-range global weather forecasting*, Science 382 (2023), supplement 3.2 and 3.3. Positions are
//! 32-bit floats, as the published weights were trained with, so that an edge at the rim of the query radius is there or not there
//! as it was then; rotations of edge features are 64-bit.

use rayon::prelude::*;
use std::collections::HashMap;
use std::f32::consts::PI;

use crate::{Error, Result};

/// The finest mesh that is built: 655 362 nodes. The published models use 6 at most.
pub const MAX_SPLITS: usize = 8;

/// Query radii that are accepted, in edge lengths: at 2 a point sends to some 15 nodes. The published models use 0.6.
pub const RADIUS_FRACTIONS: std::ops::RangeInclusive<f64> = 1e-3..=2.0;

/// Grid points that are accepted at most: those of 0.1° (1801 × 3600).
const MAX_GRID_POINTS: usize = 1801 * 3600;

/// An icosahedron on the unit sphere, split again and again into four triangles a face; all levels are kept.
pub struct Mesh {
    /// Places of the nodes of the finest level on the unit sphere. Those of a coarser level come first.
    pub vertices: Vec<[f32; 3]>,
    /// Triangles of each level, coarse to fine, counter-clockwise seen from outside.
    pub levels: Vec<Vec<[u32; 3]>>,
}

/// Edges of one set, with what the network is told about each.
#[derive(Clone, Default)]
pub struct Edges {
    /// Node that sends, for each edge.
    pub senders: Vec<u32>,
    /// Node that receives, for each edge.
    pub receivers: Vec<u32>,
    /// Length and place of the sender as the receiver sees it (x up, y east, z north), each divided by the longest edge of the set.
    pub features: Vec<[f32; 4]>,
}

/// Everything of the network's input that depends only on the grid and the mesh.
pub struct Graph {
    /// Sine of latitude, cosine and sine of longitude of each grid point, latitude-major.
    pub grid_features: Vec<[f32; 3]>,
    /// The same of each mesh node.
    pub mesh_features: Vec<[f32; 3]>,
    /// From each grid point to the mesh nodes within [`Graph::radius`], by grid point, then by mesh node.
    pub grid2mesh: Edges,
    /// Between mesh nodes, of all levels, coarse first.
    pub mesh: Edges,
    /// From the three corners of the nearest triangle to each grid point.
    pub mesh2grid: Edges,
    /// Longest distance (chord of the unit sphere) of a grid point from a mesh node that it sends to.
    pub radius: f32,
}

/// What a [`Graph`] is made from, apart from the grid.
#[derive(Clone, Copy, Debug)]
pub struct GraphConfig {
    /// How often the icosahedron is split.
    pub mesh_size: usize,
    /// Query radius from grid to mesh in units of the longest edge of the finest mesh.
    pub radius_fraction: f64,
    /// Divisor of the features of edges from mesh to grid; the longest such edge where it is not given.
    pub mesh2grid_divisor: Option<f64>,
}

/// Parts of a [`Graph`] that were computed elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Three mesh nodes for each grid point: the corners of the nearest triangle.
    pub corners: Option<Vec<u32>>,
    /// Latitude and longitude of each mesh node, degrees. An ulp of theirs (3e-5 degrees) is 2e-6 of the longest edge of a mesh of two
    /// splits and 5e-5 of one of six, and vector libraries differ by one or two.
    pub mesh_lat_lon: Option<(Vec<f32>, Vec<f32>)>,
}

impl Mesh {
    /// The icosahedron split `splits` times.
    ///
    /// # Errors
    /// If there are more than [`MAX_SPLITS`].
    pub fn icosahedral(splits: usize) -> Result<Self> {
        if splits > MAX_SPLITS {
            return Err(Error::unsupported(format!("a mesh of {splits} splits, at most {MAX_SPLITS} are built")));
        }
        let (mut vertices, faces) = icosahedron();
        let mut levels = vec![faces];
        for _ in 0..splits {
            let finer = split(&mut vertices, levels.last().expect("the icosahedron is there"));
            levels.push(finer);
        }
        Ok(Self { vertices, levels })
    }

    /// Triangles of the finest level.
    pub fn faces(&self) -> &[[u32; 3]] {
        self.levels.last().expect("the icosahedron is there")
    }

    /// Latitude and longitude of each node in degrees.
    pub fn lat_lon(&self) -> (Vec<f32>, Vec<f32>) {
        let degrees = 180.0 / PI;
        let lat = |v: &[f32; 3]| 90.0 - (f64::from(v[2].clamp(-1.0, 1.0)).acos() as f32) * degrees;
        let lon = |v: &[f32; 3]| {
            let phi = f64::from(v[1]).atan2(f64::from(v[0])) as f32 * degrees;
            if phi < 0.0 { phi + 360.0 } else { phi }
        };
        (self.vertices.iter().map(lat).collect(), self.vertices.iter().map(lon).collect())
    }

    /// Length of the longest edge of the finest level.
    pub fn longest_edge(&self) -> f32 {
        let length = |&[a, b, c]: &[u32; 3]| {
            [(a, b), (b, c), (c, a)].map(|(i, j)| norm(sub(self.vertices[i as usize], self.vertices[j as usize])))
        };
        self.faces().iter().flat_map(length).fold(0.0, f32::max)
    }

    /// Edges of all levels: of all triangles from the first corner to the second, then second to third, then third to first.
    fn edges(&self) -> (Vec<u32>, Vec<u32>) {
        let faces = || self.levels.iter().flatten();
        let along = |i: usize, j: usize| faces().map(move |f| (f[i], f[j]));
        along(0, 1).chain(along(1, 2)).chain(along(2, 0)).unzip()
    }
}

/// The regular icosahedron with two of its edges horizontal at the top and the bottom.
fn icosahedron() -> (Vec<[f32; 3]>, Vec<[u32; 3]>) {
    let phi = (1.0 + 5f64.sqrt()) / 2.0;
    let radius = (1.0 + phi * phi).sqrt();
    // A corner is on top of the solid so far; half the supplement of the angle between faces brings a face there.
    let tilt = (std::f64::consts::PI - 2.0 * (phi / 3f64.sqrt()).asin()) / 2.0;
    let (sin, cos) = tilt.sin_cos();
    let mut vertices = Vec::with_capacity(12);
    for c1 in [1.0, -1.0] {
        for c2 in [phi, -phi] {
            for [x, y, z] in [[c1, c2, 0.0], [0.0, c1, c2], [c2, 0.0, c1]] {
                let [x, y, z] = [x, y, z].map(|v: f64| f64::from((f64::from(v as f32) / radius) as f32));
                vertices.push([(x * cos - z * sin) as f32, y as f32, (x * sin + z * cos) as f32]);
            }
        }
    }
    let faces = [
        [0, 1, 2],
        [0, 6, 1],
        [8, 0, 2],
        [8, 4, 0],
        [3, 8, 2],
        [3, 2, 7],
        [7, 2, 1],
        [0, 4, 6],
        [4, 11, 6],
        [6, 11, 5],
        [1, 5, 7],
        [4, 10, 11],
        [4, 8, 10],
        [10, 8, 3],
        [10, 3, 9],
        [11, 10, 9],
        [11, 9, 5],
        [5, 9, 7],
        [9, 3, 7],
        [1, 6, 5],
    ];
    (vertices, faces.to_vec())
}

/// Splits each face into four; new nodes, at the middles of edges and then moved onto the sphere, are appended as they are met.
/// Squares are of f32 and their sum of f64, as BLAS did it for the original: so every node is the same to the last bit.
fn split(vertices: &mut Vec<[f32; 3]>, faces: &[[u32; 3]]) -> Vec<[u32; 3]> {
    let mut middles = HashMap::with_capacity(faces.len() * 3 / 2);
    let mut middle = |a: u32, b: u32| {
        *middles.entry((a.min(b), a.max(b))).or_insert_with(|| {
            let (p, q) = (vertices[a as usize], vertices[b as usize]);
            let m = [0, 1, 2].map(|i| (p[i] + q[i]) / 2.0);
            let length = (m.iter().map(|v| f64::from(v * v)).sum::<f64>() as f32).sqrt();
            vertices.push(m.map(|v| v / length));
            vertices.len() as u32 - 1
        })
    };
    let mut finer = Vec::with_capacity(faces.len() * 4);
    for &[a, b, c] in faces {
        let (ab, bc, ca) = (middle(a, b), middle(b, c), middle(c, a));
        finer.extend([[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]);
    }
    finer
}

impl Graph {
    /// The graph of the grid with these latitudes and longitudes (degrees).
    ///
    /// A grid point between two triangles at the same distance (within rounding) takes the one that was split off first; and latitudes
    /// and longitudes of mesh nodes are the closest f32. `given` replaces either, for features that must repeat another
    /// implementation's choice and its last bits.
    ///
    /// # Errors
    /// If a coordinate is not finite, the grid is empty or larger than any known one, or the configuration is out of range.
    pub fn new(config: GraphConfig, lat: &[f32], lon: &[f32], given: &Given) -> Result<Self> {
        check_grid(lat, lon)?;
        if !RADIUS_FRACTIONS.contains(&config.radius_fraction) {
            let found = config.radius_fraction;
            let message = format!("a query radius of {found} edge lengths, {RADIUS_FRACTIONS:?} is supported");
            return Err(Error::unsupported(message));
        }
        let mesh = Mesh::icosahedral(config.mesh_size)?;
        let longest = mesh.longest_edge();
        let radius = longest * config.radius_fraction as f32;

        let points: Vec<[f32; 3]> = place_grid(lat, lon);
        let mesh_points: Vec<[f64; 3]> = mesh.vertices.iter().map(|v| v.map(f64::from)).collect();
        let (senders, receivers) = within(&points, &mesh_points, radius);
        let corners: Vec<u32> = match &given.corners {
            Some(corners) => {
                if corners.len() != 3 * points.len() || corners.iter().any(|&c| c as usize >= mesh_points.len()) {
                    return Err(Error::usage(
                        "corners of the nearest triangles: three nodes of the mesh a grid point are needed",
                    ));
                }
                corners.to_vec()
            }
            None => {
                let faces = nearest_faces(&points, &mesh_points, mesh.faces(), longest);
                faces.iter().flat_map(|&f| mesh.faces()[f as usize]).collect()
            }
        };

        let (grid_lat, grid_lon) = nodes_of_grid(lat, lon);
        let grid = Sphere::new(&grid_lat, &grid_lon);
        let (mesh_lat, mesh_lon) = match &given.mesh_lat_lon {
            Some((lat, lon)) => {
                if lat.len() != mesh_points.len() || lon.len() != lat.len() {
                    return Err(Error::usage("a latitude and a longitude of each node of the mesh are needed"));
                }
                (lat.clone(), lon.clone())
            }
            None => mesh.lat_lon(),
        };
        let nodes = Sphere::new(&mesh_lat, &mesh_lon);
        let grid2mesh = Edges::new(senders, receivers, &grid, &nodes, None);
        let (senders, receivers) = mesh.edges();
        let between = Edges::new(senders, receivers, &nodes, &nodes, None);
        let receivers = (0..points.len() as u32).flat_map(|i| [i; 3]).collect();
        let mesh2grid = Edges::new(corners, receivers, &nodes, &grid, config.mesh2grid_divisor);
        Ok(Self {
            grid_features: grid.features(),
            mesh_features: nodes.features(),
            grid2mesh,
            mesh: between,
            mesh2grid,
            radius,
        })
    }
}

impl Edges {
    /// Edges with their features; lengths are divided by `divisor` or else by the longest.
    fn new(senders: Vec<u32>, receivers: Vec<u32>, from: &Sphere, to: &Sphere, divisor: Option<f64>) -> Self {
        let seen: Vec<[f64; 4]> = senders
            .par_iter()
            .zip(&receivers)
            .map(|(&s, &r)| {
                // In f32 like the angles, as in the original; the rotation itself is of f64.
                let (azimuth, polar) = (-to.phi[r as usize], -to.theta[r as usize] + PI / 2.0);
                let turn = |v: [f32; 3]| rotate(f64::from(azimuth), f64::from(polar), v.map(f64::from));
                let d = sub64(turn(from.places[s as usize]), turn(to.places[r as usize]));
                [dot64(d, d).sqrt(), d[0], d[1], d[2]]
            })
            .collect();
        let longest = || seen.iter().map(|e| e[0]).fold(0.0, f64::max);
        let divisor = divisor.unwrap_or_else(longest);
        // A set without an edge, or with one of no length only, has nothing to divide.
        let divisor = if divisor == 0.0 { 1.0 } else { divisor };
        let features = seen.iter().map(|e| e.map(|v| (v / divisor) as f32)).collect();
        Self { senders, receivers, features }
    }

    /// Number of edges.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }
}

/// Nodes of one kind on the sphere.
struct Sphere {
    /// Longitude in radians.
    phi: Vec<f32>,
    /// Angle from the north pole in radians.
    theta: Vec<f32>,
    places: Vec<[f32; 3]>,
}

impl Sphere {
    fn new(lat: &[f32], lon: &[f32]) -> Self {
        let phi: Vec<f32> = lon.iter().map(|&v| radians(v)).collect();
        let theta: Vec<f32> = lat.iter().map(|&v| radians(90.0 - v)).collect();
        let places = phi.iter().zip(&theta).map(|(&p, &t)| place(p, t)).collect();
        Self { phi, theta, places }
    }

    fn features(&self) -> Vec<[f32; 3]> {
        let of = |(&p, &t): (&f32, &f32)| [cos(t), cos(p), sin(p)];
        self.phi.iter().zip(&self.theta).map(of).collect()
    }
}

fn check_grid(lat: &[f32], lon: &[f32]) -> Result<()> {
    let points = lat.len().saturating_mul(lon.len());
    if points == 0 || points > MAX_GRID_POINTS {
        let (h, w) = (lat.len(), lon.len());
        return Err(Error::input(format!("a grid of {h} × {w} points, between 1 and {MAX_GRID_POINTS} are supported")));
    }
    if let Some(bad) = lat.iter().find(|v| !(-90.0..=90.0).contains(*v)) {
        return Err(Error::input(format!("a latitude of {bad}, −90 to 90 is expected")));
    }
    if let Some(bad) = lon.iter().find(|v| !(-360.0..=360.0).contains(*v)) {
        return Err(Error::input(format!("a longitude of {bad}, −360 to 360 is expected")));
    }
    Ok(())
}

/// Latitude and longitude of each grid point, latitude-major.
fn nodes_of_grid(lat: &[f32], lon: &[f32]) -> (Vec<f32>, Vec<f32>) {
    lat.iter().flat_map(|&a| lon.iter().map(move |&o| (a, o))).unzip()
}

fn place_grid(lat: &[f32], lon: &[f32]) -> Vec<[f32; 3]> {
    let (lat, lon) = nodes_of_grid(lat, lon);
    Sphere::new(&lat, &lon).places
}

/// All pairs of a point and a node within `radius` of each other, by point, then by node.
fn within(points: &[[f32; 3]], nodes: &[[f64; 3]], radius: f32) -> (Vec<u32>, Vec<u32>) {
    let radius = f64::from(radius);
    let cells = Cells::new(nodes, radius);
    let found: Vec<Vec<u32>> = points
        .par_iter()
        .map(|p| {
            let mut near = Vec::new();
            cells.around(p.map(f64::from), |i, d2| {
                if d2 <= radius * radius {
                    near.push(i);
                }
            });
            near.sort_unstable();
            near
        })
        .collect();
    let pairs = found.iter().enumerate().flat_map(|(p, near)| near.iter().map(move |&n| (p as u32, n)));
    pairs.unzip()
}

/// Squared distances that differ by less are taken for equal: a point of f32 on the edge between two triangles.
const TIE: f64 = 1e-13;

/// The nearest of the flat triangles for each point; of those at the same distance the first.
fn nearest_faces(points: &[[f32; 3]], nodes: &[[f64; 3]], faces: &[[u32; 3]], longest: f32) -> Vec<u32> {
    // The nearest triangle has the nearest node as a corner: they are nearly equilateral. A node is never farther than an edge.
    let cells = Cells::new(nodes, f64::from(longest));
    let mut at_node = vec![Vec::with_capacity(6); nodes.len()];
    for (i, face) in faces.iter().enumerate() {
        for &corner in face {
            at_node[corner as usize].push(i as u32);
        }
    }
    let nearest = |p: &[f32; 3]| {
        let p = p.map(f64::from);
        let mut node = (f64::INFINITY, 0);
        cells.around(p, |i, d2| {
            if d2 < node.0 || (d2 == node.0 && i < node.1) {
                node = (d2, i);
            }
        });
        let mut best = (f64::INFINITY, 0);
        for &face in &at_node[node.1 as usize] {
            let d2 = to_triangle(p, faces[face as usize].map(|i| nodes[i as usize]));
            // Faces come in ascending order, so that the first of equals stays.
            if d2 < best.0 - TIE {
                best = (d2, face);
            }
        }
        best.1
    };
    points.par_iter().map(nearest).collect()
}

/// Squared distance of `p` from the nearest point of a flat triangle.
fn to_triangle(p: [f64; 3], [a, b, c]: [[f64; 3]; 3]) -> f64 {
    let normal = cross(sub64(b, a), sub64(c, a));
    // On the inner side of all three edges: the foot of the perpendicular is in the triangle.
    let inside = [(a, b), (b, c), (c, a)].iter().all(|&(u, v)| dot64(cross(sub64(v, u), sub64(p, u)), normal) >= 0.0);
    if inside {
        let height = dot64(sub64(p, a), normal);
        return height * height / dot64(normal, normal);
    }
    let to_edge = |u: [f64; 3], v: [f64; 3]| {
        let (uv, up) = (sub64(v, u), sub64(p, u));
        let t = (dot64(up, uv) / dot64(uv, uv)).clamp(0.0, 1.0);
        let d = [0, 1, 2].map(|i| up[i] - t * uv[i]);
        dot64(d, d)
    };
    to_edge(a, b).min(to_edge(b, c)).min(to_edge(c, a))
}

/// Nodes sorted into cubes whose side is the largest distance that is ever asked for.
struct Cells<'a> {
    nodes: &'a [[f64; 3]],
    side: f64,
    /// Cube and index of each node, sorted.
    sorted: Vec<(u64, u32)>,
}

impl<'a> Cells<'a> {
    fn new(nodes: &'a [[f64; 3]], reach: f64) -> Self {
        // At least 1/1000 of the sphere's radius keeps coordinates of cubes small; an empty cube costs nothing.
        let side = reach.max(1e-3);
        let mut sorted: Vec<(u64, u32)> =
            nodes.iter().zip(0..).map(|(&v, i)| (Self::key(Self::cube(v, side)), i)).collect();
        sorted.sort_unstable();
        Self { nodes, side, sorted }
    }

    /// Coordinates of the cube of a place, all at least 1.
    fn cube(v: [f64; 3], side: f64) -> [u64; 3] {
        v.map(|x| ((x + 2.0) / side) as u64 + 1)
    }

    fn key([x, y, z]: [u64; 3]) -> u64 {
        (x << 40) | (y << 20) | z
    }

    /// Calls `visit` with the index and the squared distance of every node within reach of `p`, and of some beyond.
    fn around(&self, p: [f64; 3], mut visit: impl FnMut(u32, f64)) {
        let [x, y, z] = Self::cube(p, self.side);
        for x in x - 1..=x + 1 {
            for y in y - 1..=y + 1 {
                // Cubes in a column along z are neighbours in the order.
                let (first, last) = (Self::key([x, y, z - 1]), Self::key([x, y, z + 1]));
                let start = self.sorted.partition_point(|&(key, _)| key < first);
                for &(_, i) in self.sorted[start..].iter().take_while(|&&(key, _)| key <= last) {
                    let d = sub64(self.nodes[i as usize], p);
                    visit(i, dot64(d, d));
                }
            }
        }
    }
}

fn radians(degrees: f32) -> f32 {
    degrees * (PI / 180.0)
}

// Rounded from f64, so that the last bit is the same on every machine.
fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

fn place(phi: f32, theta: f32) -> [f32; 3] {
    [cos(phi) * sin(theta), sin(phi) * sin(theta), cos(theta)]
}

/// Turns by `azimuth` round the z axis, then by `polar` round the y axis.
fn rotate(azimuth: f64, polar: f64, [x, y, z]: [f64; 3]) -> [f64; 3] {
    let (s, c) = azimuth.sin_cos();
    let (x, y) = (c * x - s * y, s * x + c * y);
    let (s, c) = polar.sin_cos();
    [c * x + s * z, y, c * z - s * x]
}

fn sub(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn norm([x, y, z]: [f32; 3]) -> f32 {
    (x * x + y * y + z * z).sqrt()
}

fn sub64(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot64(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_triangle_is_nearest_of_all() {
        let lat: Vec<f32> = (0..19).map(|i| -90.0 + 10.0 * i as f32).collect();
        let lon: Vec<f32> = (0..36).map(|i| 10.0 * i as f32 + 0.3).collect();
        let points = place_grid(&lat, &lon);
        for splits in 0..=4 {
            let mesh = Mesh::icosahedral(splits).unwrap();
            let nodes: Vec<[f64; 3]> = mesh.vertices.iter().map(|v| v.map(f64::from)).collect();
            let found = nearest_faces(&points, &nodes, mesh.faces(), mesh.longest_edge());
            for (p, face) in points.iter().zip(found) {
                let d2 = |f: &[u32; 3]| to_triangle(p.map(f64::from), f.map(|i| nodes[i as usize]));
                let best = mesh.faces().iter().map(d2).fold(f64::INFINITY, f64::min);
                assert!(d2(&mesh.faces()[face as usize]) <= best + TIE, "{splits} splits, {p:?}");
            }
        }
    }

    #[test]
    fn the_radius_query_finds_every_pair() {
        let mesh = Mesh::icosahedral(3).unwrap();
        let nodes: Vec<[f64; 3]> = mesh.vertices.iter().map(|v| v.map(f64::from)).collect();
        let lat: Vec<f32> = (0..37).map(|i| -90.0 + 5.0 * i as f32).collect();
        let lon: Vec<f32> = (0..72).map(|i| 5.0 * i as f32).collect();
        let points = place_grid(&lat, &lon);
        for fraction in [0.3, 0.6, 1.0, 2.0] {
            let radius = mesh.longest_edge() * fraction;
            let mut all = Vec::new();
            for (i, p) in (0u32..).zip(&points) {
                for (j, n) in (0u32..).zip(&nodes) {
                    let d = sub64(*n, p.map(f64::from));
                    if dot64(d, d) <= f64::from(radius).powi(2) {
                        all.push((i, j));
                    }
                }
            }
            let (s, r) = within(&points, &nodes, radius);
            assert!(s.into_iter().zip(r).eq(all), "{fraction}");
        }
    }

    #[test]
    fn receivers_see_themselves_in_the_middle() {
        let sphere = Sphere::new(&[37.5, -90.0, 90.0], &[201.25, 0.0, 10.0]);
        for i in 0..3 {
            let seen = rotate(
                f64::from(-sphere.phi[i]),
                f64::from(-sphere.theta[i] + PI / 2.0),
                sphere.places[i].map(f64::from),
            );
            assert!((seen[0] - 1.0).abs() < 1e-6 && seen[1].abs() < 1e-6 && seen[2].abs() < 1e-6, "{seen:?}");
        }
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Mesh::icosahedral(MAX_SPLITS + 1).is_err());
        let none = Given::default();
        let corners = |c: &[u32]| Given { corners: Some(c.to_vec()), ..Given::default() };
        let config = GraphConfig { mesh_size: 1, radius_fraction: 0.6, mesh2grid_divisor: None };
        assert!(Graph::new(config, &[], &[0.0], &none).is_err());
        assert!(Graph::new(config, &[f32::NAN], &[0.0], &none).is_err());
        assert!(Graph::new(GraphConfig { radius_fraction: 1e9, ..config }, &[0.0], &[0.0], &none).is_err());
        assert!(Graph::new(config, &[0.0], &[0.0], &corners(&[0, 1, 42])).is_err());
        assert!(
            Graph::new(config, &[0.0, 1.0], &[0.0, 1.0], &corners(&[0, 1, 2, 41, 40, 39, 3, 4, 5, 6, 7, 8])).is_ok()
        );
    }
}
