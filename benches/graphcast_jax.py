"""The original of benches/graphcast.rs: GraphCast_small (1 degree, 13 levels, mesh of 5 splits) with random weights, one step in JAX on the CPU.

usage: PYTHONPATH=GRAPHCAST python benches/graphcast_jax.py FOLDER
GRAPHCAST is a checkout of google-deepmind/graphcast, tag v0.2; pip install jax dm-haiku jraph chex dm-tree trimesh rtree xarray dask scipy safetensors

Leaves weights, inputs and outputs in FOLDER, for ours:
    residuum weights import FOLDER/params.npz --statistics FOLDER/stats.safetensors -o FOLDER/weights.safetensors
    cargo bench --bench graphcast -- FOLDER/weights.safetensors FOLDER/inputs.safetensors FOLDER/outputs.safetensors
"""
import os
import resource
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import haiku as hk
import jax
import numpy as np
import pandas as pd
import xarray as xr
from safetensors.numpy import save_file

from graphcast import checkpoint, data_utils, graphcast as gc, normalization

jax.config.update("jax_default_matmul_precision", "float32")
SURFACE = ("2m_temperature", "mean_sea_level_pressure", "10m_v_component_of_wind", "10m_u_component_of_wind", "total_precipitation_6hr")
LEVELLED = ("temperature", "geopotential", "u_component_of_wind", "v_component_of_wind", "vertical_velocity", "specific_humidity")
FORCINGS = ("toa_incident_solar_radiation", "year_progress_sin", "year_progress_cos", "day_progress_sin", "day_progress_cos")
STATIC = ("geopotential_at_surface", "land_sea_mask")
LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
rng = np.random.default_rng(7)
noise = lambda *shape: rng.standard_normal(shape, dtype=np.float32)


def statistics(of):
    """A number, or one a level, for each variable."""
    shape = lambda v: (len(LEVELS),) if v in LEVELLED else ()
    values = {v: (("level",) if shape(v) else (), of(shape(v))) for v in SURFACE + LEVELLED + FORCINGS + STATIC}
    return xr.Dataset(values, coords={"level": np.array(LEVELS, np.int32)})


mean, std = statistics(lambda s: 0.1 * noise(*s)), statistics(lambda s: 1 + 0.2 * rng.random(s, np.float32))
# Joules in an hour, which are not near 0 and 1.
mean[FORCINGS[0]], std[FORCINGS[0]] = mean[FORCINGS[0]] + np.float32(1.07e6), std[FORCINGS[0]] * np.float32(1.44e6)
diffs_std = statistics(lambda s: 0.3 + 0.2 * rng.random(s, np.float32))
lat, lon = np.linspace(-90, 90, 181, dtype=np.float32), np.arange(360, dtype=np.float32)
times = pd.date_range("2018-03-05T06:00:00", periods=3, freq="6h")
axes = ("batch", "time", "level", "lat", "lon")
fields = {v: (axes[:2] + axes[3:], noise(1, 3, 181, 360)) for v in SURFACE}
fields |= {v: (axes, noise(1, 3, 13, 181, 360)) for v in LEVELLED} | {v: (axes[3:], noise(181, 360)) for v in STATIC}
data = xr.Dataset(fields, coords={
    "lat": lat, "lon": lon, "level": np.array(LEVELS, np.int32), "time": (np.arange(3) * np.timedelta64(6, "h")).astype("timedelta64[ns]"),
    "datetime": (("batch", "time"), times.values.astype("datetime64[ns]")[None])})
data_utils.add_derived_vars(data)
data_utils.add_tisr_var(data)
inputs, targets = data_utils.extract_input_target_times(data.drop_vars("datetime"), input_duration="12h", target_lead_times="6h")
task = gc.TaskConfig(input_variables=SURFACE + LEVELLED + FORCINGS + STATIC, target_variables=SURFACE + LEVELLED, forcing_variables=FORCINGS,
                     pressure_levels=LEVELS, input_duration="12h")
model = gc.ModelConfig(resolution=1.0, mesh_size=5, latent_size=512, gnn_msg_steps=16, hidden_layers=1, radius_query_fraction_edge_length=0.6,
                       mesh2grid_edge_normalization_factor=None)
inputs, forcings, targets = inputs[list(task.input_variables)], targets[list(FORCINGS)], targets[list(task.target_variables)] * np.nan


@hk.transform
def step(x, t, f):
    net = normalization.InputsAndResiduals(gc.GraphCast(model, task), stddev_by_level=std, mean_by_level=mean, diffs_stddev_by_level=diffs_std)
    return net(x, targets_template=t, forcings=f)


shapes = jax.eval_shape(step.init, jax.random.PRNGKey(0), inputs, targets, forcings)
gains = {"w": lambda a: a * np.float32(1.2 / np.sqrt(a.shape[0])), "b": lambda a: 0.1 * a, "scale": lambda a: 1 + 0.2 * a, "offset": lambda a: 0.1 * a}
params = {m: {k: np.asarray(gains[k](noise(*p.shape)), np.float32) for k, p in sorted(of.items())} for m, of in sorted(shapes.items())}

plain = lambda d: {k: np.ascontiguousarray(np.asarray(d[k].transpose(*[a for a in axes if a in d[k].dims]).values, np.float32)) for k in d.data_vars}
with open(f"{folder}/params.npz", "wb") as file:
    checkpoint.dump(file, gc.CheckPoint(params=params, model_config=model, task_config=task, description="random weights", license="none"))
all_statistics = (("mean", mean), ("std", std), ("diffs_std", diffs_std))
save_file({f"{n}.{k}": np.atleast_1d(np.asarray(d[k].values, np.float32)) for n, d in all_statistics for k in d.data_vars}, f"{folder}/stats.safetensors")
moments = dict(lat=lat, lon=lon, datetime_unix_s=times.values.astype("datetime64[s]").astype(np.int64)[None])
save_file({f"input.{k}": v for k, v in plain(inputs).items()} | moments, f"{folder}/inputs.safetensors")

run = jax.jit(lambda p, x, t, f: step.apply(p, None, x, t, f))
for what in ("compiled and one step", "step", "step"):
    wall, cpu = time.time(), time.process_time()
    forecast = run(params, inputs, targets, forcings)
    forecast = plain(forecast.compute() if hasattr(forecast, "compute") else forecast)
    print(f"{what}: {time.time() - wall:.1f} s, {time.process_time() - cpu:.1f} s of processor time, "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9:.2f} GB resident at most", flush=True)
assert all(np.isfinite(v).all() for v in forecast.values())
save_file(forecast, f"{folder}/outputs.safetensors")
