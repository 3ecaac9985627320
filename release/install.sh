#!/bin/sh
# Install xstream from this folder, without a network: sh install.sh [FOLDER]
# It goes into a virtual environment of its own, FOLDER (/opt/xstream for root, else ~/.local/share/xstream), with links
# to the command, its man page and its completion where they are looked for. To be rid of it, remove those four.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

fits='import platform, sys, venv
sys.exit(sys.version_info[:2] != (3, 6) or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc")'
if ! "$python" -c "$fits" 2>/dev/null; then
    echo "install.sh: this is for XCP-ng 8.3 and XenServer 8: glibc, x86-64, Python 3.6 with its venv module." >&2
    echo "$python here is another, or there is none. Nothing was changed; the other wheels of the release may fit." >&2
    exit 2
fi
(cd "$here" && sha256sum --quiet --check sha256sums) || {
    echo "install.sh: the bundle is damaged. Nothing was changed." >&2
    exit 1
}

prefix=$HOME/.local
folder=$prefix/share/xstream
[ "$(id -u)" -ne 0 ] || { prefix=/usr/local folder=/opt/xstream; }
folder=${1:-$folder}
"$python" -m venv --without-pip "$folder"
PIP_CONFIG_FILE=/dev/null "$folder/bin/python" "$(echo "$here"/wheels/pip-*.whl)/pip" --quiet --isolated \
    --disable-pip-version-check install --no-index --find-links "$here/wheels" --upgrade 'xen-xstream[arrays,progress]'
for file in bin/xstream share/man/man1/xstream.1 share/bash-completion/completions/xstream; do
    mkdir -p "$prefix/${file%/*}"
    ln -sf "$folder/$file" "$prefix/$file"
done
"$folder/bin/xstream" --version
echo "installed in $folder; the command is $prefix/bin/xstream"
