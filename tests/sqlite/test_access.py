"""SQLite files that kine cannot use: damaged, locked, another user's. Each has its own error with the fix."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kine import drivers
from kine.drivers.base import Options
from tests.cleanup_at_exit import ENDINGS
from tests.client import Client
from tests.servers.kine import ROOT, serving, start_kine
from tests.servers.process import start

OWNER = 65534
# Root without the capabilities to use other users' files: a user like any other.
COMMON_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv"
)


def failed_start(
    endpoint: str, *, directory: str = "/", within: Sequence[str] = (), flags: Sequence[str] = ()
) -> str:
    """The error of a kine that cannot start."""
    done = subprocess.run(
        [*within, sys.executable, "-m", "kine", "--listen-address=127.0.0.1:0", "--metrics-bind-address=0",
         f"--endpoint={endpoint}", *flags],
        capture_output=True, text=True, timeout=120, check=False, cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def database() -> Iterator[Path]:
    """A file as kine leaves it, in a directory that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="kine-access-"))
    folder.chmod(0o755)
    ENDINGS.callback(shutil.rmtree, folder, ignore_errors=True)
    server = start_kine(f"sqlite://{folder / 'state.db'}", "http2", folder)
    with Client(server.address) as client:
        client.put(b"/a", b"1")
    assert server.stop() == 0
    yield folder / "state.db"
    shutil.rmtree(folder, ignore_errors=True)


def give(path: Path, owner: int, mode: int) -> None:
    os.chown(path, owner, owner)
    path.chmod(mode)


@needs_root
@pytest.mark.parametrize("folder_mode", [0o755, 0o777])
def test_file_of_another_owner_is_a_matter_of_permissions(database: Path, folder_mode: int) -> None:
    give(database, OWNER, 0o644)
    give(database.parent, OWNER, folder_mode)

    said = failed_start(f"sqlite://{database}", within=COMMON_USER)

    assert f"uid {OWNER}" in said
    assert "uid 0" in said
    assert str(database.parent) in said
    assert "chown" in said
    assert "damaged" not in said


@needs_root
@pytest.mark.parametrize(
    ("name", "mode", "fix"),
    [
        ("state.db", 0o444, "u+w"),
        ("state.db", 0o000, "u+rw"),
        (".", 0o500, "u+w"),
        (".", 0o600, "u+x"),
    ],
)
def test_own_file_with_the_wrong_mode_is_told_to_chmod(
    database: Path, name: str, mode: int, fix: str
) -> None:
    path = database.parent / name
    path.touch()
    path.chmod(mode)

    said = failed_start(f"sqlite://{database}", within=COMMON_USER)

    path.chmod(0o700)
    assert f"with mode {mode:04o}; run chmod {fix} {path}" in said
    assert "chown" not in said


@needs_root
def test_unreadable_file_names_its_owner(database: Path) -> None:
    give(database, OWNER, 0o600)

    said = failed_start(f"sqlite://{database}", within=COMMON_USER)

    assert str(database) in said
    assert f"uid {OWNER}" in said


@needs_root
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_write_ahead_log_of_another_owner_is_named(database: Path, suffix: str) -> None:
    beside = Path(f"{database}{suffix}")
    beside.touch()
    give(beside, OWNER, 0o600)

    said = failed_start(f"sqlite://{database}", within=COMMON_USER)

    assert str(beside) in said
    assert f"uid {OWNER}" in said
    assert "damaged" not in said


@needs_root
def test_directory_that_cannot_be_made_names_the_one_that_forbids_it(database: Path) -> None:
    give(database.parent, OWNER, 0o755)

    said = failed_start(f"sqlite://{database.parent}/new/deep/state.db", within=COMMON_USER)

    assert f"cannot write {database.parent}:" in said
    assert "chown" in said


@needs_root
def test_file_system_that_is_read_only_is_named_as_such(database: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", database.parent], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        said = failed_start(f"sqlite://{database}")
    finally:
        subprocess.run(["umount", database.parent], check=True)

    assert "read-only; mount it for writing" in said


def test_lock_of_another_process_is_waited_for(database: Path) -> None:
    holder = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")

    def release(line: str) -> str | None:
        if "keeps" in line and "locked" in line:
            holder.close()
        return serving(line)

    server = start_kine(f"sqlite://{database}", "http2", database.parent, until=release)
    with Client(server.address) as client:
        assert client.range(b"/a").kvs[0].value == b"1"
    assert server.stop() == 0


def test_damage_beside_a_write_ahead_log_names_the_log(database: Path) -> None:
    content = bytearray(database.read_bytes())
    content[4096:8192] = b"\x5a" * 4096
    database.write_bytes(content)
    Path(f"{database}-wal").write_bytes(b"of another database")

    said = failed_start(f"sqlite://{database}")

    assert "damaged" in said
    assert f"move {database}-wal and {database}-shm away" in said


def test_write_ahead_log_without_its_database_is_kept(database: Path) -> None:
    log = Path(f"{database}-wal")
    log.write_bytes(b"all that is left")
    database.unlink()

    said = failed_start(f"sqlite://{database}")

    assert f"{log} is there" in said
    assert log.read_bytes() == b"all that is left"
    assert not database.exists()


def test_path_that_is_a_directory(database: Path) -> None:
    assert "is a directory" in failed_start(f"sqlite://{database.parent}")


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("postgres:kine:hidden-word@host/db", "the endpoint has no scheme; write sqlite://PATH"),
        ("mysql/kine:hidden-word@tcp(host)/db", "the endpoint has no scheme; write sqlite://PATH"),
        ("hidden-word.db", "the endpoint has no scheme; write sqlite://PATH"),
        ("sqlite://postgres://kine:hidden-word@host/db", "two schemes"),
    ],
)
def test_endpoint_that_is_no_path_is_refused_and_not_repeated(endpoint: str, said: str) -> None:
    for look in (drivers.connect,):
        with pytest.raises(ValueError, match=said) as refused:
            look(endpoint, Options())
        assert "hidden-word" not in str(refused.value)


def test_endpoint_without_a_scheme_makes_no_file(tmp_path: Path) -> None:
    said = failed_start("postgres:kine:hidden-word@host/db", directory=str(tmp_path))

    assert "the endpoint has no scheme" in said
    assert "hidden-word" not in said
    assert not list(tmp_path.iterdir())


def test_k0s_default_is_served(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    server = start_kine(f"sqlite://{path}?more=rwc&_journal=WAL&cache=shared", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/a", b"1")
    assert server.stop() == 0

    said = server.log.read_text()
    assert said.count("have no effect: cache, more") == 1
    assert path.exists()


def test_database_in_memory_leaves_no_file(tmp_path: Path) -> None:
    server = start_kine("sqlite://file::memory:?cache=shared", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/a", b"1")
        assert client.range(b"/a").kvs[0].value == b"1"
    assert server.stop() == 0

    assert [path.suffix for path in tmp_path.iterdir()] == [".log"]


@pytest.mark.parametrize(
    "endpoint",
    [
        "sqlite://file::memory:?cache=shared",
        "sqlite://:memory:",
        "sqlite://file:x?mode=memory",
        "sqlite://x?vfs=memdb",
    ],
)
def test_database_in_memory_lives_in_one_process(endpoint: str) -> None:
    assert drivers.of_one_process(endpoint, Options())
    assert not drivers.of_one_process("sqlite://state.db?mode=memory", Options())  # as in Go: no URI


def test_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = failed_start(f"sqlite://{tmp_path}/file/state.db")
    assert f"{tmp_path}/file is no directory; name another path in the endpoint" in said


@needs_root
def test_commands_name_the_owner_of_a_directory_that_they_may_not_enter(database: Path) -> None:
    give(database.parent, OWNER, 0o700)
    done = subprocess.run(
        [*COMMON_USER, sys.executable, "-m", "kine", "check", "--endpoint", f"sqlite://{database}"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert f"cannot read {database}: " in done.stderr
    assert f"{database.parent}: it belongs to " in done.stderr
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize("kind", ["a directory", "no socket"])
def test_what_is_in_the_way_of_a_socket_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    path.mkdir() if kind == "a directory" else path.touch()
    said = failed_start(f"sqlite://{tmp_path}/state.db", flags=[f"--listen-address=unix://{path}"])
    assert f"{path} is in the way: it is {kind}" in said


def test_socket_in_a_missing_directory_is_named(tmp_path: Path) -> None:
    said = failed_start("memory://", flags=(f"--listen-address=unix://{tmp_path}/no/kine.sock",))

    assert f"{tmp_path}/no/kine.sock; create its directory" in said


@pytest.fixture
def only_volume() -> Iterator[tuple[Path, list[str]]]:
    """A container whose root is read-only: a data directory, and a command started there."""
    folder = Path(tempfile.mkdtemp(prefix="kine-access-", dir="/run"))
    ENDINGS.callback(shutil.rmtree, folder, ignore_errors=True)
    script = folder / "run.sh"
    read_only = (
        "mount --bind {0} {0}; mount -o remount,bind,ro {0}"  # existing mounts, such as this checkout, stay
    )
    mounts = "; ".join(read_only.format(path) for path in ("/tmp", "/var/tmp"))
    script.write_text(f'#!/bin/sh\nset -e\n{mounts}; cd /tmp; exec {sys.executable} "$@"\n')
    if subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounts], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount")
    yield folder, ["unshare", "--mount", "sh", str(script), "-m", "kine"]
    shutil.rmtree(folder, ignore_errors=True)


@needs_root
def test_commands_need_no_room_in_tmp(only_volume: tuple[Path, list[str]]) -> None:
    folder, command = only_volume
    source, target = (f"sqlite://{folder / name / 'state.db'}" for name in ("source", "target"))
    server = start_kine(source, "http2", folder)
    with Client(server.address) as client:
        client.put(b"/k", b"v")
    assert server.stop() == 0

    for arguments in (
        ["migrate", "--from", source, "--to", target],
        ["snapshot", "save", str(folder / "saved"), "--endpoint", source],
        ["snapshot", "restore", str(folder / "saved"), "--endpoint", f"{target}2"],
    ):
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@needs_root
def test_defragmentation_needs_no_room_in_tmp(only_volume: tuple[Path, list[str]]) -> None:
    folder, command = only_volume
    command += [
        "--listen-address=127.0.0.1:0", "--metrics-bind-address=0", "--log-format=json",
        f"--endpoint=sqlite://{folder / 'state.db'}",
    ]  # fmt: skip
    server = start(command, folder, serving, {"PYTHONPATH": str(ROOT)})
    with Client(server.address) as client:
        for number in range(50):
            client.put(b"/k/%d" % number, b"x" * 100_000)
        client.delete(b"/k/", b"/k0")
        client.compact(client.revision(), physical=True)
        before = client.status().dbSize
        assert before >= os.path.getsize(folder / "state.db-wal") > 0  # the WAL is counted
        files = [folder / f"state.db{suffix}" for suffix in ("", "-wal", "-reserve")]
        assert before <= sum(map(os.path.getsize, files))  # once
        client.defragment()
        assert client.status().dbSize < before
    assert server.stop() == 0
