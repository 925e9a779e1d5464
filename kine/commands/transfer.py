"""What is taken from an endpoint: kept on disk, shown as it comes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from kine.etcd.proto import kv_pb2 as kv

if TYPE_CHECKING:
    from kine.commands.api import Api


class Entry(NamedTuple):
    mod_revision: int
    offset: int
    size: int


class Spool:
    """Key-values on disk, found by key; what is in memory is some 200 bytes a key."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="kine-")  # noqa: SIM115 - closed by `spool`
        self.entries: dict[bytes, Entry] = {}
        self.leases: dict[int, int] = {}  # seconds granted, by id
        self.revision = 0

    def add(self, item: Any) -> None:
        encoded = item.SerializeToString()
        self.entries[item.key] = Entry(item.mod_revision, self._file.tell(), len(encoded))
        self._file.write(encoded)

    def get(self, entry: Entry) -> Any:
        self._file.seek(entry.offset)
        return kv.KeyValue.FromString(self._file.read(entry.size))

    def close(self) -> None:
        self._file.close()


@contextmanager
def spool() -> Iterator[Spool]:
    made = Spool()
    try:
        yield made
    finally:
        made.close()


async def take(api: Api, into: Spool, progress: Progressing) -> None:
    """Everything at the endpoint as of its current revision, with the leases that keys hang on."""
    into.revision, count = await api.revision()
    progress.begin("reading", count)
    async for page in api.pages(into.revision):
        for item in page:
            if item.lease and item.lease not in into.leases:
                into.leases[item.lease] = await api.ttl(item)
            if not item.lease or into.leases[item.lease]:  # else it has expired meanwhile
                into.add(item)
        progress.advance(len(page))
    into.leases = {lease: ttl for lease, ttl in into.leases.items() if ttl}


class Progressing:
    """A bar on stderr where that is a terminal; else nothing."""

    def __init__(self) -> None:
        import sys

        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._task: Any = None

    def __enter__(self) -> Progressing:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        self._task = self._progress.add_task(what, total=total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)
