"""Scan of a run's logs and metrics for secrets.

Every kine that a test starts is recorded with the secrets it was given: passwords and tokens of its endpoint
and environment, private keys of its files. At the end of the run each is searched for everywhere: in logs,
metrics, profiles, and in the arguments of every process that the server has started.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from kine.observe.logging import SECRET_NAMES, secrets_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.servers.process import Instance

SHORTEST = 6  # characters; shorter strings are in every log by chance
KEY_FILES = ("--server-key-file=", "--key-file=")
ARMOUR = re.compile(rb"-----BEGIN [A-Z ]*(?:PRIVATE KEY|SEED|JWT)-+\s(.*?)-+END", re.DOTALL)
PAGE_TIMEOUT = 30.0  # seconds
PAGES = (
    "metrics",
    *(f"debug/pprof/{name}" for name in ("threads", "tasks", "profile?seconds=1", "heap?seconds=1")),
)

_told: dict[str, str] = {}  # what it is, by the secret
_logs: list[Path] = []
_pages: list[tuple[str, str]] = []  # whose, and its text


def started(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Records a kine process: its log and the secrets it was given."""
    if "kine" not in command[:3]:
        return
    _logs.append(log)
    found = (*_of_arguments(command), *_of_environment(environment))
    _told.update((secret, what) for secret, what in found if len(secret) >= SHORTEST)


def _of_arguments(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument in command:
        name, _, value = argument.partition("=")
        if name == "--endpoint":
            yield from _of_endpoint(value)
        if argument.startswith(KEY_FILES):
            yield from _of_file(Path(value))


def _of_endpoint(endpoint: str) -> Iterator[tuple[str, str]]:
    if "@" in endpoint:
        yield from ((secret, "the endpoint, or its password") for secret in secrets_of(endpoint))
    for path in re.findall(r"(?:credsFile|krb5_keytab)=([^&,]+)", endpoint):
        yield from _of_file(Path(unquote(path)))


def _of_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in environment.items():
        if name == "KINE_ENDPOINT":
            yield from _of_endpoint(value)
        elif SECRET_NAMES.search(name) and not Path(value).exists():
            yield value, name


def _of_file(path: Path) -> Iterator[tuple[str, str]]:
    content = path.read_bytes() if path.is_file() else b""
    for armoured in ARMOUR.findall(content):
        yield from ((line.decode(), f"a line of {path.name}") for line in armoured.split())


def look_at(instance: Instance) -> int:
    """Records the pages that a server shows on its client port; returns how many there are."""
    found = [page for name in PAGES if (page := _page(instance, name))]
    _pages.extend((f"{instance.address}/{name}", page) for name, page in found)
    return len(found)


def _page(instance: Instance, name: str) -> tuple[str, str] | None:
    try:
        with urllib.request.urlopen(f"http://{instance.address}/{name}", timeout=PAGE_TIMEOUT) as answer:
            return name, answer.read().decode()
    except (OSError, http.client.HTTPException, ValueError):
        return None  # it has no profiles, or its transport speaks only gRPC


def look_at_arguments(command: Sequence[str], process: int) -> None:
    """Records the arguments of the server's processes, without those that the test itself passed."""
    if "kine" not in command[:3]:
        return
    processes = [process]
    for one in processes:
        try:
            arguments = Path(f"/proc/{one}/cmdline").read_text(errors="replace").split("\0")
            for task in Path(f"/proc/{one}/task").iterdir():
                processes += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it has ended
        own = [argument for argument in arguments if argument not in command]
        _pages.append((f"/proc/{one}/cmdline", "\n".join(own)))


def leaks() -> list[str]:
    """Where each leaked secret is, and what it is, without the secret itself."""
    texts = [(str(log), log.read_text(errors="replace")) for log in _logs if log.is_file()]
    return [
        f"{where}, line {text.count(chr(10), 0, text.index(secret)) + 1}: {what}"
        for where, text in (*texts, *_pages)
        for secret, what in _told.items()
        if secret in text
    ]
