"""Start errors of a database: kine exits at once if retrying cannot help, and otherwise waits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import trustme

from kine import drivers
from kine.drivers.base import DriverError, Options, WaitsForDatabase
from kine.drivers.sql.log import SqlLog
from tests.certificates import write_authority, write_pair
from tests.client import Client
from tests.commands.conftest import told
from tests.databases import mysql, nats, postgres
from tests.databases.mysql import Mysql
from tests.databases.postgres import Postgres
from tests.databases.process import DatabaseServer, answers_on, directory, free_port
from tests.drivers.driver_databases import MysqlPlace, PostgresPlace
from tests.servers.kine import serving, start_kine

GO_TABLE = """
CREATE TABLE kine (id {id}, name {name}, created INTEGER, deleted INTEGER, create_revision {number},
    prev_revision {number}, lease INTEGER, value {bytes}, old_value {bytes});
CREATE INDEX kine_name_index ON kine (name);
CREATE INDEX kine_name_id_index ON kine (name, id);
CREATE INDEX kine_id_deleted_index ON kine (id, deleted);
CREATE INDEX kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)
"""
POSTGRES_TYPES = {"name": 'TEXT COLLATE "C"', "bytes": "bytea"}
MYSQL_TYPES = {"name": "VARCHAR(630) CHARACTER SET ascii", "bytes": "MEDIUMBLOB"}
POSTGRES_TABLE = GO_TABLE.format(id="BIGSERIAL PRIMARY KEY", number="BIGINT", **POSTGRES_TYPES) + (
    "; CREATE INDEX kine_list_query_index ON kine (name, id DESC, deleted)"
)
MYSQL_TABLE = GO_TABLE.format(
    id="BIGINT UNSIGNED AUTO_INCREMENT, PRIMARY KEY (id)", number="BIGINT UNSIGNED", **MYSQL_TYPES
)
NARROW = {
    "postgres": GO_TABLE.format(id="SERIAL PRIMARY KEY", number="INTEGER", **POSTGRES_TYPES)
    + "; CREATE INDEX kine_list_query_index ON kine (name, id DESC, deleted)",
    "mysql": GO_TABLE.format(id="INTEGER AUTO_INCREMENT, PRIMARY KEY (id)", number="INTEGER", **MYSQL_TYPES),
}
LAST = 2**31 - 1


def run(server: Postgres | Mysql, statements: str, database: str | None = None) -> None:
    connection: Any = server.admin(database) if database else server.admin()
    with connection.cursor() as cursor:
        for statement in statements.split(";"):
            if statement.strip():
                cursor.execute(statement)
    connection.close()


def make_mysql_user(server: Mysql, name: str, rights: str = "ALL", password: str = "set-up-word") -> None:
    run(server, f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{password}'")
    run(server, f"GRANT {rights} ON {name}.* TO {name}@'127.0.0.1'")


async def open_log(endpoint: str, options: Options | None = None) -> None:
    log = drivers.connect(endpoint, options or Options())
    try:
        async with asyncio.timeout(120):
            await log.open()
    finally:
        await log.close()


# ---- permanent


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("nonsense=1", "nonsense"),
        ("statement_timeout=soon", "statement_timeout"),
        ("shared_buffers=1GB", "shared_buf"),
        ("options=--foo", "--foo"),
        ("options=-c%20foo", "foo"),
        ("options=-!", "command-line argument"),
        ("hostaddr=nowhere", "nowhere"),
    ],
)
async def test_parameter_that_postgres_refuses_ends_the_start(
    postgres_server: Postgres, parameters: str, said: str
) -> None:
    with pytest.raises(DriverError, match=f"{said}.*correct or remove that parameter of the endpoint"):
        await open_log(PostgresPlace(postgres_server).endpoint(parameters))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("nonsense=1", "nonsense"),
        ("max_statement_time=soon", "max_statement_time"),
        ("port=1", "port"),
        ("charset=foo8", "foo8"),
        ("charset=foo8,foo9", "foo9"),
        ("collation=foo8", "foo8"),
        ("charset=utf8mb4&collation=latin1_bin", "latin1_bin"),
    ],
)
async def test_parameter_that_mysql_refuses_ends_the_start(
    mysql_server: Mysql, parameters: str, said: str
) -> None:
    with pytest.raises(DriverError, match=f"{said}.*correct or remove that parameter of the endpoint"):
        await open_log(MysqlPlace(mysql_server).endpoint(parameters))


async def test_encoding_that_postgres_does_not_have_ends_the_start(postgres_server: Postgres) -> None:
    with pytest.raises(DriverError, match=r"no encoding 'latin9x'.*correct or remove client_encoding"):
        await open_log(PostgresPlace(postgres_server).endpoint("client_encoding=latin9x"))


async def test_encoding_that_postgres_has_is_told_to_have_no_effect(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    await open_log(PostgresPlace(postgres_server).endpoint("client_encoding=latin1"))
    assert "client_encoding=latin1 in the endpoint has no effect" in caplog.text


async def test_character_sets_that_mysql_has_are_taken(mysql_server: Mysql) -> None:
    for parameters in ("charset=foo8,utf8", "collation=latin1_bin", "charset=utf8mb4&collation=utf8mb4_bin"):
        await open_log(MysqlPlace(mysql_server).endpoint(parameters))


# ---- what the database's owner can fix


def readiness(address: str) -> str:
    """The text of /readyz; empty if it returns 200."""
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()


class Mending:
    """Reads each line of a starting server's log, and applies the fix that the next expected line names."""

    def __init__(self, *steps: tuple[str, Callable[[re.Match[str]], None]]) -> None:
        self._steps = list(steps)
        self.port = free_port()

    def __call__(self, line: str) -> str | None:
        if self._steps and (found := re.search(self._steps[0][0], line)):
            assert re.search(self._steps[0][0], self._readiness()), line
            self._steps.pop(0)[1](found)
        return serving(line)

    def _readiness(self) -> str:
        """The text of /readyz, as JSON escapes it in the log."""
        return readiness(f"127.0.0.1:{self.port}").replace('"', '\\"')

    def serve(self, endpoint: str, directory: Path) -> None:
        flags = (f"--metrics-bind-address=127.0.0.1:{self.port}",)
        server = start_kine(endpoint, "http2", directory, flags=flags, until=self)
        with Client(server.address) as client:
            assert client.put(b"/mended").header.revision > 0
        assert server.stop() == 0
        assert not self._steps


def test_postgres_that_is_still_being_set_up_is_waited_for(postgres_server: Postgres, tmp_path: Path) -> None:
    server = postgres_server
    name = server.new_database()
    mending = Mending(
        (
            "password authentication failed.*correct the endpoint's user and password",
            lambda _: run(server, f"CREATE ROLE {name} LOGIN PASSWORD 'set-up-word'"),
        ),
        (
            f"the database {name} does not exist and the user may not create it: run (CREATE DATABASE .*)"
            " OWNER",
            lambda found: run(server, found[1]),
        ),
        (
            "permission denied.*42501.*grant the user CREATE on the schema: (GRANT .*;)",
            lambda found: run(server, found[1], name),
        ),
    )
    run(server, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "template1")
    mending.serve(f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", tmp_path)


@pytest.fixture(scope="module")
def german_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that reports login errors in German."""
    if reason := postgres.missing():
        pytest.skip(reason)
    if shutil.which("localedef") is None:
        pytest.skip("no localedef to make a locale with")
    folder = directory("locale", None)
    folder.chmod(0o755)
    subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")],
        check=False,
        capture_output=True,
    )
    server = Postgres("lc_messages=de_DE.UTF-8", environment={"LOCPATH": str(folder)})
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(host="127.0.0.1", port=server.port, user="postgres", password="wrong-word")
    if "fehlgeschlagen" not in str(refused.value):
        server.stop()
        pytest.skip("the server has no German messages")
    yield server
    server.stop()


def test_postgres_that_speaks_another_language_is_understood(
    german_postgres: Postgres, tmp_path: Path
) -> None:
    """The missing database is created; a wrong password is reported with the fix."""
    server = german_postgres
    name = server.new_database()
    run(server, f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'another-word'")
    mending = Mending(
        (
            "fehlgeschlagen.*SQLSTATE 28P01.*correct the endpoint's user and password",
            lambda _: run(server, f"ALTER ROLE {name} PASSWORD 'set-up-word'"),
        ),
    )
    mending.serve(f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", tmp_path)


async def test_parameter_that_is_refused_in_another_language_ends_the_start(
    german_postgres: Postgres,
) -> None:
    with pytest.raises(
        DriverError, match=r"statement_timeout.*SQLSTATE 22023.*correct or remove that parameter"
    ):
        await open_log(PostgresPlace(german_postgres).endpoint("statement_timeout=soon"))


async def test_service_that_is_not_defined_is_looked_for_where_it_is(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICE", "nowhere")
    with pytest.raises(DriverError, match=r"nowhere.*correct service in the endpoint, PGSERVICE, or"):
        await open_log(PostgresPlace(postgres_server).endpoint())


def test_mysql_that_is_still_being_set_up_is_waited_for(mysql_server: Mysql, tmp_path: Path) -> None:
    server = mysql_server
    name = server.new_database()
    mending = Mending(
        (
            "Access denied.*1045.*correct the endpoint's user and password",
            lambda _: run(server, f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'set-up-word'"),
        ),
        (
            "Access denied.*1044.*grant the user ALL on the database: (GRANT .*;)",
            lambda found: run(server, found[1]),
        ),
    )
    mending.serve(f"mysql://{name}:set-up-word@tcp(127.0.0.1:{server.port})/{name}", tmp_path)


def waits_for(kind: str, request: pytest.FixtureRequest, directory: Path) -> tuple[str, str]:
    """A database that no start can connect to, and a line that each attempt has a reason to log."""
    if kind == "sqlite":
        locked = sqlite3.connect(directory / "state.db", isolation_level=None)
        request.addfinalizer(locked.close)
        locked.execute("CREATE TABLE kine (id INTEGER)")
        locked.execute("BEGIN EXCLUSIVE")
        return f"sqlite://{directory / 'state.db'}", "slow SQL: Open took"
    server = request.getfixturevalue(f"{kind}_server")
    name = server.new_database()
    if kind == "mysql":
        make_mysql_user(server, name, rights="SELECT")
        run(server, f"CREATE DATABASE IF NOT EXISTS {name}")
        return f"mysql://{name}:set-up-word@tcp(127.0.0.1:{server.port})/{name}", "the database server is"
    run(server, f"CREATE ROLE {name} LOGIN PASSWORD 'set-up-word'; CREATE DATABASE {name}")
    run(server, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    return f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", "the database server is"


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql"])
async def test_attempts_of_a_start_that_waits_log_each_text_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint, repeated = waits_for(kind, request, tmp_path)
    caplog.set_level(logging.INFO, "kine")
    attempts = asyncio.Semaphore(0)
    log = drivers.connect(endpoint, Options(slow_sql_threshold=0.001))
    assert isinstance(log, WaitsForDatabase)
    log.on_wait = lambda why: attempts.release()
    opening = asyncio.create_task(log.open())

    async with asyncio.timeout(120):
        for _ in range(3):
            await attempts.acquire()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await log.close()

    texts = [re.sub(r"[0-9.]+ s\b", "", text) for text in caplog.messages]
    assert sum(repeated in text for text in texts) == 1, texts
    assert len(texts) == len(set(texts)), texts


def test_postgres_user_who_may_not_create_is_given_the_statements(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    server = postgres_server
    name = server.new_database()
    run(server, f"CREATE ROLE {name} LOGIN PASSWORD 'set-up-word'; CREATE DATABASE {name}")
    run(server, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    run(server, POSTGRES_TABLE, name)
    run(
        server,
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON kine TO {name};"
        f"GRANT USAGE ON SEQUENCE kine_id_seq TO {name}",
        name,
    )
    mending = Mending(
        (
            "run these statements once: (CREATE TABLE.*kine_extra.*kine_writer.* TO \\w+;)",
            lambda found: run(server, found[1], name),
        ),
    )
    mending.serve(f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", tmp_path)


def test_mysql_user_who_may_not_create_is_given_the_statements(mysql_server: Mysql, tmp_path: Path) -> None:
    server = mysql_server
    name = server.new_database()
    run(server, f"CREATE DATABASE {name}")
    make_mysql_user(server, name, "SELECT, INSERT, UPDATE, DELETE")
    run(server, MYSQL_TABLE, name)
    mending = Mending(
        (
            "run these statements once: (USE .*CREATE TABLE.*kine_turn.*GRANT .*;)",
            lambda found: run(server, found[1], name),
        ),
    )
    mending.serve(f"mysql://{name}:set-up-word@tcp(127.0.0.1:{server.port})/{name}", tmp_path)


def go_kines_database(server: Postgres | Mysql, table: str) -> str:
    """A database with Go kine's table; its name is also that of a user without rights in it."""
    name = server.new_database()
    run(server, f"CREATE DATABASE {name}")
    run(server, table, name)
    if isinstance(server, Mysql):
        run(server, f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'set-up-word'")
    else:
        run(server, f"CREATE ROLE {name} LOGIN PASSWORD 'set-up-word'")
        run(server, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
    return name


@pytest.mark.parametrize("rights", ["", "SELECT", "SELECT, INSERT, UPDATE"])
def test_postgres_user_who_lacks_rights_is_given_the_grants(
    postgres_server: Postgres, tmp_path: Path, rights: str
) -> None:
    """Grants on Go kine's table; then, where another user has created kine's own tables, on those."""
    server = postgres_server
    name = go_kines_database(server, POSTGRES_TABLE)
    if rights:
        run(server, f"GRANT {rights} ON kine TO {name}", name)
    mending = Mending(
        (
            "run these statements once: (CREATE TABLE.*kine_writer.*GRANT .* ON kine TO .*SEQUENCE.*;)",
            lambda found: run(server, f"{found[1]} REVOKE DELETE ON kine_writer, kine FROM {name}", name),
        ),
        (
            r"lacks DELETE on kine, kine_writer; let the owner of the tables run: (GRANT DELETE .*?;)",
            lambda found: run(server, f"{found[1]} REVOKE USAGE ON SCHEMA public FROM PUBLIC", name),
        ),
        (
            r"search_path names no schema.*(GRANT CREATE, USAGE ON SCHEMA public TO \w+;)",
            lambda found: run(server, found[1], name),
        ),
    )
    mending.serve(f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", tmp_path)


def test_postgres_user_who_may_not_migrate_is_given_the_statements(
    postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres_server
    name = go_kines_database(server, NARROW["postgres"].replace(' COLLATE "C"', ""))
    run(server, "CREATE TABLE key_value (id INT, name TEXT, value BYTEA, ttl INT)", name)
    run(server, f"GRANT ALL ON kine TO {name}; GRANT ALL ON kine_id_seq TO {name}", name)
    run(server, f"GRANT CREATE ON SCHEMA public TO {name}; ALTER SEQUENCE kine_id_seq CACHE 2", name)
    monkeypatch.setenv("KINE_SCHEMA_MIGRATION", "1")

    def owned(found: re.Match[str]) -> None:
        run(server, found[1], name)
        if "ALTER TABLE" in found[1]:  # it may run twice, and each time needs the owner
            run(server, f"ALTER TABLE kine OWNER TO {name}; ALTER SEQUENCE kine_id_seq OWNER TO {name}", name)

    mending = Mending(
        ("must be owner.*let the owner run (ALTER TABLE kine .*?;)", owned),
        ("permission denied for table key_value.*let the owner run (GRANT SELECT ON key_value .*?;)", owned),
    )
    mending.serve(f"postgres://{name}:set-up-word@127.0.0.1:{server.port}/{name}", tmp_path)


@pytest.mark.parametrize("rights", ["", "SELECT", "SELECT, INSERT, UPDATE"])
def test_mysql_user_who_lacks_rights_is_given_the_grants(
    mysql_server: Mysql, tmp_path: Path, rights: str
) -> None:
    server = mysql_server
    name = go_kines_database(server, MYSQL_TABLE)
    account = f"{name}@'127.0.0.1'"
    run(server, f"GRANT {rights or 'SHOW VIEW'} ON {name}.* TO {account}")
    mending = Mending(
        (
            f"run these statements once: (USE .*CREATE TABLE.*kine_writer.*GRANT .* ON `{name}`.kine TO .*;)",
            lambda found: run(server, f"{found[1]} REVOKE DELETE ON {name}.kine_writer FROM {account}"),
        ),
        (
            r"lacks DELETE on kine_writer.*run (GRANT DELETE ON .*;)",
            lambda found: run(server, found[1]),
        ),
    )
    mending.serve(f"mysql://{name}:set-up-word@tcp(127.0.0.1:{server.port})/{name}", tmp_path)


async def test_search_path_without_a_schema_is_named(
    postgres_server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    log = drivers.connect(PostgresPlace(postgres_server).endpoint("search_path=nowhere"), Options())
    reasons: asyncio.Queue[str] = asyncio.Queue()
    log.on_wait = reasons.put_nowait  # type: ignore[attr-defined]
    opening = asyncio.create_task(log.open())
    async with asyncio.timeout(120):
        reason = await reasons.get()
    opening.cancel()
    await log.close()
    assert "search_path names no schema that is there" in reason


# ---- server settings that would break statements


@pytest.fixture(scope="module")
def pair() -> tuple[Path, Path]:
    """A certificate and its key, where a database server may read them, next to the CA's `ca.pem`."""
    folder, authority = directory("tls", None), trustme.CA()
    write_authority(folder, authority)
    cert, key = write_pair(folder, authority)
    return Path(cert), Path(key)


@pytest.fixture(scope="module")
def strange_mysql(pair: tuple[Path, Path]) -> Iterator[Mysql]:
    """A server whose global settings differ from those that the statements are written for."""
    if reason := mysql.missing():
        pytest.skip(reason)
    cert, key = pair
    server = Mysql(
        "log-bin", "binlog-format=STATEMENT", "server-id=1", "default-storage-engine=MyISAM",
        f"ssl-cert={cert}", f"ssl-key={key}", f"ssl-ca={cert.parent}/ca.pem",
    )  # fmt: skip
    run(
        server,
        "SET GLOBAL sql_safe_updates = 1; SET GLOBAL sql_select_limit = 1; SET GLOBAL completion_type = 2",
    )
    yield server
    server.stop()


def test_strange_settings_break_nothing(strange_mysql: Mysql, tmp_path: Path) -> None:
    place = MysqlPlace(strange_mysql)
    server = start_kine(place.endpoint(), "http2", tmp_path)
    with Client(server.address) as client:
        for number in range(5):
            client.put(b"/k/%d" % number)
        client.delete(b"/k/0")
        client.compact(client.revision(), physical=True)
        assert client.range(b"/k/", b"/k0").count == 4
    assert server.stop() == 0
    server = start_kine(place.endpoint(), "http2", tmp_path)
    with Client(server.address) as client:
        assert client.range(b"/k/", b"/k0").count == 4
    assert server.stop() == 0

    with strange_mysql.admin(place.database).cursor() as cursor:
        cursor.execute("SET SESSION sql_select_limit = DEFAULT")
        cursor.execute(
            "SELECT DISTINCT engine FROM information_schema.tables WHERE table_schema = DATABASE()"
        )
        assert cursor.fetchall() == (("InnoDB",),)


def aborted(server: Mysql, database: str) -> int:
    server_log = server.server.log.read_text(errors="replace")
    return len(re.findall(f"Aborted connection.* '{database}' ", server_log))


async def connected(server: Mysql, database: str, *, asking: str = "", some: bool) -> None:
    """Waits until a connection, or none, is open that sends this statement."""
    question = (
        "SELECT count(*) FROM information_schema.processlist WHERE db = %s AND coalesce(info, '') LIKE %s"
    )
    with server.admin() as admin, admin.cursor() as cursor:
        async with asyncio.timeout(60):
            while True:
                cursor.execute(question, (database, f"%{asking}%"))
                [[count]] = cursor.fetchall()
                if bool(count) is some:
                    return
                await asyncio.sleep(0.02)


async def test_connections_are_closed_with_a_goodbye(mysql_server: Mysql) -> None:
    place = MysqlPlace(mysql_server)
    for _ in range(3):
        await open_log(place.endpoint())
    await connected(mysql_server, place.database, some=False)
    assert aborted(mysql_server, place.database) == 0


async def test_cancelled_statement_ends_its_connection_with_a_goodbye(
    mysql_server: Mysql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kine.drivers.mysql.database._PARTING", 60.0)
    place = MysqlPlace(mysql_server)
    log = drivers.connect(place.endpoint(), Options())
    assert isinstance(log, SqlLog)
    await log.open()
    database = log._database

    async def in_transaction() -> None:
        async with database.transaction("Test") as session:
            await session.run("SELECT SLEEP(0.5)")

    async def in_snapshot() -> None:
        async with database.snapshot() as session:
            await session.run("SELECT SLEEP(0.5)")

    for ask in (partial(database.query, "Test", "SELECT SLEEP(0.5)"), in_transaction, in_snapshot):
        asking: asyncio.Task[Any] = asyncio.create_task(ask())
        await connected(mysql_server, place.database, asking="SLEEP(0.5)", some=True)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await log.newest() == 0
    connecting = [asyncio.create_task(log.newest()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in connecting:
        task.cancel()  # while its connection is being made
    await asyncio.gather(*connecting, return_exceptions=True)
    await log.close()
    await connected(mysql_server, place.database, some=False)
    assert aborted(mysql_server, place.database) == 0


async def test_statement_based_log_that_cannot_be_changed_ends_the_start(strange_mysql: Mysql) -> None:
    name = strange_mysql.new_database()
    make_mysql_user(strange_mysql, name)
    with pytest.raises(DriverError, match=r"binlog_format=STATEMENT.*set binlog_format to ROW or MIXED"):
        await open_log(f"mysql://{name}:set-up-word@tcp(127.0.0.1:{strange_mysql.port})/{name}")


async def test_table_without_transactions_ends_the_start(strange_mysql: Mysql) -> None:
    name = strange_mysql.new_database()
    run(strange_mysql, f"CREATE DATABASE {name}")
    run(strange_mysql, MYSQL_TABLE, name)
    with pytest.raises(DriverError, match=r"MyISAM.*ENGINE = InnoDB"):
        await open_log(strange_mysql.endpoint(name))


async def test_skip_verify_takes_any_certificate_and_shows_its_own(
    strange_mysql: Mysql, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, key = map(str, pair)
    options = Options(ca_file=write_authority(tmp_path, trustme.CA()), cert_file=cert, key_file=key)
    for tls in ("skip-verify", "preferred"):
        await open_log(MysqlPlace(strange_mysql).endpoint(f"tls={tls}"), options)


async def test_password_of_any_characters_logs_in(mysql_server: Mysql) -> None:
    name = mysql_server.new_database()
    make_mysql_user(mysql_server, name, password="p)/a@b?c")
    await open_log(f"mysql://{name}:p)/a@b?c@tcp(127.0.0.1:{mysql_server.port})/{name}")


# ---- TLS and several hosts of PostgreSQL


@pytest.fixture(scope="module")
def tls_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    if reason := postgres.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    cert, key = write_pair(folder, authority)
    write_authority(folder, authority)
    server = Postgres()
    for source, target in ((cert, "server.crt"), (key, "server.key")):
        path = server.directory / target
        path.write_bytes(Path(source).read_bytes())
        path.chmod(0o600)
        owner = (server.directory / "data").stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        run(server, f"ALTER SYSTEM SET ssl_{'cert' if target.endswith('crt') else 'key'}_file = '{path}'")
    run(server, "ALTER SYSTEM SET ssl = on")
    server.restart()
    yield server, folder
    server.stop()


async def test_verify_full_by_the_systems_authorities_and_a_key_with_mode_0644(
    tls_postgres: tuple[Postgres, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = tls_postgres
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    monkeypatch.setenv("HOME", str(folder))
    (folder / "server.key").chmod(0o644)
    options = Options(cert_file=str(folder / "server.pem"), key_file=str(folder / "server.key"))
    for mode in ("verify-full", "verify-ca"):
        await open_log(PostgresPlace(server).endpoint(f"sslmode={mode}"), options)


async def test_second_of_two_hosts_is_found(postgres_server: Postgres) -> None:
    one = PostgresPlace(postgres_server).endpoint()
    two = one.replace("@127.0.0.1", f"@127.0.0.1:{free_port()},127.0.0.1")
    await open_log(two)


# ---- 32-bit ids


@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_ids_of_32_bits(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: Postgres | Mysql = request.getfixturevalue(f"{kind}_server")
    name = server.new_database()
    run(server, f"CREATE DATABASE {name}")
    run(server, NARROW[kind], name)
    columns = "(id, name, created, deleted, create_revision, prev_revision, lease, value)"
    run(
        server,
        f"INSERT INTO kine {columns} VALUES (1, 'compact_rev_key', 1, 0, 0, {LAST - 10}, 0, '');"
        f"INSERT INTO kine {columns} VALUES ({LAST - 2}, '/registry/health', 1, 0, 0, 0, 0, '')",
        name,
    )
    if kind == "postgres":
        run(server, f"SELECT setval('kine_id_seq', {LAST - 2})", name)
    endpoint = server.endpoint(name)
    instance = start_kine(endpoint, "http2", tmp_path)
    with Client(instance.address) as client:
        client.put(b"/k/0")
        client.put(b"/k/1")
        with pytest.raises(grpc.RpcError) as refused:
            client.put(b"/k/2")
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "ids are 32-bit numbers and the last one is used" in readiness(instance.address)
        assert "the table's ids are 32-bit numbers and the last one is used" in refused.value.details()
        assert client.range(b"/k/", b"/k0").count == 2
    assert instance.stop() == 0
    assert "restart kine with KINE_SCHEMA_MIGRATION=1 before the last one is used" in instance.log.read_text()

    found = told("check", "--endpoint", endpoint, "--output", "json")
    assert [finding["id"] for finding in found.json["findings"]] == ["narrow-ids"]
    assert "the last one is used" in found.out

    instance = start_kine(endpoint, "http2", tmp_path)
    assert "ids are 32-bit numbers and the last one is used" in readiness(instance.address)
    assert instance.stop() == 0
    assert "the last one is used" in instance.log.read_text()

    instance = start_kine(endpoint, "http2", tmp_path, environment={"KINE_SCHEMA_MIGRATION": "1"})
    with Client(instance.address) as client:
        assert client.put(b"/k/9").header.revision > LAST
        assert client.range(b"/k/", b"/k0").count == 3
    assert instance.stop() == 0
    assert "32-bit" not in instance.log.read_text()


@pytest.mark.parametrize("last", ["/registry/health", "/k/c"], ids=["whole", "without its own rows"])
@pytest.mark.parametrize("kind", ["postgres", "mysql"])
def test_ids_of_32_bits_that_are_used_up_above_a_gap(
    kind: str, last: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Existing keys are served, and the error says why nothing can be written."""
    server: Postgres | Mysql = request.getfixturevalue(f"{kind}_server")
    name = server.new_database()
    run(server, f"CREATE DATABASE {name}")
    run(server, NARROW[kind], name)
    columns = "(id, name, created, deleted, create_revision, prev_revision, lease, value)"
    rows = ((LAST - 6, "/k/a"), (LAST - 3, "/k/b"), (LAST, last))
    run(
        server,
        f"INSERT INTO kine {columns} VALUES (1, 'compact_rev_key', 1, 0, 0, {LAST - 10}, 0, '');"
        + "".join(
            f"INSERT INTO kine {columns} VALUES ({row}, '{key}', 1, 0, 0, 0, 0, '');" for row, key in rows
        ),
        name,
    )
    if kind == "postgres":
        run(server, f"SELECT setval('kine_id_seq', {LAST})", name)
    instance = start_kine(server.endpoint(name), "http2", tmp_path)
    assert "ids are 32-bit numbers and the last one is used" in readiness(instance.address)
    with Client(instance.address) as client:
        assert client.range(b"/k/", b"/k0").count == (2 if last == "/registry/health" else 3)
        with pytest.raises(grpc.RpcError) as refused:
            client.put(b"/k/d")
        assert "the table's ids are 32-bit numbers and the last one is used" in refused.value.details()
    assert instance.stop() == 0


async def test_socket_of_mysql_that_is_not_there_is_named(tmp_path: Path) -> None:
    reason = await first_reason(f"mysql://u:set-up-word@unix({tmp_path}/no.sock)/d")
    assert re.search(f"on the socket {tmp_path}/no.sock.*check that it runs", reason)


# ---- NATS


@contextmanager
def nats_with(tmp_path: Path, *lines: str) -> Iterator[int]:
    port = free_port()
    config = tmp_path / "nats.conf"
    config.write_text(
        "\n".join([f"port: {port}", "host: 127.0.0.1", f"jetstream {{ store_dir: {tmp_path}/js }}", *lines])
    )
    server = DatabaseServer(
        [nats.binary(), "-c", str(config)], None, tmp_path / "nats.log", lambda: answers_on(port)
    )
    server.start()
    try:
        yield port
    finally:
        server.kill()


async def first_reason(endpoint: str, options: Options | None = None) -> str:
    log = drivers.connect(endpoint, options or Options())
    reasons: asyncio.Queue[str] = asyncio.Queue()
    log.on_wait = reasons.put_nowait  # type: ignore[attr-defined]
    opening = asyncio.create_task(log.open())
    try:
        async with asyncio.timeout(120):
            return await reasons.get()
    finally:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await log.close()


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
async def test_account_without_jetstream_is_named_in_the_servers_words(tmp_path: Path) -> None:
    with nats_with(tmp_path, "accounts { A { users: [{user: a, password: set-up-word}] } }") as port:
        reason = await first_reason(f"nats://a:set-up-word@127.0.0.1:{port}?noEmbed")
    assert re.search("JetStream not enabled for account.*10039.*turn JetStream on for this account", reason)


async def test_nats_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kine.drivers.nats.client._CONNECT_TIMEOUT", 3600.0)
    several = f"nats://127.0.0.1:{free_port()}?noEmbed,nats://127.0.0.1:{free_port()}"
    for endpoint in (several, several.partition(",")[0]):
        reason = await first_reason(endpoint)
        assert re.search("Connection refused.*check that it runs, and the endpoint's host and port", reason)


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
async def test_wrong_password_of_nats_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kine.drivers.nats.client._CONNECT_TIMEOUT", 3600.0)
    with nats_with(tmp_path, "authorization { user: a, password: set-up-word }") as port:
        reason = await first_reason(f"nats://a:wrong-word@127.0.0.1:{port}?noEmbed")
    assert re.search("Authorization Violation.*correct the endpoint's user and password, token", reason)
    assert "check that it runs" not in reason


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
async def test_certificates_of_nats_are_told_as_that(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kine.drivers.nats.client._CONNECT_TIMEOUT", 3600.0)
    cert, key = pair
    other = write_authority(tmp_path, trustme.CA())
    with nats_with(tmp_path, f"tls {{ cert_file: {cert}, key_file: {key} }}") as port:
        reason = await first_reason(f"nats://127.0.0.1:{port}?noEmbed", Options(ca_file=other))
    assert re.search("give the CA that signed the server's certificate", reason)


ALLOWED = {"publish": ["$JS.API.>", "$KV.>"], "subscribe": ["_INBOX.>", "$KV.>"]}


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
@pytest.mark.parametrize(
    ("kind", "missing", "said"),
    [
        ("publish", "$JS.API.>", "publish to ..JS.API.STREAM.INFO.KV_kine"),
        ("subscribe", "_INBOX.>", "subscription to .+_inbox"),
    ],
)
async def test_permission_that_is_missing_is_told_at_once_in_the_servers_words(
    kind: str, missing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kine.drivers.nats.client._TIMEOUT", 600.0)  # none is waited for
    given = {of: [name for name in names if (of, name) != (kind, missing)] for of, names in ALLOWED.items()}
    with nats_with(tmp_path, users_may(given)) as port:
        reason = await first_reason(f"nats://a:set-up-word@127.0.0.1:{port}?noEmbed")
    assert re.search(f"permissions violation for {said}.*; let the user publish to", reason), reason


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
def test_permissions_that_are_advised_are_all_that_is_needed(tmp_path: Path) -> None:
    with nats_with(tmp_path, users_may(ALLOWED)) as port:
        endpoint = f"nats://a:set-up-word@127.0.0.1:{port}?noEmbed"
        server = start_kine(endpoint, "http2", tmp_path, flags=("--debug",))
        with Client(server.address) as client, client.watch() as watch:
            watch.create(b"/k")
            revision = client.put(b"/k", b"1").header.revision
            assert [event.kv.mod_revision for event in watch.events(1)] == [revision]
            assert client.range(b"/k").kvs[0].value == b"1"
            client.compact(revision)
        assert server.stop() == 0
        assert "no room for a reserve" not in server.log.read_text()  # with max_payload at its default, 1 MiB
        server = start_kine(endpoint, "http2", tmp_path)
        with Client(server.address) as client:
            assert client.range(b"/k").kvs[0].mod_revision == revision
        assert server.stop() == 0
        assert "permissions violation" not in server.log.read_text()


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing())
def test_permission_to_write_that_is_missing_is_told(tmp_path: Path) -> None:
    may = {**ALLOWED, "publish": ["$JS.API.>"]}
    told_it = re.compile(r"waiting for the database.*permissions violation for publish to .*KV\.kine")
    with nats_with(tmp_path, users_may(may)) as port:
        server = start_kine(
            f"nats://a:set-up-word@127.0.0.1:{port}?noEmbed", "http2", tmp_path,
            until=lambda line: line if told_it.search(line) else None,
        )  # fmt: skip
        assert server.stop() == 0
    assert "NATS did not" not in server.log.read_text()


def users_may(given: dict[str, list[str]]) -> str:
    permissions = json.dumps({kind: {"allow": names} for kind, names in given.items()})
    return "authorization { users: [ { user: a, password: set-up-word, permissions: " + permissions + " } ] }"
