"""systemd with examples/kine.service: a dynamic user, no HOME, directories created by systemd."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.executable import address, put_and_get

if TYPE_CHECKING:
    from tests.consumers.conftest import Place

UNIT = Path(__file__).parents[2] / "examples" / "kine.service"
USER = 61184  # in the range that systemd uses for DynamicUser=


def settings() -> dict[str, list[str]]:
    """The settings in the unit's [Service], each with its values in order."""
    found: dict[str, list[str]] = {}
    section = UNIT.read_text().partition("[Service]\n")[2].partition("\n[")[0]
    for line in section.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_serves(place: Place) -> None:
    unit = settings()
    [program] = unit["ExecStart"]
    place.stage(program)
    directories = {}
    for kind, parent in (("State", "/var/lib"), ("Cache", "/var/cache")):
        [name], [mode] = unit[f"{kind}Directory"], unit[f"{kind}DirectoryMode"]
        # With DynamicUser= the directory is a symbolic link to one below `private`.
        place.directory(f"{parent}/private/{name}", owner=USER, group=USER, mode=int(mode, 8))
        place.outside(f"{parent}/{name}").symlink_to(f"private/{name}")
        directories[f"{kind.upper()}_DIRECTORY"] = place.inside(f"{parent}/{name}")
    given = dict(value.split("=", 1) for value in unit["Environment"])
    [data] = unit["WorkingDirectory"]
    given["KINE_ENDPOINT"] = given["KINE_ENDPOINT"].replace(data, place.inside(data))
    for name in ("KINE_LISTEN_ADDRESS", "KINE_METRICS_BIND_ADDRESS"):
        given[name] = given[name].rpartition(":")[0] + ":0"  # because tests run in parallel

    kine = place.start(
        program,
        [],
        directory=data,
        user=USER,
        group=USER,
        environment={**given, **directories, "INVOCATION_ID": "0123"},
    )
    put_and_get(address(kine))
    kine.send_signal(signal.SIGTERM)
    assert kine.wait(60) == 0

    assert (place.outside(data) / "state.db").exists()
    if place.root:
        [cache] = unit["CacheDirectory"]
        assert (place.outside(f"/var/cache/{cache}") / f"kine-{USER}").is_dir()
