"""The soak: its verdict, its counts, and a very short run against a real server."""

import json
import math
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from bench.endpoint import parse
from bench.soak.event_counts import Arrived, Delivery, Expected, Written, compare
from bench.soak.soak_settings import (
    EVENTS,
    ON_EVERYTHING,
    SoakSettings,
    key_of,
    prefix_of,
    resource_prefix,
    watches,
)
from bench.soak.soak_traffic import GET, LEASE, UPDATE, Call, Objects, Traffic
from bench.soak.verdict import MIB, judge
from bench.unary_load import Slot

ROOT = Path(__file__).parents[2]
SETTINGS = SoakSettings(parse("kine=http://127.0.0.1:1"), keys=1_000, watchers=100)
WHOLE = Delivery(expected=10, events=10, wrong_watches=0, wrong=[])
HOUR = range(10, 3601, 10)
PERIOD = 300.0


def sawtooth(t):
    return 500 * MIB + 100 * MIB * (t % PERIOD) / PERIOD


def samples(**changes):
    """An hour's samples of a stable server, except for `changes`: functions of the time."""
    rng = Random(1)
    figures = {
        # Memory and database size follow the compactions.
        "rss": lambda t: sawtooth(t) + rng.uniform(-1, 1) * MIB,
        "value_cache": lambda t: 200 * MIB + 100 * MIB * (t % PERIOD) / PERIOD,
        "list_cache": lambda _: 50 * MIB,
        "revision": lambda t: 100_000 + 1_000 * t,
        "compact_revision": lambda t: 100_000 + 1_000 * max(0, t - t % PERIOD - PERIOD),
        "db_in_use": lambda t: 900 * MIB + 400 * MIB * (t % PERIOD) / PERIOD,
        "db_size": lambda _: 1300 * MIB,
        "fds": lambda _: 50 + rng.randrange(3),
        "threads": lambda _: 9,
        "calls_cpu": lambda _: 0.2,
        "follow_cpu": lambda _: 0.3,
        **{f"{name}_p50": lambda _: 0.001 for name in ("read", "list", "write", "lag")},
        **{f"{name}_p99": lambda _: rng.uniform(0.008, 0.012) for name in ("read", "list", "write", "lag")},
    } | changes
    return [{"seconds": t, **{name: figure(t) for name, figure in figures.items()}} for t in HOUR]


def failed(found, delivery=WHOLE, errors=None, unstarted=0):
    checks = judge(found, delivery, errors or {}, warm_up=900.0, period=PERIOD, unstarted=unstarted)
    return [check.name for check in checks if not check.good]


def test_a_server_that_stays_as_it_is_passes():
    assert failed(samples()) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("memory flat", {"rss": lambda t: sawtooth(t) + t * 2 * MIB / 60}),
        (
            "caches bounded",
            {"rss": lambda t: sawtooth(t) + t * 20_000, "list_cache": lambda t: 50 * MIB + t * 20_000},
        ),
        ("history bounded", {"compact_revision": lambda t: 100_000 + 900 * max(0, t - t % PERIOD - PERIOD)}),
        ("database in use bounded", {"db_in_use": lambda t: 900 * MIB + t * 90_000}),
        ("database file bounded", {"db_size": lambda t: 900 * MIB + t * 90_000}),
        ("file descriptors flat", {"fds": lambda t: 50 + t // 200}),
        ("threads flat", {"threads": lambda t: 9 + t // 200}),
        ("reads no slower", {"read_p50": lambda t: 0.005 + t / 1e6}),
        ("writes no slower", {"write_p99": lambda t: 0.010 + t / 1e5}),
        ("lists no slower", {"list_p99": lambda t: 0.010 + t / 1e5}),
        ("watches no later", {"lag_p99": lambda t: 0.010 + t / 1e5}),
        ("driver has room", {"calls_cpu": lambda _: 0.95}),
    ],
)
def test_growth_and_drift_are_found(name, change):
    assert failed(samples(**change)) == [name]


def test_growth_before_the_warm_up_ends_is_not_judged():
    assert failed(samples(rss=lambda t: min(t, 900) * MIB)) == []


def test_a_leak_is_found_in_a_server_that_tells_nothing_of_itself():
    def of_another(**changes):
        told = ("value_cache", "list_cache", "revision", "compact_revision")
        return [{k: v for k, v in sample.items() if k not in told} for sample in samples(**changes)]

    assert failed(of_another()) == []
    assert failed(of_another(rss=lambda t: sawtooth(t) + t * 2 * MIB / 60)) == ["memory flat"]


def test_compactions_that_slow_writes_down_are_no_drift():
    assert failed(samples(write_p99=lambda t: 0.100 if t % PERIOD < PERIOD / 2 else 0.010)) == []


def test_history_is_not_judged_by_a_part_of_one_compaction():
    short = [sample for sample in samples() if 900 < sample["seconds"] < 1_180]

    assert not {"caches bounded", "history bounded"} & set(failed(short))


def test_a_database_that_grows_until_half_time_is_bounded():
    assert failed(samples(db_size=lambda t: 900 * MIB + min(t, 1_800) * MIB)) == []


def test_a_soak_that_ends_within_its_warm_up_fails():
    assert failed(samples()[:10]) == ["samples"]


def test_errors_missing_events_and_calls_left_over_fail():
    missing = Delivery(expected=10, events=9, wrong_watches=1, wrong=["watch 3"])

    assert failed(samples(), missing, {"status 14": 2}, 5) == [
        "no error",
        "no call left over",
        "every event delivered",
    ]


def test_keys_and_their_watches_are_kubernetes_shaped():
    assert key_of(SETTINGS, 0) == b"/registry/pods/ns-0000/object-0000000"
    assert key_of(SETTINGS, 999).startswith(b"/registry/replicasets/ns-0001/")
    assert len({key_of(SETTINGS, number) for number in range(SETTINGS.keys)}) == SETTINGS.keys
    plan = watches(SETTINGS)
    assert len(plan) == SETTINGS.watchers
    assert [watch.scope for watch in plan].count("all") == ON_EVERYTHING
    assert {watch.scope for watch in plan} == {"all", "resource", "group", "key"}
    assert prefix_of(SETTINGS, SETTINGS.groups - 1).startswith(resource_prefix(EVENTS))


def test_a_list_begins_anew_before_its_history_ends():
    traffic, call = Traffic(Objects(SETTINGS), 1), Call()
    traffic._list(call)
    begun = call.pages
    traffic._list(call)
    assert call.pages is begun

    traffic.kept = 0.0
    traffic._list(call)

    assert call.pages is not begun


def test_calls_go_on_when_all_objects_are_busy():
    objects = Objects(SETTINGS)
    objects.busy.update(range(SETTINGS.keys))
    traffic, slot = Traffic(objects, 1), Slot(None, None, 0)
    traffic.begin(slot)

    for _ in range(200):
        traffic.next(slot)
        assert slot.kind not in (LEASE, GET, UPDATE)


def test_every_watch_must_have_exactly_the_events_of_what_it_follows():
    written = Written.empty(SETTINGS)
    number, event = 0, EVENTS * SETTINGS.namespaces
    written.puts[0], written.sums[0], written.deletes[0] = 3, 60, 1
    written.key_puts[number], written.key_sums[number] = 2, 30
    written.puts[event], written.sums[event] = 1, 40  # deleted by its lease
    plan = watches(SETTINGS)
    expected = Expected(SETTINGS, written)
    arrived = Arrived.empty(len(plan))
    for at, watch in enumerate(plan):
        arrived.puts[at], arrived.sums[at], arrived.deletes[at] = expected.of(watch)
    everything = plan[0]

    assert expected.of(everything) == (4, 100, 2)
    assert compare(SETTINGS, plan, written, arrived).wrong_watches == 0

    arrived.sums[0] += 1  # the right number of events, but not the same ones
    arrived.deletes[ON_EVERYTHING] -= 1

    assert compare(SETTINGS, plan, written, arrived).wrong_watches == 2


def test_a_soak_of_a_few_seconds_loses_nothing(tmp_path):
    options = (
        "--minutes 0.05 --keys 700 --watchers 120 --find 1 --share 0.2 --compact 1 --event-ttl 3 --sample 0.5"
    )

    done = subprocess.run(
        [sys.executable, "-m", "bench", "soak", *options.split(), "--out", "soak.json"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip

    assert done.returncode in (0, 1), done.stderr  # a busy machine may be slower within the 3 s
    found = json.loads((tmp_path / "soak.json").read_text())
    checks = {check["name"]: check["good"] for check in found["checks"]}
    assert found["errors"] == {}
    assert checks["every event delivered"]
    assert checks["file descriptors flat"]
    assert checks["threads flat"]
    assert found["events"] == found["expected_events"] > 0
    assert found["compactions"] >= 1
    assert done.returncode == (0 if all(checks.values()) else 1)
    assert all(math.isfinite(sample["write_p99"]) for sample in found["samples"])
    assert "| memory flat |" in (tmp_path / "soak.md").read_text()
    assert (tmp_path / "soak.svg").stat().st_size > 1_000
