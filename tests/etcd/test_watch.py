"""Watch: which events are sent, from which revision, in which order."""

from __future__ import annotations

import queue

import pytest

from kine.proto import rpc_pb2 as pb
from tests import txn_ops
from tests.client import DELETE, EVERY_KEY, PUT, Client, WatchStream, prefix_end

NOPUT = pb.WatchCreateRequest.NOPUT
NODELETE = pb.WatchCreateRequest.NODELETE


# ---- created


def test_created_answer_comes_first(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"k", b"v").header.revision

    watch.ask(prefix + b"k", start_revision=start)

    first, second = watch.receive(), watch.receive()
    assert (first.created, first.canceled, len(first.events)) == (True, False, 0)
    assert (second.created, len(second.events)) == (False, 1)
    assert first.watch_id == second.watch_id


def test_created_answer_carries_the_current_revision(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision

    assert watch.create(prefix + b"k").header.revision == revision


def test_watch_of_absent_keys_is_created(watch: WatchStream, prefix: bytes) -> None:
    assert watch.create(prefix, prefix_end(prefix)).created


def test_everything_after_the_created_answer_is_seen(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    for number in range(50):
        key = prefix + b"%d" % number
        created = watch.create(key)

        client.put(key, b"v")

        answer = watch.receive()
        assert (answer.watch_id, answer.events[0].kv.key) == (created.watch_id, key)


# ---- events


def test_put_event_carries_the_whole_kv(client: Client, watch: WatchStream, prefix: bytes) -> None:
    lease = client.grant(60).ID
    watch.create(prefix + b"k")
    client.put(prefix + b"k", b"one")
    client.put(prefix + b"k", b"two", lease=lease)

    events = watch.events(2)

    assert [event.type for event in events] == [PUT, PUT]
    assert events[1].kv == client.get(prefix + b"k")
    client.revoke(lease)


def test_delete_event_carries_key_and_revision_only(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    client.put(prefix + b"k", b"v")
    watch.create(prefix + b"k")
    revision = client.delete(prefix + b"k").header.revision

    (event,) = watch.events(1)

    assert (event.type, event.kv.key, event.kv.mod_revision) == (DELETE, prefix + b"k", revision)
    assert (event.kv.create_revision, event.kv.version, event.kv.value) == (0, 0, b"")


def test_header_of_events_is_at_least_their_revision(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix + b"k")
    revision = client.put(prefix + b"k", b"v").header.revision

    assert watch.receive().header.revision >= revision


def test_delete_of_an_absent_key_is_no_event(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"v")

    assert watch.events(1)[0].type == PUT


def test_failed_update_is_no_event(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    client.txn([txn_ops.modified(prefix + b"k", "=", 5)], [txn_ops.put(prefix + b"k", b"lost")])
    client.put(prefix + b"k", b"kept")

    assert watch.events(1)[0].kv.value == b"kept"


def test_events_come_in_order_of_revision(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix))
    written = [
        client.put(prefix + b"%d" % (number % 7), b"%d" % number).header.revision for number in range(100)
    ]

    assert [event.kv.mod_revision for event in watch.events(100)] == written


def test_recreated_key_shows_put_delete_put(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    client.put(prefix + b"k", b"one")
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"two")

    events = watch.events(3)

    assert [event.type for event in events] == [PUT, DELETE, PUT]
    assert [event.kv.version for event in events] == [1, 0, 1]


def test_writes_of_a_txn_are_all_seen_in_order(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"gone", b"v")
    watch.create(prefix, prefix_end(prefix))
    client.txn(
        success=[
            txn_ops.put(prefix + b"b", b"1"),
            txn_ops.delete(prefix + b"gone"),
            txn_ops.put(prefix + b"a", b"2"),
        ]
    )

    events = watch.events(3)

    assert [(event.type, event.kv.key) for event in events] == [
        (PUT, prefix + b"b"),
        (DELETE, prefix + b"gone"),
        (PUT, prefix + b"a"),
    ]


def test_writes_of_a_txn_come_in_one_answer(client: Client, watch: WatchStream, prefix: bytes, needs) -> None:
    needs("one_revision_per_txn")
    watch.create(prefix, prefix_end(prefix))
    client.txn(success=[txn_ops.put(prefix + b"%d" % number, b"v") for number in range(20)])

    assert len(watch.receive().events) == 20


def test_deleted_range_is_an_event_a_key(
    client: Client, watch: WatchStream, prefix: bytes, five: list[bytes]
) -> None:
    watch.create(prefix, prefix_end(prefix))
    client.delete(prefix, prefix_end(prefix))

    events = watch.events(5)

    assert [(event.type, event.kv.key) for event in events] == [(DELETE, key) for key in five]


# ---- which keys


def test_watch_of_one_key_sees_no_other(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    client.put(prefix + b"k2", b"longer")
    client.put(prefix, b"shorter")
    client.put(prefix + b"k", b"v")

    assert watch.events(1)[0].kv.key == prefix + b"k"


def test_watch_of_a_prefix_sees_all_under_it(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix))
    client.put(prefix[:-1], b"outside")
    client.put(prefix + b"a", b"v")
    client.put(prefix + b"a/b", b"v")
    client.put(prefix[:-1] + b"0", b"outside")
    client.put(prefix + b"\x7f", b"v")

    assert [event.kv.key for event in watch.events(3)] == [prefix + b"a", prefix + b"a/b", prefix + b"\x7f"]


def test_range_end_of_a_watch_is_exclusive(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"b", prefix + b"d")
    for key in (b"a", b"b", b"c", b"d", b"c"):
        client.put(prefix + key, b"v")

    assert [event.kv.key for event in watch.events(3)] == [prefix + b"b", prefix + b"c", prefix + b"c"]


def test_watch_from_a_key_on_has_no_upper_bound(client: Client, watch: WatchStream) -> None:
    watch.create(b"\x7e\x7ewatch/b", EVERY_KEY)
    client.put(b"\x7e\x7ewatch/a", b"below")
    client.put(b"\x7e\x7ewatch/b", b"v")
    client.put(b"\x7e\x7ewatch/c", b"v")

    assert [event.kv.key for event in watch.events(2)] == [b"\x7e\x7ewatch/b", b"\x7e\x7ewatch/c"]


def test_empty_key_with_an_open_end_watches_everything(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(b"", EVERY_KEY)
    client.put(b"!" + prefix, b"v")
    client.put(prefix, b"v")

    assert [event.kv.key for event in watch.events(2)] == [b"!" + prefix, prefix]


# ---- start revision


def test_start_in_the_past_replays_history(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"before")
    start = client.put(prefix + b"k", b"one").header.revision
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"two")

    watch.create(prefix + b"k", start_revision=start)

    events = watch.events(3)
    assert [(event.type, event.kv.value) for event in events] == [
        (PUT, b"one"),
        (DELETE, b""),
        (PUT, b"two"),
    ]


def test_start_revision_is_inclusive(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"k", b"v").header.revision

    watch.create(prefix + b"k", start_revision=start)

    assert watch.events(1)[0].kv.mod_revision == start


def test_replayed_history_joins_the_present_without_a_gap(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    start = client.put(prefix + b"k", b"0").header.revision
    watch.ask(prefix + b"k", start_revision=start)
    for number in range(1, 200):
        client.put(prefix + b"k", b"%d" % number)

    assert watch.receive().created
    assert [event.kv.value for event in watch.events(200)] == [b"%d" % number for number in range(200)]


def test_start_now_sees_only_what_comes(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"before")
    watch.create(prefix + b"k")
    client.put(prefix + b"k", b"after")

    assert [event.kv.value for event in watch.events(1)] == [b"after"]


def test_start_just_after_the_current_revision(client: Client, watch: WatchStream, prefix: bytes) -> None:
    current = client.put(prefix + b"k", b"before").header.revision
    watch.create(prefix + b"k", start_revision=current + 1)
    client.put(prefix + b"k", b"after")

    assert [event.kv.value for event in watch.events(1)] == [b"after"]


def test_start_in_the_future_skips_what_comes_before(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    current = client.put(prefix + b"k", b"0").header.revision
    watch.create(prefix + b"k", start_revision=current + 4)
    written = [client.put(prefix + b"k", b"%d" % number).header.revision for number in range(1, 8)]

    expected = [revision for revision in written if revision >= current + 4]
    assert [event.kv.mod_revision for event in watch.events(len(expected))] == expected


def test_start_in_the_past_of_a_key_that_is_gone(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"k", b"v").header.revision
    client.delete(prefix + b"k")

    watch.create(prefix + b"k", start_revision=start)

    assert [event.type for event in watch.events(2)] == [PUT, DELETE]


def test_history_of_other_keys_is_not_replayed(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"other", b"v").header.revision
    client.put(prefix + b"k", b"v")

    watch.create(prefix + b"k", start_revision=start)

    assert watch.events(1)[0].kv.key == prefix + b"k"


def test_negative_start_revision_is_refused_as_compacted(watch: WatchStream, prefix: bytes, needs) -> None:
    needs("refuses_negative_start_revision")

    watch.ask(prefix, start_revision=-1)

    answer = watch.receive()
    assert (answer.watch_id, answer.created, answer.canceled) == (-1, True, True)
    assert answer.cancel_reason == "etcdserver: mvcc: required revision has been compacted"


@pytest.mark.parametrize("end", [b"a", b"b"])
def test_watch_of_an_empty_range_is_refused(watch: WatchStream, prefix: bytes, end: bytes) -> None:
    answer = watch.create(prefix + b"b", prefix + end)

    assert (answer.watch_id, answer.created, answer.canceled) == (-1, True, True)
    assert answer.cancel_reason == "mvcc: watcher range is empty"


# ---- filters


def test_noput_leaves_puts_out(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix), filters=[NOPUT])
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")

    assert [event.type for event in watch.events(2)] == [DELETE, DELETE]


def test_nodelete_leaves_deletes_out(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix), filters=[NODELETE])
    client.put(prefix + b"k", b"one")
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"two")

    assert [event.kv.value for event in watch.events(2)] == [b"one", b"two"]


def test_filters_apply_to_history(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"k", b"one").header.revision
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"two")

    watch.create(prefix + b"k", start_revision=start, filters=[NOPUT])

    assert [event.type for event in watch.events(1)] == [DELETE]


def test_both_filters_leave_nothing(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", filters=[NOPUT, NODELETE])
    client.put(prefix + b"k", b"v")
    client.delete(prefix + b"k")

    with pytest.raises(queue.Empty):
        watch.receive(timeout=0.3)


# ---- prev_kv


def test_prev_kv_of_a_change_is_the_replaced_kv(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    before = client.get(prefix + b"k")
    watch.create(prefix + b"k", prev_kv=True)
    client.put(prefix + b"k", b"two")

    assert watch.events(1)[0].prev_kv == before


def test_prev_kv_of_a_delete_is_the_deleted_kv(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    before = client.get(prefix + b"k")
    watch.create(prefix + b"k", prev_kv=True)
    client.delete(prefix + b"k")

    assert watch.events(1)[0].prev_kv == before


def test_prev_kv_of_a_creation_is_absent(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"first life")
    client.delete(prefix + b"k")
    watch.create(prefix + b"k", prev_kv=True)
    client.put(prefix + b"k", b"second life")

    assert not watch.events(1)[0].HasField("prev_kv")


def test_prev_kv_is_absent_unless_asked_for(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    watch.create(prefix + b"k")
    client.put(prefix + b"k", b"two")

    assert not watch.events(1)[0].HasField("prev_kv")


def test_prev_kv_in_history(client: Client, watch: WatchStream, prefix: bytes) -> None:
    client.put(prefix + b"k", b"one")
    start = client.put(prefix + b"k", b"two").header.revision
    client.delete(prefix + b"k")

    watch.create(prefix + b"k", start_revision=start, prev_kv=True)

    assert [event.prev_kv.value for event in watch.events(2)] == [b"one", b"two"]


def test_prev_kv_with_filters(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", prev_kv=True, filters=[NOPUT])
    client.put(prefix + b"k", b"one")
    client.put(prefix + b"k", b"two")
    client.delete(prefix + b"k")

    assert [event.prev_kv.value for event in watch.events(1)] == [b"two"]
