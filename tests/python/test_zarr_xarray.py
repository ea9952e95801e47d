"""Zarr folders made by xarray and zarr-python go through residuum and come back as they were.

    python -m venv venv && venv/bin/pip install numpy xarray zarr
    venv/bin/python tests/python/test_zarr_xarray.py [target/release/residuum]

Each store is compressed and decompressed by the command, then compared: groups, dimensions, attributes, types, fill
values, chunk lengths, and values within the bound. Opening the result must not warn of anything that opening the
original does not.
"""

import os
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import xarray as xr
import zarr

BOUND = 0.01
RNG = np.random.default_rng(1)


def smooth(shape, dtype="f4"):
    """A field like those that are compressed: a wave with a little noise."""
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    return (280 + 10 * np.sin(sum(axes)) + 0.1 * RNG.standard_normal(shape)).astype(dtype)


def dataset():
    """What xarray users have: coordinates, packed and masked values, text, times, all kinds of attributes."""
    t2m = smooth((5, 7, 11))
    t2m[0, 2, 3:5] = np.nan
    masked = smooth((5, 7, 11), "f8")
    masked[2] = 1e20
    ds = xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), t2m, {"units": "K", "valid_range": [200.0, 350.0], "odd": float("nan")}),
            "masked": (("time", "lat", "lon"), masked, {"_FillValue": 1e20, "missing_value": 1e20}),
            "packed": (
                ("lat", "lon"),
                RNG.integers(-999, 999, (7, 11)).astype("i2"),
                {"_FillValue": np.int16(-999), "scale_factor": 0.01, "add_offset": 3.5},
            ),
            "flag": (("lat",), np.arange(7, dtype="u1"), {"flag_values": [0, 1, 2], "flag_meanings": "a b c"}),
            "land": (("lon",), np.arange(11) % 2 == 0),
            "site": (("lat",), np.array(["Köln", "", "a", "b", "c", "d", "Ålesund"], dtype=object)),
            "empty": (("nothing", "lat"), np.zeros((0, 7), "f4")),
            "crs": ((), np.int32(7), {"grid_mapping_name": "latitude_longitude"}),
            "height": ((), np.float64(2.0)),
        },
        coords={
            "lat": ("lat", np.linspace(60, 54, 7, dtype="f4"), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(0, 20, 11)),
            "time": ("time", np.arange("2020-01-01", "2020-01-06", dtype="datetime64[D]").astype("datetime64[ns]")),
        },
        attrs={"title": "é \" \\ NaN", "version": 3, "step": 0.25, "list": ["a", "b"], "one": [1], "none": []},
    )
    return ds


def made_by_xarray(path, version):
    dataset().to_zarr(path, zarr_format=version, consolidated=True, encoding={"t2m": {"chunks": (2, 4, 11)}})


def made_by_xarray_tree(path, version):
    nested = xr.Dataset({"q": (("y", "x"), smooth((6, 8)))}, attrs={"level": "deep"})
    tree = {"/": dataset()[["t2m"]], "/surface": nested, "/surface/fine": nested.isel(x=slice(0, 3)).rename(x="z")}
    xr.DataTree.from_dict(tree).to_zarr(path, zarr_format=version, consolidated=True)


NUMBERS = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


def counted(shape, dtype):
    return smooth(shape, dtype) if dtype in ("f4", "f8") else RNG.integers(0, 100, shape).astype(dtype)


def made_by_zarr(path, version):
    """What zarr-python can write and xarray does not: all types, fill values, chunks that are missing."""
    root = zarr.create_group(path, zarr_format=version, attributes={"nested": {"a": [1, None, True]}})
    common = {"shape": (10, 9), "chunks": (4, 5), "dimension_names": ["y", "x"] if version == 3 else None}
    for dtype in NUMBERS:
        array = root.create_array(dtype, dtype=dtype, fill_value=17, **common)
        array[:6] = counted((6, 9), dtype)
    for name, fill in [("nan", np.nan), ("inf", -np.inf), ("zero", 0), ("tiny", 1e-30), ("negative_zero", -0.0)]:
        array = root.create_array(f"fill_{name}", dtype="f4", fill_value=fill, **common)
        array[:4, :5] = smooth((4, 5))
    root.create_array("bool", dtype="bool", fill_value=True, **common)[:4] = False
    root.create_array("half", dtype="f2", **common)[:] = smooth((10, 9), "f2")
    root.create_array("scalar", dtype="f8", shape=(), chunks=())[...] = 2.5
    root.create_array("empty", dtype="i4", shape=(0, 3), chunks=(1, 3))
    if version == 2:
        for dtype in ["<U5", ">U5", "|S5", "|S1"]:
            array = root.create_array("text" + dtype[1:] + "<>|".replace(dtype[0], ""), shape=(7,), chunks=(3,), dtype=dtype)
            array[:4] = np.array(["a", "bc", "", "d"], dtype)
        root.create_array("null", dtype="f4", shape=(5,), chunks=(2,), fill_value=None)[:] = 1.5
        root.create_array("f_order", dtype="f4", shape=(10, 9), chunks=(4, 5), order="F")[:] = smooth((10, 9))
        for dtype in [">f4", ">f8", ">i2", ">u8"]:
            root.create_array("big_" + dtype[1:], dtype=dtype, shape=(7,), chunks=(3,))[:] = np.arange(7)
    else:
        root.create_array("text", dtype=str, shape=(7,), chunks=(3,))[:4] = np.array(["a", "bc", "", "é"])


def compressed(path, version):
    """Every codec that is common."""
    root = zarr.create_group(path, zarr_format=version)
    blosc = [(c, s) for c in ("lz4", "lz4hc", "blosclz", "zstd", "zlib") for s in ("shuffle", "noshuffle", "bitshuffle")]
    if version == 2:
        import numcodecs as nc

        codes = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
        codecs = {f"blosc_{c}_{s}": nc.Blosc(c, 5, codes[s]) for c, s in blosc}
        codecs |= {"zstd": nc.Zstd(3), "gzip": nc.GZip(5), "zlib": nc.Zlib(5), "bz2": nc.BZ2(5), "none": None}
    else:
        zc = zarr.codecs
        codecs = {f"blosc_{c}_{s}": zc.BloscCodec(cname=c, clevel=5, shuffle=s, typesize=4) for c, s in blosc}
        codecs |= {"zstd": zc.ZstdCodec(level=3), "zstd_sum": zc.ZstdCodec(level=3, checksum=True)}
        codecs |= {"gzip": zc.GzipCodec(level=5), "crc": [zc.ZstdCodec(level=1), zc.Crc32cCodec()], "none": None}
    for name, codec in codecs.items():
        root.create_array(name, dtype="f4", shape=(20, 30), chunks=(7, 30), compressors=codec)[:] = smooth((20, 30))
    if version == 2:
        shuffled = root.create_array(
            "filters", dtype="i4", shape=(50,), chunks=(20,), filters=[nc.Shuffle(4)], compressors=nc.Zlib(1)
        )
        shuffled[:] = np.arange(50)
    else:
        inner = {"shape": (20, 30), "dtype": "f4", "chunks": (4, 5), "fill_value": np.nan}
        root.create_array("sharded", shards=(8, 15), **inner)[:17, :12] = smooth((17, 12))
        root.create_array("sharded_big", shards=(20, 30), **inner)[:] = smooth((20, 30))
        transposed = [zarr.codecs.TransposeCodec(order=(1, 0))]
        root.create_array("transposed", dtype="f4", shape=(20, 30), chunks=(7, 8), filters=transposed)[:] = smooth((20, 30))
        big = zarr.codecs.BytesCodec(endian="big")
        root.create_array("big", dtype="f8", shape=(20,), chunks=(7,), serializer=big)[:] = np.arange(20)


def same(a, b):
    """Equal values of equal types, NaN equal to itself."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    equal_bits = np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return type(a) is type(b) and (equal_bits or bool(a == b) or (a != a and b != b))


def compare_values(a, b, where):
    assert a.shape == b.shape, where
    if a.dtype.kind != "f":
        assert np.array_equal(a, b), f"{where}: values differ"
        return
    nan = np.isnan(a)
    assert np.array_equal(nan, np.isnan(b)), f"{where}: NaN differ"
    far = np.isinf(a) | (np.abs(a.astype("f8")) >= 1e20)
    assert np.array_equal(a[far], b[far]), f"{where}: infinities or fill values differ"
    rest = ~nan & ~far
    worst = np.abs(a[rest].astype("f8") - b[rest].astype("f8")).max(initial=0)
    assert worst <= BOUND, f"{where}: off by {worst}"


def native(dtype):
    return dtype if dtype.kind == "T" else dtype.newbyteorder("=")


def compare_zarr(a, b, where=""):
    """As zarr-python sees them."""
    attributes = [dict(a.attrs), dict(b.attrs)]
    if getattr(a, "shape", None) == () and attributes[0].get("_ARRAY_DIMENSIONS") is None:
        # xarray opens scalars of version 2 only with this attribute, so it is always written.
        attributes[1].pop("_ARRAY_DIMENSIONS", None)
    assert same(*attributes), f"{where}: attributes {attributes[0]} became {attributes[1]}"
    if isinstance(a, zarr.Group):
        names = sorted(a.keys())
        assert names == sorted(b.keys()), f"{where}: {names} became {sorted(b.keys())}"
        for name in names:
            compare_zarr(a[name], b[name], f"{where}/{name}")
        return
    expected = np.dtype("f4") if a.dtype == np.float16 else native(a.dtype)
    assert native(b.dtype) == expected, f"{where}: type {a.dtype} became {b.dtype}"
    assert a.metadata.zarr_format == b.metadata.zarr_format
    fills = [np.float32(x.fill_value) if a.dtype == np.float16 else x.fill_value for x in (a, b)]
    assert same(*fills) or np.array_equal(*fills), f"{where}: fill value {a.fill_value!r} became {b.fill_value!r}"
    assert a.chunks == b.chunks, f"{where}: chunks {a.chunks} became {b.chunks}"
    names = [getattr(x.metadata, "dimension_names", None) for x in (a, b)]
    assert names[0] == names[1], f"{where}: dimensions {names[0]} became {names[1]}"
    compare_values(a[...], b[...], where)


def open_xarray(path, **options):
    """The groups of a store and what opening it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with xr.open_datatree(path, engine="zarr", **options) as tree:
            groups = {group: tree[group].to_dataset(inherit=False).load() for group in tree.groups}
    return groups, sorted({str(w.message) for w in caught})


def compare_xarray(a, b, **options):
    """As xarray sees them."""
    (a, warned_a), (b, warned_b) = open_xarray(a, **options), open_xarray(b, **options)
    assert warned_a == warned_b, f"new warnings: {warned_b}"
    assert list(a) == list(b)
    for group in a:
        x, y = a[group], b[group]
        assert same(x.attrs, y.attrs), f"{group}: {x.attrs} became {y.attrs}"
        assert set(x.variables) == set(y.variables) and x.sizes == y.sizes and set(x.coords) == set(y.coords)
        for name in x.variables:
            v, w, where = x[name], y[name], f"{group}:{name}"
            assert v.dims == w.dims and v.dtype == w.dtype, f"{where}: {v.dims} {v.dtype} became {w.dims} {w.dtype}"
            assert same(v.attrs, w.attrs), f"{where}: {v.attrs} became {w.attrs}"
            compare_values(v.values, w.values, where)


def main():
    residuum = sys.argv[1] if len(sys.argv) > 1 else "target/release/residuum"
    made = [(made_by_xarray, True), (made_by_xarray_tree, True), (made_by_zarr, False), (compressed, False)]
    with tempfile.TemporaryDirectory() as folder:
        for make, by_xarray in made:
            for version in (2, 3):
                name = f"{make.__name__}{version}"
                source, archive, back = (os.path.join(folder, name + e) for e in (".zarr", ".rsd", "_back.zarr"))
                with warnings.catch_warnings():
                    # zarr-python warns of what version 3 does not specify yet.
                    warnings.simplefilter("ignore")
                    make(source, version)
                subprocess.run([residuum, "compress", source, "-o", archive, "--abs", str(BOUND)], check=True)
                subprocess.run([residuum, "decompress", archive, "-o", back], check=True)
                compare_zarr(zarr.open_group(source, mode="r"), zarr.open_group(back, mode="r"))
                if by_xarray:
                    compare_xarray(source, back)
                    compare_xarray(source, back, mask_and_scale=False, decode_times=False)
                print(name, "ok")


if __name__ == "__main__":
    main()
