#!/usr/bin/env python3
"""`residuum evaluate` needs no more memory for three times the data, from a size on at which all buffers are in use; nor do the methods.

    python tests/python/memory_evaluate.py [SIZE_IN_MB]

SZ3 and zfp take part if `residuum` was built with feature `peers`, and must if REQUIRE_PEERS is set. Needs numpy and netCDF4, and
`residuum` on the path (or in $RESIDUUM).
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import netCDF4
from memory import NX, NY, frame

RESIDUUM = os.environ.get("RESIDUUM", "residuum")
SUITE = """
name = "memory"
bounds = ["rel:1e-3"]
[[dataset]]
name = "big"
paths = ["big.nc"]
[[method]]
name = "fast"
residuum = ["--effort", "fast"]
[[method]]
name = "copy"
command.compress = ["cp", "{input}", "{archive}"]
command.decompress = ["cp", "{archive}", "{output}"]
[[method]]
name = "SZ3"
peer = "sz3"
[[method]]
name = "zfp"
peer = "zfp"
"""


def peak_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) for line in f if line.startswith("VmHWM")), 0)
    except (OSError, ProcessLookupError):
        return 0


def run(size_mb: int) -> dict:
    """Most memory of the process itself and of each method's, in MB."""
    n = max(size_mb * 1_000_000 // (NY * NX * 4), 2)
    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: os.path.join(folder, name)
        with netCDF4.Dataset(path("big.nc"), "w") as f:
            for name, size in [("time", n), ("lat", NY), ("lon", NX)]:
                f.createDimension(name, size)
            v = f.createVariable("t2m", "f4", ("time", "lat", "lon"), chunksizes=(1, NY, NX))
            for t in range(n):
                v[t] = frame(t)
        with open(path("suite.toml"), "w") as f:
            f.write(SUITE)
        child = subprocess.Popen([RESIDUUM, "evaluate", path("suite.toml"), "-o", path("out"), "--threads", "2"], stdout=subprocess.DEVNULL)
        peak = 0
        while child.poll() is None:
            peak = max(peak, peak_of(child.pid))
            time.sleep(0.01)
        assert child.returncode == 0
        peaks = {"evaluate": peak / 1e3}
        with open(path("out/results.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        assert [line["method"] for line in lines] == ["fast", "copy", "SZ3", "zfp"], lines
        for line in lines:
            if "feature `peers`" in line.get("error", "") and not os.environ.get("REQUIRE_PEERS"):
                print(f"skipped: {line['method']}, which this build has not")
                continue
            result = line["result"]
            assert result["violations"] == 0, line
            peaks[line["method"]] = max(result["timings"][d]["peak_bytes"] for d in ("compress", "decompress")) / 1e6
        return peaks


def main() -> None:
    size_mb = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    small, large = run(size_mb), run(3 * size_mb)
    for what, a in small.items():
        b = large[what]
        print(f"{what}: {a:.0f} MB for {size_mb} MB, {b:.0f} MB for {3 * size_mb} MB")
        # Allocators and readers keep some; what grew with the data would be three times as much.
        assert b <= 1.25 * a + 40, "memory grows with the data"


if __name__ == "__main__":
    main()
