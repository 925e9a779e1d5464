"""Compact: which revisions stay readable, and which requests are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client, WatchStream, prefix_end, refused

if TYPE_CHECKING:
    from tests.conftest import Needs

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def test_compact_answers_with_the_current_revision(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    revision = client.put(prefix + b"k", b"v").header.revision

    assert client.compact(revision - 1).header.revision == revision


def test_compact_takes_no_revision(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    client.compact(revision)

    assert client.revision() == revision


def test_live_keys_stay_as_they_are(client: Client, prefix: bytes, five: list[bytes]) -> None:
    client.put(five[0], b"changed")
    before = client.range(prefix, prefix_end(prefix))

    client.compact(before.header.revision, physical=True)

    assert client.range(prefix, prefix_end(prefix)) == before


def test_the_compact_revision_itself_stays_readable(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    middle = client.put(prefix + b"k", b"two").header.revision
    client.put(prefix + b"k", b"three")

    client.compact(middle, physical=True)

    assert client.get(prefix + b"k", revision=middle).value == b"two"


def test_revisions_after_it_stay_readable(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    compact = client.put(prefix + b"k", b"two").header.revision
    later = client.put(prefix + b"k", b"three").header.revision
    client.put(prefix + b"k", b"four")

    client.compact(compact, physical=True)

    assert client.get(prefix + b"k", revision=later).value == b"three"


def test_revision_before_it_is_refused(client: Client, prefix: bytes) -> None:
    old = client.put(prefix + b"k", b"one").header.revision
    client.compact(client.put(prefix + b"k", b"two").header.revision, physical=True)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.range(prefix, prefix_end(prefix), revision=old)


def test_unchanged_key_is_refused_at_a_compacted_revision_too(client: Client, prefix: bytes) -> None:
    old = client.put(prefix + b"k", b"v").header.revision
    client.compact(client.put(prefix + b"other", b"v").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.range(prefix + b"k", revision=old)


def test_key_deleted_before_it_is_gone(client: Client, prefix: bytes) -> None:
    client.put(prefix + b"k", b"v")
    revision = client.delete(prefix + b"k").header.revision

    client.compact(revision, physical=True)

    assert client.range(prefix + b"k").count == 0
    assert client.put(prefix + b"k", b"again", prev_kv=True).HasField("prev_kv") is False


def test_key_deleted_after_it_is_readable_at_it(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision
    client.delete(prefix + b"k")

    client.compact(revision, physical=True)

    assert client.range(prefix + b"k", revision=revision).count == 1
    assert client.range(prefix + b"k").count == 0


def test_future_revision_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE):
        client.compact(client.revision() + 1)


def test_compacting_again_at_the_same_revision_is_refused(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision
    client.compact(revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.compact(revision)


def test_compacting_further_back_is_refused(client: Client, prefix: bytes) -> None:
    earlier = client.put(prefix + b"k", b"v").header.revision
    client.compact(client.put(prefix + b"k", b"v").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        client.compact(earlier)


def test_refused_compaction_compacts_nothing(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"k", b"one").header.revision
    client.put(prefix + b"k", b"two")

    with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE):
        client.compact(client.revision() + 100)

    assert client.get(prefix + b"k", revision=revision).value == b"one"


@pytest.mark.quick_on("sqlite-http2", "postgres", "mysql")
def test_compaction_of_a_long_history(client: Client, prefix: bytes) -> None:
    for number in range(2000):
        revision = client.put(prefix + b"%d" % (number % 10), b"%d" % number).header.revision

    client.compact(revision, physical=True)

    kvs = client.range(prefix, prefix_end(prefix)).kvs
    assert [kv.value for kv in kvs] == [b"%d" % number for number in range(1990, 2000)]
    assert {kv.version for kv in kvs} == {200}


# ---- watches


def test_watch_from_before_it_is_cancelled_with_the_compact_revision(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    old = client.put(prefix + b"k", b"one").header.revision
    client.put(prefix + b"k", b"two")
    compact = client.put(prefix + b"k", b"three").header.revision
    client.compact(compact)

    created = watch.create(prefix + b"k", start_revision=old)
    cancelled = watch.receive()

    assert not created.canceled
    assert (cancelled.watch_id, cancelled.canceled) == (created.watch_id, True)
    assert (cancelled.compact_revision, len(cancelled.events)) == (compact, 0)


def test_other_watches_of_the_stream_go_on_after_one_is_cancelled(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    old = client.put(prefix + b"k", b"one").header.revision
    client.compact(client.put(prefix + b"k", b"two").header.revision)
    watch.create(prefix + b"k", start_revision=old)
    assert watch.receive().canceled

    second = watch.create(prefix + b"k")
    client.put(prefix + b"k", b"three")

    answer = watch.receive()
    assert (answer.watch_id, answer.events[0].kv.value) == (second.watch_id, b"three")


def test_a_watch_that_compaction_has_cancelled_leaves_its_id_and_no_trace(
    client: Client, watch: WatchStream, prefix: bytes, needs: Needs
) -> None:
    needs("forgets_cancelled_watches")
    old = client.put(prefix + b"k", b"one").header.revision
    client.compact(client.put(prefix + b"k", b"two").header.revision)
    watch.create(prefix + b"k", watch_id=7, start_revision=old)
    assert watch.receive().canceled

    watch.cancel(7)  # there is no such watch: no response
    again = watch.create(prefix + b"k", watch_id=7)
    assert (again.watch_id, again.created, again.canceled) == (7, True, False)
    revision = client.put(prefix + b"k", b"three").header.revision
    assert [event.kv.mod_revision for event in watch.events(1)] == [revision]
    watch.ask_progress()
    assert watch.receive().header.revision >= revision


def test_watch_from_the_compact_revision_sees_it(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    compact = client.put(prefix + b"k", b"two").header.revision
    client.put(prefix + b"k", b"three")
    client.compact(compact, physical=True)

    watch.create(prefix + b"k", start_revision=compact)

    assert [event.kv.value for event in watch.events(2)] == [b"two", b"three"]


def test_watch_from_the_compact_revision_sees_a_deletion_at_it(
    client: Client, watch: WatchStream, prefix: bytes, needs
) -> None:
    needs("keeps_tombstone_at_compact_revision")
    client.put(prefix + b"k", b"one")
    compact = client.delete(prefix + b"k").header.revision
    client.put(prefix + b"k", b"two")
    client.compact(compact, physical=True)

    watch.create(prefix + b"k", start_revision=compact)

    assert next(event.kv.mod_revision for event in watch.events(2)) == compact


def test_open_watch_is_not_touched(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    client.put(prefix + b"k", b"one")
    client.compact(client.put(prefix + b"k", b"two").header.revision, physical=True)
    client.put(prefix + b"k", b"three")

    assert [event.kv.value for event in watch.events(3)] == [b"one", b"two", b"three"]


def test_prev_kv_of_a_compacted_revision_is_absent(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    compact = client.put(prefix + b"k", b"two").header.revision
    client.compact(compact, physical=True)

    watch.create(prefix + b"k", start_revision=compact, prev_kv=True)

    (event,) = watch.events(1)
    assert event.kv.value == b"two"
    assert not event.HasField("prev_kv")
