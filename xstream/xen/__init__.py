"""Domains of a real Xen: hypercalls over Linux' privcmd device, a Guest for save() and restore(), libxl's helpers.

No library of Xen's is used, so one wheel serves every x86-64 Linux dom0 from Xen 4.12 on.
"""
