"""The HTTP/2 transport: a gRPC server with the small subset of HTTP/2 that gRPC needs, strict and fast."""

from kine.transport.http2.server import Http2Server

__all__ = ["Http2Server"]
