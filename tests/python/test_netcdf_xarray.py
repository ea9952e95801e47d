#!/usr/bin/env python3
"""Files made by netCDF4, xarray, SciPy and h5py pass through `residuum` and come back alike.

    pip install xarray netCDF4 h5py scipy numpy
    RESIDUUM=target/release/residuum python tests/python/test_netcdf_xarray.py

Every file is compressed with an absolute bound, decompressed, and compared with the original: dimensions (unlimited
ones too), order of variables, types, attributes with their types, groups, chunk lengths. Floating-point values may differ by
the bound, anything else not at all. pytest runs the same tests, one for each file.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import xarray as xr

BOUND = 0.01
RESIDUUM = os.environ.get("RESIDUUM", "residuum")
FORMATS = ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4", "NETCDF4_CLASSIC"]


# Files


def everything(path, model):
    """What all formats can hold, and what the richer ones can besides."""
    rng = np.random.default_rng(1)
    hdf5 = model.startswith("NETCDF4")
    with netCDF4.Dataset(path, "w", format=model) as f:
        f.createDimension("time", None)
        for name, n in [("lat", 7), ("lon", 11), ("letters", 5), ("bounds", 2), ("station", 3)]:
            f.createDimension(name, n)
        f.title = "all of it"
        f.empty = ""
        f.history = "first line\nsecond line"
        f.one = np.int32(3)
        f.doubles = np.array([1.5, 2.5])
        f.shorts = np.array([1, 2, 3], "i2")
        time = f.createVariable("time", "f8", ("time",))
        time.units = "days since 2000-01-01"
        time.calendar = "standard"
        time.bounds = "time_bounds"
        time[:] = np.arange(5)
        f.createVariable("lat", "f4", ("lat",))[:] = np.linspace(-90, 90, 7)
        storage = dict(zlib=True, shuffle=True, chunksizes=(2, 5, 6)) if hdf5 else {}
        t = f.createVariable("t2m", "f4", ("time", "lat", "lon"), fill_value=np.float32(-999), **storage)
        t.units = "K"
        t.long_name = "the attributes are not sorted"
        t.byte = np.int8(3)
        t.double = 1e300
        t.valid_range = np.array([0, 400], "f4")
        for i in range(12):  # more than HDF5 keeps in an object header
            t.setncattr(f"number_{i * 7 % 12}", np.int32(i))
        field = rng.normal(280, 10, (5, 7, 11)).astype("f4")
        field[0, 0, :3] = -999
        field[1, 2, 3:6] = np.nan
        field[2, 0, 0] = np.inf
        t[:] = field
        packed = f.createVariable("packed", "i2", ("time", "lat", "lon"), fill_value=np.int16(-32768))
        packed.set_auto_maskandscale(False)
        packed.scale_factor = 0.01
        packed.add_offset = 273.15
        packed[:] = rng.integers(-3000, 3000, (5, 7, 11))
        f.createVariable("time_bounds", "f8", ("time", "bounds"))[:] = rng.normal(size=(5, 2))
        names = netCDF4.stringtochar(np.array(["ab", "cdefg", ""], "S5"))
        f.createVariable("name", "S1", ("station", "letters"))[:] = names
        f.createVariable("flag", "i1", ("station",))[:] = [-1, 0, 5]
        f.createVariable("count", "i4", ("lat", "lon"))[:] = rng.integers(-(2**31), 2**31 - 1, (7, 11))
        crs = f.createVariable("crs", "i4")
        crs[...] = 42
        crs.grid_mapping_name = "latitude_longitude"
        if model in ("NETCDF3_64BIT_DATA", "NETCDF4"):
            for kind in ["u1", "u2", "u4", "i8", "u8"]:
                v = f.createVariable("v_" + kind, kind, ("lon",), fill_value=np.array(7, kind))
                v[:] = rng.integers(0, 200, 11)
                v.attribute = np.array([1, 2], kind)


def groups(path):
    with netCDF4.Dataset(path, "w") as f:
        f.createDimension("x", 4)
        f.createDimension("time", None)
        f.createVariable("z_comes_first", "f4", ("x",))[:] = 1
        f.createVariable("a_comes_second", "f4", ("time", "x"), zlib=True)[:3] = 2
        g = f.createGroup("forecast")
        g.note = "in a group"
        g.createDimension("x", 6)
        g.createDimension("y", 2)
        g.createDimension("record", None)
        g.createVariable("v", "f8", ("y", "x"))[:] = np.arange(12).reshape(2, 6)
        g.createVariable("y", "f8", ("y",))[:] = [1, 2]
        g.createVariable("inherits", "i8", ("time", "y"))[:] = np.arange(6).reshape(3, 2)
        deep = g.createGroup("deep")
        deep.history = "hé ünïcode"
        deep.createVariable("w", "u8", ("x", "record"))[:, :3] = np.arange(18).reshape(6, 3)
        deep.createVariable("s", str, ("y",))[:] = np.array(["äöü", ""], object)
        f.createGroup("empty")


def strings(path):
    with netCDF4.Dataset(path, "w") as f:
        f.createDimension("n", 5)
        f.createDimension("u", None)
        v = f.createVariable("s", str, ("n",))
        v[:] = np.array(["a", "", "long " * 3000, "ünï", "x"], object)
        v.setncattr_string("one", "single")
        v.many = ["l", "m", ""]
        v.plain = "characters"
        w = f.createVariable("grows", str, ("u", "n"), chunksizes=(2, 3))
        for i in range(3):
            w[i] = np.array([str(i)] * 5, object)
        f.createVariable("scalar", str)[...] = "only"
        f.utf8 = "héllo"


def odd(path):
    with netCDF4.Dataset(path, "w") as f:
        for name, n in [("x", 3), ("y", 4), ("t", None), ("t2", None), ("never", None)]:
            f.createDimension(name, n)
        f.createVariable("x", "f4", ("y",))[:] = 1  # named after a dimension that it does not have
        f.createVariable("y", "f4", ("y", "x"))[:] = np.arange(12).reshape(4, 3)  # a coordinate of two dimensions
        f.createVariable("two", "f4", ("t", "t2", "x"))[:2, :5] = np.arange(30).reshape(2, 5, 3)
        f.createVariable("unwritten", "f4", ("t", "x"))
        f.createVariable("short", "f4", ("t",))[:1] = 5
        f.createVariable("no_records", "f4", ("never", "x"))
        f.createVariable("square", "f4", ("x", "x"))[:] = np.arange(9).reshape(3, 3)
        f.createVariable("big_endian", "f8", ("x",), endian="big")[:] = [1, 2, 3]
        f.createVariable("contiguous", "f8", ("x",), contiguous=True)[:] = 1
        f.createVariable("checked", "f8", ("x",), fletcher32=True)[:] = 1
        for i in range(40):
            f.createVariable(f"z{39 - i:02}", "i4", ("x",))[:] = i


def xarray_file(path, **how):
    rng = np.random.default_rng(2)
    times = np.array(["2000-01-01", "2000-01-02", "2000-01-03"], "M8[ns]")
    data = {"a": (("t", "x"), rng.normal(size=(3, 4))), "when": ("t", times), "word": ("x", np.array(["p", "q", "rr", "s"]))}
    dataset = xr.Dataset(data, coords={"t": [1, 2, 3]}, attrs={"k": 1})
    encoding = {"a": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}}
    dataset.to_netcdf(path, encoding=encoding, unlimited_dims=["t"], **how)


def scipy_records(path):
    from scipy.io import netcdf_file

    with netcdf_file(path, "w") as f:  # one variable with records, which are not padded then
        f.createDimension("t", None)
        f.createDimension("x", 3)
        f.createVariable("v", "h", ("t", "x"))[:] = np.arange(15).reshape(5, 3)
        f.history = "h"


CASES = {model: (lambda path, model=model: everything(path, model)) for model in FORMATS}
CASES |= {
    "groups": groups,
    "strings": strings,
    "odd": odd,
    "xarray": xarray_file,
    "xarray_scipy": lambda path: xarray_file(path, engine="scipy"),
    "scipy_records": scipy_records,
}


# Comparison


def attributes(item):
    def kind(value):
        return type(value).__name__ if isinstance(value, (str, list)) else np.asarray(value).dtype.newbyteorder("=").str

    return [(name, kind(item.getncattr(name)), repr(item.getncattr(name))) for name in item.ncattrs()]


def compare_values(a, b, place):
    for v in (a, b):
        v.set_auto_mask(False)
        v.set_auto_scale(False)
        v.set_auto_chartostring(False)
    x, y = np.asarray(a[...]), np.asarray(b[...])
    assert x.shape == y.shape, f"{place}: shape {x.shape} became {y.shape}"
    if x.dtype.kind != "f":
        assert np.array_equal(x, y), f"{place}: values differ"
        return
    exact = ~np.isfinite(x)
    if "_FillValue" in a.ncattrs():
        exact |= x == a.getncattr("_FillValue")
    exact |= np.abs(x) > 1e30  # what netCDF4 fills with by default
    assert np.array_equal(x[exact], y[exact], equal_nan=True), f"{place}: missing or special values differ"
    error = np.abs(x[~exact].astype("f8") - y[~exact].astype("f8"))
    assert np.all(error <= BOUND), f"{place}: off by {error.max()}"


def compare(a, b, path="/"):
    assert list(a.dimensions) == list(b.dimensions), f"{path}: dimensions"
    for name, d in a.dimensions.items():
        e = b.dimensions[name]
        assert (len(d), d.isunlimited()) == (len(e), e.isunlimited()), f"{path}{name}: dimension"
    assert attributes(a) == attributes(b), f"{path}: attributes {attributes(a)} became {attributes(b)}"
    assert list(a.variables) == list(b.variables), f"{path}: variables"
    for name, v in a.variables.items():
        w, place = b[name], path + name
        assert np.dtype(v.dtype).newbyteorder("=") == np.dtype(w.dtype).newbyteorder("="), f"{place}: type"
        assert [d.group().path + d.name for d in v.get_dims()] == [d.group().path + d.name for d in w.get_dims()], place
        assert attributes(v) == attributes(w), f"{place}: attributes {attributes(v)} became {attributes(w)}"
        if a.data_model.startswith("NETCDF4") and isinstance(v.chunking(), list) and isinstance(w.chunking(), list):
            assert v.chunking() == w.chunking(), f"{place}: chunks {v.chunking()} became {w.chunking()}"
        compare_values(v, w, place)
    assert list(a.groups) == list(b.groups), f"{path}: groups"
    for name in a.groups:
        compare(a[name], b[name], f"{path}{name}/")


def compare_as_hdf5(a, b):
    """What netCDF4 hides: whether text is of fixed length or not; and that h5py can read all of it."""

    def texts(path):
        found = {}

        def visit(name, item):
            for key in item.attrs:
                if key not in ("NAME", "CLASS", "DIMENSION_LIST", "REFERENCE_LIST", "_NCProperties"):
                    kind = item.attrs.get_id(key).get_type()
                    found[name, key] = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
                item.attrs[key]
            if isinstance(item, h5py.Dataset):
                item[()]

        with h5py.File(path) as f:
            visit("/", f)
            f.visititems(visit)
        return {k: v for k, v in found.items() if not k[1].startswith("_N") and k[1] != "_nc3_strict"}

    assert texts(a) == texts(b), "kinds of text differ"


def run(*arguments):
    done = subprocess.run([RESIDUUM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"residuum {' '.join(map(str, arguments))}: {done.returncode}\n{done.stderr}"


def check(name, folder):
    original, archive, back = (Path(folder) / (name + ending) for ending in (".nc", ".rsd", ".back.nc"))
    CASES[name](str(original))
    run("compress", original, "-o", archive, "--abs", BOUND)
    run("decompress", archive, "-o", back)
    with netCDF4.Dataset(original) as a, netCDF4.Dataset(back) as b:
        # The classic model within NetCDF-4 is a promise of the writer, which is not kept.
        expected = "NETCDF4" if a.data_model == "NETCDF4_CLASSIC" else a.data_model
        assert b.data_model == expected, f"{a.data_model} became {b.data_model}"
        compare(a, b)
        hdf5 = a.data_model.startswith("NETCDF4")
    if hdf5:
        compare_as_hdf5(original, back)
    # xarray can not compare a variable that has the same dimension twice.
    how = dict(decode_times=False, drop_variables=["square"])
    with xr.open_dataset(original, **how) as a, xr.open_dataset(back, **how) as b:
        xr.testing.assert_allclose(a, b, rtol=0, atol=BOUND)
    if hdf5:
        grow(back)


def grow(path):
    """The NetCDF library can go on writing: records that are added hold the fill value until written."""
    with netCDF4.Dataset(path, "a") as f:
        f.added = "later"
        f.createDimension("new_dimension", 2)
        f.createVariable("new_variable", "f4", ("new_dimension",))[:] = [1, 2]
        for name, v in f.variables.items():
            if v.dtype == np.dtype("f4") and v.dimensions[:1] == ("time",):
                n = len(f.dimensions["time"])
                v[n + 1] = 1.0
                assert np.ma.getmaskarray(v[n]).all(), f"{name}: a record never written has values"
    with netCDF4.Dataset(path) as f:
        assert f.added == "later" and list(f["new_variable"][:]) == [1, 2]


def test_unsupported_types_name_the_variable(folder=None):
    with tempfile.TemporaryDirectory() as own:
        path = Path(folder or own) / "compound.nc"
        with netCDF4.Dataset(path, "w") as f:
            f.createDimension("x", 3)
            kind = f.createCompoundType(np.dtype([("a", "i4"), ("b", "f8")]), "pair")
            f.createVariable("strange", kind, ("x",))
        arguments = [RESIDUUM, "compress", str(path), "-o", str(path) + ".rsd", "--abs", str(BOUND)]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 5 and "--exclude strange" in done.stderr, f"{done.returncode}: {done.stderr}"


def test_unsupported_types_do_not_stop_the_others(folder=None):
    with tempfile.TemporaryDirectory() as own:
        path = Path(folder or own) / "mixed.nc"
        with h5py.File(path, "w") as f:
            f.create_dataset("t", data=np.arange(100, dtype="f4")).attrs["checked"] = True
            f["t"].attrs["units"] = "K"
            f["t"].attrs["latin"] = np.bytes_(b"gr\xb0d")
            f.create_dataset("mask", data=np.array([True, False]))
            f.create_dataset("names", data=np.array([b"\xb0", b"b"], "S2"))
        for choice in [["--exclude", "mask"], ["--var", "t", "--var", "names"]]:
            archive, back = str(path) + ".rsd", str(path) + ".back.nc"
            arguments = [RESIDUUM, "compress", str(path), "-o", archive, "--abs", str(BOUND), "--force", *choice]
            done = subprocess.run(arguments, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            for word in ['"checked" is left out', '"latin" is not UTF-8', '"names": text in it is not UTF-8']:
                assert word in done.stderr, f"{word}: {done.stderr}"
            run("decompress", archive, "-o", back, "--force")
            with h5py.File(back) as f:
                assert {"names", "t"} <= set(f) and "mask" not in f and "checked" not in f["t"].attrs
                assert np.abs(f["t"][:] - np.arange(100)).max() <= BOUND


def test_values_never_written_do_not_count(folder=None):
    with tempfile.TemporaryDirectory() as own:
        path = Path(folder or own) / "unwritten.nc"
        with netCDF4.Dataset(path, "w") as f:
            f.createDimension("x", 1000)
            f.createVariable("t", "f4", ("x",))[:900] = np.sin(np.arange(900) / 50)
            packed = f.createVariable("p", "i2", ("x",))
            packed.set_auto_maskandscale(False)
            packed.scale_factor = np.float32(0.5)
            packed[:900] = np.arange(900)
        archive, back = str(path) + ".rsd", str(path) + ".back.nc"
        run("compress", str(path), "-o", archive, "--rel", "1e-3", "--unpack")
        run("decompress", archive, "-o", back)
        with netCDF4.Dataset(path) as a, netCDF4.Dataset(back) as b:
            for name, bound in [("t", 2.001e-3), ("p", 0.4501)]:
                x, y = a[name][:], b[name][:]
                assert (np.ma.getmaskarray(x) == np.ma.getmaskarray(y)).all() and x.mask.sum() == 100, name
                assert 0 < np.abs(x - y).max() <= bound, f"{name}: {np.abs(x - y).max()}"


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", CASES)


def test_file(case, tmp_path):
    check(case, tmp_path)


def main():
    failed = 0
    tests = {name: (lambda folder, name=name: check(name, folder)) for name in CASES}
    tests["unsupported types"] = test_unsupported_types_name_the_variable
    tests["unsupported types among others"] = test_unsupported_types_do_not_stop_the_others
    tests["values never written"] = test_values_never_written_do_not_count
    for name, test in tests.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(folder)
                print(f"ok      {name}")
            except AssertionError as e:
                failed += 1
                print(f"FAILED  {name}: {e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
