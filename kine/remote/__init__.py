"""A proxy for a real etcd, at `http://`, `https://` and `unix://` endpoints: forwards calls and streams.

Messages are forwarded as bytes and never decoded. Metadata and deadlines are forwarded to etcd, statuses and
error texts to the client.
"""

from kine.remote.etcd_backend import EtcdBackend, connect

__all__ = ["EtcdBackend", "connect"]
