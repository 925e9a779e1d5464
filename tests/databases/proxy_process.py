"""The TCP proxy in a separate process, controlled by lines on its standard input, for tests without asyncio.

`python -m tests.databases.proxy_process TARGET...` prints one port per target and then reads commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.databases.proxy import Proxy

ROOT = Path(__file__).parents[2]
_DELAY = 0.1  # seconds


class ProxyProcess:
    """Proxies between clients at `ports` and 127.0.0.1:`targets`.

    Each method applies to all proxies, and returns once they have obeyed.
    """

    def __init__(self, *targets: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, targets)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.ports = [int(port) for port in self._answer().split()]

    @property
    def port(self) -> int:
        return self.ports[0]

    def cut(self) -> None:
        """Breaks every open connection."""
        self._tell("cut")

    def refuse(self) -> None:
        """Breaks every connection, and accepts no new one."""
        self._tell("refuse")

    def stall(self) -> None:
        """Holds back all data, with the connections left open."""
        self._tell("stall")

    def stall_requests(self) -> None:
        self._tell("stall requests")

    def stall_answers(self) -> None:
        self._tell("stall answers")

    def delay_requests(self) -> None:
        """Delays each piece of a request, and so everything behind it."""
        self._tell("delay requests")

    def delay_answers(self) -> None:
        self._tell("delay answers")

    def swallow(self) -> None:
        """Forwards requests and discards responses."""
        self._tell("swallow")

    def heal(self) -> None:
        """Passes everything again. Discarded responses stay lost, and their connections are broken."""
        self._tell("heal")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def obey(proxy: Proxy, command: str) -> None:
    if command == "cut":
        proxy.cut()
    elif command == "refuse":
        proxy.refusing = True
        proxy.cut()
    elif command == "stall":
        proxy.stall()
    elif command in ("stall requests", "stall answers"):
        proxy.stall(command.removeprefix("stall "))
    elif command in ("delay requests", "delay answers"):
        proxy.delay[command.removeprefix("delay ")] = _DELAY
    elif command == "swallow":
        proxy.swallow_answers = True
    elif command == "heal":
        if proxy.swallow_answers:
            proxy.cut()
        proxy.refusing = proxy.swallow_answers = False
        proxy.delay = dict.fromkeys(proxy.delay, 0.0)
        proxy.flow()


async def main(targets: list[int]) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(target)) for target in targets]
        print(*(proxy.port for proxy in proxies), flush=True)  # noqa: T201 - its answer
        while command := await loop.run_in_executor(None, sys.stdin.readline):
            for proxy in proxies:
                obey(proxy, command.strip())
            print("done", flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    asyncio.run(main(list(map(int, sys.argv[1:]))))
