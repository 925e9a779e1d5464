"""Failover to a lagging replica: the database then ends below revisions that clients have already seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.client import Client, prefix_end
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers.driver_databases import Place
    from tests.servers.process import Instance


@pytest.fixture
def instance(place: Place, tmp_path: Path) -> Iterator[Instance]:
    started = start_kine(place.endpoint(), "http2", tmp_path)
    yield started
    started.kill()


def lose(place: Place, after: int) -> None:
    """Removes the rows after this revision, as if they had never been replicated."""
    with contextlib.closing(place.go()) as go:
        go.run("DELETE FROM kine WHERE id > ?", (after,))
        if place.kind == "postgres":
            go.run("SELECT setval('kine_id_seq', ?)", (after,))
        else:
            go.run(f"ALTER TABLE kine AUTO_INCREMENT = {after + 1}")


def test_commits_that_are_lost_are_noticed(place: Place, instance: Instance, prefix: bytes) -> None:
    with Client(instance.address) as client, client.watch() as watch, client.watch() as late:
        kept = client.put(prefix + b"kept", b"1").header.revision
        watch.create(prefix, prefix_end(prefix))
        client.put(prefix + b"kept", b"2")
        told = client.put(prefix + b"lost", b"1").header.revision
        watch.events(2)

        lose(place, kept)

        cancelled = watch.receive()
        assert cancelled.canceled, "it has told what is no more"
        assert cancelled.compact_revision > 0
        assert client.get(prefix + b"lost") is None
        assert client.get(prefix + b"kept").value == b"1"
        late.create(prefix, prefix_end(prefix), start_revision=told + 1)
        assert late.receive().canceled, "it comes from what is no more"
        late.create(prefix, prefix_end(prefix), start_revision=kept + 1)
        again = client.put(prefix + b"kept", b"3").header.revision
        assert [event.kv.value for event in late.events(1)] == [b"3"]
        assert client.get(prefix + b"kept", revision=again).value == b"3"


def test_a_write_notices_that_commits_are_lost(place: Place, instance: Instance, prefix: bytes) -> None:
    with Client(instance.address) as client:
        kept = client.put(prefix + b"kept", b"1").header.revision
        client.put(prefix + b"kept", b"2")
        client.put(prefix + b"lost", b"1")

        lose(place, kept)

        again = client.put(prefix + b"lost", b"2", prev_kv=True)
        assert client.get(prefix + b"lost").mod_revision == again.header.revision
        assert client.get(prefix + b"lost").version == 1
        assert client.get(prefix + b"kept").value == b"1"
