"""A value larger than the database accepts: only its own write fails, not others in the same commit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client
from tests.databases import mysql, nats, postgres
from tests.faults.run_databases import new_place
from tests.servers.kine import start_kine
from tests.servers.nats import database_server

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = b"/registry/oversized/"
CLIENTS = 6
ROUNDS = 40
TOO_LARGE = (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")


@contextmanager
def small_packets() -> Iterator[str]:
    if reason := mysql.missing():
        pytest.skip(reason)
    place = new_place("mysql")
    with place.server.admin().cursor() as admin:  # type: ignore[attr-defined]
        admin.execute("SELECT @@global.max_allowed_packet")
        [[before]] = admin.fetchall()
        admin.execute("SET GLOBAL max_allowed_packet = 262144")
        try:
            yield place.endpoint()
        finally:
            admin.execute(f"SET GLOBAL max_allowed_packet = {before}")


@contextmanager
def small_messages() -> Iterator[str]:
    if reason := nats.missing():
        pytest.skip(reason)
    server = database_server(1)
    bucket = server.new_bucket()
    server.api(
        f"STREAM.CREATE.KV_{bucket}", name=f"KV_{bucket}", subjects=[f"$KV.{bucket}.>"],
        max_msgs_per_subject=10, discard="new", allow_rollup_hdrs=True, deny_delete=True, allow_direct=True,
        max_msg_size=262144,
    )  # fmt: skip
    yield server.endpoint(bucket)


@contextmanager
def any_postgres() -> Iterator[str]:
    if reason := postgres.missing():
        pytest.skip(reason)
    yield new_place("postgres").endpoint()


def put_large(client: Client) -> None:
    client.put(PREFIX + b"large", os.urandom(1_000_000))


def put_long_key(client: Client) -> None:
    """Puts a key longer than PostgreSQL's index can hold, which only the database detects."""
    client.put(PREFIX + os.urandom(3000).hex().encode(), b"value")


@pytest.mark.parametrize(
    ("database", "offend", "said"),
    [
        (small_packets, put_large, TOO_LARGE[1]),
        (small_messages, put_large, TOO_LARGE[1]),
        (any_postgres, put_long_key, "longer than PostgreSQL's index can hold"),
    ],
)
def test_the_others_do_not_suffer(
    database: Callable[[], Iterator[str]], offend: Callable[[Client], None], said: str, tmp_path: Path
) -> None:
    with database() as endpoint:  # type: ignore[attr-defined]
        instance = start_kine(endpoint, "http2", tmp_path)
        failures: list[str] = []
        refusals: list[grpc.RpcError] = []
        stop = threading.Event()

        def put(number: int) -> None:
            with Client(instance.address, timeout=60) as client:
                for count in range(ROUNDS):
                    try:
                        client.put(PREFIX + b"%d" % number, b"%d" % count)
                    except grpc.RpcError as error:
                        failures.append(str(error.details()))

        def trouble() -> None:
            with Client(instance.address, timeout=60) as client:
                while not stop.is_set():
                    try:
                        offend(client)
                    except grpc.RpcError as error:
                        refusals.append(error)

        others = [threading.Thread(target=put, args=(number,)) for number in range(CLIENTS)]
        offenders = [threading.Thread(target=trouble) for _ in range(2)]
        for thread in (*offenders, *others):
            thread.start()
        for thread in others:
            thread.join()
        stop.set()
        for thread in offenders:
            thread.join()
        log = instance.log.read_text()
        instance.kill()

    assert failures == []
    assert {error.code() for error in refusals} == {TOO_LARGE[0]}
    assert all(said in error.details() for error in refusals)
    assert said != TOO_LARGE[1] or "will be refused as too large" in log
