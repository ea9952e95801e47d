#!/usr/bin/env python3
"""Runs the bench against SZ3 and puts its table into BENCHMARKS.md, with the command and the machine."""
import os
import pathlib
import platform
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMAND = ["cargo", "bench", "--features", "peers", "--bench", "against_sz3"]
BEGIN, END = "<!-- against_sz3: begin -->", "<!-- against_sz3: end -->"


def cpu() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        return re.search(r"model name\s*:\s*(.+)", text).group(1).strip()
    except (OSError, AttributeError):
        return platform.processor() or "unknown processor"


def main() -> None:
    table = subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    rustc = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    head = f"`just bench` ({' '.join(COMMAND)}); {cpu()}, {os.cpu_count()} cores; {rustc}.\n"
    path = ROOT / "BENCHMARKS.md"
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{head}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
