"""Progress of a command on stderr: a bar if that is a terminal, else a line every few seconds."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

_LINE_SECONDS = 5.0


class Progressing:
    """A progress display, which also reports when there is no progress for some seconds.

    Needs a running event loop.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._terminal = sys.stderr.isatty()
        self._progress = Progress(console=Console(stderr=True), transient=True, disable=not self._terminal)
        self._task: Any = None
        self._what, self._total, self._count = "opening the endpoint", 0, 0
        self._moved = time.monotonic()
        self._telling: asyncio.Task[None] | None = None

    def __enter__(self) -> Progressing:
        self._progress.start()
        self._telling = asyncio.get_running_loop().create_task(self._tell())
        return self

    def __exit__(self, *_: object) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        self._what, self._total, self._count = what, total, 0
        self._moved = time.monotonic()
        self._task = self._progress.add_task(what, total=total or None)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)
        self._count += count
        self._moved = time.monotonic()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_LINE_SECONDS)
            line = f"{self._what}: {self._count} of {self._total}" if self._total else self._what
            silent = time.monotonic() - self._moved
            if silent >= _LINE_SECONDS:
                line += f", {silent:.0f} s without progress; something may hold a lock on one of its tables"
            if not self._terminal:
                sys.stderr.write(f"kine: {line}\n")
            elif silent >= _LINE_SECONDS:  # else the bar shows it
                self._progress.console.print(line)
