"""The command line from its user's side: what is accepted, printed and refused, signals, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kine.cli import main
from kine.go_flags import UsageError, normalize

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds, for a process to end
SWITCHES = {"debug": True, "endpoint": False, "compact-interval": False}

# Serves until it is stopped, in the way the first argument says.
SERVER = """
import asyncio, sys, time
from kine.cli import run
from kine.config import Settings
from kine.drivers.base import DriverError

async def until_stopped(settings, stop):
    print("serving", flush=True)
    await stop.wait()

async def slow_to_stop(settings, stop):
    await until_stopped(settings, stop)
    print("stopping", flush=True)
    await asyncio.sleep(60)

async def stuck(settings, stop):
    await until_stopped(settings, stop)
    print("stopping", flush=True)
    time.sleep(60)

async def failing(settings, stop):
    raise {"ValueError": ValueError, "DriverError": DriverError, "RuntimeError": RuntimeError}[sys.argv[2]](
        f"cannot use {settings.endpoint}"
    )

async def taken(settings, stop):
    import socket
    with socket.create_server(("127.0.0.1", 0)) as first:
        await asyncio.start_server(lambda reader, writer: None, *first.getsockname())

settings = Settings(endpoint="postgres://user:hunter22@host/db", log_format="json")
sys.exit(run(settings, globals()[sys.argv[1]]))
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def said_line(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().strip()


@pytest.mark.parametrize(
    ("arguments", "normal"),
    [
        (["--endpoint", "x"], ["--endpoint=x"]),
        (["--endpoint=x"], ["--endpoint=x"]),
        (["-endpoint", "x"], ["--endpoint=x"]),
        (["-endpoint=x"], ["--endpoint=x"]),
        (["--endpoint="], ["--endpoint="]),
        (["--endpoint", ""], ["--endpoint="]),
        (["--endpoint", "a=b"], ["--endpoint=a=b"]),
        (["--compact-interval", "-1s"], ["--compact-interval=-1s"]),
        (["--debug"], ["--debug=true"]),
        (["-debug"], ["--debug=true"]),
        (["--debug=false"], ["--debug=false"]),
        (["--debug", "--endpoint", "x"], ["--debug=true", "--endpoint=x"]),
        (["-v"], ["--version"]),
        (["-version"], ["--version"]),
        (["-h"], ["--help"]),
        (["help"], ["--help"]),
        (["--"], []),
        (["--debug", "check", "-x", "--endpoint", "y"], ["--debug=true", "check", "-x", "--endpoint", "y"]),
    ],
)
def test_flags_are_read_as_go_reads_them(arguments: list[str], normal: list[str]) -> None:
    assert normalize(arguments, SWITCHES, ["check"]) == normal


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve"], '"serve" stands alone where only flags are read'),
        (["--debug", "true"], "a switch takes its value as --NAME=true"),
        (["--", "--debug"], '"--debug" stands alone'),
        (["-"], '"-" stands alone'),
        (["--compct-interval", "1s"], "did you mean --compact-interval?"),
        (["--nothing-like-it"], "see --help"),
        (["--endpoint"], "--endpoint needs a value"),
    ],
)
def test_what_cannot_be_read_is_answered_with_the_fix(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalize(arguments, SWITCHES)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "argument", ["postgres://user:hunter22@host/db", "--postgres://user:hunter22@host/db"]
)
def test_stray_endpoint_is_not_repeated(argument: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalize([argument], SWITCHES)

    assert "hunter22" not in str(caught.value)


def test_version_is_data_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    out, err = capsys.readouterr()
    assert (caught.value.code, out.split()[:2], err) == (0, ["kine", "version"], "")


def test_help_tells_every_flag_its_variable_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    out, _ = capsys.readouterr()
    assert caught.value.code == 0
    assert "--datastore-connection-max-idle-time DURATION" in out
    assert "KINE_DATASTORE_CONNECTION_MAX_IDLE_TIME" in out
    assert "Exit codes: 0" in out


def test_wrong_usage_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--compact-interval", "5"])

    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err == 'kine: --compact-interval: "5" has no unit; write 5s for seconds, or 1m30s, 100ms\n'


def test_python_m_kine_is_kine() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kine", "-version"], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert done.stdout.startswith("kine version ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_cleanly(number: signal.Signals) -> None:
    server = start("until_stopped")
    assert said_line(server) == "serving"

    server.send_signal(number)

    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert f"stopping on {number.name}" in err


@pytest.mark.parametrize("way", ["slow_to_stop", "stuck"])
def test_second_signal_exits_at_once(way: str) -> None:
    server = start(way)
    assert said_line(server) == "serving"
    server.send_signal(signal.SIGTERM)
    assert said_line(server) == "stopping"

    server.send_signal(signal.SIGTERM)

    server.communicate(timeout=PATIENCE)
    assert server.returncode == 1


@pytest.mark.parametrize("kind", ["ValueError", "DriverError"])
def test_failed_start_is_one_line_without_the_endpoint(kind: str) -> None:
    server = start("failing", kind)

    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 1
    assert err.count("\n") == 1
    assert '"severity": "fatal"' in err
    assert "cannot use ***" in err
    assert "Traceback" not in err
    assert "hunter22" not in err


def test_own_error_is_logged_with_its_stack_without_the_endpoint() -> None:
    server = start("failing", "RuntimeError")

    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 1
    assert err.count("\n") == 1
    assert "RuntimeError: cannot use ***" in err
    assert "hunter22" not in err


def test_address_in_use_says_what_to_do() -> None:
    server = start("taken")

    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 1
    assert "address already in use; stop what uses it, or set another --listen-address" in err
