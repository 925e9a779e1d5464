"""Fixtures that run the commands as a user does, on databases that a server has written."""

from __future__ import annotations

import gc
import io
import json
import logging
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from kine.cli import main
from tests.databases import mysql as mysql_binary
from tests.databases import postgres as postgres_binary
from tests.servers import mysql, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Told:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def told(*arguments: str) -> Told:
    """Runs a `kine` command in this process: a process for each run would take most of these tests' time."""
    root, ours = logging.getLogger(), logging.getLogger("kine")
    before = root.handlers[:], root.level, ours.level
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(list(arguments))
    finally:
        root.handlers[:], _, _ = before
        root.setLevel(before[1])
        ours.setLevel(before[2])
        logging.captureWarnings(False)
    assert isinstance(ended.value.code, int)
    return Told(ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The endpoint of a new database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'state.db'}"
    missing, server = {
        "postgres": (postgres_binary.missing, postgres.database_server),
        "mysql": (mysql_binary.missing, mysql.database_server),
    }[request.param]
    if reason := missing():
        pytest.skip(reason)
    running = server()
    return running.endpoint(running.new_database())


@pytest.fixture(autouse=True)
def process_is_left_as_it_was() -> Iterator[None]:
    """Checks that garbage collection and thread switching are unchanged: only a server tunes its process."""
    before = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
    yield
    assert (gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()) == before
