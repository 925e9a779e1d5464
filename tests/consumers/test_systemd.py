"""A systemd unit with DynamicUser= and CacheDirectory=: no HOME, the cache named by systemd."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.executable import address, put_and_get

if TYPE_CHECKING:
    from tests.consumers.conftest import Place

USER = 61184  # of the range that systemd takes for DynamicUser=


def test_it_unpacks_into_the_units_cache(place: Place) -> None:
    place.stage("/usr/local/bin/kine")
    place.directory("/var/lib/kine", owner=USER, mode=0o700)
    place.directory("/var/cache/kine", owner=USER, mode=0o700)
    kine = place.start(
        "/usr/local/bin/kine",
        [
            f"--endpoint=sqlite://{place.inside('/var/lib/kine/state.db')}",
            "--listen-address=127.0.0.1:0",
            "--metrics-bind-address=0",
        ],
        user=USER,
        group=USER,
        environment={"CACHE_DIRECTORY": place.inside("/var/cache/kine"), "INVOCATION_ID": "0123"},
    )
    put_and_get(address(kine))
    kine.send_signal(signal.SIGTERM)
    assert kine.wait(60) == 0
    if place.root:
        assert (place.outside("/var/cache/kine") / f"kine-{USER}").is_dir()
