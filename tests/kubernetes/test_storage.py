"""Kubernetes' own storage suite for its API server (storage_test.go, in Go), against each backend."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.executable import built_once

if TYPE_CHECKING:
    from tests.conftest import StartOwn
    from tests.servers import Backend, Capabilities
    from tests.servers.process import Instance

pytestmark = pytest.mark.engines

HERE = Path(__file__).parent
PATIENCE = 1_500  # seconds; on a machine of its own 60 to 90
KINDS = ("sqlite", "postgres", "mysql", "nats")
LEAST = 60  # tests, with their parts; 0 would be green, too


@pytest.fixture(scope="session")
def suite() -> Path:
    """The suite as a compiled program, rebuilt when the module has changed: the first time takes minutes."""
    if shutil.which("go") is None:
        pytest.skip("no go in the PATH")
    files = [HERE / "go.mod", HERE / "go.sum", *sorted(HERE.glob("*.go"))]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    return built_once("kubernetes", f"storage-{made_of.hexdigest()[:16]}.test", build)


def build(output: Path) -> None:
    command = ["go", "test", "-c", "-o", str(output), "."]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the suite cannot be built: {done.stderr.strip().splitlines()[-1]}")


def run(suite: Path, server: Instance | None) -> None:
    environment = {**os.environ, "KINE_TEST_SERVER": server.address if server else ""}
    command = [str(suite), "-test.v", f"-test.timeout={PATIENCE}s"]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    failed = re.findall(r"^ *--- FAIL: (\S+)", done.stdout, re.MULTILINE)
    passed = re.findall(r"^ *--- PASS: (\S+)", done.stdout, re.MULTILINE)
    assert done.returncode == 0, f"{failed}\n{done.stdout[-8_000:]}\n{done.stderr[-2_000:]}"
    assert len(passed) > LEAST


def test_kubernetes_cannot_tell_it_from_etcd(
    suite: Path, backend: Backend, own_server: StartOwn, capabilities: Capabilities
) -> None:
    if backend.kind not in KINDS or not capabilities.streams_ranges:
        pytest.skip("it is run on each kind of database")
    if backend.transport == "grpcio" and backend.kind != "sqlite":
        pytest.skip("one database is enough")
    run(suite, own_server(progress_interval=1))


def test_the_suite_passes_on_etcd(suite: Path) -> None:
    run(suite, None)
