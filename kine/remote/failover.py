"""Failover between the endpoints of one etcd cluster: one at a time takes the calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kine.futures import wait_among
from kine.remote.channel import FAILED, READY, Upstream
from kine.transport.base import Code, RpcError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kine.drivers.base import Options
    from kine.remote.endpoint import EtcdEndpoint

# Seconds a call waits for a connected endpoint: as long as an attempt to connect may take.
_PATIENCE = 5.0


def unhealthy() -> RpcError:
    """The error of a call that was not sent, as no endpoint is connected."""
    return RpcError(Code.UNAVAILABLE, "etcdserver: unhealthy cluster")


class EtcdFailover:
    """Keeps all endpoints connected, so that the next one is ready when the active one fails.

    After a failover, calls stay with the new endpoint: going back would break streams again.
    """

    def __init__(self, endpoints: Sequence[EtcdEndpoint], options: Options) -> None:
        self.upstreams = [Upstream(endpoint, options, self._tell) for endpoint in endpoints]
        self._active = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Starts to connect. Raises OSError, ssl.SSLError when a TLS file cannot be used."""
        for upstream in self.upstreams:
            await upstream.open()

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()

    def ready(self, but: Collection[Upstream] = ()) -> Upstream | None:
        """The endpoint for a call, None if none is connected: the active one, else the next in order.

        The returned endpoint becomes the active one. Those in `but` are skipped.
        """
        for distance in range(len(self.upstreams)):
            position = (self._active + distance) % len(self.upstreams)
            upstream = self.upstreams[position]
            if upstream not in but and upstream.state is READY:
                self._active = position
                return upstream
        return None

    async def choose(self) -> Upstream:
        """The endpoint for a call; waits for one that is connecting. Raises RpcError."""
        found = self.ready()
        if found is not None:
            return found
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    if all(upstream.state is FAILED for upstream in self.upstreams):
                        raise unhealthy()
                    await wait_among(self._waiting)
                    found = self.ready()
                    if found is not None:
                        return found
        except TimeoutError:
            raise unhealthy() from None

    def failed(self, upstream: Upstream) -> None:
        """Switches to the next endpoint if this is the active one. Called when it answers Unavailable."""
        if upstream is self.upstreams[self._active]:
            self._active = (self._active + 1) % len(self.upstreams)

    def _tell(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
