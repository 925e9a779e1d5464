"""Database errors that pass: a read-only server, too many connections, lock and statement timeouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest

from tests.client import Client, WatchStream, prefix_end
from tests.faults.run_databases import KINDS, missing, new_place
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from tests.drivers.driver_databases import Place
    from tests.servers.process import Instance

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "etcdserver: unhealthy cluster")
FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
BOUND = 20.0  # seconds within which a call is answered, whatever the database does
USER = "limited"  # not a superuser, who may still connect and write where others may not


class Setting(NamedTuple):
    place: Place
    instance: Instance
    client: Client
    watch: WatchStream

    def admin(self, statement: str) -> None:
        connection: Any = self.place.server.admin()  # type: ignore[attr-defined]
        with connection.cursor() as cursor:
            cursor.execute(statement.format(user=USER, database=self.place.database))  # type: ignore[attr-defined]
        connection.close()


@pytest.fixture(scope="module", params=KINDS)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Instance]]:
    """One shared instance, with its own database user and a lock_timeout of a second."""
    if reason := missing(request.param):
        pytest.skip(reason)
    place = new_place(request.param)
    connection: Any = place.server.admin()  # type: ignore[attr-defined]
    with connection.cursor() as cursor:
        for statement in _GRANTS[request.param]:
            cursor.execute(statement.format(user=USER, database=place.database))  # type: ignore[attr-defined]
    connection.close()
    parameters = "lock_timeout=1s" if place.kind == "postgres" else "innodb_lock_wait_timeout=1"
    endpoint = place.endpoint(parameters).replace("postgres:", f"{USER}:").replace("root:", f"{USER}:")
    instance = start_kine(
        endpoint.replace(f"{USER}://", "postgres://"), "http2", tmp_path_factory.mktemp("outage")
    )
    yield place, instance
    assert instance.running
    assert "Traceback" not in instance.log.read_text()
    assert "secret" not in instance.log.read_text()
    instance.kill()


_CUT = {
    "postgres": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
    "mysql": "KILL USER {user}@'127.0.0.1'",
}
_GRANTS = {
    "postgres": (
        "DROP ROLE IF EXISTS {user}",
        "CREATE ROLE {user} LOGIN PASSWORD 'secret'",
        "CREATE DATABASE {database} OWNER {user}",
    ),
    "mysql": (
        "CREATE OR REPLACE USER {user}@'127.0.0.1' IDENTIFIED BY 'secret'",
        "CREATE DATABASE {database}",
        "GRANT ALL ON {database}.* TO {user}@'127.0.0.1'",
    ),
}


@pytest.fixture
def setting(started: tuple[Place, Instance], prefix: bytes) -> Iterator[Setting]:
    place, instance = started
    with Client(instance.address, timeout=BOUND) as client, client.watch() as watch:
        client.put(prefix + b"before")
        watch.create(prefix, prefix_end(prefix))
        yield Setting(place, instance, client, watch)


def refusal(client: Client, key: bytes, value: bytes = b"") -> tuple[grpc.StatusCode, str]:
    """The error of the first write that is refused, which comes at once or soon."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        try:
            client.put(key, value)
        except grpc.RpcError as error:
            return error.code(), error.details()
    raise AssertionError("no write is refused")


def recovered(client: Client, key: bytes) -> int:
    """The revision of the first write that is accepted again."""
    deadline = time.monotonic() + BOUND
    while True:
        try:
            return int(client.put(key).header.revision)
        except grpc.RpcError as error:
            if error.code() not in (UNAVAILABLE[0], FULL[0]) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def goes_on(setting: Setting, key: bytes) -> None:
    """Checks that writes are accepted again, and that the watch from before receives them."""
    revision = recovered(setting.client, key)
    last = 0
    while last < revision:
        last = setting.watch.receive(BOUND).events[-1].kv.mod_revision
    assert setting.client.get(key).mod_revision == revision


def test_a_server_that_takes_no_writes(setting: Setting, prefix: bytes) -> None:
    on, off = {
        "postgres": (
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "ALTER SYSTEM RESET default_transaction_read_only",
        ),
        "mysql": ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"),
    }[setting.place.kind]
    setting.admin(on)
    try:
        if setting.place.kind == "postgres":
            setting.admin("SELECT pg_reload_conf()")
        assert refusal(setting.client, prefix + b"refused") == UNAVAILABLE
        assert setting.client.get(prefix + b"before", serializable=True) is not None
        if setting.place.kind == "postgres":
            assert setting.client.get(prefix + b"before") is not None
    finally:
        setting.admin(off)
        if setting.place.kind == "postgres":
            setting.admin("SELECT pg_reload_conf()")
    goes_on(setting, prefix + b"after")


def test_too_many_connections(setting: Setting, prefix: bytes) -> None:
    limit, free = {
        "postgres": (
            "ALTER ROLE {user} CONNECTION LIMIT 0",
            "ALTER ROLE {user} CONNECTION LIMIT -1",
        ),
        "mysql": (
            "ALTER USER {user}@'127.0.0.1' WITH MAX_CONNECTIONS_PER_HOUR 1",
            "ALTER USER {user}@'127.0.0.1' WITH MAX_CONNECTIONS_PER_HOUR 0",
        ),
    }[setting.place.kind]
    setting.admin(limit)
    try:
        setting.admin(_CUT[setting.place.kind])
        code, _ = refusal(setting.client, prefix + b"refused")
        assert code == grpc.StatusCode.UNAVAILABLE
        assert setting.client.get(prefix + b"before", serializable=True) is not None
    finally:
        setting.admin(free)
        if setting.place.kind == "mysql":
            setting.admin("FLUSH USER_RESOURCES")
    goes_on(setting, prefix + b"after")


@contextmanager
def turn_held(place: Place) -> Iterator[None]:
    """Another session holds the writer lock, and does not release it."""
    with closing(place.go()) as go:
        go.begin()
        go.run("LOCK TABLE kine IN EXCLUSIVE MODE" if place.kind == "postgres"
               else "SELECT id FROM kine_turn WHERE id = 1 FOR UPDATE")  # fmt: skip
        yield
        go.rollback()


def test_a_lock_that_is_not_let_go(setting: Setting, prefix: bytes) -> None:
    """The wait for the writer lock is bounded, and reads do not need it."""
    with turn_held(setting.place):
        assert refusal(setting.client, prefix + b"refused") == UNAVAILABLE
        assert setting.client.get(prefix + b"before") is not None
        assert setting.client.get(prefix + b"refused") is None
    goes_on(setting, prefix + b"after")


def test_statements_that_are_cancelled(setting: Setting, prefix: bytes) -> None:
    """By a statement_timeout, or max_statement_time, shorter than the wait for the writer lock."""
    on, off = {
        "postgres": (
            "ALTER ROLE {user} SET statement_timeout = '300ms'",
            "ALTER ROLE {user} RESET statement_timeout",
        ),
        "mysql": (
            "SET GLOBAL max_statement_time = 0.3",
            "SET GLOBAL max_statement_time = 0",
        ),
    }[setting.place.kind]
    setting.admin(on)
    try:
        setting.admin(_CUT[setting.place.kind])
        recovered(setting.client, prefix + b"anew")  # on connections with that limit
        with turn_held(setting.place):
            assert refusal(setting.client, prefix + b"refused") == UNAVAILABLE
            assert "cancelled the statement" in setting.instance.log.read_text()
    finally:
        setting.admin(off)
        setting.admin(_CUT[setting.place.kind])
    goes_on(setting, prefix + b"after")
