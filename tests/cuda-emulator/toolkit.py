"""Compiles every kernel with the real toolkit and refuses what must not be: spills, too many registers, contracted arithmetic.

toolkit.py CUDA_FOLDER [--write]: with --write the table in BENCHMARKS.md is made anew, else it must be what it is.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-Xptxas", "-v", "--Werror", "all-warnings"]
ARCHITECTURES = ["80", "90", "100"]
BEGIN, END = "<!-- kernels: computed -->", "<!-- end of kernels -->"

# Bytes of global traffic of a kernel for each value of f32 (rows without a number do less than a hundredth of a byte, or nothing in an
# ordinary field), as the code has them: what is read from the caches again is not counted twice.
TRAFFIC = {
    "range_f32": ("4", "each value once"),
    "missed_clear": ("0.13", "a bit a value"),
    "direct_codes_f32": ("8", "value in, code out; neighbours from the cache"),
    "interp_fine_f32": ("16", "value, one neighbour of four, code and decoded value, all passes together; the lines of a finest pass on the fast axis are touched twice"),
    "outliers_count": ("0.13", "a bit a value"),
    "huffman_count": ("4.25", "codes in, 4 KiB of counts a part out"),
    "huffman_sets": ("0.5", "counts, twice"),
    "huffman_sizes": ("0.25", "counts"),
    "huffman_encode": ("4.1", "codes in, bits out (0.1 for a ratio of 40)"),
    "huffman_decode": ("4.1", "bits in; codes out (those that are not 0, after a memset of 4)"),
    "lorenzo_sums": ("8", "codes in and out, for each axis"),
    "direct_values_f32": ("8", "codes in, values out"),
    "fitted_encode_f32": ("18", "value, one neighbour of its taps, decoded value, code, size and bucket, all phases together; each side image adds 4"),
    "fitted_decode_predict_f32": ("10", "one neighbour of its taps; prediction and bucket out; each side image adds 4"),
    "fitted_decode_restore_f32": ("10", "prediction and bucket in, value and size out, and streams"),
    "forecast_agree_f32": ("8", "forecast in, rounded one out; two bits more where models differ between machines"),
    "forecast_look_f32": ("8.6", "forecasts of the run that fits, twice, and every seventh value"),
    "forecast_sums_f32": ("4", "rounded forecasts in"),
    "forecast_see_f32": ("8", "decoded value in, what the model takes out"),
    "rans_count": ("5", "codes and buckets in"),
    "rans_sizes": ("5", "codes and buckets in"),
    "rans_encode": ("5", "codes and buckets in, words out (0.1 for a ratio of 40)"),
    "interp_decode_fine_f32": ("12", "code, one neighbour of four, decoded value"),
}


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def compiled(nvcc, file, arch, folder):
    """Kernel name to registers, bytes of shared memory, of stack, of spills."""
    text = run([nvcc, *FLAGS, f"-arch=sm_{arch}", "-cubin", file, "-o", folder / f"{file.stem}-{arch}.cubin"])
    kernels = {}
    for part in text.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        number = lambda pattern: int(found[1]) if (found := re.search(pattern, part)) else 0
        spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        kernels[name] = (number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame"), spills)
    return kernels


def occupancy(threads, registers, shared):
    """Part of the 2048 threads of a multiprocessor of sm_90 that can be there at once."""
    warps = threads // 32
    by_registers = 65536 // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = 228 * 1024 // (shared + 1024)
    return min(32, 2048 // threads, by_registers, by_shared) * threads / 2048


def main():
    cuda = pathlib.Path(sys.argv[1]).resolve()
    nvcc = cuda / "bin" / "nvcc"
    files = sorted((ROOT / "kernels").glob("*.cu"))
    problems, rows = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for file in files:
            bounds = re.findall(r"__launch_bounds__\((\w+)[^)]*\) (\w+)\(", file.read_text())
            threads = {kernel: {"BLOCK": 256, "WIDE": 512, "SELECTORS": 96}.get(bound) or int(bound) for bound, kernel in bounds}
            # No fused operation in what the compiler proper makes; what the assembler puts into a division is part of an exact division.
            ptx = folder / f"{file.stem}.ptx"
            run([nvcc, *[f for f in FLAGS if f not in ("-Xptxas", "-v")], "-arch=compute_80", "-ptx", file, "-o", ptx])
            fused = re.findall(r"\b(?:fma|mad)\.\w*\.?f(?:32|64)", ptx.read_text())
            # But for those that are written: of the sums that the encoder fits by.
            if set(fused) - ({"fma.rn.f32"} if "__fmaf_rn" in file.read_text() else set()):
                problems.append(f"{file.name}: contracted arithmetic: {sorted(set(fused))}")
            for arch in ARCHITECTURES:
                for kernel, (registers, shared, stack, spills) in compiled(nvcc, file, arch, folder).items():
                    if spills:
                        problems.append(f"{kernel} for sm_{arch}: {spills} bytes of spills")
                    if registers * threads[kernel] > 65536:
                        problems.append(f"{kernel} for sm_{arch}: {registers} registers are too many for {threads[kernel]} threads")
                    if arch == "90":
                        traffic, what = TRAFFIC.get(kernel, ("", ""))
                        part = occupancy(threads[kernel], registers, shared)
                        rows.append(f"| `{kernel}` | {threads[kernel]} | {registers} | {shared} | {stack} | {100 * part:.0f} % | {traffic} | {what} |")
    if problems:
        sys.exit("\n".join(problems))
    table = "\n".join([
        BEGIN,
        "| kernel | threads | registers | shared memory | stack | occupancy | bytes a value | of what |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        END,
    ])
    path = ROOT / "BENCHMARKS.md"
    text = path.read_text()
    old = re.search(f"{BEGIN}.*?{END}", text, re.S)
    if "--write" in sys.argv:
        path.write_text(text.replace(old[0], table))
    elif old is None or old[0] != table:
        sys.exit("the table of kernels in BENCHMARKS.md is out of date: tests/cuda-emulator/toolkit.sh --write")
    print(f"{len(rows)} kernels compile for sm_{', sm_'.join(ARCHITECTURES)}: no spills, nothing contracted")


main()
