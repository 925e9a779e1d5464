"""Mapping of revisions between servers that number the same writes differently.

Each request that writes is a tick. etcd gives all writes of a request one revision, a server with one row per
write gives each its own: a timeline knows, for one server, the last revision of every tick, and so translates
ticks into that server's revisions and its revisions back into ticks.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from kine.proto import rpc_pb2 as pb
from tests.request_strategies import AHEAD, OWN


@dataclass(slots=True)
class Timeline:
    """One server's revisions. Tick 0 is where the run began."""

    last: list[int]  # by tick, the header revision of the request
    keys: list[list[bytes]]  # by tick, what was written, in order: the same list for every server
    row_per_write: bool

    def tick(self, revision: int) -> int:
        """The tick of a revision; one past the newest for a revision past it."""
        return bisect_left(self.last, revision)

    def ago(self, count: int) -> int:
        """The tick `count` steps back, 1 being the newest."""
        return max(0, len(self.last) - count)

    def newest(self, key: bytes) -> int:
        """The last tick that wrote the key; 0 if none did."""
        return next((tick for tick in range(len(self.keys) - 1, 0, -1) if key in self.keys[tick]), 0)

    def at(self, count: int) -> int:
        """The revision at which everything of that tick and nothing after it is visible."""
        if count == 0:
            return 0
        if count == AHEAD:
            return self.last[-1] + AHEAD
        return self.last[self.ago(count)]

    def first(self, count: int) -> int:
        """The lowest revision of that tick."""
        if count in (0, AHEAD):
            return self.at(count)
        tick = self.ago(count)
        return self.last[tick - 1] + 1 if tick else self.last[0]

    def of(self, count: int, key: bytes) -> int:
        """The revision of `key` in that tick; the tick's last, if it was not written in it."""
        if count in (0, AHEAD):
            return self.at(count)
        tick = self.newest(key) if count == OWN else self.ago(count)
        if not self.row_per_write or key not in self.keys[tick]:
            return self.last[tick]
        return self.last[tick] - (len(self.keys[tick]) - 1 - self.keys[tick].index(key))


@dataclass(slots=True)
class Translation:
    """Fills a template for one server."""

    timeline: Timeline
    prefix: bytes
    lease_base: int

    def __call__(self, template: Any) -> Any:
        request = type(template)()
        request.CopyFrom(template)
        self._fill(request)
        return request

    def _fill(self, request: Any) -> None:
        match request:
            case pb.RangeRequest():
                self._span(request)
                request.revision = self.timeline.at(request.revision)
                request.min_mod_revision = self.timeline.first(request.min_mod_revision)
                request.max_mod_revision = self.timeline.at(request.max_mod_revision)
                request.min_create_revision = self.timeline.first(request.min_create_revision)
                request.max_create_revision = self.timeline.at(request.max_create_revision)
            case pb.PutRequest():
                request.key = self.prefix + request.key
                request.lease = self._lease(request.lease)
            case pb.DeleteRangeRequest():
                self._span(request)
            case pb.TxnRequest():
                for compare in request.compare:
                    self._compare(compare)
                for op in [*request.success, *request.failure]:
                    self._fill(getattr(op, op.WhichOneof("request")))
            case pb.CompactionRequest():
                request.revision = self.timeline.at(request.revision)
            case pb.WatchCreateRequest():
                self._span(request)
                request.start_revision = self.timeline.first(request.start_revision)
            case pb.LeaseGrantRequest() | pb.LeaseRevokeRequest() | pb.LeaseTimeToLiveRequest():
                request.ID = self._lease(request.ID)

    def _span(self, request: Any) -> None:
        request.key = self.prefix + request.key
        if request.range_end not in (b"", b"\0"):
            request.range_end = self.prefix + request.range_end

    def _lease(self, number: int) -> int:
        return self.lease_base + number if number else 0

    def _compare(self, compare: pb.Compare) -> None:
        self._span(compare)
        compared = compare.WhichOneof("target_union")
        if compared == "lease":
            compare.lease = self._lease(compare.lease)
        elif compared in ("mod_revision", "create_revision"):
            count = getattr(compare, compared)
            if count == OWN:
                revision = self.timeline.of(count, compare.key)
            elif compare.result == pb.Compare.LESS:
                revision = self.timeline.first(count)
            elif compare.result == pb.Compare.GREATER:
                revision = self.timeline.at(count)
            else:
                revision = self.timeline.of(count, compare.key)
            setattr(compare, compared, revision)
