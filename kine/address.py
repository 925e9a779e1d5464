"""Where a server listens, as the settings carry it and the sockets are made of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a TCP host and port, or the path of a unix socket."""

    host: str = ""  # empty: every address of the machine, IPv4 and IPv6
    port: int = 0
    path: str = ""  # of a unix socket; then host and port mean nothing

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def at(self, port: int) -> Address:
        """The address with the port that the system has chosen; a unix socket's has none."""
        return self if self.path else Address(self.host, port)
