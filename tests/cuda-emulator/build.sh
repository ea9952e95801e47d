#!/usr/bin/env bash
# build.sh FOLDER plain|asan|ubsan|tsan: the software driver, with all of kernels/*.cu in it, as FOLDER/libcuda.so.1 and FOLDER/libnvrtc.so.
# Needs g++ only. Does nothing if what is there is newer than every source.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) kernels=$(cd "$(dirname "$0")/../../kernels" && pwd)
out=$1 mode=$2
mkdir -p "$out"
if [ -e "$out/done" ] && [ -z "$(find "$here" "$kernels" -newer "$out/done" -type f)" ]; then exit 0; fi
rm -f "$out/done"

# Every kernel file, and a line that makes each kernel known to the driver by its name.
{
    for file in "$kernels"/*.cu; do echo "#include \"$file\""; done
    grep -ohE '__global__ void __launch_bounds__\([A-Z0-9, ]+\) \w+\(' "$kernels"/*.cu | sed -E 's/.*\) (\w+)\(/CUEMU_KERNEL(\1)/'
} >"$out/kernels.cpp"

common=(-std=c++17 -g -fPIC -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -fno-omit-frame-pointer -DCUEMU "-I$here"
    -Wall -Wextra -Wno-unused-function -Wno-unknown-pragmas -Wno-unused-parameter)
of_kernels=(-O2 -mpopcnt) of_driver=(-O2) of_link=()
case $mode in
plain) ;;
asan) # one worker and real globals for shared memory, so that it has red zones
    of_kernels+=(-fsanitize=address -DCUEMU_STATIC_SHARED) of_driver+=(-fsanitize=address -DCUEMU_STATIC_SHARED) of_link+=(-fsanitize=address) ;;
ubsan) of_kernels+=(-fsanitize=undefined,bounds-strict,float-cast-overflow -fno-sanitize-recover=all) of_link+=(-fsanitize=undefined) ;;
tsan) # the driver itself is not instrumented
    of_kernels+=(-fsanitize=thread) of_driver+=(-DCUEMU_TSAN) of_link+=(-fsanitize=thread) ;;
*) echo "build.sh: no build $mode" >&2 && exit 2 ;;
esac
g++ "${common[@]}" "${of_kernels[@]}" -c "$out/kernels.cpp" -o "$out/kernels.o"
g++ "${common[@]}" "${of_driver[@]}" -c "$here/libcuda.cpp" -o "$out/libcuda.o"
g++ -shared -Wl,-soname,libcuda.so.1 "${of_link[@]}" -o "$out/libcuda.so.1" "$out/kernels.o" "$out/libcuda.o" -lpthread -lm
ln -sf libcuda.so.1 "$out/libcuda.so"
g++ -std=c++17 -O1 -fPIC -shared -Wl,-soname,libnvrtc.so -o "$out/libnvrtc.so" "$here/libnvrtc.cpp"
touch "$out/done"
