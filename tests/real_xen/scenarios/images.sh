# Images of small guests by either helper, for a later version of Xen.
. /rx-lib.sh
install_xstream
mkdir -p $OUT/images
for kind in pv pvh hvm; do
    for who in stock ours; do
        n=$kind-$who
        mkcfg $n $kind $([ $kind = hvm ] && echo 112 || echo 96) 1
        create $n || { gone $n; continue; }
        LIBXL_SAVE_HELPER=$(helper $who) xl save $n $OUT/images/$VERSION-$n.xl >/tmp/l 2>&1 && ok "image $n" || fail "image $n"
        gone $n
    done
done
done_
