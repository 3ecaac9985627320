# Compressed images: made by xstream convert, restored through a pipe from zstd and from xstream; a save made compressed.
. /rx-lib.sh
install_xstream
[ "$VERSION" != 4.14 ] || { ok "left out: there is no zstandard for the copied Python 3.6"; done_; }
# The emulated dom0 has no udev, which makes this link.
ln -sf /proc/self/fd/0 /dev/stdin
# Debian's python3-zstandard.
export PYTHONPATH=/usr/lib/python3/dist-packages
for kind in pv pvh hvm; do
    n=z-$kind
    mkcfg $n $kind $([ $kind = pv ] && echo 96 || echo 112) 1
    create $n || { gone $n; continue; }
    LIBXL_SAVE_HELPER=$STOCK xl save $n /tmp/z.xl >/tmp/l 2>&1 || { fail "xl save $n"; continue; }
    xstream convert /tmp/z.xl /tmp/z.zst --compress zstd && xstream verify /tmp/z.zst && zstd -qdc /tmp/z.zst | cmp - /tmp/z.xl &&
        ok "$n: compressed, $(stat -c %s /tmp/z.xl) to $(stat -c %s /tmp/z.zst) bytes" || fail "xstream convert --compress zstd"
    for who in stock ours; do
        say "$n: zstd -dc | xl restore /dev/stdin, $who"
        zstd -qdc /tmp/z.zst | LIBXL_SAVE_HELPER=$(helper $who) timeout 900 xl -vvv restore /dev/stdin >/tmp/l 2>&1 &&
            ok "$n: restored by $who" || { fail "$n: restore by $who"; tail -n 20 /tmp/l; }
        runs_on $n
        gone $n; rm -f $LOGS/guest-$n.log
    done
    xstream convert /tmp/z.zst /tmp/y.xl && timeout 900 xl restore /tmp/y.xl >/tmp/l 2>&1 && ok "$n: decompressed by xstream" ||
        fail "$n: decompressed by xstream"
    runs_on $n
    gone $n
    rm -f /tmp/z.* /tmp/y.*
done
done_
