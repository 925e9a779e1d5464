"""schema.json describes each command's output; `run` in conftest.py validates every other test's by it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.forktools.conftest import SCHEMA, Command
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import NEW, OLD, edited, upstream


@pytest.fixture
def fork(history: History) -> History:
    """A line with a commit of every kind, and the next line, with a different fate for each."""
    upstream(history)
    kept = history.commit("feat(fork): kept", {b"a\xff": "1\n"}, on=OLD)
    history.commit("fix(fork): conflicts", {"app.py": edited(30, "ours")}, on=OLD)
    history.commit("\x1b[31m stray", {"stray": "1\n"}, on=OLD)
    changed = history.commit("fix(fork): changed", {"c": "1\n"}, on=OLD)
    dropped = history.commit("fix(fork): dropped", {"d": "1\n"}, on=OLD)
    history.branch(NEW, "v1.1.0")
    history.commit("feat(fork): kept", {b"a\xff": "1\n"}, on=NEW)
    history.commit(f"fix(fork): changed\n\n(cherry picked from commit {changed})", {"c": "2\n"}, on=NEW)
    history.commit(f"chore(fork): leave out\n\nReplay-Dropped: {dropped} why", {}, on=NEW)
    history.commit("feat(fork): new", {"n": "1\n"}, on=NEW)
    history.branch("first", kept)
    history.tag("v2.0.0", "main")
    return history


COMMANDS = [
    ("policy show", 0),
    ("check-pr --base main --head first", 1),
    (f"check-pr --base {OLD} --head {OLD}", 0),
    ("check-tag v1.1.0.vcluster.0", 1),
    ("check-tag v1.0.0.vcluster.0", 1),
    ("check-tag v1.1.0.vcluster.7", 1),
    ("check-tag nonsense", 1),
    ("check-tag v1.1.0.vcluster.0 --name-only", 0),
    ("next-tag --line v1.1.0", 0),
    ("changelog", 0),
    ("upstream fetch --url .", 0),
    ("audit", 1),
    ("backports", 0),
    ("backports --line v1.0.0 --exit-code", 1),
    ("replay inventory v1.0.0", 0),
    ("replay status --to v1.1.0", 0),
    ("replay verify --to v1.1.0", 1),
    ("replay verify --to v1.0.0", 1),
    ("replay plan --to v2.0.0 --from v1.0.0", 1),
    ("replay plan --to v2.0.0 --from v1.0.0 --strays leave", 0),
    ("replay apply --to v2.0.0 --from v1.0.0 --strays pick", 1),
    ("replay apply --to v2.0.0 --from v1.1.0", 0),
]


@pytest.mark.parametrize(("line", "status"), COMMANDS)
def test_answer_is_what_the_schema_says(fork: History, run: Command, line: str, status: int) -> None:
    result = run(None if line == "policy show" else fork, *line.split(), "--output", "json")

    assert result.status == status, result.err
    jsonschema.validate(result.json, SCHEMA, jsonschema.Draft202012Validator)
    assert line.startswith(result.json["command"])


def test_schema_is_a_schema_and_printed(run: Command) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(run(None, "schema").out) == SCHEMA


def test_every_object_is_closed_and_every_command_tried() -> None:
    """The schema rejects an unknown field, so the tests above notice one."""
    assert [o for o in _objects(SCHEMA) if o.get("additionalProperties") is not False] == []
    described = {
        name
        for one in SCHEMA["oneOf"]
        for name in _names(SCHEMA["$defs"][one["$ref"].split("/")[-1]]["properties"]["command"])
    }
    assert described == {name for name in described for line, _ in COMMANDS if line.startswith(name)}
    assert len(described) == 13


def _objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for one in schema for found in _objects(one)]
    if not isinstance(schema, dict):
        return []
    here = [schema] if schema.get("type") == "object" else []
    return here + [found for one in schema.values() for found in _objects(one)]


def _names(command: dict[str, Any]) -> list[str]:
    return command.get("enum") or [command["const"]]
