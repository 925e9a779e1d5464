"""The long form of the fault suite.

make test-faults FAULTS="--backend postgres --ops 100000 --seed 1"
make test-faults FAULTS="--minutes 60"
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tests.faults.run import Plan, Report, run
from tests.faults.run_artifacts import keep, summary, table, totals
from tests.servers import Backend, backends

# In the order of a round. The other kinds are variants of these.
KINDS = (
    "sqlite", "postgres", "postgres-pgbouncer", "mysql", "nats", "nats-cluster", "nats-embedded", "memory",
)  # fmt: skip
_JUDGED = 0.1  # rough share of a turn's time for start, healing and checks

CONSOLE = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def main(
    backend: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(KINDS)}; repeatable. Default: all that run here.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Go round the backends for so long; 0: each gets one turn.")
    ] = 0.0,
    turn: Annotated[float, typer.Option(help="Seconds of a turn, if --minutes is given.")] = 150.0,
    ops: Annotated[int, typer.Option(help="Calls of known outcome, after which a turn ends.")] = 100_000,
    seconds: Annotated[float, typer.Option(help="Or after so long, without --minutes.")] = 3600.0,
    seed: Annotated[
        str, typer.Option(help="What traffic and faults are drawn from; random by default.")
    ] = "",
    instances: Annotated[int, typer.Option(help="Servers on the one database.")] = 3,
    clients: Annotated[int, typer.Option(help="That send a call at a time.")] = 8,
    faults: Annotated[bool, typer.Option(help="Without: traffic and compactions only.")] = True,
    disk: Annotated[
        bool, typer.Option(help="Without: no file system of its own, to fill and freeze.")
    ] = True,
    kept: Annotated[
        Path | None, typer.Option("--keep", help="Where calls, events and logs of violations go.")
    ] = None,
) -> None:
    """Clients over several instances under faults; judges what they heard.

    Prints a table of all turns, and JSON on stdout. Exit code 1: violations; calls, events and logs are kept.
    """
    chosen = _chosen(backend or list(KINDS), bool(backend))
    seed = seed or secrets.token_hex(4)
    target = kept or Path(tempfile.mkdtemp(prefix="kine-faults-kept-"))
    target.mkdir(parents=True, exist_ok=True)
    plan = {"operations": ops, "instances": instances, "clients": clients, "faults": faults, "disk": disk}
    began = time.monotonic()
    reports: list[Report] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE) as progress:
        whole = progress.add_task(f"seed {seed}", total=minutes * 60 or len(chosen))
        round_ = 0
        while True:
            for one in chosen:
                left = minutes * 60 - (time.monotonic() - began)
                if minutes and left <= 0:
                    break
                length = min(turn, max(left * (1 - _JUDGED), 5.0)) if minutes else seconds
                own = f"{seed}-{round_}" if minutes else seed
                reports.append(_turn(Plan(one, own, seconds=length, **plan), target, progress))  # type: ignore[arg-type]
                progress.update(whole, completed=time.monotonic() - began if minutes else len(reports))
            round_ += 1
            if not minutes or time.monotonic() - began > minutes * 60:
                break
    found = sum(len(report.violations) for report in reports)
    CONSOLE.print(table(reports))
    told = {"seed": seed, "seconds": round(time.monotonic() - began, 1), "totals": totals(reports),
            "turns": [summary(report) for report in reports]}  # fmt: skip
    sys.stdout.write(json.dumps(told, indent=2) + "\n")
    if found:
        CONSOLE.print(f"{found} violations; calls, events and logs: {target}")
        raise typer.Exit(1)
    if kept is None:
        shutil.rmtree(target)


def _chosen(kinds: list[str], named: bool) -> list[Backend]:
    found = {one.kind: one for one in backends() if one.transport != "grpcio" and one.kind in KINDS}
    if unknown := [kind for kind in kinds if kind not in found]:
        CONSOLE.print(f"no backend {', '.join(unknown)}; there are {', '.join(KINDS)}")
        raise typer.Exit(2)
    chosen = [found[kind] for kind in kinds if not found[kind].missing()]
    for kind in kinds:
        if reason := found[kind].missing():
            CONSOLE.print(f"{kind} cannot run here: {reason}; bash tests/install.sh, or another --backend")
            if named:
                raise typer.Exit(2)
    return chosen


def _turn(plan: Plan, target: Path, progress: Progress) -> Report:
    label = f"{plan.backend.kind}, seed {plan.seed}"
    bar = progress.add_task(label, total=plan.seconds)
    began = time.monotonic()

    def tell(done: int, fault: str) -> None:
        progress.update(bar, completed=time.monotonic() - began, description=f"{label}: {done} calls {fault}")

    with tempfile.TemporaryDirectory(prefix="kine-faults-") as directory:
        try:
            report = run(plan, Path(directory) / "data", tell)
        except Exception as error:  # one turn failed: continue with the others
            traceback.print_exc()
            report = Report(plan, violations=[f"the turn did not end: {type(error).__name__}: {error}"])
        if report.violations:
            keep(report, Path(directory) / "data", target / f"{plan.backend.kind}-{plan.seed}")
    with (target / "turns.jsonl").open("a") as file:  # so that an interrupted run leaves its results
        file.write(json.dumps(summary(report)) + "\n")
    progress.remove_task(bar)
    CONSOLE.print(
        f"{label}: {report.operations} calls, {report.faults.total()} faults,"
        f" {len(report.violations)} violations in {report.seconds:.0f} s"
    )
    return report


if __name__ == "__main__":
    typer.run(main)
