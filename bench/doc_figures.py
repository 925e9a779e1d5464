"""The figures quoted in README.md and docs/performance.md, written by `python -m bench figures`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill

from bench.published_reports import ROOT, Stored, number, read

PAGES = ("README.md", "docs/performance.md")
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)

_FRONT = (
    ("kine on SQLite", "kine-sqlite"),
    ("Go kine on SQLite", "go-kine-sqlite"),
    ("kine on PostgreSQL", "kine-postgres"),
    ("Go kine on PostgreSQL", "go-kine-postgres"),
    ("etcd", "etcd"),
)
_NAMES = {
    "create": "creates /s",
    "update": "updates /s",
    "delete": "deletes /s",
    "get": "gets /s",
    "list": "lists of 10,000 keys /s",
    "relist": "lists of 10,000 keys after a put /s",
    "page": "pages of 500 keys /s",
    "count": "counts of 10,000 keys /s",
    "create-1": "creates /s, one client",
    "get-1": "gets /s, one client",
}
_DATABASES = (("SQLite", "sqlite"), ("PostgreSQL", "postgres"), ("MariaDB", "mysql"), ("NATS", "nats"))


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _rates(stored: Stored, scenario: str, servers: Sequence[str]) -> list[str]:
    found = [stored.rates.get((scenario, server)) for server in servers]
    return ["" if one is None else "under 1" if one.per_second == "0" else one.per_second for one in found]


def _p99(stored: Stored, scenario: str, servers: Sequence[str]) -> list[str]:
    found = [stored.rates.get((scenario, server)) for server in servers]
    return ["" if one is None else one.p99 for one in found]


def reasons(stored: Stored) -> list[str]:
    """The five reasons in README."""
    calls: dict[str, bool] = {}
    for name, answer in re.findall(
        r"^\| `(\w+/\w+)` \|[^|]*\| ([^|]*)\|", (ROOT / "docs/compatibility.md").read_text(), re.MULTILINE
    ):
        calls[name] = calls.get(name, False) or not answer.startswith("Unimplemented")
    flags = (ROOT / "tests/unit/go_kine_flags.txt").read_text().splitlines()
    given = [line for line in flags if line and not line.startswith(("#", "s3-", "peer-"))]
    hour = re.search(r"([\d,]+) calls of known outcome,\s+([\d,]+) faults", _record("2026-11-25-faults.md"))
    assert hour is not None
    lag = _p99(stored, "churn-1000", ("kine-sqlite", "go-kine-sqlite", "etcd"))

    def times(scenario: str) -> tuple[str, str]:
        pairs = (("kine-postgres", "go-kine-postgres"), ("kine-sqlite", "go-kine-sqlite"))
        first, second = (stored.times(scenario, *pair) for pair in pairs)
        return first, second

    (creates, on_sqlite), (updates, its_updates), (gets, its_gets) = map(times, ("create", "update", "get"))
    found = (
        f"**The etcd API on a database you already run.** {sum(calls.values())} of etcd's {len(calls)} "
        "calls, general transactions, leases and watches among them; "
        "[each with its test](docs/compatibility.md).",
        f"**Takes Go kine's place.** The same table, socket, log lines and {len(given)} flags: stop one, "
        "start the other, [and back](docs/upgrade.md).",
        f"**Fast.** On PostgreSQL {creates} times Go kine's creates, {updates} times its updates and "
        f"{gets} times its gets; on SQLite {on_sqlite}, {its_updates} and {its_gets} times "
        "([figures](docs/performance.md)).",
        "**Watches keep up.** With 1,000 clients writing to SQLite, 99% of events arrive within "
        f"{lag[0]} ms; with Go kine within {lag[1]} ms, with etcd within {lag[2]} ms.",
        "**Several instances, no leader, tested by breaking them.** In one hour on all backends "
        f"{hour[2]} faults were injected under {hour[1]} calls: "
        "[the record](docs/history/2026-11-25-faults.md), [the guarantees](docs/guarantees.md).",
    )
    return [fill(f"- {one}", 120, subsequent_indent="  ", break_on_hyphens=False) for one in found]


def front(stored: Stored) -> list[str]:
    """The table in README: a column per server, and a first row with what an acknowledged write survives."""
    servers = [server for _, server in _FRONT]
    lines = [
        _row("64 clients, 1 kB values, 2 cores", [name for name, _ in _FRONT]),
        "|---|" + "---:|" * len(_FRONT),
    ]
    lines.append(_row("an acknowledged write survives", [stored.survives(one) for one in servers]))
    lines += [_row(_NAMES[one], _rates(stored, one, servers)) for one in ("create", "update", "get", "list")]
    lines.append(_row("gets /s, one client", _rates(stored, "get-1", servers)))
    lines.append(_row("p99 of a create, ms", _p99(stored, "create", servers)))
    lines.append(_row("p99 of an event, 1,000 clients writing, ms", _p99(stored, "churn-1000", servers)))
    lines.append(_row("memory with 100,000 keys, MiB", [stored.memory.get(one, "") for one in servers]))
    lines.append(_row("start with 100,000 keys, s", [stored.start.get(one, "") for one in servers]))
    return lines


def behind(stored: Stored) -> list[str]:
    """The scenarios in which another server leads kine by more than a tenth."""
    found = []
    for name, backend in _DATABASES:
        kine, go = f"kine-{backend}", f"go-kine-{backend}"
        for scenario, title in _NAMES.items():
            for other, of in ((go, "Go kine"), ("etcd", "etcd")):
                if other == "etcd" and backend != "sqlite":
                    continue
                if {(scenario, kine), (scenario, other)} <= stored.rates.keys():
                    ratio = stored.rate(scenario, other) / stored.rate(scenario, kine)
                    if ratio > 1.1:
                        found.append(
                            f"- {title.replace(' /s', '')} on {name}: {of} makes {ratio:.1f} times as many."
                        )
    return found


def compared(stored: Stored) -> list[str]:
    """docs/performance.md: every scenario on every database."""
    lines: list[str] = []
    for name, backend in _DATABASES:
        servers = [f"kine-{backend}", f"go-kine-{backend}", *(["etcd"] if backend == "sqlite" else [])]
        if backend == "nats":
            servers.append("kine-nats-cluster")
        titles = {"etcd": "etcd", "kine-nats-cluster": "kine, three nodes with three replicas"}
        heads = [titles.get(one, "Go kine" if one.startswith("go-") else "kine") for one in servers]
        lines += [
            "",
            _row(f"{name}, 64 clients", [*heads, "kine to Go kine"]),
            "|---|" + "---:|" * (len(servers) + 1),
        ]
        survives = [stored.survives(one) for one in servers]
        lines.append(_row("an acknowledged write survives", [*survives, ""]))
        for scenario, title in _NAMES.items():
            if (scenario, servers[0]) in stored.rates:
                rates = _rates(stored, scenario, servers)
                lines.append(_row(title, [*rates, stored.times(scenario, servers[0], servers[1])]))
        for scenario in ("create", "update"):
            lines.append(_row(f"p99 of {'a' if scenario == 'create' else 'an'} {scenario}, ms",
                              [*_p99(stored, scenario, servers), ""]))  # fmt: skip
        for scenario, title in (
            ("create", "a create"),
            ("update", "an update"),
            ("get", "a get"),
            ("list", "a list"),
        ):
            cells = [stored.cpu.get((scenario, one), "") for one in servers]
            if any(cells):
                lines.append(_row(f"CPU of {title}, us", [*cells, ""]))
    return lines[1:]


def watched(stored: Stored) -> list[str]:
    """docs/performance.md: clients that write while others watch, and Kubernetes' own mix of calls."""
    servers = ["kine-sqlite", "kine-postgres", "kine-mysql", "kine-nats", "etcd"]
    others = ["go-kine-sqlite", "go-kine-postgres", "go-kine-mysql", "go-kine-nats"]
    heads = ["SQLite", "PostgreSQL", "MariaDB", "NATS", "etcd", *(f"Go kine on {n}" for n, _ in _DATABASES)]
    lines = [_row("", heads), "|---|" + "---:|" * len(heads)]
    for scenario, clients in (("churn-50", "50"), ("churn-200", "200"), ("churn-1000", "1,000")):
        lines.append(_row(f"{clients} clients: writes /s", _rates(stored, scenario, servers + others)))
        lines.append(_row("p99 of an event, ms", _p99(stored, scenario, servers + others)))
    lines.append(
        _row(
            "10,000 watchers of one prefix: p99 of an event, ms",
            _p99(stored, "fanout-10000", servers + others),
        )
    )
    lines.append(_row("mixed: calls /s", _rates(stored, "mixed", servers + others)))
    return lines


def alone(stored: Stored) -> list[str]:
    """docs/performance.md: start time and memory with 100,000 keys; and the server without a database."""
    servers = ("kine-sqlite", "go-kine-sqlite", "etcd")
    lines = [
        _row("100,000 keys of 1 kB", ["kine on SQLite", "Go kine on SQLite", "etcd"]),
        "|---|---:|---:|---:|",
    ]
    lines.append(_row("start until the first answer, s", [stored.start[one] for one in servers]))
    lines.append(_row("memory after it, MiB", [stored.memory[one] for one in servers]))
    memory = [
        f"{stored.rates[scenario, 'kine-memory'].per_second} {scenario}s"
        for scenario in ("create", "update", "get")
    ]
    return [*lines, "", f"Without a database (`memory://`), 64 clients make {', '.join(memory)} a second."]


BLOCKS: dict[str, Callable[[Stored], list[str]]] = {
    "reasons": reasons,
    "front": front,
    "behind": behind,
    "compared": compared,
    "watched": watched,
    "alone": alone,
}


def page(text: str, stored: Stored) -> str:
    """A page's text with the figures of the current reports."""

    def current(block: re.Match[str]) -> str:
        return f"{block[1]}\n{chr(10).join(BLOCKS[block[2]](stored))}\n\n{block[3]}"

    return _BLOCK.sub(current, text)


def write() -> list[str]:
    """Updates the pages. Returns those that changed."""
    stored, changed = read(), []
    for name in PAGES:
        path = ROOT / name
        text = path.read_text()
        if (current := page(text, stored)) != text:
            path.write_text(current)
            changed.append(name)
    return changed


def _record(name: str) -> str:
    return (ROOT / "docs" / "history" / name).read_text()


def plots(directory: Path) -> list[Path]:
    """README's chart from the stored reports, for light pages and for dark ones."""
    from bench.plots import front as draw  # importing matplotlib takes a second, needed only here

    stored = read()
    groups = ("create", "update", "get")
    rates = {name: [stored.rate(one, server) for one in groups] for name, server in _FRONT}
    latencies = {name: [number(stored.rates[one, server].p99) for one in groups] for name, server in _FRONT}
    titles = [f"{group}s" for group in groups]
    panels = [
        ("requests a second (more is better)", titles, rates),
        ("p99, ms (less is better)", titles, latencies),
    ]
    made = []
    for theme in ("light", "dark"):
        made.append(directory / f"front-{theme}.svg")
        draw(made[-1], panels, dark=theme == "dark")
    return made
