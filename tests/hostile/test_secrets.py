"""The check that ends every run finds what it looks for, and does not tell it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests import secrets

ROOT = Path(__file__).parents[2]


def run(chosen: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/hostile/planted.py"]
    return subprocess.run([*command, "-k", chosen], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_run_fails_where_a_secret_was_told() -> None:
    ended = run("password")

    assert ended.returncode == 1, ended.stdout
    assert "line 1: the endpoint, or its password" in ended.stdout
    assert "planted word" not in ended.stdout


def test_run_passes_where_none_was_told() -> None:
    assert run("well").returncode == 0


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The check as at the beginning of a run."""
    told: dict[str, str] = {}
    monkeypatch.setattr(secrets, "_told", told)
    monkeypatch.setattr(secrets, "_logs", [])
    monkeypatch.setattr(secrets, "_pages", [])
    return told


def test_keys_tokens_and_pages_are_looked_at(apart: dict[str, str], tmp_path: Path) -> None:
    key, creds, log = tmp_path / "server.key", tmp_path / "user.creds", tmp_path / "server.log"
    trustme.CA().issue_cert("a").private_key_pem.write_to_path(str(key))
    creds.write_text("-----BEGIN USER NKEY SEED-----\nSUAPLANTED\n------END USER NKEY SEED------\n")
    command = ["kine", f"--server-key-file={key}", f"--endpoint=nats://a-token@h?noEmbed&credsFile={creds}"]
    secrets.started(command, {"AWS_SECRET_ACCESS_KEY": "of amazon", "PATH": "/usr/bin"}, log)
    assert secrets.leaks() == []

    lines = key.read_text().splitlines()
    log.write_text(f"first\n{lines[1]}\nSUAPLANTED\na-token\nof amazon\n/usr/bin\n")
    secrets._pages.append(("page", 'a_metric{by="a-token"} 1'))

    assert secrets.leaks() == [
        f"{log}, line 2: a line of server.key",
        f"{log}, line 4: the endpoint, or its password",
        f"{log}, line 3: a line of user.creds",
        f"{log}, line 5: AWS_SECRET_ACCESS_KEY",
        "page, line 1: the endpoint, or its password",
    ]
