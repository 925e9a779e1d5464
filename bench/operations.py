"""The requests of each unary scenario, and the checks of their answers."""

from __future__ import annotations

from array import array
from random import Random
from typing import TYPE_CHECKING

from bench import etcd_requests
from bench.unary_load import Operation, Slot
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

parse_txn = rpc_pb2.TxnResponse.FromString
parse_range = rpc_pb2.RangeResponse.FromString


def values(size: int, seed: int, variants: int = 32) -> list[bytes]:
    """Stored objects of `size` bytes each: JSON-like text around fields that do not compress."""
    rng = Random(seed)
    made = []
    for _ in range(variants):
        text = (
            '{"apiVersion":"v1","kind":"Pod","metadata":{"uid":"' + rng.randbytes(16).hex() + '","labels":{'
        )
        while len(text) < size:
            text += f'"label-{rng.randrange(1000)}":"{rng.randbytes(12).hex()}",'
        made.append(text[:size].encode())
    return made


def key_of(prefix: bytes, number: int) -> bytes:
    return b"%bpod-%07d" % (prefix, number)


class KeyRevisions:
    """A slot's own keys, each with its current revision."""

    __slots__ = ("at", "keys", "revisions", "turns", "unsure")

    def __init__(self, keys: list[bytes], revisions: list[int]) -> None:
        self.keys = keys
        self.revisions = revisions
        self.at = -1
        self.turns = 0
        self.unsure: set[int] = set()  # keys with a write of unknown outcome: a conflict there is no error


class Create(Operation):
    """Creates keys `numbers` of the prefix, each once."""

    kinds = ("create",)

    def __init__(
        self, prefix: bytes, numbers: Sequence[int] | range, pool: list[bytes], *, existing_ok: bool = False
    ) -> None:
        self._prefix = prefix
        self._numbers = iter(numbers)
        self._pool = pool
        self._existing_ok = existing_ok
        self.revisions: dict[int, int] = {}

    def begin(self, slot: Slot) -> None:
        slot.state = 0

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        number = next(self._numbers, None)
        if number is None:
            return None
        slot.state = number
        pool = self._pool
        return etcd_requests.TXN, etcd_requests.create(key_of(self._prefix, number), pool[number % len(pool)])

    def check(self, slot: Slot, body: bytes) -> str:
        answer = parse_txn(body)
        if not answer.succeeded:
            return "" if self._existing_ok else "wrong answer: a new key exists"
        if len(answer.responses) != 1 or not answer.responses[0].HasField("response_put"):
            return "wrong answer: a create without a put's answer"
        self.revisions[slot.state] = answer.header.revision
        return ""


class Update(Operation):
    """Updates the slot's own keys in turn, each at the revision of its last write."""

    kinds = ("update",)

    def __init__(self, keys: Callable[[int], KeyRevisions], pool: list[bytes]) -> None:
        self._keys = keys
        self._pool = pool

    def begin(self, slot: Slot) -> None:
        slot.state = self._keys(slot.number)

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        state: KeyRevisions = slot.state
        at = state.at = (state.at + 1) % len(state.keys)
        state.turns += 1
        value = self._pool[state.turns % len(self._pool)]
        return etcd_requests.TXN, etcd_requests.update(state.keys[at], value, state.revisions[at])

    def check(self, slot: Slot, body: bytes) -> str:
        return check_update(slot.state, body)

    def failed(self, slot: Slot) -> None:
        slot.state.unsure.add(slot.state.at)


def check_update(state: KeyRevisions, body: bytes) -> str:
    """Checks an update of `state`'s current key and remembers its new revision."""
    answer = parse_txn(body)
    revision = answer.header.revision
    if not answer.succeeded:
        kvs = answer.responses[0].response_range.kvs if answer.responses else ()
        if kvs:
            state.revisions[state.at] = kvs[0].mod_revision
        if state.at in state.unsure:  # the write of unknown outcome had succeeded
            state.unsure.discard(state.at)
            return ""
        return "conflict on a key of one writer"
    state.unsure.discard(state.at)
    if revision <= state.revisions[state.at]:
        return "wrong answer: an update's revision is not newer"
    state.revisions[state.at] = revision
    return ""


class Delete(Operation):
    """Deletes the slot's own keys, each once."""

    kinds = ("delete",)

    def __init__(self, keys: Callable[[int], KeyRevisions]) -> None:
        self._keys = keys

    def begin(self, slot: Slot) -> None:
        slot.state = self._keys(slot.number)

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        state: KeyRevisions = slot.state
        state.at += 1
        if state.at >= len(state.keys):
            return None
        return etcd_requests.TXN, etcd_requests.delete(state.keys[state.at], state.revisions[state.at])

    def check(self, slot: Slot, body: bytes) -> str:
        answer = parse_txn(body)
        if not answer.succeeded:
            return "conflict on a key of one writer"
        if len(answer.responses) != 1 or answer.responses[0].response_delete_range.deleted != 1:
            return "wrong answer: a delete that deleted nothing"
        return ""


class Get(Operation):
    """Gets random keys of the data set."""

    kinds = ("get",)

    def __init__(self, prefix: bytes, keys: int, size: int, seed: int) -> None:
        self._prefix = prefix
        self._keys = keys
        self._size = size
        self._random = Random(seed).random

    def begin(self, slot: Slot) -> None:
        slot.state = [b"", 0]

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        key = slot.state[0] = key_of(self._prefix, int(self._random() * self._keys))
        return etcd_requests.RANGE, etcd_requests.get(key)

    def check(self, slot: Slot, body: bytes) -> str:
        answer = parse_range(body)
        state = slot.state
        if len(answer.kvs) != 1 or answer.count != 1:
            return "wrong answer: the key is missing"
        kv = answer.kvs[0]
        if kv.key != state[0] or len(kv.value) != self._size:
            return "wrong answer: another key or value"
        revision = answer.header.revision
        if revision < state[1] or kv.mod_revision > revision:
            return "wrong answer: the revision went backwards"
        state[1] = revision
        return ""


class ListWhole(Operation):
    """Lists the whole data set in one answer.

    Parsing every answer would take the driver longer than the servers take to make it. So for most answers
    only the size and the end are checked; the end has the count and the `more` flag.
    """

    kinds: Sequence[str] = ("list",)
    read_every = 16

    def __init__(self, prefix: bytes, keys: int, size: int) -> None:
        self._request = etcd_requests.range_of(prefix, etcd_requests.prefix_end(prefix))
        self._keys = keys
        self._size = size
        self._end = b"\x20" + etcd_requests.varint(keys)

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        return etcd_requests.RANGE, self._request

    def skim(self, slot: Slot, tail: bytes, size: int) -> str:
        if size < self._keys * self._size:
            return "wrong answer: the list is too short"
        if not tail.endswith(self._end) or tail.endswith(b"\x18\x01" + self._end):
            return "wrong answer: the list has another number of keys"
        return ""

    def check(self, slot: Slot, body: bytes) -> str:
        if len(body) < self._keys * self._size:
            return "wrong answer: the list is too short"
        answer = parse_range(body)
        if len(answer.kvs) != self._keys or answer.count != self._keys or answer.more:
            return "wrong answer: the list has another number of keys"
        return ""


class Relist(ListWhole):
    """Updates a random key of the data set, then lists the whole set, so that no two lists are equal."""

    kinds = ("list", "put")

    def __init__(self, prefix: bytes, keys: int, size: int, seed: int) -> None:
        super().__init__(prefix, keys, size)
        self._prefix = prefix
        self._random = Random(seed)
        self._pool = values(size, seed)

    def begin(self, slot: Slot) -> None:
        slot.kind = 0

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        slot.kind = 1 - slot.kind
        if slot.kind == 0:
            return super().next(slot)
        key = key_of(self._prefix, self._random.randrange(self._keys))
        return etcd_requests.PUT, etcd_requests.put(key, self._random.choice(self._pool))

    def check(self, slot: Slot, body: bytes) -> str:
        if slot.kind == 0:
            return super().check(slot, body)
        return "" if rpc_pb2.PutResponse.FromString(body).header.revision else "wrong answer: no revision"


class ListPaged(Operation):
    """Lists the data set in pages at the first page's revision, over and over."""

    kinds = ("page",)

    def __init__(self, prefix: bytes, keys: int, limit: int) -> None:
        self._prefix = prefix
        self._end = etcd_requests.prefix_end(prefix)
        self._keys = keys
        self._limit = limit
        self.passes = array("d")  # seconds per complete pass

    def begin(self, slot: Slot) -> None:
        slot.state = Pages(self._prefix)

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        state: Pages = slot.state
        return etcd_requests.RANGE, etcd_requests.range_of(
            state.key, self._end, limit=self._limit, revision=state.revision
        )

    def check(self, slot: Slot, body: bytes) -> str:
        state: Pages = slot.state
        answer = parse_range(body)
        if state.revision == 0:
            state.revision = answer.header.revision
            state.started = slot.start
        expected = min(self._limit, self._keys - state.found)
        more = state.found + expected < self._keys
        if len(answer.kvs) != expected or answer.more != more or answer.count != self._keys - state.found:
            slot.state = Pages(self._prefix)
            return "wrong answer: a page with other keys, count or more"
        state.found += expected
        if more:
            state.key = answer.kvs[-1].key + b"\0"
            return ""
        if state.started >= slot.load.begin:
            self.passes.append(slot.link.arrived - state.started)
        slot.state = Pages(self._prefix)
        return ""


class Pages:
    """The progress of one paged list."""

    __slots__ = ("found", "key", "revision", "started")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.revision = 0
        self.found = 0
        self.started = 0.0


class Count(Operation):
    """Counts the keys of the data set."""

    kinds = ("count",)

    def __init__(self, prefix: bytes, keys: int) -> None:
        self._request = etcd_requests.range_of(prefix, etcd_requests.prefix_end(prefix), count_only=True)
        self._keys = keys

    def next(self, slot: Slot) -> tuple[str, bytes] | None:
        return etcd_requests.RANGE, self._request

    def check(self, slot: Slot, body: bytes) -> str:
        answer = parse_range(body)
        return "" if answer.count == self._keys and not answer.kvs else "wrong answer: another count"
