"""Server defaults that would weaken a guarantee: kine overrides them per session, or does not start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from kine.drivers.base import DriverError
from tests.client import Client
from tests.commands.conftest import told
from tests.databases import mysql, postgres
from tests.drivers.driver_databases import MysqlPlace, PostgresPlace
from tests.drivers.go_rows import make_table
from tests.servers.kine import start_kine
from tests.txn_ops import get, put

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers.conftest import OpenLog
    from tests.drivers.driver_databases import Place


@pytest.fixture(scope="module")
def mysql_with_defaults() -> Iterator[mysql.Mysql]:
    if reason := mysql.missing():
        pytest.skip(reason)
    server = mysql.Mysql(
        "default-storage-engine=MyISAM",
        "transaction-isolation=SERIALIZABLE",
        "completion-type=RELEASE",
        "sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT",
        "character-set-server=utf16",
        "autocommit=0",
        "init-connect=SET NAMES latin1, unique_checks=0",
    )
    with closing(server.admin()) as admin, admin.cursor() as cursor:
        cursor.execute("SET GLOBAL sql_select_limit = 2")
        cursor.execute("SET GLOBAL sql_safe_updates = 1")
        cursor.execute("SET GLOBAL unique_checks = 0")
        cursor.execute("SET GLOBAL tx_read_only = 1" if "maria" in mysql.binary() else "SELECT 1")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def postgres_with_defaults() -> Iterator[postgres.Postgres]:
    if reason := postgres.missing():
        pytest.skip(reason)
    server = postgres.Postgres(
        "default_transaction_isolation=serializable",
        "synchronous_commit=off",
        "default_transaction_deferrable=on",
        "client_encoding=latin1",
        "bytea_output=escape",
        "standard_conforming_strings=off",
    )
    yield server
    server.stop()


@pytest.fixture(params=["mysql", "postgres"])
def hostile_place(request: pytest.FixtureRequest) -> Place:
    server = request.getfixturevalue(f"{request.param}_with_defaults")
    return MysqlPlace(server) if request.param == "mysql" else PostgresPlace(server)


@pytest.mark.slow
def test_everything_holds_on_a_server_with_other_defaults(hostile_place: Place, tmp_path: Path) -> None:
    first = start_kine(hostile_place.endpoint(), "http2", tmp_path / "first")
    second = start_kine(hostile_place.endpoint(), "http2", tmp_path / "second")
    value = b"\\'\"\xff\x00%s || end"
    with Client(first.address) as one, Client(second.address) as two, one.watch() as watch:
        watch.create(b"/", b"0")
        for number in range(6):
            (one, two)[number % 2].put(b"/k/%d" % (number % 3), value)
        lease = two.grant(600).ID
        for number in range(4):
            two.put(b"/leased/%d" % number, lease=lease)
        txn = one.txn([], [put(b"/a", b"1"), put(b"/b", b"2"), get(b"/k/0")], [])
        assert txn.succeeded
        assert len(watch.events(12)) == 12
        for client in (one, two):
            assert [item.value for item in client.range(b"/k/", b"/k0").kvs] == [value] * 3
            assert client.range(b"/", b"0", count_only=True).count == 10
        one.revoke(lease)
        one.compact(one.revision(), physical=True)
        assert two.range(b"/", b"0", count_only=True).count == 6
    assert first.stop() == 0
    assert second.stop() == 0


async def test_tables_are_made_on_an_engine_with_transactions(
    mysql_with_defaults: mysql.Mysql, open_log: OpenLog
) -> None:
    await open_log(place := MysqlPlace(mysql_with_defaults))
    with closing(place.go()) as go:
        engines = dict(go.run(
            "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = ? LIMIT 100",
            (place.database,),
        ))  # fmt: skip
    assert engines
    assert set(engines.values()) == {"InnoDB"}


async def test_a_table_on_another_engine_is_refused_with_what_to_run(
    mysql_with_defaults: mysql.Mysql, open_log: OpenLog
) -> None:
    place = MysqlPlace(mysql_with_defaults)
    with closing(place.server.admin()) as admin, admin.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ WRITE")
        cursor.execute(f"CREATE DATABASE {place.database}")
    with closing(place.go()) as go:
        go.run("SET SESSION TRANSACTION READ WRITE")
        go.run("SET SESSION sql_mode = ''")
        make_table(go, "mysql")
    with pytest.raises(DriverError) as refused:
        await open_log(place)
    assert "MyISAM" in str(refused.value)
    statement = str(refused.value).partition(" run ")[2]
    assert statement.replace(" ", "").rstrip(";") == "ALTERTABLEkineENGINE=InnoDB"

    with closing(place.go()) as go:
        go.run("SET SESSION TRANSACTION READ WRITE")
        go.run(statement)
    assert await (await open_log(place)).newest() == 0


def test_check_finds_a_table_that_keeps_no_promise(hostile_place: Place, tmp_path: Path) -> None:
    assert start_kine(hostile_place.endpoint(), "http2", tmp_path).stop() == 0
    with closing(hostile_place.go()) as go:
        if hostile_place.kind == "mysql":
            go.run("SET SESSION TRANSACTION READ WRITE")
            broken, name = "ENGINE = MyISAM", "storage-engine"
        else:
            broken, name = "SET UNLOGGED", "unlogged-table"
        go.run(f"ALTER TABLE kine_extra {broken}")

        found = told("check", "--endpoint", hostile_place.endpoint(), "--output", "json")

        assert found.code == 1, found
        assert [finding["id"] for finding in found.json["findings"]] == [name]
        go.run(found.json["findings"][0]["repair"].rstrip(";"))
    assert told("check", "--endpoint", hostile_place.endpoint()).out == "nothing found\n"


async def test_every_transaction_is_durable_and_sees_what_was_committed(
    postgres_with_defaults: postgres.Postgres, tmp_path: Path
) -> None:
    """A trigger records the settings in force where a row is written."""
    place = PostgresPlace(postgres_with_defaults)
    instance = start_kine(place.endpoint(), "http2", tmp_path)
    with closing(place.go()) as go, Client(instance.address) as client:
        go.run("CREATE TABLE noted (isolation text, durable text)")
        go.run(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO noted VALUES"
            " (current_setting('transaction_isolation'), current_setting('synchronous_commit'));"
            " RETURN NULL; END $$"
        )
        go.run("CREATE TRIGGER note AFTER INSERT OR UPDATE ON kine EXECUTE FUNCTION note()")
        client.put(b"/a", b"1")
        client.txn([], [put(b"/a", b"2"), put(b"/b", b"2")], [])
        client.compact(client.revision(), physical=True)
        noted = go.run("SELECT DISTINCT isolation, durable FROM noted")
    assert instance.stop() == 0
    assert noted == [("read committed", "on")]


@pytest.mark.parametrize(
    ("broken", "statement"),
    [
        ("ALTER TABLE kine_extra SET UNLOGGED", "ALTER TABLE kine_extra SET LOGGED;"),
        (
            "DROP INDEX kine_name_prev_revision_uindex;"
            " CREATE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)",
            "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision);",
        ),
        ("ALTER TABLE kine DROP CONSTRAINT kine_pkey", "ALTER TABLE kine ADD PRIMARY KEY (id);"),
        ("ALTER TABLE kine ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE kine_id_seq", "CREATE SEQUENCE"),
    ],
)
async def test_what_a_copied_table_has_lost_is_refused_with_what_to_run(
    postgres_with_defaults: postgres.Postgres, open_log: OpenLog, broken: str, statement: str
) -> None:
    place = PostgresPlace(postgres_with_defaults)
    await (await open_log(place)).close()
    with closing(place.go()) as go:
        go.run(broken)

    with pytest.raises(DriverError) as refused:
        await open_log(place)

    assert statement in str(refused.value)
    with closing(place.go()) as go:
        go.run(str(refused.value).partition(" run ")[2])
    await open_log(place)


async def test_a_sequence_with_a_cache_of_its_own_is_set_right(
    postgres_with_defaults: postgres.Postgres, open_log: OpenLog
) -> None:
    place = PostgresPlace(postgres_with_defaults)
    await (await open_log(place)).close()
    with closing(place.go()) as go:
        go.run("ALTER SEQUENCE kine_id_seq INCREMENT 2 CACHE 50 CYCLE")
        await open_log(place)
        assert go.run("SELECT seqincrement, seqcache, seqcycle FROM pg_sequence") == [(1, 1, False)]
