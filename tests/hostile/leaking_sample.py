"""Sample test that leaks a secret: `test_secret_scan` runs it to see that the run then fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.servers.process import start

ENDPOINT = "--endpoint=postgres://kine:planted%20word@127.0.0.1:1/kine"
TELLS = "import sys; print('serving', *eval(sys.argv[1]), flush=True); sys.stdin.read()"


@pytest.mark.parametrize("said", ["['all is well']", "['the password is', 'planted' + ' word']"])
def test_planted(tmp_path: Path, said: str) -> None:
    # `kine` among the first words makes the scan take it for a kine.
    program = tmp_path / "kine"
    program.write_text(TELLS)
    command = [sys.executable, "kine", said, ENDPOINT]
    start(command, tmp_path, lambda line: line or None).kill()
