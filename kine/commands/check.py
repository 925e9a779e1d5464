"""`kine check`: read-only consistency check of a SQL database's tables."""

# ruff: noqa: S608 - constants only

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kine.commands import options
from kine.commands.table_rules import ADVANCE, INDEXES, RULES
from kine.drivers.sql import int32_ids
from kine.drivers.sql.tables import UNUSED_ON_SQLITE

if TYPE_CHECKING:
    from kine.config import Settings
    from kine.drivers.sql.read_only_view import Inspector

SHOWN = 20  # rows shown of a violation
REPAIRED = 1000  # rows in one repair statement
MIGRATE = "start one kine with KINE_SCHEMA_MIGRATION=1"
RESTORE = "restore the file from a backup, or save what can be read with sqlite3's .recover"
_TABLES = "('kine', 'kine_extra', 'kine_lease', 'kine_writer', 'kine_turn')"


@dataclass(frozen=True, slots=True)
class Unsafe:
    """Storage of a table with which writes may be lost or applied in part: kine does not serve from it."""

    id: str
    question: str  # SQL for the names of such tables
    meaning: str
    repair: str


_UNSAFE = {
    "mysql": Unsafe(
        "storage-engine",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = database()"
        f" AND table_name IN {_TABLES} AND engine <> 'InnoDB' ORDER BY table_name",
        "the table {} is in a storage engine without transactions: a write can take place in part",
        "ALTER TABLE {} ENGINE = InnoDB;",
    ),
    "postgresql": Unsafe(
        "unlogged-table",
        "SELECT relname FROM pg_class WHERE relpersistence <> 'p' AND pg_table_is_visible(oid)"
        f" AND relkind = 'r' AND relname IN {_TABLES} ORDER BY relname",
        "the table {} is not logged: a crash of the server empties it",
        "ALTER TABLE {} SET LOGGED;",
    ),
}


@dataclass(frozen=True, slots=True)
class RuleViolation:
    id: str
    meaning: str
    rows: int
    ids: list[int]  # the first of them
    names: list[str]
    repair: str


@options.with_endpoint()
def check(asked: options.CommandOptions) -> None:
    """Check the table of an SQLite, PostgreSQL or MySQL database against its rules, without changing it.

    Each violation is reported with row ids and a repair plan. The check reads one snapshot of the database,
    so a running server need not be stopped. Other backends have no such table and are refused.

    Exit codes: 0 no violation; 1 violations; 2 wrong usage, or the database cannot be read.
    """
    asked.run(_check(asked.settings(), asked.output))


async def _check(settings: Settings, output: str) -> int:
    from kine import drivers
    from kine.commands.progress import Progressing

    found: list[RuleViolation] = []
    with Progressing() as progress:
        async with drivers.inspect(settings.endpoint, settings.driver_options()) as view:
            progress.begin("checking", len(RULES) + 5)
            async for findings in _findings(view):
                found += findings
                progress.advance(1)
    if output == "json":
        print(json.dumps({"findings": [asdict(finding) for finding in found]}, indent=2))  # noqa: T201
    else:
        print(_text(found), end="")  # noqa: T201
    return options.FAILED if found else 0


async def _findings(view: Inspector) -> AsyncIterator[list[RuleViolation]]:
    """Yields the violations of each rule in turn. Raises DriverError; ValueError if there is no table."""
    found = view.stale_log()
    repair = f"{RESTORE}\n    -- or: {found}" if found else RESTORE
    damaged = [RuleViolation("damaged-file", told, 0, [], [], repair) for told in await view.damage()]
    yield damaged
    if damaged:  # the tables of a damaged file cannot be trusted
        return
    names = await view.names()
    if "kine" not in names:
        raise ValueError("the database has no table kine; name kine's database in --endpoint")
    yield [
        RuleViolation("missing-index", f"the index {name} is missing", 0, [], [], repair)
        for name, repair in INDEXES.items()
        if name not in names and not (view.dialect == "sqlite" and name in UNUSED_ON_SQLITE)
    ]
    yield await _unsafe(view)
    yield await _narrow_ids(view)
    yield await _allocator(view)
    for rule in RULES:
        asked = rule.needs in names and rule.only_on in ("", view.dialect)
        rows = await view.ask(rule.question) if asked else []
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
            RuleViolation(
                rule.id,
                rule.broken,
                len(ids),
                ids[:SHOWN],
                [_shown(row[1]) for row in rows[:SHOWN] if row[1]],
                repair.replace("{ids}", listed) + again,
            )
        ]


async def _unsafe(view: Inspector) -> list[RuleViolation]:
    unsafe = _UNSAFE.get(view.dialect)
    if unsafe is None:
        return []
    tables = [_shown(row[0]) for row in await view.ask(unsafe.question)]
    return [
        RuleViolation(unsafe.id, unsafe.meaning.format(name), 0, [], [], unsafe.repair.format(name))
        for name in tables
    ]


async def _narrow_ids(view: Inspector) -> list[RuleViolation]:
    question = int32_ids.QUESTION.get(view.dialect)
    if question is None:
        return []
    [(highest, newest)] = await view.ask(question)
    warning = int32_ids.warning(highest, newest)
    return [RuleViolation("narrow-ids", warning, 0, [], [], MIGRATE)] if warning else []


async def _allocator(view: Inspector) -> list[RuleViolation]:
    following = await view.next_id()
    [(newest,)] = await view.ask("SELECT max(id) FROM kine")
    if newest is None or following > newest:
        return []
    meaning = f"the database would give {following} as the next id, and has rows up to {newest}"
    return [RuleViolation("allocator-behind", meaning, 0, [], [], ADVANCE[view.dialect].format(newest))]


def _shown(name: object) -> str:
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _text(found: list[RuleViolation]) -> str:
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
