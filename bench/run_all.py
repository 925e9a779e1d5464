"""The command: `python -m bench all`."""

from __future__ import annotations

import contextlib
import shutil
from datetime import UTC, datetime
from os import cpu_count
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.comparison_run import Comparison, RunSettings
from bench.http2 import ProtocolError
from bench.machine_info import describe
from bench.report_chapters import CHAPTERS, Chapter, servers
from bench.results import Results, Series
from bench.results_table import errors
from bench.scenarios import Scenario, choose, with_settings
from bench.server_launcher import PeerError, Peers
from bench.servers_under_test import Target, started
from bench.sync_client import CallError
from bench.worker_processes import Workers

err = Console(stderr=True)


def whole(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(c.name for c in CHAPTERS)}, some. Repeat.")
    ] = None,
    go_kine: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Go kine's binary; else it is left out.")
    ] = None,
    go_kine_nats: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Its binary that was built with NATS.")
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Of each chapter's scenarios, some. Repeat.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100)] = 1,
    duration: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds measured, of each round.")] = 3.0,
    minutes: Annotated[
        float,
        typer.Option(min=0.1, help="Nothing more is begun after so long; the report tells what is left out."),
    ] = 20.0,
    results: Annotated[Path, typer.Option(help="Directory of the results files.")] = Path("bench-results"),
    out: Annotated[Path, typer.Option(help="Directory of the reports.")] = Path("docs/performance"),
) -> None:
    """Measures every backend, etcd and Go kine in all scenarios, and writes a report for each chapter.

    Takes 15 to 20 minutes; leave the machine alone meanwhile. Exit codes: 0 all went well, 1 one of our own
    servers failed a request, lost an event or could not be measured, 2 wrong usage.
    """
    unknown = set(only or ()) - {chapter.name for chapter in CHAPTERS}
    if unknown:
        raise typer.BadParameter(f"no chapter {', '.join(sorted(unknown))}", param_hint="--only")
    chosen = [chapter for chapter in CHAPTERS if not only or chapter.name in only]
    try:
        wanted = {one.name for one in choose(scenario)} if scenario else None
    except KeyError as bad:
        raise typer.BadParameter(f"no scenario {bad}", param_hint="--scenario") from bad
    deadline = monotonic() + minutes * 60
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    with Workers(max(2, cpu_count() or 1)) as pool:
        for chapter in chosen:
            found = _measured(chapter, wanted, (go_kine, go_kine_nats), pool, rounds, duration, deadline)
            path = results / f"{chapter.name}.json"
            found.write(path)
            for line in errors(found.series):
                err.print(line)
            failed += [f"{chapter.name}: {why}" for why in faults(found.series)]
            if any(series.rounds for series in found.series):
                _report(chapter, found, out)
    for line in failed:
        err.print(line)
    if failed:
        raise typer.Exit(1)


def faults(found: list[Series]) -> list[str]:
    """The errors of kine's own servers: no request may fail, and no event may be lost."""
    wrong = []
    for series in found:
        if not series.endpoint.startswith("kine-"):
            continue
        missing = sum(one.extra.get("missing", 0.0) for one in series.rounds)
        failed = sum(sum(one.errors.values()) + sum(one.outside.values()) for one in series.rounds)
        if series.skipped or missing or failed:
            why = series.skipped or f"{failed} failed, {missing:g} events missing"
            wrong.append(f"{series.scenario} of {series.endpoint}: {why}")
    return wrong


def _measured(
    chapter: Chapter,
    wanted: set[str] | None,
    binaries: tuple[Path | None, Path | None],
    pool: Workers,
    rounds: int,
    duration: float,
    deadline: float,
) -> Results:
    scenarios = [
        with_settings(one, duration=duration)
        for one in choose(list(chapter.scenarios))
        if wanted is None or one.name in wanted
    ]
    words = [
        "python -m bench all",
        f"--only {chapter.name}",
        f"--duration {duration:g}",
        f"--rounds {rounds}",
    ]
    options = zip(("--go-kine go-kine", "--go-kine-nats go-kine-nats"), binaries, strict=True)
    words += [option for option, binary in options if binary is not None]
    words += [f"--scenario {name}" for name in sorted(wanted or ())]
    found = Results(
        command=" ".join(words),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe(),
        peers=[],
    )
    if not scenarios or monotonic() >= deadline:
        return found
    with Peers() as peers:
        targets: list[Target] = []
        for made in servers(chapter, *binaries):
            try:
                targets.append(started(peers.start(made)))
            except (OSError, ProtocolError, CallError, PeerError) as bad:
                found.series.append(Series("", "", made.name, {}, skipped=str(bad)))
                err.print(f"{made.name} does not run: {bad}")
        found.peers = [target.peer for target in targets]
        comparison = Comparison(pool, targets, RunSettings(rounds=rounds), peers)
        _run(chapter, comparison, scenarios, found, deadline)
    return found


def _run(
    chapter: Chapter, comparison: Comparison, scenarios: list[Scenario], found: Results, deadline: float
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        bar = progress.add_task("", total=len(scenarios) * comparison.rounds)
        for one in scenarios:
            if monotonic() >= deadline:
                names = [peer.name for peer in found.peers]
                found.series += [
                    Series(one.name, one.title, name, {}, skipped="no time left") for name in names
                ]
                continue
            found.series += comparison.run(
                one,
                lambda text: progress.update(bar, description=f"{chapter.name}: {text}"),
                lambda: progress.advance(bar),
            )


def _report(chapter: Chapter, found: Results, out: Path) -> None:
    from bench import report  # importing matplotlib takes a second

    found.series = [series for series in found.series if series.scenario]
    plots = out / chapter.name
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(plots)  # removes plots of servers and scenarios that are no longer measured
    path = out / f"{chapter.name}.md"
    report.write(report.join([found]), path, plots, ".svg", title=chapter.title)
    err.print(f"report: {path}")
