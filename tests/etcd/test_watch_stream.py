"""The Watch stream: ids, cancellation, many watches, fragments, slow readers, disconnecting clients."""

from __future__ import annotations

import queue
import threading

import pytest

from kine.proto import rpc_pb2 as pb
from tests import txn_ops
from tests.client import Client, WatchStream, prefix_end
from tests.conftest import Needs, StartOwn

# ---- ids


def test_server_counts_ids_from_zero_on_each_stream(client: Client, prefix: bytes) -> None:
    with client.watch() as first, client.watch() as second:
        ids = [first.create(prefix).watch_id, first.create(prefix).watch_id, second.create(prefix).watch_id]

    assert ids == [0, 1, 0]


def test_client_may_choose_the_id(client: Client, watch: WatchStream, prefix: bytes) -> None:
    assert watch.create(prefix + b"k", watch_id=77).watch_id == 77
    client.put(prefix + b"k", b"v")

    assert watch.receive().watch_id == 77


def test_server_skips_ids_the_client_chose(watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, watch_id=1)

    assert [watch.create(prefix).watch_id for _ in range(2)] == [0, 2]


def test_duplicate_id_is_refused(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", watch_id=7)

    answer = watch.create(prefix + b"other", watch_id=7)

    assert (answer.watch_id, answer.created, answer.canceled) == (-1, True, True)
    assert answer.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"


def test_duplicate_id_leaves_the_first_watch_alone(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", watch_id=7)
    watch.create(prefix + b"other", watch_id=7)
    client.put(prefix + b"other", b"v")
    client.put(prefix + b"k", b"v")

    answer = watch.receive()
    assert (answer.watch_id, answer.events[0].kv.key) == (7, prefix + b"k")


def test_id_is_free_again_after_cancel(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", watch_id=7)
    watch.cancel(7)
    assert watch.receive().canceled

    assert watch.create(prefix + b"k", watch_id=7).watch_id == 7


# ---- cancel


def test_cancel_is_answered(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch_id = watch.create(prefix + b"k").watch_id
    revision = client.put(prefix + b"other", b"v").header.revision

    watch.cancel(watch_id)

    answer = watch.receive()
    assert (answer.watch_id, answer.canceled, answer.created) == (watch_id, True, False)
    assert (answer.compact_revision, answer.header.revision) == (0, revision)


def test_nothing_comes_after_cancel(client: Client, watch: WatchStream, prefix: bytes) -> None:
    cancelled = watch.create(prefix, prefix_end(prefix)).watch_id
    kept = watch.create(prefix + b"last").watch_id
    watch.cancel(cancelled)
    assert watch.receive().canceled
    client.put(prefix + b"k", b"v")
    client.put(prefix + b"last", b"v")

    assert watch.receive().watch_id == kept


def test_cancel_of_an_unknown_id_is_not_answered(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.cancel(99)

    assert watch.create(prefix + b"k").created


def test_cancelling_twice_is_answered_once(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch_id = watch.create(prefix + b"k").watch_id
    watch.cancel(watch_id)
    watch.cancel(watch_id)
    assert watch.receive().canceled

    assert watch.create(prefix + b"k").created


def test_watch_can_be_cancelled_while_it_replays(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.put(prefix + b"k", b"x" * 1000).header.revision
    for _ in range(300):
        client.put(prefix + b"k", b"x" * 1000)
    watch_id = watch.create(prefix + b"k", start_revision=start).watch_id

    watch.cancel(watch_id)

    answer = watch.receive()
    while not answer.canceled:
        answer = watch.receive()
    assert answer.watch_id == watch_id


# ---- several watches


def test_event_reaches_every_watch_it_concerns(client: Client, watch: WatchStream, prefix: bytes) -> None:
    key = prefix + b"k"
    one = watch.create(key).watch_id
    all_of_them = watch.create(prefix, prefix_end(prefix)).watch_id
    watch.create(prefix + b"other")
    client.put(key, b"v")

    by_watch = watch.events_by_watch(2)

    assert {watch_id: events[0].kv.key for watch_id, events in by_watch.items()} == {
        one: key,
        all_of_them: key,
    }


def test_watches_of_one_stream_each_have_their_options(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    key = prefix + b"k"
    start = client.put(key, b"one").header.revision
    plain = watch.create(key).watch_id
    deletes = watch.create(key, filters=[pb.WatchCreateRequest.NOPUT], prev_kv=True).watch_id
    replay = watch.create(key, start_revision=start).watch_id
    client.put(key, b"two")
    client.delete(key)

    by_watch = watch.events_by_watch(6)

    assert [event.kv.value for event in by_watch[plain]] == [b"two", b""]
    assert [event.prev_kv.value for event in by_watch[deletes]] == [b"two"]
    assert [event.kv.value for event in by_watch[replay]] == [b"one", b"two", b""]


def test_500_watches_on_one_stream_each_see_their_key(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    keys = [prefix + b"%03d" % number for number in range(500)]
    for key in keys:
        watch.ask(key)
    ids = [watch.receive().watch_id for _ in keys]
    for key in keys:
        client.put(key, b"v")

    by_watch = watch.events_by_watch(500)

    assert {watch_id: [event.kv.key for event in events] for watch_id, events in by_watch.items()} == {
        watch_id: [key] for watch_id, key in zip(ids, keys, strict=True)
    }


def test_500_watches_of_one_prefix_see_one_write(client: Client, watch: WatchStream, prefix: bytes) -> None:
    for _ in range(500):
        watch.ask(prefix, prefix_end(prefix))
    ids = {watch.receive().watch_id for _ in range(500)}
    client.put(prefix + b"k", b"v")

    assert set(watch.events_by_watch(500)) == ids


def test_100_streams_all_see_everything(client: Client, prefix: bytes) -> None:
    streams = [client.watch() for _ in range(100)]
    for stream in streams:
        stream.create(prefix, prefix_end(prefix))
    written = [client.put(prefix + b"%d" % number, b"v").header.revision for number in range(20)]

    seen = [[event.kv.mod_revision for event in stream.events(20)] for stream in streams]

    assert seen == [written] * 100
    for stream in streams:
        stream.close()


def test_many_watches_with_different_starts_meet_in_the_present(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    written = [client.put(prefix + b"k", b"%d" % number).header.revision for number in range(50)]
    for revision in written:
        watch.ask(prefix + b"k", start_revision=revision)
    written.append(client.put(prefix + b"k", b"last").header.revision)

    created, seen = 0, {}
    while created < 50 or sum(map(len, seen.values())) < sum(range(2, 52)):
        answer = watch.receive()
        created += answer.created
        seen.setdefault(answer.watch_id, []).extend(event.kv.mod_revision for event in answer.events)

    assert seen == {number: written[number:] for number in range(50)}


# ---- size


def test_big_history_is_replayed_whole(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.revision() + 1
    written = []
    for number in range(0, 5000, 100):
        batch = [txn_ops.put(prefix + b"%04d" % (number + index), b"x" * 200) for index in range(100)]
        client.txn(success=batch)
        written += [op.request_put.key for op in batch]

    watch.create(prefix, prefix_end(prefix), start_revision=start)

    assert [event.kv.key for event in watch.events(5000)] == written


def test_a_watch_that_catches_up_tells_the_present_revision(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    """The header has the current revision; that of its last event is in the event itself."""
    start = client.revision() + 1
    for number in range(10):
        client.put(prefix + b"%d" % number, b"x" * 400_000)
    client.put(prefix + b"~")
    present = client.put(b"beside" + prefix).header.revision

    watch.create(prefix, prefix_end(prefix), start_revision=start)

    seen = 0
    while seen < 11:
        answer = watch.receive()
        seen += len(answer.events)
        assert answer.header.revision >= present


def test_fragments_stay_below_the_message_limit(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.revision() + 1
    for number in range(20):
        client.put(prefix + b"%02d" % number, b"x" * 400_000)

    watch.create(prefix, prefix_end(prefix), start_revision=start, fragment=True)

    answers, keys = [], []
    while len(keys) < 20:
        answers.append(watch.receive())
        keys += [event.kv.key for event in answers[-1].events]
    assert keys == [prefix + b"%02d" % number for number in range(20)]
    assert max(answer.ByteSize() for answer in answers) < 1_572_864 + 512 * 1024
    assert len(answers) > 2
    assert not answers[-1].fragment


def test_fragments_hold_as_many_events_as_fit(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.revision() + 1
    for number in range(20):
        client.put(prefix + b"%02d" % number, b"x" * 200_000)

    watch.create(prefix, prefix_end(prefix), start_revision=start, fragment=True)

    answers = []
    while sum(len(answer.events) for answer in answers) < 20:
        answers.append(watch.receive())
    sizes = [answer.ByteSize() for answer in answers]
    more = [answer.events[0].ByteSize() for answer in answers[1:]]
    limit = 1_572_864 + 512 * 1024  # of a request, and etcd's overhead
    slack = 100  # of the header, whose length varies with its values
    assert max(sizes) < limit
    assert all(size + its > limit - slack for size, its in zip(sizes, more, strict=False)), sizes


@pytest.mark.quick_on("sqlite-http2", "postgres")
@pytest.mark.parametrize("fragment", [False, True])
def test_a_watch_that_catches_up_is_sent_a_thousand_revisions_at_once(
    client: Client, watch: WatchStream, prefix: bytes, fragment: bool
) -> None:
    start = client.revision() + 1
    for number in range(1_100):
        client.put(prefix + b"%d" % (number % 7))

    watch.create(prefix, prefix_end(prefix), start_revision=start, fragment=fragment)

    answers = [watch.receive(), watch.receive()]
    assert [len(answer.events) for answer in answers] == [1_000, 100]
    assert [answer.fragment for answer in answers] == [False, False]


@pytest.mark.quick_on("sqlite-http2", "postgres")
@pytest.mark.parametrize("fragment", [False, True])
def test_a_watch_after_a_start_is_sent_as_much_at_once(
    own_server: StartOwn, prefix: bytes, needs: Needs, fragment: bool
) -> None:
    """After a start no value is in memory."""
    needs("durable")
    server = own_server()
    with Client(server.address) as client:
        start = client.revision() + 1
        for number in range(1_100):
            client.put(prefix + b"%d" % number)
    server.stop()
    with Client(own_server().address) as client, client.watch() as watch:
        watch.create(prefix, prefix_end(prefix), start_revision=start, fragment=fragment)

        assert [len(watch.receive().events) for _ in range(2)] == [1_000, 100]


def test_without_fragment_no_answer_says_fragment(client: Client, watch: WatchStream, prefix: bytes) -> None:
    start = client.revision() + 1
    for number in range(8):
        client.put(prefix + b"%d" % number, b"x" * 400_000)

    watch.create(prefix, prefix_end(prefix), start_revision=start)

    seen = 0
    while seen < 8:
        answer = watch.receive()
        assert not answer.fragment
        seen += len(answer.events)


# ---- readers that lag, stop or leave


def test_slow_reader_catches_up_without_a_gap(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix))
    watch.pause()
    written = [
        client.put(prefix + b"%d" % (number % 10), b"x" * 20_000).header.revision for number in range(800)
    ]

    watch.resume()

    assert [event.kv.mod_revision for event in watch.events(800, timeout=30)] == written


def test_slow_reader_does_not_hold_up_others(client: Client, prefix: bytes) -> None:
    with Client(client.address) as other, client.watch() as slow, other.watch() as quick:
        slow.create(prefix, prefix_end(prefix))
        quick.create(prefix, prefix_end(prefix))
        slow.pause()
        written = [
            client.put(prefix + b"%d" % number, b"x" * 50_000).header.revision for number in range(200)
        ]

        assert [event.kv.mod_revision for event in quick.events(200)] == written


def test_slow_watch_stream_does_not_hold_up_calls_on_its_connection(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix, prefix_end(prefix))
    watch.pause()
    for number in range(200):
        client.put(prefix + b"%d" % number, b"x" * 50_000)

    assert client.range(prefix, prefix_end(prefix), count_only=True).count == 200


def test_half_closed_stream_goes_on_with_its_watches(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix + b"k")
    watch.half_close()
    client.put(prefix + b"k", b"v")

    assert watch.events(1)[0].kv.value == b"v"


def test_stream_without_watches_stays_open(client: Client, watch: WatchStream, prefix: bytes) -> None:
    with pytest.raises(queue.Empty):
        watch.receive(timeout=0.2)

    assert watch.create(prefix + b"k").created


def test_empty_request_is_ignored(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.send(pb.WatchRequest())

    assert watch.create(prefix + b"k").created


def test_client_that_leaves_mid_stream_disturbs_nobody(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix, prefix_end(prefix))
    with Client(client.address) as leaving, leaving.watch() as stream:
        stream.create(prefix, prefix_end(prefix))
    written = [client.put(prefix + b"k", b"v").header.revision for _ in range(10)]

    assert [event.kv.mod_revision for event in watch.events(10)] == written


def test_concurrent_writers_are_seen_once_each_in_order(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix, prefix_end(prefix))
    revisions: list[list[int]] = [[] for _ in range(8)]

    def write(number: int) -> None:
        with Client(client.address) as own:
            for _ in range(100):
                revisions[number].append(own.put(prefix + b"%d" % number, b"v").header.revision)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    seen = [event.kv.mod_revision for event in watch.events(800)]
    for writer in writers:
        writer.join()

    assert seen == sorted(revision for own in revisions for revision in own)
    assert len(set(seen)) == 800
