"""`kine snapshot save`, `restore` and `status`, and `kine migrate`: save and restore without a file."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kine.commands import options
from kine.drivers.base import DriverError

if TYPE_CHECKING:
    from kine.commands.spool import Spool
    from kine.config import Settings

app = typer.Typer(
    name="snapshot",
    help="Save everything at an endpoint into a file, or put a file's keys into an empty one.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(metavar="FILE", help="The snapshot.")]


@app.command("save")
@options.with_endpoint()
def save(
    file: File,
    asked: options.CommandOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Save every key and lease, as of one revision, into FILE.

    The endpoint is a running kine or etcd (default http://127.0.0.1:2379), or a database. Nothing needs to be
    stopped. FILE appears only when it is complete, is readable by its owner only, and ends with a checksum.
    An existing file is not overwritten unless --force is given.

    Exit codes: 0 saved; 1 failed; 2 wrong usage, or FILE exists.
    """
    _check_named(file)
    asked.run(_save(asked.settings_of_server(), file, asked.output, force=force), options.FAILED)


async def _save(settings: Settings, file: str, output: str, *, force: bool) -> int:
    from kine.commands.endpoint_client import check_there, opened
    from kine.commands.progress import Progressing
    from kine.commands.snapshot_file import SnapshotWriter
    from kine.commands.spool import fill_spool
    from kine.version import version

    await check_there(settings)
    with Progressing() as progress, SnapshotWriter(file, f"kine {version()}", force=force) as written:
        async with opened(settings) as api:
            await fill_spool(api, written, progress)
    fields = {"file": file, **{name: written.header[name] for name in ("revision", "keys", "leases")}}
    return _answer(fields, output, f"saved {_contents(fields)} at revision {fields['revision']} in {file}")


@app.command("restore")
@options.with_endpoint()
def restore(
    file: File,
    asked: options.CommandOptions,
    bump_revision: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=10**15,
            help="Go on this far beyond the snapshot's revision: by more than came after it was saved.",
        ),
    ] = 1_000_000_000,
) -> None:
    """Restore the keys and leases of FILE into an empty database or etcd, and compare them.

    FILE is a snapshot of kine snapshot save or etcdctl snapshot save, or the file member/snap/db of a stopped
    etcd. Stop every kine on the target database first. If the target cannot hold some keys, the command lists
    them and writes nothing.

    Keys keep their versions and create revisions, and in SQLite, PostgreSQL and MySQL their revisions; an
    etcd assigns new ones. The current revision continues 1000000000 (--bump-revision) after the snapshot's,
    and in kine's databases all earlier revisions are compacted. So API servers that saw writes after the
    snapshot list again, and no revision has two meanings. An interrupted restore continues when it is run
    again.

    Exit codes: 0 restored and compared; 1 failed; 2 wrong usage.
    """
    _check_named(file)
    asked.run(_restore(asked.settings(), file, bump_revision, asked.output), options.FAILED)


async def _restore(settings: Settings, file: str, bump: int, output: str) -> int:
    from kine.commands.progress import Progressing
    from kine.commands.restore import restore_into
    from kine.commands.restore_file import load
    from kine.commands.spool import spool

    with spool(os.path.dirname(file) or ".", *_folders(settings)) as loaded, Progressing() as progress:
        await load(file, loaded, progress)
        put = await restore_into(loaded, settings, bump, progress)
        fields = _given(loaded, put)
    return _answer(fields, output, f"restored {_contents(fields)}, {fields['put']} put now; all compared")


@app.command("status")
@options.with_endpoint(endpoint=False)
def status(file: File, asked: options.CommandOptions) -> None:
    """Verify the checksum of FILE, and print its revision, keys, leases and size.

    Exit codes: 0 intact; 1 damaged, or not a snapshot; 2 wrong usage.
    """
    _check_named(file)
    asked.run(_status(file, asked.output), options.FAILED)


async def _status(file: str, output: str) -> int:
    from kine.commands.progress import Progressing
    from kine.commands.restore_file import Contents, load

    contents = Contents()
    with Progressing() as progress:
        kind = await load(file, contents, progress)
    fields: dict[str, Any] = {"file": file, "of": kind, "size": os.stat(file).st_size}
    fields |= {"revision": contents.revision, "keys": contents.keys, "leases": contents.leases}
    if output == "json":
        print(json.dumps(fields))  # noqa: T201
    else:
        for name, value in fields.items():
            print(f"{name}: {value}")  # noqa: T201
    return 0


@options.with_endpoint(endpoint=False)
def migrate(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="An etcd, a kine, or a database.")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="An empty database, or etcd.")],
    asked: options.CommandOptions,
) -> None:
    """Copy every key and lease from one endpoint to another, empty one, and compare them key by key.

    Stop all writers to the source first: changes during the copy are not copied. Versions and revisions are
    kept as by kine snapshot restore, and the current revision stays the same where the target allows it, so
    that clients continue from what they have read. An interrupted migration continues when it is run again.
    The TLS flags apply to both endpoints.

    Exit codes: 0 copied and compared; 1 failed; 2 wrong usage.
    """
    if not source or not target:
        options.usage_error("--from and --to each name an endpoint; one of them is empty")
    chosen = []
    for name, url in (("--from", source), ("--to", target)):
        with options.named(name):
            chosen.append(asked.settings(url))
    options.hide(source, target)
    if source == target:
        options.usage_error("--from and --to are the same")
    asked.run(_migrate(chosen[0], chosen[1], asked.output), options.FAILED)


async def _migrate(source: Settings, target: Settings, output: str) -> int:
    from kine.commands.endpoint_client import check_there, opened
    from kine.commands.progress import Progressing
    from kine.commands.restore import restore_into
    from kine.commands.spool import fill_spool, spool

    with options.named("--from"):
        await check_there(source)
    with spool(*_folders(source, target)) as taken, Progressing() as progress:
        with options.named("--from"):
            async with opened(source) as api:
                await fill_spool(api, taken, progress)
        with options.named("--to"):
            put = await restore_into(taken, target, 0, progress)
        fields = _given(taken, put)
    return _answer(fields, output, f"copied {_contents(fields)}, {fields['put']} put now; all compared")


def _folders(*places: Settings) -> list[str]:
    """The existing data directories of these endpoints on this machine."""
    from kine import drivers
    from kine.flag_values import scheme

    found = []
    for place in places:
        if scheme(place.endpoint) in drivers.REMOTE:
            continue
        with suppress(ValueError, OSError, DriverError):  # reported when the endpoint is opened
            folder = drivers.connect(place.endpoint, place.driver_options()).folder()
            if folder and os.path.isdir(folder):
                found.append(folder)
    return found


def _given(source: Spool, put: int) -> dict[str, Any]:
    return {
        "keys": len(source.entries),
        "put": put,
        "leases": len(source.leases),
        "revision": source.revision,
    }


def _check_named(file: str) -> None:
    if not file:  # a shell variable that is not set
        options.usage_error("FILE is empty: name the snapshot's file")


def _contents(fields: dict[str, Any]) -> str:
    keys, leases = (
        f"{fields[name]} {name[:-1] if fields[name] == 1 else name}" for name in ("keys", "leases")
    )
    return f"{keys} and {leases}"


def _answer(fields: dict[str, Any], output: str, text: str) -> int:
    print(json.dumps(fields) if output == "json" else text)  # noqa: T201
    return 0
