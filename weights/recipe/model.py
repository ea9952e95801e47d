"""The forecaster: advection along the winds, a ridge regression for each row, and a U-Net for what is left.

The Rust twin is `src/forecast/unet.rs`; what is computed here is defined there in the same order.
Channels are the variables' levels in the order of the configuration.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EARTH_RADIUS_M = 6.371e6
YEAR_S = 31556952
TIME_FEATURES = 6


def config(lat, lon, levels, widths, blocks, kernels, statics):
    """What the model's shape follows from; stands in the metadata of the weights."""
    on_levels = [{"name": n, "levels": [int(round(1000 * x)) for x in levels]} for n in "tuvqz"]
    return {
        "step_s": 21600,
        "lat": [float(x) for x in lat],
        "lon": [float(x) for x in lon],
        "variables": [*on_levels, {"name": "sp", "levels": []}],
        "wind": ["u", "v"],
        "widths": widths,
        "blocks": blocks,
        "kernels": kernels,
        "statics": statics,
    }


class Layout:
    """Numbers that follow from a configuration."""

    def __init__(self, c):
        self.rows, self.columns = len(c["lat"]), len(c["lon"])
        self.names = [v["name"] for v in c["variables"]]
        self.first, n = {}, 0
        for v in c["variables"]:
            self.first[v["name"]] = n
            n += max(1, len(v["levels"]))
        self.channels = n
        wind = next(v for v in c["variables"] if v["name"] == c["wind"][0])["levels"]
        self.levels = len(wind)
        # Variables that have the winds' levels are advected, in order.
        self.advected = [v["name"] for v in c["variables"] if v["levels"] == wind]
        self.moved = [self.first[n] + k for n in self.advected for k in range(self.levels)]
        self.ridge = 1 + TIME_FEATURES + 2 * self.channels + len(self.moved) + 4 * self.channels
        self.inputs = 3 * self.channels + len(self.moved) + TIME_FEATURES + c["statics"]


def displacements(c):
    """Columns (for each row) and rows that a wind of 1 m/s goes in a step."""
    lat, lon = np.radians(c["lat"]), np.radians(c["lon"])
    x = c["step_s"] / (EARTH_RADIUS_M * np.cos(lat)) / (lon[1] - lon[0])
    y = c["step_s"] / EARTH_RADIUS_M / np.gradient(lat)
    return x.astype(np.float32), y.astype(np.float32)


def time_features(c, unix_s):
    """Sine and cosine of the local solar time, of twice it, and of the time of the year; (6, columns)."""
    day = 2 * math.pi * (unix_s % 86400) / 86400 + np.radians(np.array(c["lon"]))
    year = 2 * math.pi * (unix_s % YEAR_S) / YEAR_S
    one = np.ones_like(day)
    rows = [np.sin(day), np.cos(day), np.sin(2 * day), np.cos(2 * day), math.sin(year) * one, math.cos(year) * one]
    return np.stack(rows).astype(np.float32)


def beyond_poles(x, n):
    """`x` (batch, row, column, channel) with `n` rows more at each end: those across the pole."""
    half = x.shape[2] // 2
    south = torch.roll(x[:, :n].flip(1), half, 2)
    north = torch.roll(x[:, -n:].flip(1), half, 2)
    return torch.cat([south, x, north], 1)


def padded(x, n):
    """As [`beyond_poles`], and `n` columns more on either side."""
    x = beyond_poles(x, n)
    return torch.cat([x[:, :, -n:], x, x[:, :, :n]], 2)


BEYOND = 4  # rows across a pole that trajectories may see
MOST_ROWS = 2.0  # rows that a trajectory may cross in a step


def taps(position):
    """The cell, as an integer, and the place in it."""
    cell = torch.floor(position)
    return cell.long(), position - cell


class Advection(nn.Module):
    """Semi-Lagrangian: each point takes the value from where the winds brought it.

    Winds are extrapolated to the middle of the step; the departure point is found by two fixed-point iterations with bilinear winds; values are
    interpolated by Lagrange's cubics.
    """

    def __init__(self, c):
        super().__init__()
        self.layout = Layout(c)
        self.wind = [self.layout.first[n] for n in c["wind"]]
        x, y = displacements(c)
        self.register_buffer("x", torch.from_numpy(x))
        self.register_buffer("y", torch.from_numpy(y))
        sign = torch.ones(len(self.layout.advected), 1, 1, 1)
        for n in c["wind"]:
            sign[self.layout.advected.index(n)] = -1.0
        self.sign = sign

    def forward(self, before, now):
        """Fields of (batch, channel, row, column) as they would be if only carried along: (batch, advected, row, column)."""
        s = self.layout
        b, _, h, w = now.shape
        wind = []
        for first in self.wind:
            at = slice(first, first + s.levels)
            wind.append(1.5 * now[:, at] - 0.5 * before[:, at])
        dx = (wind[0] * self.x[:, None]).clamp(-w / 4.0, w / 4.0)
        dy = (wind[1] * self.y[:, None]).clamp(-MOST_ROWS, MOST_ROWS)
        # Across a pole winds point the other way.
        flow = self.extended(torch.stack([dx, dy], 1), -torch.ones(2, 1, 1, 1))
        column = torch.arange(w, dtype=torch.float32)
        row = torch.arange(h, dtype=torch.float32)[:, None]
        for _ in range(2):
            j, fy = taps(row - 0.5 * dy)
            i, fx = taps(column - 0.5 * dx)
            corner = lambda a, e: self.at(flow, j + a, i + e)
            fx, fy = fx[:, None], fy[:, None]
            south = corner(0, 0) + fx * (corner(0, 1) - corner(0, 0))
            north = corner(1, 0) + fx * (corner(1, 1) - corner(1, 0))
            dx, dy = (south + fy * (north - south)).unbind(1)
        j, fy = taps(row - dy)
        i, fx = taps(column - dx)
        wx, wy = self.cubic(fx[:, None]), self.cubic(fy[:, None])
        fields = torch.stack([now[:, s.first[n] : s.first[n] + s.levels] for n in s.advected], 1)
        fields = self.extended(fields, self.sign)
        out = 0.0
        for a in range(4):
            line = 0.0
            for e in range(4):
                line = line + wx[e] * self.at(fields, j + (a - 1), i + (e - 1))
            out = out + wy[a] * line
        return out.reshape(b, len(s.moved), h, w)

    @staticmethod
    def extended(x, sign):
        half = x.shape[-1] // 2
        south = torch.roll(x[..., :BEYOND, :], half, -1).flip(-2) * sign
        north = torch.roll(x[..., -BEYOND:, :], half, -1).flip(-2) * sign
        return torch.cat([south, x, north], -2)

    @staticmethod
    def at(x, j, i):
        """Values of (batch, n, level, rows, columns) at rows and columns of (batch, level, row, column)."""
        b, n, l, h, w = x.shape
        index = ((j + BEYOND) * w + torch.remainder(i, w)).reshape(b, 1, l, -1).expand(b, n, l, -1)
        return x.reshape(b, n, l, h * w).gather(3, index).reshape(b, n, l, *j.shape[-2:])

    @staticmethod
    def cubic(f):
        """Lagrange's weights for -1, 0, 1, 2."""
        a, b, c, d = f + 1.0, f, f - 1.0, f - 2.0
        return [b * c * d * (-1.0 / 6.0), a * c * d * 0.5, a * b * d * -0.5, a * b * c * (1.0 / 6.0)]


class Depthwise(torch.autograd.Function):
    """A convolution of each channel for itself: (batch, rows + k - 1, columns + k - 1, channel) with (k, k, channel).

    Its gradient for the kernel is a product for each tap, faster on a CPU than that of the library.
    """

    @staticmethod
    def of(x, kernel):
        x, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 0, 1)[:, None]
        return F.conv2d(x, kernel, groups=x.shape[1]).permute(0, 2, 3, 1)

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.save_for_backward(x, kernel)
        return Depthwise.of(x, kernel)

    @staticmethod
    def backward(ctx, g):
        x, kernel = ctx.saved_tensors
        k, (_, h, w, width) = len(kernel), g.shape
        to_x = Depthwise.of(F.pad(g, (0, 0, k - 1, k - 1, k - 1, k - 1)), kernel.flip(0, 1))
        x, g = x.float(), g.float().contiguous()
        product, taps = torch.empty_like(g), []
        for a in range(k):
            for e in range(k):
                torch.mul(x[:, a : a + h, e : e + w], g, out=product)
                taps.append(product.view(-1, width).sum(0))
        return to_x, torch.stack(taps).view(k, k, width).to(kernel.dtype)


class Block(nn.Module):
    """A depthwise convolution, normalisation, two layers, added to what came in."""

    def __init__(self, width, k):
        super().__init__()
        self.spatial = nn.Parameter(torch.randn(k, k, width) / k)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x):
        """x: (batch, row, column, width)."""
        kind = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        y = padded(x.to(kind), len(self.spatial) // 2)
        y = Depthwise.apply(y, self.spatial.to(kind))
        return x + self.down(F.gelu(self.up(self.norm(y))))


def gathered(x):
    """Squares of 2 x 2 points as one, their channels one after the other."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def spread(x):
    """The opposite of [`gathered`]."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


class UNet(nn.Module):
    """Two levels, of half and of a quarter of the grid's rows and columns."""

    def __init__(self, c):
        super().__init__()
        s = Layout(c)
        (w1, w2), (n1, n2, n3), (k1, k2) = c["widths"], c["blocks"], c["kernels"]
        self.places = nn.Parameter(torch.randn(s.rows, s.columns, c["statics"]) * 0.1)
        self.enter = nn.Linear(4 * s.inputs, w1)
        self.first = nn.ModuleList(Block(w1, k1) for _ in range(n1))
        self.coarser = nn.Linear(4 * w1, w2)
        self.second = nn.ModuleList(Block(w2, k2) for _ in range(n2))
        self.finer = nn.Linear(w2, 4 * w1)
        self.third = nn.ModuleList(Block(w1, k1) for _ in range(n3))
        self.norm = nn.LayerNorm(w1)
        self.leave = nn.Linear(w1, 4 * s.channels)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x):
        """x: (batch, row, column, inputs); gives (batch, row, column, channels)."""
        x = torch.cat([x, self.places.expand(len(x), -1, -1, -1)], -1)
        x = self.enter(gathered(x))
        for block in self.first:
            x = block(x)
        y = self.coarser(gathered(x))
        for block in self.second:
            y = block(y)
        x = x + spread(self.finer(y))
        for block in self.third:
            x = block(x)
        return spread(self.leave(self.norm(x)))


class Forecaster(nn.Module):
    """Everything, from two frames to the next."""

    def __init__(self, c):
        super().__init__()
        self.config, self.layout = c, Layout(c)
        s = self.layout
        self.register_buffer("climate", torch.zeros(s.channels, s.rows, s.columns))
        self.register_buffer("scale", torch.ones(s.channels))
        self.register_buffer("change", torch.ones(s.channels))
        self.register_buffer("ridge", torch.zeros(s.rows, s.ridge, s.channels))
        self.advection = Advection(c)
        self.unet = UNet(c)

    def features(self, before, now, times):
        """Features of the ridge regression, (batch, row, column, feature); the parts of them that the network sees too."""
        s = self.layout
        scale, change = self.scale[:, None, None], self.change[:, None, None]
        state = (now - self.climate) / scale
        past = (now - before) / change
        moved = (self.advection(before, now) - now[:, s.moved]) / change[s.moved]
        high = beyond_poles(now.permute(0, 2, 3, 1), 1).permute(0, 3, 1, 2)
        around = [torch.roll(now, -1, -1), torch.roll(now, 1, -1), high[..., 2:, :], high[..., :-2, :]]
        around = [(n - now) / change for n in around]
        times = times[:, :, None, :].expand(-1, -1, s.rows, -1)
        one = torch.ones_like(times[:, :1])
        features = torch.cat([one, times, state, past, moved, *around], 1).permute(0, 2, 3, 1)
        network = torch.cat([state, past, moved, times], 1).permute(0, 2, 3, 1)
        return features, network

    def forward(self, before, now, times):
        """The change to the next frame in units of `change`: (batch, channel, row, column)."""
        with torch.no_grad():
            features, network = self.features(before, now, times)
            linear = torch.einsum("bjif,jfc->bjic", features, self.ridge)
            network = torch.cat([network, linear], -1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            correction = self.unet(network)
        return (linear + correction.float()).permute(0, 3, 1, 2)

    def step(self, before, now, times):
        """The next frame."""
        return now + self.forward(before, now, times) * self.change[:, None, None]
