# xstream save: a snapshot of a running domain without its toolstack, which always runs again afterwards.
. /rx-lib.sh
install_xstream
for kind in pv pvh hvm; do
    n=snap-$kind
    mkcfg $n $kind 112 1
    create $n || { gone $n; continue; }
    for options in "" "--container libxc" $([ $kind = pv ] || echo --live); do
        rm -f /tmp/snap
        say "xstream save $n $options"
        xstream save $n /tmp/snap $options >/tmp/l 2>&1 && ok "saved $n $options" || { fail "save $n $options"; cat /tmp/l; }
        xstream verify /tmp/snap || fail "verify the snapshot of $n $options"
        ticks_on $n 300
        [ $kind = pv ] || dirty_off $n
    done
    say "a snapshot that fails"
    xstream save $n /dev/full >/tmp/l 2>&1 && fail "saving into /dev/full succeeded" || ok "failed: $(tail -n 1 /tmp/l)"
    ticks_on $n 300
    LIBXL_SAVE_HELPER=$STOCK xl save $n /tmp/after.xl >/tmp/l 2>&1 && ok "xl saves it afterwards" || fail "xl save $n"
    rm -f /tmp/after.xl
    gone $n
done
done_
