"""Log and SQL injection: no client's request or setting adds a log line or a statement."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest

from kine import drivers
from kine.cli import main
from kine.drivers.base import Options
from kine.drivers.postgres import dsn as postgres_dsn
from tests.client import Client
from tests.databases import mysql, postgres
from tests.servers import mysql as mysql_servers
from tests.servers import postgres as postgres_servers
from tests.servers.kine import serving, start_kine

FORGED = (
    'x\n{"severity": "error", "message": "forged"}\r\ntime="now" level=error msg=forged\x1b[31m\x85\u2028\x07'
)
PLAIN = re.compile(r'time="[^"]+" level=(debug|info|warning|error|fatal) msg=.*')
ADDRESS = re.compile(r"msg=serving address=(\S+)")


def in_plain(line: str) -> str | None:
    found = ADDRESS.search(line)
    return found[1] if found else None


def is_plain(line: str) -> bool:
    return PLAIN.fullmatch(line) is not None


def is_json(line: str) -> bool:
    return {"severity", "message", "time"} <= json.loads(line).keys()


def say(address: str, what: bytes) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as plain:
        plain.settimeout(10)
        plain.sendall(what)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(65_536):
            pass


@pytest.mark.parametrize(
    ("transport", "form", "address_in", "well_formed"),
    [
        ("http2", "plain", in_plain, is_plain),
        ("http2", "json", serving, is_json),
        ("grpcio", "json", serving, is_json),
    ],
)
def test_each_line_of_the_log_is_one(
    tmp_path: Path,
    transport: str,
    form: str,
    address_in: Callable[[str], str | None],
    well_formed: Callable[[str], bool],
) -> None:
    key = f"/{FORGED}".encode()
    flags = (f"--log-format={form}", "--debug", "--slow-sql-threshold=1ns")
    server = start_kine(
        f"sqlite://{tmp_path / 'state.db'}", transport, tmp_path, flags=flags, until=address_in
    )
    with Client(server.address) as client:
        lease = client.grant(60).ID
        client.put(key, FORGED.encode(), lease=lease)
        client.delete(key)
        for method in (f"/{quote(FORGED)}/x", "/etcdserverpb.KV/\x7f", "/etcdserverpb.KV/%0aforged", "/", ""):
            with pytest.raises((grpc.RpcError, ValueError)):
                client.channel.unary_unary(method)(b"", timeout=10, metadata=(("x-forged-bin", key),))
    for path in (b"/%0aforged", b"/\x1b[31mforged", b"/metrics?x=\rforged"):
        say(
            server.address, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nUser-Agent: a\x1b]0;forged\x07\r\n\r\n"
        )
    server.stop()

    lines = server.log.read_bytes().decode().removesuffix("\n").split("\n")
    assert [line for line in lines if not (line.isprintable() and well_formed(line))] == []
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"--listen-address={FORGED}"],
        [f"--log-format={FORGED}"],
        [f"--emulated-etcd-version={FORGED}"],
        [f"--compact-interval={FORGED}"],
        [f"--{FORGED}"],
        [FORGED],
        ["status", f"--endpoint={FORGED}"],
        ["check", f"--endpoint={FORGED}://x"],
        ["snapshot", "save", f"--endpoint={FORGED}", FORGED],
    ],
    ids=lambda arguments: arguments[0][:12].partition("x")[0] or "bare",
)
def test_what_is_said_of_a_wrong_argument_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    said = capsys.readouterr().err
    assert ended.value.code not in (0, None)
    assert said.endswith("\n")
    assert said.removesuffix("\n").isprintable(), ascii(said)


# ---- SQL


@pytest.mark.parametrize(
    "endpoint",
    [
        "mysql://u:p@tcp(127.0.0.1:1)/d?innodb_lock_wait_timeout=1;DROP TABLE kine",
        "mysql://u:p@tcp(127.0.0.1:1)/d?a=1, SESSION sql_mode=''",
        "mysql://u:p@tcp(127.0.0.1:1)/d?a b=1",
        "mysql://u:p@tcp(127.0.0.1:1)/d?sql_mode='NO_BACKSLASH_ESCAPES'",
        "mysql://u:p@tcp(127.0.0.1:1)/d?a=%27%5C%27%3B%20DROP%20TABLE%20kine%27",
        "postgres://u:p@127.0.0.1:1/d?a;DROP TABLE kine=1",
        "postgres://u:p@127.0.0.1:1/d?lock_timeout=1'; DROP TABLE kine; --",
        "sqlite:///tmp/x.db?journal_mode=wal; DROP TABLE kine",
        "sqlite:///tmp/x.db?synchronous=off; DROP TABLE kine",
        "nats://127.0.0.1:1?noEmbed&bucket=a.b%20%3E",
    ],
)
def test_statements_in_parameters_are_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint") as refusal:
        drivers.connect(endpoint, Options())

    assert str(refusal.value).isprintable()
    assert "p@127" not in str(refusal.value)


def test_setting_of_postgres_stays_one_setting() -> None:
    endpoint = "postgres://u:p@h/d?search_path=a%09-c%20log_statement%3Dall%0A%5C"

    dsn = postgres_dsn.parse(endpoint, Options())

    assert dsn.connection["options"] == "-c search_path=a\\\t-c\\ log_statement=all\\\n\\\\"


HOSTILE_NAME = "o'x`y\"z; drop database postgres -- \\"


@pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing())
def test_database_of_postgres_may_have_any_name(tmp_path: Path) -> None:
    server = postgres_servers.database_server()
    with server.admin() as admin:
        names = "SELECT datname FROM pg_database"
        before = {row[0] for row in admin.execute(names)}
        served(server.endpoint(quote(HOSTILE_NAME)), tmp_path)
        assert {row[0] for row in admin.execute(names)} - before == {HOSTILE_NAME}


@pytest.mark.skipif(bool(mysql.missing()), reason=mysql.missing())
def test_database_of_mysql_may_have_any_name(tmp_path: Path) -> None:
    server = mysql_servers.database_server()
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute("SHOW DATABASES")
        before = {row[0] for row in cursor.fetchall()}
        served(server.endpoint(quote(HOSTILE_NAME)), tmp_path)
        cursor.execute("SHOW DATABASES")
        assert {row[0] for row in cursor.fetchall()} - before == {HOSTILE_NAME}


def served(endpoint: str, folder: Path) -> None:
    """Starts a kine there once, and uses it."""
    instance = start_kine(endpoint, "http2", folder)
    with Client(instance.address) as client:
        client.put(b"/k", b"v")
        assert client.get(b"/k").value == b"v"  # type: ignore[union-attr]
    instance.kill()
