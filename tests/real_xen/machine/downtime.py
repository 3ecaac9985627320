"""downtime.py DOMAIN ROUNDS STOCK OURS: how long live migrations to this same host stop a guest, helpers alternating.

From the moment that Xen says the guest is suspended until the receiver reports that it runs again; medians.
"""
import os
import statistics
import subprocess
import sys
import time

from xstream.xen.privcmd import Privcmd

domain, rounds, helpers = sys.argv[1], int(sys.argv[2]), {"stock": sys.argv[3], "ours": sys.argv[4]}
xen = Privcmd()


def migrate(helper):
    domid = int(subprocess.check_output(["xl", "domid", domain]))
    process = subprocess.Popen(["xl", "migrate", "-s", "", domain, "xl migrate-receive"],
                               env=dict(os.environ, LIBXL_SAVE_HELPER=helper), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    while process.poll() is None and xen.domain_info(domid).shutdown is None:
        time.sleep(0.01)
    begin = time.monotonic()
    for line in process.stdout:
        if b"successful startup" in line:
            end = time.monotonic()
    if process.wait():
        sys.exit("xl migrate has failed")
    return end - begin


found = {name: [] for name in helpers}
for _ in range(rounds):
    for name, helper in helpers.items():
        found[name].append(migrate(helper))
stock, ours = (statistics.median(found[name]) for name in ("stock", "ours"))
print("downtime: stock {:.2f} s, ours {:.2f} s, {:.2f} x".format(stock, ours, ours / stock))
# A tenth is within what these figures vary by.
sys.exit(ours > 1.1 * stock)
