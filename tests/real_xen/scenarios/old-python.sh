# The wheel for Python 3.6, with that Python: each helper runs once with each kind of guest.
. /rx-lib.sh
install_xstream old
for kind in pv pvh; do
    n=old-$kind
    mkcfg $n $kind 96 1
    create $n && { cross $n ours stock; cross $n stock ours; }
    gone $n
done
mkcfg old-live pvh 96 1
create old-live && migrate old-live ours ours
gone old-live
done_
