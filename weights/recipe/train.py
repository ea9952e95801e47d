"""Trains the forecaster and writes the weights.

    python train.py --data data/t31.nc --days 130 --steps 3000 --out unet_t31.safetensors

1. Normalisation from the training period.
2. Ridge regression of the six-hour change, row by row, in closed form, from frames with the noise of compression.
3. The U-Net, on frames as a decoder has them: beside the true frames there is a copy for each bound, which starts as true frames with noise; whatever
   the model forecasts in training is corrected to within the bound, as a compressor does, and put there. So the copies become the closed loop's.
   The loss is the logarithm of the squared error over the squared bound, which stands for the bits that the error costs; half of it is of the error
   as it is, half of what the mean of its four neighbours leaves of it: the fitted predictor takes a smooth error away for nothing.
"""

import argparse
import json
import math
import time

import netCDF4
import numpy as np
import torch

import model as m

BOUNDS = [1e-2, 1e-3, 1e-4]
SHARES = [0.55, 0.33, 0.12]  # of the samples
NAMES = ["t", "u", "v", "q", "z", "sp"]


def load(path):
    """Times and frames (time, channel, row, column)."""
    with netCDF4.Dataset(path) as f:
        times = np.asarray(f["time"][:])
        coordinates = {n: np.asarray(f[n][:]) for n in ("lat", "lon", "level")}
        parts = [np.asarray(f[n][:]) for n in NAMES]
    parts = [p if p.ndim == 4 else p[:, None] for p in parts]
    return times, coordinates, np.concatenate(parts, 1)


class Data:
    """A period of frames, and what a decoder would have of them at each bound."""

    def __init__(self, config, times, frames, ranges, seed):
        self.truth = torch.from_numpy(np.ascontiguousarray(frames))
        self.times = torch.from_numpy(np.stack([m.time_features(config, int(t)) for t in times]))
        if times[-1] - times[0] < m.YEAR_S:
            # Less than a year can not tell seasons from drift: what would be learned from the time of the year does harm in other seasons.
            self.times[:, 4:] = 0.0
        g = torch.Generator().manual_seed(seed)
        self.bounds = [b * ranges for b in BOUNDS]  # (channel, 1, 1)
        self.decoded = []
        for bound in self.bounds:
            noise = torch.rand(self.truth.shape, generator=g).mul_(2).sub_(1)
            self.decoded.append(noise.mul_(bound).add_(self.truth))


def skill(net, data, first, last, step=1):
    """Root mean square errors of forecasts from true frames, and of persistence, by channel."""
    net.eval()
    error, still, n = 0.0, 0.0, 0
    with torch.no_grad():
        for t in range(first, last - 2, step):
            x = data.truth[t : t + 3][:, None]
            f = net.step(x[0], x[1], data.times[t + 1][None])
            error = error + (f - x[2]).double().square().mean((0, 2, 3))
            still = still + (x[1] - x[2]).double().square().mean((0, 2, 3))
            n += 1
    return (error / n).sqrt(), (still / n).sqrt()


def corrected(forecast, truth, bound):
    """What a decoder makes of a forecast."""
    return forecast + 2 * bound * torch.round((truth - forecast) / (2 * bound))


def closed_loop(net, data, first, steps):
    """Entropy of the corrections, bits a value, at each bound: all bounds run side by side; also by variable."""
    net.eval()
    b = torch.stack(data.bounds)
    before, now = (torch.stack([d[t] for d in data.decoded]) for t in (first, first + 1))
    codes = []
    with torch.no_grad():
        for t in range(first + 2, first + steps):
            f = net.step(before, now, data.times[t - 1][None].expand(len(b), -1, -1))
            truth = data.truth[t][None]
            codes.append(torch.round((truth - f) / (2 * b)))
            before, now = now, corrected(f, truth, b)
    codes = torch.stack(codes)
    first = net.layout.first
    at = {n: slice(first[n], first[n] + (8 if n != "sp" else 1)) for n in NAMES}
    def entropy(x):
        _, n = torch.unique(x, return_counts=True)
        p = n.double() / n.sum()
        return float(-(p * p.log2()).sum())
    # One code for each channel.
    per = [[entropy(codes[:, k, c]) for c in range(codes.shape[2])] for k in range(len(b))]
    return [float(np.mean(p)) for p in per], {n: [round(float(np.mean(p[at[n]])), 3) for p in per] for n in NAMES}


def fit_ridge(net, data, last, generator, penalty):
    """Solves for the row's weights, from frames with noise of one thousandth and a ten-thousandth of the range."""
    s = net.layout
    xx = torch.zeros(s.rows, s.ridge, s.ridge, dtype=torch.float64)
    xy = torch.zeros(s.rows, s.ridge, s.channels, dtype=torch.float64)
    n = 0
    for t in range(0, last - 2, 4):
        k = torch.arange(t, min(t + 4, last - 2))
        frames = data.decoded[1 + (t // 4) % 2]
        before, now = frames[k], frames[k + 1]
        x, _ = net.features(before, now, data.times[k + 1])
        y = ((data.truth[k + 2] - now) / net.change[:, None, None]).permute(2, 0, 3, 1).flatten(1, 2)
        x = x.permute(1, 0, 2, 3).flatten(1, 2)
        xx += torch.bmm(x.transpose(1, 2), x).double()
        xy += torch.bmm(x.transpose(1, 2), y).double()
        n += x.shape[1]
    xx += penalty * n * torch.eye(s.ridge, dtype=torch.float64)
    weights = np.stack([np.linalg.solve(a, b) for a, b in zip(xx.numpy(), xy.numpy())])
    net.ridge.copy_(torch.from_numpy(weights).half().float())


def around(x):
    """The mean of the four neighbours of each point; beyond the last row stands that row."""
    high = torch.nn.functional.pad(x, (0, 0, 1, 1), "replicate")
    return 0.25 * (torch.roll(x, 1, -1) + torch.roll(x, -1, -1) + high[..., 2:, :] + high[..., :-2, :])


def train(net, data, last, a, generator):
    """Trains the U-Net; keeps running means of its weights, which it ends with."""
    mean = {k: v.detach().clone() for k, v in net.unet.state_dict().items()}
    matrices = [p for p in net.unet.parameters() if p.ndim == 2]
    others = [p for p in net.unet.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], lr=a.rate, betas=(0.9, 0.98)
    )
    change = net.change[:, None, None]
    start, running, done = time.time(), None, 0
    for step in range(a.steps):
        progress = max(step / a.steps, (time.time() - start) / 60 / a.minutes if a.minutes else 0.0)
        if progress >= 1:
            break
        rate = a.rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        t = torch.randint(0, last - 2, (a.batch,), generator=generator)
        k = torch.multinomial(torch.tensor(SHARES), a.batch, True, generator=generator)
        fresh = torch.rand(a.batch, generator=generator) < 0.1
        bound = torch.stack([data.bounds[i] for i in k])
        before = torch.stack([data.decoded[i][j] for i, j in zip(k, t)])
        now = torch.stack([data.decoded[i][j + 1] for i, j in zip(k, t)])
        if fresh.any():  # as the first frames of an interval are, which had no forecast
            noise = lambda x: x + bound[fresh] * (2 * torch.rand(x.shape, generator=generator) - 1)
            before[fresh], now[fresh] = noise(data.truth[t[fresh]]), noise(data.truth[t[fresh] + 1])
        truth = data.truth[t + 2]
        net.train()
        out = net(before, now, data.times[t + 1])
        error = out - (truth - now) / change
        pooled = torch.nn.functional.avg_pool2d(error.square(), (2, 4))
        # Of errors without structure as much as of the errors themselves.
        rough = torch.nn.functional.avg_pool2d(0.8 * (error - around(error)).square(), (2, 4))
        weight = (bound / change).square() * 0.25
        bits = torch.log2(1 + pooled / weight) + torch.log2(1 + rough / weight)
        loss = 0.25 * bits.mean() + 0.02 * pooled.clamp(max=25).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.unet.parameters(), 1.0)
        optimizer.step()
        keep = min(a.keep, step / (step + 10))
        with torch.no_grad():
            for name, p in net.unet.state_dict().items():
                mean[name].mul_(keep).add_(p, alpha=1 - keep)
            forecast = now + out * change
            closed = corrected(forecast, truth, bound)
            for i, j, frame in zip(k, t, closed):
                data.decoded[i][j + 2] = frame
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        done = step + 1
        if done % 50 == 0:
            print(f"step {done} loss {running:.4f} rate {rate:.1e} {(time.time() - start) / 60:.1f} min", flush=True)
        if a.checkpoint and done % 250 == 0:
            torch.save({"mean": mean, "step": done}, a.checkpoint)
    net.unet.load_state_dict(mean)
    return done


def rounded(net):
    """Weights as they are stored: half precision, where nothing large is."""
    with torch.no_grad():
        for p in net.unet.parameters():
            p.copy_(p.half().float())


def tensors(net):
    """Name and array of what is stored."""
    half = lambda x: np.ascontiguousarray(x.detach().half().numpy())
    full = lambda x: np.ascontiguousarray(x.detach().numpy())
    out = {"ridge": half(net.ridge), "climate": full(net.climate), "scale": full(net.scale), "change": full(net.change)}
    out |= {"advection.columns": full(net.advection.x), "advection.rows": full(net.advection.y)}
    return out | {"unet." + k: half(v) for k, v in net.unet.state_dict().items()}


def save(net, path):
    """Writes safetensors as `residuum` reads them, tensors sorted by name."""
    kinds = {"float16": "F16", "float32": "F32"}
    about = {
        "residuum.model": "unet",
        "residuum.config": json.dumps(net.config),
        "residuum.licence": "MIT OR Apache-2.0",
        "residuum.source": "weights/recipe, output of jcm 3.0.0 at T31",
    }
    header, blobs, at = {"__metadata__": about}, [], 0
    for name, x in sorted(tensors(net).items()):
        header[name] = {"dtype": kinds[str(x.dtype)], "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        blobs.append(x.tobytes())
        at += x.nbytes
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header + b"".join(blobs))


def load_weights(path):
    """The forecaster that a file holds."""
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
        blob = f.read()
    net = m.Forecaster(json.loads(header.pop("__metadata__")["residuum.config"]))
    kinds = {"F16": np.float16, "F32": np.float32}
    parts = {}
    for name, d in header.items():
        x = np.frombuffer(blob[slice(*d["data_offsets"])], kinds[d["dtype"]]).reshape(d["shape"])
        name = {"advection.columns": "advection.x", "advection.rows": "advection.y"}.get(name, name)
        parts[name] = torch.from_numpy(x.astype(np.float32))
    net.load_state_dict(parts)
    return net.eval()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="data/t31.nc")
    p.add_argument("--out", default="unet_t31.safetensors")
    p.add_argument("--days", type=int, default=130, help="days to train on, from the first")
    p.add_argument("--check", type=int, default=5, help="days after those to check on")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--minutes", type=float, default=0, help="stop after so long (0: never; results then depend on the machine)")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rate", type=float, default=1.5e-3)
    p.add_argument("--keep", type=float, default=0.995, help="of the running mean of weights")
    p.add_argument("--penalty", type=float, default=1e-4)
    p.add_argument("--widths", type=int, nargs=2, default=[128, 224])
    p.add_argument("--blocks", type=int, nargs=3, default=[2, 3, 2])
    p.add_argument("--kernels", type=int, nargs=2, default=[3, 5])
    p.add_argument("--statics", type=int, default=8)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--start", help="weights whose network to go on from; without it, from nothing")
    p.add_argument("--checkpoint", help="file for the state of training")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    generator = torch.Generator().manual_seed(a.seed)
    times, coordinates, frames = load(a.data)
    last = 4 * a.days
    times, frames = times[: last + 4 * a.check], frames[: last + 4 * a.check]
    c = m.config(coordinates["lat"], coordinates["lon"], coordinates["level"], a.widths, a.blocks, a.kernels, a.statics)
    net = m.Forecaster(c)
    s = net.layout
    seen = torch.from_numpy(frames[:last])
    net.climate.copy_(seen.double().mean(0).float())
    sound = lambda x: torch.where(x > 0, x, torch.ones_like(x)).float()
    net.scale.copy_(sound((seen - net.climate).double().square().mean((0, 2, 3)).sqrt()))
    net.change.copy_(sound((seen[1:] - seen[:-1]).double().square().mean((0, 2, 3)).sqrt()))
    ranges = torch.empty(s.channels, 1, 1)
    for v in c["variables"]:
        at = slice(s.first[v["name"]], s.first[v["name"]] + max(1, len(v["levels"])))
        ranges[at] = float(seen[:, at].max() - seen[:, at].min())
    data = Data(c, times, frames, ranges, a.seed)
    parameters = sum(p.numel() for p in net.unet.parameters())
    print(f"{last} steps of training, {parameters} parameters of the network, {net.ridge.numel()} of the regression", flush=True)

    def report(what):
        error, still = skill(net, data, last, len(times), 2)
        bits, by = closed_loop(net, data, last, min(len(times) - last, 16))
        ratio = {n: round(float((error / still)[s.first[n] : s.first[n] + (8 if n != "sp" else 1)].mean()), 3) for n in NAMES}
        print(f"{what}: error over persistence's {float((error / still).mean()):.3f} {ratio}; closed loop {[round(b, 4) for b in bits]} bits {by}", flush=True)

    report("persistence")
    fit_ridge(net, data, last, generator, a.penalty)
    report("ridge")
    if a.start:
        net.unet.load_state_dict(load_weights(a.start).unet.state_dict())
    with torch.no_grad():
        unseen = 2 * s.channels + len(s.moved) + torch.nonzero(data.times.abs().sum((0, 2)) == 0)[:, 0]
        net.unet.enter.weight.view(-1, 4, s.inputs)[:, :, unseen] = 0.0
    done = train(net, data, last, a, generator)
    rounded(net)
    report(f"network after {done} steps")
    save(net, a.out)


if __name__ == "__main__":
    main()
