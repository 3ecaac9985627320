# PV guests, 64 bits: 1 vcpu, and 2 vcpus ballooned; each pair of helpers; into an xl file through a pipe.
. /rx-lib.sh
install_xstream
pairs() {
    cross $1 ours stock
    cross $1 stock ours
    cross $1 ours ours
}
mkcfg pv1 pv 96 1
create pv1 && {
    pairs pv1
    piped pv1
}
gone pv1
KERNEL=/domu/vmlinuz MAXMEM=160 mkcfg pv2 pv 128 2
create pv2 && {
    xl mem-set pv2 112; sleep 5
    pairs pv2
    xl vcpu-list pv2
}
gone pv2
done_
