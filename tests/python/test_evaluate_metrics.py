#!/usr/bin/env python3
"""The figures of `residuum evaluate` are those of NumPy, scikit-image and formulas by hand, to 1e-6.

A "compressor" that adds noise is given as a command, so that original and restored values are known here; residuum without prediction
gives codes that are known up to an offset.

    python tests/python/test_evaluate_metrics.py

Needs numpy, netCDF4 and scikit-image, and `residuum` on the path (or in $RESIDUUM).
"""
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter

import netCDF4
import numpy as np
from skimage.metrics import structural_similarity

RESIDUUM = os.environ.get("RESIDUUM", "residuum")
NT, NY, NX = 4, 37, 60
ABS, SEED = 0.05, 7
LATITUDES = np.linspace(-72.0, 80.0, NY)

NOISE = """
import sys, numpy as np
source, target, seed, bound, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
x = np.fromfile(source, "<f4")
assert x.size == n
e = np.random.default_rng(seed).uniform(-0.9, 0.9, n).astype("f4") + np.sin(np.arange(n) * 0.05).astype("f4") * 0.09
(x + e * np.float32(bound)).astype("<f4").tofile(target)
"""

SUITE = """
name = "metrics"
seed = {seed}
bounds = ["abs:{bound}"]
[[dataset]]
name = "made"
paths = ["made.nc"]
[[method]]
name = "noise"
command.compress = ["cp", "{{input}}", "{{archive}}"]
command.decompress = ["{python}", "{script}", "{{archive}}", "{{output}}", "{{seed}}", "{{abs}}", "{{n}}"]
[[method]]
name = "none"
residuum = ["--effort", "fast", "--predictor", "none"]
"""


def make(folder: str) -> dict:
    rng = np.random.default_rng(1)
    t, y, x = np.meshgrid(np.arange(NT), np.arange(NY), np.arange(NX), indexing="ij")
    whole = (280 + 5 * np.sin(0.3 * x + 0.1 * t) * np.cos(0.2 * y) + rng.normal(size=t.shape) * 0.2).astype("f4")
    holes = (whole * 1.5 + y).astype("f4")
    holes[:, 3:6, 10:14] = np.nan
    fields = {"whole": whole, "holes": holes}
    with netCDF4.Dataset(os.path.join(folder, "made.nc"), "w") as f:
        for name, n in [("time", NT), ("lat", NY), ("lon", NX)]:
            f.createDimension(name, n)
        f.createVariable("lat", "f8", ("lat",))[:] = LATITUDES
        for name, values in fields.items():
            f.createVariable(name, "f4", ("time", "lat", "lon"))[:] = values
    return fields


def entropy(counts) -> float:
    p = np.array(list(counts), float)
    p = p[p > 0] / p.sum()
    return float(-(p * np.log2(p)).sum())


def conditional(contexts, values) -> float:
    return entropy(Counter(zip(contexts, values)).values()) - entropy(Counter(contexts).values())


def structure(v: np.ndarray, clip: int = 8) -> dict:
    """Of whole numbers [time, row, column]."""
    near = lambda a: np.clip(a, -clip, clip)
    flat = lambda a: a.ravel().tolist()
    z = v - v.mean()
    variance = (z * z).mean()
    links = np.concatenate([(z[:, :, 1:] * z[:, :, :-1]).ravel(), (z[:, 1:] * z[:, :-1]).ravel()])
    runs = []
    for image in v:
        flags = np.concatenate([[0], (image.ravel() == 0).astype(int), [0]])
        edges = np.flatnonzero(np.diff(flags))
        runs += list(edges[1::2] - edges[::2])
    left, up, here = v[:, 1:, :-1], v[:, :-1, 1:], v[:, 1:, 1:]
    return {
        "n": v.size,
        "entropy": entropy(Counter(flat(v)).values()),
        "entropy_given_left": conditional(flat(near(v[:, :, :-1])), flat(v[:, :, 1:])),
        "entropy_given_left_and_up": conditional(list(zip(flat(near(left)), flat(near(up)))), flat(here)),
        "entropy_given_step_before": conditional(flat(near(v[:-1])), flat(v[1:])),
        "zero_share": (v == 0).mean(),
        "mean_zero_run": np.mean(runs) if runs else None,
        "zero_runs_by_octave": [sum(1 for r in runs if int(np.log2(r)) == k) for k in range(int(np.log2(max(runs))) + 1)]
        if runs
        else [],
        "variance": variance,
        "moran_i": links.mean() / variance,
        "autocorrelation_along_rows": {str(k): (z[:, :, k:] * z[:, :, :-k]).mean() / variance for k in (1, 2, 4, 8, 16)},
        "autocorrelation_along_columns": {str(k): (z[:, k:] * z[:, :-k]).mean() / variance for k in (1, 2, 4, 8, 16)},
        "autocorrelation_in_time": (z[1:] * z[:-1]).mean() / variance,
    }


def data_ssim(x: np.ndarray, y: np.ndarray) -> float:
    low, high = min(np.nanmin(x), np.nanmin(y)), max(np.nanmax(x), np.nanmax(y))
    level = lambda v: np.round((v - low) * (255 / (high - low))) / 255
    _, whole = structural_similarity(
        level(x), level(y), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, K1=1e-4, K2=1e-4, full=True
    )
    return float(np.nanmean(whole[5:-5, 5:-5]))


def spectrum(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total, n = 0.0, 0.0
    for image in images:
        for row, w in zip(image, weights):
            if np.isfinite(row).all():
                p = np.abs(np.fft.rfft(row - row.mean())) ** 2 / row.size**2
                p[1:-1 if row.size % 2 == 0 else None] *= 2
                total, n = total + w * p[1:], n + w
    return total / n


def octaves(p: np.ndarray) -> list:
    k = np.arange(1, p.size + 1)
    return [float(p[(k >= 2**o) & (k < 2 ** (o + 1))].sum()) for o in range(int(np.log2(p.size)) + 1)]


def metrics(x32: np.ndarray, y32: np.ndarray) -> dict:
    x, y = x32.astype(float), y32.astype(float)
    e = y - x
    weights = np.cos(np.radians(LATITUDES))
    w = np.broadcast_to(weights[None, :, None], e.shape)
    ok = np.isfinite(e)
    mean = lambda v: v[ok].sum() / ok.sum()
    weighted = lambda v: (w * v)[ok].sum() / w[ok].sum()
    spread = np.nanmax(x) - np.nanmin(x)
    bias = mean(e)
    pairs = ok[:, :, 1:] & ok[:, :, :-1]
    z = e - bias
    lag = (z[:, :, 1:] * z[:, :, :-1])[pairs].mean() / (z * z)[ok].mean()
    px, py, pe = (spectrum(v, weights) for v in (x, y, e))
    bins = np.where(ok, np.rint(np.where(ok, e, 0.0) * (8 / ABS)), 0).astype(int)
    return {
        "max_error": np.abs(e[ok]).max(),
        "max_error_over_bound": np.abs(e[ok]).max() / ABS,
        "violations": 0,
        "psnr": -20 * np.log10(np.sqrt(mean(e * e)) / spread),
        "nrmse": np.sqrt(mean(e * e)) / spread,
        "mae": mean(np.abs(e)),
        "bias": bias,
        "bias_over_bound": bias / ABS,
        "rmse_weighted": np.sqrt(weighted(e * e)),
        "nrmse_weighted": np.sqrt(weighted(e * e)) / spread,
        "mae_weighted": weighted(np.abs(e)),
        "bias_weighted": weighted(e),
        "error_lag1": lag,
        "ssim": np.mean([data_ssim(a, b) for a, b in zip(x, y)]),
        "log_spectral_distance_db": np.sqrt(np.mean((10 * np.log10(px / py)) ** 2)),
        "power_by_octave": {"original": octaves(px), "error": octaves(pe)},
        "error_structure": structure(bins),
        "latitude_weighted": True,
    }


def compare(found, expected, where: str) -> int:
    """Every figure of `expected`, however deep; how many there were."""
    if isinstance(expected, dict):
        return sum(compare(found[k], v, f"{where}.{k}") for k, v in expected.items())
    if isinstance(expected, list):
        assert len(found) == len(expected), f"{where}: {found} {expected}"
        return sum(compare(f, e, f"{where}[{i}]") for i, (f, e) in enumerate(zip(found, expected)))
    if expected is None or isinstance(expected, bool):
        assert found == expected, f"{where}: {found} {expected}"
        return 1
    assert abs(found - expected) <= 1e-6 * max(abs(expected), 1e-3), f"{where}: {found}, not {expected}"
    return 1


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fields = make(folder)
        path = lambda name: os.path.join(folder, name)
        with open(path("noise.py"), "w") as f:
            f.write(NOISE)
        with open(path("suite.toml"), "w") as f:
            f.write(SUITE.format(seed=SEED, bound=ABS, python=sys.executable, script=path("noise.py")))
        subprocess.run([RESIDUUM, "evaluate", path("suite.toml"), "-o", path("out")], check=True)
        with open(path("out/results.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        result = {(line["variable"], line["method"]): line["result"] for line in lines}
        assert len(result) == 4
        n = 0
        for name, x in fields.items():
            x.tofile(path("x"))
            subprocess.run([sys.executable, path("noise.py"), path("x"), path("y"), str(SEED), str(ABS), str(x.size)], check=True)
            y = np.fromfile(path("y"), "<f4").reshape(x.shape)
            assert not np.array_equal(x, y)
            n += compare(result[name, "noise"], metrics(x, y), f"{name}, noise")
        # Without prediction a code is the restored value, scaled and shifted: what does not depend on that must agree.
        subprocess.run([RESIDUUM, "compress", path("made.nc"), "--var", "whole", "--abs", str(ABS), "--effort", "fast", "--predictor", "none", "-o", path("a.rsd")], check=True)
        subprocess.run([RESIDUUM, "decompress", path("a.rsd"), "-o", path("back.nc")], check=True)
        with netCDF4.Dataset(path("back.nc")) as f:
            y = np.array(f["whole"][:], float)
        x = fields["whole"].astype(float)
        middle = (x.min() + x.max()) / 2
        step = np.median(np.diff(np.unique(y)))
        codes = np.rint((y - middle) / step).astype(int)
        steps = np.diff(np.unique(y)) / step
        assert np.abs(steps - np.rint(steps)).max() < 2e-3, "all values come from codes"
        expected = structure(codes)
        n += compare(result["whole", "none"]["structure"], expected, "codes")
        n += compare(result["whole", "none"], {k: v for k, v in metrics(fields["whole"], y.astype("f4")).items()}, "whole, none")
        # Bits by place add up to the archive's codes.
        bits = result["whole", "none"]["bits"]
        report = subprocess.run([RESIDUUM, "inspect", path("a.rsd"), "--json"], check=True, capture_output=True).stdout
        stored = next(v for v in json.loads(report)["variables"] if v["name"] == "whole")
        rows = Counter(i * 18 // NY for i in range(NY))
        mean = sum(b * rows[k] for k, b in enumerate(bits["by_band"])) / NY
        assert abs(mean - stored["bytes"]["codes"] * 8 / x.size) < 1e-5 * mean, (mean, stored)
        assert abs(sum(bits["share_of_scale"]) - 1) < 1e-9
        print(f"{n} figures agree to 1e-6")


if __name__ == "__main__":
    main()
