# What fails on the way: the guest runs on where it should, nothing stays paused, log-dirty mode is off, and no domain
# remains on the other side.
. /rx-lib.sh
install_xstream
EXTRA="rx_dirty" mkcfg f pvh 112 1
create f || done_
# begin NAME: a live migration over a slow connection, until its first round has begun
begin() {
    say "$1"
    LIBXL_SAVE_HELPER=$OURS xl -vvv migrate -s "" f \
        "python3 /in/slow.py 6 | LIBXL_SAVE_HELPER=$OURS xl -vvv migrate-receive 2>/tmp/recv.log" >/tmp/l 2>&1 &
    sender=$!
    i=0; while ! grep -q 'saving domain' /tmp/l && [ $i -lt 60 ]; do sleep 0.5; i=$((i+1)); done
    sleep 2
}
# over NAME: the sender has ended, with an error
over() {
    wait $sender && fail "$1: xl migrate says it succeeded" || ok "$1: xl migrate failed"
    cp /tmp/l "$OUT/$1.log"; cp /tmp/recv.log "$OUT/$1.recv.log"
    sleep 3
    # A receiver that was killed can't destroy what it created.
    [ $1 != receiver-killed ] || gone f--incoming
    undisturbed f
}
begin term-helper; pkill -TERM -f 'xstream-save-helper --save'; over term-helper
grep -a 'xstream: error' /tmp/l || fail "no error in the log"
begin receiver-killed; pkill -9 -f 'xl.*migrate-receive'; pkill -9 -f 'xstream-save-helper --restore'; over receiver-killed
begin connection-cut; pkill -9 -f slow.py; over connection-cut
begin sender-killed; kill -9 $sender; wait $sender 2>/dev/null; sleep 8
undisturbed f
say "disk full"
mkdir -p /tmp/small; mount -t tmpfs -o size=32m small /tmp/small
LIBXL_SAVE_HELPER=$OURS xl -vvv save f /tmp/small/x >/tmp/l 2>&1 && fail "xl save on a full disk says it succeeded" || ok "xl save failed"
grep -a 'xstream: error' /tmp/l | grep -q 'No space' || { fail "the log doesn't say why"; tail -n 20 /tmp/l; }
umount /tmp/small
undisturbed f
say "a save while nothing fails"
cross f ours ours
gone f
done_
