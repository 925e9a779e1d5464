"""The `python -m bench soak` command."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.machine_info import describe
from bench.server_launcher import PeerError, Peers, recipe, recipes
from bench.servers_under_test import version
from bench.soak.driver_processes import SoakError
from bench.soak.report import SoakResults, write_markdown
from bench.soak.run import Soak
from bench.soak.soak_settings import SoakSettings

err = Console(stderr=True)


def soak(
    start: Annotated[
        str,
        typer.Option(help=f"The server: one of {', '.join(recipes())}, or NAME=COMMAND as for run."),
    ] = "kine-sqlite",
    minutes: Annotated[float, typer.Option(min=0.01, max=10_000, help="Minutes of the soak.")] = 60.0,
    keys: Annotated[int, typer.Option(min=100, max=1_000_000, help="Objects that stay.")] = 100_000,
    size: Annotated[int, typer.Option(min=100, max=100_000, help="Bytes of a value.")] = 1024,
    watchers: Annotated[int, typer.Option(min=0, max=60_000, help="Watches that stay open.")] = 5_000,
    rate: Annotated[float, typer.Option(min=0, help="Calls a second. 0: a share of the capacity.")] = 0.0,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of what the start takes; hours take half.")
    ] = 0.4,
    warm_up: Annotated[
        float | None, typer.Option(min=0, help="Minutes not judged. Default: a quarter, or 3 compactions.")
    ] = None,
    compact: Annotated[float, typer.Option(min=0.5, help="Seconds between compactions.")] = 300.0,
    event_ttl: Annotated[int, typer.Option(min=3, max=3600, help="Seconds an Event lives.")] = 60,
    sample: Annotated[float, typer.Option(min=0.2, max=600, help="Seconds between samples.")] = 10.0,
    find: Annotated[float, typer.Option(min=0.5, help="Seconds to find the capacity.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the calls' order and the values.")] = 1,
    peer_dir: Annotated[Path | None, typer.Option(help="Where the server keeps its data.")] = None,
    out: Annotated[Path, typer.Option(help="The JSON file; .md and .svg beside it.")] = Path("soak.json"),
) -> None:
    """Runs a server under an API server's load for an hour and judges whether it stays as it was.

    Loads objects, opens watches, then makes calls at a fixed rate whatever the server does, while history is
    compacted as the API server asks for it. Each check is told at the end: memory, descriptors, threads,
    latency and database flat, no error, every watch's events exactly those written. Exit codes: 0 all hold,
    1 one does not or the server could not be measured, 2 wrong usage.
    """
    try:
        chosen = recipe(start)
    except PeerError as bad:
        raise typer.BadParameter(str(bad), param_hint="--start") from bad
    duration = minutes * 60
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # runs the clean-up of the server's data
    with Peers(peer_dir) as peers:
        try:
            running = peers.start(chosen)
            settings = SoakSettings(
                running.endpoint, keys, size, watchers, rate, share, duration,
                warm_up=min(duration / 4, 3 * compact) if warm_up is None else warm_up * 60,
                find=find, compact=compact, event_ttl=event_ttl, sample=sample, seed=seed,
            )  # fmt: skip
            results = SoakResults(
                command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                machine=describe(peer_dir),
                server=running.command,
                version=f"{chosen.name} {version(running.endpoint)}",
                durability=chosen.safety,
                settings={k: v for k, v in asdict(settings).items() if k != "endpoint"},
            )
            _with_progress(Soak(running, settings, results, out, lambda _text, _share: None))
        except (PeerError, SoakError) as bad:
            err.print(f"the soak ended: {bad}", soft_wrap=True)
            raise typer.Exit(1) from bad
    write_markdown(results, out.with_suffix(".md"), out.with_suffix(".svg"))
    for check in results.checks:
        print(f"{'ok  ' if check.good else 'FAIL'} {check.name}: {check.text}")
    err.print(f"results: {out}, {out.with_suffix('.md')}")
    if not results.good:
        raise typer.Exit(1)


def _with_progress(one: Soak) -> None:
    """Runs it with a progress bar on a terminal, and one line per sample elsewhere."""
    columns = (BarColumn(20), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        bar = progress.add_task("", total=1.0)

        def told(text: str, share: float) -> None:
            progress.update(bar, description=text, completed=min(1.0, share))
            if not err.is_terminal:
                print(f"{share:4.0%} {text}", file=sys.stderr, flush=True)

        one.told = told
        one.run()
