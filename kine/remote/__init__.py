"""`http://`, `https://`, `unix://`: a real etcd, to which calls and streams are passed on as they are.

Messages go through as bytes, nothing is decoded; metadata, deadlines, statuses and texts are the etcd's.
"""

from kine.remote.etcd_backend import EtcdBackend, connect

__all__ = ["EtcdBackend", "connect"]
