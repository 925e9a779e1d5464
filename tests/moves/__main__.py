"""The long form of `test_moves.py`, with figures.

python -m tests.moves --keys 100000 --leases 10000 --large 20 --from sqlite --to postgres --interrupt KILL
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tests.client import Client
from tests.databases.loop_disk import Disk
from tests.moves.fill_source import Amount, fill
from tests.moves.move_backends import PLACES, missing
from tests.moves.one_move import INTERRUPTIONS, Source, move, read, save
from tests.servers import process


def main(
    source: Annotated[list[str] | None, typer.Option("--from", help=f"{', '.join(PLACES)}; all.")] = None,
    target: Annotated[list[str] | None, typer.Option("--to", help=f"{', '.join(PLACES)}; all.")] = None,
    command: Annotated[list[str] | None, typer.Option(help="migrate, snapshot; both.")] = None,
    interrupt: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(INTERRUPTIONS)}; none by default.")
    ] = None,
    keys: int = 100_000,
    leases: int = 10_000,
    large: Annotated[int, typer.Option(help="Values of 1.4 MB.")] = 20,
    room: Annotated[int, typer.Option(help="MiB of the disk that is filled.")] = 2048,
    seed: str = "",
) -> None:
    """Moves everything from each source to each target, and compares; a line of JSON for each."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs ignore it
    process.START_TIMEOUT = 600.0  # loading the index of so many keys takes long
    amount, seed, failed = Amount(keys, leases, large), seed or secrets.token_hex(4), 0
    said(seed=seed)
    for kind in source or [kind for kind in PLACES if not missing(kind)]:
        directory = Path(tempfile.mkdtemp(prefix="kine-moves-"))
        try:
            taken = filled(kind, directory / "source", amount)
            for other in target or [kind for kind in PLACES if not missing(kind)]:
                for name in command or ["migrate", "snapshot"]:
                    for interruption in interrupt or [INTERRUPTIONS[0]]:
                        if interruption == "database" and other.endswith("sqlite"):
                            continue  # there is no server to stop
                        failed += not _one(taken, other, directory, name, interruption, seed, room)
            taken.place.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    raise typer.Exit(bool(failed))


def filled(kind: str, directory: Path, amount: Amount) -> Source:
    place = PLACES[kind](directory)
    begun = time.monotonic()
    instance = place.served()
    with Client(instance.address, timeout=120) as client:
        fill(client, amount, alone=kind.startswith("go-"))
    if not place.serves:
        instance.stop()
    filling = time.monotonic() - begun
    seen = read(place)
    seconds = save(place, directory / "snapshot")
    said(
        source=kind,
        keys=len(seen.items),
        revision=seen.revision,
        leases=len(seen.leases),
        filled_seconds=round(filling, 1),
        saved_seconds=round(seconds, 1),
    )
    return Source(kind, place, seen, directory / "snapshot")


def _one(
    source: Source, kind: str, directory: Path, command: str, interruption: str, seed: str, room: int
) -> bool:
    disk = Disk(room) if interruption == "full" else None
    place = PLACES[kind](directory / f"{kind}-{command}-{interruption}", disk)
    try:
        moved = move(source, kind, place, command, interruption, seed)
    except Exception as error:  # the other pairs are tried, too
        said(
            source=source.kind,
            target=kind,
            command=command,
            interruption=interruption,
            failed=f"{type(error).__name__}: {error}"[:3000],
        )
        return False
    finally:
        place.close()
        shutil.rmtree(place.directory, ignore_errors=True)
    said(**{**asdict(moved), "seconds": round(moved.seconds, 1)})
    return True


def said(**values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


if __name__ == "__main__":
    typer.run(main)
