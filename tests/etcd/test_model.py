"""Random traffic against one server; every response and event must equal the model's."""

from __future__ import annotations

import pytest

from tests.client import Client
from tests.conftest import Counts, StartOwn
from tests.differential import new_world
from tests.etcd_state_machine import run
from tests.servers import Backend


@pytest.mark.slow
@pytest.mark.quick_on("memory", "sqlite-http2")
@pytest.mark.timeout(900)  # a failure is shrunk before it is reported
def test_random_traffic_agrees_with_the_model(
    backend: Backend, own_server: StartOwn, counts: Counts, pytestconfig: pytest.Config
) -> None:
    capabilities = backend.capabilities
    with Client(own_server().address) as client:
        run(
            lambda: new_world(
                [(backend.name, client, not capabilities.one_revision_per_txn)],
                exact=True,
                keeps_tombstones=capabilities.keeps_tombstone_at_compact_revision,
            ),
            lambda operations: counts.add("model", operations),
            pytestconfig.getoption("--ops"),
        )
