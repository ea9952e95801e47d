#!/usr/bin/env python3
"""A 2 GB NetCDF variable compresses and restores within 600 MB resident, and every value keeps its bound.

    python tests/python/memory.py [SIZE_IN_MB]

Needs numpy and netCDF4, and `residuum` on the path (or in $RESIDUUM).
"""
import os
import resource
import subprocess
import sys
import tempfile

import netCDF4
import numpy as np

RESIDUUM = os.environ.get("RESIDUUM", "residuum")
LIMIT_MB = 600
NY, NX = 721, 1440


def frame(t: int) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1.5, 1.5, NY), np.linspace(0, 2 * np.pi, NX, endpoint=False), indexing="ij")
    noise = np.random.default_rng(t).standard_normal((NY, NX)) * 0.05
    return (280 + 30 * np.cos(y) + 8 * np.sin(3 * x + 0.1 * t) * np.cos(y) + noise).astype(np.float32)


def run(*arguments: str) -> float:
    """Runs a command and returns the most memory that any child had resident, in MB."""
    subprocess.run([RESIDUUM, *arguments], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    size_mb = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    n = max(size_mb * 1_000_000 // (NY * NX * 4), 2)
    with tempfile.TemporaryDirectory() as folder:
        original = os.path.join(folder, "big.nc")
        archive, restored = original + ".rsd", os.path.join(folder, "restored.nc")
        with netCDF4.Dataset(original, "w") as f:
            f.createDimension("time", None)
            f.createDimension("lat", NY)
            f.createDimension("lon", NX)
            v = f.createVariable("t2m", "f4", ("time", "lat", "lon"), chunksizes=(1, NY, NX))
            for t in range(n):
                v[t] = frame(t)
        peak = run("compress", original, "-o", archive, "--rel", "1e-3", "--quiet")
        print(f"compress: {peak:.0f} MB resident at most; archive {os.path.getsize(archive) / 1e6:.0f} of {os.path.getsize(original) / 1e6:.0f} MB")
        assert peak <= LIMIT_MB, f"{peak:.0f} MB resident, {LIMIT_MB} allowed"
        peak = run("decompress", archive, "-o", restored, "--quiet")
        print(f"with decompress: {peak:.0f} MB resident at most")
        assert peak <= LIMIT_MB, f"{peak:.0f} MB resident, {LIMIT_MB} allowed"
        peak = run("verify", original, archive)
        print(f"with verify: {peak:.0f} MB resident at most")
        assert peak <= LIMIT_MB, f"{peak:.0f} MB resident, {LIMIT_MB} allowed"
        bound = 1e-3 * float(np.ptp([[frame(t).min(), frame(t).max()] for t in range(n)]))
        with netCDF4.Dataset(original) as a, netCDF4.Dataset(restored) as b:
            worst = max(np.abs(a["t2m"][t].astype(np.float64) - b["t2m"][t]).max() for t in range(n))
        assert worst <= bound, f"error {worst}, bound {bound}"
        print(f"{n} frames, largest error {worst / bound:.4f} of the bound")


if __name__ == "__main__":
    main()
