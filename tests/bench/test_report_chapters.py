"""The chapters of the whole report, and one of them run as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.report_chapters import CHAPTERS, servers
from bench.results import Round, Series, read
from bench.run_all import faults
from bench.scenarios import choose

GO_KINE = Path("/somewhere/go-kine")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_chapter_names_scenarios_and_servers_that_there_are(chapter):
    assert [one.name for one in choose(list(chapter.scenarios))]
    assert [made.name for made in servers(chapter, GO_KINE, GO_KINE)] == list(chapter.servers)
    assert all(made.safety for made in servers(chapter, GO_KINE, GO_KINE))


def test_go_kine_is_left_out_without_its_binary():
    assert [made.name for made in servers(CHAPTERS[0], None, None)] == ["kine-sqlite", "etcd"]


@pytest.mark.parametrize(
    ("series", "wrong"),
    [
        (Series("get", "", "kine-sqlite", {}, [Round()]), []),
        (Series("get", "", "go-kine-sqlite", {}, [Round(errors={"status 14": 9})]), []),
        (Series("get", "", "kine-sqlite", {}, [Round(errors={"status 14": 9})]),
         ["get of kine-sqlite: 9 failed, 0 events missing"]),
        (Series("churn-50", "", "kine-nats", {}, [Round(extra={"missing": 2.0})]),
         ["churn-50 of kine-nats: 0 failed, 2 events missing"]),
        (Series("get", "", "kine-nats", {}, skipped="it ended"), ["get of kine-nats: it ended"]),
    ],
)  # fmt: skip
def test_only_what_our_own_servers_did_wrong_is_a_fault(series, wrong):
    assert faults([series]) == wrong


@pytest.mark.parametrize("option", ["--pid", "--durability", "--follow"])
def test_option_for_a_server_that_is_not_in_the_run_is_refused(option):
    command = ["run", "get", "--start", "kine-memory", option, "kine-memroy=1"]

    result = CliRunner().invoke(app, command)

    assert result.exit_code == 2
    assert "kine-memroy" in result.output


def test_chapter_is_measured_and_written(tmp_path):
    command = ["all", "--only", "in-memory", "--scenario", "get-1", "--duration", "1"]

    result = CliRunner().invoke(
        app, [*command, "--results", str(tmp_path / "json"), "--out", str(tmp_path / "md")]
    )

    assert result.exit_code == 0, result.output
    assert read(tmp_path / "json" / "in-memory.json").series[0].rounds[0].completed
    report = (tmp_path / "md" / "in-memory.md").read_text()
    assert report.startswith("# Performance without a database\n")
    assert "python -m bench all --only in-memory --duration 1 --rounds 1 --scenario get-1" in report
    assert (tmp_path / "md" / "in-memory" / "rates.svg").exists()
