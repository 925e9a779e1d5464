"""Differential test: the same random traffic to several servers, and a comparison of their responses.

A `World` sends every request to each of its servers and to the model, which gives the expected response.
Compared with the model, a server must agree number by number (`exact`). Two servers are compared after their
revisions have been translated to ticks, each by its own timeline. Not compared is what differs by design:
cluster and member ids, the raft term, remaining seconds, and, between a server with one row per write and
etcd, the order of keys that one Txn wrote when sorted by revision.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc

from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as pb
from tests.client import Client, WatchStream
from tests.etcd_model import Model, Refusal, Watch
from tests.normalized_responses import Revision, outline, outline_created, outline_events
from tests.revision_mapping import Timeline, Translation

EVENT_TIMEOUT = 60.0
EMPTY_WATCH = "mvcc: watcher range is empty"

CALLS: dict[type, tuple[str, Any, str]] = {  # by request: the method, its answer, the model's method
    pb.RangeRequest: ("KV/Range", pb.RangeResponse, "range"),
    pb.PutRequest: ("KV/Put", pb.PutResponse, "put"),
    pb.DeleteRangeRequest: ("KV/DeleteRange", pb.DeleteRangeResponse, "delete_range"),
    pb.TxnRequest: ("KV/Txn", pb.TxnResponse, "txn"),
    pb.CompactionRequest: ("KV/Compact", pb.CompactionResponse, "compact"),
    pb.LeaseGrantRequest: ("Lease/LeaseGrant", pb.LeaseGrantResponse, "grant"),
    pb.LeaseRevokeRequest: ("Lease/LeaseRevoke", pb.LeaseRevokeResponse, "revoke"),
    pb.LeaseTimeToLiveRequest: ("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveResponse, "time_to_live"),
}


_runs = count(1)


class DisagreementError(AssertionError):
    """Two responses to one request differ."""


@dataclass
class Server:
    """A real server, over one connection and one watch stream."""

    name: str
    client: Client
    translate: Translation
    stream: WatchStream = field(init=False)
    waiting: dict[int, list[kv.Event]] = field(default_factory=dict)  # events not yet taken, by watch id
    cancelled: dict[int, int] = field(default_factory=dict)  # compact revisions, by watch id

    def __post_init__(self) -> None:
        self.stream = self.client.watch()

    @property
    def timeline(self) -> Timeline:
        return self.translate.timeline

    def call(self, request: Any) -> Any:
        method, answer, _ = CALLS[type(request)]
        try:
            return self.client.call(method, request, answer)
        except grpc.RpcError as error:
            return Refusal((error.code().name, error.details()))

    def open(self, request: pb.WatchCreateRequest) -> pb.WatchResponse:
        """Opens a watch and returns its created response."""
        self.stream.send(pb.WatchRequest(create_request=request))
        while not (answer := self._receive()).created:
            pass
        self.waiting[answer.watch_id] = []
        return answer

    def _receive(self, timeout: float = EVENT_TIMEOUT) -> pb.WatchResponse:
        answer = self.stream.receive(timeout)
        if answer.canceled:
            self.cancelled[answer.watch_id] = answer.compact_revision
        if answer.events:
            self.waiting[answer.watch_id].extend(answer.events)
        return answer

    def compact_revision(self, watch_id: int) -> int:
        """The compact revision that a watch was cancelled with."""
        while watch_id not in self.cancelled:
            self._receive()
        return self.cancelled[watch_id]

    def events(self, watch_id: int, count: int) -> list[kv.Event]:
        """At least the next `count` events; more, if more have arrived, and fewer after a timeout."""
        try:
            while len(self.waiting[watch_id]) < count and watch_id not in self.cancelled:
                self._receive()
            while True:
                self._receive(timeout=0)
        except queue.Empty:
            pass
        taken, self.waiting[watch_id] = self.waiting[watch_id], []
        return taken

    def cancel(self, watch_id: int) -> None:
        self.stream.cancel(watch_id)
        while watch_id not in self.cancelled:
            self._receive()


@dataclass
class World:
    """One run: a model, the servers compared with it, and the watches they have open."""

    model: Model
    model_translate: Translation
    servers: Sequence[Server]
    exact: bool  # one server, which numbers its writes as the model does
    keeps_tombstones: bool = True  # a watch from the compact revision sees a deletion at it
    watches: dict[int, Watch] = field(default_factory=dict)  # open ones, by watch id
    opened: int = 0
    operations: int = 0

    # ---- requests

    def send(self, template: Any) -> None:
        """Sends one request to the model and all servers, and compares the responses."""
        if isinstance(template, pb.CompactionRequest):
            self.check_watches()  # prev_kv is read when an event is sent, so none may be in flight
        self.operations += 1
        requests = [server.translate(template) for server in self.servers]
        answers = [server.call(request) for server, request in zip(self.servers, requests, strict=True)]
        own_request = self.model_translate(template)
        written = len(self.model.log)
        expected = self._ask_model(own_request)
        if not _refused_for_a_reason(expected, answers):
            self._agree(
                template,
                (expected, own_request),
                list(zip(answers, requests, strict=True)),
                lambda pair, show: outline(*pair, show, self.exact),
            )
        self._tick(template, written, expected, answers)

    def _ask_model(self, request: Any) -> Any:
        try:
            return getattr(self.model, CALLS[type(request)][2])(request)
        except Refusal as refusal:
            return refusal

    def _tick(self, template: Any, written: int, expected: Any, answers: list[Any]) -> None:
        """Records the request's writes, if any."""
        for server, answer in zip(self.servers, answers, strict=True):
            if isinstance(answer, Refusal) != isinstance(expected, Refusal):
                raise DisagreementError(
                    f"{server.name} answers {answer!r}, the model {expected!r}, to {template}"
                )
        keys = [change.key for change in self.model.log[written:]]
        if not keys:
            return
        self.model_translate.timeline.last.append(self.model.revision)
        self.model_translate.timeline.keys.append(keys)
        for server, answer in zip(self.servers, answers, strict=True):
            needed = len(keys) if server.timeline.row_per_write else 1
            if answer.header.revision < server.timeline.last[-1] + needed:
                raise DisagreementError(
                    f"{server.name}: {len(keys)} writes ended at {answer.header.revision}"
                )
            server.timeline.last.append(answer.header.revision)
            server.timeline.keys.append(keys)

    def _agree(
        self, about: Any, expected: Any, told: Sequence[Any], shape: Callable[[Any, Revision], Any]
    ) -> None:
        """Compares the responses of the model and its one server, or of the two servers."""
        if self.exact:
            views = [("model", shape(expected, int)), (self.servers[0].name, shape(told[0], int))]
        else:
            views = [
                (server.name, shape(answer, server.timeline.tick))
                for server, answer in zip(self.servers, told, strict=True)
            ]
        if views[0][1] != views[1][1]:
            said = "\n".join(f"{name}: {view}" for name, view in views)
            raise DisagreementError(f"{type(about).__name__} {{ {about} }}\n{said}")

    # ---- watches

    def open_watch(self, template: pb.WatchCreateRequest) -> None:
        template = self._with_comparable_start(template)
        watch = self.model.watch(self.model_translate(template))
        expected = pb.WatchResponse(
            header=pb.ResponseHeader(revision=self.model.revision),
            watch_id=-1 if watch is None else self.opened,
            canceled=watch is None,
            cancel_reason="" if watch else EMPTY_WATCH,
        )
        answers = [server.open(server.translate(template)) for server in self.servers]
        self.operations += 1
        self._agree(template, expected, answers, outline_created)
        if watch is None:
            return
        self.opened += 1
        if watch.open:
            self.watches[expected.watch_id] = watch
        else:
            compact = pb.CompactionRequest(revision=self.model.compact_revision)
            told = [
                pb.CompactionRequest(revision=server.compact_revision(expected.watch_id))
                for server in self.servers
            ]
            self._agree(template, compact, told, lambda said, show: show(said.revision))

    def _with_comparable_start(self, template: pb.WatchCreateRequest) -> pb.WatchCreateRequest:
        """Moves a start at the compact revision itself past it, where servers may differ."""
        timeline = self.model_translate.timeline
        tick = timeline.ago(template.start_revision)
        if not template.start_revision or timeline.last[tick] != self.model.compact_revision:
            return template
        if self.keeps_tombstones and (self.exact or len(timeline.keys[tick]) == 1):
            return template
        moved = pb.WatchCreateRequest()
        moved.CopyFrom(template)
        moved.start_revision -= 1
        return moved

    def check_watches(self) -> None:
        """Takes all events so far of every watch, from the model and all servers, and compares them."""
        for watch_id, watch in list(self.watches.items()):
            expected = self.model.events(watch)
            told = [server.events(watch_id, len(expected)) for server in self.servers]
            if self._overtaken(watch_id):
                continue
            self.operations += len(expected)
            self._agree(watch.request, expected, told, outline_events)

    def _overtaken(self, watch_id: int) -> bool:
        """Whether etcd has cancelled a watch of past revisions because a compaction overtook it.

        etcd looks at such watches periodically, kine at once. Their events cannot be compared then, and the
        watch ends everywhere.
        """
        if self.exact or watch_id not in self.servers[0].cancelled:
            return False
        del self.watches[watch_id]
        for server in self.servers[1:]:
            server.cancel(watch_id)
        return True

    def cancel_watch(self, choice: int) -> None:
        self.check_watches()
        if not self.watches:
            return
        watch_id = sorted(self.watches)[choice % len(self.watches)]
        del self.watches[watch_id]
        for server in self.servers:
            server.cancel(watch_id)
            if server.waiting[watch_id]:
                raise DisagreementError(f"{server.name}: events too many: {server.waiting[watch_id]}")

    # ---- end

    def finish(self) -> None:
        """Compares what is still in flight, and checks that no further events arrive."""
        self.check_watches()
        while self.watches:
            self.cancel_watch(0)
        for lease in list(self.model.leases):
            for server in self.servers:
                server.call(pb.LeaseRevokeRequest(ID=lease))

    def close(self) -> None:
        for server in self.servers:
            server.stream.close()


def _refused_for_a_reason(expected: Any, answers: Sequence[Any]) -> bool:
    """Whether all refuse, each for one of the reasons that apply."""
    return isinstance(expected, Refusal) and all(
        isinstance(answer, Refusal) and (answer.code, answer.text) in expected.reasons for answer in answers
    )


def new_world(servers: list[tuple[str, Client, bool]], exact: bool, keeps_tombstones: bool) -> World:
    """A separate run on shared servers: its keys sort after those of earlier runs, its leases are its own."""
    number = next(_runs)
    prefix, lease_base = b"\x7e/%08d/" % number, number * 16
    parties = []
    for name, client, row_per_write in servers:
        revision = client.put(b"/run/%d" % number).header.revision
        timeline = Timeline([revision], [[]], row_per_write)
        parties.append(Server(name, client, Translation(timeline, prefix, lease_base)))
    first = parties[0].timeline
    model = Model(first.last[0], one_revision_per_txn=not first.row_per_write)
    own = Timeline([first.last[0]], [[]], first.row_per_write)
    return World(model, Translation(own, prefix, lease_base), parties, exact, keeps_tombstones)
