#!/usr/bin/env bash
# get-cuda.sh VERSION FOLDER: the CUDA compiler of that version (13.0) from NVIDIA's packages on PyPI, into FOLDER. No driver, no root, half a GB.
set -euo pipefail
version=$1 folder=$2
if [ -x "$folder/bin/nvcc" ]; then exit 0; fi
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
packages=(nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-nvrtc)
python3 -m pip install --quiet --no-deps --no-compile --disable-pip-version-check --root-user-action=ignore --target "$unpacked" "${packages[@]/%/~=$version.0}"
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv "$unpacked/nvidia/cu13" "$folder"
chmod +x "$folder"/bin/* "$folder"/nvvm/bin/* 2>/dev/null || true
