"""One move, with or without an interruption, and the check of its result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.client import Client
from tests.moves.kubernetes_view import View, differences, refuses_what_was_before, streamed, used, view
from tests.moves.move_backends import Place
from tests.process_reaper import end_with_this_process
from tests.servers.kine import ROOT
from tests.servers.process import StartError

_PATIENCE = 3600.0  # seconds for a command
_OWN_KEYS = 2  # of a new database
UNFINISHED = "only a part of the keys"
INTERRUPTIONS = ("none", "INT", "KILL", "database", "full")


class MoveError(AssertionError):
    """The state after a move is not as expected."""


@dataclass(slots=True)
class Moved:
    source: str
    target: str
    command: str
    interruption: str
    interrupted_at: int = 0  # rows or keys at the target
    answers: list[str] = field(default_factory=list)  # last lines of the command and the server
    seconds: float = 0.0  # of all runs of the command
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    kind: str
    place: Place
    seen: View
    snapshot: Path  # saved from it


def read(place: Place) -> View:
    instance = place.served()
    try:
        with Client(instance.address, timeout=120) as client:
            return view(client, leases=place.tells_leases, page=place.page)
    finally:
        if not place.serves:
            instance.stop()


def command_of(command: str, source: Source, target: Place) -> list[str]:
    if command == "migrate":
        return ["migrate", "--from", source.place.endpoint, "--to", target.endpoint]
    return [
        "snapshot",
        "restore",
        str(source.snapshot),
        "--endpoint",
        target.endpoint,
        "--bump-revision",
        "1000",
    ]


def save(place: Place, file: Path) -> float:
    begun = time.monotonic()
    code, out = finish(begin(["snapshot", "save", str(file), "--endpoint", place.endpoint, "--force"]))
    if code:
        raise MoveError(out)
    return time.monotonic() - begun


def begin(arguments: list[str]) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    running = subprocess.Popen(
        [sys.executable, "-m", "kine", *arguments, "-o", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    end_with_this_process(running.pid)
    return running


def finish(running: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and the output without progress lines."""
    out, _ = running.communicate(timeout=_PATIENCE)
    lines = [line for line in out.splitlines() if not (line.startswith("kine: ") and " of " in line)]
    if any("Traceback" in line or "error of kine's own" in line for line in lines):
        raise MoveError(out)
    return running.returncode, lines[-1] if lines else ""


def move(
    source: Source, target_kind: str, target: Place, command: str, interruption: str, seed: str
) -> Moved:
    """Moves once and checks the result. Raises MoveError."""
    moved = Moved(source.kind, target_kind, command, interruption, keys=len(source.seen.items))
    target.prepare()
    arguments = command_of(command, source, target)
    if interruption != "none":
        share = random.Random(f"{seed} {source.kind} {target_kind} {command}").uniform(0.05, 0.9)
        _interrupted(moved, source, arguments, target, interruption, int(share * moved.keys))
        _incomplete(moved, target)
    begun = time.monotonic()
    code, said = finish(begin(arguments))
    moved.seconds += time.monotonic() - begun
    moved.answers.append(said)
    if code:
        raise MoveError(f"{arguments[0]}: exit code {code}: {said}")
    judge(source, target)
    return moved


def _interrupted(
    moved: Moved, source: Source, arguments: list[str], target: Place, interruption: str, count: int
) -> None:
    if interruption == "full":
        assert target.disk is not None
        instance = target.served()  # it has its tables
        if not target.serves:
            instance.stop()
        target.disk.fill(leaving=source.snapshot.stat().st_size // 2 + (2 << 20))
    begun = time.monotonic()
    running = begin(arguments)
    if interruption != "full":
        while running.poll() is None and target.held() < count:
            time.sleep(0.01 if moved.keys < 10_000 else 0.5)
        if interruption == "database":
            target.crash()
        else:
            running.send_signal(getattr(signal, f"SIG{interruption}"))
    code, said = finish(running)
    moved.seconds += time.monotonic() - begun
    if interruption == "database":
        target.restart()
    if interruption == "full":
        target.disk.free()  # type: ignore[union-attr]
        target.crash()  # NATS, and at times MariaDB, take no write until they are started again
        target.restart()
    moved.interrupted_at = target.held()
    moved.answers.append(said)
    if interruption == "KILL":
        if code != -signal.SIGKILL:
            raise MoveError(f"it ended before it was killed: {code} {said}")
    elif code != 1 or not isinstance(json.loads(said.splitlines()[-1]).get("error"), str):
        raise MoveError(f"interrupted by {interruption}, exit code {code}: {said}")


def _incomplete(moved: Moved, target: Place) -> None:
    """Checks that a partial target is not taken for a complete one: by no server, and by no other command."""
    if not target.serves and target.refuses_a_part:
        if moved.interrupted_at <= _OWN_KEYS:
            return  # it ended before anything was written
        try:
            instance = target.served()
        except StartError as error:
            if UNFINISHED not in str(error):
                raise MoveError(f"refused for another reason: {error}") from None
            moved.answers.append("refused to serve")
        else:
            instance.kill()
            raise MoveError(f"served with {moved.interrupted_at} of {moved.keys} keys: {moved.answers}")
    code, said = finish(begin(["snapshot", "save", os.devnull + "-none", "--endpoint", target.endpoint]))
    if code == 0 or UNFINISHED not in said:
        raise MoveError(f"saved from an unfinished target: {code} {said}")


def judge(source: Source, target: Place) -> None:
    instance = target.served()
    try:
        with Client(instance.address, timeout=120) as client:
            found = view(client, leases=target.tells_leases, page=target.page)
            wrong = differences(
                source.seen,
                found,
                versions=target.exact,
                revisions=target.revisions,
                ttls=True,
            )
            if target.streams:
                wrong += streamed(client, found)
            if wrong:
                raise MoveError("; ".join(wrong[:5]))
            if target.exact and not refuses_what_was_before(client, source.seen.revision - 1):
                raise MoveError("it answers what the source was before")
            if found.revision < source.seen.revision:
                raise MoveError("its revision is before the source's")
            used(client, found)
    finally:
        if not target.serves:
            instance.stop()
