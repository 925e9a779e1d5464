"""The endpoints of an etcd: `http://host:2379`, `https://host:2379`, `unix:///path`, comma-separated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kine.flag_values import host_and_port

SCHEMES = frozenset({"http", "https", "unix"})
DEFAULT_PORT = 2379
LOCAL = "localhost"  # the host of an endpoint without one, as in etcd's clients

_FORM = "write it like http://10.0.0.1:2379,http://10.0.0.2:2379"


@dataclass(frozen=True, slots=True)
class EtcdEndpoint:
    """One member of the etcd cluster."""

    host: str = ""
    port: int = 0
    path: str = ""  # of a Unix socket; then host and port are unused
    tls: bool = False

    @property
    def target(self) -> str:
        """The target in gRPC's naming syntax (grpc/doc/naming.md)."""
        return f"unix:{self.path}" if self.path else f"dns:///{self}"

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(endpoint: str) -> tuple[EtcdEndpoint, ...]:
    """The distinct endpoints, in order. Raises ValueError with a text that never repeats the endpoint."""
    return tuple(dict.fromkeys(_one(url.strip()) for url in endpoint.split(",") if url.strip()))


def _one(url: str) -> EtcdEndpoint:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"every etcd in the endpoint needs http://, https:// or unix:// before it; {_FORM}")
    if scheme == "unix":
        if not rest:
            raise ValueError("the endpoint's unix socket has no path; write it like unix:///run/etcd.sock")
        return EtcdEndpoint(path=rest)
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest:
        raise ValueError(
            "the endpoint of an etcd takes no user and password: clients log in themselves, and their tokens"
            f" are passed on; {_FORM}"
        )
    try:
        host, port = host_and_port(authority, DEFAULT_PORT)
    except ValueError as error:
        raise ValueError(f"{error}; {_FORM}") from None
    if not authority.strip(":") or rest[len(authority) :].strip("/"):
        raise ValueError(f"the endpoint of an etcd is a host and a port, nothing more; {_FORM}")
    return EtcdEndpoint(host.lower() or LOCAL, port, tls=scheme == "https")
