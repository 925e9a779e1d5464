"""Commands fail at once when a connection is refused; otherwise they log progress and what they wait for."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from kine.commands import progress
from tests.client import Client
from tests.commands.conftest import told
from tests.databases.process import end_with_this_process
from tests.faults.run_databases import KINDS, missing, new_place
from tests.servers.kine import ROOT, start_kine

if TYPE_CHECKING:
    from pathlib import Path


NOBODY = {
    "http": "http://127.0.0.1:1",
    "postgres": "postgres://user@127.0.0.1:1/kine",
    "mysql": "mysql://user@tcp(127.0.0.1:1)/kine",
    "nats": "nats://127.0.0.1:1?noEmbed",
}
COMMANDS = {
    "check": ["check", "--endpoint", "URL"],
    "status": ["status", "--endpoint", "URL"],
    "save": ["snapshot", "save", "NEW", "--endpoint", "URL"],
    "restore": ["snapshot", "restore", "FILE", "--endpoint", "URL"],
    "migrate from": ["migrate", "--from", "URL", "--to", "sqlite://NEW"],
    "migrate to": ["migrate", "--from", "sqlite://DATABASE", "--to", "URL"],
}
LOCK = {"postgres": "LOCK TABLE kine IN ACCESS EXCLUSIVE MODE", "mysql": "LOCK TABLES kine WRITE"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a database and its snapshot."""
    directory = tmp_path_factory.mktemp("filled")
    endpoint = f"sqlite://{directory / 'state.db'}"
    server = start_kine(endpoint, "http2", directory)
    with Client(server.address) as client:
        for number in range(300):
            client.put(b"/k/%d" % number)
    server.stop()
    assert told("snapshot", "save", str(directory / "snapshot"), "--endpoint", endpoint).code == 0
    return directory


def written(command: str, url: str, filled: Path, new: Path) -> list[str]:
    named = {
        "URL": url,
        "FILE": f"{filled / 'snapshot'}",
        "NEW": f"{new / 'new'}",
        "sqlite://NEW": f"sqlite://{new / 'new'}",
        "sqlite://DATABASE": f"sqlite://{filled / 'state.db'}",
    }
    return [named.get(word, word) for word in COMMANDS[command]]


@pytest.mark.parametrize("kind", NOBODY)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_at_once_where_nobody_listens(
    command: str, kind: str, filled: Path, tmp_path: Path
) -> None:
    """At once means without a line that it retries."""
    arguments = written(command, NOBODY[kind], filled, tmp_path)
    if kind == "http":  # gRPC logs warnings about a second event loop in one process
        running = begun(*arguments)
        out, err = running.communicate(timeout=60)
        code = running.returncode
    else:
        done = told(*arguments)
        code, out, err = done.code, done.out, done.err

    assert code != 0
    assert out == ""
    # On a busy machine the program's own start takes seconds.
    [reason] = [line for line in err.splitlines() if "opening the endpoint" not in line]
    if command == "check" and kind in ("http", "nats"):
        assert "has no table kine" in reason
    else:
        assert "connect" in reason.lower()
        assert "within" not in reason
    assert os.listdir(tmp_path) == []


def begun(*arguments: str) -> subprocess.Popen[str]:
    running = subprocess.Popen(
        [sys.executable, "-m", "kine", *arguments], cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    end_with_this_process(running.pid)
    return running


@pytest.mark.engines
@pytest.mark.parametrize("command", ["check", "save", "migrate to"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_a_table_lock_blocks_says_so(
    command: str, kind: str, filled: Path, tmp_path: Path
) -> None:
    if reason := missing(kind):
        pytest.skip(reason)
    place = new_place(kind)
    start_kine(place.endpoint(), "http2", tmp_path).stop()
    go = place.go()
    go.begin()
    go.run(LOCK[kind])
    running = begun(*written(command, place.endpoint(), filled, tmp_path))
    try:
        assert running.stderr is not None
        line = "kine: "
        while not re.search(r", \d+ s without progress; something may hold a lock on one of", line):
            line = running.stderr.readline()
            assert line, "it has ended"
        go.commit()
        go.close()
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert out


@pytest.mark.parametrize(
    ("command", "phases"),
    [
        ("save", {"reading": 301}),
        ("restore", {"reading the file": None, "writing": 300, "comparing": 301}),
        ("migrate to", {"reading": 301, "writing": 300, "comparing": 301}),
        ("check", {"checking": None}),
    ],
)
def test_progress_is_told_in_lines_where_there_is_no_terminal(
    command: str,
    phases: dict[str, int | None],
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    reads = command in ("save", "check")
    url = f"sqlite://{filled / 'state.db' if reads else tmp_path / 'target.db'}"

    done = told(*written(command, url, filled, tmp_path))

    assert done.code == 0, done.err
    lines = [re.match(r"kine: ([a-z ]+?)(?:: (\d+) of (\d+))?,", line) for line in done.err.splitlines()]
    assert all(lines), done.err
    seen: dict[str, list[tuple[int, int]]] = {}
    for line in filter(None, lines):
        if line[2]:
            seen.setdefault(line[1], []).append((int(line[2]), int(line[3])))
    assert seen.keys() <= phases.keys()
    assert seen
    for phase, counts in seen.items():
        assert counts == sorted(counts)
        assert {total for _, total in counts} == {phases[phase] or counts[0][1]}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_tls_that_is_none_is_named_with_its_flag(
    command: str, filled: Path, tmp_path: Path
) -> None:
    arguments = written(command, "https://127.0.0.1:1", filled, tmp_path)
    wrong = str(filled / "snapshot")

    pair = told(*arguments, "--cert-file", wrong, "--key-file", wrong)
    authority = told(*arguments, "--ca-file", wrong)
    absent = told(*arguments, "--ca-file", "/there/is/none")

    assert [done.code for done in (pair, authority, absent)] == [2, 2, 2]
    assert "--cert-file and --key-file are not a PEM certificate and its unencrypted key" in pair.err
    assert "--ca-file holds no PEM certificate; give the file of the CA" in authority.err
    assert "--ca-file: /there/is/none: No such file or directory" in absent.err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", ["check", "status", "save", "migrate from"])
def test_a_directory_is_no_database(command: str, filled: Path, tmp_path: Path) -> None:
    done = told(*written(command, f"sqlite://{filled}", filled, tmp_path))

    assert done.code != 0
    assert f"{filled} is a directory; name a file in " in done.err


@pytest.mark.parametrize("command", ["check", "status", "save", "migrate to"])
def test_what_is_no_mysql_server_is_told(command: str, filled: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"\x05\x00\x00\x07hello")

        threading.Thread(target=answer, daemon=True).start()
        url = f"mysql://user@tcp(127.0.0.1:{listening.getsockname()[1]})/kine"
        done = told(*written(command, url, filled, tmp_path))
        listening.shutdown(socket.SHUT_RDWR)

    assert done.code != 0
    assert "what answers there is no MySQL server" in done.err
