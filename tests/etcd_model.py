"""In-memory model of etcd's semantics, written for clarity: the expected response of every server.

Requests and responses are the protocol's messages. Nothing is ever discarded: a compaction only raises the
revision below which reads are refused. Not thread-safe; leases do not expire on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as pb

MAX_TXN_OPS = 128

EMPTY_KEY = ("INVALID_ARGUMENT", "etcdserver: key is not provided")
KEY_NOT_FOUND = ("INVALID_ARGUMENT", "etcdserver: key not found")
VALUE_PROVIDED = ("INVALID_ARGUMENT", "etcdserver: value is provided")
LEASE_PROVIDED = ("INVALID_ARGUMENT", "etcdserver: lease is provided")
TOO_MANY_OPS = ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
DUPLICATE_KEY = ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request")
COMPACTED = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted")
FUTURE = ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = ("NOT_FOUND", "etcdserver: requested lease not found")
LEASE_EXISTS = ("FAILED_PRECONDITION", "etcdserver: lease already exists")


class Refusal(Exception):  # noqa: N818, an answer like another
    """A call that ends with a status other than OK.

    Where several reasons apply at once in one Txn, etcd's versions differ in which they return: any of
    `reasons` is right.
    """

    def __init__(self, status: tuple[str, str], *others: tuple[str, str]) -> None:
        super().__init__(*status)
        self.code, self.text = status
        self.reasons = {status, *others}


class Change(NamedTuple):
    """One write to one key. Without `kv`, a deletion."""

    revision: int
    key: bytes
    kv: kv.KeyValue | None


@dataclass(slots=True)
class Lease:
    ttl: int
    keys: set[bytes] = field(default_factory=set)


@dataclass(slots=True)
class Watch:
    """A watch, and how far into the log its events have been taken."""

    request: pb.WatchCreateRequest
    position: int
    open: bool = True


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """etcd's ranges: without an end one key; `\\0` as the end is no bound."""
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


class Model:
    """A store that starts at `revision` without any client's keys."""

    def __init__(self, revision: int, one_revision_per_txn: bool) -> None:
        self.one_revision_per_txn = one_revision_per_txn
        self.revision = revision
        self.compact_revision = 0
        self.log: list[Change] = []  # in order of writing
        self.leases: dict[int, Lease] = {}

    # ---- what is there

    def at(self, revision: int) -> dict[bytes, kv.KeyValue]:
        """The live keys at a revision, in order."""
        live: dict[bytes, kv.KeyValue] = {}
        for change in self.log:
            if change.revision > revision:
                break
            if change.kv is None:
                live.pop(change.key, None)
            else:
                live[change.key] = change.kv
        return dict(sorted(live.items()))

    def now(self) -> dict[bytes, kv.KeyValue]:
        return self.at(self.revision)

    def _header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(revision=self.revision)

    # ---- writing

    def _write(self, writing: Writing, key: bytes, value: kv.KeyValue | None) -> None:
        writing.count += 1
        if writing.count == 1 or not self.one_revision_per_txn:
            self.revision += 1
        for lease in self.leases.values():
            lease.keys.discard(key)
        if value is not None:
            value.mod_revision = self.revision
            value.create_revision = value.create_revision or self.revision
            if value.lease:
                self.leases[value.lease].keys.add(key)
        self.log.append(Change(self.revision, key, value))

    # ---- KV

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        if not request.key:
            raise Refusal(EMPTY_KEY)
        for reason in self._reasons_against_revision(request.revision):
            raise Refusal(reason)
        return self._range(request)

    def _reasons_against_revision(self, revision: int) -> Iterator[tuple[str, str]]:
        if revision > self.revision:
            yield FUTURE
        if 0 < revision < self.compact_revision:
            yield COMPACTED

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        live = self.at(request.revision if request.revision > 0 else self.revision)
        found = [item for key, item in live.items() if in_range(key, request.key, request.range_end)]
        answer = pb.RangeResponse(header=self._header(), count=len(found))
        if request.count_only:
            return answer
        bounds: list[tuple[int, Callable[[kv.KeyValue], bool]]] = [
            (request.min_mod_revision, lambda item: item.mod_revision >= request.min_mod_revision),
            (request.max_mod_revision, lambda item: item.mod_revision <= request.max_mod_revision),
            (request.min_create_revision, lambda item: item.create_revision >= request.min_create_revision),
            (request.max_create_revision, lambda item: item.create_revision <= request.max_create_revision),
        ]
        filters = [test for bound, test in bounds if bound]
        if request.limit > 0 and request.sort_order == pb.RangeRequest.NONE and not filters:
            found = found[: request.limit + 1]  # etcd reads no further, and sorts by target afterwards
        found = [item for item in found if all(test(item) for test in filters)]
        sort_keys: dict[int, Callable[[kv.KeyValue], Any]] = {
            pb.RangeRequest.KEY: lambda item: item.key,
            pb.RangeRequest.VERSION: lambda item: item.version,
            pb.RangeRequest.CREATE: lambda item: item.create_revision,
            pb.RangeRequest.MOD: lambda item: item.mod_revision,
            pb.RangeRequest.VALUE: lambda item: item.value,
        }
        found.sort(key=sort_keys[request.sort_target], reverse=request.sort_order == pb.RangeRequest.DESCEND)
        answer.more = 0 < request.limit < len(found)
        answer.kvs.extend(found[: request.limit] if answer.more else found)
        if request.keys_only:
            for item in answer.kvs:
                item.value = b""
        return answer

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        check_put(request)
        for reason in self._reasons_against_put(request, self.now()):
            raise Refusal(reason)
        return self._put(request, Writing())

    def _reasons_against_put(
        self, request: pb.PutRequest, live: dict[bytes, kv.KeyValue]
    ) -> Iterator[tuple[str, str]]:
        if request.lease and request.lease not in self.leases:
            yield LEASE_NOT_FOUND
        if (request.ignore_value or request.ignore_lease) and request.key not in live:
            yield KEY_NOT_FOUND

    def _put(self, request: pb.PutRequest, writing: Writing) -> pb.PutResponse:
        previous = self.now().get(request.key)
        item = kv.KeyValue(key=request.key, value=request.value, lease=request.lease, version=1)
        if previous is not None:
            item.create_revision = previous.create_revision
            item.version = previous.version + 1
            item.value = previous.value if request.ignore_value else item.value
            item.lease = previous.lease if request.ignore_lease else item.lease
        self._write(writing, request.key, item)
        return pb.PutResponse(header=self._header(), prev_kv=previous if request.prev_kv else None)

    def delete_range(self, request: pb.DeleteRangeRequest) -> pb.DeleteRangeResponse:
        if not request.key:
            raise Refusal(EMPTY_KEY)
        return self._delete_range(request, Writing())

    def _delete_range(self, request: pb.DeleteRangeRequest, writing: Writing) -> pb.DeleteRangeResponse:
        live = self.now()
        doomed = [item for key, item in live.items() if in_range(key, request.key, request.range_end)]
        for item in doomed:
            self._write(writing, item.key, None)
        prev_kvs = doomed if request.prev_kv else []
        return pb.DeleteRangeResponse(header=self._header(), deleted=len(doomed), prev_kvs=prev_kvs)

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        check_txn(request, MAX_TXN_OPS)
        for branch in (request.success, request.failure):
            check_overlaps(list(branch))
        live = self.now()
        chosen = list(self._path(request, live))
        reasons = list(self._reasons_against(request, live, iter(chosen)))
        if reasons:
            raise Refusal(*reasons)
        answer = self._txn(request, iter(chosen), Writing())
        answer.header.revision = self.revision
        return answer

    def _path(self, request: pb.TxnRequest, live: dict[bytes, kv.KeyValue]) -> Iterator[bool]:
        """The branches taken, decided before anything is written, in the order they are reached."""
        succeeded = all(holds(compare, live) for compare in request.compare)
        yield succeeded
        for op in request.success if succeeded else request.failure:
            if op.HasField("request_txn"):
                yield from self._path(op.request_txn, live)

    def _reasons_against(
        self, request: pb.TxnRequest, live: dict[bytes, kv.KeyValue], path: Iterator[bool]
    ) -> Iterator[tuple[str, str]]:
        for op in request.success if next(path) else request.failure:
            kind = op.WhichOneof("request")
            if kind == "request_range":
                yield from self._reasons_against_revision(op.request_range.revision)
            elif kind == "request_put":
                yield from self._reasons_against_put(op.request_put, live)
            elif kind == "request_txn":
                yield from self._reasons_against(op.request_txn, live, path)

    def _txn(self, request: pb.TxnRequest, path: Iterator[bool], writing: Writing) -> pb.TxnResponse:
        answer = pb.TxnResponse(header=pb.ResponseHeader(), succeeded=next(path))
        for op in request.success if answer.succeeded else request.failure:
            kind = op.WhichOneof("request")
            if kind == "request_range":
                answer.responses.add(response_range=self._range(op.request_range))
            elif kind == "request_put":
                answer.responses.add(response_put=self._put(op.request_put, writing))
            elif kind == "request_delete_range":
                deleted = self._delete_range(op.request_delete_range, writing)
                answer.responses.add(response_delete_range=deleted)
            else:
                answer.responses.add(response_txn=self._txn(op.request_txn, path, writing))
        return answer

    def compact(self, request: pb.CompactionRequest) -> pb.CompactionResponse:
        if request.revision <= self.compact_revision:
            raise Refusal(COMPACTED)
        if request.revision > self.revision:
            raise Refusal(FUTURE)
        self.compact_revision = request.revision
        return pb.CompactionResponse(header=self._header())

    # ---- leases

    def grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        if request.ID in self.leases:
            raise Refusal(LEASE_EXISTS)
        self.leases[request.ID] = Lease(request.TTL)
        return pb.LeaseGrantResponse(header=self._header(), ID=request.ID, TTL=request.TTL)

    def revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        if request.ID not in self.leases:
            raise Refusal(LEASE_NOT_FOUND)
        writing = Writing()
        for key in sorted(self.leases[request.ID].keys):
            self._write(writing, key, None)
        del self.leases[request.ID]
        return pb.LeaseRevokeResponse(header=self._header())

    def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        lease = self.leases.get(request.ID)
        if lease is None:
            return pb.LeaseTimeToLiveResponse(header=self._header(), ID=request.ID, TTL=-1)
        return pb.LeaseTimeToLiveResponse(
            header=self._header(),
            ID=request.ID,
            TTL=lease.ttl,
            grantedTTL=lease.ttl,
            keys=sorted(lease.keys) if request.keys else [],
        )

    # ---- watches

    def watch(self, request: pb.WatchCreateRequest) -> Watch | None:
        """Opens a watch. One from below the compact revision is closed at once. None: it selects no key."""
        if request.range_end not in (b"", b"\0") and request.key >= request.range_end:
            return None
        start = request.start_revision or self.revision + 1
        position = next((at for at, change in enumerate(self.log) if change.revision >= start), len(self.log))
        return Watch(request, position, open=start >= self.compact_revision)

    def events(self, watch: Watch) -> list[kv.Event]:
        """The watch's events since the last call."""
        request, position = watch.request, watch.position
        watch.position = len(self.log)
        changes = [
            change
            for change in self.log[position:]
            if change.revision >= request.start_revision
            and in_range(change.key, request.key, request.range_end)
            and (pb.WatchCreateRequest.NODELETE if change.kv is None else pb.WatchCreateRequest.NOPUT)
            not in request.filters
        ]
        return [self._event(change, request.prev_kv) for change in changes]

    def _event(self, change: Change, prev_kv: bool) -> kv.Event:
        if change.kv is None:
            event = kv.Event(type=kv.Event.DELETE)
            event.kv.key, event.kv.mod_revision = change.key, change.revision
        else:
            event = kv.Event(type=kv.Event.PUT, kv=change.kv)
        if prev_kv and change.revision - 1 >= self.compact_revision:
            previous = self.at(change.revision - 1).get(change.key)
            if previous is not None:
                event.prev_kv.CopyFrom(previous)
        return event


@dataclass(slots=True)
class Writing:
    """The writes of one request so far."""

    count: int = 0


# ---- what a request must be, whatever the state


def check_put(request: pb.PutRequest) -> None:
    if not request.key:
        raise Refusal(EMPTY_KEY)
    if request.ignore_value and request.value:
        raise Refusal(VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise Refusal(LEASE_PROVIDED)


def check_txn(request: pb.TxnRequest, allowed: int) -> None:
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > allowed:
        raise Refusal(TOO_MANY_OPS)
    if not all(compare.key for compare in request.compare):
        raise Refusal(EMPTY_KEY)
    for op in [*request.success, *request.failure]:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            check_put(op.request_put)
        elif kind == "request_txn":
            check_txn(op.request_txn, allowed - count)
        elif kind is None:
            raise Refusal(KEY_NOT_FOUND)
        elif not getattr(op, kind).key:
            raise Refusal(EMPTY_KEY)


Span = tuple[bytes, bytes]  # a deleted range: key and range_end


def check_overlaps(ops: list[pb.RequestOp]) -> tuple[set[bytes], list[Span]]:
    """Checks that no key is put twice, or put and deleted, in what can run together.

    As in etcd, level by level: the puts of a nested Txn are checked against the deletes of its siblings and
    of the Txns nested in it before it. Returns puts and deletes.
    """
    deletes = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.HasField("request_delete_range")
    ]
    puts: set[bytes] = set()
    for op in ops:
        if op.HasField("request_txn"):
            then_puts, then_deletes = check_overlaps(list(op.request_txn.success))
            else_puts, else_deletes = check_overlaps(list(op.request_txn.failure))
            nested = then_puts | else_puts  # only one of the branches will run
            if nested & puts or any(in_range(key, *span) for key in nested for span in deletes):
                raise Refusal(DUPLICATE_KEY)
            puts |= nested
            deletes += then_deletes + else_deletes
    for op in ops:
        if op.HasField("request_put"):
            key = op.request_put.key
            if key in puts or any(in_range(key, *span) for span in deletes):
                raise Refusal(DUPLICATE_KEY)
            puts.add(key)
    return puts, deletes


def holds(compare: pb.Compare, live: dict[bytes, kv.KeyValue]) -> bool:
    """Whether every key of the compare's range fulfils it; an absent key counts as zeros, without value."""
    found = [item for key, item in live.items() if in_range(key, compare.key, compare.range_end)]
    if not found:
        if compare.target == pb.Compare.VALUE:
            return False
        found = [kv.KeyValue()]
    truth: dict[int, Callable[[kv.KeyValue], Any]] = {
        pb.Compare.VERSION: lambda item: item.version,
        pb.Compare.CREATE: lambda item: item.create_revision,
        pb.Compare.MOD: lambda item: item.mod_revision,
        pb.Compare.VALUE: lambda item: item.value,
        pb.Compare.LEASE: lambda item: item.lease,
    }
    operand = {
        pb.Compare.VERSION: compare.version,
        pb.Compare.CREATE: compare.create_revision,
        pb.Compare.MOD: compare.mod_revision,
        pb.Compare.VALUE: compare.value,
        pb.Compare.LEASE: compare.lease,
    }[compare.target]
    result: dict[int, Callable[[Any], bool]] = {
        pb.Compare.EQUAL: lambda value: value == operand,
        pb.Compare.NOT_EQUAL: lambda value: value != operand,
        pb.Compare.GREATER: lambda value: value > operand,
        pb.Compare.LESS: lambda value: value < operand,
    }
    return all(result[compare.result](truth[compare.target](item)) for item in found)
