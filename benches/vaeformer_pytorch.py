"""The original of benches/vaeformer.rs: VAEformer of CRA5, 268 x 721 x 1440, with random weights, in PyTorch on the CPU.

usage: PYTHONPATH=CRA5 python benches/vaeformer_pytorch.py FOLDER [THREADS]
CRA5 is a checkout of taohan10200/CRA5; pip install torch compressai einops timm dict_recursive_update matplotlib pandas, in an environment
of its own: compressai wants numpy 1, which JAX refuses.

The original's modules as they are, but for attention over all 10368 tokens: that has to be `scaled_dot_product_attention`, as the matrix of weights of all heads at once,
which the original builds, does not fit in 16 GB. Leaves weights and values in FOLDER, and compares with what ours left there:
    residuum weights import FOLDER/weights.pth -o FOLDER/weights.safetensors
    cargo bench --bench vaeformer -- FOLDER/weights.safetensors FOLDER/values.f32 FOLDER
    PYTHONPATH=CRA5 python benches/vaeformer_pytorch.py FOLDER
"""
import os
import resource
import sys
import time
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch

import cra5.models.compressai  # noqa: F401  (before the next: the package imports itself in a circle)
from cra5.models.vaeformer import VAEformer, vit_nlc

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
assert vit_nlc.ATTENTION_MODE == "math"


def attention(self, x, _h, _w):
    b, n, c = x.shape
    q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
    return self.proj(mixed.transpose(1, 2).reshape(b, n, c))


vit_nlc.Attention.forward = attention
torch.manual_seed(31)
net = VAEformer(268).eval()
noise = torch.Generator().manual_seed(31)
gains = {"quant_conv.weight": 2.0, "h_a.quan_mlp.fc2.weight": 2.0, "post_quant_conv.weight": 0.3}
with torch.no_grad():
    for name, p in sorted(net.named_parameters()):
        n = torch.randn(p.shape, generator=noise)
        if name.endswith("quantiles"):
            middle = 0.7 * n[:, :, 1:2]
            p.copy_(torch.cat([middle - 6, middle, middle + 6], 2))
        elif name.startswith("entropy_bottleneck._"):
            p.add_(0.1 * n)
        elif name.endswith("pos_embed"):
            p.add_(0.1 * n)
        elif p.ndim == 1:
            p.copy_(1 + 0.2 * n if name.endswith("weight") else 0.1 * n)
        elif name == "g_s.final.weight":  # transposed: inputs, outputs, rows, columns
            p.copy_(n / np.sqrt(p.shape[0]))
        else:
            p.copy_(n * gains.get(name, 1.0) / np.sqrt(p[0].numel()))
net.update(force=True)
values = torch.randn(1, 268, 721, 1440, generator=noise)
if not os.path.exists(f"{folder}/weights.pth"):
    torch.save({f"backbone.{k}": v for k, v in net.state_dict().items()}, f"{folder}/weights.pth")
    values.numpy().tofile(f"{folder}/values.f32")


def timed(what, run):
    wall, cpu = time.time(), time.process_time()
    out = run()
    print(f"{what}: {time.time() - wall:.2f} s, {time.process_time() - cpu:.2f} s of processor time", flush=True)
    return out


def encode():
    y = net.quant_conv(net.g_a(values)).chunk(2, 1)[0]
    z = net.h_a(y)
    z_hat = net.entropy_bottleneck.quantize(z, "dequantize", net.entropy_bottleneck._get_medians()[:, 0, 0][None, :, None, None])
    scales, means = net.h_s(z_hat).chunk(2, 1)
    return y, z, z_hat, net.gaussian_conditional.quantize(y, "symbols", means)


def decode(z_hat, symbols):
    _, means = net.h_s(z_hat).chunk(2, 1)
    return net.g_s(net.post_quant_conv(symbols + means))


with torch.inference_mode():
    y, z, z_hat, symbols = timed("encode (g_a, h_a, h_s, symbols)", encode)
    x_hat = timed("decode (h_s, g_s)", lambda: decode(z_hat, symbols))
print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9:.2f} GB resident at most")
assert torch.isfinite(x_hat).all()
for name, theirs in (("y", y), ("z", z), ("xh16", x_hat[:, ::16])):
    if os.path.exists(f"{folder}/{name}.f32"):
        off = torch.from_numpy(np.fromfile(f"{folder}/{name}.f32", np.float32)) - theirs.flatten()
        print(f"{name}: ours is off by at most {off.abs().max():.1e}, root mean square {off.square().mean().sqrt():.1e}, of values up to {theirs.abs().max():.1f}")
