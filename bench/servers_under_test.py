"""The servers of a run: given endpoints, and servers that bench starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.etcd_requests import STATUS
from bench.process_usage import Server, listening_on
from bench.results import Peer
from bench.sync_client import SyncClient
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from bench.endpoint import Endpoint
    from bench.server_launcher import Running


@dataclass(slots=True)
class Target:
    """A server under load; `server` is None when its process is unknown."""

    endpoint: Endpoint
    peer: Peer
    server: Server | None = None
    running: Running | None = None  # set if bench started it
    followed: Endpoint | None = None  # another instance on the same database, which serves the watchers
    fresh: Running | None = None  # another server of the same kind, with the data of one scenario only
    loaded: set[bytes] = field(default_factory=set)  # data sets known to be complete


def given(endpoint: Endpoint, pids: list[int], durability: str) -> Target:
    """The target of an endpoint; without `pids` it uses the process that listens there, if it is known.

    Raises OSError, ProtocolError, CallError when the server does not answer, psutil.Error for an invalid pid.
    """
    if not pids:
        found = listening_on(endpoint)
        pids = [found] if found is not None else []
    server = Server(pids) if pids else None
    command = "; ".join(server.commands()) if server else ""
    return Target(endpoint, Peer(endpoint.name, endpoint.url, version(endpoint), command, durability), server)


def started(running: Running, durability: str = "") -> Target:
    """The target of a server that bench started. Raises the same errors as `given`."""
    endpoint = running.endpoint
    safety = durability or running.recipe.safety
    peer = Peer(endpoint.name, endpoint.url, version(endpoint), running.command, safety)
    return Target(endpoint, peer, Server(running.pids), running)


def version(endpoint: Endpoint) -> str:
    """The version that the server reports. Raises OSError, ProtocolError, CallError."""
    with SyncClient(endpoint) as client:
        return rpc_pb2.StatusResponse.FromString(client.call(STATUS, b"", 10.0)).version
