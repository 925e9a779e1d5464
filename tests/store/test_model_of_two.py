"""Random concurrent traffic to two instances on one database, checked against the model of etcd.

Requests of one batch are concurrent: there must be an order of them in which the model gives every response
that was given. A request whose client disconnects may have been carried out or not; one that a full queue
refuses has not been. Meanwhile watches run, streams are full at times, compactions come in between, and the
second instance may learn of the first one's writes only where it must ask the database for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import grpc
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from kine.drivers.memory import MemoryLog, _Rows
from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as pb
from kine.store import write_queue
from kine.store.compactor import Policy
from kine.store.store import StoreSettings
from kine.transport.base import RpcError
from tests import request_strategies
from tests.client import CHANNEL_OPTIONS
from tests.databases import nats
from tests.differential import CALLS
from tests.etcd_model import Model, Refusal, Watch
from tests.faults.run_databases import missing, new_place
from tests.in_process_server import METHODS, PATIENCE, Deaf, Instance, Watching, start
from tests.normalized_responses import outline, outline_events
from tests.remote.etcd_clusters import Etcds
from tests.revision_mapping import Timeline, Translation
from tests.servers.nats import HISTORY
from tests.servers.nats import database_server as nats_server

TOO_MANY = "etcdserver: too many requests"
GONE = object()  # the answer of a request whose client did not wait for it
STEPS = 20
_runs = count(1)


# ---- search for an order in which the model gives the same responses


@dataclass(slots=True)
class Sent:
    request: Any
    answer: Any  # a message, a Refusal, or GONE


def copied(model: Model) -> Model:
    made = Model(model.revision, model.one_revision_per_txn)
    made.compact_revision = model.compact_revision
    made.log = list(model.log)
    for lease_id, lease in model.leases.items():
        made.leases[lease_id] = type(lease)(lease.ttl)
        made.leases[lease_id].keys |= lease.keys
    return made


def told_by(model: Model, request: Any) -> Any:
    try:
        return getattr(model, CALLS[type(request)][2])(request)
    except Refusal as refusal:
        return refusal


def agrees(expected: Any, sent: Sent) -> bool:
    if sent.answer is GONE:
        return True
    if isinstance(expected, Refusal):
        answer = sent.answer
        return isinstance(answer, Refusal) and (answer.code, answer.text) in expected.reasons
    if isinstance(sent.answer, Refusal):
        return False
    shown = [outline(answer, sent.request, int, exact=True) for answer in (expected, sent.answer)]
    if isinstance(sent.request, pb.LeaseGrantRequest | pb.LeaseTimeToLiveRequest | pb.CompactionRequest):
        for view in shown:
            del view["revision"]  # of when it was answered
    return bool(shown[0] == shown[1])


def an_order(model: Model, batch: Sequence[Sent]) -> Iterator[tuple[Model, list[Any]]]:
    """The states after orders that explain the responses, with the requests that were carried out."""
    if all(sent.answer is GONE for sent in batch):
        yield model, []
    for place, sent in enumerate(batch):
        after = copied(model)
        if not agrees(told_by(after, sent.request), sent):
            continue
        for state, carried_out in an_order(after, [*batch[:place], *batch[place + 1 :]]):
            yield state, [sent.request, *carried_out]


# ---- the machine


@dataclass(slots=True)
class Followed:
    party: int
    watch_id: int
    seen: Watch
    got: list[kv.Event] = field(default_factory=list)
    cancelled: int = 0


class TwoInstances(RuleBasedStateMachine):
    open_parties: ClassVar[Callable[[], Awaitable[list[Any]]]]
    one_revision_per_txn: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.parties: list[Any] = self.runner.run(type(self).open_parties())
        number = next(_runs)
        first = self._call(0, pb.PutRequest(key=b"/run/%d" % number))
        revision = first.header.revision
        self.model = Model(revision, type(self).one_revision_per_txn)
        timeline = Timeline([revision], [[]], not type(self).one_revision_per_txn)
        self.translate = Translation(timeline, b"\x7e/%08d/" % number, number * 16)
        self.streams: dict[int, Watching] = {}
        self.full: set[int] = set()
        self.followed: list[Followed] = []
        self.ids = count(1)

    def _call(self, party: int, request: Any) -> Any:
        return self.runner.run(asyncio.wait_for(self.parties[party].call(request), PATIENCE))

    async def _answer(self, party: int, request: Any) -> Any:
        try:
            return await asyncio.wait_for(self.parties[party].call(request), PATIENCE)
        except RpcError as error:
            return Refusal((error.code.name, error.message))
        except grpc.RpcError as error:
            return Refusal((error.code().name, error.details()))

    async def _batch(self, calls: Sequence[tuple[int, Any]], leave: int | None) -> list[Any]:
        tasks = [asyncio.ensure_future(self._answer(party, request)) for party, request in calls]
        if leave is not None and all(hasattr(self.parties[party], "watch") for party, _ in calls):
            for _ in range(leave // len(tasks)):
                await asyncio.sleep(0)
            tasks[leave % len(tasks)].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, asyncio.CancelledError | Refusal):
                raise answer
        return [GONE if isinstance(answer, asyncio.CancelledError) else answer for answer in answers]

    def _send(self, calls: Sequence[tuple[int, Any]], *, leave: int | None = None, room: int = 0) -> None:
        requests = [(party, self._filled(template)) for party, template in calls]
        with patch.object(write_queue, "MAX_QUEUE", room or write_queue.MAX_QUEUE):
            answers = self.runner.run(self._batch(requests, leave))
        batch = [
            Sent(request, answer)
            for (_, request), answer in zip(requests, answers, strict=True)
            if not (room and isinstance(answer, Refusal) and answer.text == TOO_MANY)
        ]
        # A request whose client has gone may still be running: later ones must find it applied or never
        # applied.
        if any(sent.answer is GONE for sent in batch):
            for party in range(2):
                self._call(party, pb.PutRequest(key=b"/run/settled"))
                batch.append(Sent(pb.PutRequest(key=b"/run/settled"), GONE))
            seen = [(0, pb.RangeRequest(key=self.translate.prefix, range_end=b"\x7f"))]
            answer = self.runner.run(self._batch(seen, None))[0]
            states = [
                found
                for found in an_order(self.model, batch)
                if agrees(told_by(found[0], seen[0][1]), Sent(seen[0][1], answer))
            ]
        else:
            states = list(zip(range(1), an_order(self.model, batch), strict=False))
            states = [state for _, state in states]
        assert states, "no order explains the answers:\n" + "\n".join(
            f"{type(sent.request).__name__} {{ {sent.request} }}\n  -> {sent.answer!r}" for sent in batch
        )
        self._went(states[0][0])

    def _went(self, model: Model) -> None:
        """Continues from that state; watches read the log of the one model."""
        timeline = self.translate.timeline
        revision = timeline.last[-1]
        for change in model.log[len(self.model.log) :]:
            if change.revision > revision:  # with one row per write, each is a tick
                timeline.last.append(change.revision)
                timeline.keys.append([])
                revision = change.revision
            timeline.keys[-1].append(change.key)
        self.model = model

    def _filled(self, template: Any) -> Any:
        request = self.translate(template)
        if isinstance(request, pb.RangeRequest):
            request.serializable = False  # such a read may be stale, at the second instance
        return request

    # ---- rules

    @initialize(puts=st.lists(request_strategies.plain_puts, min_size=3, max_size=6))
    def begin(self, puts: list[Any]) -> None:
        for lease in (1, 2):
            self._send([(lease - 1, pb.LeaseGrantRequest(ID=lease, TTL=request_strategies.LEASE_TTL))])
        self._send([(number % 2, put) for number, put in enumerate(puts[:2])])
        for put in puts[2:]:
            self._send([(0, put)])

    parties_of = st.sampled_from([0, 0, 1])
    many = st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 1]), st.one_of(request_strategies.writes, request_strategies.requests)
        ).filter(lambda call: not isinstance(call[1], pb.LeaseRevokeRequest)),
        min_size=2,
        max_size=5,
    )

    @rule(calls=many)
    def at_once(self, calls: list[tuple[int, Any]]) -> None:
        self._send(calls)

    @rule(calls=many)
    def at_once_again(self, calls: list[tuple[int, Any]]) -> None:
        self._send(calls)

    @rule(party=parties_of, requests=st.lists(request_strategies.writes, min_size=2, max_size=5))
    def one_group(self, party: int, requests: list[Any]) -> None:
        self._send([(party, request) for request in requests])

    @rule(calls=many, leave=st.integers(0, 40))
    def one_client_leaves(self, calls: list[tuple[int, Any]], leave: int) -> None:
        self._send(calls, leave=leave)

    @rule(calls=many, room=st.integers(1, 3))
    def full_queue(self, calls: list[tuple[int, Any]], room: int) -> None:
        self._send(calls, room=room)

    @rule(party=parties_of, request=request_strategies.revokes)
    def revoke(self, party: int, request: Any) -> None:
        self._send([(party, request)])

    @rule(first=parties_of, put=request_strategies.plain_puts, lease=st.sampled_from([1, 2, 3]))
    def attached_here_revoked_there(self, first: int, put: Any, lease: int) -> None:
        leased = pb.PutRequest(key=put.key, value=put.value, lease=lease)
        self._send([(first, leased)])
        self._send([(1 - first, pb.LeaseTimeToLiveRequest(ID=lease, keys=True))])
        self._send([(1 - first, pb.LeaseRevokeRequest(ID=lease))])
        self._send([(first, pb.RangeRequest(key=put.key))])

    @rule(party=parties_of, request=request_strategies.compactions)
    def compact(self, party: int, request: Any) -> None:
        self.check_watches()  # an event's prev_kv is as of when it was sent
        for each in range(2):  # an instance's watches never show what was compacted before it learnt of it
            self._call(each, pb.RangeRequest(key=b"/run/"))
        before = self.model.compact_revision
        self._send([(party, request)])
        if self.full and self.model.compact_revision > before:
            self._slow_and_compacted()
        # The other one must not answer reads of compacted revisions.
        self._send(
            [(1 - party, pb.RangeRequest(key=b"a", range_end=b"z", revision=request_strategies.AHEAD))]
        )

    def _slow_and_compacted(self) -> None:
        """Watches on full streams may lack compacted events: each is cancelled, or had none to be sent."""
        for party in tuple(self.full):
            self.streams[party].empty()
            self.full.discard(party)
        for watched in tuple(self.followed):
            lacking = copied_watch(watched.seen)
            expected = self.model.events(lacking)
            gone = [event for event in expected if event.kv.mod_revision < self.model.compact_revision]
            if not gone:
                continue
            self._take(watched, len(expected))
            if watched.cancelled:
                assert watched.cancelled == self.model.compact_revision
            else:
                assert not watched.seen.request.prev_kv or len(watched.got) == len(expected)
            self.followed.remove(watched)

    @rule(party=parties_of, request=request_strategies.watches)
    def watch(self, party: int, request: Any) -> None:
        filled = self.translate(request)
        seen = self.model.watch(filled)
        if seen is None or not seen.open or not hasattr(self.parties[party], "watch"):
            return
        watch_id = next(self.ids)
        begun = self.runner.run(self._watch(party, filled, watch_id))
        if not filled.start_revision:  # from now on, as that instance knows it: its response has the revision
            earlier = sum(change.revision <= begun for change in self.model.log)
            assert begun <= self.model.revision
            seen.position = earlier
        self.followed.append(Followed(party, watch_id, seen))

    async def _watch(self, party: int, request: Any, watch_id: int) -> int:
        if party not in self.streams:
            self.streams[party] = self.parties[party].watch()
        request.watch_id = watch_id
        self.streams[party].ask(pb.WatchRequest(create_request=request))
        while not (answer := await self.streams[party].next()).created:
            self._sort(party, answer)
        assert not answer.canceled, answer
        return int(answer.header.revision)

    @rule(party=parties_of)
    def slow(self, party: int) -> None:
        if party in self.streams:
            self.streams[party].fill()
            self.full.add(party)

    @rule()
    def check_watches(self) -> None:
        for watched in self.followed:
            if watched.party in self.full:
                continue
            before = copied_watch(watched.seen)
            expected = self.model.events(before)
            self._take(watched, len(expected))
            assert not watched.cancelled, f"cancelled at {watched.cancelled}"
            got, due = (outline_events(events, int) for events in (watched.got, expected))
            assert got == due, f"{watched.seen.request}\ngot {got}\ndue {due}"
            watched.got = []
            watched.seen.position = before.position

    def _take(self, watched: Followed, number: int) -> None:
        """Takes `number` events, if they come, and all others that have arrived."""
        self.runner.run(self._taken(watched, number))

    async def _taken(self, watched: Followed, number: int) -> None:
        await self.parties[watched.party].call(pb.RangeRequest(key=b"/run/"))  # now it knows of all writes
        stream = self.streams[watched.party]
        with suppress(TimeoutError):
            while len(watched.got) < number and not watched.cancelled:
                self._sort(watched.party, await stream.next())
        for answer in stream.all():
            self._sort(watched.party, answer)

    def _sort(self, party: int, answer: pb.WatchResponse) -> None:
        for watched in self.followed:
            if (watched.party, watched.watch_id) == (party, answer.watch_id):
                watched.got += answer.events
                if answer.canceled:
                    watched.cancelled = answer.compact_revision or -1

    def teardown(self) -> None:
        try:
            for party in self.full:
                self.streams[party].empty()
            self.full.clear()
            self.check_watches()
        finally:
            for party in self.parties:
                self.runner.run(party.close())
            self.runner.close()


def copied_watch(watch: Watch) -> Watch:
    return Watch(watch.request, watch.position, watch.open)


def run(
    open_parties: Callable[[], Awaitable[list[Any]]], runs: int, one_revision_per_txn: bool = False
) -> None:
    class Machine(TwoInstances):
        pass

    Machine.open_parties = staticmethod(open_parties)
    Machine.one_revision_per_txn = one_revision_per_txn
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        ),
    )


RETAINING_NOTHING = StoreSettings(compaction=Policy(min_retain=0))


async def started(*where: Any) -> list[Instance]:
    return [await start(one, RETAINING_NOTHING) for one in where]


@pytest.mark.parametrize("second", [MemoryLog, Deaf], ids=["told", "asking"])
def test_two_instances_in_memory_agree_with_the_model(second: type[MemoryLog]) -> None:
    def parties() -> Awaitable[list[Any]]:
        rows = _Rows()
        return started(MemoryLog(rows), second(rows))

    run(parties, 15)


def test_two_instances_on_sqlite_agree_with_the_model(tmp_path: Path) -> None:
    numbers = count()

    def parties() -> Awaitable[list[Any]]:
        endpoint = f"sqlite://{tmp_path}/{next(numbers)}.db"
        return started(endpoint, endpoint)

    run(parties, 3)


# ---- on the other databases: in `make test-engines`


def new_endpoint(kind: str) -> str:
    """An unused database, or bucket."""
    if kind == "nats":
        server = nats_server(1)
        return server.endpoint(server.new_bucket(), parameters=HISTORY)
    return new_place(kind).endpoint()


@pytest.mark.engines
@pytest.mark.timeout(900)  # a failure is shrunk before it is reported
@pytest.mark.parametrize("kind", ["postgres", "mysql", "nats"])
def test_two_instances_on_a_server_agree_with_the_model(kind: str) -> None:
    if reason := nats.missing() if kind == "nats" else missing(kind):
        pytest.skip(reason)

    def parties() -> Awaitable[list[Any]]:
        endpoint = new_endpoint(kind)
        return started(endpoint, endpoint)

    run(parties, 10)


class EtcdClient:
    """A party that is a client of a real etcd; without watches, which the differential test compares."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)

    async def call(self, request: Any) -> Any:
        path, kind = METHODS[type(request)]
        method = self._channel.unary_unary(
            f"/etcdserverpb.{path}", type(request).SerializeToString, kind.FromString
        )
        return await method(request)

    async def close(self) -> None:
        await self._channel.close()


@pytest.mark.engines
@pytest.mark.timeout(900)
def test_two_clients_of_etcd_agree_with_the_model(etcds: Etcds) -> None:
    address = etcds.etcd().address

    async def parties() -> list[Any]:
        return [EtcdClient(address), EtcdClient(address)]

    run(parties, 40, one_revision_per_txn=True)
