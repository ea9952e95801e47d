#!/usr/bin/env bash
# Builds the feature candle-cuda with NVIDIA's compiler and runs tensor -> kernels -> archive -> tensor (tests/candle.rs) on the software driver.
# candle's kernels for what no model of ours does are left out (nvcc-lite); cuBLAS and cuRAND are stand-ins, which no call here reaches.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
cuda=$(realpath -m "${CUDA_FOLDER:-target/cuda-13.0}") libraries=$PWD/target/cuda-stubs driver=$PWD/target/cuda-driver
bash "$here/get-cuda.sh" 13.0 "$cuda"
install -m 755 "$here/nvcc-lite" "$cuda/bin/nvcc-lite"
# The packages lack the names that a linker looks for.
[ -e "$cuda/lib64" ] || ln -s lib "$cuda/lib64"
for library in "$cuda"/lib/*.so.*; do
    name=${library##*/}
    ln -sf "$name" "$cuda/lib/${name%%.so.*}.so"
done
bash "$here/stubs.sh" "$libraries"
bash "$here/build.sh" "$driver" plain
# candle links NVIDIA's own by this name, which would compile for a device that is not there.
ln -sf libnvrtc.so "$driver/libnvrtc.so.13"
export CUDA_HOME=$cuda NVCC=$cuda/bin/nvcc-lite CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} PATH=$cuda/bin:$PATH
export LIBRARY_PATH=$driver:$libraries:$cuda/lib
# Not --release: the programs there are those without candle-cuda, which run where no libcuda is.
run_test() { cargo test --config 'profile.dev.package."*".opt-level=1' --features candle-cuda --test candle "$@"; }
run_test --no-run
LD_LIBRARY_PATH=$driver:$libraries:$cuda/lib RESIDUUM_CACHE_DIR=$driver/cache CUEMU_STRICT=1 CUEMU_REPORT=$driver/report.txt run_test -- --test-threads=1
