#!/usr/bin/env python3
"""Makes small seeds for the fuzzers from what the repository holds: golden archives and hand-written metadata."""
import json
import pathlib
import struct
import sys

root = pathlib.Path(__file__).resolve().parent.parent
out = pathlib.Path(sys.argv[1])


def put(target, name, data):
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


for path in sorted((root / "golden").glob("**/*.rsd")):
    put("archive", path.name, path.read_bytes())
    put("metadata", path.name, path.read_bytes())
for path in sorted((root / "golden").glob("**/*.nc")):
    put("netcdf", path.name, path.read_bytes())

put("field", "ramp", bytes([5, 250, 0, 0]) + struct.pack("<40f", *[i * 0.1 for i in range(40)]))
put("field", "nan", bytes([4, 252, 1, 0]) + struct.pack("<16f", *[float("nan")] * 8, *range(8)))
put("tile", "exact", bytes([0, 2, 2, 1, 1, 0]) + struct.pack("<4f", 1, 2, 3, 4))
put("tile", "none", bytes([0, 2, 2, 1, 1, 1]) + struct.pack("<2f", 0.0, 0.1) + bytes([0, 0, 0, 2, 4, 0, 0, 0, 0]))
header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }".ljust(117) + "\n"
put("npy", "f4", b"\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(16))
put("netcdf", "classic", b"CDF\x01" + bytes(28))
put("netcdf", "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(40))
v2 = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "<f4", "compressor": None, "fill_value": 0.0, "filters": None, "order": "C"}
v3 = {
    "zarr_format": 3, "node_type": "array", "shape": [4], "data_type": "float32", "fill_value": 0.0,
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}
put("zarr", "v2", b"\x00" + json.dumps(v2).encode() + b"\x00" + bytes(16))
put("zarr", "v3", b"\x01" + json.dumps(v3).encode() + b"\x00" + bytes(16))
