"""Snapshot save and restore across backends, and `kine migrate`, which needs no file."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import grpc
import pytest

from kine.commands.endpoint_client import opened
from kine.config import settings
from kine.proto import rpc_pb2 as pb
from tests.client import EVERY_KEY, Client, refused
from tests.commands.conftest import told
from tests.databases import mysql as mysql_binary
from tests.databases import postgres as postgres_binary
from tests.remote.etcd_clusters import Etcds
from tests.servers import mysql, nats, postgres
from tests.servers.kine import ROOT, start_kine
from tests.txn_ops import put, version

if TYPE_CHECKING:
    from pathlib import Path

VALUES = {b"/k/%03d" % (number * 37 % 300): bytes([number % 256]) * (number * 20) for number in range(300)}

pytestmark = pytest.mark.xdist_group("commands")  # their databases are started once


def fill(client: Client) -> int:
    """Keys written not in key order, one updated, one with a lease; returns the revision after the writes."""
    client.grant(600, lease_id=4711)
    for number in range(50):
        client.put(b"/gone/%d" % number, b"x")
    client.delete(b"/gone/", b"/gone0")
    for key, value in VALUES.items():
        client.put(key, value)
    client.put(b"/k/000", b"changed")
    return int(client.put(b"/leased", b"v", lease=4711).header.revision)


def empty(directory: Path) -> str:
    """A database that a server has created, without a client's write."""
    endpoint = f"sqlite://{directory / 'state.db'}"
    assert start_kine(endpoint, "http2", directory).stop() == 0
    return endpoint


Held = tuple[bytes, bytes, int, int, int, int]


def held(client: Client) -> list[Held]:
    """Key, value, lease, create revision, version and mod revision of every key, ordered by revision."""
    order = pb.RangeRequest.SortTarget.MOD
    answer = client.range(EVERY_KEY, EVERY_KEY, sort_target=order, sort_order=pb.RangeRequest.ASCEND)
    return [
        (kv.key, kv.value, kv.lease, kv.create_revision, kv.version, kv.mod_revision)
        for kv in answer.kvs
        if kv.key != b"/registry/health"
    ]


def contents(endpoint: str) -> tuple[list[Held], int]:
    """Likewise from a database, and its revision."""

    async def read() -> tuple[list[Held], int]:
        chosen = settings({"endpoint": endpoint}, {})
        async with opened(chosen) as api:
            revision, _ = await api.revision()
            found = [kv async for page in api.pages(revision) for kv in page]
        return [
            (kv.key, kv.value, kv.lease, kv.create_revision, kv.version, kv.mod_revision)
            for kv in sorted(found, key=lambda kv: kv.mod_revision)
            if kv.key != b"/registry/health"
        ], revision

    return asyncio.run(read())


def check_restored(endpoint: str, directory: Path, expected: list[Held], last: int) -> None:
    server = start_kine(endpoint, "http2", directory)
    with Client(server.address) as client, client.watch() as watch:
        assert held(client) == expected
        assert client.revision() == last
        assert client.time_to_live(4711).grantedTTL == 600
        with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            client.range(b"/k/000", revision=last - 1)
        watch.create(b"/k/", b"/k0", start_revision=last + 1, prev_kv=True)
        key, value, _, created, count, mod = expected[0]
        answer = client.put(key, b"after", prev_kv=True)
        assert answer.header.revision == last + 1
        assert (answer.prev_kv.value, answer.prev_kv.mod_revision) == (value, mod)
        [event] = watch.events(1)
        assert (event.kv.create_revision, event.kv.version, event.kv.mod_revision) == (
            created,
            count + 1,
            last + 1,
        )
        assert client.delete(key).deleted == 1
        assert client.put(key, b"anew").header.revision == last + 3
    assert server.stop() == 0


def test_etcd_is_saved_and_restored_into_each_database(etcds: Etcds, database: str, tmp_path: Path) -> None:
    running = etcds.etcd()
    with Client(running.address) as client:
        last = fill(client)
        expected = held(client)
    file = tmp_path / "snapshot"

    saved = told("snapshot", "save", str(file), "--endpoint", f"http://{running.address}", "-o", "json")
    restored = told(
        "snapshot", "restore", str(file), "--endpoint", database, "-o", "json", "--bump-revision", "5000"
    )

    assert (saved.code, restored.code) == (0, 0), (saved, restored)
    assert (saved.code, saved.json["revision"], saved.json["keys"]) == (0, last, len(expected)), saved
    assert (file.stat().st_mode & 0o777) == 0o600
    assert (restored.code, restored.json["put"]) == (0, len(expected)), restored
    check_restored(database, tmp_path / "after", expected, last + 5000)
    assert told("check", "--endpoint", database).out == "nothing found\n"


def test_contents_go_round_all_databases(tmp_path: Path) -> None:
    for missing in (postgres_binary.missing, mysql_binary.missing, nats.missing):
        if reason := missing():
            pytest.skip(reason)
    first = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(first, "http2", tmp_path)
    with Client(server.address) as client:
        fill(client)
        client.txn([version(b"compact_rev_key", "=", 0)], [put(b"compact_rev_key", b"7")])
        client.txn([version(b"compact_rev_key", "=", 1)], [put(b"compact_rev_key", b"8")])
        expected = held(client)
    assert server.stop() == 0
    _, last = contents(first)
    stations = [
        first,
        (running := postgres.database_server()).endpoint(running.new_database()),
        (running := mysql.database_server()).endpoint(running.new_database()),
        (running := nats.database_server(1)).endpoint(running.new_bucket()),
        f"sqlite://{tmp_path / 'again.db'}",
    ]
    changed = [item for item in expected if item[4] > 1]
    assert {item[0] for item in changed} == {b"/k/000", b"compact_rev_key"}

    for source, target in pairwise(stations):
        moved = told("migrate", "--from", source, "--to", target, "-o", "json")
        found, revision = contents(target)

        assert moved.code == 0, moved
        if target.startswith("nats"):
            assert [item[:5] for item in found] == [item[:5] for item in expected]
            assert found[0][5] > last
            expected, last = found, revision
        else:
            assert (found, revision) == (expected, last)
    for database in (*stations[1:3], stations[4]):
        assert told("check", "--endpoint", database).out == "nothing found\n"


def test_revisions_of_one_etcd_transaction_become_several(etcds: Etcds, tmp_path: Path) -> None:
    running, target = etcds.etcd(), f"sqlite://{tmp_path / 'state.db'}"
    with Client(running.address) as client:
        client.txn([], [put(b"/a", b"1"), put(b"/b", b"2"), put(b"/c", b"3")])
        shared = client.put(b"/d", b"4").header.revision - 1

    moved = told("migrate", "--from", f"http://{running.address}", "--to", target)
    found, revision = contents(target)

    assert moved.code == 0, moved
    assert shared == 2  # kine's own key has revision 1
    assert [item[0] for item in found] == [b"/d", b"/a", b"/b", b"/c"]
    assert [item[3:] for item in found] == [(3, 1, 3), (2, 1, 4), (2, 1, 5), (2, 1, 6)]
    assert revision == 6


ENDLESS = """
CREATE VIEW endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c;
CREATE TRIGGER stall BEFORE INSERT ON kine WHEN NEW.name = '/k/200' BEGIN SELECT * FROM endless; END;
"""


def test_migration_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    source = f"sqlite://{tmp_path / 'source.db'}"
    server = start_kine(source, "http2", tmp_path)
    with Client(server.address) as client:
        fill(client)
    assert server.stop() == 0
    before, _ = contents(source)
    (tmp_path / "target").mkdir()
    target = empty(tmp_path / "target")
    database = sqlite3.connect(tmp_path / "target" / "state.db", isolation_level=None)
    database.executescript(ENDLESS)
    arguments = ("migrate", "--from", source, "--to", target, "--output", "json")
    running = subprocess.Popen([sys.executable, "-m", "kine", *arguments], cwd=ROOT)
    count = "SELECT count(*) FROM kine WHERE name LIKE '/k/%'"
    deadline = time.monotonic() + 30
    while not database.execute(count).fetchone()[0] and time.monotonic() < deadline:
        time.sleep(0.01)

    running.kill()
    running.wait()

    arrived = database.execute(count).fetchone()[0]
    assert 0 < arrived < len(VALUES)
    database.executescript("DROP TRIGGER stall; DROP VIEW endless")
    database.close()
    found = told("check", "--endpoint", target, "--output", "json").json["findings"]
    assert [finding["id"] for finding in found] == ["unfinished-restore"]
    again = told(*arguments)
    assert (again.code, again.json["put"]) == (0, len(before) - arrived), again
    assert told("check", "--endpoint", target).out == "nothing found\n"
    assert contents(target)[0] == before


def test_restored_revisions_go_beyond_all_that_was_seen(tmp_path: Path) -> None:
    """Revisions that API servers read between the snapshot and the database's loss return `compacted`."""
    file, source = tmp_path / "snapshot", empty(tmp_path)
    target = f"sqlite://{tmp_path / 'target.db'}"
    assert told("snapshot", "save", str(file), "--endpoint", source).code == 0

    assert told("snapshot", "restore", str(file), "--endpoint", target).code == 0

    server = start_kine(target, "http2", tmp_path)
    with Client(server.address) as client, client.watch() as watch:
        assert client.revision() == 1_000_000_002
        watch.ask(b"/", b"0", start_revision=400_000)
        assert watch.receive().created
        assert watch.receive().compact_revision == 1_000_000_002
    assert server.stop() == 0


def test_etcd_does_not_pass_many_revisions(etcds: Etcds, tmp_path: Path) -> None:
    file, target = tmp_path / "snapshot", f"http://{etcds.etcd().address}"
    assert told("snapshot", "save", str(file), "--endpoint", empty(tmp_path)).code == 0

    many = told("snapshot", "restore", str(file), "--endpoint", target)
    few = told("snapshot", "restore", str(file), "--endpoint", target, "--bump-revision", "100")

    assert (many.code, few.code) == (1, 0), (many, few)
    assert "give a smaller --bump-revision" in many.err
    assert json.loads(told("status", "--endpoint", target, "-o", "json").out)["revision"] > 102


def test_database_is_moved_into_an_etcd_and_a_second_run_finds_it_done(etcds: Etcds, tmp_path: Path) -> None:
    source = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(source, "http2", tmp_path)
    with Client(server.address) as client:
        last = fill(client)
        expected = held(client)
    assert server.stop() == 0
    target = etcds.etcd()
    urls = ("--from", source, "--to", f"http://{target.address}", "--output", "json")
    with Client(target.address) as client:
        client.put(expected[0][0], expected[0][1])  # as if a first run had been cut off

        moved = told("migrate", *urls)
        again = told("migrate", *urls)

        assert (moved.code, again.code) == (0, 0), (moved, again)
        assert again.json["put"] == 0
        assert {item[0] for item in held(client)} == {item[0] for item in expected}
        assert client.get(b"/k/000").value == b"changed"  # type: ignore[union-attr]
        assert client.revision() > last


def test_target_at_the_very_revision_is_restored_into_again(database: str, tmp_path: Path) -> None:
    """The state after a run that was cut off between its first steps."""
    file = tmp_path / "snapshot"
    assert told("snapshot", "save", str(file), "--endpoint", empty(tmp_path)).code == 0

    restore = ("snapshot", "restore", str(file), "--endpoint", database, "--bump-revision", "0")
    runs = [told(*restore) for _ in range(2)]

    assert [run.code for run in runs] == [0, 0], runs
    state = told("status", "--endpoint", database, "--output", "json").json
    assert state["revision"] == state["compact_revision"] == 2


def test_damaged_file_is_not_restored(tmp_path: Path) -> None:
    file, target = tmp_path / "snapshot", tmp_path / "target.db"
    assert told("snapshot", "save", str(file), "--endpoint", empty(tmp_path)).code == 0
    whole = file.read_bytes()
    reasons = {
        whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]: "is damaged or cut short",
        whole[:-1] + bytes([whole[-1] ^ 1]): "is damaged or cut short",
        whole[:-10]: "is damaged or cut short",
        whole[: len(whole) // 2]: "is damaged or cut short",
        b"X" + whole[1:]: "is no snapshot",
        b"": "is no snapshot",
    }
    for data, reason in reasons.items():
        file.write_bytes(data)

        found = told("snapshot", "restore", str(file), "--endpoint", f"sqlite://{target}")

        assert (found.code, found.err.count("\n")) == (1, 1), found
        assert reason in found.err
        assert not target.exists()


def test_target_with_keys_of_its_own_is_refused(tmp_path: Path) -> None:
    target, file = empty(tmp_path), tmp_path / "snapshot"
    assert told("snapshot", "save", str(file), "--endpoint", target).code == 0
    server = start_kine(target, "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/mine", b"")
    assert server.stop() == 0

    found = told("snapshot", "restore", str(file), "--endpoint", target)

    assert found.code == 1
    assert "a key of its own, b'/mine'" in found.err


def test_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    absent = tmp_path / "absent.db"

    found = told("snapshot", "save", str(tmp_path / "snapshot"), "--endpoint", f"sqlite://{absent}")

    assert (found.code, list(tmp_path.iterdir())) == (1, []), found
    assert f"there is no file {absent}" in found.err


@pytest.mark.parametrize(
    ("source", "target", "said", "code"),
    [
        (
            "sqlite:///no/x.db",
            "memory://x",
            "kine: --from: there is no file /no/x.db; name the database in",
            1,
        ),
        ("foo://x", "memory://x", "kine: --from: the endpoint's scheme is not known", 2),
        ("memory://x", "foo://x", "kine: --to: the endpoint's scheme is not known", 2),
        ("memory://x", "127.0.0.1:1", "kine: --to: could not connect to the server", 1),
    ],
)
def test_endpoint_of_a_migration_that_fails_is_named(source: str, target: str, said: str, code: int) -> None:
    found = told("migrate", "--from", source, "--to", target)

    assert (found.code, said in found.err, "--endpoint" in found.err) == (code, True, False), found


def test_lease_that_go_kine_wrote_is_kept(tmp_path: Path) -> None:
    """Its row has only the TTL, which clients see as the lease's id."""
    source = empty(tmp_path)
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute(
            "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
            " VALUES ('/leased', 1, 0, 0, 0, 60, x'01')"
        )
    database.close()
    target = f"sqlite://{tmp_path / 'target.db'}"

    assert told("migrate", "--from", source, "--to", target).code == 0

    with sqlite3.connect(tmp_path / "target.db") as database:
        assert database.execute("SELECT id, lease FROM kine WHERE name = '/leased'").fetchall() == [(3, 60)]
        assert database.execute("SELECT id, ttl FROM kine_lease").fetchall() == [(60, 60)]
    database.close()


@pytest.mark.parametrize("command", ["save", "restore", "status"])
def test_file_without_a_name_is_wrong_usage(command: str) -> None:
    found = told("snapshot", command, "")

    assert (found.code, found.err) == (2, "kine: FILE is empty: name the snapshot's file\n")


def test_endpoint_without_a_name_is_not_the_default_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    found = told("migrate", "--from", f"sqlite://{tmp_path / 'a.db'}", "--to", "")

    assert (found.code, found.err) == (
        2, "kine: --from and --to each name an endpoint; one of them is empty\n",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_one_key_is_not_counted_as_several(tmp_path: Path) -> None:
    endpoint = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(endpoint, "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/k", lease=client.grant(3600).ID)
    assert server.stop() == 0
    file = str(tmp_path / "snapshot")

    saved = told("snapshot", "save", file, "--endpoint", endpoint)

    keys = told("snapshot", "status", file, "-o", "json").json["keys"]
    assert f"saved {keys} {'key' if keys == 1 else 'keys'} and 1 lease at revision" in saved.out


def test_an_absolute_path_may_have_the_slash_of_sqlalchemys_urls(tmp_path: Path) -> None:
    """`sqlite:////data/kine.db`: the commands accept what the server accepts."""
    endpoint, copy = f"sqlite:///{tmp_path}/state.db", f"sqlite:///{tmp_path}/copy.db"
    server = start_kine(endpoint, "http2", tmp_path / "server")
    with Client(server.address) as client:
        client.put(b"/greeting", b"hello")
    server.stop()

    assert endpoint.startswith("sqlite:////")
    for command in (
        ("check", "--endpoint", endpoint),
        ("status", "--endpoint", endpoint),
        ("snapshot", "save", str(tmp_path / "saved"), "--endpoint", endpoint),
        ("migrate", "--from", endpoint, "--to", copy),
        ("check", "--endpoint", copy),
    ):
        done = told(*command)
        assert (done.code, done.err) == (0, ""), command
