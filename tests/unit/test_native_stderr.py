"""Output that C libraries write directly to stderr."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from kine.observe.native_stderr import Lines

LINE = "E1130 02:54:58.363071     852 ssl_transport_security.cc:2563] Handshake failed"
PROGRAM = """
import logging, os, sys
from kine.observe import logging as logs, native_stderr
logs.configure("json")
with native_stderr.logged():
    for _ in range(1000):
        os.write(2, b"I1130 02:54:58.363071     852 ssl.cc:2563] Handshake failed\\n")
    os.write(2, b"something else\\n")
    logging.getLogger("kine").warning("as ever")
    print("python's own", file=sys.stderr)
os.write(2, b"afterwards\\n")
logging.getLogger("kine").warning("as ever, afterwards")
"""


def test_lines_of_one_place_are_logged_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines = Lines()

    assert [lines.take(LINE, now) for now in (0.0, 1.0, 9.0, 10.5)] == [True] * 4
    assert lines.take(LINE.replace("2563", "9"), 10.6)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert [record.getMessage() for record in caplog.records] == ["grpc: Handshake failed"] * 3


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", "E1130 half a line", "\0" * 99])
def test_other_lines_are_left_to_stderr(line: str) -> None:
    assert not Lines().take(line, 0.0)


def test_stderr_is_the_log_and_what_is_written_past_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )

    lines = ran.stderr.splitlines()
    told = [json.loads(line)["message"] for line in lines if line.startswith("{")]
    assert sorted(told) == ["as ever", "as ever, afterwards", "grpc: Handshake failed"]
    assert sorted(line for line in lines if not line.startswith("{")) == [
        "afterwards",
        "python's own",
        "something else",
    ]
