"""The original of examples/aurora_full_size.rs, on the weights and input that it left in a folder.

usage: python benches/aurora_pytorch.py FOLDER [THREADS]    (pip install torch microsoft-aurora==2.0.1 safetensors)

Areas of patches, from sines and roots in f32, come out one ulp off from machine to machine, and their codes with them, by up to 0.4 of what is normalised in the forecast. This
machine's are left in the folder: run the example again before outputs are compared.
"""
import resource
import sys
import time
from datetime import datetime, timezone

import torch
from aurora import AuroraSmallPretrained, Batch, Metadata
from aurora.model.fourier import pos_expansion
from aurora.model.posencoding import pos_scale_enc
from aurora.normalisation import scales
from safetensors.torch import load_file, save_file

SURF, STATIC, ATMOS = ("2t", "10u", "10v", "msl"), ("lsm", "z", "slt"), ("z", "u", "v", "t", "q")
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)

folder = sys.argv[1]
torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
model = AuroraSmallPretrained().eval()
model.load_state_dict(load_file(f"{folder}/weights.safetensors"))
fields = load_file(f"{folder}/inputs.safetensors")
areas = []
pos_scale_enc(8, torch.linspace(90, -90, 721)[:720], torch.arange(1440) * 0.25, 4, pos_expansion=pos_expansion,
              scale_expansion=lambda x, d: areas.append(x.clone()) or torch.zeros(*x.shape, d))
save_file({"aux.root_area": areas[0].view(180, 360).contiguous()}, f"{folder}/root_area.safetensors")
both = lambda k: torch.stack([fields[f"{i}.{k}"] for i in (0, 1)])[None]
batch = Batch(
    surf_vars={k: both(k) for k in SURF},
    static_vars={k: fields[f"1.{k}"] for k in STATIC},
    atmos_vars={k: torch.stack([both(f"{k}@{l}hPa") for l in LEVELS], 2) for k in ATMOS},
    metadata=Metadata(lat=torch.linspace(90, -90, 721), lon=torch.arange(1440) * 0.25, atmos_levels=LEVELS,
                      time=(datetime.fromtimestamp(int(fields["1.time_unix_s"]), timezone.utc),)))
with torch.inference_mode():
    start = time.time()
    out = model.forward(batch)
    seconds = time.time() - start
print(f"one step: {seconds:.1f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
theirs = {k: (v[0, 0], scales[k]) for k, v in out.surf_vars.items()}
theirs |= {f"{k}@{l}hPa": (v[0, 0, i], scales[f"{k}_{l}"]) for k, v in out.atmos_vars.items() for i, l in enumerate(LEVELS)}
try:
    ours = load_file(f"{folder}/outputs.safetensors")
    off = {k: float((ours[f"0.{k}"] - v).abs().max() / s) for k, (v, s) in theirs.items()}
    most = max(off, key=off.get)
    print(f"ours is off by at most {off[most]:.2e} (normalised, {most})")
except FileNotFoundError:
    print("no outputs of ours to compare with")
