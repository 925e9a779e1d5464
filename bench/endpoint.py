"""Addresses of servers under test, and connections to them."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

CONNECT_TIMEOUT = 5.0


class EndpointError(ValueError):
    """An endpoint that cannot be used; the text gives the reason and the fix."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths in PEM form; empty: not used. With `verify` off, any server certificate is accepted."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`path` is set for a unix socket, `host` and `port` otherwise."""

    name: str
    url: str
    host: str = ""
    port: int = 0
    path: str = ""
    secure: bool = False
    tls: TlsFiles = TlsFiles()

    @property
    def authority(self) -> str:
        return "localhost" if self.path else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The address in grpcio's form."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def parse(text: str, *, allow_remote: bool = False, tls: TlsFiles | None = None) -> Endpoint:
    """The endpoint of `NAME=URL` with an http, https or unix URL; raises EndpointError.

    Without `allow_remote` only addresses of this machine pass: a load driver aimed at the wrong server is a
    denial of service.
    """
    name, equals, url = text.partition("=")
    if not equals or not name or not url:
        raise EndpointError(f"{text!r}: give it as NAME=URL, for example etcd=http://127.0.0.1:2379")
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Endpoint(name, url, path=(parts.netloc + parts.path))
    if parts.scheme not in ("http", "https"):
        raise EndpointError(f"{url!r}: an http://, https:// or unix:// URL is needed")
    try:
        port = parts.port
    except ValueError as bad:
        raise EndpointError(f"{url!r}: {bad}") from bad
    host = parts.hostname or ""
    if not host or not port:
        raise EndpointError(f"{url!r}: name a host and a port")
    if not allow_remote and not _is_loopback(host):
        raise EndpointError(f"{host} is not an address of this machine; pass --allow-remote if you mean it")
    return Endpoint(name, url, host, port, secure=parts.scheme == "https", tls=tls or TlsFiles())


def _is_loopback(host: str) -> bool:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as bad:
        raise EndpointError(f"{host}: {bad.strerror or bad}") from bad
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def connect(endpoint: Endpoint, timeout: float = CONNECT_TIMEOUT) -> socket.socket:
    """A connected, blocking socket, after the TLS handshake with ALPN `h2` if it uses TLS. Raises OSError."""
    if endpoint.path:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plain.settimeout(timeout)
        plain.connect(endpoint.path)
        return plain
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not endpoint.secure:
        return plain
    files = endpoint.tls
    context = ssl.create_default_context(cafile=files.ca or None)
    context.set_alpn_protocols(["h2"])
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert:
        context.load_cert_chain(files.cert, files.key or None)
    return context.wrap_socket(plain, server_hostname=endpoint.host)
