# Memory as dom0 sees it, by Xen's own libraries, against what the stream says; and a hundred saves without a leak.
. /rx-lib.sh
install_xstream
for kind in pv pvh hvm; do
    mkcfg m-$kind $kind 112 1
    create m-$kind || { gone m-$kind; continue; }
    xl pause m-$kind
    page_hashes m-$kind /tmp/$kind.seen $kind
    xl unpause m-$kind
    LIBXL_SAVE_HELPER=$OURS xl save -p m-$kind /tmp/m.xl >/tmp/l 2>&1 || { fail "save $kind"; tail -n 20 /tmp/l; }
    page_hashes m-$kind /tmp/$kind.paused $kind
    /opt/xstream/bin/python /in/same_memory.py /tmp/m.xl /tmp/$kind.paused && ok "$kind: dom0 sees what the stream says" ||
        fail "$kind: dom0 sees other memory than the stream has"
    rm -f /tmp/m.xl
    [ $kind != pvh ] || {
        /opt/xstream/bin/python /in/saves.py "$(xl domid m-$kind)" 100 && ok "a hundred saves leak nothing" ||
            fail "a hundred saves leak"
    }
    gone m-$kind
done
done_
