"""Modules that a server must not import: each costs every kine tens of milliseconds and megabytes."""

from __future__ import annotations

import subprocess
import sys

import pytest

SPARED = {"boto3", "grpc", "gssapi", "rich", "sqlalchemy", "typer"}


@pytest.mark.parametrize(
    "driver", ["memory", "sqlite.log", "nats.log", "postgres.database", "mysql.database"]
)
def test_server_loads_nothing_that_its_endpoint_does_not_need(driver: str) -> None:
    code = f"import sys, kine.cli, kine.server, kine.drivers.{driver}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert SPARED & set(loaded.stdout.split()) == set()


def test_commands_are_known_without_being_loaded() -> None:
    from kine.cli import COMMANDS
    from kine.commands.command_line import app

    named = [command.name or "" for command in app.registered_commands]
    assert [*named, *(group.name for group in app.registered_groups)] == list(COMMANDS)
