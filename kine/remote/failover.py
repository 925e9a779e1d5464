"""Several endpoints of one etcd cluster, of which one at a time takes the calls."""

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

# As long as an attempt to connect may take: a call that finds none connected waits for one that is about to.
_PATIENCE = 5.0


def unhealthy() -> RpcError:
    """Nothing of the call was sent."""
    return RpcError(Code.UNAVAILABLE, "etcdserver: unhealthy cluster")


class EtcdFailover:
    """All endpoints are kept connected, so that the next one is at hand when the active one fails.

    After a failure the calls stay with the endpoint they went to: going back would cut streams again.
    """

    def __init__(self, endpoints: Sequence[EtcdEndpoint], options: Options) -> None:
        self.upstreams = [Upstream(endpoint, options, self._tell) for endpoint in endpoints]
        self._active = 0
        self._waiting: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Begins to connect. Raises OSError, ssl.SSLError when a TLS file cannot be used."""
        for upstream in self.upstreams:
            await upstream.open()

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()

    def ready(self, but: Collection[Upstream] = ()) -> Upstream | None:
        """The endpoint to take a call now: the active one, or else the next in order, which then is it."""
        for distance in range(len(self.upstreams)):
            position = (self._active + distance) % len(self.upstreams)
            upstream = self.upstreams[position]
            if upstream not in but and upstream.state is READY:
                self._active = position
                return upstream
        return None

    async def choose(self) -> Upstream:
        """The endpoint to take a call; waits for one that is connecting. Raises RpcError."""
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
        """It answered that it cannot serve, or its connection went: calls go to the next from now on."""
        if upstream is self.upstreams[self._active]:
            self._active = (self._active + 1) % len(self.upstreams)

    def _tell(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
