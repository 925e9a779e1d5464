"""Everyday form of the moves: a few thousand keys, each pair once, most of them interrupted.

`python -m tests.moves --help` has the long form, with 100,000 keys.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.cleanup_at_exit import ENDINGS
from tests.databases import loop_disk as disks
from tests.moves.__main__ import filled
from tests.moves.fill_source import Amount
from tests.moves.move_backends import PLACES, missing
from tests.moves.one_move import INTERRUPTIONS, Source, move

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("moves"),  # a source is filled once
]
AMOUNT = Amount(keys=1_500, leases=150, large=3)
ROOM = 768  # MiB of a disk
# A database that Go kine has created accepts what any other does: each kind once.
_INTO_GO = [("etcd", "go-sqlite"), ("sqlite", "go-postgres"), ("go-postgres", "go-mysql")]
_PAIRS = [*itertools.product(PLACES, [kind for kind in PLACES if not kind.startswith("go-")]), *_INTO_GO]


@cache
def source_of(kind: str, directory: Path) -> Source:
    source = filled(kind, directory / kind, AMOUNT)
    ENDINGS.callback(source.place.close)
    return source


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("moves")


@pytest.mark.parametrize(("source", "target"), _PAIRS)
def test_everything_is_moved_or_the_target_is_refused(
    source: str, target: str, directory: Path, tmp_path: Path
) -> None:
    number = list(PLACES).index(source) + list(PLACES).index(target)
    interruption = INTERRUPTIONS[number % len(INTERRUPTIONS)]
    if interruption == "database" and target.endswith("sqlite"):
        interruption = "KILL"
    if interruption == "full" and target == "etcd":  # etcd preallocates its files
        interruption = "KILL"
    if reason := missing(source) or missing(target):
        pytest.skip(reason)
    if interruption == "full" and (reason := disks.missing()):
        pytest.skip(reason)
    place = PLACES[target](tmp_path / "target", disks.Disk(ROOM) if interruption == "full" else None)
    try:
        move(
            source_of(source, directory),
            target,
            place,
            ("migrate", "snapshot")[number % 2],
            interruption,
            "every day",
        )
    finally:
        place.close()
