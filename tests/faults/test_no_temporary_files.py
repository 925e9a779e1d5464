"""A server without a directory for temporary files, as in a container whose root is read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest

from tests.client import Client
from tests.databases import nats
from tests.servers.kine import ROOT, start_kine

READ_ONLY = (
    "mount -t tmpfs -o ro tmpfs /var/tmp && mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp"
    f" && cd /proc && PYTHONPATH={ROOT} exec {sys.executable} -m kine"
)


@pytest.fixture(autouse=True)
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("file systems of its own need root, and unshare")
    if subprocess.run(["unshare", "-m", "mount", "--bind", "/tmp", "/tmp"], check=False).returncode:
        pytest.skip("no mounts are allowed here")
    script = tmp_path / "kine"
    script.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'{READ_ONLY} "$@"\' sh "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("KINE_TEST_EXECUTABLE", str(script))


def test_memory_is_served_and_a_snapshot_fails_with_what_to_do(tmp_path: Path) -> None:
    server = start_kine("memory://", "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/a")
        client.defragment()
        with pytest.raises(grpc.RpcError) as refused:
            list(client.snapshot())
        assert "No usable temporary directory" in refused.value.details()
        assert refused.value.details().endswith(
            "; name a writable directory with room in the server's TMPDIR"
        )
        assert client.get(b"/a") is not None
    assert server.stop() == 0


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing() or "-")
def test_an_embedded_nats_uses_its_own_directory(tmp_path: Path) -> None:
    data = tempfile.mkdtemp(prefix=".kine-nats-", dir=Path.home())  # /tmp and /var/tmp are read-only here
    try:
        server = start_kine(f"nats://?dataDir={data}", "http2", tmp_path)
        with Client(server.address) as client:
            client.put(b"/a")
            assert sum(len(part.blob) for part in client.snapshot())
        assert server.stop() == 0
    finally:
        shutil.rmtree(data)
