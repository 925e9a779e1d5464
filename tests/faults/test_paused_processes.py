"""A paused instance that missed writes and compactions must not go on from what it knew before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests import txn_ops
from tests.client import Client, prefix_end

if TYPE_CHECKING:
    from kine.proto import rpc_pb2 as pb
    from tests.faults.conftest import Pair


def test_compaction_overtakes_a_paused_instance(pair: Pair, prefix: bytes) -> None:
    """Its index holds a key whose deletion is compacted away; its watch has missed events for good."""
    one, other, paused = pair
    with other.watch() as watch:
        one.put(prefix + b"gone", b"1")
        one.put(prefix + b"kept", b"1")
        one.put(prefix + b"changed", b"1")
        assert len(other.range(prefix, prefix_end(prefix)).kvs) == 3
        watch.create(prefix, prefix_end(prefix))

        paused.suspend()
        one.delete(prefix + b"gone")
        one.put(prefix + b"changed", b"2")
        one.put(prefix + b"changed", b"3")
        one.put(prefix + b"more", b"1")
        one.put(prefix + b"more", b"2")
        compacted = one.put(prefix + b"last", b"1").header.revision
        one.compact(compacted)
        paused.resume()

        expected = one.range(prefix, prefix_end(prefix))
        assert other.range(prefix, prefix_end(prefix)) == expected
        assert other.range(prefix, prefix_end(prefix), count_only=True).count == len(expected.kvs)
        answer = watch.receive()
        assert answer.canceled
        assert answer.compact_revision == compacted
        assert other.put(prefix + b"gone", b"4", prev_kv=True).prev_kv.key == b""
        assert other.get(prefix + b"changed").version == 3
        assert one.get(prefix + b"gone").version == 1


def test_a_paused_instance_does_not_create_over_what_it_has_missed(pair: Pair, prefix: bytes) -> None:
    """The key's first row is compacted away: only the row that replaced it prevents the create."""
    one, other, paused = pair
    keys = [prefix + b"%d" % number for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        paused.suspend()
        for key in keys:
            one.put(key, b"first")
            last = one.put(key, b"theirs").header.revision
        one.compact(last)
        answers = [pool.submit(create, other, key) for key in keys]
        paused.resume()

        assert [answer.result().succeeded for answer in answers] == [False] * 20
        assert {one.get(key).value for key in keys} == {b"theirs"}
        assert one.revision() == last


def create(client: Client, key: bytes) -> pb.TxnResponse:
    return client.txn([txn_ops.modified(key, "=", 0)], [txn_ops.put(key, b"ours")])


def test_an_instance_that_catches_up_shows_no_half_of_a_transaction(pair: Pair, prefix: bytes) -> None:
    """It reads missed rows in blocks, whose edges lie within transactions of two keys."""
    one, other, paused = pair
    with other.watch() as watch:
        write_both(one, prefix, b"")
        other.revision()
        watch.create(prefix, prefix_end(prefix))
        paused.suspend()
        for number in range(30):
            last = write_both(one, prefix, b"%d" % number)
        paused.resume()
        seen: list[tuple[bytes, bytes]] = []
        reached = 0
        while reached < last:
            watch.ask_progress()
            answer = other.range(prefix, prefix_end(prefix), serializable=True)
            reached = answer.header.revision
            seen.append((answer.kvs[0].value, answer.kvs[1].value))
        events: list[int] = []
        progress = []
        while len(events) < 60:
            told = watch.receive()
            events += [event.kv.mod_revision for event in told.events]
            if not told.events:
                progress.append(told.header.revision)

        assert [both for both in seen if both[0] != both[1]] == []
        assert [revision for revision in progress if (last - revision) % 2] == []
        assert events == list(range(last - 59, last + 1))


def write_both(client: Client, prefix: bytes, value: bytes) -> int:
    return client.txn(
        success=[txn_ops.put(prefix + b"a", value), txn_ops.put(prefix + b"b", value)]
    ).header.revision
