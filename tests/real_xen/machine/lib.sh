# Functions for scenarios, sourced in dom0 as /rx-lib.sh.
XL=$(ls -d /usr/lib/xen-4.* | head -1)
LOGS=/var/log/xen/console
CFG=/tmp
now() { read -r _u _ </proc/uptime; echo "$_u"; }
say() { echo "== [$(now)] $*"; }
FAILED=
ok()   { echo "RX-OK $*"; }
fail() { echo "RX-FAIL $*"; FAILED="$FAILED [$*]"; }

# last tick that the guest's console log shows (0: none)
tick() {
    _t=$(grep -a 'RXDOMU tick' "$LOGS/guest-$1.log" 2>/dev/null | tail -1 | tr -cd '0-9\n' | tail -1)
    echo "${_t:-0}"
}
# wait_tick NAME N SECONDS: until the guest has counted past N
wait_tick() {
    _i=0
    while [ "$(tick "$1")" -le "$2" ]; do
        sleep 1; _i=$((_i+1))
        [ $_i -lt "$3" ] || return 1
        # NAME--incoming (the receiver's console log) is renamed to NAME at the end
        xl domid "$1" >/dev/null 2>&1 || xl domid "${1%--incoming}" >/dev/null 2>&1 || return 1
    done
}
# mkcfg NAME TYPE MEM VCPUS [further lines...]: a small Linux guest, or with
# TYPE hvm-bios a guest of nothing but its BIOS
mkcfg() {
    _n=$1 _ty=$2 _mem=$3 _cpus=$4; shift 4
    # SVM guests without AVX (feature 156): see run.sh, XSETBV
    case $_ty in pv) _avx=;; *) _avx=clearcpuid=156;; esac
    {
        echo "name='$_n'"; echo "memory=$_mem"; echo "maxmem=${MAXMEM:-$_mem}"; echo "vcpus=$_cpus"; echo "cpus='${CPUS:-1}'"
        case $_ty in hvm*) echo "type='hvm'";; *) echo "type='$_ty'";; esac
        if [ $_ty != hvm-bios ]; then
            echo "kernel='${KERNEL:-/domu/vmlinuz-cloud}'"
            echo "ramdisk='/domu/initrd.gz'"
            echo "extra='console=hvc0 quiet mitigations=off tsc=unstable panic=5 $_avx ${EXTRA:-}'"
        fi
        case $_ty in
        hvm*) echo "vnc=0"; echo "sdl=0"; echo "nographic=1"; echo "vga='${VGA:-none}'"; echo "videoram=${VIDEORAM:-0}"
              echo "usb=0"; echo "serial='none'"; echo "parallel='none'";;
        esac
        echo "on_crash='destroy'"; echo "on_reboot='destroy'"
        for _l in "$@"; do echo "$_l"; done
    } >"$CFG/$_n.cfg"
}
# Timeouts are long, because the machine is slow and others work on it: they only end what hangs.
# create NAME [SECONDS]: start it and wait for its first ticks
create() {
    say "create $1"
    timeout 600 xl create "$CFG/$1.cfg" || { fail "create $1"; return 1; }
    wait_tick "$1" 1 "${2:-600}" || { fail "$1 does not tick"; tail -n 15 "$LOGS/guest-$1.log"; xl list; return 1; }
    ok "create $1 up at $(now), tick $(tick "$1")"
}
# verify FILE [FORMAT]: Debian's own verifier, output beside the file
verify() {
    PYTHONPATH=$XL/lib/python PYTHONDONTWRITEBYTECODE=1 \
        python3 $XL/bin/verify-stream-v2 -v -f "${2:-xl}" -i "$1" >"$1.verify" 2>&1
    _r=$?
    echo "verify-stream-v2 exit status $_r" >>"$1.verify"
    [ $_r = 0 ] && ok "verify $(basename "$1") ($(stat -c %s "$1") bytes)" || { fail "verify $(basename "$1")"; tail -n 5 "$1.verify"; }
    return $_r
}
# page_hashes NAME FILE TYPE: one hash per pfn of a paused guest's memory, seen
# from dom0 (what the image must hold, seen another way): for PV from xl
# dump-core, else by mapping the guest's pages
page_hashes() {
    if [ "$3" = pv ]; then
        timeout 600 xl dump-core "$1" /tmp/core >/tmp/core.log 2>&1 || { fail "dump-core $1"; cat /tmp/core.log; return 1; }
        timeout 600 python3 /in/core2hash.py /tmp/core >"$2"; _r=$?
        rm -f /tmp/core
    else
        timeout 600 python3 /in/gfnhash.py "$(xl domid "$1")" >"$2"; _r=$?
    fi
    [ $_r = 0 ] && ok "page hashes of $1: $(grep -vc '^#' "$2") pages" || fail "page hashes of $1"
}
# ticks_on NAME SECONDS: the guest must go on counting
ticks_on() {
    _b=$(tick "$1")
    wait_tick "$1" "$((_b+1))" "$2" && ok "$1 goes on: tick $_b, then $(tick "$1")" || fail "$1 has stopped at $_b"
}
# gone NAME: destroy it and wait until it is gone
gone() {
    xl destroy "$1" 2>/dev/null
    _i=0; while xl domid "$1" >/dev/null 2>&1 && [ $_i -lt 60 ]; do sleep 0.5; _i=$((_i+1)); done
}
# restored NAME FILE: xl restore FILE; the guest NAME must then go on counting
restored() {
    _b=$(tick "$1")
    say "restore $1 from $(basename "$2")"
    timeout 900 xl -vvv restore "$2" >"$2.restore.log" 2>&1 || { fail "restore $(basename "$2")"; tail -n 12 "$2.restore.log"; return 1; }
    if wait_tick "$1" $((_b+2)) 300; then ok "restore $(basename "$2"): tick $_b before, $(tick "$1") after"
    else fail "restore $(basename "$2"): no tick after $_b"; tail -n 12 "$LOGS/guest-$1.log"; return 1; fi
}
# install_xstream [old]: the wheel in /in for dom0's own Python into a virtual environment; with "old", or where dom0's
# Python has no wheel, the one for Python 3.6 and the interpreter in /in/python
install_xstream() {
    if [ "$1" != old ] && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python3 -m venv --without-pip /opt/xstream
        _pip=$(echo /in/pip-*.whl) _wheel=$(echo /in/xen_xstream-*-abi3-*.whl)
    else
        cp -r /in/python /opt/xstream
        _pip=$(echo /opt/xstream/lib/python3.6/ensurepip/_bundled/pip-*.whl) _wheel=$(echo /in/xen_xstream-*-cp36m-*.whl)
    fi
    PIP_CONFIG_FILE=/dev/null /opt/xstream/bin/python $_pip/pip install -q --no-index \
        --disable-pip-version-check $_wheel || { fail "install $_wheel"; done_; }
    PATH=$PATH:/opt/xstream/bin
    OURS=/opt/xstream/bin/xstream-save-helper STOCK=$XL/bin/libxl-save-helper
    ok "installed $(xstream --version), $(/opt/xstream/bin/python --version 2>&1)"
}
# helper ours|stock: the path of a save helper
helper() { case $1 in ours) echo $OURS;; stock) echo $STOCK;; esac; }
# cross NAME SAVER RESTORER [ours|stock each]: xl save, Xen's verifier, xl restore; the guest must go on
cross() {
    _w="$1: $2 saves, $3 restores"; say "$_w"
    LIBXL_SAVE_HELPER=$(helper $2) timeout 900 xl -vvv save $1 /tmp/$1.xl >/tmp/l 2>&1 ||
        { fail "$_w: xl save"; tail -n 25 /tmp/l; return 1; }
    verify /tmp/$1.xl
    LIBXL_SAVE_HELPER=$(helper $3) timeout 900 xl -vvv restore /tmp/$1.xl >/tmp/l 2>&1 ||
        { fail "$_w: xl restore"; tail -n 25 /tmp/l; rm -f /tmp/$1.xl; return 1; }
    rm -f /tmp/$1.xl
    ok "$_w"
    runs_on $1
}
# piped NAME: xl save into a pipe, with our helper, and xl restore with the stock one
piped() {
    say "$1: saved into a pipe"
    rm -f /tmp/pipe; mkfifo /tmp/pipe; cat /tmp/pipe >/tmp/piped.xl & _reader=$!
    LIBXL_SAVE_HELPER=$OURS xl save $1 /tmp/pipe >/tmp/l 2>&1 || { fail "xl save into a pipe"; tail -n 20 /tmp/l; }
    wait $_reader
    xstream verify /tmp/piped.xl || fail "xstream verify"
    restored $1 /tmp/piped.xl
    rm -f /tmp/piped.xl
}
# runs_on NAME: a guest with ticks goes on counting; one without (its BIOS alone) is there and not paused
runs_on() {
    case $1 in *bios*) sleep 2; xl list $1 | tail -n 1 | grep -q ' [r-]b*-*' && ok "$1 is there" || fail "$1 is gone";;
    *) ticks_on $1 300;; esac
}
# migrate NAME SENDER RECEIVER [further options of xl migrate]: live, to this same host; the guest must go on
migrate() {
    _n=$1 _s=$2 _r=$3; shift 3
    say "migrate $_n: sent by $_s, received by $_r"
    if LIBXL_SAVE_HELPER=$(helper $_s) timeout 1200 xl -vvv migrate "$@" -s "" $_n \
        "LIBXL_SAVE_HELPER=$(helper $_r) xl -vvv migrate-receive 2>/tmp/recv.log" >/tmp/l 2>&1
    then ok "migrate $_n, $_s to $_r"; else fail "migrate $_n, $_s to $_r"; tail -n 30 /tmp/l /tmp/recv.log; fi
    ticks_on $_n--incoming 300
}
# sound NAME: of the last migration's two ends, whether they logged the same CRC of the guest's memory; both must be
# xstream's, and XSTREAM_MEMORY_CRC=1
sound() {
    _sent=$(grep -ao 'memory CRC32C [0-9a-f]*' /tmp/l | tail -n 1) _got=$(grep -ao 'memory CRC32C [0-9a-f]*' /tmp/recv.log | tail -n 1)
    [ -n "$_sent" ] && [ "$_sent" = "$_got" ] && ok "$1: $_sent at both ends" || fail "$1: sent $_sent, received $_got"
}
# begin NAME TITLE: a live migration over a slow connection, until its first round has begun; $sender is its process
begin() {
    say "$2"
    LIBXL_SAVE_HELPER=$OURS xl -vvv migrate -s "" $1 \
        "python3 /in/slow.py 6 | LIBXL_SAVE_HELPER=$OURS xl -vvv migrate-receive 2>/tmp/recv.log" >/tmp/l 2>&1 &
    sender=$!
    _i=0; while ! grep -q 'saving domain' /tmp/l && [ $_i -lt 240 ]; do sleep 0.5; _i=$((_i+1)); done
    sleep 2
}
# over NAME TITLE: the migration that was begun has failed, and the guest runs on
over() {
    wait $sender && fail "$2: xl migrate says it succeeded" || ok "$2: xl migrate failed"
    cp /tmp/l "$OUT/$2.log"; cp /tmp/recv.log "$OUT/$2.recv.log"
    sleep 3
    # A receiver that was killed can't destroy what it created.
    [ $2 != receiver-killed ] || gone $1--incoming
    undisturbed $1
}
# dirty_off NAME: log-dirty mode is off
dirty_off() {
    /opt/xstream/bin/python /in/dirty.py "$(xl domid $1)" && ok "$1: log-dirty is off" || fail "$1: log-dirty is still on"
}
# undisturbed NAME: after a failed save the guest runs on, isn't paused, tracks no dirty pages, and has no twin
undisturbed() {
    runs_on $1
    xl list | grep -q -- "--incoming" && fail "$1: a domain remains on the other side"
    [ -z "$(xl list $1 | tail -n 1 | awk '{print $5}' | tr -d 'rb-')" ] || fail "$1: state $(xl list $1 | tail -n 1)"
    dirty_off $1
}
done_() { [ -z "$FAILED" ] || { echo "RX-FAILED:$FAILED"; exit 1; }; echo "RX-ALL-OK"; exit 0; }
