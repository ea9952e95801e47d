"""Makes the data: runs the general circulation model jcm and keeps the prognostic state every six hours.

    python data.py --out data --days 440

Writes `data/t31.nc`: t, u, v, q, z (time, level, lat, lon) and sp (time, lat, lon), float32, without the spin-up, and from its end
`data/heldout.nc`, the last `--heldout` days, which training never sees, and `data/sample.nc`, the last 12 steps of those.
"""

import argparse
import glob
import os
import re
import subprocess
import sys

import netCDF4
import numpy as np

P0 = 1e5  # Pa; jcm gives surface pressure over it
FIELDS = {  # name here: name of jcm, units, CF standard name, factor
    "t": ("temperature", "K", "air_temperature", 1.0),
    "u": ("u_wind", "m s-1", "eastward_wind", 1.0),
    "v": ("v_wind", "m s-1", "northward_wind", 1.0),
    "q": ("specific_humidity", None, "specific_humidity", None),  # units and factor from jcm's attributes
    "z": ("geopotential", "m2 s-2", "geopotential", 1.0),
    "sp": ("normalized_surface_pressure", "Pa", "surface_air_pressure", P0),
}


def simulate(out, days, chunk):
    """Runs jcm from rest for `days` days, in files of `chunk` days."""
    import jcm

    bc = os.path.join(os.path.dirname(jcm.__file__), "data", "bc", "t63")
    command = [
        sys.executable, "-m", "jcm.main", "physics=speedy", "grid=speedy_t31_l8", "terrain=from_file",
        f"terrain.file={bc}/terrain.nc", "terrain.interpolate=true", "forcing=from_file",
        f"forcing.file={bc}/forcing.nc", "forcing.align=wrap_year", "run.time_step=15", "run.save_interval=0.25",
        f"run.total_time={days}", f"run.chunk_days={chunk}", "run.output_prefix=t31",
    ]  # fmt: skip
    os.makedirs(out, exist_ok=True)
    subprocess.run(command, cwd=out, check=True)


def chunks(folder):
    """The files of a run, in the order of their days."""
    return sorted(glob.glob(os.path.join(folder, "t31_day*.nc")), key=lambda f: int(re.search(r"day(\d+)\.nc", f)[1]))


def read(files, spin_up_days):
    """Time (s since 1970), coordinates, and fields as (time, level, lat, lon) or (time, lat, lon)."""
    times, fields, coordinates = [], {k: [] for k in FIELDS}, {}
    for file in files:
        with netCDF4.Dataset(file) as f:
            times.append(np.asarray(f["time"][:]))
            assert f["time"].units == "seconds since 1970-01-01", f["time"].units
            for name, (source, _, _, factor) in FIELDS.items():
                values = np.asarray(f[source][:], np.float32)
                units = getattr(f[source], "units", "")
                if name == "q":
                    factor = {"kg kg-1": 1.0, "kg/kg": 1.0, "1": 1.0, "g/kg": 1e-3, "g kg-1": 1e-3}[units]
                if factor != 1.0:
                    values = values * np.float32(factor)
                fields[name].append(np.swapaxes(values, -1, -2))  # jcm has longitude before latitude
            for name in ("level", "lat", "lon"):
                coordinates[name] = np.asarray(f[name][:], np.float64)
    times = np.concatenate(times)
    fields = {k: np.ascontiguousarray(np.concatenate(v)) for k, v in fields.items()}
    keep = times >= times[0] + spin_up_days * 86400
    times, fields = times[keep], {k: v[keep] for k, v in fields.items()}
    assert (np.diff(times) == 21600).all(), "steps are not six hours apart"
    assert all(np.isfinite(v).all() for v in fields.values())
    return times, coordinates, fields


def write(path, times, coordinates, fields, deflate):
    """A NetCDF-4 file with CF attributes."""
    temporary = path + ".tmp"
    with netCDF4.Dataset(temporary, "w") as f:
        f.Conventions = "CF-1.11"
        f.title = "General circulation model, T31, 8 levels, SPEEDY physics, realistic terrain and forcing, six-hourly states"
        f.source = "jcm 3.0.0 (Apache-2.0)"
        f.createDimension("time", len(times))
        for name in ("level", "lat", "lon"):
            f.createDimension(name, len(coordinates[name]))
        v = f.createVariable("time", "i8", ("time",))
        v.setncatts({"standard_name": "time", "axis": "T", "units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"})
        v[:] = times
        about = {
            "level": {"standard_name": "atmosphere_sigma_coordinate", "units": "1", "positive": "down", "axis": "Z"},
            "lat": {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
            "lon": {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        }
        for name, attributes in about.items():
            v = f.createVariable(name, "f8", (name,))
            v.setncatts(attributes)
            v[:] = coordinates[name]
        for name, (_, units, standard_name, _) in FIELDS.items():
            dims = ("time", "level", "lat", "lon") if fields[name].ndim == 4 else ("time", "lat", "lon")
            packing = {"zlib": True, "shuffle": True, "complevel": 5} if deflate else {}
            v = f.createVariable(name, "f4", dims, **packing)
            v.setncatts({"units": units or "kg kg-1", "standard_name": standard_name})
            v[:] = fields[name]
    os.replace(temporary, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="data")
    p.add_argument("--days", type=int, default=250, help="simulated days, spin-up included")
    p.add_argument("--chunk", type=int, default=10, help="days of a file")
    p.add_argument("--spin-up", type=int, default=20, help="days dropped")
    p.add_argument("--heldout", type=int, default=30, help="days at the end that training does not see")
    p.add_argument("--run", help="folder of a finished run of jcm; without it, one is made")
    a = p.parse_args()
    run = a.run or os.path.join(a.out, "run")
    if not a.run:
        simulate(run, a.days, a.chunk)
    os.makedirs(a.out, exist_ok=True)
    files = [f for f in chunks(run) if int(re.search(r"day(\d+)\.nc", f)[1]) <= a.days]
    times, coordinates, fields = read(files, a.spin_up)
    n = 4 * a.heldout
    write(os.path.join(a.out, "t31.nc"), times, coordinates, fields, False)
    for name, steps, deflate in (("heldout", n, False), ("sample", 12, True)):
        last = {k: v[-steps:] for k, v in fields.items()}
        write(os.path.join(a.out, name + ".nc"), times[-steps:], coordinates, last, deflate)
    print(f"{len(times)} steps, the last {n} of them held out")


if __name__ == "__main__":
    main()
