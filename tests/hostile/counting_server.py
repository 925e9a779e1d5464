"""Instrumented `kine` that counts stream messages, unary calls and other work per turn of its event loop.

`python -m tests.hostile.counting_server FLAGS` is `python -m kine FLAGS` with additional metrics:
`hostile_stream_messages_per_turn`, `hostile_calls_per_turn`, `hostile_plans_per_turn`,
`hostile_leases_per_turn`, `hostile_watchers_per_turn` and `hostile_value_bytes_per_turn`, each the maximum
since the start.

HOSTILE_CONSTANTS, a JSON object such as `{"kine.etcd.maintenance._STALLED": 1.0}`, overrides the timeouts and
sizes that a test could not wait for.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from prometheus_client import Gauge

from kine.cli import main
from kine.etcd import lease, watch
from kine.observe import metrics, metrics_server
from kine.store import range_select, store, watch_hub
from kine.transport import grpcio_server
from kine.transport.http2 import active_calls, protocol


class Turns:
    """The maximum counted within one turn of the event loop."""

    def __init__(self, name: str, about: str) -> None:
        self._count = self._most = self.total = 0
        Gauge(name, about, registry=metrics.registry).set_function(lambda: self._most)

    def count(self, number: int = 1) -> None:
        if not self._count:
            asyncio.get_running_loop().call_soon(self._turned)
        self._count += number
        self.total += number
        self._most = max(self._most, self._count)

    def _turned(self) -> None:
        self._count = 0


def received(stream: Any, turns: Turns) -> None:
    before: Callable[[Any], Any] = stream.receive

    async def receive(self: Any) -> bytes | None:
        message = await before(self)
        if message is not None:
            turns.count()
        return message

    stream.receive = receive


def planned(turns: Turns) -> None:
    before: Callable[..., Any] = store.plan

    def plan(*transaction: Any) -> Any:
        turns.count()
        return before(*transaction)

    store.plan = plan


def answered(turns: Turns) -> None:
    before: Callable[..., Any] = metrics_server.MetricsServer._answer

    async def answer(self: Any, *request: Any, **how: Any) -> Any:
        turns.count()
        return await before(self, *request, **how)

    metrics_server.MetricsServer._answer = answer  # type: ignore[method-assign]


def called(connection: Any, turns: Turns) -> None:
    before: Callable[..., None] = connection._unary

    def unary(self: Any, *request: Any) -> None:
        turns.count()
        before(self, *request)

    connection._unary = unary


def listed(turns: Turns) -> None:
    """Counts leases, and keys of leases, that are encoded for a list."""
    for name in ("LeaseLeasesResponse", "LeaseTimeToLiveResponse"):
        setattr(lease.rpc, name, _counting(getattr(lease.rpc, name), turns))


def removed(turns: Turns) -> None:
    """Counts watchers that are removed."""
    before: Callable[..., None] = watch_hub.WatchHub.remove

    def remove(self: Any, watcher: Any) -> None:
        turns.count()
        before(self, watcher)

    watch_hub.WatchHub.remove = remove  # type: ignore[method-assign]


def told(turns: Turns) -> None:
    """Counts watchers that events are sent to."""
    before: Callable[..., None] = watch.WatchStream.events

    def events(self: Any, *what: Any) -> None:
        turns.count()
        before(self, *what)

    watch.WatchStream.events = events  # type: ignore[method-assign]


def copied(turns: Turns) -> None:
    """Counts bytes of values that are copied to sort by them."""
    before: Callable[[bytes], bytes] = range_select.value_of

    def value_of(encoded: bytes) -> bytes:
        turns.count(len(encoded))
        return before(encoded)

    range_select.value_of = value_of


def _counting(message: Any, turns: Turns) -> Callable[..., Any]:
    def make(**fields: Any) -> Any:
        for listed in ("leases", "keys"):
            turns.count(len(fields.get(listed, ())))
        return message(**fields)

    return make


def set_constants(given: str) -> None:
    for name, value in json.loads(given).items():
        module, _, constant = name.rpartition(".")
        found = importlib.import_module(module)
        assert hasattr(found, constant), name
        setattr(found, constant, value)


if __name__ == "__main__":
    set_constants(os.environ.get("HOSTILE_CONSTANTS", "{}"))
    messages = Turns("hostile_stream_messages_per_turn", "Messages of streams in one turn of the loop")
    received(active_calls.GrpcStream, messages)
    received(grpcio_server.GrpcStream, messages)
    unary = Turns("hostile_calls_per_turn", "Unary calls of HTTP/2 in one turn of the loop")
    called(protocol.Http2Protocol, unary)
    Gauge("hostile_calls", "Likewise, since the start", registry=metrics.registry).set_function(
        lambda: unary.total
    )
    plans = Turns("hostile_plans_per_turn", "General transactions decided upon in one turn of the loop")
    Gauge("hostile_plans", "Likewise, since the start", registry=metrics.registry).set_function(
        lambda: plans.total
    )
    planned(plans)
    listed(Turns("hostile_leases_per_turn", "Leases, and keys of leases, encoded in one turn of the loop"))
    told(Turns("hostile_watchers_per_turn", "Watchers that were sent events in one turn of the loop"))
    copied(Turns("hostile_value_bytes_per_turn", "Bytes of values sorted by in one turn of the loop"))
    removed(Turns("hostile_watchers_removed_per_turn", "Watchers that went in one turn of the loop"))
    answered(Turns("hostile_pages_per_turn", "Requests of HTTP/1.1 in one turn of the loop"))
    sys.argv[0] = "kine"
    main()
