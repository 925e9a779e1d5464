"""Regression tests for etcd's known robustness bugs that can apply to kine, named by their public issue.

The list: https://github.com/etcd-io/etcd/blob/main/tests/robustness/README.md. Those that other tests cover
are listed, with these, in docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from tests import txn_ops
from tests.client import DELETE, Client, WatchStream, prefix_end

if TYPE_CHECKING:
    from kine.proto import kv_pb2 as kv
    from tests.conftest import Needs, StartOwn
    from tests.faults.conftest import Pair
    from tests.servers import Backend
    from tests.servers.process import Instance


def test_15220_progress_is_in_step_with_every_watch_of_its_stream(
    client: Client, watch: WatchStream, prefix: bytes, needs: Needs
) -> None:
    """etcd-io/etcd#15220: a progress notification overtook events that were still on their way.

    Here one watch of the stream is synced while another replays history to a client that reads slowly.
    """
    needs("progress_in_step")
    start = client.revision() + 1
    old = [client.put(prefix + b"old", b"x" * 4000).header.revision for _ in range(200)]
    watch.create(prefix + b"new")
    watch.pause()
    watch.ask(prefix + b"old", start_revision=start)
    for _ in range(5):
        watch.ask_progress()
    new = [client.put(prefix + b"new", b"x").header.revision for _ in range(20)]
    for _ in range(5):
        watch.ask_progress()
    watch.resume()
    seen: set[int] = set()
    while len(seen) < len(old) + len(new):
        answer = watch.receive()
        if not answer.events and not answer.created:
            missing = [revision for revision in old + new if revision not in seen]
            assert answer.header.revision < min(missing), "it covers events that have not been sent"
        seen.update(event.kv.mod_revision for event in answer.events)


def test_15271_a_watch_resumed_on_an_instance_behind_sees_nothing_again(pair: Pair, prefix: bytes) -> None:
    """etcd-io/etcd#15271: after a partition, a watch that moved to a lagging member was sent old events."""
    one, other, paused = pair
    other.revision()
    paused.suspend()
    with other.watch() as watch:
        for _ in range(10):
            told = one.put(prefix + b"k", b"told").header.revision
        watch.ask(prefix + b"k", start_revision=told + 1, progress_notify=True)
        watch.ask_progress()
        paused.resume()
        after = one.put(prefix + b"k", b"after").header.revision
        revisions = []
        while after not in revisions:
            answer = watch.receive()
            revisions += [event.kv.mod_revision for event in answer.events]
            assert answer.created or answer.header.revision >= told

    assert revisions == [after]


def test_17247_a_transaction_decided_again_is_told_once(client: Client, prefix: bytes) -> None:
    """etcd-io/etcd#17247: state cached while a transaction was evaluated made its event come twice."""
    counter, log = prefix + b"counter", prefix + b"log/"
    client.put(counter, b"0")
    address = client.address

    def count(number: int) -> int:
        succeeded = 0
        with Client(address) as own:
            for turn in range(10):
                found = own.get(counter)
                succeeded += own.txn(
                    [
                        txn_ops.modified(counter, "=", found.mod_revision),
                        txn_ops.version(prefix + b"no", "=", 0),
                    ],
                    [
                        txn_ops.put(counter, b"%d" % (int(found.value) + 1)),
                        txn_ops.put(log + b"%d/%d" % (number, turn)),
                    ],
                    [txn_ops.get(counter), txn_ops.nested([], [txn_ops.get(log, prefix_end(log))])],
                ).succeeded
        return succeeded

    with client.watch() as watch:
        watch.create(prefix, prefix_end(prefix))
        with ThreadPoolExecutor(6) as pool:
            succeeded = sum(pool.map(count, range(6)))
        client.put(prefix + b"last")
        events = until(watch, prefix + b"last")

    assert int(client.get(counter).value) == succeeded
    assert [event.kv.value for event in events if event.kv.key == counter] == [
        b"%d" % (number + 1) for number in range(succeeded)
    ]
    assert len({event.kv.key for event in events}) == succeeded + 1
    assert len(events) == 2 * succeeded


def test_17529_a_stream_of_many_watches_that_starves_loses_nothing(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    """etcd-io/etcd#17529: watches of a stream whose client could not keep up skipped events."""
    start = client.revision() + 1
    ids = [watch.create(prefix, prefix_end(prefix)).watch_id for _ in range(4)]
    watch.pause()
    written = [client.put(prefix + b"%d" % (n % 3), b"x" * 8000).header.revision for n in range(150)]
    for _ in range(2):  # and some that are created while it starves
        watch.ask(prefix, prefix_end(prefix), start_revision=start)
    watch.resume()
    told: dict[int, list[int]] = {}
    while len(told) < 6 or not all(len(revisions) >= 150 for revisions in told.values()):
        answer = watch.receive()
        assert not answer.canceled
        told.setdefault(answer.watch_id, []).extend(event.kv.mod_revision for event in answer.events)

    assert set(ids) < set(told)
    assert all(revisions == written for revisions in told.values())


def test_18089_a_compaction_at_a_delete_is_no_silence_for_a_watch_behind(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    """etcd-io/etcd#18089: a slow watch missed a deletion at the revision compacted to."""
    start = client.revision() + 1
    watch.create(prefix, prefix_end(prefix))
    watch.pause()
    for _ in range(100):
        client.put(prefix + b"k", b"x" * 16000)
    deleted = client.delete(prefix + b"k").header.revision
    last = client.put(prefix + b"other").header.revision
    client.compact(deleted)
    watch.resume()
    revisions: list[int] = []
    cancelled = 0
    while not cancelled and last not in revisions:
        answer = watch.receive()
        revisions += [event.kv.mod_revision for event in answer.events]
        cancelled = answer.compact_revision

    assert revisions == list(range(start, start + len(revisions)))
    assert cancelled == deleted if cancelled else revisions[-1] == last


def test_18667_a_txn_that_reads_what_is_compacted_writes_nothing(client: Client, prefix: bytes) -> None:
    """etcd-io/etcd#18667: it failed at the read with its puts half done, differently on each member."""
    old = client.put(prefix + b"k", b"old").header.revision
    compacted = client.put(prefix + b"k", b"new").header.revision
    client.compact(compacted)
    with client.watch() as watch:
        watch.create(prefix, prefix_end(prefix))
        for read in (
            txn_ops.get(prefix + b"k", revision=old),
            txn_ops.get(prefix, prefix_end(prefix), revision=old),
        ):
            branch = [txn_ops.put(prefix + b"half"), read, txn_ops.put(prefix + b"whole")]
            for compare in ("=", ">"):
                with pytest.raises(grpc.RpcError) as refused:
                    client.txn([txn_ops.version(prefix, compare, 0)], branch, branch)
                assert refused.value.details() == "etcdserver: mvcc: required revision has been compacted"
        assert client.revision() == compacted
        after = client.put(prefix + b"after").header.revision
        assert watch.events(1)[0].kv.mod_revision == after


def test_20221_a_watch_on_a_future_revision_hears_nothing_before_it(
    client: Client, watch: WatchStream, prefix: bytes, needs: Needs
) -> None:
    """etcd-io/etcd#20221: it was sent older events, and progress up to revisions that it had not reached."""
    needs("progress_in_step")
    current = client.put(prefix + b"k").header.revision
    watch.create(prefix + b"k", start_revision=current + 4, progress_notify=True)
    written = []
    for _ in range(8):
        watch.ask_progress()
        written.append(client.put(prefix + b"k").header.revision)
    expected = [revision for revision in written if revision >= current + 4]
    revisions: list[int] = []
    while len(revisions) < len(expected):
        answer = watch.receive()
        revisions += [event.kv.mod_revision for event in answer.events]
        assert answer.header.revision >= current + 3, "what it waits for is not there yet"

    assert revisions == expected


def test_20418_a_paused_instance_answers_no_read_from_before_its_pause(pair: Pair, prefix: bytes) -> None:
    """etcd-io/etcd#20418: a resumed member confirmed itself as leader, and served stale reads."""
    one, other, paused = pair
    keys = [prefix + b"%d" % number for number in range(20)]
    for key in keys:
        one.put(key, b"old")
        assert other.get(key).value == b"old"
    with ThreadPoolExecutor(21) as pool:
        paused.suspend()
        for key in keys:
            last = one.put(key, b"new").header.revision
        reads = [pool.submit(other.get, key) for key in keys]
        listed = pool.submit(other.range, prefix, prefix_end(prefix))
        paused.resume()

        assert {read.result().value for read in reads} == {b"new"}
        assert {found.value for found in listed.result().kvs} == {b"new"}
        assert listed.result().header.revision >= last


# ---- killed within a compaction


@pytest.fixture
def crash(backend: Backend, own_server: StartOwn, needs: Needs) -> tuple[Instance, int, int]:
    """An instance killed while it compacted to a deletion, and restarted; that revision, and the last."""
    needs("keeps_tombstone_at_compact_revision")
    if backend.transport == "grpcio" or not backend.capabilities.survives_kill:
        pytest.skip("one transport is enough" if backend.transport == "grpcio" else "not after SIGKILL")
    instance = own_server(durable=True)
    with Client(instance.address) as client:
        for turn in range(6):
            client.txn(success=[txn_ops.put(b"/crash/%d" % number, b"%d" % turn) for number in range(120)])
        for number in range(10):
            client.delete(b"/crash/%d" % number)
        client.put(b"/crash/deleted")
        deleted = client.delete(b"/crash/deleted").header.revision
        last = client.delete(b"/crash/119").header.revision
        compacting = threading.Thread(target=compact, args=(instance.address, deleted))
        compacting.start()
        while reachable(client, deleted // 3):
            pass
        instance.kill()
        compacting.join()
    return own_server(durable=True), deleted, last


def compact(address: str, revision: int) -> None:
    with Client(address) as client, contextlib.suppress(grpc.RpcError):  # it is killed
        client.compact(revision)


def reachable(client: Client, revision: int) -> bool:
    try:
        client.range(b"/crash/0", revision=revision, serializable=True)
    except grpc.RpcError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.quick_on("sqlite", "postgres")
def test_17780_19179_a_crash_within_a_compaction(crash: tuple[Instance, int, int]) -> None:
    """etcd-io/etcd#17780: the newest revision, a deletion, was compacted, and reused after a crash.

    etcd-io/etcd#19179: a watch from the very revision of a compaction, resumed after a crash within it,
    missed the deletion there. #13766, #14685: the stored revision was wrong. k3s-io/kine#311: a start failed
    when all live keys were older than the compact revision.
    """
    instance, deleted, last = crash
    with Client(instance.address) as client, client.watch() as watch:
        assert client.revision() == last
        answer = client.range(b"/crash/", prefix_end(b"/crash/"))
        assert sorted(item.key for item in answer.kvs) == sorted(b"/crash/%d" % n for n in range(10, 119))
        assert {item.value for item in answer.kvs} == {b"5"}
        assert {item.version for item in answer.kvs} == {6}
        watch.create(b"/crash/", prefix_end(b"/crash/"), start_revision=deleted)
        events = watch.events(2)
        assert [(event.type, event.kv.key, event.kv.mod_revision) for event in events] == [
            (DELETE, b"/crash/deleted", deleted),
            (DELETE, b"/crash/119", last),
        ]
        client.compact(last)
        assert client.put(b"/crash/deleted").header.revision == last + 1
        assert client.get(b"/crash/deleted").version == 1


def until(watch: WatchStream, key: bytes) -> list[kv.Event]:
    events: list[kv.Event] = []
    while not events or events[-1].kv.key != key:
        events.extend(watch.receive().events)
    return events[:-1]
