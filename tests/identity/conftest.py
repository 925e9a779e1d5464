"""Fixtures: a Kerberos realm with a database, and kine servers that log in to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.databases.kerberos_postgres import Kerberized
from tests.servers.kine import start_kine
from tests.servers.process import Instance


@pytest.fixture(scope="module")
def realm() -> Iterator[Kerberized]:
    realm = Kerberized()
    yield realm
    realm.stop()


@pytest.fixture
def serve(
    realm: Kerberized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Instance]]:
    for name in ("KRB5_KTNAME", "KRB5CCNAME", "PGKRBSRVNAME", "KRB5_CLIENT_KTNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KRB5_CONFIG", str(realm.kdc.config))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started: list[Instance] = []

    def serve(endpoint: str, *flags: str, until: Callable[[str], str | None] | None = None) -> Instance:
        started.append(start_kine(endpoint, "http2", tmp_path / "kine", flags=flags, until=until))
        return started[-1]

    yield serve
    for instance in started:
        instance.kill()
