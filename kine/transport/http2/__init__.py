"""Our own gRPC server over HTTP/2: the small subset a gRPC server needs, strict, and fast."""

from kine.transport.http2.server import Http2Server

__all__ = ["Http2Server"]
