"""Another writer on the same table that takes no writer lock: Go kine, with two instances of kine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.client import Client, prefix_end
from tests.drivers.driver_databases import GoWriter, Place, lock_timeout
from tests.faults.run_databases import start_together

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

PREFIX = b"/registry/foreign/"
END = prefix_end(PREFIX)
BOUND = 2  # seconds a held revision is waited for


@pytest.fixture
def pair(place: Place, tmp_path: Path) -> Iterator[list[Instance]]:
    started = start_together(place.endpoint(lock_timeout(place, BOUND)), tmp_path, 2)
    yield started
    for instance in started:
        instance.kill()


@pytest.fixture
def go(place: Place, pair: list[Instance]) -> Iterator[GoWriter]:
    writer = place.go()
    yield writer
    writer.close()


@pytest.mark.slow
def test_a_held_revision_that_is_rolled_back_loses_nothing(pair: list[Instance], go: GoWriter) -> None:
    with Client(pair[0].address) as one, Client(pair[1].address) as two, two.watch() as watch:
        watch.create(PREFIX, END, start_revision=one.revision() + 1)
        go.begin()
        go.create("/registry/foreign/held")
        revisions = [one.put(PREFIX + b"%d" % number).header.revision for number in range(5)]
        events = watch.events(5)
        go.rollback()
        after = two.put(PREFIX + b"after").header.revision

        assert [event.kv.mod_revision for event in events] == revisions
        assert watch.events(1)[0].kv.mod_revision == after
        assert one.get(PREFIX + b"held") is None


@pytest.mark.slow
def test_keys_named_as_gap_rows_are_seen_and_hold_nothing_up(pair: list[Instance], go: GoWriter) -> None:
    """The row that fills a missing revision is `gap-<revision>`: a client may use the name as a key."""
    with Client(pair[0].address) as one, Client(pair[1].address) as two, two.watch() as watch:
        missing = one.revision() + 5
        watch.create(b"gap-", b"gap.", start_revision=one.revision() + 1)
        one.put(b"gap-1", b"kept")
        one.put(b"gap-%d" % missing, b"kept too")
        one.delete(b"gap-1")
        one.put(b"gap-1", b"again")
        go.begin()
        go.create("/registry/foreign/lost")
        go.rollback()
        after = one.put(b"gap-after").header.revision
        events = watch.events(5)

        assert after == missing + 1
        assert events[-1].kv.mod_revision == after
        assert [kv.value for kv in two.range(b"gap-", b"gap.").kvs] == [b"again", b"kept too", b""]


@pytest.mark.slow
def test_a_held_revision_that_is_committed_late_is_seen_once(pair: list[Instance], go: GoWriter) -> None:
    with Client(pair[0].address) as one, Client(pair[1].address) as two, two.watch() as watch:
        watch.create(PREFIX, END, start_revision=one.revision() + 1)
        go.begin()
        go.create("/registry/foreign/held", b"late")
        one.put(PREFIX + b"other")
        assert watch.events(1)[0].kv.key == PREFIX + b"other"
        go.commit()
        [event] = watch.events(1)
        last = one.put(PREFIX + b"last").header.revision

        assert (event.kv.key, event.kv.value) == (PREFIX + b"held", b"late")
        assert [one.kv.mod_revision for one in watch.events(1)] == [last]
        assert one.get(PREFIX + b"held") == two.get(PREFIX + b"held") == event.kv


@pytest.mark.slow
def test_rows_of_go_kine_interleave_with_ours(pair: list[Instance], go: GoWriter) -> None:
    written: list[int] = []

    def ours() -> None:
        with Client(pair[0].address) as client:
            written.extend(client.put(PREFIX + b"ours/%d" % n).header.revision for n in range(100))

    with Client(pair[1].address) as two, two.watch() as watch:
        watch.create(PREFIX, END, start_revision=two.revision() + 1)
        thread = threading.Thread(target=ours)
        thread.start()
        theirs = [go.create(f"/registry/foreign/go/{number}") for number in range(100)]
        thread.join(60)
        events = watch.events(200)

        assert [event.kv.mod_revision for event in events] == sorted(written + theirs)
        assert two.range(PREFIX, END, count_only=True).count == 200
