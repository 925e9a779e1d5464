"""Commands on data larger than one response, interrupted, and into targets that cannot hold all of it."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest

from kine import drivers
from kine.commands.endpoint_client import SCRATCH, opened
from kine.config import settings
from kine.drivers.base import UNFINISHED, Options
from kine.proto import rpc_pb2 as pb
from tests.client import EVERY_KEY, Client
from tests.client import refused as refused_call
from tests.commands.conftest import told
from tests.commands.test_snapshot import contents, empty, held
from tests.databases import mysql as mysql_binary
from tests.databases import nats as nats_binary
from tests.databases import postgres as postgres_binary
from tests.databases.proxy import ANSWERS, Proxy
from tests.remote.etcd_clusters import Etcds
from tests.servers import mysql, nats, postgres
from tests.servers.kine import ROOT, start_kine
from tests.servers.process import StartError
from tests.txn_ops import put

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("commands")  # their databases are started once

NOISE = random.Random(1).randbytes(1_500_000)


def fill(client: Client, count: int, leases: int = 40) -> None:
    """Keys of mixed sizes, some with leases, some updated, some deleted."""
    for number in range(leases):
        client.grant(3600 + number, lease_id=1000 + number)
    for start in range(0, count, 100):
        group = []
        for number in range(start, min(start + 100, count)):
            size = 700_000 if number % (count // 3) == 1 else 1 + number * 13 % 600
            lease = 1000 + number // 5 % leases if number % 5 == 0 else 0
            group.append(
                put(b"/k/%06d" % (number * 7919 % count), NOISE[number : number + size], lease=lease)
            )
        client.txn([], group)
    for number in range(0, count, 50):
        client.put(b"/k/%06d" % number, b"changed")
        client.delete(b"/k/%06d" % (number + 7))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with more keys than one part of a response holds."""
    directory = tmp_path_factory.mktemp("large")
    endpoint = f"sqlite://{directory / 'state.db'}"
    server = start_kine(endpoint, "http2", directory)
    with Client(server.address) as client:
        fill(client, 6000)
    assert server.stop() == 0
    return endpoint


def test_long_answer_is_read_whole(large: str) -> None:
    """The response comes in parts."""

    async def read() -> pb.RangeResponse:
        async with opened(settings({"endpoint": large}, {})) as api:
            request = pb.RangeRequest(key=EVERY_KEY, range_end=EVERY_KEY)
            return await api.call("KV/Range", request, pb.RangeResponse)

    answer = asyncio.run(read())

    assert len(answer.kvs) == answer.count > 5000


def test_many_keys_are_saved_and_restored(large: str, database: str, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"

    saved = told("snapshot", "save", str(file), "--endpoint", large, "-o", "json")
    restored = told("snapshot", "restore", str(file), "--endpoint", database, "--bump-revision", "0")

    assert (saved.code, restored.code) == (0, 0), (saved, restored)
    expected = contents(large)
    assert saved.json["leases"] == len({item[2] for item in expected[0] if item[2]}) > 30
    assert contents(database) == expected


def test_many_keys_are_migrated(large: str, database: str) -> None:
    moved = told("migrate", "--from", large, "--to", database, "-o", "json")

    assert moved.code == 0, moved
    assert contents(database) == contents(large)
    assert told("check", "--endpoint", database).out == "nothing found\n"


def test_many_keys_go_into_an_etcd_that_takes_few_operations(
    large: str, etcds: Etcds, tmp_path: Path
) -> None:
    target, expected = etcds.etcd("--max-txn-ops=100"), contents(large)[0]

    moved = told("migrate", "--from", large, "--to", f"http://{target.address}", "-o", "json")

    assert moved.code == 0, moved
    with Client(target.address) as client:
        # The writes of one transaction share a revision.
        assert sorted(item[:3] for item in held(client)) == sorted(item[:3] for item in expected)
        assert client.time_to_live(1007).grantedTTL == 3607


def test_key_on_a_lease_that_has_run_out_meanwhile_is_left_out(etcds: Etcds, tmp_path: Path) -> None:
    source = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(source, "http2", tmp_path)
    with Client(server.address) as client:
        client.grant(1, lease_id=77)
        client.put(b"/short", b"", lease=77)
    server.process.kill()
    server.process.wait()
    with sqlite3.connect(tmp_path / "state.db") as database:
        for number in range(2000):
            database.execute(
                "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value)"
                " VALUES (?, 1, 0, 0, 0, 0, ?)",
                (f"/k/{number}", NOISE[:1000]),
            )
    database.close()

    for target in (f"sqlite://{tmp_path / 'target.db'}", f"http://{etcds.etcd().address}"):
        moved = told("migrate", "--from", source, "--to", target, "-o", "json")

        assert moved.code == 0, moved


# ---- keys and values that the target cannot hold


def unheld(kind: str, etcds: Etcds) -> tuple[str, list[tuple[bytes, bytes]], str]:
    """A target, keys of which it cannot store the last, and the reason."""
    binaries = {"postgres": postgres_binary, "mysql": mysql_binary, "nats": nats_binary}
    name = kind.partition(" ")[0]
    if name in binaries and (reason := binaries[name].missing()):
        pytest.skip(reason)
    fine = (b"/fine", b"")
    if name == "postgres":
        running = postgres.database_server()
        target = running.endpoint(running.new_database())
        return target, *{
            "postgres nul": ([fine, (b"/a\0b", b"")], "NUL"),
            "postgres bytes": ([fine, (b"/a\xff", b"")], "not UTF-8"),
            "postgres long": ([fine, (b"/" + b"a" * 3000, b""), (NOISE[:4000].hex().encode(), b"")], "2,700"),
        }[kind]
    if name == "mysql":
        running = mysql.database_server()
        target = running.endpoint(running.new_database())
        return target, *{
            "mysql bytes": ([fine, ("/ä".encode(), b"")], "not ASCII"),
            "mysql long": ([fine, (b"/" + b"a" * 630, b"")], "longer than the 630 bytes"),
            "mysql case": ([fine, (b"/a", b""), (b"/A", b"")], "upper and lower case"),
        }[kind]
    if name == "nats":
        server = nats.database_server(1)
        return server.endpoint(server.new_bucket()), *{
            "nats long": ([fine, (b"/" + b"a" * 3400, b"")], "longer than a NATS subject"),
            "nats value": ([fine, (b"/large", NOISE * 6)], "raise its max_payload"),
        }[kind]
    etcd = etcds.etcd("--max-request-bytes=600000")
    return f"http://{etcd.address}", [fine, (b"/large", NOISE[:700_000])], "raise the server's"


@pytest.mark.parametrize(
    "kind",
    [
        "postgres nul",
        "postgres bytes",
        "postgres long",
        "mysql bytes",
        "mysql long",
        "mysql case",
        "nats long",
        "nats value",
        "etcd value",
    ],
)
def test_key_that_the_target_cannot_hold_is_named_before_anything_is_written(
    kind: str, etcds: Etcds, tmp_path: Path
) -> None:
    target, keys, reason = unheld(kind, etcds)
    source = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(source, "http2", tmp_path, flags=("--max-request-bytes=16MiB",))
    with Client(server.address) as client:
        for key, value in keys:
            client.put(key, value)
    assert server.stop() == 0

    refused = told("migrate", "--from", source, "--to", target, "-o", "json")

    assert refused.code == 1, refused
    assert any(repr(key[:200])[2:-1] in refused.json["error"] for key, _ in keys[1:])
    assert reason in refused.json["error"]
    assert refused.json["error"].endswith("nothing was written")
    assert [line for line in refused.err.splitlines() if line.startswith("kine: ")] == [
        f"kine: {refused.json['error']}"
    ]
    assert contents(target)[0] == []


def test_value_larger_than_a_packet_is_named_before_anything_is_written(tmp_path: Path) -> None:
    """The limit is the server's own, as its administrator has set it."""
    if reason := mysql_binary.missing():
        pytest.skip(reason)
    running = mysql.database_server()
    target = running.endpoint(running.new_database())
    source = f"sqlite://{tmp_path / 'state.db'}"
    server = start_kine(source, "http2", tmp_path)
    file = tmp_path / "snapshot"
    with Client(server.address) as client:
        client.put(b"/fine", NOISE[:500_000])
        client.put(b"/large", NOISE[:1_300_000])
    assert server.stop() == 0
    assert told("snapshot", "save", str(file), "--endpoint", source).code == 0
    with running.admin() as admin, admin.cursor() as cursor:
        cursor.execute("SELECT @@global.max_allowed_packet")
        [[before]] = cursor.fetchall()
        cursor.execute("SET GLOBAL max_allowed_packet = 1048576")
        try:
            for command in (
                ("migrate", "--from", source, "--to", target),
                ("snapshot", "restore", str(file), "--endpoint", target),
            ):
                refused = told(*command, "-o", "json")

                assert refused.code == 1, refused
                assert "'/large'" in refused.json["error"]
                assert "max_allowed_packet" in refused.json["error"]
                assert refused.json["error"].endswith("nothing was written")
                assert contents(target)[0] == []
        finally:
            cursor.execute(f"SET GLOBAL max_allowed_packet = {before}")


# ---- a target that is not whole


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql", "nats"])
def test_database_in_which_a_restore_was_interrupted_is_not_served(kind: str, tmp_path: Path) -> None:
    source, text = empty(tmp_path / "source"), "holds only a part of the keys"
    target = f"sqlite://{tmp_path / 'target.db'}"
    if kind != "sqlite":
        binaries = {"postgres": postgres_binary, "mysql": mysql_binary, "nats": nats_binary}
        if reason := binaries[kind].missing():
            pytest.skip(reason)
        running = {
            "postgres": postgres.database_server,
            "mysql": mysql.database_server,
            "nats": lambda: nats.database_server(1),
        }[kind]()
        new = running.new_bucket() if isinstance(running, nats_binary.Nats) else running.new_database()
        target = running.endpoint(new)

    async def begin() -> None:
        log = drivers.connect(target, Options())
        await log.open()
        assert await log.grant(UNFINISHED, 1 << 31)
        await log.close()

    asyncio.run(begin())
    file = tmp_path / "snapshot"

    with pytest.raises(StartError, match=text):
        start_kine(target, "http2", tmp_path)
    saved = told("snapshot", "save", str(file), "--endpoint", target)
    found = told("check", "--endpoint", target)
    again = told("migrate", "--from", source, "--to", target)

    assert (saved.code, text in saved.err, file.exists()) == (1, True, False), saved
    assert kind == "nats" or "unfinished-restore" in found.out, found
    assert again.code == 0, again
    server = start_kine(target, "http2", tmp_path)
    with Client(server.address) as client:
        assert UNFINISHED not in client.leases()
        with refused_call(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists"):
            client.grant(60, lease_id=UNFINISHED)
    assert server.stop() == 0


def test_etcd_in_which_a_restore_was_interrupted_is_not_saved(etcds: Etcds, tmp_path: Path) -> None:
    running, file = etcds.etcd(), tmp_path / "snapshot"
    with Client(running.address) as client:
        client.put(SCRATCH)
        saved = told("snapshot", "save", str(file), "--endpoint", running.address)
        again = told("migrate", "--from", empty(tmp_path), "--to", f"http://{running.address}")

        assert (saved.code, "only a part of the keys" in saved.err, file.exists()) == (1, True, False), saved
        assert again.code == 0, again
        assert client.get(SCRATCH) is None


# ---- files, interruptions, errors


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "symlink").symlink_to("/dev/null")
    (tmp_path / "directory").mkdir()
    source = empty(tmp_path)

    for kind in ("fifo", "symlink", "directory"):
        place = tmp_path / kind
        kept = told("snapshot", "save", str(place), "--force", "--endpoint", source)
        assert (kept.code, "is not a regular file" in kept.err) == (2, True), kept
        assert not place.is_file()


def test_existing_file_is_replaced_with_force_only(tmp_path: Path) -> None:
    file, source = tmp_path / "snapshot", empty(tmp_path)
    file.write_text("mine")
    save = ("snapshot", "save", str(file), "--endpoint", source)

    kept = told(*save)
    kept_text = file.read_text()
    replaced = told(*save, "--force")

    assert (kept.code, kept_text) == (2, "mine"), kept
    assert kept.err == f"kine: {file} exists; name another file, or add --force to replace it\n"
    assert replaced.code == 0, replaced
    assert told("snapshot", "status", str(file)).code == 0


def test_missing_directory_is_named_as_typed(tmp_path: Path) -> None:
    found = told("snapshot", "save", "no/such/snapshot", "--endpoint", empty(tmp_path))

    assert found.code == 1
    assert found.err == "kine: there is no directory no/such to write no/such/snapshot in; make it first\n"


def test_file_that_cannot_be_written_is_named_and_nothing_remains(large: str, tmp_path: Path) -> None:
    """A write fails midway, as on a full disk."""
    file = tmp_path / "snapshot"

    done = subprocess.run(
        [sys.executable, "-m", "kine", "snapshot", "save", str(file), "--endpoint", large, "-o", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )

    assert done.returncode == 1, done
    assert f"{file} cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_interrupted_save_is_one_line_and_leaves_nothing(
    number: signal.Signals, large: str, tmp_path: Path
) -> None:
    running = start_kine(large, "http2", tmp_path)
    async with Proxy(int(running.address.rpartition(":")[2])) as proxy:
        proxy.delay[ANSWERS] = 0.2
        file = tmp_path / "snapshot"
        arguments = ("snapshot", "save", str(file), "--endpoint", f"127.0.0.1:{proxy.port}", "-o", "json")
        saving = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kine", *arguments, cwd=ROOT, stdout=-1, stderr=-1
        )
        partial = tmp_path / "snapshot.partial"
        while not (partial.exists() and partial.stat().st_size):
            assert saving.returncode is None
            await asyncio.sleep(0.01)

        saving.send_signal(number)

        out, err = await saving.communicate()
    assert running.stop() == 0
    assert (saving.returncode, out) == (1, b'{"error": "interrupted"}\n'), (out, err)
    assert [line for line in err.splitlines() if b" of " not in line] == [b"kine: interrupted"]
    assert not partial.exists()
    assert not file.exists()


@pytest.mark.parametrize("command", ["check", "status", "save", "migrate"])
def test_own_error_is_one_line_and_json(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kine import drivers

    def broken(endpoint: str, *_: object) -> None:
        raise TypeError(f"expected bytes at {endpoint}")

    monkeypatch.setattr(drivers, "can_inspect", broken)
    monkeypatch.setattr(drivers, "inspect", broken)
    endpoint = "postgres://user:hunter22@host/db"
    arguments = {
        "save": ("snapshot", "save", str(tmp_path / "snapshot"), "--endpoint", endpoint),
        "migrate": ("migrate", "--from", endpoint, "--to", "sqlite:///nowhere/x.db"),
    }.get(command, (command, "--endpoint", endpoint))

    found = told(*arguments, "-o", "json")

    assert found.code == 1
    assert found.err.startswith("kine: stopped by an error of kine's own, TypeError: expected bytes at ***")
    assert found.err.count("\n") == 1
    assert "hunter22" not in found.err + found.out
    assert found.json["error"] in found.err


def test_wrong_usage_is_json_too() -> None:
    found = told("migrate", "--from", "memory://", "--to", "memory://", "-o", "json")

    assert (found.code, found.json) == (2, {"error": "--from and --to are the same"})


def test_server_on_this_machine_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kine.commands import options

    server = start_kine(f"sqlite://{tmp_path / 'state.db'}", "http2", tmp_path)
    monkeypatch.setattr(options, "SERVER", f"http://{server.address}")
    monkeypatch.delenv("KINE_ENDPOINT", raising=False)

    saved = told("snapshot", "save", str(tmp_path / "snapshot"))
    port = server.address.rpartition(":")[2]
    written = (server.address, f":{port}", f"http://:{port}", f"localhost:{port},:{port}")
    asked = [told("status", "--endpoint", endpoint) for endpoint in written]

    assert server.stop() == 0
    assert (saved.code, {found.code for found in asked}) == (0, {0}), (saved, asked)


def test_refused_connection_reads_like_one(tmp_path: Path) -> None:
    found = told("snapshot", "save", str(tmp_path / "snapshot"), "--endpoint", "127.0.0.1:1")

    assert found.code == 1
    assert "nothing listens at 127.0.0.1:1; start it" in found.err
    assert os.listdir(tmp_path) == []
