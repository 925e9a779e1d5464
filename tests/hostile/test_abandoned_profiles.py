"""Profiles whose client has disconnected."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.hostile.harness import await_that

if TYPE_CHECKING:
    from tests.hostile.conftest import StartTarget
    from tests.hostile.harness import Target

PROFILE = b"GET /debug/pprof/profile?seconds=60&hertz=1 HTTP/1.1\r\n\r\n"


def asked_for_a_profile(target: Target, opened: ExitStack) -> socket.socket:
    host, _, port = target.metrics_address.rpartition(":")
    client = opened.enter_context(socket.create_connection((host, int(port))))
    client.sendall(PROFILE)
    await_that(lambda: target.page("/debug/pprof/profile?seconds=1")[0] == 429)
    return client


def test_profile_ends_with_its_client(start_target: StartTarget) -> None:
    target = start_target("--metrics-enable-profiling")
    with target.probed(), ExitStack() as opened:
        asked_for_a_profile(target, opened).close()
        await_that(lambda: "profile" not in _threads(target))
    assert target.page("/debug/pprof/profile?seconds=1")[0] == 200


def test_server_ends_while_a_profile_is_made(start_target: StartTarget) -> None:
    target = start_target("--metrics-enable-profiling")
    with ExitStack() as opened:
        asked_for_a_profile(target, opened)
        target.instance.process.send_signal(signal.SIGTERM)
        assert target.instance.process.wait(30) == 0


def _threads(target: Target) -> list[str]:
    return [line for line in target.page("/debug/pprof/threads")[1].splitlines() if line[:1].strip()]
