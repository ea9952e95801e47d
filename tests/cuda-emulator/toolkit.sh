#!/usr/bin/env bash
# Gets the real CUDA compiler from PyPI (pinned) and holds every kernel to what it must be: see toolkit.py. --write makes the table anew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cuda=${CUDA_FOLDER:-$here/../../target/cuda-13.0}
bash "$here/get-cuda.sh" 13.0 "$cuda"
cc -std=c99 -Wall -Wextra -Werror -fsyntax-only -I"$here/../../include" -I"$cuda/include" "$here/../../examples/c/simulation_on_gpu.c"
python3 "$here/toolkit.py" "$cuda" "$@"
