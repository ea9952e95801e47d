"""Measures weights on the held-out period and writes the manifest.

    python evaluate.py --weights ../unet_t31.safetensors --heldout data/heldout.nc --manifest ../manifest.toml
"""

import argparse
import datetime
import hashlib
import os

import numpy as np
import torch

import model as m
from train import NAMES, load, load_weights


def day(unix_s):
    return datetime.datetime.fromtimestamp(int(unix_s), datetime.timezone.utc).strftime("%Y-%m-%d")


def squares(net, times, frames, noise, ranges, generator):
    """Sums of the squared errors of forecasts and of persistence by channel, from frames with uniform noise of so much of the range."""
    ours = still = 0.0
    for t in range(len(times) - 2):
        x = torch.from_numpy(frames[t : t + 3])[:, None]
        seen = x[:2] + noise * ranges * (2 * torch.rand(x[:2].shape, generator=generator) - 1)
        times_of = torch.from_numpy(m.time_features(net.config, int(times[t + 1])))[None]
        with torch.no_grad():
            forecast = net.step(seen[0], seen[1], times_of)
        ours = ours + (forecast - x[2]).double().square().mean((0, 2, 3))
        still = still + (x[1] - x[2]).double().square().mean((0, 2, 3))
    return ours.numpy(), still.numpy()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--weights", default="unet_t31.safetensors")
    p.add_argument("--heldout", default="data/heldout.nc")
    p.add_argument("--data", default="data/t31.nc", help="named in the manifest: the period of training")
    p.add_argument("--days", type=int, default=124, help="days of training")
    p.add_argument("--steps", type=int, default=0, help="steps of training, for the manifest")
    p.add_argument("--manifest")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    net = load_weights(a.weights)
    times, _, frames = load(a.heldout)
    first = net.layout.first
    at = {n: slice(first[n], first[n] + (net.layout.levels if n != "sp" else 1)) for n in NAMES}
    ranges = torch.empty(frames.shape[1], 1, 1)
    for s in at.values():
        ranges[s] = float(frames[:, s].max() - frames[:, s].min())
    tables = {}
    for title, noise in (("skill", 0.0), ("skill_1e-3", 1e-3), ("skill_1e-2", 1e-2)):
        ours, still = squares(net, times, frames, noise, ranges, torch.Generator().manual_seed(1))
        tables[title] = {n: round(float(np.sqrt(ours[s].sum() / still[s].sum())), 3) for n, s in at.items()}
        print(title, tables[title], "by level", np.round(np.sqrt(ours / still), 2).tolist(), flush=True)
    if not a.manifest:
        return
    with open(a.weights, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    parameters = sum(int(np.prod(x.shape)) for x in net.state_dict().values())
    training, _, _ = load(a.data)
    lines = [
        "# Weights that come with residuum. Skill: root mean square error of a forecast of six hours over that of persistence, all levels together,",
        "# over the held-out period; `skill_1e-3` and `skill_1e-2` from frames with uniform noise of so much of each variable's range.",
        "",
        "[unet_t31]",
        f'file = "{os.path.basename(a.weights)}"',
        f'sha256 = "{digest}"',
        'model = "unet"',
        'licence = "MIT OR Apache-2.0"',
        f"parameters = {parameters}",
        f"training_steps = {a.steps}",
        'data = "jcm 3.0.0 (Apache-2.0), SPEEDY physics, T31, 8 levels, realistic terrain and forcing, six-hourly states"',
        f'training_period = "{day(training[0])} to {day(training[4 * a.days - 1])} of the simulation"',
        f'heldout_period = "{day(times[0])} to {day(times[-1])} of the simulation"',
        'recipe = "recipe/README.md"',
    ]
    for title, table in tables.items():
        lines += ["", f"[unet_t31.{title}]", *(f"{n} = {x}" for n, x in table.items())]
    with open(a.manifest, "w") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
