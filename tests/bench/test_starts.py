"""Cost of a start: the page matches the stored results, and the measurement works."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.starts import PAGE, RESULTS, Starts, Way, measure, page


def test_the_page_shows_the_results() -> None:
    text = PAGE.read_text()

    assert page(text, json.loads(RESULTS.read_text())) == text


def test_a_start_is_measured(tmp_path: Path) -> None:
    found = Starts()
    measure(Way("package", (sys.executable, "-m", "kine")), tmp_path, found)

    assert [len(each) for each in (found.elapsed, found.processor, found.resident, found.private)] == [1] * 4
    assert found.private[0] < found.resident[0]
