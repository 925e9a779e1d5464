"""`kine snapshot save` and `kine snapshot restore`, and `kine migrate`, which is both without the file."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kine.commands import options

if TYPE_CHECKING:
    from kine.commands.transfer import Spool
    from kine.config import Settings

app = typer.Typer(
    name="snapshot",
    help="Save everything at an endpoint into a file, or put a file's keys into an empty one.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

File = Annotated[str, typer.Argument(metavar="FILE", help="The snapshot.")]


@app.command("save")
@options.asked()
def save(file: File, asked: options.Asked) -> None:
    """Save every key and lease, as of one revision, into FILE.

    The endpoint is a database, or a kine or etcd that runs: http://127.0.0.1:2379. Nothing needs to stop.
    FILE is whole when it is there at all, readable by its owner only, and ends with its checksum.

    Exit codes: 0 saved; 1 failed; 2 wrong usage.
    """
    options.run(_save(asked.settings(), file, asked.output), options.FAILED)


async def _save(settings: Settings, file: str, output: str) -> int:
    from kine.cli import version
    from kine.commands import snapshot_file
    from kine.commands.api import check_there, opened
    from kine.commands.transfer import Progressing, spool, take

    await check_there(settings)
    with spool() as taken, Progressing() as progress:
        async with opened(settings) as api:
            await take(api, taken, progress)
        await asyncio.to_thread(snapshot_file.save, taken, file, f"kine {version()}")
        told = {
            "file": file,
            "revision": taken.revision,
            "keys": len(taken.entries),
            "leases": len(taken.leases),
        }
    return _answer(told, output, "saved {keys} keys and {leases} leases at revision {revision} in {file}")


@app.command("restore")
@options.asked()
def restore(
    file: File,
    asked: options.Asked,
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
    """Put the keys and leases of FILE into an empty database or etcd, and compare them.

    Stop every kine on the target database first. Keys keep their versions and create revisions, and in
    SQLite, PostgreSQL and MySQL their revisions; an etcd numbers them anew. The current revision goes on
    1000000000 beyond the snapshot's, --bump-revision N beyond it, and everything up to there answers
    "compacted": API servers that have seen what was written after the snapshot list anew, and no revision
    means two things. Interrupted, it goes on where it was when run again.

    Exit codes: 0 restored and compared; 1 failed; 2 wrong usage.
    """
    options.run(_restore(asked.settings(), file, bump_revision, asked.output), options.FAILED)


async def _restore(settings: Settings, file: str, bump: int, output: str) -> int:
    from kine.commands import snapshot_file
    from kine.commands.giving import give
    from kine.commands.transfer import Progressing, spool

    with spool() as loaded, Progressing() as progress:
        await asyncio.to_thread(snapshot_file.load, file, loaded)
        put = await give(loaded, settings, bump, progress)
        told = _given(loaded, put)
    return _answer(told, output, "restored {keys} keys and {leases} leases, {put} put now; all compared")


@options.asked(endpoint=False)
def migrate(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="An etcd, a kine, or a database.")],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="An empty database, or etcd.")],
    asked: options.Asked,
) -> None:
    """Copy every key and lease from one endpoint to an empty other one, and compare them key by key.

    Stop who writes to the source first: what changes while it is copied is not copied. What is kept is as
    with kine snapshot restore, but the current revision stays as it is, where it can: who has read up to
    there goes on. Interrupted, it goes on where it was when run again. TLS flags are for both.

    Exit codes: 0 copied and compared; 1 failed; 2 wrong usage.
    """
    chosen = [asked.settings(url) for url in (source, target)]
    options.hide(source, target)
    if source == target:
        options.misused("--from and --to are the same")
    options.run(_migrate(chosen[0], chosen[1], asked.output), options.FAILED)


async def _migrate(source: Settings, target: Settings, output: str) -> int:
    from kine.commands.api import check_there, opened
    from kine.commands.giving import give
    from kine.commands.transfer import Progressing, spool, take

    await check_there(source)
    with spool() as taken, Progressing() as progress:
        async with opened(source) as api:
            await take(api, taken, progress)
        put = await give(taken, target, 0, progress)
        told = _given(taken, put)
    return _answer(told, output, "copied {keys} keys and {leases} leases, {put} put now; all compared")


def _given(source: Spool, put: int) -> dict[str, Any]:
    return {
        "keys": len(source.entries),
        "put": put,
        "leases": len(source.leases),
        "revision": source.revision,
    }


def _answer(told: dict[str, Any], output: str, text: str) -> int:
    print(json.dumps(told) if output == "json" else text.format(**told))  # noqa: T201
    return 0
