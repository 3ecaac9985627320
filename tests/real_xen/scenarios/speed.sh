# Speed against the stock helper, alternately in this same dom0: whole commands, CPU, the downtime of live migrations; and
# the start of the helper against the start of Python.
. /rx-lib.sh
install_xstream
for kind in pvh pv; do
    mkcfg $kind-small $kind 128 1; mkcfg $kind-big $kind 512 1
    create $kind-small && create $kind-big && {
        python3 /in/speed.py $kind 128 512 ${ROUNDS:-3} $STOCK $OURS && ok "speed of $kind" || fail "speed of $kind"
    }
    gone $kind-small; gone $kind-big
done
EXTRA=rx_dirty mkcfg moving pvh 128 1
create moving && {
    /opt/xstream/bin/python /in/downtime.py moving ${ROUNDS:-3} $STOCK $OURS && ok "downtime" || fail "downtime"
}
gone moving
python3 /in/start.py /opt/xstream/bin/python $OURS && ok "start of the helper" || fail "start of the helper"
done_
