//! Everything but values: groups, dimensions, attributes, and which variables there are.

use super::find;
use crate::io::{Attribute, Schema, Variable};

/// What differs, a line each. An archive of some variables only need not have the dimensions and groups of the others.
pub fn compare(original: &Schema, archive: &Schema) -> Vec<String> {
    let mut out = Vec::new();
    for g in &archive.groups {
        match original.groups.iter().find(|o| o.path == g.path) {
            Some(o) => out.extend(differing(&o.attributes, &g.attributes).map(|a| format!("group {}: {a}", g.path))),
            None => out.push(format!("group {} is not in the original", g.path)),
        }
    }
    for d in &archive.dimensions {
        match original.dimensions.iter().find(|o| o.path == d.path) {
            Some(o) if o == d => {}
            Some(o) if o.len == d.len => out.push(format!("dimension {}: unlimited on one side only", d.path)),
            Some(o) => out.push(format!("dimension {}: length {} became {}", d.path, o.len, d.len)),
            None => out.push(format!("dimension {} is not in the original", d.path)),
        }
    }
    for v in &archive.variables {
        let name = v.name();
        let Some(i) = find(original, archive, v) else {
            out.push(format!("variable {name:?} is not in the original"));
            continue;
        };
        let o = &original.variables[i];
        if o.dtype != v.dtype {
            out.push(format!("variable {name:?}: type {} became {}", o.dtype, v.dtype));
        }
        if o.shape != v.shape {
            out.push(format!("variable {name:?}: shape {:?} became {:?}", o.shape, v.shape));
        }
        if dimension_names(original, o) != dimension_names(archive, v) {
            out.push(format!("variable {name:?}: its dimensions have other names"));
        }
        out.extend(differing(&o.attributes, &v.attributes).map(|a| format!("variable {name:?}: {a}")));
    }
    out
}

/// Variables of the original that the archive does not have.
pub fn left_out(original: &Schema, archive: &Schema) -> Vec<String> {
    let found: Vec<usize> = archive.variables.iter().filter_map(|v| find(original, archive, v)).collect();
    let missing = original.variables.iter().enumerate().filter(|(i, _)| !found.contains(i));
    missing.map(|(_, v)| v.name().to_string()).collect()
}

fn dimension_names<'a>(schema: &'a Schema, v: &Variable) -> Vec<&'a str> {
    v.dimensions.iter().filter_map(|&d| schema.dimensions.get(d as usize)).map(|d| d.path.as_str()).collect()
}

/// Attributes that are not the same, bit for bit, on both sides.
fn differing<'a>(original: &'a [Attribute], archive: &'a [Attribute]) -> impl Iterator<Item = String> + 'a {
    // NaN is not equal to itself; its bytes are.
    let bytes = |a: &Attribute| minicbor::to_vec(a).unwrap_or_default();
    let same =
        move |a: &Attribute, others: &[Attribute]| others.iter().any(|b| a.name == b.name && bytes(a) == bytes(b));
    let lost = original.iter().filter(move |a| !same(a, archive));
    let new = archive.iter().filter(|a| !original.iter().any(|o| o.name == a.name));
    lost.chain(new).map(|a| format!("attribute {:?} differs", a.name))
}
