# What fails on the way: the guest runs on where it should, nothing stays paused, log-dirty mode is off, and no domain
# remains on the other side.
. /rx-lib.sh
install_xstream
EXTRA="rx_dirty" mkcfg f pvh 112 1
create f || done_
begin f term-helper; pkill -TERM -f 'xstream-save-helper --save'; over f term-helper
grep -a 'xstream: error' /tmp/l || fail "no error in the log"
begin f receiver-killed; pkill -9 -f 'xl.*migrate-receive'; pkill -9 -f 'xstream-save-helper --restore'; over f receiver-killed
begin f connection-cut; pkill -9 -f slow.py; over f connection-cut
begin f sender-killed; kill -9 $sender; wait $sender 2>/dev/null; sleep 8
undisturbed f
# After a failed save libxl of Xen 4.14 resumes a guest without QEMU as if in a new domain (libxl__domain_resume forgets
# suspend_cancel), and the guest panics, whichever helper saved it.
[ "$VERSION" != 4.14 ] || { gone f; rm -f $LOGS/guest-f.log; mkcfg f hvm 112 1; create f || done_; }
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
