"""Regression tests for Go kine's known bugs, named by their issue in k3s-io/kine unless stated otherwise.

Those that other tests cover are listed, with these, in docs/reliability.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest

from tests.client import Client, WatchStream, prefix_end
from tests.databases.proxy_process import ProxyProcess
from tests.drivers.driver_databases import GoWriter, Place, lock_timeout
from tests.faults.run_databases import KINDS, missing, new_place
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from tests.servers.process import Instance

WITHIN = 60.0  # seconds, for what happens without a request


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- on every backend of the suite


def test_408_what_was_deleted_does_not_come_back_with_any_compaction(client: Client, prefix: bytes) -> None:
    """#408: compaction removed a deletion but not the row below it, which became the key's newest."""
    first = client.put(prefix + b"k").header.revision
    for _ in range(3):
        client.put(prefix + b"k")
    client.delete(prefix + b"k")
    client.put(prefix + b"k")
    client.delete(prefix + b"k")
    last = client.put(prefix + b"other").header.revision
    client.put(prefix + b"other")
    for revision in range(first, last + 1):
        client.compact(revision)
        assert client.get(prefix + b"k") is None
        assert [item.key for item in client.range(prefix, prefix_end(prefix)).kvs] == [prefix + b"other"]
    assert client.put(prefix + b"k", prev_kv=True).HasField("prev_kv") is False
    assert client.get(prefix + b"k").version == 1


def test_the_current_revision_does_not_go_back(client: Client, prefix: bytes) -> None:
    """No issue; "Fix Append goroutine preemption causing currentRev rollback".

    A write that was slow to return set the current revision back to its own; reads at revisions that had been
    returned before were then refused as being in the future.
    """

    def write_and_read(number: int) -> list[int]:
        told = []
        with Client(client.address) as own:
            for _ in range(25):
                put = own.put(prefix + b"%d" % number, b"v").header.revision
                got = own.range(prefix + b"%d" % number, revision=put)
                assert got.kvs[0].mod_revision == put
                told += [
                    put,
                    got.header.revision,
                    own.range(prefix, limit=1, serializable=True).header.revision,
                ]
        return told

    with ThreadPoolExecutor(6) as pool:
        for told in pool.map(write_and_read, range(6)):
            assert told == sorted(told)


# ---- on database servers that several instances write to


class Setting(NamedTuple):
    place: Place
    proxy: ProxyProcess
    instance: Instance
    client: Client
    watch: WatchStream
    go: GoWriter

    def compact_revision(self) -> int:
        [(revision,)] = self.go.run("SELECT max(prev_revision) FROM kine WHERE name = 'compact_rev_key'")
        return int(revision or 0)


@pytest.fixture(scope="module", params=KINDS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, ProxyProcess, Instance]]:
    """An instance that compacts periodically, behind a proxy that can cut its connections."""
    if reason := missing(request.param):
        pytest.skip(reason)
    place = new_place(request.param)
    with ProxyProcess(place.server.port) as proxy:  # type: ignore[attr-defined]
        instance = start_kine(
            place.endpoint(lock_timeout(place, 1), port=proxy.port),
            "http2",
            tmp_path_factory.mktemp("history"),
            flags=("--compact-interval=200ms", "--compact-batch-size=100"),
        )
        yield place, proxy, instance
        assert instance.running
        instance.kill()


@pytest.fixture
def setting(running: tuple[Place, ProxyProcess, Instance], prefix: bytes) -> Iterator[Setting]:
    place, proxy, instance = running
    with Client(instance.address) as client, client.watch() as watch, closing(place.go()) as go:
        watch.create(prefix, prefix_end(prefix))
        yield Setting(place, proxy, instance, client, watch, go)


def recovered(client: Client, key: bytes) -> int:
    deadline = time.monotonic() + WITHIN
    while True:
        try:
            return int(client.put(key).header.revision)
        except grpc.RpcError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_489_compaction_goes_on_after_an_outage(setting: Setting, prefix: bytes) -> None:
    """#489, #357, k3s-io/k3s#12898: after one failure it never compacted again, and the database grew."""
    before = setting.client.put(prefix + b"k").header.revision
    failures = setting.instance.log.read_text().count("compaction failed")
    setting.proxy.refuse()
    eventually(lambda: setting.instance.log.read_text().count("compaction failed") > failures)
    setting.proxy.heal()
    for _ in range(3):
        after = recovered(setting.client, prefix + b"k")
    eventually(lambda: setting.compact_revision() >= after)
    name = prefix.decode() + "k"
    assert setting.go.run("SELECT id FROM kine WHERE name = ? AND id < ?", (name, after)) == []
    assert before < after


def test_10619_a_compaction_that_cannot_go_on_keeps_what_it_has_done(setting: Setting, prefix: bytes) -> None:
    """k3s-io/k3s#10619: a compaction that reached its time limit was rolled back entirely, every time."""
    setting.go.begin()  # delays compactions while there is little to compact
    setting.go.run("SELECT id FROM kine WHERE id = 1 FOR UPDATE")  # compact_rev_key's row
    first = setting.client.put(prefix + b"k").header.revision
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: setting.client.put(prefix + b"%d" % (number % 8)), range(300)))
    held = setting.client.put(prefix + b"held").header.revision
    last = setting.client.put(prefix + b"held").header.revision
    with closing(setting.place.go()) as holder:
        holder.begin()
        holder.run("SELECT id FROM kine WHERE id = ? FOR UPDATE", (held,))
        setting.go.rollback()
        eventually(lambda: first + 100 <= setting.compact_revision())
        assert setting.compact_revision() < last
        holder.rollback()
    eventually(lambda: setting.compact_revision() >= last)


def test_759_revisions_used_up_by_conflicts_hold_up_no_watch(setting: Setting, prefix: bytes) -> None:
    """#759: failed inserts consumed revisions; polling filled them one by one, and fell behind for good."""
    written = []
    for number in range(40):
        setting.go.begin()
        setting.go.create(f"{prefix.decode()}conflict/{number}")
        setting.go.rollback()
        written.append(setting.client.put(prefix + b"k").header.revision)
    assert [event.kv.mod_revision for event in setting.watch.events(40)] == written
    assert setting.client.range(prefix, prefix_end(prefix), count_only=True).count == 1


def test_676_a_list_does_not_tell_a_revision_whose_predecessor_it_lacks(
    setting: Setting, prefix: bytes
) -> None:
    """#676: a list returned revision 101 before 100 was committed; a watch from 102 then never saw 100."""
    with closing(setting.place.go()) as other:
        setting.go.begin()
        setting.go.create(prefix.decode() + "held")
        other.create(prefix.decode() + "later")
        with ThreadPoolExecutor(1) as pool:
            listing = pool.submit(setting.client.range, prefix, prefix_end(prefix))
            setting.go.commit()
            listed = listing.result()
        setting.watch.events(2)
        with setting.client.watch() as watch:
            watch.create(prefix, prefix_end(prefix), start_revision=listed.header.revision + 1)
            last = setting.client.put(prefix + b"last").header.revision
            seen = {item.key for item in listed.kvs}
            while prefix + b"last" not in seen:
                seen.update(event.kv.key for event in watch.events(1))
    assert seen == {prefix + b"held", prefix + b"later", prefix + b"last"}
    assert setting.client.revision() >= last


def test_82_a_leap_of_revisions_stops_no_watch(setting: Setting, prefix: bytes) -> None:
    """#82: where the database's ids leapt ahead by a million, as many rows were inserted to fill the gap."""
    leap = setting.client.put(prefix + b"before").header.revision + 1_000_000
    if setting.place.kind == "postgres":
        setting.go.run("SELECT setval('kine_id_seq', ?)", (leap,))
    else:
        setting.go.run(f"ALTER TABLE kine AUTO_INCREMENT = {leap + 1}")
    after = [setting.client.put(prefix + b"after").header.revision for _ in range(3)]
    assert after == [leap + 1, leap + 2, leap + 3]
    assert [event.kv.mod_revision for event in setting.watch.events(4)][1:] == after
    [(rows,)] = setting.go.run("SELECT count(*) FROM kine WHERE id > ?", (leap - 1_000_000,))
    assert int(rows) < 2100
