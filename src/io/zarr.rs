//! Placeholder until the real one lands.
use super::*;
/// .
pub struct ZarrSource;
impl ZarrSource { /// .
 pub fn open(_p:&Path)->Result<Box<dyn Source>>{Err(Error::unsupported("zarr"))} }
/// .
pub struct ZarrSink;
impl ZarrSink { /// .
 pub fn create(_p:&Path,_s:&Schema,_f:Format)->Result<Box<dyn Sink>>{Err(Error::unsupported("zarr"))} }
