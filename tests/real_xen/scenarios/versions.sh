# Images of other versions of Xen in /in/images, restored by either helper.
. /rx-lib.sh
install_xstream
for image in /in/images/*.xl; do
    name=$(basename $image .xl | cut -d- -f2-)
    for who in stock ours; do
        LIBXL_SAVE_HELPER=$(helper $who) timeout 900 xl -vvv restore $image >/tmp/l 2>&1 &&
            ok "$(basename $image), $who" || { fail "$(basename $image), $who"; tail -n 20 /tmp/l; continue; }
        ticks_on $name 300
        gone $name; rm -f $LOGS/guest-$name.log
    done
done
done_
