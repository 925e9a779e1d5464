"""k0s and k0smotron: the executable alone, run as kube-apiserver, on a socket named as a port."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests import txn_ops
from tests.client import Client
from tests.executable import address

if TYPE_CHECKING:
    import subprocess

    from tests.consumers.conftest import Place

KUBE_APISERVER = 998
PROGRAM = "/var/lib/k0s/bin/kine"


def start(place: Place) -> subprocess.Popen[bytes]:
    place.stage(PROGRAM)
    place.directory("/var/lib/k0s/db", owner=KUBE_APISERVER, mode=0o750)
    place.directory("/run/k0s/kine", owner=KUBE_APISERVER, mode=0o750)
    # The default that k0s writes into its configuration.
    data = f"sqlite://{place.inside('/var/lib/k0s/db/state.db')}?more=rwc&_journal=WAL&cache=shared"
    return place.start(
        PROGRAM,
        [
            f"--endpoint={data}",
            f"--listen-address=unix://{place.inside('/run/k0s/kine/kine.sock')}:2379",
            "--metrics-bind-address=127.0.0.1:0",
        ],
        directory="/var/lib/k0s/db",
        user=KUBE_APISERVER,
        group=0,
        environment={"_K0S_MANAGED": "yes"},
    )


def test_its_probe_holds_and_its_supervisor_knows_the_process(place: Place) -> None:
    kine = start(place)
    address(kine)
    with Client(f"unix://{place.outside('/run/k0s/kine/kine.sock')}:2379") as client:
        lease = client.grant(60).ID
        answer = client.txn(
            [txn_ops.version(b"/k0s/health", "=", 0)], [txn_ops.put(b"/k0s/health", b"ok", lease=lease)], []
        )
        assert answer.succeeded
        client.revoke(lease)
        assert client.get(b"/k0s/health") is None
    own = Path(f"/proc/{kine.pid}")
    assert b"_K0S_MANAGED=yes" in (own / "environ").read_bytes().split(b"\0")
    if place.root:
        assert (own / "cmdline").read_bytes().split(b"\0")[0] == PROGRAM.encode()
        assert place.outside("/var/lib/k0s/db/state.db").stat().st_uid == KUBE_APISERVER
    kine.terminate()
    assert kine.wait(60) == 0


def test_it_asks_for_the_version(place: Place) -> None:
    place.stage(PROGRAM)
    place.directory("/data", owner=KUBE_APISERVER)
    asked = place.start(PROGRAM, ["-v"], directory="/data", user=KUBE_APISERVER, group=0)
    assert asked.wait(120) == 0
