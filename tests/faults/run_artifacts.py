"""Artifacts of a run: figures, and after a violation the calls, the events, the faults and the logs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from tests.faults.run import Report

SHOWN = 10  # violations


def summary(report: Report) -> dict[str, object]:
    return {
        "backend": report.plan.backend.kind,
        "seed": report.plan.seed,
        "instances": report.instances,
        "clients": report.plan.clients,
        "seconds": round(report.seconds, 1),
        "operations": report.operations,
        "unknown": report.unknown,
        "refused": report.refused,
        "events": report.events,
        "compactions": report.compactions,
        "leases": report.leases,
        "faults": dict(sorted(report.faults.items())),
        "violations": len(report.violations),
        "first violations": report.violations[:SHOWN],
    }


def totals(reports: Sequence[Report]) -> dict[str, dict[str, object]]:
    """Totals by kind of backend."""
    made: dict[str, dict[str, object]] = {}
    for kind in dict.fromkeys(report.plan.backend.kind for report in reports):
        its = [report for report in reports if report.plan.backend.kind == kind]
        faults: Counter[str] = sum((report.faults for report in its), Counter())
        made[kind] = {
            "turns": len(its),
            "seconds": round(sum(report.seconds for report in its)),
            "operations": sum(report.operations for report in its),
            "unknown": sum(report.unknown for report in its),
            "refused": sum(report.refused for report in its),
            "events": sum(report.events for report in its),
            "compactions": sum(report.compactions for report in its),
            "leases": sum(report.leases for report in its),
            "faults": dict(sorted(faults.items())),
            "violations": sum(len(report.violations) for report in its),
        }
    return made


def table(reports: Sequence[Report]) -> Table:
    shown = Table()
    names = ("turns", "seconds", "operations", "unknown", "refused", "events", "compactions", "leases")
    for name in ("backend", *names, "faults", "violations"):
        shown.add_column(name, justify="left" if name == "backend" else "right")
    for kind, its in totals(reports).items():
        faults = its["faults"]
        assert isinstance(faults, dict)
        shown.add_row(
            kind,
            *(str(its[name]) for name in names),
            f"{sum(faults.values())} of {len(faults)} kinds",
            str(its["violations"]),
        )
    return shown


def keep(report: Report, directory: Path, target: Path) -> None:
    """Writes one line of JSON per call, per response of a watch, and per fault; copies the logs."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "summary.json").write_text(json.dumps(summary(report), indent=2) + "\n")
    (target / "violations.txt").write_text("\n\n".join(report.violations) + "\n")
    _lines(target / "calls.jsonl", (dataclasses.asdict(call) for call in report.calls))
    _lines(target / "events.jsonl", _answers(report))
    _lines(
        target / "faults.jsonl",
        ({"at": when, **dataclasses.asdict(fault)} for when, fault in report.inflicted),
    )
    for log in directory.glob("*.log"):
        shutil.copy(log, target / log.name)


def _answers(report: Report) -> Iterator[dict[str, object]]:
    for watcher in report.watchers:
        for segment in watcher.segments:
            start = {"watch": watcher.number, "start": segment.start, "compacted": segment.compacted}
            for kind, header, events in segment.answers:
                yield {**start, "kind": kind, "header": header, "events": events}


def _lines(path: Path, records: Iterator[dict[str, object]]) -> None:
    with path.open("w") as file:
        for record in records:
            file.write(json.dumps(record, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("ascii", "backslashreplace")
    return value.value if isinstance(value, Enum) else str(value)
