"""One event for very many watchers: delivered in several turns of the event loop, over all clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.client import prefix_end
from tests.hostile.harness import await_that

if TYPE_CHECKING:
    from tests.hostile.harness import Target

KEY = b"/m/key"
WATCHES = 1_500
WRITES = 4
ALLOWANCE = 500  # watchers notified in a turn, and as many in the turn of a commit


def overlapping(number: int) -> tuple[bytes, bytes]:
    return b"/a/%06d" % number, b"/z/%06d" % number


def the_same(number: int) -> tuple[bytes, bytes]:
    return b"/m/", prefix_end(b"/m/")


@pytest.mark.parametrize("ranges", [overlapping, the_same])
def test_event_that_thousands_of_watches_match(
    target: Target, ranges: Callable[[int], tuple[bytes, bytes]]
) -> None:
    client = target.client()
    many, one = target.client().watch(), client.watch()
    one.create(KEY)
    with target.probed() as probe:
        for number in range(WATCHES):
            many.ask(*ranges(number))
        await_that(lambda: target.metric("kine_watchers") == WATCHES + 1)
        for _ in range(WATCHES):
            assert many.receive().created
        revisions = [client.put(KEY, b"v").header.revision for _ in range(WRITES)]
        assert [event.kv.mod_revision for event in one.events(WRITES)] == revisions
        told = many.events_by_watch(WATCHES * WRITES)
        probe.answers(10)
    assert len(told) == WATCHES
    assert all([event.kv.mod_revision for event in events] == revisions for events in told.values())
    assert target.watchers_per_turn <= 2 * ALLOWANCE


def test_prefixes_of_hundreds_of_lengths(target: Target) -> None:
    """Only a few prefix lengths of a key are looked up; all other watchers are checked one by one."""
    client = target.client()
    watch = client.watch()
    key = KEY + b"x" * 300
    for length in range(1, len(key) + 1):
        watch.create(key[:length], prefix_end(key[:length]))
    revisions = [client.put(key, b"v").header.revision for _ in range(WRITES)]
    told = watch.events_by_watch(len(key) * WRITES)
    assert len(told) == len(key)
    assert all([event.kv.mod_revision for event in events] == revisions for events in told.values())


def test_stream_of_thousands_of_watches_that_ends(target: Target) -> None:
    with target.probed() as probe:
        watch = target.client().watch()
        for number in range(WATCHES):
            watch.ask(*overlapping(number))
        await_that(lambda: target.metric("kine_watchers") == WATCHES)
        watch.close()
        await_that(lambda: target.metric("kine_watchers") == 0)
        probe.answers(10)
    assert target.metric("hostile_watchers_removed_per_turn") <= ALLOWANCE
