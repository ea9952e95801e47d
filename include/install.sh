#!/usr/bin/env bash
# Builds the C library and installs it: bash include/install.sh PREFIX   (`DESTDIR` is put in front, as packagers want it)
#
#   PREFIX/include/residuum.h
#   PREFIX/lib/libresiduum.so -> libresiduum.so.1 -> libresiduum.so.1.0.1.0   (1 is the interface's version, 0.1.0 the library's)
#   PREFIX/lib/libresiduum.a
#   PREFIX/lib/pkgconfig/residuum.pc
#   PREFIX/share/residuum/residuum.f90   (modules are compiled by the compiler that uses them)
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=${1:?usage: bash include/install.sh PREFIX}
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
root=${DESTDIR:-}$prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
abi=$(sed -n 's/^#define RESIDUUM_ABI_VERSION \([0-9]*\)$/\1/p' include/residuum.h)
target=${CARGO_TARGET_DIR:-target}/release

# A program records the name that the library says it has; one of another interface is then not taken for it.
soname=()
[ "$(uname)" = Linux ] && soname=(-C "link-arg=-Wl,-soname,libresiduum.so.$abi")
cargo rustc --release --lib --crate-type cdylib,staticlib -- "${soname[@]}"

install -d "$root/include" "$root/lib/pkgconfig" "$root/share/residuum"
install -m 644 include/residuum.h "$root/include/"
install -m 644 fortran/residuum.f90 "$root/share/residuum/"
install -m 644 "$target/libresiduum.a" "$root/lib/"
if [ "$(uname)" = Darwin ]; then
    install -m 755 "$target/libresiduum.dylib" "$root/lib/"
    install_name_tool -id "$prefix/lib/libresiduum.dylib" "$root/lib/libresiduum.dylib"
else
    install -m 755 "$target/libresiduum.so" "$root/lib/libresiduum.so.$abi.$version"
    ln -sf "libresiduum.so.$abi.$version" "$root/lib/libresiduum.so.$abi"
    ln -sf "libresiduum.so.$abi" "$root/lib/libresiduum.so"
fi
sed "s|@PREFIX@|$prefix|; s|@VERSION@|$version|" include/residuum.pc.in > "$root/lib/pkgconfig/residuum.pc"
echo "installed in $root"
