# Legacy xl files, as xl of Xen 4.5 wrote them, made of genuine images: restored through our convert helper, with either
# save helper; through xl migrate-receive; and converted beforehand.
. /rx-lib.sh
install_xstream
CONVERT=/opt/xstream/bin/xstream-convert-helper
PY=/opt/xstream/bin/python
# runs NAME WHAT: the restored guest counts on
runs() { ticks_on $1 300; gone $1; rm -f $LOGS/guest-$1*.log; }
through() { # NAME FILE HELPER
    say "$2: xl restore, converted while it flows, $3 helper"
    LIBXL_CONVERT_HELPER=$CONVERT LIBXL_SAVE_HELPER=$(helper $3) xl -vvv restore $2 >/tmp/l 2>&1 &&
        ok "$2 restored, $3 helper" || { fail "$2, $3 helper"; tail -n 20 /tmp/l; return; }
    runs $1
}
received() { # NAME FILE
    say "$2: xl migrate-receive, converted while it flows"
    { cat $2; printf 'domain is yours, you are cleared to unpause\000'; sleep 60; } |
        LIBXL_CONVERT_HELPER=$CONVERT LIBXL_SAVE_HELPER=$OURS xl -vvv migrate-receive >/tmp/out 2>/tmp/l &
    i=0; while ! xl domid $1 >/dev/null 2>&1 && [ $i -lt 600 ]; do sleep 0.5; i=$((i+1)); done
    grep -a 'error' /tmp/l | head -n 5
    [ $i -lt 600 ] && ok "$2 received" || { fail "$2: migrate-receive"; tail -n 20 /tmp/l; }
    ticks_on $1--incoming 300
    gone $1; gone $1--incoming; rm -f $LOGS/guest-$1*.log
}
beforehand() { # NAME FILE [option of xstream convert [IMAGE whose HVM parameters the guest must have]]
    say "$2: xstream convert $3, then xl restore"
    rm -f /tmp/new.xl
    xstream convert $2 /tmp/new.xl $3 || { fail "convert $2 $3"; return; }
    verify /tmp/new.xl
    xl -vvv restore /tmp/new.xl >/tmp/l 2>&1 && ok "$2 converted $3 and restored" || { fail "$2 $3"; tail -n 20 /tmp/l; return; }
    case $1 in *hvm)
        [ -z "$4" ] || $PY /in/params.py "$(xl domid $1)" $4 && ok "$2: HVM parameters" || fail "$2: HVM parameters" ;;
    esac
    runs $1
}
cd /tmp
for kind in pv hvm; do
    n=leg-$kind
    mkcfg $n $kind $([ $kind = pv ] && echo 96 || echo 112) 1
    create $n || { gone $n; continue; }
    xl save $n $n.xl >/tmp/l 2>&1 || fail "save $n"
    rm -f $LOGS/guest-$n*.log
    for bits in 32 64; do
        $PY /in/legacy_from_current.py $n.xl $n-$bits.leg $bits || fail "legacy_from_current $n $bits"
        through $n $n-$bits.leg stock
        through $n $n-$bits.leg ours
        beforehand $n $n-$bits.leg
    done
    received $n $n-64.leg
    beforehand $n $n-64.leg --squash $n.xl
    $PY /in/legacy_from_current.py $n.xl $n-remus.leg 64 --remus || fail "legacy_from_current $n --remus"
    through $n $n-remus.leg ours
    through $n $n-remus.leg stock
    beforehand $n $n-remus.leg --last-checkpoint
    rm -f $n*
done
done_
