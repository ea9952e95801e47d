//! NetCDF-4: HDF5 files that follow the conventions of the NetCDF library.
//!
//! Dimensions are "scales": a dimension with a coordinate variable is that variable's array, any other is an array
//! without values. Arrays name their scales in the attribute `DIMENSION_LIST`, scales have a number in `_Netcdf4Dimid`.
//! These and other attributes of the machinery are not shown as attributes of the file.

mod attributes;
mod chunks;
mod encode;
mod heap;
mod order;
mod plan;
pub mod read;
mod scales;
pub mod write;

/// Attributes of arrays that belong to the machinery.
const RESERVED_OF_ARRAYS: [&str; 6] =
    ["CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"];

/// Attributes of groups that belong to the machinery.
const RESERVED_OF_GROUPS: [&str; 2] = ["_NCProperties", "_nc3_strict"];

/// How the `NAME` of a scale starts that is a dimension without a coordinate variable; its length follows.
const NO_VARIABLE: &str = "This is a netCDF dimension but not a netCDF variable";

/// Prefix of a variable's name in the file if a dimension has the same name but the variable is not its coordinate.
const NOT_A_COORDINATE: &str = "_nc4_non_coord_";
