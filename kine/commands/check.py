"""`kine check`: is the table as its rules want it? Reads only."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kine.commands import options
from kine.commands.rules import INDEXES, RULES
from kine.drivers.sql.schema import UNUSED_ON_SQLITE

if TYPE_CHECKING:
    from kine.config import Settings
    from kine.drivers.sql.view import View

SHOWN = 20  # rows of a finding
REPAIRED = 1000  # at once
RESTORE = "restore the file from a backup, or save what can be read with sqlite3's .recover"


@dataclass(frozen=True, slots=True)
class Finding:
    id: str
    meaning: str
    rows: int
    ids: list[int]  # the first of them
    names: list[str]
    repair: str


@options.asked()
def check(asked: options.Asked) -> None:
    """Check the table of an SQLite, PostgreSQL or MySQL database against its rules; nothing is changed.

    What is found is told with the rows' ids and a repair plan. A running server need not be stopped: one
    moment of the database is looked at. Other backends keep no such table and are refused.

    Exit codes: 0 nothing found; 1 something is wrong; 2 wrong usage, or the database cannot be read.
    """
    options.run(_check(asked.settings(), asked.output))


async def _check(settings: Settings, output: str) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from kine import drivers

    found: list[Finding] = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("checking", total=len(RULES) + 2)
        async with drivers.view(settings.endpoint, settings.driver_options()) as view:
            async for findings in _findings(view):
                found += findings
                progress.advance(bar)
    if output == "json":
        print(json.dumps({"findings": [asdict(finding) for finding in found]}, indent=2))  # noqa: T201
    else:
        print(_text(found), end="")  # noqa: T201
    return options.FAILED if found else 0


async def _findings(view: View) -> AsyncIterator[list[Finding]]:
    """Once a question. Raises DriverError, ValueError when there is no table."""
    damaged = [Finding("damaged-file", told, 0, [], [], RESTORE) for told in await view.damage()]
    yield damaged
    if damaged:  # what its tables say is not to be believed
        return
    names = await view.names()
    if "kine" not in names:
        raise ValueError("the database has no table kine; name kine's database in --endpoint")
    yield [
        Finding("missing-index", f"the index {name} is missing", 0, [], [], repair)
        for name, repair in INDEXES.items()
        if name not in names and not (view.dialect == "sqlite" and name in UNUSED_ON_SQLITE)
    ]
    for rule in RULES:
        rows = await view.ask(rule.question) if rule.needs in names else []
        if not rows:
            yield []
            continue
        rows.sort()
        ids = [int(row[0]) for row in rows]
        repair = (rule.on_mysql if view.dialect == "mysql" else "") or rule.repair
        listed = ", ".join(map(str, ids[:REPAIRED]))
        again = (
            " -- then check again: there are more" if len(ids) > REPAIRED and "{ids}" in rule.repair else ""
        )
        yield [
            Finding(
                rule.id,
                rule.broken,
                len(ids),
                ids[:SHOWN],
                [row[1].decode("utf-8", "backslashreplace") for row in rows[:SHOWN] if row[1]],
                repair.replace("{ids}", listed) + again,
            )
        ]


def _text(found: list[Finding]) -> str:
    if not found:
        return "nothing found\n"
    lines = []
    for finding in found:
        more = " and more" if finding.rows > SHOWN else ""
        ids = f": ids {', '.join(map(str, finding.ids))}{more}" if finding.rows else ""
        lines.append(
            f"{finding.id}: {finding.meaning} ({finding.rows} rows{ids})"
            if ids
            else f"{finding.id}: {finding.meaning}"
        )
        lines += [f"    {name}" for name in finding.names]
    lines += ["", "To repair: save a copy of the database, stop every kine on it, then"]
    lines += dict.fromkeys(f"    -- {finding.id}\n    {finding.repair}" for finding in found)
    lines.append("Then check again.")
    return "\n".join(lines) + "\n"
