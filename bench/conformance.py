"""A conformance run: Kubernetes-shaped objects through every call that an API server makes.

Every answer is compared with the writes of this run, so nothing else may write under its root meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.http2 import Messages
from bench.kubernetes_objects import StoredObject, objects
from bench.sync_client import CallError, SyncClient
from kine.proto import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.epoll_loop import Link

PAGE = 50
EVENT_SECONDS = 30.0  # limit for the arrival of the last event
SHORT_TTL = 2  # seconds
EXPIRY_SECONDS = 30.0  # limit by which a key may outlive its lease
OUT_OF_RANGE = 11
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
RETAINED = 1_100  # more revisions than kine keeps at any compaction (--compact-min-retain 1000)
FUTURE = "etcdserver: mvcc: required revision is a future revision"


@dataclass(slots=True)
class ConformanceStep:
    """One part of the run: the number of answers compared, and the errors found."""

    name: str
    checks: int = 0
    wrong: list[str] = field(default_factory=list)

    def same(self, found: object, expected: object, what: str) -> None:
        """Compares two values; long values are shortened in the report."""
        self.checks += 1
        if found != expected:
            self.wrong.append(f"{what}: {_short(found)} instead of {_short(expected)}")

    def true(self, *, holds: bool, what: str) -> None:
        self.checks += 1
        if not holds:
            self.wrong.append(what)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Events:
    """A watch that stores its events in full."""

    passed = None

    def __init__(self, link: Link) -> None:
        self.stream = 0
        self.received = 0
        self.events: list[kv_pb2.Event] = []
        self.answers: list[rpc_pb2.WatchResponse] = []  # those without events
        self.ended = ""
        self.link = link
        self._messages = Messages()

    def data(self, payload: bytes) -> None:
        for message in self._messages.feed(payload):
            answer = rpc_pb2.WatchResponse.FromString(message)
            self.events += answer.events
            if not answer.events:
                self.answers.append(answer)

    def end(self, status: int, message: str) -> None:
        self.ended = f"status {status}: {message}"


@dataclass(slots=True)
class Live:
    """The expected content of a key."""

    stored: StoredObject
    value: bytes
    created: int
    revision: int
    version: int = 1
    lease: int = 0

    def differs(self, kv: kv_pb2.KeyValue) -> str:
        """The first field in which a kv of an answer differs; empty if none does."""
        pairs = {
            "key": (kv.key, self.stored.key),
            "value": (kv.value, self.value),
            "create_revision": (kv.create_revision, self.created),
            "mod_revision": (kv.mod_revision, self.revision),
            "version": (kv.version, self.version),
            "lease": (kv.lease, self.lease),
        }
        return next(
            (f"{name} is {_short(a)}, not {_short(b)}" for name, (a, b) in pairs.items() if a != b), ""
        )


Change = tuple[str, bytes, int, bytes, bytes]  # PUT or DELETE, key, revision, value, previous value


class ObjectRun:
    """The run against one server. `steps` holds the results; an unexpected CallError ends the run."""

    def __init__(self, client: SyncClient, root: bytes, count: int, seed: int) -> None:
        self.steps: list[ConformanceStep] = []
        self.root = root
        self._end = etcd_requests.prefix_end(root)
        self._client = client
        self._objects = objects(root, count, seed)
        self._live: dict[bytes, Live] = {}
        self._history: list[Change] = []
        self._watch: Events = Events(client.link)
        self._first = 0  # the revision before the run
        self._lease = 0

    def run(self, told: Callable[[str], None] = lambda _: None) -> bool:
        """Runs all steps in order. Returns whether every answer was right."""
        parts = (
            self._begin, self._create, self._get, self._list, self._pages_while_updating, self._update,
            self._delete, self._expire, self._follow, self._again, self._compact, self._clean,
        )  # fmt: skip
        for part in parts:
            name = (part.__doc__ or "").partition(".")[0]
            told(name)
            step = ConformanceStep(name)
            self.steps.append(step)
            try:
                part(step)
            except CallError as bad:
                step.wrong.append(f"unexpected {bad}")
                break
        return not any(step.wrong for step in self.steps)

    # ---- calls

    def _txn(self, body: bytes) -> rpc_pb2.TxnResponse:
        return rpc_pb2.TxnResponse.FromString(self._client.call(etcd_requests.TXN, body))

    def _range(self, body: bytes) -> rpc_pb2.RangeResponse:
        return rpc_pb2.RangeResponse.FromString(self._client.call(etcd_requests.RANGE, body))

    def _all(
        self, *, revision: int = 0, keys_only: bool = False, count_only: bool = False
    ) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(
            key=self.root,
            range_end=self._end,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
        )
        return self._range(request.SerializeToString())

    def _error(
        self, step: ConformanceStep, path: str, body: bytes, expected: tuple[int, str], what: str
    ) -> None:
        try:
            self._client.call(path, body)
            step.same("an answer", expected, what)
        except CallError as bad:
            step.same((bad.status, bad.message), expected, what)

    def _open(self, start: int) -> Events:
        events = Events(self._client.link)
        request = etcd_requests.watch(self.root, self._end, start=start)
        self._client.link.call(events, etcd_requests.WATCH, request, last=False)
        return events

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        deadline = monotonic() + seconds
        while not done() and monotonic() < deadline:
            self._client.loop.run(min(deadline, monotonic() + 0.02))
        return done()

    # ---- what was written

    def _wrote(self, stored: StoredObject, value: bytes, revision: int, lease: int = 0) -> None:
        old = self._live.get(stored.key)
        before = old.value if old else b""
        created, version = (old.created, old.version + 1) if old else (revision, 1)
        self._live[stored.key] = Live(stored, value, created, revision, version, lease)
        self._history.append(("PUT", stored.key, revision, value, before))

    def _deleted(self, key: bytes, revision: int) -> None:
        self._history.append(("DELETE", key, revision, b"", self._live.pop(key).value))

    def _sorted(self) -> list[Live]:
        return [self._live[key] for key in sorted(self._live)]

    def _compare(
        self, step: ConformanceStep, found: Sequence[kv_pb2.KeyValue], expected: list[Live], what: str
    ) -> None:
        step.same(len(found), len(expected), f"{what}: number of keys")
        for kv, live in zip(found, expected, strict=False):
            wrong = live.differs(kv)
            step.true(holds=not wrong, what=f"{what}: {live.stored.key.decode()}: {wrong}")

    # ---- the steps

    def _begin(self, step: ConformanceStep) -> None:
        """Watch everything from the next revision on."""
        empty = self._all()
        step.same(empty.count, 0, "keys under the root")
        self._first = empty.header.revision
        self._watch = self._open(self._first + 1)
        created = self._wait(lambda: bool(self._watch.answers), EVENT_SECONDS)
        step.true(holds=created and self._watch.answers[0].created, what="the watch was not created")

    def _create(self, step: ConformanceStep) -> None:
        """Create every object, Events under a lease; create again fails."""
        grant = self._client.call(etcd_requests.LEASE_GRANT, etcd_requests.lease_grant(3600))
        self._lease = rpc_pb2.LeaseGrantResponse.FromString(grant).ID
        step.true(holds=self._lease != 0, what="a lease has no id")
        newest = self._first
        for stored in self._objects:
            lease = self._lease if stored.leased else 0
            answer = self._txn(etcd_requests.create(stored.key, stored.value, lease))
            step.same(answer.succeeded, True, "create")
            step.true(holds=answer.header.revision > newest, what="a create's revision is not newer")
            step.same(
                answer.responses[0].response_put.header.revision, answer.header.revision, "put's revision"
            )
            newest = answer.header.revision
            self._wrote(stored, stored.value, newest, lease)
        for stored in self._objects[::10]:
            again = self._txn(etcd_requests.create(stored.key, b"other"))
            step.same((again.succeeded, len(again.responses)), (False, 0), "create of a key that exists")
            got = self._txn(
                etcd_requests.create(stored.key, b"other") + etcd_requests.sized(b"\x1a", _get_op(stored.key))
            )
            step.same(got.succeeded, False, "create or get of a key that exists")
            self._compare(
                step, got.responses[0].response_range.kvs, [self._live[stored.key]], "create or get"
            )

    def _get(self, step: ConformanceStep) -> None:
        """Get every object, one that does not exist, and at past and future revisions."""
        for live in self._live.values():
            answer = self._range(etcd_requests.get(live.stored.key))
            self._compare(step, answer.kvs, [live], "get")
            step.same(answer.count, 1, "count of a get")
            past = self._range(etcd_requests.get(live.stored.key, live.created))
            self._compare(step, past.kvs, [live], "get at the create's revision")
        missing = self._range(etcd_requests.get(self.root + b"none"))
        step.same((len(missing.kvs), missing.count, missing.more), (0, 0, False), "get of a missing key")
        future = etcd_requests.get(self.root, missing.header.revision + 1_000_000)
        self._error(step, etcd_requests.RANGE, future, (OUT_OF_RANGE, FUTURE), "get at a future revision")

    def _list(self, step: ConformanceStep) -> None:
        """List whole, keys only, count only, and by kind."""
        whole = self._all()
        self._compare(step, whole.kvs, self._sorted(), "list")
        step.same((whole.count, whole.more), (len(self._live), False), "count and more of a list")
        keys = self._all(keys_only=True)
        step.same([kv.key for kv in keys.kvs], sorted(self._live), "keys of a list of keys only")
        step.same([kv.value for kv in keys.kvs if kv.value], [], "values of a list of keys only")
        counted = self._all(count_only=True)
        step.same((len(counted.kvs), counted.count), (0, len(self._live)), "list with count only")
        for kind in sorted({key[len(self.root) :].partition(b"/")[0] for key in self._live}):
            prefix = self.root + kind + b"/"
            found = self._range(etcd_requests.range_of(prefix, etcd_requests.prefix_end(prefix)))
            mine = [live for live in self._sorted() if live.stored.key.startswith(prefix)]
            self._compare(step, found.kvs, mine, f"list of {kind.decode()}")

    def _pages_while_updating(self, step: ConformanceStep) -> None:
        """List by page while objects change: all pages show the first page's revision."""
        before = self._sorted()
        start, revision = self.root, 0
        found: list[kv_pb2.KeyValue] = []
        for turn in range(len(before) // PAGE + 2):
            page = self._range(etcd_requests.range_of(start, self._end, limit=PAGE, revision=revision))
            revision = revision or page.header.revision
            found += page.kvs
            left = len(before) - turn * PAGE
            step.same((page.count, page.more), (left, left > PAGE), "count and more of a page")
            if not page.more:
                break
            start = page.kvs[-1].key + b"\0"
            for live in before[turn::7]:
                self._update_one(step, live.stored)
        self._compare(step, found, before, "paged list")
        self._compare(step, self._all(revision=revision).kvs, before, "list at the pages' revision")
        self._compare(step, self._all().kvs, self._sorted(), "list after the updates")

    def _update_one(self, step: ConformanceStep, stored: StoredObject) -> None:
        live = self._live[stored.key]
        value = stored.value[:-16] + b"%016d" % (live.version + 1)
        answer = self._txn(etcd_requests.update(stored.key, value, live.revision, live.lease))
        step.same(answer.succeeded, True, "update")
        self._wrote(stored, value, answer.header.revision, live.lease)

    def _update(self, step: ConformanceStep) -> None:
        """Update every object; an update of an old revision fails and shows the current object."""
        for stored in self._objects:
            stale = self._live[stored.key].revision
            self._update_one(step, stored)
            conflict = self._txn(etcd_requests.update(stored.key, b"other", stale))
            step.same(conflict.succeeded, False, "update of an old revision")
            shown = conflict.responses[0].response_range.kvs
            self._compare(step, shown, [self._live[stored.key]], "object shown by a conflict")
        gone = self._txn(etcd_requests.update(self.root + b"none", b"other", 1))
        step.same((gone.succeeded, len(gone.responses[0].response_range.kvs)), (False, 0), "update of no key")

    def _delete(self, step: ConformanceStep) -> None:
        """Delete a third: of an old revision fails, of the current one and of any succeed."""
        for number, stored in enumerate(self._objects[::3]):
            live = self._live[stored.key]
            conflict = self._txn(etcd_requests.delete(stored.key, live.created - 1))
            step.same(conflict.succeeded, False, "delete of an old revision")
            self._compare(
                step, conflict.responses[0].response_range.kvs, [live], "object shown by a conflict"
            )
            if number % 2:
                answer = self._txn(_delete_any(stored.key))
                step.same(len(answer.responses), 2, "answers of a delete of any revision")
                self._compare(
                    step, answer.responses[0].response_range.kvs, [live], "object before the delete"
                )
                deleted = answer.responses[1].response_delete_range.deleted
            else:
                answer = self._txn(etcd_requests.delete(stored.key, live.revision))
                deleted = answer.responses[0].response_delete_range.deleted
            step.same((answer.succeeded, deleted), (True, 1), "delete")
            self._deleted(stored.key, answer.header.revision)
            step.same(self._range(etcd_requests.get(stored.key)).count, 0, "get of a deleted key")
            past = self._range(etcd_requests.get(stored.key, answer.header.revision - 1))
            self._compare(step, past.kvs, [live], "get before the delete")
        self._compare(step, self._all().kvs, self._sorted(), "list after the deletes")

    def _expire(self, step: ConformanceStep) -> None:
        """A key under a short lease is deleted when it ends."""
        grant = self._client.call(etcd_requests.LEASE_GRANT, etcd_requests.lease_grant(SHORT_TTL))
        lease = rpc_pb2.LeaseGrantResponse.FromString(grant).ID
        stored = StoredObject(self.root + b"events/short", b"soon gone" * 200, leased=True)
        answer = self._txn(etcd_requests.create(stored.key, stored.value, lease))
        self._wrote(stored, stored.value, answer.header.revision, lease)
        self._compare(
            step, self._range(etcd_requests.get(stored.key)).kvs, [self._live[stored.key]], "leased key"
        )

        def expired() -> bool:
            return any(e.type == kv_pb2.Event.DELETE and e.kv.key == stored.key for e in self._watch.events)

        gone = self._wait(expired, EXPIRY_SECONDS)
        step.true(holds=gone, what=f"the key was there {EXPIRY_SECONDS:g} s after a lease of {SHORT_TTL} s")
        if gone:
            self._deleted(stored.key, self._watch.events[-1].kv.mod_revision)
            step.same(self._range(etcd_requests.get(stored.key)).count, 0, "get of an expired key")

    def _follow(self, step: ConformanceStep) -> None:
        """The watch saw every change once, in order, with old values; progress names the revision."""
        self._same_history(step, self._watch, self._history, "watch")
        newest = self._all(count_only=True).header.revision
        known = len(self._watch.answers)
        self._watch.link.send(self._watch, b"\x1a\x00")

        def told() -> bool:
            return any(a.header.revision >= newest for a in self._watch.answers[known:])

        step.true(holds=self._wait(told, EVENT_SECONDS), what="no progress answer names the newest revision")

    def _again(self, step: ConformanceStep) -> None:
        """Watches from past revisions give the same changes again."""
        for start in (0, len(self._history) // 2):
            again = self._open(self._history[start][2])
            self._same_history(step, again, self._history[start:], f"watch from change {start}")
            self._client.link.cancel(again)

    def _same_history(self, step: ConformanceStep, watch: Events, history: list[Change], what: str) -> None:
        self._wait(lambda: len(watch.events) >= len(history) or bool(watch.ended), EVENT_SECONDS)
        step.same(watch.ended, "", f"{what}: end")
        step.same(len(watch.events), len(history), f"{what}: number of events")
        for event, change in zip(watch.events, history, strict=False):
            kind = "DELETE" if event.type == kv_pb2.Event.DELETE else "PUT"
            kv = event.kv
            found = (kind, kv.key, kv.mod_revision, kv.value, event.prev_kv.value)
            step.same(found, change, f"{what}: event of revision {change[2]}")

    def _compact(self, step: ConformanceStep) -> None:
        """Compact in the middle: older revisions are gone, the newer ones and all objects stay."""
        at = self._history[len(self._history) // 2][2]
        last = self._objects[1]
        while self._history[-1][2] <= at + RETAINED:
            self._update_one(step, last)
        self._compaction_lock(step, at)
        request = rpc_pb2.CompactionRequest(revision=at, physical=True)
        self._client.call(etcd_requests.COMPACT, request.SerializeToString())
        old = etcd_requests.range_of(self.root, self._end, revision=at - 1)
        self._error(
            step, etcd_requests.RANGE, old, (OUT_OF_RANGE, COMPACTED), "list before the compact revision"
        )
        again = request.SerializeToString()
        self._error(
            step, etcd_requests.COMPACT, again, (OUT_OF_RANGE, COMPACTED), "compact of a compacted revision"
        )
        self._compare(step, self._all().kvs, self._sorted(), "list after the compaction")
        late = self._open(at - 1)
        self._wait(lambda: any(a.canceled for a in late.answers) or bool(late.ended), EVENT_SECONDS)
        cancelled = [a for a in late.answers if a.canceled]
        step.same([a.compact_revision for a in cancelled], [at], "watch from a compacted revision")
        if not late.ended:
            self._client.link.cancel(late)
        since = [change for change in self._history if change[2] > at]
        again_watch = self._open(at + 1)
        self._same_history(step, again_watch, since, "watch from after the compact revision")
        self._client.link.cancel(again_watch)

    def _compaction_lock(self, step: ConformanceStep, revision: int) -> None:
        """As the API server's compactor takes it: its version counts up by one, and can be read."""
        key = b"compact_rev_key"
        first = self._range(etcd_requests.get(key))
        version = first.kvs[0].version if first.kvs else 0
        for turn in range(2):
            locked = self._txn(_lock(key, version + turn, b"%d" % revision))
            step.same(locked.succeeded, True, "compaction lock")
            kv = self._range(etcd_requests.get(key)).kvs[0]
            step.same((kv.version, kv.value), (version + turn + 1, b"%d" % revision), "compaction lock's key")
        stale = self._txn(_lock(key, version, b"0"))
        step.same(stale.succeeded, False, "compaction lock of an old version")
        shown = [kv.version for kv in stale.responses[0].response_range.kvs]
        step.same(shown, [version + 2], "version shown to who lost the lock")

    def _clean(self, step: ConformanceStep) -> None:
        """Delete what is left, one by one."""
        for live in self._sorted():
            answer = self._txn(etcd_requests.delete(live.stored.key, live.revision))
            step.same(answer.succeeded, True, "delete")
        step.same(self._all(count_only=True).count, 0, "keys under the root")
        self._client.link.cancel(self._watch)


def _get_op(key: bytes) -> bytes:
    return etcd_requests.sized(b"\x0a", etcd_requests.sized(b"\x0a", key))


def _delete_any(key: bytes) -> bytes:
    """Txn without a compare: get, then delete."""
    named = etcd_requests.sized(b"\x0a", key)
    return etcd_requests.sized(b"\x12", etcd_requests.sized(b"\x0a", named)) + etcd_requests.sized(
        b"\x12", etcd_requests.sized(b"\x1a", named)
    )


def _lock(key: bytes, version: int, value: bytes) -> bytes:
    compare = rpc_pb2.Compare(target=rpc_pb2.Compare.VERSION, key=key, version=version)
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
    get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    return rpc_pb2.TxnRequest(compare=[compare], success=[put], failure=[get]).SerializeToString()
