"""A temporary on-disk copy of an endpoint's keys and leases."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kine.commands.endpoint_client import SCRATCH
from kine.drivers.base import DriverError
from kine.proto import kv_pb2 as kv

if TYPE_CHECKING:
    from kine.commands.endpoint_client import EndpointClient
    from kine.commands.progress import Progressing

_AT_ONCE = 64  # concurrent queries for leases


class SpooledKey(NamedTuple):
    mod_revision: int
    offset: int
    size: int


class KeySink(Protocol):
    """Receives keys and leases as they are read; a lease comes before the first key attached to it."""

    def begin(self, revision: int) -> None: ...

    def lease(self, lease_id: int, ttl: int) -> None: ...

    def add(self, item: Any) -> None: ...


class SpoolError(DriverError):
    """The local disk failed, not an endpoint."""


class Spool:
    """Key-values on disk, indexed by key; it takes some 200 bytes of memory for each key."""

    def __init__(self, folder: str | None = None) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="kine-", dir=folder)  # noqa: SIM115 - see `spool`
        except OSError as error:
            raise SpoolError(str(error)) from None
        self.entries: dict[bytes, SpooledKey] = {}
        self.leases: dict[int, int] = {}  # seconds granted, by id
        self.revision = 0

    def begin(self, revision: int) -> None:
        self.revision = revision

    def lease(self, lease_id: int, ttl: int) -> None:
        self.leases[lease_id] = ttl

    def add(self, item: Any) -> None:
        encoded = item.SerializeToString()
        self.entries[item.key] = SpooledKey(item.mod_revision, self._file.tell(), len(encoded))
        try:
            self._file.write(encoded)
        except OSError as error:
            raise SpoolError(
                f"a temporary file could not be written: {error.strerror}; name a directory with more room"
                " in TMPDIR"
            ) from None

    def get(self, entry: SpooledKey) -> Any:
        self._file.seek(entry.offset)
        return kv.KeyValue.FromString(self._file.read(entry.size))

    def close(self) -> None:
        self._file.close()


@contextmanager
def spool(*fallback_folders: str) -> Iterator[Spool]:
    """A spool in the system's temporary directory, or in the first usable one of `fallback_folders`."""
    made: Spool | None = None
    for folder in (None, *fallback_folders):
        with suppress(SpoolError):
            made = Spool(folder)
            break
    if made is None:
        places = ", ".join(["any directory for temporary files", *fallback_folders])
        raise SpoolError(f"no temporary file in {places}; name a writable directory in TMPDIR")
    try:
        yield made
    finally:
        with suppress(OSError):  # buffered data that cannot be written is not needed any more
            made.close()


async def fill_spool(api: EndpointClient, into: KeySink, progress: Progressing) -> None:
    """Reads all keys at the endpoint's current revision, and their leases."""
    revision, count = await api.revision()
    into.begin(revision)
    leases: dict[int, int] = {}  # seconds granted; 0 for one that has expired
    progress.begin("reading", count)
    async for page in api.pages(revision):
        await _ask_leases(api, page, leases)
        for item in page:
            if item.key == SCRATCH:
                raise DriverError(
                    "the source holds only a part of the keys: kine snapshot restore or kine migrate into it"
                    " was interrupted; run that command again first"
                )
            if not item.lease:
                into.add(item)
            elif ttl := leases[item.lease]:
                if ttl > 0:
                    into.lease(item.lease, ttl)
                    leases[item.lease] = -ttl  # negative: passed on already
                into.add(item)
        progress.advance(len(page))


async def _ask_leases(api: EndpointClient, page: Sequence[Any], leases: dict[int, int]) -> None:
    unknown = {item.lease: item for item in page if item.lease and item.lease not in leases}
    items = list(unknown.values())
    for start in range(0, len(items), _AT_ONCE):
        block = items[start : start + _AT_ONCE]
        found = await asyncio.gather(*(api.ttl(item) for item in block))
        leases.update((item.lease, ttl) for item, ttl in zip(block, found, strict=True))
