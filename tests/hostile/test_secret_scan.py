"""The secret scan at the end of every run: it finds planted secrets, and does not print them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from tests import secret_scan
from tests.cleanup_at_exit import ENDINGS
from tests.client import Client
from tests.databases import mysql as mysql_programs
from tests.databases import nats as nats_programs
from tests.databases import postgres as postgres_programs
from tests.databases.process import free_port
from tests.servers import mysql, postgres
from tests.servers.kine import serving
from tests.servers.process import start

ROOT = Path(__file__).parents[2]


def run(chosen: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/hostile/leaking_sample.py",
    ]
    return subprocess.run([*command, "-k", chosen], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_run_fails_where_a_secret_was_told() -> None:
    ended = run("password")

    assert ended.returncode == 1, ended.stdout
    assert "line 1: the endpoint, or its password" in ended.stdout
    assert "planted word" not in ended.stdout


def test_run_passes_where_none_was_told() -> None:
    assert run("well").returncode == 0


@pytest.mark.parametrize(
    "kind",
    ["postgres", "embedded", *(pytest.param(kind, marks=pytest.mark.engines) for kind in ("mysql", "nats"))],
)
def test_profiles_metrics_and_arguments_tell_no_password(
    kind: str, apart: dict[str, str], tmp_path: Path
) -> None:
    word = "a-word-in-confidence"
    if kind == "embedded":
        endpoint = f"nats://kine:{word}@127.0.0.1:{free_port()}?dataDir={tmp_path / 'nats'}"
    else:
        endpoint = logging_in(kind, word)
    command = [sys.executable, "-m", "kine", "--listen-address=127.0.0.1:0", "--metrics-bind-address=0",
               "--metrics-enable-profiling", "--log-format=json", "--debug"]  # fmt: skip
    server = start(command, tmp_path, serving, {"KINE_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)})
    with ThreadPoolExecutor() as threads, Client(server.address) as client:
        looking = threads.submit(secret_scan.look_at, server)
        while not looking.done():
            client.put(b"/k", b"1")
        assert looking.result() == len(secret_scan.PAGES)
    assert server.stop() == 0
    assert word in apart
    assert [where for where, _ in secret_scan._pages if "cmdline" in where]
    assert secret_scan.leaks() == []


def logging_in(kind: str, word: str) -> str:
    """The endpoint of a server on which a user with this password may do everything."""
    if kind == "nats":
        if reason := nats_programs.missing():
            pytest.skip(reason)
        server = nats_programs.Nats(1, f"authorization {{ user: kine, password: {word} }}")
        ENDINGS.callback(server.stop)
        return server.endpoint("kine").replace("nats://", f"nats://kine:{word}@")
    programs, servers = (postgres_programs, postgres) if kind == "postgres" else (mysql_programs, mysql)
    if reason := programs.missing():
        pytest.skip(reason)
    shared = servers.database_server()
    name = shared.new_database()
    statements = (
        (f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{word}'",)
        if kind == "postgres"
        else (
            f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{word}'",
            f"GRANT ALL ON *.* TO {name}@'127.0.0.1'",
        )
    )
    with shared.admin() as admin, admin.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    if kind == "postgres":
        return f"postgres://{name}:{word}@127.0.0.1:{shared.port}/{name}"
    return f"mysql://{name}:{word}@tcp(127.0.0.1:{shared.port})/{name}"


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Resets the scan to its state at the beginning of a run."""
    told: dict[str, str] = {}
    monkeypatch.setattr(secret_scan, "_told", told)
    monkeypatch.setattr(secret_scan, "_logs", [])
    monkeypatch.setattr(secret_scan, "_pages", [])
    return told


def test_keys_tokens_and_pages_are_looked_at(apart: dict[str, str], tmp_path: Path) -> None:
    key, creds, log = tmp_path / "server.key", tmp_path / "user.creds", tmp_path / "server.log"
    trustme.CA().issue_cert("a").private_key_pem.write_to_path(str(key))
    creds.write_text("-----BEGIN USER NKEY SEED-----\nSUAPLANTED\n------END USER NKEY SEED------\n")
    command = ["kine", f"--server-key-file={key}", f"--endpoint=nats://a-token@h?noEmbed&credsFile={creds}"]
    secret_scan.started(command, {"AWS_SECRET_ACCESS_KEY": "of amazon", "PATH": "/usr/bin"}, log)
    assert secret_scan.leaks() == []

    lines = key.read_text().splitlines()
    log.write_text(f"first\n{lines[1]}\nSUAPLANTED\na-token\nof amazon\n/usr/bin\n")
    secret_scan._pages.append(("page", 'a_metric{by="a-token"} 1'))

    assert secret_scan.leaks() == [
        f"{log}, line 2: a line of server.key",
        f"{log}, line 4: the endpoint, or its password",
        f"{log}, line 3: a line of user.creds",
        f"{log}, line 5: AWS_SECRET_ACCESS_KEY",
        "page, line 1: the endpoint, or its password",
    ]
