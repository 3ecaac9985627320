#!/bin/sh
# Install xstream from this folder, without a network: sh install.sh [PREFIX]
# It is installed into a virtual environment, PREFIX/lib/xstream, with links to the command, its man page and its bash
# completion in PREFIX. PREFIX is /usr/local for root, ~/.local for others. To uninstall, remove these four.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
usual=$HOME/.local
[ "$(id -u)" -ne 0 ] || usual=/usr/local
prefix=${1:-$usual}
home=$prefix/lib/xstream

fits='import platform, sys, venv
sys.exit(sys.version_info[:2] != (3, 6) or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc")'
if ! "$python" -c "$fits" 2>/dev/null; then
    echo "install.sh: this is for XCP-ng 8.3 and XenServer 8: Python 3.6 with its venv module, glibc, x86-64." >&2
    echo "$python is something else. Nothing was changed; another wheel of the release may fit this host." >&2
    exit 2
fi
(cd "$here" && sha256sum --quiet --check sha256sums) || {
    echo "install.sh: the bundle is damaged. Nothing was changed." >&2
    exit 1
}

"$python" -m venv --without-pip "$home"
PIP_CONFIG_FILE=/dev/null "$home/bin/python" "$(echo "$here"/wheels/pip-*.whl)/pip" --quiet --isolated \
    --disable-pip-version-check install --no-index --find-links "$here/wheels" --upgrade 'xen-xstream[arrays,progress,zstd]'
for file in bin/xstream bin/xstream-save-helper bin/xstream-convert-helper share/man/man1/xstream.1 \
    share/bash-completion/completions/xstream; do
    mkdir -p "$prefix/${file%/*}"
    ln -sf "$home/$file" "$prefix/$file"
done
"$home/bin/xstream" --version
echo "installed in $home; the command is $prefix/bin/xstream"
