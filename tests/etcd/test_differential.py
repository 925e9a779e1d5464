"""Differential test of the server against a real etcd: the same random traffic, equal responses."""

from __future__ import annotations

import pytest

from tests.client import Client
from tests.conftest import Counts, StartOwn
from tests.differential import new_world
from tests.etcd_state_machine import run
from tests.servers import Backend, etcd


@pytest.mark.slow
@pytest.mark.quick_on("sqlite-http2")
@pytest.mark.timeout(900)  # a failure is shrunk before it is reported
def test_random_traffic_is_answered_as_etcd_answers_it(
    backend: Backend,
    own_server: StartOwn,
    tmp_path: pytest.TempPathFactory,
    counts: Counts,
    pytestconfig: pytest.Config,
) -> None:
    (reference,) = etcd.BACKENDS
    if reason := reference.missing():
        pytest.skip(reason)
    real = reference.start(tmp_path / "etcd")
    try:
        with Client(real.address) as etcd_client, Client(own_server().address) as client:
            run(
                lambda: new_world(
                    [
                        ("etcd", etcd_client, False),
                        (backend.name, client, not backend.capabilities.one_revision_per_txn),
                    ],
                    exact=False,
                    keeps_tombstones=reference.capabilities.keeps_tombstone_at_compact_revision,
                ),
                lambda operations: counts.add("differential", operations),
                pytestconfig.getoption("--ops"),
            )
    finally:
        real.kill()
