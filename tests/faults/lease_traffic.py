"""Lease traffic: granted on one instance, used on another, kept alive for a while, then abandoned.

A leased key is written once, by its lease's holder, so each key belongs to one lease. Some leases are revoked
while another key is being put under them: that key must not stay either, whichever request comes first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty
from random import Random
from typing import TYPE_CHECKING

import grpc

from kine.proto import rpc_pb2 as pb
from tests.client import Client
from tests.faults.traffic import CALL_TIMEOUT, PREFIX, Address, Call, Outcome

if TYPE_CHECKING:
    from tests.faults.event_history import History

LEASED = PREFIX + b"leased/"
_TTL = (2, 3)  # seconds
_PAUSE = 0.1
# Seconds after the run, when all is healed and every lease abandoned, until the last is gone. Includes the
# margin that an instance adds if it knows the lease only by its record, and its start within the last fault.
GONE = 1.25 * max(_TTL) + 1 + 60


@dataclass(slots=True)
class Lease:
    key: bytes
    ttl: int
    held: int  # monotonic nanoseconds: when the last renewal that was answered was sent
    revoked: bool = False  # a revocation was at least attempted


@dataclass
class Holder:
    """One client that holds a lease at a time."""

    number: int
    seed: str
    instances: Callable[[], list[int]]
    address: Address
    calls: list[Call] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        draw = Random(f"{self.seed}/holder/{self.number}")
        turn = 0
        while not stop.is_set():
            turn += 1
            ttl, renewals, revokes = draw.choice(_TTL), draw.randrange(4), draw.random() < 0.2
            with suppress(grpc.RpcError, Empty, EOFError):
                self._hold(draw, turn, ttl, renewals, revokes, stop)
            stop.wait(_PAUSE)

    def _hold(
        self, draw: Random, turn: int, ttl: int, renewals: int, revokes: bool, stop: threading.Event
    ) -> None:
        sent = time.monotonic_ns()
        with self._client(draw) as client:
            granted = client.grant(ttl)
        lease = Lease(LEASED + b"%d.%d" % (self.number, turn), granted.TTL, sent)
        if not self._put(self._client(draw), lease.key, granted.ID):
            return
        self.leases.append(lease)
        for _ in range(renewals):
            if stop.wait(ttl / 3):
                return
            sent = time.monotonic_ns()
            with self._client(draw) as client, client.keepalive() as stream:
                stream.send(_keep_alive(granted.ID))
                if stream.receive(CALL_TIMEOUT).TTL > 0:
                    lease.held = sent
        if revokes:
            lease.revoked = True
            late = self._client(draw), lease.key + b".late", granted.ID
            putting = threading.Thread(target=self._put, args=late)
            putting.start()
            try:
                with self._client(draw) as client:
                    client.revoke(granted.ID)
            finally:
                putting.join()

    def _put(self, client: Client, key: bytes, lease_id: int) -> bool:
        value = b"leased." + key.removeprefix(LEASED)
        call = Call(-1 - self.number, -1, "put", (key,), time.monotonic_ns(), values=(value,))
        self.calls.append(call)
        try:
            with client:
                call.revision = client.put(key, value, lease=lease_id).header.revision
            call.outcome = Outcome.DONE
        except grpc.RpcError as error:
            call.error = error.details() or error.code().name
        call.returned = time.monotonic_ns()
        return call.outcome is Outcome.DONE

    def _client(self, draw: Random) -> Client:
        numbers = self.instances()
        address = self.address(draw.choice(numbers)) if numbers else ""
        return Client(address or "127.0.0.1:1", timeout=CALL_TIMEOUT)


def _keep_alive(lease_id: int) -> pb.LeaseKeepAliveRequest:
    return pb.LeaseKeepAliveRequest(ID=lease_id)


def too_early(holders: Sequence[Holder], history: History) -> Iterator[str]:
    """Keys deleted before their lease's TTL had passed since the last acknowledged renewal was sent."""
    for holder in holders:
        for lease in holder.leases:
            for event in history.by_key.get(lease.key, ()):
                after = (history.seen_at[event.revision] - lease.held) / 1e9
                if event.deleted and not lease.revoked and after < lease.ttl:
                    yield f"{event} came {after:.3f} s after its lease of {lease.ttl} s was renewed"
