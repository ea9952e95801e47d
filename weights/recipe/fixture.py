"""Makes the fixture of `tests/unet`: a tiny model with random weights, two frames, and what this implementation makes of them.

    python fixture.py ../../tests/unet
"""

import json
import sys

import numpy as np
import torch

import model as m
from train import save


def main():
    folder = sys.argv[1]
    torch.manual_seed(7)
    torch.set_num_threads(1)
    levels = [850, 250]
    c = {
        "step_s": 21600,
        "lat": [float(x) for x in np.linspace(-78.75, 78.75, 8)],
        "lon": [22.5 * i for i in range(16)],
        "variables": [*({"name": n, "levels": levels} for n in "tuvq"), {"name": "sp", "levels": []}],
        "wind": ["u", "v"],
        "widths": [12, 20],
        "blocks": [1, 2, 1],
        "kernels": [3, 5],
        "statics": 3,
    }
    net = m.Forecaster(c).eval()
    s = net.layout
    # Typical values, spreads and changes of t, u, v, q at two levels and of the surface pressure.
    mean = torch.tensor([280.0, 220.0, 0.0, 20.0, 0.0, 0.0, 6e-3, 5e-5, 1e5])
    net.scale.copy_(torch.tensor([12.0, 8.0, 9.0, 17.0, 7.0, 12.0, 3e-3, 3e-5, 900.0]))
    net.change.copy_(net.scale / 4)
    spread = net.scale[:, None, None]
    net.climate.copy_(mean[:, None, None] + spread * torch.randn(s.channels, s.rows, s.columns))
    net.ridge.copy_((torch.randn(s.rows, s.ridge, s.channels) * 0.1).half().float())
    with torch.no_grad():
        for p in net.unet.parameters():
            p.copy_((torch.randn(p.shape) * 0.2).half().float())
    frames = net.climate + 2 * spread * torch.randn(2, s.channels, s.rows, s.columns)
    time = 951_912_000
    times = torch.from_numpy(m.time_features(c, time))[None]
    with torch.no_grad():
        before, now = frames[:1], frames[1:]
        moved = net.advection(before, now)[0]
        features, _ = net.features(before, now, times)
        linear = torch.einsum("bjif,jfc->bjic", features, net.ridge)[0]
        out = net.step(before, now, times)[0]
    save(net, f"{folder}/tiny.safetensors")
    parts = {"before": frames[0], "expected": out, "linear": linear, "moved": moved, "now": frames[1]}
    header, blobs, at = {"__metadata__": {"time": str(time)}}, [], 0
    for name, x in parts.items():
        x = np.ascontiguousarray(x.numpy(), np.float32)
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        blobs.append(x.tobytes())
        at += x.nbytes
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(f"{folder}/frames.safetensors", "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header + b"".join(blobs))


if __name__ == "__main__":
    main()
