//! Parts of a data set: some variables, some indices of a dimension, what a broken archive still has.

use super::{AttributeValue, Dimension, LOCATING, Schema, Variable, leaf};
use crate::error::{Error, Result};
use std::ops::Range;

/// Some indices of a dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedRange {
    /// Name of the dimension, or number of the axis.
    pub dimension: String,
    /// First index.
    pub start: u64,
    /// Index after the last; the dimension's length if left out.
    pub end: Option<u64>,
}

/// Variables of a data set, each with a box, and the schema of what is selected.
#[derive(Clone, Debug)]
pub struct Selection {
    /// What is selected.
    pub schema: Schema,
    /// For each variable of `schema`: its index in the whole data set, and the box of it.
    pub parts: Vec<(usize, Vec<Range<u64>>)>,
}

impl Selection {
    /// Everything.
    pub fn all(schema: &Schema) -> Self {
        let whole = |v: &Variable| v.shape.iter().map(|&n| 0..n).collect();
        Self { schema: schema.clone(), parts: schema.variables.iter().map(whole).enumerate().collect() }
    }

    /// Keeps only the variables `names`; with their coordinates, and the bounds of those, if asked for.
    ///
    /// # Errors
    /// `Usage` if there is no such variable, with the names that there are.
    pub fn keep(&mut self, names: &[String], with_coordinates: bool) -> Result<()> {
        let variables = &self.schema.variables;
        let mut kept = vec![false; variables.len()];
        let mut todo = names.iter().map(|name| self.schema.find(name)).collect::<Result<Vec<_>>>()?;
        while let Some(i) = todo.pop() {
            if !std::mem::replace(&mut kept[i], true) && with_coordinates {
                todo.extend((0..variables.len()).filter(|&c| !kept[c] && self.locates(c, i)));
            }
        }
        self.retain(|i| kept[i]);
        self.drop_unused();
        Ok(())
    }

    /// Leaves out the variables `names`; their dimensions stay.
    ///
    /// # Errors
    /// `Usage` if there is no such variable, with the names that there are.
    pub fn exclude(&mut self, names: &[String]) -> Result<()> {
        let excluded = names.iter().map(|name| self.schema.find(name)).collect::<Result<Vec<_>>>()?;
        self.retain(|i| !excluded.contains(&i));
        Ok(())
    }

    /// Whether variable `c` is a coordinate of variable `v`: named like one of its dimensions, or by one of its attributes.
    fn locates(&self, c: usize, v: usize) -> bool {
        let (c, v) = (&self.schema.variables[c], &self.schema.variables[v]);
        let own_name = leaf(&c.path);
        let of_dimension = match c.dimensions[..] {
            [d] => v.dimensions.contains(&d) && leaf(&self.schema.dimensions[d as usize].path) == own_name,
            _ => false,
        };
        let names = |value: &AttributeValue| value.words().any(|word| leaf(word) == own_name);
        of_dimension
            || v.attributes.iter().any(|a| LOCATING.contains(&a.name.as_str()) && names(&a.value))
            // Coordinates that a global attribute lists belong to the variables that have their dimensions.
            || (c.dimensions.iter().all(|d| v.dimensions.contains(d))
                && self.schema.groups.iter().flat_map(|g| &g.attributes).any(|a| a.name == "coordinates" && names(&a.value)))
    }

    /// Keeps the variables for which `f`, of their index in the selection, holds.
    pub fn retain(&mut self, f: impl Fn(usize) -> bool) {
        let mut i = 0..;
        self.schema.variables.retain(|_| i.next().is_some_and(&f));
        let mut i = 0..;
        self.parts.retain(|_| i.next().is_some_and(&f));
    }

    /// Drops dimensions without variables, and groups without either.
    fn drop_unused(&mut self) {
        let Schema { groups, dimensions, variables, .. } = &mut self.schema;
        let mut used = vec![false; dimensions.len()];
        variables.iter().flat_map(|v| &v.dimensions).for_each(|&d| used[d as usize] = true);
        let places: Vec<u32> = used
            .iter()
            .scan(0, |next, &u| {
                let place = *next;
                *next += u32::from(u);
                Some(place)
            })
            .collect();
        variables.iter_mut().flat_map(|v| &mut v.dimensions).for_each(|d| *d = places[*d as usize]);
        let mut i = 0;
        dimensions.retain(|_| {
            i += 1;
            used[i - 1]
        });
        groups.retain(|g| {
            let inside = |path: &str| path.strip_prefix(&g.path).is_some_and(|rest| rest.starts_with('/'));
            g.path == "/" || variables.iter().any(|v| inside(&v.path)) || dimensions.iter().any(|d| inside(&d.path))
        });
    }

    /// Keeps only some indices of a dimension, in every variable that has it.
    ///
    /// # Errors
    /// `Usage` if there is no such dimension or it is shorter.
    pub fn crop(&mut self, wanted: &NamedRange) -> Result<()> {
        let name = &wanted.dimension;
        let fit = |len: u64| {
            let end = wanted.end.unwrap_or(len);
            if wanted.start >= end || end > len {
                return Err(Error::usage(format!("range {name}: the dimension has the indices 0:{len}")));
            }
            Ok(wanted.start..end)
        };
        let Schema { dimensions, variables, .. } = &mut self.schema;
        let mut found = false;
        for (d, dimension) in dimensions.iter_mut().enumerate() {
            let path = &dimension.path;
            if path.trim_start_matches('/') != name.trim_start_matches('/') && leaf(path) != name {
                continue;
            }
            found = true;
            let range = fit(dimension.len)?;
            dimension.len = range.end - range.start;
            for (v, (_, part)) in variables.iter_mut().zip(&mut self.parts) {
                for axis in (0..v.dimensions.len()).filter(|&a| v.dimensions[a] as usize == d).collect::<Vec<_>>() {
                    narrow(v, part, axis, &range)?;
                }
            }
        }
        if let Ok(axis) = name.parse::<usize>() {
            for (v, (_, part)) in variables.iter_mut().zip(&mut self.parts) {
                if v.dimensions.is_empty() && axis < v.shape.len() {
                    found = true;
                    let range = fit(v.shape[axis])?;
                    narrow(v, part, axis, &range)?;
                }
            }
        }
        if found {
            return Ok(());
        }
        let names: Vec<&str> = dimensions.iter().map(|d| d.path.trim_start_matches('/')).collect();
        Err(Error::usage(if names.is_empty() {
            format!("range {name}: no such axis; dimensions without names go by their number, the slowest is 0")
        } else {
            format!("range {name}: no such dimension; there are: {}", names.join(", "))
        }))
    }

    /// Shortens the first axis of a variable, of which only the indices below `n` can be restored. Other variables keep the
    /// dimension as it is: the variable gets one of its own. Whether anything is left.
    pub fn shorten(&mut self, i: usize, n: u64) -> bool {
        let (v, (_, part)) = (&mut self.schema.variables[i], &mut self.parts[i]);
        let Some(first) = part.first().cloned() else { return n > 0 };
        if first.end <= n || first.start >= n {
            return first.end <= n;
        }
        set_range(v, part, 0, first.start..n);
        if let Some(d) = v.dimensions.first_mut() {
            let len = n - first.start;
            let mut path = format!("{}_{len}", self.schema.dimensions[*d as usize].path);
            while self.schema.dimensions.iter().any(|d| d.path == path) {
                path.push('_');
            }
            self.schema.dimensions.push(Dimension { path, len, unlimited: false });
            *d = self.schema.dimensions.len() as u32 - 1;
        }
        true
    }
}

/// Takes the indices `range` of what is selected on an axis.
fn narrow(v: &mut Variable, part: &mut [Range<u64>], axis: usize, range: &Range<u64>) -> Result<()> {
    // The schema comes from an archive: its dimensions may be made up.
    if range.end > v.shape[axis] {
        return Err(Error::corrupt(format!("variable {:?} is shorter than its dimension", v.name())));
    }
    let start = part[axis].start;
    set_range(v, part, axis, start + range.start..start + range.end);
    Ok(())
}

fn set_range(v: &mut Variable, part: &mut [Range<u64>], axis: usize, range: Range<u64>) {
    v.shape[axis] = range.end - range.start;
    if let Some(chunk) = v.chunks.as_mut().and_then(|c| c.get_mut(axis)) {
        *chunk = (*chunk).min(v.shape[axis]).max(1);
    }
    part[axis] = range;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::field::DType;
    use crate::io::{Format, Group};

    fn schema() -> Schema {
        let dimension = |path: &str, len| Dimension { path: path.into(), len, unlimited: false };
        let variable = |path: &str, dimensions: &[u32], shape: &[u64], coordinates: &str| Variable {
            path: path.into(),
            dtype: DType::F32,
            shape: shape.to_vec(),
            dimensions: dimensions.to_vec(),
            attributes: vec![crate::io::Attribute {
                name: "coordinates".into(),
                value: AttributeValue::Text(coordinates.into()),
            }],
            chunks: None,
        };
        Schema {
            format: Format::NetCdf4,
            groups: ["/", "/a", "/b"].map(|path| Group { path: path.into(), attributes: vec![] }).to_vec(),
            dimensions: vec![dimension("/z", 3), dimension("/a/x", 5), dimension("/b/x", 7)],
            variables: vec![
                variable("/z", &[0], &[3], ""),
                variable("/a/x", &[1], &[5], ""),
                variable("/a/level", &[], &[], ""),
                variable("/a/t", &[0, 1], &[3, 5], "level"),
                variable("/b/t", &[0, 2], &[3, 7], ""),
            ],
        }
    }

    fn range(dimension: &str, start: u64, end: u64) -> NamedRange {
        NamedRange { dimension: dimension.into(), start, end: Some(end) }
    }

    #[test]
    fn a_variable_keeps_its_coordinates_dimensions_and_group() {
        let mut s = Selection::all(&schema());
        s.keep(&["a/t".into()], true).unwrap();
        let names: Vec<_> = s.schema.variables.iter().map(|v| v.name()).collect();
        assert_eq!(names, ["z", "a/x", "a/level", "a/t"]);
        assert_eq!(s.schema.dimensions.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(), ["/z", "/a/x"]);
        assert_eq!(s.schema.groups.iter().map(|g| g.path.as_str()).collect::<Vec<_>>(), ["/", "/a"]);

        let mut s = Selection::all(&schema());
        s.keep(&["/b/t".into()], false).unwrap();
        assert_eq!(s.schema.variables[0].dimensions, [0, 1]);
        assert_eq!(s.parts, [(4, vec![0..3, 0..7])]);
    }

    #[test]
    fn ranges_crop_all_that_have_the_dimension() {
        let mut s = Selection::all(&schema());
        s.crop(&range("x", 1, 4)).unwrap();
        assert_eq!(s.schema.variables[3].shape, [3, 3]);
        assert_eq!(s.parts[4].1, [0..3, 1..4]);
        s.crop(&range("b/x", 1, 2)).unwrap();
        assert_eq!(s.parts[4].1, [0..3, 2..3]);
        assert_eq!(s.parts[3].1, [0..3, 1..4]);
    }

    #[test]
    fn a_made_up_dimension_is_noticed() {
        let mut schema = schema();
        schema.dimensions[0].len = 100;
        let e = Selection::all(&schema).crop(&range("z", 50, 60)).unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_shortened_variable_gets_a_dimension_of_its_own() {
        let mut s = Selection::all(&schema());
        assert!(s.shorten(3, 2));
        assert_eq!(s.schema.variables[3].shape, [2, 5]);
        assert_eq!(s.schema.dimensions[3], Dimension { path: "/z_2".into(), len: 2, unlimited: false });
        assert_eq!(s.schema.variables[4].shape, [3, 7]);
        assert!(!s.shorten(4, 0));
        assert!(s.shorten(0, 3));
    }
}
