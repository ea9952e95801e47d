#!/usr/bin/env bash
# stubs.sh FOLDER: stand-ins for libcublas, libcublasLt and libcurand, to link and start a program with candle's CUDA. Each function of theirs that
# cudarc names is there: makers and destroyers of handles do nothing, all others say "not supported".
set -euo pipefail
out=$1
mkdir -p "$out"
source=$(cargo metadata --format-version 1 --features candle-cuda | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "cudarc").rsplit("/", 1)[0])')/src
stub() { # library, version of its name, module of cudarc, what makes a handle
    {
        echo 'static int handle[64];'
        grep -ohP 'pub (unsafe )?fn \K(cublas|curand|cublasLt)\w+(?=\s*\()' "$source/$3/sys/mod.rs" | sort -u | while read -r name; do
            if [[ $name =~ $4 ]]; then echo "int $name(void **p) { *p = handle; return 0; }"
            elif [[ $name =~ Destroy|SetStream|SetWorkspace|SetPseudo|SetGeneratorOffset ]]; then echo "int $name(void) { return 0; }"
            else echo "int $name(void) { return 15; }"; fi
        done
    } > "$out/$1.c"
    cc -w -shared -fPIC "-Wl,-soname,lib$1.so.$2" -o "$out/lib$1.so.$2" "$out/$1.c"
    ln -sf "lib$1.so.$2" "$out/lib$1.so"
}
stub cublas 13 cublas '^cublasCreate_v2$'
stub cublasLt 13 cublaslt '^cublasLtCreate$'
stub curand 10 curand '^curandCreateGenerator$'
