# HVM guests with QEMU: nothing but a BIOS, and Linux with 2 vcpus; each pair of helpers; into an xl file through a pipe;
# live migration with QEMU's log-dirty mode.
. /rx-lib.sh
install_xstream
mkcfg hvm-bios hvm-bios 16 1
say "create hvm-bios"
xl create $CFG/hvm-bios.cfg >/tmp/l 2>&1 && { sleep 15; cross hvm-bios ours stock; cross hvm-bios stock ours; cross hvm-bios ours ours; } ||
    { fail "create hvm-bios"; tail /tmp/l; }
gone hvm-bios
mkcfg hvm-linux hvm 112 2
create hvm-linux && { cross hvm-linux ours stock; cross hvm-linux stock ours; cross hvm-linux ours ours; piped hvm-linux; }
gone hvm-linux
n=hvm-live
EXTRA="rx_dirty" mkcfg $n hvm 112 1
for pair in "ours stock" "stock ours" "ours ours"; do
    create $n && migrate $n $pair $([ "$pair" = "ours ours" ] && echo --debug)
    grep -aq "pages differ" /tmp/recv.log && fail "$n: verification found differing pages"
    cp /tmp/l "$OUT/hvm-$(echo $pair | tr ' ' '-').log"; cp /tmp/recv.log "$OUT/hvm-$(echo $pair | tr ' ' '-').recv.log"
    gone $n; gone $n--incoming
    rm -f $LOGS/guest-$n.log $LOGS/guest-$n--incoming.log
done
done_
