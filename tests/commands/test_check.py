"""`kine check` on a healthy database, on every kind of corruption it looks for, and on unreadable input."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from kine.commands.table_rules import RULES
from kine.drivers.base import UNFINISHED
from tests.client import Client
from tests.commands.conftest import told
from tests.databases import mysql as mysql_binary
from tests.servers import mysql
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("commands")  # their databases are started once


def fill(endpoint: str, directory: Path) -> None:
    """A history with updates, deletions, keys created again, a lease, and a compaction in the middle."""
    server = start_kine(endpoint, "http2", directory)
    with Client(server.address) as client:
        lease = client.grant(600).ID
        for number in range(20):
            client.put(b"/k/%d" % (number % 5), b"value %d" % number, lease=lease if number % 7 == 0 else 0)
            if number % 4 == 3:
                client.delete(b"/k/%d" % (number % 3))
        client.compact(client.revision() - 8, physical=True)
        client.put(b"/k/0", b"last")
    assert server.stop() == 0


def test_healthy_database_has_no_findings(database: str, tmp_path: Path) -> None:
    fill(database, tmp_path)

    found = told("check", "--endpoint", database, "--output", "json")

    assert (found.code, found.json) == (0, {"findings": []}), found


BREAKS = {
    "duplicate-predecessor": (
        "DROP INDEX kine_name_prev_revision_uindex; INSERT INTO kine"
        " (name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
        " SELECT name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine"
        " WHERE id = (SELECT max(id) FROM kine)"
    ),
    "missing-index": "DROP INDEX kine_name_prev_revision_uindex",
    "later-predecessor": "UPDATE kine SET prev_revision = id + 1 WHERE id = (SELECT max(id) FROM kine)",
    "foreign-predecessor": "UPDATE kine SET name = '/other' WHERE id = (SELECT max(id) FROM kine)",
    "create-revision": (
        "UPDATE kine SET create_revision = 1"
        " WHERE id = (SELECT max(id) FROM kine WHERE created + deleted = 0)"
    ),
    "old-value": "UPDATE kine SET old_value = x'00' WHERE id = (SELECT max(id) FROM kine WHERE deleted = 1)",
    "missing-predecessor": (
        "DELETE FROM kine WHERE id = (SELECT max(prev_revision) FROM kine WHERE name != 'compact_rev_key'"
        " AND created = 0)"
    ),
    "two-heads": (
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease)"
        " VALUES ('/k/0', 1, 0, 0, 0, 0)"
    ),
    "created-over-live": "UPDATE kine SET deleted = 0 WHERE id = (SELECT max(prev_revision) FROM kine"
    " WHERE created = 1 AND prev_revision > 0)",
    "changed-after-delete": "UPDATE kine SET deleted = 1 WHERE id = (SELECT max(prev_revision) FROM kine"
    " WHERE created + deleted = 0 AND name != 'compact_rev_key')",
    "left-by-compaction": "UPDATE kine SET prev_revision = (SELECT max(id) FROM kine) - 1"
    " WHERE name = 'compact_rev_key'",
    "compact-row": (
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease)"
        " VALUES ('compact_rev_key', 1, 0, 0, 2, 0)"
    ),
    "compacted-future": "UPDATE kine SET prev_revision = 1000 WHERE name = 'compact_rev_key'",
    "allocator-behind": "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'kine'",
    "gap": "UPDATE kine SET id = id + 1 WHERE id = (SELECT max(id) FROM kine)",
    "number-for-name": "PRAGMA writable_schema = ON;"
    " UPDATE sqlite_master SET sql = replace(sql, 'name TEXT', 'name INTEGER') WHERE name = 'kine';"
    " PRAGMA writable_schema = RESET; UPDATE kine SET name = '1e3' WHERE id = (SELECT max(id) FROM kine)",
    "unfinished-restore": f"INSERT INTO kine_lease (id, ttl, renewals) VALUES ({UNFINISHED}, 2147483648, 0)",
    "extra-without-row": "INSERT INTO kine_extra (id, lease, version) VALUES (1000, 0, 0)",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("filled")
    fill(f"sqlite://{directory / 'state.db'}", directory)
    return (directory / "state.db").read_bytes()


@pytest.mark.parametrize("broken", BREAKS)
def test_each_way_to_break_it_is_found(broken: str, filled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(filled)
    with sqlite3.connect(path) as connection:
        connection.executescript(BREAKS[broken])
    connection.close()
    before = path.read_bytes()

    found = told("check", "--endpoint", f"sqlite://{path}", "--output", "json")

    assert found.code == 1, found
    assert broken in {finding["id"] for finding in found.json["findings"]}
    assert path.read_bytes() == before


def test_every_rule_has_a_way_to_break_it() -> None:
    assert BREAKS.keys() == {rule.id for rule in RULES} | {"missing-index", "allocator-behind"}


@pytest.mark.parametrize("destroyed", ["its rows", "all but its header", "all"])
@pytest.mark.parametrize("name", ["kine", "kine_name_prev_revision_uindex", "kine_extra", "sqlite_master"])
def test_damaged_page_is_told_with_what_to_do(
    name: str, destroyed: str, filled: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(filled)
    with sqlite3.connect(path) as connection:
        pages = dict(connection.execute("SELECT name, rootpage FROM sqlite_master"))
        [(size,)] = connection.execute("PRAGMA page_size")
    connection.close()
    start, end = (pages.get(name, 1) - 1) * size, pages.get(name, 1) * size
    header = 100 if start == 0 else 0  # the file header, without which it is no SQLite database
    rows = start + int.from_bytes(filled[start + header + 5 : start + header + 7], "big")
    first = {"its rows": rows, "all but its header": start + header + 8, "all": start + header}[destroyed]
    data = filled[:first] + b"\xa5" * (end - first) + filled[end:]
    path.write_bytes(data)

    listed = told("check", "--endpoint", f"sqlite://{path}", "--output", "json")
    found = told("check", "--endpoint", f"sqlite://{path}")

    assert (listed.code, {finding["id"] for finding in listed.json["findings"]}) == (1, {"damaged-file"})
    assert (found.code, found.err) == (1, ""), found
    assert found.out.count("restore the file from a backup") == 1
    assert path.read_bytes() == data


def test_log_of_another_database_beside_a_damaged_file_is_named(filled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(filled[:4096] + b"\xa5" * (len(filled) - 4096))
    (tmp_path / "state.db-wal").write_bytes(b"of another database")

    found = told("check", "--endpoint", f"sqlite://{path}")

    assert found.code == 1
    assert f"move {path}-wal and {path}-shm away" in found.out


def test_text_names_rows_and_ends_with_the_plan(filled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(filled)
    with sqlite3.connect(path) as connection:
        connection.execute(BREAKS["extra-without-row"])
    connection.close()

    found = told("check", "--endpoint", f"sqlite://{path}")

    assert (found.code, found.err) == (1, "")
    assert found.out == (
        "extra-without-row: lease and version are kept for a row that is gone (1 rows: ids 1000)\n"
        "\n"
        "To repair: save a copy of the database, stop every kine on it, then\n"
        "    -- extra-without-row\n"
        "    DELETE FROM kine_extra WHERE id IN (1000);\n"
        "Then check again.\n"
    )


def test_plan_repairs_what_can_be_repaired(filled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(filled)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(BREAKS["extra-without-row"])
    connection.execute(
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease)"
        " SELECT '/k/4', 0, 1, 0, id, 0 FROM kine WHERE name = '/k/4' ORDER BY id DESC LIMIT 1"
    )
    connection.execute(
        "UPDATE kine SET prev_revision = (SELECT max(id) + 1 FROM kine) WHERE name = 'compact_rev_key'"
    )
    connection.execute(  # the next write after that compaction, which has removed the deletion before it
        "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease)"
        " VALUES ('/new', 1, 0, 0, 0, 0)"
    )
    connection.execute(BREAKS["missing-index"])
    found = told("check", "--endpoint", f"sqlite://{path}", "--output", "json")

    repaired = {finding["id"] for finding in found.json["findings"]}
    assert repaired == {"extra-without-row", "missing-index", "left-by-compaction"}
    while found.code:  # the old value kept for a removed row is the next finding
        for finding in reversed(found.json["findings"]):
            connection.execute(finding["repair"])
        found = told("check", "--endpoint", f"sqlite://{path}", "--output", "json")
    connection.close()

    assert told("check", "--endpoint", f"sqlite://{path}").out == "nothing found\n"


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("sqlite:///nowhere/state.db", "there is no file /nowhere/state.db"),
        ("memory://", "only SQLite, PostgreSQL and MySQL can be looked into"),
        ("http://127.0.0.1:2379", "only SQLite, PostgreSQL and MySQL can be looked into"),
        ("postgres://u:hunter22@127.0.0.1:1/x", "Connection refused"),
    ],
)
def test_what_cannot_be_read_is_exit_code_2_and_one_line(endpoint: str, said: str) -> None:
    found = told("check", "--endpoint", endpoint)

    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found
    assert said in found.err
    assert "hunter22" not in found.err


def test_plan_is_in_the_databases_own_words(tmp_path: Path) -> None:
    if reason := mysql_binary.missing():
        pytest.skip(reason)
    server = mysql.database_server()
    name = server.new_database()
    fill(server.endpoint(name), tmp_path)
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"USE {name}")
        cursor.execute("SELECT max(id) FROM kine WHERE deleted = 1")
        cursor.execute(f"UPDATE kine SET old_value = x'00' WHERE id = {cursor.fetchone()[0]}")
        admin.commit()
        found = told("check", "--endpoint", server.endpoint(name), "--output", "json")
        [finding] = found.json["findings"]
        cursor.execute(finding["repair"])
        admin.commit()

    assert finding["id"] == "old-value"
    assert told("check", "--endpoint", server.endpoint(name)).out == "nothing found\n"
