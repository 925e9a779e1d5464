"""Watch progress notifications: on request and periodic, and what they guarantee."""

from __future__ import annotations

import queue

import pytest

from tests.client import Client, WatchStream, prefix_end


def test_progress_request_is_answered_for_the_whole_stream(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    revision = client.put(prefix + b"k", b"v").header.revision
    watch.create(prefix + b"a")
    watch.create(prefix + b"b")

    watch.ask_progress()

    answer = watch.receive()
    assert (answer.watch_id, len(answer.events), answer.created, answer.canceled) == (-1, 0, False, False)
    assert answer.header.revision >= revision


def test_progress_moves_with_writes_elsewhere(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    revision = client.put(prefix + b"other", b"v").header.revision

    answer = progress_at(watch, revision)

    assert answer.header.revision == revision


def test_progress_never_goes_back(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")
    seen = []
    for _ in range(20):
        client.put(prefix + b"other", b"v")
        watch.ask_progress()
        seen.append(watch.receive().header.revision)

    assert seen == sorted(seen)


def test_progress_comes_after_the_events_it_covers(
    client: Client, watch: WatchStream, prefix: bytes, needs
) -> None:
    needs("progress_in_step")
    watch.create(prefix, prefix_end(prefix))

    last_event, progress = 0, []
    for number in range(200):
        written = client.put(prefix + b"%d" % number, b"v").header.revision
        watch.ask_progress()
        while last_event < written:
            answer = watch.receive()
            if answer.events:
                assert last_event < answer.events[0].kv.mod_revision
                assert all(revision < answer.events[0].kv.mod_revision for revision in progress)
                last_event = answer.events[-1].kv.mod_revision
            else:
                progress.append(answer.header.revision)


def test_progress_waits_for_a_replay(client: Client, watch: WatchStream, prefix: bytes, needs) -> None:
    needs("progress_in_step")
    start = client.revision() + 1
    for _ in range(400):
        last = client.put(prefix + b"k", b"x" * 1000).header.revision
    watch.create(prefix + b"k", start_revision=start)

    watch.ask_progress()
    seen = 0
    while seen < 400:
        answer = watch.receive()
        seen += len(answer.events)
        assert answer.events or answer.header.revision < last


def test_progress_request_without_watches_does_no_harm(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.ask_progress()
    watch.ask(prefix + b"k")

    answer = watch.receive()
    while not answer.created:
        assert answer.watch_id == -1
        answer = watch.receive()


def test_frequent_progress_requests_as_caches_send_them(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix, prefix_end(prefix))
    for number in range(100):
        client.put(prefix + b"%d" % number, b"v")
        watch.ask_progress()

    assert len(watch.events(100)) == 100


def test_progress_notify_comes_by_itself_with_the_watch_id(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    revision = client.put(prefix + b"other", b"v").header.revision
    watch_id = watch.create(prefix + b"k", progress_notify=True).watch_id

    answer = watch.receive()  # the suite's servers notify every second

    assert (answer.watch_id, len(answer.events)) == (watch_id, 0)
    assert answer.header.revision >= revision


def test_progress_notify_repeats_and_tells_the_current_revision(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix + b"k", progress_notify=True)
    watch.receive()
    revision = client.put(prefix + b"other", b"v").header.revision

    answer = watch.receive()
    while answer.header.revision < revision:  # sent before the write
        answer = watch.receive()
    assert answer.header.revision == revision


def test_without_progress_notify_an_idle_watch_is_silent(watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k")

    with pytest.raises(queue.Empty):
        watch.receive(timeout=1.5)


def test_progress_notify_does_not_replace_events(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix + b"k", progress_notify=True)
    watch.receive()
    client.put(prefix + b"k", b"v")

    assert len(watch.events(1)) == 1


def progress_at(watch: WatchStream, revision: int):
    """Requests progress until a response has reached `revision`: a server may lag with what it has sent."""
    while True:
        watch.ask_progress()
        answer = watch.receive()
        if answer.header.revision >= revision:
            return answer
