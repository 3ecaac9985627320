# PVH guests, 1 vcpu, and 2 vcpus ballooned: each pair of helpers, cold and live under memory writes; into an xl file
# through a pipe; Remus with a failover.
. /rx-lib.sh
install_xstream
for cpus in 1 2; do
    n=pvh$cpus
    mkcfg $n pvh $([ $cpus = 1 ] && echo 96 || echo 128) $cpus
    create $n && {
        [ $cpus = 1 ] || { xl mem-set $n 112; sleep 5; }
        cross $n ours stock
        cross $n stock ours
        cross $n ours ours
        [ $cpus = 2 ] || piped $n
    }
    gone $n
done
n=live
export XSTREAM_MEMORY_CRC=1
EXTRA="rx_dirty" mkcfg $n pvh 112 1
for pair in "ours stock" "stock ours" "ours ours"; do
    create $n && migrate $n $pair && { cp /tmp/l "$OUT/migrate-$(echo $pair | tr ' ' '-').log"; }
    [ "$pair" != "ours ours" ] || sound $n
    gone $n; gone $n--incoming
    rm -f $LOGS/guest-$n.log $LOGS/guest-$n--incoming.log
done

unset XSTREAM_MEMORY_CRC
mkcfg remus pvh 96 1
create remus && {
    say "Remus: checkpoints until the sender is killed"
    LIBXL_SAVE_HELPER=$OURS xl -vvv remus -F -n -d -i 1500 -s "" remus \
        "LIBXL_SAVE_HELPER=$OURS xl -vvv migrate-receive -r 2>$OUT/remus.receive.log" >$OUT/remus.send.log 2>&1 &
    sender=$!
    i=0
    while [ "$(grep -c 'round .*(checkpoint)' $OUT/remus.send.log)" -lt 3 ] && [ $i -lt 600 ]; do sleep 1; i=$((i+1)); done
    sent=$(grep -c 'round .*(checkpoint)' $OUT/remus.send.log)
    kill -9 $sender; pkill -9 -f xstream-save-helper.*--save
    gone remus
    [ "$sent" -ge 3 ] && ok "Remus: $sent checkpoints" || fail "Remus: $sent checkpoints"
    sleep 6; xl list
    grep -a failover $OUT/remus.receive.log | tail -n 1
    ticks_on remus--incoming 300
}
gone remus; gone remus--incoming
done_
