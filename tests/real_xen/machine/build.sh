#!/bin/bash
# Build everything that run.sh needs to boot a real Xen with a Debian dom0 under QEMU, from Debian's packages. Only the
# tools in TOOLS below are installed on this machine: hypervisor and kernels are unpacked, dom0's root is a debootstrap
# chroot.
#
#   RX=FOLDER SUITE=bookworm XENVER=4.17 build.sh     bullseye has 4.14, bookworm 4.17, trixie 4.20
#
# Leaves in $RX: xen, dom0.vmlinuz, dom0.initrd and root.img, which run.sh boots, and domu/ with the guests' kernels and
# initramfs, which dom0 has as /domu. Does nothing where they are there already.
set -euo pipefail
RX=${RX:?a folder to build in}
HERE=$(cd "$(dirname "$0")" && pwd)
# What was built from other scripts is built again.
made_from=$(cat "$HERE"/build.sh "$HERE"/dom0-init "$HERE"/domu-init | sha256sum)
[ "$(cat "$RX/made-from" 2>/dev/null)" != "$made_from" ] || exit 0
R=$RX/root
[ ! -e "$RX/made-from" ] || rm -f "$R/.rx-packages"
# Kernels are always this machine's own suite's.
SUITE=${SUITE:-bookworm}
XENVER=${XENVER:-4.17}
TOOLS="qemu-system-x86 qemu-utils debootstrap e2fsprogs cpio xz-utils zstd kmod busybox-static"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
mkdir -p "$RX"
log() { echo "[build $(date +%T)] $*"; }

# ---- tools on this machine; machines that are built at the same time take turns
install_tools() {
    local need=
    for p in $TOOLS; do
        dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || need="$need $p"
    done
    if [ -n "$need" ]; then
        log "apt-get install$need"
        apt-get update -qq
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $need >"$RX/apt.log" 2>&1
    fi
    apt-cache show linux-image-amd64 >/dev/null 2>&1 || apt-get update -qq
}
(flock 9; install_tools) 9>"$(dirname "$RX")/.lock"
# The mirrors that this machine itself uses; other suites are fetched from there, too. Known once the package lists are.
site() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep "$1" | head -n 1; }
MIRROR=${MIRROR:-$(site 'debian/*$')}
SECMIRROR=${SECMIRROR:-$(site 'security/*$')}

# ---- hypervisor and kernels: download and unpack, never install
if [ ! -e "$RX/unpack/.done" ]; then
    rm -rf "$RX/pkgs" "$RX/unpack"; mkdir -p "$RX/pkgs" "$RX/unpack"
    kpkg=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/{print $2; exit}')
    cpkg=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2; exit}')
    log "download xen-hypervisor-$XENVER-amd64 $kpkg $cpkg"
    (cd "$RX/pkgs" && apt-get download -qq "$kpkg" "$cpkg" 2>/dev/null)
    # The hypervisor comes from its own suite, with separate apt state.
    A=$RX/apt; mkdir -p "$A/lists/partial" "$A/cache/archives/partial"
    echo "deb $MIRROR $SUITE main" >"$A/sources.list"
    apt_="-o Dir::Etc::SourceList=$A/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$A/lists -o Dir::Cache=$A/cache"
    # shellcheck disable=SC2086
    apt-get $apt_ update -qq && (cd "$RX/pkgs" && apt-get $apt_ download -qq "xen-hypervisor-$XENVER-amd64")
    for d in "$RX"/pkgs/*.deb; do dpkg -x "$d" "$RX/unpack"; done
    touch "$RX/unpack/.done"
fi
B=$RX/unpack/boot
KVER=$(cd "$B" && ls -d config-*-amd64 | grep -v cloud | sed 's/^config-//' | head -1)
CVER=$(cd "$B" && ls -d config-*-cloud-amd64 | sed 's/^config-//' | head -1)
log "kernel $KVER, domU also $CVER"
gzip -dc "$B"/xen-"$XENVER"*.gz >"$RX/xen"
cp "$B/vmlinuz-$KVER" "$RX/dom0.vmlinuz"
depmod -b "$RX/unpack" "$KVER"

# ---- guest kernels and the guests' initramfs
D=$RX/domu; rm -rf "$D"; mkdir -p "$D/ird/bin" "$D/ird/dev" "$D/ird/proc" "$D/ird/sys"
cp "$B/vmlinuz-$KVER" "$D/vmlinuz"
cp "$B/vmlinuz-$CVER" "$D/vmlinuz-cloud"
cp /bin/busybox "$D/ird/bin/busybox"
install -m 755 "$HERE/domu-init" "$D/ird/init"
(cd "$D/ird" && find . | cpio -o -H newc --quiet | gzip -9) >"$D/initrd.gz"
rm -rf "$D/ird"

# ---- dom0 root
if [ ! -e "$R/.rx-packages" ]; then
    rm -rf "$R"
    log "debootstrap $SUITE"
    debootstrap --variant=minbase --include=busybox-static,python3,kmod,xz-utils,zstd,procps,ca-certificates \
        $SUITE "$R" "$MIRROR" >"$RX/debootstrap.log" 2>&1
    printf '#!/bin/sh\nexit 101\n' >"$R/usr/sbin/policy-rc.d"; chmod +x "$R/usr/sbin/policy-rc.d"
    { echo "deb $MIRROR $SUITE main"; echo "deb $SECMIRROR $SUITE-security main"; } >"$R/etc/apt/sources.list"
    # Same apt proxy or mirror settings as this machine, if there are any.
    cp /etc/apt/apt.conf.d/*prox* "$R/etc/apt/apt.conf.d/" 2>/dev/null || true
    cp /etc/resolv.conf "$R/etc/resolv.conf" 2>/dev/null || true
    log "apt-get install xen-utils-$XENVER and friends in the chroot"
    chroot "$R" sh -c "apt-get update -qq && apt-get -y -qq dist-upgrade &&
        q=qemu-system-xen; apt-cache show \$q >/dev/null 2>&1 || q=qemu-system-x86
        z=python3-zstandard; apt-cache show \$z >/dev/null 2>&1 || z=
        apt-get install -y -qq --no-install-recommends xen-utils-$XENVER xenstore-utils \$z \
        \$q seabios ipxe-qemu iproute2 && apt-get clean" >"$RX/chroot.log" 2>&1
    chroot "$R" dpkg-query -W >"$R/.rx-packages"
fi
# modules that dom0 may want
rm -rf "$R/lib/modules" "$R/usr/lib/modules"
MODS="virtio_pci virtio_blk ext4 9p 9pnet_virtio xenfs xen-privcmd xen-evtchn xen-gntdev xen-gntalloc
 xen-blkback xen-netback xen-pciback loop tun bridge nbd"
for m in $MODS; do
    modprobe -d "$RX/unpack" -S "$KVER" --show-depends "$m" 2>/dev/null | awk '$1=="insmod"{print $2}'
done | sort -u | sed "s|^$RX/unpack||; s|^/usr||" >"$RX/modlist"
while read -r f; do
    src=$RX/unpack$f; [ -e "$src" ] || src=$RX/unpack/usr$f
    mkdir -p "$R$(dirname "$f")"; cp "$src" "$R$f"
done <"$RX/modlist"
cp "$RX/unpack/lib/modules/$KVER"/modules.{builtin,order} "$R/lib/modules/$KVER/" 2>/dev/null || true
depmod -b "$R" "$KVER"
install -m 755 "$HERE/dom0-init" "$R/sbin/rx-init"
mkdir -p "$R/in" "$R/out" "$R/domu"
cp "$D"/* "$R/domu/"
# a new file each time, moved into place: a run in progress keeps the old one
rm -f "$RX/root.img.new"
truncate -s "${RX_ROOT_SIZE:-8G}" "$RX/root.img.new"
log "mke2fs root.img"
mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$R" "$RX/root.img.new"
mv "$RX/root.img.new" "$RX/root.img"

# ---- dom0 initramfs: busybox and the modules of the root disk
I=$RX/ird; rm -rf "$I"; mkdir -p "$I/bin" "$I/dev" "$I/proc" "$I/sys" "$I/disk" "$I/m"
cp /bin/busybox "$I/bin/busybox"
n=0
for m in virtio_pci virtio_blk ext4; do
    modprobe -d "$RX/unpack" -S "$KVER" --show-depends "$m"
done | awk '$1=="insmod" && !s[$2]++ {print $2}' | while read -r f; do
    n=$((n+1)); cp "$f" "$I/m/$(printf %02d $n)-$(basename "$f")"
done
cat >"$I/init" <<'EOF'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for m in /m/*; do $B insmod $m || echo "RX: insmod $m failed"; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do $B sleep 0.2; i=$((i+1)); done
$B mount -t ext4 -o rw /dev/vda /disk || { echo "RX: no root disk"; $B ls /dev; $B poweroff -f; }
$B mount --move /dev /disk/dev; $B mount --move /proc /disk/proc; $B mount --move /sys /disk/sys
exec $B switch_root /disk /sbin/rx-init
EOF
chmod 755 "$I/init"; ln -s busybox "$I/bin/sh"
(cd "$I" && find . | cpio -o -H newc --quiet | gzip -1) >"$RX/dom0.initrd"
rm -rf "$I"
echo "$made_from" >"$RX/made-from"
log done
