"""Pytest runner that forks each run from a process with the unchanging modules already imported.

Most of a short run is imports. Started with a copy of the tree as the working directory, it reads one line of
JSON per run, `[arguments, output file, seconds]`, and responds with pytest's exit code, or "timeout".
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback

LIBRARIES = (
    "botocore.session", "git", "google.protobuf", "grpc", "grpc_health.v1", "grpc_reflection.v1alpha", "h2",
    "hpack", "hypothesis", "hypothesis.stateful", "jsonschema", "nats", "prometheus_client", "psycopg",
    "pymysql", "pytest_asyncio", "pytest_timeout", "rich", "sortedcontainers", "sqlalchemy", "trustme",
    "typer", "uvloop", "xdist", "yaml",
    "kine.proto.rpc_pb2", "kine.proto.kv_pb2",  # generated, so never mutated
)  # fmt: skip


def _run(arguments: list[str], output: str) -> None:
    """Runs in the fork; does not return."""
    code = 70
    try:
        os.setsid()
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(written, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        import pytest

        code = int(pytest.main(arguments))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int, seconds: float) -> int | str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        arguments, output, seconds = json.loads(line)
        child = os.fork()
        if not child:
            _run(arguments, output)
        answers.write(json.dumps(_wait(child, seconds)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
