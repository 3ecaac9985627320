# PV guests, 64 bits: 1 vcpu, and 2 vcpus ballooned; each pair of helpers; into an xl file through a pipe.
. /rx-lib.sh
install_xstream
pairs() {
    cross $1 ours stock
    cross $1 stock ours
    cross $1 ours ours
}
mkcfg pv1 pv 96 1
create pv1 && {
    pairs pv1
    say "pv1: saved into a pipe"
    mkfifo /tmp/pipe; cat /tmp/pipe >/tmp/piped.xl & reader=$!
    LIBXL_SAVE_HELPER=$OURS xl save pv1 /tmp/pipe >/tmp/l 2>&1 || { fail "xl save into a pipe"; tail -n 20 /tmp/l; }
    wait $reader
    xstream verify /tmp/piped.xl || fail "xstream verify"
    restored pv1 /tmp/piped.xl
    rm -f /tmp/piped.xl
}
gone pv1
KERNEL=/domu/vmlinuz MAXMEM=160 mkcfg pv2 pv 128 2
create pv2 && {
    xl mem-set pv2 112; sleep 5
    pairs pv2
    xl vcpu-list pv2
}
gone pv2
done_
