"""docs/compatibility.md is complete: it lists every call and request field, and the tests it names exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from kine.proto import rpc_pb2 as pb

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "compatibility.md"
NESTED = {
    "KV/Txn": (pb.Compare, pb.RequestOp),
    "Watch/Watch": (pb.WatchCreateRequest, pb.WatchCancelRequest, pb.WatchProgressRequest),
}


class Line(NamedTuple):
    first: str
    second: str
    third: str
    shown: str


@cache
def lines() -> list[Line]:
    rows = [line.strip("|\n ").split(" | ") for line in PAGE.read_text().splitlines() if line[:2] == "| "]
    # An empty cell leaves two bars with one space between them.
    rows = [[cell.strip(" |") for cell in row] for row in rows]
    return [Line(row[0], "" if len(row) < 4 else row[1], row[-2], row[-1]) for row in rows]


def calls() -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines():
        if named := re.fullmatch(r"`([A-Z]\w+/\w+)`", line.first):
            found.setdefault(named[1], []).append(line)
    return found


def unimplemented() -> list[str]:
    return [call for call, its in calls().items() if its[0].third.startswith("Unimplemented")]


METHODS = {
    f"{service.name}/{method.name}": method
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def test_every_call_is_listed() -> None:
    assert set(calls()) == set(METHODS)


@pytest.mark.parametrize("call", METHODS)
def test_every_field_is_listed_once(call: str) -> None:
    listed = [name for line in calls()[call] for name in re.findall(r"`([\w.]+)`", line.second)]
    if calls()[call][0].second == "all":
        return
    fields = [field.name for field in METHODS[call].input_type.fields]
    for message in NESTED.get(call, ()):
        fields += [f"{message.DESCRIPTOR.name}.{field.name}" for field in message.DESCRIPTOR.fields]
    assert sorted(listed) == sorted(fields)


def test_every_row_names_tests_that_exist() -> None:
    for line in lines():
        if line.shown == "shown by":
            continue
        named = re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", line.shown)
        assert named, line
        for file, test in named:
            text = (TESTS / file).read_text()
            assert not test or f"def {test}(" in text, line
