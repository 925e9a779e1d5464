"""The bench commands: `python -m bench run|report|...`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from datetime import UTC, datetime
from os import cpu_count
from pathlib import Path
from time import sleep, time_ns
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.comparison_run import Comparison, RunSettings
from bench.conformance import ObjectRun
from bench.driver_cost import calibrate
from bench.endpoint import Endpoint, EndpointError, TlsFiles, parse
from bench.grpcio_load import supported
from bench.http2 import ProtocolError
from bench.machine_info import describe
from bench.results import Results, Series, read
from bench.results_table import errors, show
from bench.run_all import whole
from bench.scenarios import SCENARIOS, Scenario, choose, with_settings
from bench.server_launcher import PeerError, Peers, Recipe, recipe, recipes
from bench.servers_under_test import given, started
from bench.soak.command import soak
from bench.sync_client import CallError, SyncClient
from bench.worker_processes import Workers

app = typer.Typer(
    name="bench",
    help="Measures servers of the etcd v3 API side by side. Exit codes: 0 all went well, 1 a server gave a "
    "wrong answer or could not be measured, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
err = Console(stderr=True)
app.command()(soak)
app.command("all")(whole)


@app.callback()
def _commands() -> None:
    """Makes typer require the command's name even with a single command."""


Endpoints = Annotated[
    list[str] | None,
    typer.Option("--endpoint", "-e", help="NAME=URL of a server; http://, https:// or unix://. Repeat."),
]
Starts = Annotated[
    list[str] | None,
    typer.Option(
        help=f"A server to start: one of {', '.join(recipes())}, or NAME=COMMAND with {{port}} and {{dir}}, "
        "and {{postgres}}, {{mysql}} or {{nats}} for the endpoint of a database started for it. Repeat."
    ),
]
AllowRemote = Annotated[bool, typer.Option(help="Accept servers that are not on this machine.")]


def _run_all(comparison: Comparison, scenarios: list[Scenario], results: Results, out: Path) -> None:
    """Runs the scenarios with a progress bar; the results file is written after each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        bar = progress.add_task("", total=len(scenarios) * comparison.rounds)

        def step(text: str) -> None:
            progress.update(bar, description=text)

        for scenario in scenarios:
            results.series += comparison.run(scenario, step, lambda: progress.advance(bar))
            results.write(out)


def _servers(
    given_urls: list[str] | None, start: list[str] | None, *, allow_remote: bool, tls: TlsFiles
) -> tuple[list[Endpoint], list[Recipe]]:
    """The servers named on the command line; at least one, without duplicates."""
    try:
        endpoints = [parse(text, allow_remote=allow_remote, tls=tls) for text in given_urls or []]
        starting = [recipe(text) for text in start or []]
    except (EndpointError, PeerError) as bad:
        raise typer.BadParameter(str(bad)) from bad
    names = [r.name for r in starting] + [e.name for e in endpoints]
    if not names or len(set(names)) != len(names):
        raise typer.BadParameter("name at least one server with --start or --endpoint, none twice")
    return endpoints, starting


def _pairs(values: list[str] | None, option: str) -> list[tuple[str, str]]:
    found = []
    for value in values or []:
        name, equals, rest = value.partition("=")
        if not equals or not name or not rest:
            raise typer.BadParameter(f"{value!r}: give it as NAME=VALUE", param_hint=option)
        found.append((name, rest))
    return found


@app.command()
def run(
    scenarios: Annotated[
        list[str], typer.Argument(help=f"Any of {', '.join(SCENARIOS)}; fanout, churn: all of theirs; all.")
    ],
    endpoint: Endpoints = None,
    start: Starts = None,
    peer_dir: Annotated[
        Path | None, typer.Option(help="Where started servers keep their data; else the temporary directory.")
    ] = None,
    pid: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PID of a server's process, repeated for several; else found by its port."),
    ] = None,
    follow: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=URL of another instance on its database, where watchers connect (fanout, churn)."
        ),
    ] = None,
    durability: Annotated[
        list[str] | None, typer.Option(help="NAME=TEXT on how a server makes writes safe, for the report.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100)] = 3,
    duration: Annotated[float | None, typer.Option(min=0.1, max=3600, help="Seconds measured.")] = None,
    warmup: Annotated[float | None, typer.Option(min=0, max=600, help="Seconds of load before.")] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Requests in flight at most.")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=1_000, help="Shared by the clients.")] = 8,
    rate: Annotated[
        float | None,
        typer.Option(min=0, help="Requests per second, due whatever the server does (open loop)."),
    ] = None,
    keys: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Of the data set, or to delete.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Bytes of a value.")] = None,
    watchers: Annotated[int | None, typer.Option(min=1, max=100_000)] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Driver processes.")] = cpu_count() or 1,
    client: Annotated[str, typer.Option(help="own, or grpcio to cross-check its figures.")] = "own",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds one request may take.")] = 10.0,
    out: Annotated[Path, typer.Option(help="The results file.")] = Path("bench-results.json"),
    keep: Annotated[bool, typer.Option(help="Leave the keys in the servers.")] = False,
    allow_remote: AllowRemote = False,
    cacert: Annotated[str, typer.Option(help="CA of https servers, PEM.")] = "",
    cert: Annotated[str, typer.Option(help="Client certificate, PEM.")] = "",
    key: Annotated[str, typer.Option(help="Its key, PEM.")] = "",
    insecure_skip_tls_verify: Annotated[bool, typer.Option(help="Accept any certificate.")] = False,
) -> None:
    """Runs scenarios against servers, in interleaved rounds, and writes a results file.

    Servers of --start come first, then those of --endpoint; ratios are against the first.
    """
    tls = TlsFiles(cacert, cert, key, verify=not insecure_skip_tls_verify)
    try:
        chosen = choose(scenarios)
    except KeyError as bad:
        raise typer.BadParameter(f"no scenario {bad}; there are {', '.join(SCENARIOS)}") from bad
    if client not in ("own", "grpcio"):
        raise typer.BadParameter("own or grpcio", param_hint="--client")
    if client == "grpcio" and not supported([scenario.kind for scenario in chosen]):
        raise typer.BadParameter("grpcio runs create to count only, no watches", param_hint="--client")
    pids = _pairs(pid, "--pid")
    safety = dict(_pairs(durability, "--durability"))
    followed = dict(_pairs(follow, "--follow"))
    endpoints, starting = _servers(endpoint, start, allow_remote=allow_remote, tls=tls)
    known = [r.name for r in starting] + [e.name for e in endpoints]
    for option, names in (
        ("--pid", [n for n, _ in pids]),
        ("--durability", [*safety]),
        ("--follow", [*followed]),
    ):
        for name in names:
            if name not in known:
                raise typer.BadParameter(
                    f"no server {name!r}; there are {', '.join(known)}", param_hint=option
                )
    needed = 2 if any(s.kind in ("fanout", "churn") for s in chosen) else 1
    with Peers(peer_dir) as peers, Workers(max(workers, needed)) as pool:
        try:
            targets = [started(peers.start(r), safety.get(r.name, "")) for r in starting]
            for one in endpoints:
                mine = [int(number) for name, number in pids if name == one.name]
                targets.append(given(one, mine, safety.get(one.name, "")))
                if targets[-1].server is None:
                    err.print(f"{one.name}: its process is not known, so neither CPU nor memory; see --pid")
            for target in targets:
                url = followed.pop(target.endpoint.name, "")
                if url:
                    text = f"{target.endpoint.name}={url}"
                    target.followed = parse(text, allow_remote=allow_remote, tls=tls)
        except (OSError, ProtocolError, CallError, PeerError, psutil.Error, ValueError) as bad:
            err.print(f"a server does not answer: {bad}")
            raise typer.Exit(1) from bad
        results = Results(
            command=shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=describe(peer_dir),
            peers=[target.peer for target in targets],
        )
        settings = RunSettings(rounds=rounds, client=client, connections=connections, timeout=timeout)
        comparison = Comparison(pool, targets, settings, peers)
        changed = [
            with_settings(
                scenario,
                duration=duration, rate=rate, keys=keys, size=size,
                warmup=warmup if scenario.warmup else None,
                clients=None if scenario.fixed_clients else clients,
                watchers=watchers if scenario.watchers else None,
            )
            for scenario in chosen
        ]  # fmt: skip
        _run_all(comparison, changed, results, out)
        if not keep:
            for target in targets:
                try:
                    comparison.clean(target)
                except (OSError, ProtocolError, CallError) as bad:
                    err.print(f"{target.endpoint.name}: the keys written stay, it cannot delete them: {bad}")
    show(results.series)
    for line in errors(results.series):
        err.print(line)
    err.print(f"results: {out}")
    if any(not sound(series) for series in results.series):
        raise typer.Exit(1)


@app.command("calibrate")
def calibrate_command(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Driver processes.")] = 1,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="Requests in flight.")] = 64,
    connections: Annotated[int, typer.Option(min=1, max=1_000)] = 8,
    duration: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds.")] = 5.0,
) -> None:
    """Measures the driver itself, against a server that answers every create with the same bytes."""
    series = calibrate(workers, clients, connections, duration)
    show([series])
    if not sound(series):
        raise typer.Exit(1)


@app.command("objects")
def objects_command(
    endpoint: Endpoints = None,
    start: Starts = None,
    count: Annotated[int, typer.Option(min=20, max=100_000, help="Objects to write.")] = 400,
    seed: Annotated[int, typer.Option(help="Other objects for another number.")] = 1,
    allow_remote: AllowRemote = False,
) -> None:
    """Checks servers with Kubernetes-shaped objects: every answer of every call an API server makes.

    Writes objects of 1 to 50 kB, lists them whole and by page, watches, updates, deletes, lets one expire,
    and compacts (the whole server's history up to the run's middle: use it on test servers).
    """
    endpoints, starting = _servers(endpoint, start, allow_remote=allow_remote, tls=TlsFiles())
    right = True
    with Peers() as peers:
        for one in [*(peers.start(r).endpoint for r in starting), *endpoints]:
            with SyncClient(one) as client:
                root = b"/registry/bench-objects-%x/" % time_ns()
                run_of = ObjectRun(client, root, count, seed)
                right &= run_of.run(lambda name: err.print(f"  {name}", highlight=False, soft_wrap=True))
            for step in run_of.steps:
                outcome = "right" if not step.wrong else f"{len(step.wrong)} WRONG"
                print(f"{one.name}: {step.name}: {step.checks} checks, {outcome}")
                for wrong in step.wrong[:10]:
                    print(f"    {wrong}")
    if not right:
        raise typer.Exit(1)


@app.command("report")
def report_command(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Results of `run`.")],
    out: Annotated[Path, typer.Option(help="The Markdown file.")] = Path("bench-report.md"),
    plot_dir: Annotated[
        Path | None, typer.Option(help="Of the plots; else beside, named as the file.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="PNG plots instead of SVG.")] = False,
) -> None:
    """Renders results as Markdown with plots."""
    from bench import report  # matplotlib takes a second that no other command needs

    try:
        joined = report.join([read(path) for path in files])
    except ValueError as bad:
        err.print(str(bad))
        raise typer.Exit(2) from bad
    report.write(joined, out, plot_dir or out.with_suffix(""), ".png" if png else ".svg")
    err.print(f"report: {out}")


@app.command("figures")
def figures_command() -> None:
    """Writes the figures that README.md and docs/performance.md quote, from docs/performance."""
    from bench import doc_figures

    for name in doc_figures.write():
        err.print(f"written: {name}")


@app.command("plots")
def plots_command(
    out: Annotated[Path, typer.Option(help="Directory of the two charts.")] = Path("docs/performance"),
) -> None:
    """Draws README's chart, light and dark, from the reports in docs/performance."""
    from bench import doc_figures

    for path in doc_figures.plots(out):
        err.print(f"written: {path}")


@app.command("peers")
def peers_command(
    names: Annotated[
        list[str],
        typer.Argument(help=f"Any of {', '.join(recipes())}, or NAME=COMMAND with {{port}} and {{dir}}."),
    ],
    seconds: Annotated[float, typer.Option(min=1, help="Stop them after so long.")] = 3600.0,
    peer_dir: Annotated[Path | None, typer.Option(help="Where they keep their data.")] = None,
) -> None:
    """Starts servers on free ports of this machine and keeps them until Ctrl-C; prints options for `run`."""
    try:
        with Peers(peer_dir) as peers:
            for name in names:
                running = peers.start(recipe(name))
                pids = (f"--pid {running.endpoint.name}={pid}" for pid in running.pids)
                print(f"--endpoint {running.endpoint.name}={running.endpoint.url}", *pids, flush=True)
                err.print(running.command, soft_wrap=True)
            with contextlib.suppress(KeyboardInterrupt):
                sleep(seconds)
    except PeerError as bad:
        err.print(str(bad))
        raise typer.Exit(1) from bad


def sound(series: Series) -> bool:
    """Whether the server was measured and returned no wrong answer."""
    wrong = any(
        error.startswith("wrong answer") for one in series.rounds for error in (*one.errors, *one.outside)
    )
    return not series.skipped and not wrong


def main() -> None:
    app()
