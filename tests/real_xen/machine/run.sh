#!/bin/bash
# Boot a real Xen with the Debian dom0 that build.sh made, run a scenario there, and bring back what it left in $OUT.
#
#   RX=FOLDER run.sh SCENARIO.sh [FILE|FOLDER|NAME=FILE ...]
#
# In dom0 the scenario runs as root with sh, in /in, where every FILE lies under its base name (NAME=FILE: under NAME). It
# may source /rx-lib.sh. What it writes under $OUT (/out) comes back in $RX/out/<tag>/, with scenario.log, serial.log
# (Xen, dom0, scenario) and dom0/ (xl dmesg, /var/log/xen with the guests' consoles). The root disk is a snapshot: every
# run starts afresh.
#
# environment: RX           the folder of build.sh
#              RX_TAG       name of the result's folder        (the scenario's base name)
#              RX_TIMEOUT   seconds for the whole run          (2700)
#              RX_MEM       memory of the QEMU machine, MiB    (3072)
#              RX_DOM0_MEM  dom0's memory, MiB                 (1024)
#              RX_SMP       CPUs                               (2)
#              RX_CPU       QEMU's CPU model                   (EPYC,-smap,-monitor,-rdtscp)
#              RX_XEN_ARGS, RX_DOM0_ARGS  further options of Xen and of dom0's kernel
#              RX_MONITOR   unix socket for QEMU's monitor     (none)
#              RX_ENV       shell assignments for the scenario, such as 'WANT="pv pvh"'
# Exit status: the scenario's; 125 if dom0 brought nothing back.
#
# The CPU lacks what QEMU's emulation gets wrong: smap (it reads the frame of iret as supervisor at CPL 3, and dom0
# crashes), monitor (its mwait knows no ECX extensions, and Xen panics), rdtscp (reported as rdtsc when intercepted, and
# HVM guests die). dom0 keeps to CPU 0, guests to CPU 1. HVM and PVH guests boot without AVX (clearcpuid=156 in lib.sh):
# emulated XSETBV doesn't reach Xen, so a restored guest would find AVX off.
set -euo pipefail
RX=${RX:?the folder of build.sh}
HERE=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,/^# Exit/p' "$0"; exit 2; }
SC=$1; shift
TAG=${RX_TAG:-$(basename "$SC" .sh)}
W=$RX/runs/$TAG.$$; O=$RX/out/$TAG
mkdir -p "$W/in" "$W/tmp"
cp "$SC" "$W/in/scenario.sh"
cp "$HERE/lib.sh" "$W/in/rx-lib.sh"
printf '%s\n' "${RX_ENV:-}" >"$W/in/.env"
for f in "$@"; do
    case $f in
        *=*) n=${f%%=*}; s=${f#*=}; mkdir -p "$W/in/$(dirname "$n")"; cp -rL "$s" "$W/in/$n";;
        *) cp -rL "$f" "$W/in/";;
    esac
done
TO=${RX_TIMEOUT:-2700}
echo $((TO > 400 ? TO - 200 : TO / 2)) >"$W/in/.timeout"
tar -C "$W/in" -cf "$W/in.tar" .
rm -rf "$W/in"
truncate -s 8G "$W/out.raw"
: >"$W/serial.log"
XEN="console=com1 com1=115200,8n1 vga=none dom0_mem=${RX_DOM0_MEM:-1024}M,max:${RX_DOM0_MEM:-1024}M"
XEN="$XEN loglvl=info guest_loglvl=info spec-ctrl=no cpufreq=none cpuidle=0 dom0_max_vcpus=1 dom0_vcpus_pin ${RX_XEN_ARGS:-}"
K="console=hvc0 quiet loglevel=5 panic=5 mitigations=off rdinit=/init ${RX_DOM0_ARGS:-}"
esc() { printf %s "$1" | sed 's/,/,,/g'; }
monitor=none
[ -z "${RX_MONITOR:-}" ] || monitor=unix:$RX_MONITOR,server=on,wait=off
start=$(date +%s)
rc=0
TMPDIR=$W/tmp timeout -k 10 "$TO" qemu-system-x86_64 \
    -machine pc -accel tcg,thread=multi -cpu "${RX_CPU:-EPYC,-smap,-monitor,-rdtscp}" -smp "${RX_SMP:-2}" -m "${RX_MEM:-3072}" \
    -nodefaults -no-user-config -nic none -display none -monitor "$monitor" -no-reboot \
    -serial "file:$W/serial.log" \
    -kernel "$RX/xen" -append "$XEN" \
    -initrd "$RX/dom0.vmlinuz $(esc "$K"),$RX/dom0.initrd" \
    -drive file="$RX/root.img",if=virtio,format=raw,snapshot=on,cache=unsafe \
    -drive file="$W/in.tar",if=virtio,format=raw,readonly=on,cache=unsafe \
    -drive file="$W/out.raw",if=virtio,format=raw,cache=unsafe,discard=unmap \
    >"$W/qemu.log" 2>&1 || rc=$?
end=$(date +%s)
rm -rf "$O"; mkdir -p "$O"
tr -d '\r' <"$W/serial.log" >"$O/serial.log"
cp "$W/qemu.log" "$O/qemu.log"
got=1
if grep -aq RX-OUT-WRITTEN "$O/serial.log"; then
    tar -C "$O" -xf "$W/out.raw" && got=0
fi
rm -rf "$W"
echo "qemu rc=$rc, $((end - start)) s, results in $O"
[ $got = 0 ] || { tail -n 30 "$O/serial.log"; exit 125; }
s=$(sed -n 's/^RX-SCENARIO-RC //p' "$O/scenario.log" | tail -1)
exit "${s:-125}"
