# The heart of the other scenarios in one boot, for every change: each kind of guest between our helper and the stock
# one, live migration, a legacy stream, and a save that is terminated.
. /rx-lib.sh
install_xstream
cd /tmp
mkcfg q-pv pv 96 1
create q-pv && {
    cross q-pv ours stock
    cross q-pv stock ours
    say "a legacy stream"
    xl save q-pv q-pv.xl >/tmp/l 2>&1 && /opt/xstream/bin/python /in/legacy_from_current.py q-pv.xl q-pv.leg 64 || fail "legacy_from_current"
    LIBXL_CONVERT_HELPER=/opt/xstream/bin/xstream-convert-helper LIBXL_SAVE_HELPER=$OURS xl -vvv restore q-pv.leg >/tmp/l 2>&1 &&
        ok "restored, converted while it flows" || { fail "restore of a legacy stream"; tail -n 20 /tmp/l; }
    runs_on q-pv
    rm -f q-pv.xl q-pv.leg
}
gone q-pv
EXTRA="rx_dirty" mkcfg q-pvh pvh 96 2
create q-pvh && {
    cross q-pvh ours stock
    cross q-pvh stock ours
    begin q-pvh term-helper; pkill -TERM -f 'xstream-save-helper --save'; over q-pvh term-helper
    export XSTREAM_MEMORY_CRC=1
    migrate q-pvh ours ours
    sound q-pvh
}
gone q-pvh
mkcfg q-hvm hvm 112 1
create q-hvm && {
    cross q-hvm stock ours
    migrate q-hvm ours ours
    sound q-hvm
}
gone q-hvm
done_
