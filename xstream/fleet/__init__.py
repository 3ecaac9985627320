"""Stores of images: scan folders, patterns and URLs; by the processes of this machine, or on a Dask cluster.

Only URLs need ``fsspec``, and only a cluster ``dask`` and ``distributed`` (extra ``fleet``).
"""
from xstream.fleet.duplicates import Duplicates, DuplicatesReport, PageSample
from xstream.fleet.image import ImageRecord, Settings, scan_image
from xstream.fleet.places import Place, open_place
from xstream.fleet.policy_file import HostPolicies
from xstream.fleet.scanning import find_all, iterate, read_policy, scan
from xstream.fleet.tables import write_csv, write_parquet

__all__ = ["Duplicates", "DuplicatesReport", "HostPolicies", "ImageRecord", "PageSample", "Place", "Settings",
           "find_all", "iterate", "open_place", "read_policy", "scan", "scan_image", "write_csv", "write_parquet"]
