"""A layer for Volatility 3 that opens Xen's save files and migration streams, in any container, without an export.

Volatility imports the modules in the folders of its plugin path::

    vol -p "$(python3 -m xstream.volatility)" -f guest.xl banners

``python3 -m xstream.volatility`` prints this folder. Nothing here is imported by the rest of the package, and importing
this package does not import Volatility.
"""
