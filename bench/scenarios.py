"""The scenarios by name, with their default settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.mixed_profile import ASSUMED, SOURCE

EVENTS_A_SECOND = 5_000.0  # the target of a fan-out: what one watching process can keep up with


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. Counts are of the whole run; times in seconds; `rate` 0 is a closed loop."""

    name: str
    kind: str  # the name that the workers use
    title: str
    clients: int = 64
    watchers: int = 0
    rate: float = 0.0
    warmup: float = 1.0
    duration: float = 10.0
    size: int = 1024
    keys: int = 10_000
    page: int = 500
    data: bool = False  # reads the data set of `keys` x `size`
    fixed_clients: bool = False  # its name contains the number
    note: str = ""


def _fanout(watchers: int) -> Scenario:
    rate = min(100.0, max(1.0, EVENTS_A_SECOND / watchers))
    return Scenario(
        f"fanout-{watchers}",
        "fanout",
        f"Watch fan-out: {watchers:,} watchers of one prefix",
        clients=8,
        watchers=watchers,
        rate=rate,
        size=256,
    )


def _churn(clients: int) -> Scenario:
    return Scenario(
        f"churn-{clients}",
        "churn",
        f"Watch churn: {clients:,} clients create, update twice and delete",
        clients=clients,
        fixed_clients=True,
        watchers=4,
    )


_MIX = ", ".join(f"{kind} {parts / 10:g}%" for kind, parts in ASSUMED.items())

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("create", "create", "Create"),
        Scenario("create-1", "create", "Create, one client", clients=1, fixed_clients=True),
        Scenario("update", "update", "Update"),
        Scenario("delete", "delete", "Delete", warmup=0.0),
        Scenario("get", "get", "Get", data=True),
        Scenario("get-1", "get", "Get, one client", clients=1, fixed_clients=True, data=True),
        Scenario("list", "list", "List, whole", clients=4, data=True),
        Scenario("relist", "relist", "Put, then list, whole, in turn", clients=4, data=True),
        Scenario("page", "page", "List, paged", clients=4, data=True),
        Scenario("count", "count", "Count", data=True),
        Scenario(
            "mixed", "mixed", "Mixed, Kubernetes profile", watchers=8, data=True, note=f"{_MIX}; {SOURCE}"
        ),
        *(_fanout(n) for n in (1, 100, 1_000, 10_000)),
        *(_churn(n) for n in (50, 200, 500, 1_000)),
        Scenario(
            "coldstart", "coldstart", "Cold start: until the first answered get", keys=100_000, data=True
        ),
        Scenario("memory", "memory", "Memory after loading keys", keys=100_000),
    )
}
NEEDS_START = ("coldstart", "memory")  # only for servers that bench starts


def choose(names: list[str]) -> list[Scenario]:
    """The scenarios with these names; `fanout` and `churn` stand for their whole groups, `all` for every one.

    Raises KeyError with an unknown name.
    """
    found: dict[str, Scenario] = {}
    for name in names:
        matching = [
            scenario
            for scenario in SCENARIOS.values()
            if name in (scenario.name, "all") or (name in ("fanout", "churn") and scenario.kind == name)
        ]
        if not matching:
            raise KeyError(name)
        found |= {scenario.name: scenario for scenario in matching}
    return list(found.values())


def with_settings(scenario: Scenario, **settings: float | int | None) -> Scenario:
    """The scenario with those settings replaced that are not None."""
    return replace(scenario, **{key: value for key, value in settings.items() if value is not None})  # type: ignore[arg-type]
