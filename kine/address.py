"""Listen addresses: TCP or unix socket."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """The address that a server listens on: a TCP host and port, or the path of a unix socket."""

    host: str = ""  # empty: every address of the machine, IPv4 and IPv6
    port: int = 0
    path: str = ""  # of a unix socket; if set, host and port are unused

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, port: int) -> Address:
        """The address with this port, which the system has chosen; a unix socket's address is unchanged."""
        return self if self.path else Address(self.host, port)
