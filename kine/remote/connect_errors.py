"""Error texts for an unreachable etcd, from grpcio's connection errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kine.remote.endpoint import EtcdEndpoint

_FILES = "check --ca-file, --cert-file and --key-file"
_NOBODY = re.compile(r"connection refused|no such file or directory", re.IGNORECASE)
_TLS = re.compile(r"\bssl|\btls\b|handshake|certificate", re.IGNORECASE)
_CUT = re.compile(r"socket closed|connection reset|broken pipe", re.IGNORECASE)
# grpcio's prefix of the last error: the addresses it tried, the error class, and the address.
_WRAPPING = re.compile(
    r"^failed to connect to all addresses; last error: (?:[A-Z_]+: )?"
    r"(?:(?:ipv4:|ipv6:|unix:)\S+: )?(?:Failed to connect to remote host: )?"
)


def reason(endpoint: EtcdEndpoint, said: str) -> str:
    """The endpoint, its error, and advice if there is any."""
    said = _WRAPPING.sub("", said)
    if _NOBODY.search(said):
        return f"nothing listens at {endpoint}"
    if endpoint.tls and (_TLS.search(said) or _CUT.search(said)):  # cut: no client certificate
        return f"{endpoint}: {said}; {_FILES}"
    if not endpoint.tls and not endpoint.path and _CUT.search(said):
        return f"{endpoint}: {said}; if it speaks TLS, write https://{endpoint}"
    return f"{endpoint}: {said}"
